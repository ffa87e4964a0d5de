"""The companion: a child process that talks to the service for an engine process.

A process of its own, because it can be killed when the budget is spent, shares no interpreter lock
with the loading of weights, and takes whatever goes wrong with it. It answers the jobs on its
stdin, one after the other, and ends when that is closed: at once where it pulls or waits, as the
engine was killed then, and the next one would wait for the lock of its tree; once that is published
where it holds a lease on what the engine compiled.
"""

from __future__ import annotations

import os
import select
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

import msgspec

from aotcache.engines.vllm.jobs import Answer, Brought, Compiled, Fetch, Tell, Wait
from aotcache.errors import AotcacheError, StorageUnavailableError, UnavailableError, UsageError
from aotcache.protocol.text import printable

if TYPE_CHECKING:
    from aotcache.engines.vllm.turns import Turns
    from aotcache.protocol.v1.lookup import Miss
    from aotcache.protocol.v1.outcomes import Outcome
    from aotcache.sync.pull import Pulled
    from aotcache.sync.site import Site

_LOOK = 0.2  # seconds

_busy = threading.Event()  # pulls, or waits for another node


def _follow() -> None:
    hangup = select.poll()
    hangup.register(0, 0)
    while hangup.poll():  # the other end is gone; there may be jobs left to do
        if _busy.is_set():
            os._exit(1)
        time.sleep(_LOOK)


class _Shared:
    """What the jobs of one companion share: made by the first that needs it."""

    @cached_property
    def site(self) -> Site:
        from aotcache.sync.connect import connect_by

        return connect_by(os.environ)

    @cached_property
    def turns(self) -> Turns:
        from aotcache.engines.vllm.turns import Turns

        return Turns(self.site.index, _say)


def main() -> None:
    threading.Thread(target=_follow, name="aotcache-follow", daemon=True).start()
    decoder = msgspec.json.Decoder(Fetch | Tell | Wait | Compiled)
    shared = _Shared()
    for line in sys.stdin.buffer:
        brought: list[Brought] = []
        why: list[str] = []
        error, fatal, turn = "", False, ""
        try:
            job = decoder.decode(line)
            if isinstance(job, Compiled):
                shared.turns.compiled(job)
                continue
            if isinstance(job, Wait):
                with _being_busy():
                    turn, said = shared.turns.wait(job)
                why.append(said)
            else:
                for one in _do(shared.site, job):
                    if isinstance(one, Brought):
                        brought.append(one)
                    else:
                        why.append(f"{one.reason}: {one.message}")
        except (UsageError, UnavailableError, StorageUnavailableError) as caught:
            error, fatal = str(caught), True
        except (AotcacheError, OSError) as caught:
            error = str(caught)
        except Exception as caught:
            # A bug of ours: the engine starts all the same, and says this.
            error, fatal = f"{type(caught).__name__}: {caught}", True
        # What came before an error is there, and was waited for.
        _say(
            Answer(brought=tuple(brought), why="; ".join(why), error=error, fatal=fatal, turn=turn)
        )
    if "turns" in vars(shared):
        shared.turns.finish()


def _say(answer: Answer) -> None:
    """What the service says in it goes into the engine's log."""
    why, error = printable(answer.why), printable(answer.error)
    answer = msgspec.structs.replace(answer, why=why, error=error)
    sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
    sys.stdout.buffer.flush()


@contextmanager
def _being_busy() -> Iterator[None]:
    _busy.set()
    try:
        yield
    finally:
        _busy.clear()


def _do(site: Site, job: Fetch | Tell) -> Iterator[Brought | Miss]:
    if isinstance(job, Tell):
        from aotcache.core.leaks import masked, masked_outcome
        from aotcache.local.outcomes import tell_outcomes
        from aotcache.probe.trees import tree_folders
        from aotcache.protocol.v1.explain import Explain

        def tell(said: Outcome | Explain) -> None:
            if site.scanner is None:
                site.index.tell(said)
            elif isinstance(said, Explain):
                site.index.tell(masked(said, site.scanner))
            else:
                site.index.tell(masked_outcome(said, site.scanner))

        for folder in tree_folders(job.cache_root):
            tell_outcomes(folder, tell)
        return
    with _being_busy():
        yield from _fetch(site, job)


def _fetch(site: Site, job: Fetch) -> Iterator[Brought | Miss]:
    from aotcache.protocol.names import SHARED, VLLM_AOT
    from aotcache.protocol.v1.lookup import Lookup, Miss
    from aotcache.protocol.v1.recipes import RecipeLookup
    from aotcache.sync.together import pull_recipe, pull_together

    results: Iterable[Pulled | Miss]
    recipe = None if job.any_recipe else job.recipe
    if not job.hash:
        asked = RecipeLookup(recipe=job.recipe, platform=job.platform, namespace=job.namespace)
        results = pull_recipe(site, asked, job.cache_root, part=job.part, recipe=recipe)
    else:
        lookup = Lookup(
            layout=VLLM_AOT,
            hash=job.hash,
            platform=job.platform,
            namespace=job.namespace,
            parts=(SHARED, job.part),
        )
        results = pull_together(site, lookup, job.cache_root, recipe=recipe)
    for one in results:
        if isinstance(one, Miss):
            yield one
            continue
        yield Brought(
            layout=one.tree.layout,
            hash=one.tree.hash,
            seconds=one.seconds,
            moved_bytes=one.moved_bytes,
            compile_seconds=one.compile_seconds,
            installed=one.installed,
            unsigned=one.unsigned,
        )


if __name__ == "__main__":
    main()
