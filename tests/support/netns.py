"""Two hosts on one machine: network namespaces with a cable between them that can be slow, or cut.

Neither leads anywhere else. Only root may make them.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from support.process import tool

_NETWORK = 0x40000000  # CLONE_NEWNET
_ADDRESS = "10.77.0."


@dataclass(frozen=True)
class Host:
    """name: of its namespace. address: in it, beside 127.0.0.1. Its end of the cable is `cable`."""

    name: str
    address: str

    @contextmanager
    def inside(self) -> Iterator[None]:
        """This thread, and all processes and threads that it starts, are on this host."""
        here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
        try:
            _enter(there)
            try:
                yield
            finally:
                _enter(here)
        finally:
            os.close(here)
            os.close(there)

    def ip(self, words: str) -> str:
        return _run("ip", "-n", self.name, *words.split())

    def queue(self, *words: str) -> None:
        """How what it sends is handled: words of tc's."""
        _run("tc", "-n", self.name, "qdisc", "replace", "dev", "cable", "root", *words)

    def received(self) -> int:
        """Bytes that have come by the cable."""
        shown = _run("ip", "netns", "exec", self.name, "cat", "/proc/net/dev")
        return int(shown.partition("cable:")[2].split()[0])


@dataclass(frozen=True)
class Network:
    near: Host
    far: Host

    def slow(self, rate: str) -> None:
        """rate: as tc has it (`8mbit`), each way."""
        for host in (self.near, self.far):
            host.queue("tbf", "rate", rate, "burst", "32kb", "latency", "500ms")

    def cut(self) -> None:
        """Nothing arrives any more, and nobody is told."""
        for host in (self.near, self.far):
            host.queue("blackhole")

    def mend(self) -> None:
        for host in (self.near, self.far):
            host.queue("pfifo_fast")


@contextmanager
def two_hosts() -> Iterator[Network]:
    for name in ("ip", "tc"):
        tool(name, "Debian's iproute2")
    names = [f"aotcache-{os.getpid()}-{side}" for side in ("near", "far")]
    near, far = (Host(name, _ADDRESS + str(number)) for number, name in enumerate(names, 1))
    try:
        for host in (near, far):
            _run("ip", "netns", "add", host.name)
        near.ip(f"link add cable type veth peer name cable netns {far.name}")
        for host, other in ((near, far), (far, near)):
            host.ip(f"address add {host.address}/24 dev cable")
            for device in ("lo", "cable"):
                host.ip(f"link set {device} up")
            # As behind a router: a host that is cut off is not seen to be missing.
            (card,) = json.loads(other.ip("-json link show cable"))
            host.ip(
                f"neigh replace {other.address} lladdr {card['address']} dev cable nud permanent"
            )
        yield Network(near, far)
    finally:
        for host in (near, far):
            subprocess.run(["ip", "netns", "delete", host.name], check=False, capture_output=True)


def _run(*command: str) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, (
        f"{' '.join(command)}: {done.stderr.strip()}: tests of faults make network namespaces, "
        "which takes root (CAP_SYS_ADMIN) and Debian's iproute2"
    )
    return done.stdout


def _enter(namespace: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, _NETWORK):
        raise OSError(ctypes.get_errno(), "cannot enter a network namespace")
