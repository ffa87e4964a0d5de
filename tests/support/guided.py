"""A new machine on which the guides are followed, as a new user would: `installed`, where the
guide for one machine has been."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.containers import Machine, own_network, started
from support.images import Images
from support.pages import blocks
from support.process import running, work_folder
from support.small import small_tree
from support.vllm import ROOT

PATH = "/opt/aotcache/bin:/usr/sbin:/usr/bin:/sbin:/bin"
URL = "http://127.0.0.1:8750"
OTHER = "127.0.0.9"
UNITS = ROOT / "deploy" / "systemd"
# What systemd does before it starts the watcher: its directory, copies of what root alone reads.
CREDENTIALS = """
install -d -o vllm /run/credentials /var/cache/vllm
install -o vllm -m 0400 /etc/aotcache/token /etc/aotcache/signing.pem /run/credentials
"""


@dataclass(frozen=True)
class Guided:
    """A machine with this repository in /repo, and with `folder`; an engine left a tree in its
    cache root."""

    machine: Machine
    folder: Path

    def follow(self, page: str, **variables: str) -> Iterator[str]:
        """Run the page's next block with each step, and give what it printed."""
        said = "".join(f"{name}={shlex.quote(value)}\n" for name, value in variables.items())
        forget = "trap - EXIT; rm -f /tmp/variables"
        self.machine.shell(forget)
        self.machine.shell(f"cd /repo\nPATH={PATH}\n{said}")
        for block in blocks(f"guides/{page}.md"):
            done = self.machine.shell(block, outside="pip " in block and "--no-index" not in block)
            yield done.stdout + done.stderr
        self.machine.shell(forget)

    def shell(self, script: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.machine.shell(f"PATH={PATH}\n{script}", check=check)

    @contextmanager
    def runs(self, *words: str) -> Iterator[None]:
        """A service of the machine, until the block ends."""
        log = self.folder / "service.log"
        log.unlink(missing_ok=True)
        with running(self.machine.within(*words), log, lambda: "listening on" in log.read_text()):
            yield

    @contextmanager
    def service(self, data: Path, *words: str, host: str = "127.0.0.1") -> Iterator[str]:
        serve = ("/opt/aotcache/bin/aotcache", "serve", "--data-dir", str(data))
        with self.runs(*serve, "--host", host, *words):
            yield f"http://{host}:8750"

    def token(self, data: Path, scope: str) -> str:
        """The name of a file with a new one, for a service that has its data there."""
        file = f"{data}.{scope}"
        make = f"aotcache token create --data-dir {data} --scope {scope} --namespace '*'"
        self.shell(f"{make} > {file}")
        return file


@pytest.fixture(scope="module")
def new_machine(images: Images) -> Iterator[Guided]:
    base = images.image("base")  # a namespace has the mounts that were there before it
    with work_folder("guides") as folder, own_network("machine") as network:
        sources = folder / "repo"
        _copy_sources(sources)
        # What comes from this machine: the sources, its CAs, its name servers.
        volumes = {"/repo": sources, str(folder): folder, "/etc/ssl/certs": Path("/etc/ssl/certs")}
        env = {"PATH": PATH, "HOME": "/root", "LC_ALL": "C.UTF-8"}
        env["VLLM_CACHE_ROOT"] = str(folder / "cache")
        small_tree(folder / "cache", ranks=(0, 1))
        container = base.container(env, volumes=volumes)
        with started(container, network) as machine:
            servers = Path("/etc/resolv.conf").read_text()
            machine.shell(f"printf %s {shlex.quote(servers)} > /etc/resolv.conf")
            yield Guided(machine, folder)


def _copy_sources(place: Path) -> None:
    """As a clone has them, to be written to."""
    git = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(git, capture_output=True, check=True).stdout
    pack = ["tar", "-C", str(ROOT), "--null", "--files-from=-", "-cf", "-"]
    packed = subprocess.run(pack, input=files, capture_output=True, check=True).stdout
    place.mkdir()
    unpack = ["tar", "-C", str(place), "--no-same-owner", "-xf", "-"]
    subprocess.run(unpack, input=packed, check=True)


@pytest.fixture(scope="module")
def installed(new_machine: Guided) -> Guided:
    """The guide for one machine, to its end: what it left is there for the others."""
    page = new_machine.follow("single-machine")
    next(page)  # installs
    next(page)  # a user, tokens
    with new_machine.runs("runuser", "-u", "aotcache", "--", *program("aotcache").split()):
        said = next(page)
        assert "status: ready" in said
        assert "trusts" in said
        published = next(page)
        assert published.count("vllm-aot") >= 2, published
        next(page)  # what the watcher's unit reads
        assert "published" in watched(new_machine)
        assert "trees" in next(page)
        assert list(page) == []
    return new_machine


def program(unit: str) -> str:
    (found,) = re.findall(
        r"^ExecStart=(.*)$", (UNITS / f"{unit}.service").read_text(), re.MULTILINE
    )
    return found


def watched(machine: Guided) -> str:
    """What the watcher says of a tree, run as its unit has it."""
    small_tree(machine.folder / "compiled", name="watched")
    machine.shell(f"{CREDENTIALS}cp -r {machine.folder}/compiled/. /var/cache/vllm/")
    machine.shell("chown -R vllm /var/cache/vllm")
    words = program("aotcache-watch").replace("%d", "/run/credentials")
    clean = "runuser -u vllm -- env -i $(cat /etc/aotcache/node.env)"
    return machine.shell(f"{clean} {words} --once 2>&1").stdout
