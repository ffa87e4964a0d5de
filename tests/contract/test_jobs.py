"""Jobs that one replica at a time does. On both databases."""

from __future__ import annotations

import pytest

from aotcache.errors import BusyError
from aotcache_service.index.database import Database
from aotcache_service.ops import jobs


def test_one_at_a_time(database: Database) -> None:
    first, second = (jobs.Job(database, "collect") for _ in range(2))
    assert first.take(0)
    with pytest.raises(BusyError, match="wait for its end"):
        second.take(0)
    first.go_on()
    assert jobs.last(database, "collect")[0]
    first.report = {"deleted": 1}
    first.end(done=True)
    running, started, finished, report = jobs.last(database, "collect")
    assert (running, report) == (False, {"deleted": 1})
    assert finished >= started > 0
    # On schedule it is not due yet; asked for, it is.
    assert not second.take(3600)
    assert second.take(0)
    assert jobs.last(database, "collect")[3] == {}
    # Whoever lost its turn notices, and does not end somebody else's.
    with pytest.raises(BusyError, match="goes on elsewhere"):
        first.go_on()
    first.end(done=True)
    assert jobs.last(database, "collect")[0]


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
