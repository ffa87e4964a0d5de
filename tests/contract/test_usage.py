"""Lookups and outcomes are counted."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import pytest
from sqlalchemy import event, select, text

from aotcache.errors import (
    NotFoundError,
    UsageError,
)
from aotcache.protocol.names import (
    VLLM_AOT,
)
from aotcache.protocol.record import TreeUsed
from aotcache.protocol.v1.outcomes import Outcome
from aotcache.storage import ObjectStore
from aotcache_service.index import history
from aotcache_service.index.database import Database
from aotcache_service.index.drift import drift
from aotcache_service.index.kept import Kept, Namespaces
from aotcache_service.index.models import OutcomeRow, TreeRow
from aotcache_service.index.outcomes import count_outcome
from aotcache_service.index.totals import Totals
from aotcache_service.index.usage import UsageCounter
from aotcache_service.ops import quarantine
from aotcache_service.ops.delete import delete_trees
from support.indexed import NOW, counted, page, publish
from support.stored import (
    HASH,
    PLATFORM,
    RANK,
    RECIPE,
)


def test_lookups_are_counted_later_and_together(database: Database, store: ObjectStore) -> None:
    publish(database, store)
    trees = counted(database)
    usage = UsageCounter(database)
    usage.record(trees, 500)
    usage.record(trees, 400)
    usage.record([999_999], 400)  # deleted meanwhile
    assert page(database).trees[0].lookups == 0
    usage.flush()
    usage.flush()
    (tree,) = page(database).trees
    assert (tree.lookups, tree.used) == (2, 500)


def test_a_count_that_cannot_be_written_does_not_end_counting(
    database: Database, store: ObjectStore, caplog: pytest.LogCaptureFixture
) -> None:
    publish(database, store)
    trees = counted(database)
    usage = UsageCounter(database)
    usage.record([b"no number"], 500)  # type: ignore[list-item]
    usage.flush()
    assert "lookups of 1 trees are not counted" in caplog.text
    usage.record(trees, 500)
    usage.start()
    usage.close()
    assert page(database).trees[0].lookups == 1


class _Turns:
    """Of a thread that waits for its end: so many times in vain."""

    def __init__(self, turns: int) -> None:
        self.left = turns

    def wait(self, _seconds: float) -> bool:
        self.left -= 1
        return self.left < 0

    def set(self) -> None:
        self.left = 0


@pytest.mark.parametrize(("trees", "turns", "written"), [(1, 1, 1), (1000, 5, 0), (1000, 6, 1)])
def test_counts_of_many_trees_are_written_every_sixth_time(
    database: Database,
    store: ObjectStore,
    monkeypatch: pytest.MonkeyPatch,
    *,
    trees: int,
    turns: int,
    written: int,
) -> None:
    publish(database, store)
    known = counted(database)
    usage = UsageCounter(database)
    usage.record((*known, *range(10_000, 10_000 + trees - 1)), 500)
    monkeypatch.setattr(usage, "_stop", _Turns(turns))
    usage.start()
    usage._thread.join()
    assert page(database).trees[0].lookups == written
    usage.close()
    assert page(database).trees[0].lookups == 1


def test_outcomes_are_counted(database: Database, store: ObjectStore) -> None:
    publish(database, store)
    outcome = Outcome(
        layout=VLLM_AOT,
        hash=HASH,
        platform=PLATFORM.id,
        part="shared",
        generation=1,
        outcome="loaded",
        seconds=1.5,
        bytes=1 << 30,
    )
    for kind in ("loaded", "loaded", "load_failed"):
        with database.write() as db:
            count_outcome(db, replace(outcome, outcome=kind), NOW)
    assert page(database).trees[0].outcomes == {"loaded": 2, "load_failed": 1}
    with database.read() as db:
        row = select(OutcomeRow).where(OutcomeRow.outcome == "loaded")
        loaded = db.scalars(row).one()
    assert (loaded.pull_seconds, loaded.pulled_bytes) == (3.0, 2 << 30)
    for wrong in ({"seconds": math.nan}, {"seconds": -1.0}, {"bytes": -1}, {"bytes": 1 << 70}):
        with pytest.raises(UsageError), database.write() as db:
            count_outcome(db, replace(outcome, **wrong), NOW)
    for unknown in (replace(outcome, generation=2), replace(outcome, hash="b" * 64)):
        with pytest.raises(NotFoundError), database.write() as db:
            count_outcome(db, unknown, NOW)
    delete_trees(database, store, "default", HASH)
    with database.read() as db:
        assert db.scalar(text("SELECT count(*) FROM outcomes")) == 0


def test_totals_are_of_what_is_served(database: Database, store: ObjectStore) -> None:
    publish(database, store, b"12345678", compile_seconds=100.0, recipe=RECIPE)
    publish(database, store, b"model", part=RANK, compile_seconds=60.0, recipe=RECIPE)
    publish(database, store, b"of another team", namespace="team")
    publish(database, store, b"gone", tree_hash="b" * 64)
    delete_trees(database, store, "default", "b" * 64)
    for outcome, part, seconds in (
        ("loaded", RANK, 2.0),
        ("loaded", RANK, 3.0),
        ("crashed", RANK, 1.0),
        ("loaded", "shared", 1.0),
    ):
        told = Outcome(
            layout=VLLM_AOT,
            hash=HASH,
            platform=PLATFORM.id,
            part=part,
            generation=1,
            outcome=outcome,
            seconds=seconds,
            bytes=1000,
        )
        with database.write() as db:
            count_outcome(db, told, NOW)
    found = Totals(database).of(frozenset(("default",)))
    assert (found.trees, found.parts, found.pinned, found.quarantined) == (1, 2, 0, 0)
    assert (found.packs, found.pack_bytes) == ({"live": 3}, {"live": 17})
    assert found.outcomes == {"loaded": 3, "crashed": 1}
    assert (found.pull_seconds, found.pull_bytes) == (7.0, 4000)
    assert found.saved_seconds == 2 * 60 - 5 + 100 - 1 - 1
    (model,) = found.models
    assert (model.model, model.trees, model.stored_bytes) == (RECIPE.model, 1, 13)
    everything = Totals(database).of(None)
    assert (everything.trees, len(everything.models)) == (2, 2)
    assert Totals(database).of(frozenset()).trees == 0


def test_totals_are_counted_once_a_minute(database: Database, store: ObjectStore) -> None:
    totals = Totals(database)
    assert totals.of(None).trees == 0
    publish(database, store)
    assert totals.of(None).trees == 0
    assert totals.of(frozenset(("default",))).trees == 1


def test_what_changed_is_counted_for_who_asks_next(database: Database, store: ObjectStore) -> None:
    """Who looks after an action does not wait for the count: what was so before is answered."""
    totals = Totals(database)
    assert totals.of(None).trees == 0
    publish(database, store)
    totals.forget()
    assert totals.of(None, wait=False).trees == 0
    end = time.monotonic() + 60
    while totals.of(None, wait=False).trees == 0:
        assert time.monotonic() < end
        time.sleep(0.01)
    totals.forget()
    assert totals.of(None).trees == 1


def test_what_changes_while_it_is_counted_is_counted_again() -> None:
    counts = []

    def count(_namespaces: Namespaces) -> int:
        counts.append(len(counts))
        if len(counts) == 1:
            kept.forget()
        return counts[-1]

    kept = Kept(count)
    assert [kept.of(None) for _ in range(3)] == [0, 1, 1]


def test_drift_asks_the_same_however_many_recipes_drift(
    database: Database, store: ObjectStore
) -> None:
    for recipe in range(4):
        for number in range(3 + recipe):
            publish(
                database,
                store,
                tree_hash=f"{recipe}{number}" * 32,
                recipe=replace(RECIPE, model=f"org/{recipe}"),
            )
    said: list[str] = []

    def note(_: object, __: object, statement: str, *_more: object) -> None:
        said.append(statement)

    with database.read() as db:
        engine = db.get_bind()
        event.listen(engine, "before_cursor_execute", note)
        found = drift(db, (TreeRow.hidden.is_(False),))
        event.remove(engine, "before_cursor_execute", note)
    assert [(one.model, one.hashes, one.expected) for one in found] == [
        (f"org/{recipe}", 3 + recipe, 1) for recipe in (3, 2, 1, 0)
    ]
    assert len([one for one in said if "trees" in one]) == 3


def test_a_start_of_several_modules_is_no_drift(database: Database, store: ObjectStore) -> None:
    hashes = [f"{number}" * 64 for number in range(4)]
    used = tuple(TreeUsed(layout=VLLM_AOT, hash=one) for one in hashes)
    for one in hashes:
        publish(database, store, tree_hash=one, recipe=RECIPE, trees=used)
    assert Totals(database).of(None).drift == ()
    for number in range(5):
        publish(database, store, tree_hash=f"{number}f" * 32, recipe=RECIPE)
    (found,) = Totals(database).of(None).drift
    assert (found.device, found.torch) == (PLATFORM.device, PLATFORM.torch)
    assert (found.model, found.platform, found.hashes, found.expected) == (
        RECIPE.model,
        PLATFORM.id,
        9,
        4,
    )


def test_what_was_found_and_missed_lately(database: Database) -> None:
    now = database.now()
    amounts = {
        history.place("default", history.HIT, now): 3.0,
        history.place("team", history.HIT, now): 2.0,
        history.place("default", history.MISS + "unknown_hash", now): 1.0,
        history.place("default", history.HIT, now - 8 * 24 * 3600): 100.0,
    }
    with database.write() as db:
        history.add(db, amounts)
    found = Totals(database).of(None)
    assert (found.found, found.missed) == (5, {"unknown_hash": 1})
    assert Totals(database).of(frozenset(("team",))).found == 2


def test_ranks_that_compile_side_by_side_save_their_share(
    database: Database, store: ObjectStore
) -> None:
    """Four ranks load what took a minute: a minute is saved, not four."""
    parts = tuple(f"rank_{rank}_0-d{rank}" for rank in range(4))
    for part in ("shared", *parts):
        about = {"part": part, "compile_seconds": 60.0, "expected_parts": ("shared", *parts)}
        publish(database, store, part.encode(), **about)
    for part in parts:
        told = Outcome(
            layout=VLLM_AOT,
            hash=HASH,
            platform=PLATFORM.id,
            part=part,
            generation=1,
            outcome="loaded",
            seconds=2.0,
        )
        quarantine.tell(database, store, told, token="", nodes=3, now=NOW)
    assert Totals(database).of(None).saved_seconds == 58
    with database.read() as db:
        assert history.read(db, None, 0)["saved_seconds"] == {NOW - NOW % 3600: 58}


def test_what_is_stored_is_noted_each_hour(database: Database, store: ObjectStore) -> None:
    publish(database, store, b"12345678")
    hour = NOW - NOW % 3600
    for _ in range(2):  # by two replicas
        history.sample(database, NOW)
    publish(database, store, b"1234", part=RANK)
    history.sample(database, NOW + 3600)
    with database.write() as db:
        for table in ("part_packs", "packs"):
            db.execute(text(f"DELETE FROM {table}"))
    history.sample(database, NOW + 2 * 3600)
    with database.read() as db:
        found = history.read(db, ["default"], 0)["stored_bytes"]
    assert found == {hour: 8, hour + 3600: 12, hour + 2 * 3600: 0}
    history.sample(database, NOW + 91 * 24 * 3600)
    with database.read() as db:
        assert set(history.read(db, None, 0)["stored_bytes"]) == {hour + 91 * 24 * 3600}
