"""The companion's part in leases: whose turn it is to compile a tree."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable

from aotcache.engines.vllm.jobs import Answer, Compiled, Wait
from aotcache.local.state import TreeState
from aotcache.probe.trees import tree_path
from aotcache.protocol.names import SHARED, VLLM_AOT, part_directory
from aotcache.protocol.v1.leases import HELD, Lease
from aotcache.protocol.v1.lookup import Lookup
from aotcache.remote.index import Index
from aotcache.sync.leases import Leases

_TICKS = 0.1  # seconds by which a file system's clock is behind


class Turns:
    def __init__(self, index: Index, say: Callable[[Answer], None]) -> None:
        """say: an answer before the last one."""
        self._leases = Leases(index)
        self._say = say
        self._waits: dict[str, Wait] = {}

    def wait(self, job: Wait) -> tuple[str, str]:
        """The state of the lease, and why nobody is waited for. Raises as the index does."""

        def waiting(held: Lease) -> None:
            since = f"has been compiling it for {held.elapsed:.0f} s"
            self._say(Answer(turn=HELD, why=f"{held.node or 'another node'} {since}"))

        self._waits[job.hash] = job
        return self._leases.turn(
            _lookup(job),
            job.part,
            budget=job.seconds,
            hold=job.hold,
            recipe=job.recipe,
            node=socket.gethostname()[:255],
            waiting=waiting,
        )

    def compiled(self, job: Compiled) -> None:
        asked = self._waits.get(job.hash)
        if asked is None:
            return
        if not job.published:
            self._leases.let_go(_lookup(asked), asked.part)
            return
        tree = tree_path(asked.cache_root, VLLM_AOT, job.hash)
        model = os.path.join(tree, part_directory(asked.part), "model")
        failed = _failure(TreeState(tree).unpublished, since=time.time())
        self._leases.compiled(_lookup(asked), asked.part, model, failed)

    def finish(self) -> None:
        self._leases.finish()


def _failure(mark: str, since: float) -> Callable[[], bool]:
    """Whether a publish has failed after that: the publisher writes the mark each time."""

    def failed() -> bool:
        try:
            return os.stat(mark).st_mtime >= since - _TICKS
        except OSError:
            return False

    return failed


def _lookup(job: Wait) -> Lookup:
    return Lookup(
        layout=VLLM_AOT,
        hash=job.hash,
        platform=job.platform,
        namespace=job.namespace,
        parts=(SHARED, job.part),
    )
