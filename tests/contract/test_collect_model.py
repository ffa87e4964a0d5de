"""Collecting against a model: whatever is published, deleted, pinned, left half done and collected
in whatever order, what is served keeps its bytes, and in the end nothing else is left."""

from __future__ import annotations

import hashlib
import tempfile
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import select

from aotcache.errors import (
    CondemnedError,
    GenerationTakenError,
    NotFoundError,
    ObjectMissingError,
    PinnedError,
    SessionExpiredError,
)
from aotcache.protocol.manifest import Manifest, PackPlace, decode_manifest
from aotcache.protocol.names import pack_key
from aotcache.protocol.v1.collect import Collected, Keep
from aotcache.protocol.v1.publish import Commit, Session
from aotcache.storage import DirectStore, open_store
from aotcache_service.index.database import Database
from aotcache_service.index.listing import Filter
from aotcache_service.index.models import PartRow, TreeRow
from aotcache_service.ops.collect import collect
from aotcache_service.ops.delete import delete_trees
from aotcache_service.ops.pin import pin, unpin
from aotcache_service.ops.publish import commit
from support.indexed import begin
from support.killed import Killed, KilledAt
from support.stored import RECIPE, make_pack, put_part

GRACE, SESSION = 5000, 3600
FRAMES, SIZE = 4, 8
TREES = tuple(f"{number:x}" * 64 for number in range(3))
PARTS = ("shared", "rank_0_0-d0")


@dataclass(frozen=True)
class Half:
    """A publish that has put a pack, or reuses one, and perhaps its manifest."""

    session: Session
    tree: str
    part: str
    place: PackPlace
    at: int
    content: bytes
    key: str = ""


class Collecting(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.home = tempfile.TemporaryDirectory()
        self.store = open_store((Path(self.home.name) / "objects").as_uri())
        self.database = Database(f"sqlite:///{self.home.name}/index.sqlite3")
        self.database.migrate()
        self.now = 1_000_000
        self.made = 0
        self.pinned: set[str] = set()
        # Publishes that have put something.
        self.half: list[Half] = []
        # Pulls: until when they may go on, and the packs that they read.
        self.pulls: list[tuple[int, set[str]]] = []

    def teardown(self) -> None:
        if hasattr(self, "database"):
            try:
                self.all_else_goes()
            finally:
                self.close()

    def close(self) -> None:
        self.database.close()
        self.store.close()
        self.home.cleanup()

    @rule(
        tree=st.sampled_from(TREES),
        part=st.sampled_from(PARTS),
        manifest=st.booleans(),
        frame=st.none() | st.integers(0, FRAMES - 1),
    )
    def begin_a_publish(self, tree: str, part: str, *, manifest: bool, frame: int | None) -> None:
        """frame: that it reuses of a pack of some tree, as it was when the session began."""
        self.made += 1
        session = begin(
            self.database,
            self.store,
            f"{self.made:032x}",  # what fails once fails again
            now=self.now,
            recipe=RECIPE,
            hash=tree,
            parts=(part,),
        )
        places = {} if frame is None else self._packs()
        if frame is not None and places:
            place = places[sorted(places)[frame % len(places)]]
            at = frame % len(place.frames) * SIZE
            content = self.store.get_range(pack_key("default", place.name), at, at + SIZE)
        else:
            content = b"".join(b"%0*d" % (SIZE, FRAMES * self.made + i) for i in range(FRAMES))
            place, at = make_pack(content, session.publish_id, FRAMES), 0
            self.store.put(pack_key("default", place.name), content)
        half = Half(session, tree, part, place, at, content)
        self.half.append(replace(half, key=self._put_manifest(half)) if manifest else half)

    @rule(
        tree=st.sampled_from(TREES),
        part=st.sampled_from(PARTS),
        frame=st.none() | st.integers(0, FRAMES - 1),
    )
    def publish(self, tree: str, part: str, *, frame: int | None) -> None:
        self.begin_a_publish(tree, part, manifest=True, frame=frame)
        self._end(len(self.half) - 1)

    def _manifests(self) -> list[Manifest]:
        """Of what is served."""
        query = select(PartRow.manifest).where(PartRow.newest)
        with self.database.read() as db:
            return [decode_manifest(self.store.get(key)) for key in db.scalars(query)]

    def _packs(self) -> dict[str, PackPlace]:
        """By name."""
        return {place.name: place for one in self._manifests() for place in one.locations.packs}

    def _put_manifest(self, half: Half) -> str:
        (state,) = (one for one in half.session.parts if one.part == half.part)
        taken = f"/{half.tree}/", f"/{half.part}/{state.next_generation:08}."
        for found in list(self.store.list("default/trees/")):
            if all(piece in found.key for piece in taken):
                return ""  # another publisher's
        return put_part(
            self.store,
            half.content,
            pack=half.place,
            at=half.at,
            recipe=RECIPE,
            tree_hash=half.tree,
            part=half.part,
            generation=state.next_generation,
            publish_id=half.session.publish_id,
        )

    @rule()
    def begin_a_pull(self) -> None:
        self.pulls.append((self.now + GRACE, set(self._packs())))

    @precondition(lambda self: self.half)
    @rule(data=st.data())
    def end_a_publish(self, data: st.DataObject) -> None:
        self._end(data.draw(st.integers(0, len(self.half) - 1)))

    def _end(self, number: int) -> None:
        half = self.half.pop(number)
        session, key = half.session, half.key or self._put_manifest(half)
        if not key:
            return
        try:
            commit(
                self.database,
                self.store,
                session.publish_id,
                Commit(manifests=(key,)),
                now=self.now,
            )
        except (
            CondemnedError,
            SessionExpiredError,
            GenerationTakenError,
            ObjectMissingError,
        ) as error:
            if isinstance(error, CondemnedError):
                event("condemned")
                assert self.now >= session.expires, "what an open session uses is not condemned"
            # The publisher starts over, and clears away what nobody can use.
            with self.database.read() as db:
                known = db.scalar(select(PartRow.id).where(PartRow.manifest == key))
            if known is None:
                self.store.delete(key)
        self._learn()

    @rule(tree=st.sampled_from(TREES))
    def delete(self, tree: str) -> None:
        try:
            delete_trees(self.database, self.store, "default", tree)
            assert tree not in self.pinned
        except (PinnedError, NotFoundError):
            assert tree in self.pinned or tree not in self._trees()
        self._learn()

    @rule(tree=st.sampled_from(TREES), on=st.booleans())
    def pin(self, tree: str, *, on: bool) -> None:
        wanted = Filter(namespaces=frozenset(("default",)), hash=tree)
        with suppress(NotFoundError):
            if on:
                pin(self.database, self.store, wanted)
                self.pinned.add(tree)
            else:
                unpin(self.database, self.store, wanted)
                self.pinned.discard(tree)

    @rule(seconds=st.sampled_from((1, SESSION // 2, GRACE, 30 * 24 * 3600)))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @rule(days=st.sampled_from((0, 0, 7)), steps=st.none() | st.integers(0, 12))
    def collect(self, days: int, steps: int | None) -> None:
        """steps: of storage, after which it is killed."""
        before = self._trees()
        store = self.store if steps is None else KilledAt(self.store, steps)
        try:
            done = self._collect(store, Keep(days=days))
            event(f"rewritten: {done.rewritten_packs}")
        except Killed:
            assert steps is not None
        gone = before - self._trees()
        assert not gone & self.pinned
        assert not gone or days
        self._learn()

    def _collect(self, store: DirectStore, keep: Keep) -> Collected:
        return collect(self.database, store, keep, clock=lambda: self.now, grace=GRACE, small=0)

    def _trees(self) -> set[str]:
        with self.database.read() as db:
            return set(db.scalars(select(TreeRow.hash).where(TreeRow.hidden.is_(False))))

    def _learn(self) -> None:
        with self.database.read() as db:
            self.pinned &= set(db.scalars(select(TreeRow.hash)))

    @invariant()
    def what_is_served_has_its_bytes(self) -> None:
        for manifest in self._manifests():
            (blob,), (place,) = manifest.locations.blobs, manifest.locations.packs
            end = blob.offset + blob.size
            data = self.store.get_range(pack_key("default", place.name), blob.offset, end)
            assert hashlib.sha256(data).hexdigest() == manifest.statement.files[0].digest
            assert self.store.size(pack_key("default", place.name)) == place.size

    @invariant()
    def pulls_find_all_that_they_read(self) -> None:
        for until, packs in self.pulls:
            for name in packs if self.now < until else ():
                assert self.store.size(pack_key("default", name))

    def all_else_goes(self) -> None:
        """Nobody publishes any more, and time passes: what is dead of packs goes too."""
        self.half.clear()
        for _ in range(3):
            self.now += 10 * SESSION + GRACE
            self._collect(self.store, Keep())
        with self.database.read() as db:
            manifests = db.scalars(select(PartRow.manifest)).all()
        needed: dict[str, set[int]] = {}
        for manifest in (decode_manifest(self.store.get(key)) for key in manifests):
            (blob,), (place,) = manifest.locations.blobs, manifest.locations.packs
            frames = range(blob.offset // SIZE, (blob.offset + blob.size) // SIZE)
            needed.setdefault(pack_key("default", place.name), set()).update(frames)
        packs = {found.key: found.size for found in self.store.list("default/packs/")}
        assert packs.keys() == needed.keys()
        for key, frames in needed.items():
            assert len(frames) * SIZE > packs[key] / 2


@pytest.mark.slow
def test_a_model() -> None:
    Collecting.TestCase.settings = settings(
        max_examples=60,
        stateful_step_count=50,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    found = Collecting.TestCase()
    found.runTest()
