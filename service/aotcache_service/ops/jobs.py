"""Jobs that one replica at a time does. A holder that dies is followed after minutes."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from sqlalchemy import update
from sqlalchemy.engine import CursorResult

from aotcache.errors import BusyError

from ..index.database import Database
from ..index.operation import JobRow

TURN = 600  # seconds that a holder has for its next step
RETRY = 3600  # seconds after which one that did not do all of it is tried again


class Last(NamedTuple):
    """The last one: whether it is under way; when it began and ended, and what it reported. done:
    when the last one that did all of it ended. Times are 0 for never."""

    running: bool
    started: int
    finished: int
    done: int
    report: dict[str, Any]


class Job:
    """A turn at a job: `take` it, `go_on` between steps, `end`. report: what is told of it then."""

    def __init__(self, database: Database, name: str) -> None:
        self.report: dict[str, Any] = {}
        self._database = database
        self._name = name
        self._holder = os.urandom(8).hex()

    def take(self, every: int, *, whole: bool = True) -> bool:
        """every: seconds. False where the last one that did all of it ended less than that ago, or
        the last one that was to began just now. whole: this one is to do all of it. Raises
        BusyError while somebody has it."""
        with self._database.write() as db:
            now = self._database.now()
            row = db.get(JobRow, self._name)
            if row is None:
                never = {"until": 0, "started": 0, "finished": 0, "done": 0, "tried": 0}
                row = JobRow(name=self._name, holder="", **never)
                db.add(row)
            if row.until > now:
                raise BusyError(
                    f"{self._name} is under way since {now - row.started} s: wait for its end"
                )
            retry = min(RETRY, every)
            if every and (row.done + every > now or row.tried + retry > now):
                return False
            row.holder, row.until, row.started = self._holder, now + TURN, now
            row.tried = now if whole else row.tried
            row.report = {}  # the last one's is not this one's
        return True

    def go_on(self) -> None:
        """To be called between steps. Raises BusyError where one took too long and somebody else
        has the turn now."""
        if not self._set(until=self._database.now() + TURN):
            raise BusyError(f"{self._name} goes on elsewhere: this one took too long for a step")

    def end(self, *, done: bool) -> None:
        """done: all of it."""
        now = self._database.now()
        values: dict[str, Any] = {"until": 0, "finished": now, "report": self.report}
        self._set(**values, **({"done": now} if done else {}))

    def _set(self, **values: Any) -> bool:
        mine = update(JobRow).where(JobRow.name == self._name, JobRow.holder == self._holder)
        with self._database.write() as db:
            done = db.execute(mine.values(**values))
            assert isinstance(done, CursorResult)
            return done.rowcount == 1


def last(database: Database, name: str) -> Last:
    with database.read() as db:
        row = db.get(JobRow, name)
    if row is None:
        return Last(running=False, started=0, finished=0, done=0, report={})
    running = row.until > database.now()
    return Last(running, row.started, row.finished, row.done, row.report)
