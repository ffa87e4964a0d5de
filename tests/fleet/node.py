"""One start of a node: what vLLM's plugin has its companion and its publisher do, by their code."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aotcache.engines.vllm import companion
from aotcache.engines.vllm.jobs import Brought, Compiled, Fetch, Tell, Wait
from aotcache.engines.vllm.turns import Turns
from aotcache.errors import AotcacheError, StorageUnavailableError, UnavailableError
from aotcache.local.outcomes import keep_outcome
from aotcache.local.pulled import read_note
from aotcache.probe.trees import FoundTree, tree_path
from aotcache.protocol.names import DEFAULT_NAMESPACE, SHARED, VLLM_AOT, rank_part
from aotcache.protocol.recipe import Recipe
from aotcache.protocol.v1.explain import Explain
from aotcache.protocol.v1.leases import STORED
from aotcache.protocol.v1.outcomes import LOADED, Outcome
from aotcache.sync.connect import connect_by
from aotcache.sync.site import Site
from fleet.plan import COMPILED, HIT, WAITED, Ended, Job, Plan
from support.site import publish_tree
from support.trees import H100, make_ranks

PART = rank_part(0, 0, 0)


def recipe_of(job: Job) -> Recipe:
    return Recipe(engine="vllm", engine_version=job.version, model=job.model, dtype="bfloat16")


def hash_of(name: str) -> str:
    """As `make_ranks` names trees."""
    return hashlib.sha256(name.encode()).hexdigest()


def run(plan: Plan, job: Job) -> Ended:
    """The start, whatever happens in it."""
    environ = {"AOTCACHE_URL": plan.url, "AOTCACHE_TRUST": "unsigned"}
    site = connect_by(environ)
    timed = _Timed(site.index)
    start = _Start(plan, job, dataclasses.replace(site, index=timed))  # type: ignore[arg-type]
    begin = time.monotonic()
    error = ""
    try:
        start.run()
    except Exception as raised:
        error = f"{type(raised).__name__}: {raised}"
    finally:
        site.store.close()
    model = start.model
    digest = hashlib.sha256(model.read_bytes()).hexdigest() if model.exists() else ""
    if not plan.keep:
        shutil.rmtree(start.root, ignore_errors=True)
    return Ended(
        node=job.node,
        how=start.how,
        seconds=(start.warm or time.monotonic()) - begin,
        lookups=tuple(timed.lookups),
        moved_bytes=start.moved,
        model=digest,
        error=error,
        untold=start.untold,
    )


class _Timed:
    """An index that notes how long each of its lookups took."""

    def __init__(self, index: Any) -> None:
        self._index = index
        self.lookups: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._index, name)

    def lookup(self, asked: Any) -> Any:
        return self._time(self._index.lookup, asked)

    def lookup_recipe(self, asked: Any) -> Any:
        return self._time(self._index.lookup_recipe, asked)

    def _time(self, call: Callable[[Any], Any], asked: Any) -> Any:
        begin = time.monotonic()
        try:
            return call(asked)
        finally:
            self.lookups.append(time.monotonic() - begin)


@dataclass
class _Start:
    plan: Plan
    job: Job
    site: Site
    how: str = ""
    warm: float = 0.0
    moved: int = 0
    untold: str = ""
    about: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.root = Path(self.plan.home) / f"node-{self.job.node}"
        self.recipe = recipe_of(self.job)
        self.hash = hash_of(self.job.name)
        self.tree = tree_path(str(self.root), VLLM_AOT, self.hash)
        self.about = {
            "cache_root": str(self.root),
            "namespace": DEFAULT_NAMESPACE,
            "part": PART,
            "platform": H100,
            "recipe": self.recipe,
        }

    @property
    def model(self) -> Path:
        return Path(self.tree) / "rank_0_0" / "model"

    def run(self) -> None:
        if self._fetch() or self._fetch(self.hash):
            self._ended(HIT)
            return
        turns = Turns(self.site.index, lambda _held: None)
        try:
            if self._turn(turns) and self._fetch(self.hash):
                self._ended(WAITED)
            else:
                self._compile(turns)
        finally:
            turns.finish()

    def _fetch(self, hash: str = "") -> bool:
        """Whether the tree is there afterwards."""
        for one in companion._do(self.site, Fetch(**self.about, hash=hash)):
            if isinstance(one, Brought):
                self.moved += one.moved_bytes
        return self.model.exists()

    def _turn(self, turns: Turns) -> bool:
        if not self.plan.wait:
            return False
        wait = Wait(**self.about, hash=self.hash, seconds=self.plan.wait, hold=True)
        return turns.wait(wait)[0] == STORED

    def _compile(self, turns: Turns) -> None:
        time.sleep(self.plan.compile_seconds)
        found = make_ranks(
            self.root,
            Path(self.plan.kernels),
            Path(self.plan.inductor),
            range(1),
            world=1,
            name=self.job.name,
            recipe=self.recipe,
            seconds=self.plan.recorded_seconds,
        )
        # No two compiles write the same bytes.
        with self.model.open("r+b") as model:
            model.write(b"%s, node %06d" % (self.job.name.encode(), self.job.node))
        turns.compiled(Compiled(hash=self.hash))
        self.how, self.warm = COMPILED, time.monotonic()
        about = {"layout": VLLM_AOT, "hash": self.hash, "platform": H100, "parts": (SHARED, PART)}
        keep_outcome(self.tree, Explain(**about, recipe=self.recipe, node=self._name))
        self._tell()
        self._publish(found)

    def _publish(self, found: FoundTree) -> None:
        """As the watcher does, which tries again."""
        for pause in (5.0, 10.0, 20.0):
            try:
                publish_tree(self.site, found)
            except (UnavailableError, StorageUnavailableError):
                time.sleep(pause)
            else:
                return
        publish_tree(self.site, found)

    def _ended(self, how: str) -> None:
        self.how, self.warm = how, time.monotonic()
        note = read_note(self.tree, PART)
        assert note is not None
        said = Outcome(
            layout=note.layout,
            hash=note.hash,
            platform=note.platform,
            part=note.part,
            generation=note.generation,
            outcome=LOADED,
            node=self._name,
            seconds=note.seconds,
            bytes=note.bytes,
        )
        keep_outcome(self.tree, said)
        self._tell()

    def _tell(self) -> None:
        try:
            list(companion._do(self.site, Tell(cache_root=str(self.root))))
        except AotcacheError as error:
            self.untold = str(error)  # kept for the node's next start

    @property
    def _name(self) -> str:
        return f"node-{self.job.node}"
