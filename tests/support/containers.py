"""Programs side by side as in containers, without an engine: a network of their own, each with a
root, user and mounts of its own. It takes root, as running containers would."""

from __future__ import annotations

import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from support.process import LIFETIME_SECONDS, work_folder

# $1 a folder for the container's layer, $2 its image's root, $3 `ro` or `rw`, $4 UID:GID,
# $5 mounts, a line each; then the command.
_ENTER = r"""
set -eu
folder=$1 image=$2 access=$3 user=$4 mounts=$5
shift 5
mkdir -p "$folder"
mount -t tmpfs tmpfs "$folder"
mkdir "$folder/upper" "$folder/work" "$folder/root"
root=$folder/root
mount -t overlay -o "lowerdir=$image,upperdir=$folder/upper,workdir=$folder/work" overlay "$root"
mkdir -p "$root/dev" "$root/proc" "$root/tmp"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
cp --remove-destination /etc/hosts "$root/etc/hosts"
printf '%s\n' "$mounts" | while read -r kind place what; do
    test -n "$kind" || continue
    mkdir -p "$root$place"
    case $kind in
        tmpfs) mount -t tmpfs -o "$what" tmpfs "$root$place" ;;
        bind) mount --bind "$what" "$root$place" ;;
    esac
done
mount -o "remount,$access" "$root"
exec setpriv --no-new-privs chroot --userspec="$user" "$root" "$@"
"""


@dataclass(frozen=True)
class Network:
    """One in which the hosts that were named are addresses of loopback, each with all its ports."""

    pid: int
    folder: Path

    def within(self, *words: str) -> list[str]:
        spaces = [f"--{kind}=/proc/{self.pid}/ns/{name}" for kind, name in _SPACES]
        return ["nsenter", *spaces, "--", *words]

    def run(
        self, *words: str, env: Mapping[str, str] | None = None, seconds: float = 120
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.within(*words),
            env=env,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )


_SPACES = (("net", "net"), ("mount", "mnt"))


@contextmanager
def own_network(*hosts: str) -> Iterator[Network]:
    with work_folder("network") as folder:
        names = folder / "hosts"
        lines = [f"127.0.0.{number} {host}" for number, host in enumerate(hosts, 2)]
        names.write_text("\n".join(["127.0.0.1 localhost", "::1 localhost", *lines, ""]))
        script = 'ip link set lo up && mount --bind "$0" /etc/hosts && echo up && exec sleep "$1"'
        words = ["unshare", "--net", "--mount", "sh", "-c", script, str(names)]
        holder = subprocess.Popen([*words, str(LIFETIME_SECONDS)], stdout=subprocess.PIPE)
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"up\n", "namespaces take root and iproute2"
            yield Network(holder.pid, folder)
        finally:
            holder.kill()
            holder.communicate()


@dataclass(frozen=True, kw_only=True)
class Container:
    """image: the folder that is its root; what it writes there is gone with each command."""

    image: Path
    env: Mapping[str, str] = field(default_factory=dict)
    user: str = "0:0"
    read_only: bool = False
    tmpfs: Mapping[str, str] = field(default_factory=dict)  # where: options of mount
    volumes: Mapping[str, Path] = field(default_factory=dict)  # where: what

    def words(self, network: Network, command: Sequence[str]) -> list[str]:
        """The command line that runs it there."""
        mounts = [f"tmpfs {place} {options}" for place, options in self.tmpfs.items()]
        mounts += [f"bind {place} {what}" for place, what in self.volumes.items()]
        enter = ["unshare", "--mount", "bash", "-c", _ENTER, "enter"]
        enter += [str(network.folder / uuid.uuid4().hex), str(self.image)]
        enter += ["ro" if self.read_only else "rw", self.user, "\n".join(mounts)]
        variables = [f"{name}={value}" for name, value in self.env.items()]
        return network.within(*enter, "env", "-i", *variables, *command)

    def run(
        self, network: Network, *command: str, seconds: float = 120
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.words(network, command),
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )


@dataclass(frozen=True)
class Machine:
    """A container that stays: what one command writes the next one finds."""

    pid: int

    def within(self, *words: str, outside: bool = False) -> list[str]:
        spaces = ["--mount", "--root", "--wd"] + ([] if outside else ["--net"])
        return ["nsenter", f"--target={self.pid}", *spaces, "--", *words]

    def shell(
        self, script: str, *, outside: bool = False, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """outside: with the network that the tests themselves have. Variables that are set stay."""
        words = self.within("bash", "-c", _KEEPING, script, outside=outside)
        environment = Path(f"/proc/{self.pid}/environ").read_text().rstrip("\0").split("\0")
        done = subprocess.run(
            words,
            env=dict(one.split("=", 1) for one in environment),
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert not check or done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
        return done


_KEEPING = """
set -euo pipefail
! test -e /tmp/variables || . /tmp/variables
trap 'export -p > /tmp/variables; pwd > /tmp/folder' EXIT
! test -e /tmp/folder || cd "$(cat /tmp/folder)"
set -a
eval "$0"
"""


@contextmanager
def started(container: Container, network: Network) -> Iterator[Machine]:
    words = container.words(network, ["sleep", str(LIFETIME_SECONDS)])
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL)
    try:
        while Path(f"/proc/{process.pid}/comm").read_text() != "sleep\n":
            assert process.poll() is None, "the machine did not start"
            time.sleep(0.02)
        yield Machine(process.pid)
    finally:
        process.kill()
        process.wait()
