"""A Slurm of one node, in a network of its own: munged, slurmctld and slurmd as Debian has them."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.containers import Container, Machine, own_network, started
from support.process import eventually, running, tool, work_folder
from support.vllm import ROOT

PATH = "/opt/aotcache/bin:/usr/sbin:/usr/bin:/sbin:/bin"
USER = "alice"  # who has jobs

_SLURM = """
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
KillWait=2
GresTypes=gpu
NodeName=localhost NodeAddr=127.0.0.1 CPUs=2 Gres=gpu:2
PartitionName=all Nodes=ALL Default=YES
"""

# Slurm looks for no names where the only address is that of loopback.
_PREPARE = """
ip address add 10.77.0.1/32 dev lo
mkdir -p {folder}/state {folder}/spool /etc/slurm /opt
install -d -o munge -g munge /run/munge /var/log/munge /var/lib/munge
install -d -o munge -g munge -m 0700 /etc/munge
head -c 128 /dev/urandom > /etc/munge/munge.key
chown munge /etc/munge/munge.key && chmod 0400 /etc/munge/munge.key
touch {folder}/gpu0 {folder}/gpu1
echo 'Name=gpu File={folder}/gpu[0-1]' > /etc/slurm/gres.conf
echo CgroupPlugin=cgroup/v1 > /etc/slurm/cgroup.conf
rm -rf /opt/aotcache && ln -s {python} /opt/aotcache
chmod a+x {parents}
useradd --create-home --shell /bin/sh {user}
"""


@dataclass(frozen=True)
class Node:
    """The only one. folder: of this machine, there in the same place."""

    machine: Machine
    folder: Path

    def shell(self, script: str, *, user: str = "root") -> str:
        words = f"runuser -u {user} -- env PATH={PATH} HOME=$(getent passwd {user} | cut -d: -f6)"
        return self.machine.shell(f"cd / && {words} sh -ec {shlex.quote(script)}").stdout

    @contextmanager
    def runs(self, *words: str, up: str) -> Iterator[None]:
        """A server, until the block ends. up: what it says when it is."""
        log = self.folder / f"{Path(words[0]).name}.log"
        command = self.machine.within("env", f"PATH={PATH}", *words)
        with running(command, log, lambda: up in log.read_text(errors="replace")):
            yield

    def submit(self, script: str) -> str:
        """The number of a new job of USER."""
        job = self.folder / "job.sh"
        job.write_text(script)
        said = self.shell(f"cd ~ && sbatch --export=ALL --output=%j.out {job}", user=USER)
        return said.split()[-1]

    def output(self, job: str) -> str:
        """As far as there is any."""
        return self.shell(f"cat ~/{job}.out || :", user=USER)

    def ended(self, job: str) -> str:
        """What it said, when its epilog has ended too."""

        def gone() -> str | None:
            jobs = self.shell("squeue --noheader --format=%i").split()
            return None if job in jobs else self.output(job)

        return eventually(gone, f"the end of job {job}")

    @property
    def state(self) -> str:
        return self.shell("sinfo --noheader --format=%T").strip()


@contextmanager
def machine() -> Iterator[Node]:
    """Where it is to run: this machine's programs, and a USER."""
    with work_folder("slurm") as folder, own_network("node") as network, ExitStack() as stack:
        found = stack.enter_context(started(_container(folder), network))
        python = Path(sys.executable).parent.parent
        parents = {one for path in (ROOT, Path(sys.executable).resolve()) for one in path.parents}
        about = {"folder": folder, "python": python, "user": USER}
        found.shell(_PREPARE.format(parents=" ".join(map(str, sorted(parents))), **about))
        yield Node(found, folder)


def _container(folder: Path) -> Container:
    env = {"PATH": PATH, "HOME": "/root", "LC_ALL": "C.UTF-8"}
    return Container(image=Path("/"), env=env, volumes={str(folder): folder, str(ROOT): ROOT})


@contextmanager
def slurm(node: Node, configuration: str) -> Iterator[None]:
    """Run it, with these lines in its slurm.conf."""
    lines = _SLURM.format(folder=node.folder) + configuration
    node.shell(f"printf %s {shlex.quote(lines)} > /etc/slurm/slurm.conf")
    for name in ("munged", "slurmctld", "slurmd"):
        tool(name, "munge, slurmctld, slurmd and slurm-client")
    munged = node.runs("runuser", "-u", "munge", "--", "munged", "--foreground", up="Created")
    controller = node.runs("slurmctld", "-D", up="Running as primary controller")
    with munged, controller, node.runs("slurmd", "-D", "-N", "localhost", up="slurmd started on"):
        eventually(lambda: node.state == "idle" or None, "a node that is idle")
        yield
