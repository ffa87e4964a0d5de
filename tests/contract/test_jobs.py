"""Jobs that one replica at a time does. On both databases."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from aotcache.errors import BusyError
from aotcache.protocol.v1.collect import Collect
from aotcache.storage import DirectStore
from aotcache_service.http import collector
from aotcache_service.index.database import Database
from aotcache_service.ops import jobs
from aotcache_service.settings import ServiceSettings


def test_one_at_a_time(database: Database) -> None:
    first, second = (jobs.Job(database, "collect") for _ in range(2))
    assert first.take(0)
    with pytest.raises(BusyError, match="wait for its end"):
        second.take(0)
    first.go_on()
    assert jobs.last(database, "collect").running
    first.report = {"deleted": 1}
    first.end(done=True)
    ended = jobs.last(database, "collect")
    assert (ended.running, ended.report) == (False, {"deleted": 1})
    assert ended.done == ended.finished >= ended.started > 0
    # On schedule it is not due yet; asked for, it is.
    assert not second.take(3600)
    assert second.take(0)
    assert jobs.last(database, "collect").report == {}
    # Whoever lost its turn notices, and does not end somebody else's.
    with pytest.raises(BusyError, match="goes on elsewhere"):
        first.go_on()
    first.end(done=True)
    assert jobs.last(database, "collect").running


def test_one_that_did_not_end_is_tried_again_soon(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    day, now = 24 * 3600, 1_000_000
    monkeypatch.setattr(database, "now", lambda: now)

    def due() -> bool:
        return jobs.Job(database, "collect").take(day)

    whole = jobs.Job(database, "collect")
    assert whole.take(day)
    whole.end(done=True)
    now += day - 1
    assert not due()
    now += 1
    failed = jobs.Job(database, "collect")
    assert failed.take(day)
    failed.end(done=False)
    now += jobs.RETRY - 1
    assert not due()
    now += 1
    assert due()  # and is killed
    now += jobs.RETRY
    assert due()


def test_one_that_is_only_to_look_does_not_put_off_the_next(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dry run every half an hour, for two days."""
    now, begun = 1_000_000, 0
    monkeypatch.setattr(database, "now", lambda: now)
    for half_hour in range(96):
        dry = jobs.Job(database, "collect")
        assert dry.take(0, whole=False)
        dry.end(done=False)
        now += 900
        whole = jobs.Job(database, "collect")
        if whole.take(24 * 3600):
            begun += 1
            whole.end(done=True)
        now += 900
        assert begun == half_hour // 48 + 1


def until(what: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_collection_on_schedule_comes_though_others_were_asked_for(
    database: Database, store: DirectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector, "_LOOK", 0.01)
    settings = ServiceSettings(data_dir=tmp_path, collect_hours=1)
    one = collector.Collector(settings, database, store)
    one.begin(Collect(reconcile_only=True), 0)
    until(lambda: not one.last().running)
    assert (one.last().reconciled is not None, one.last().done) == (True, 0)
    one.start()
    until(lambda: one.last().done > 0 and not one.last().running)
    last = one.last()
    assert last.report is not None
    assert not last.report.dry_run
    one.begin(Collect(dry_run=True), 0)
    until(lambda: not one.last().running)
    assert one.last().done == last.done
    one.close()
