"""Counts lookups in memory and writes them now and then: a lookup itself only reads."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterable

from sqlalchemy import BigInteger, case, cast, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from aotcache.errors import UnavailableError

from . import history
from .database import Database
from .given import GIVEN, given
from .models import TreeRow

log = logging.getLogger(__name__)

# Of [count, last], given by tree.
_count, _last = (cast(GIVEN.c.value[place].as_string(), BigInteger) for place in range(2))
# One step for the database: with a step a tree, this thread would wait for the interpreter's lock
# at each, and hold up lookups as often.
_COUNT = (
    update(TreeRow)
    .where(TreeRow.id == cast(GIVEN.c.key, BigInteger))
    .values(
        lookups=TreeRow.lookups + _count,
        used=case((TreeRow.used < _last, _last), else_=TreeRow.used),
    )
)


_MANY = 1000


class UsageCounter:
    """What lookups found, by tree and by hour. A process that is killed forgets the counts of the
    last seconds: no great loss.

    interval: seconds between two writes. Of many trees they are written only every sixth time:
    lookups take longer meanwhile, and a tree that is asked for all the time costs one row a write.
    """

    def __init__(self, database: Database, interval: float = 5.0) -> None:
        self._database = database
        self._interval = interval
        self._lock = threading.Lock()
        self._counts: dict[int, tuple[int, int]] = {}
        self._hours: Counter[history.Place] = Counter()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="usage", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Write what is left and end the thread."""
        self._stop.set()
        self._thread.join()
        self.flush()

    def record(self, trees: Iterable[int], now: int) -> None:
        with self._lock:
            for tree in trees:
                count, used = self._counts.get(tree, (0, 0))
                self._counts[tree] = (count + 1, max(used, now))

    def note(self, namespace: str, what: str, now: int) -> None:
        """For the history."""
        with self._lock:
            self._hours[history.place(namespace, what, now)] += 1

    def flush(self) -> None:
        """Write the counts; keep them for the next time while the database is busy."""
        with self._lock:
            counts, self._counts = self._counts, {}
            hours, self._hours = self._hours, Counter()
        if not counts and not hours:
            return
        try:
            with self._database.write() as db:
                if counts:
                    db.connection().execute(_COUNT, given(counts))
                history.add(db, hours)
        except (OperationalError, PoolTimeoutError, UnavailableError) as error:
            log.debug("lookups of %d trees are counted later: %s", len(counts), error)
            with self._lock:
                self._hours.update(hours)
                for tree, (count, used) in counts.items():
                    newer, last = self._counts.get(tree, (0, 0))
                    self._counts[tree] = (count + newer, max(used, last))
        except Exception:
            # Tried again they would fail again: counting goes on without them.
            log.exception("lookups of %d trees are not counted", len(counts))

    def _run(self) -> None:
        turn = sampled = 0
        while True:
            now = self._database.now()
            if now // history.HOUR != sampled:
                sampled = now // history.HOUR
                self._sample(now)
            if self._stop.wait(self._interval):
                return
            turn += 1
            if len(self._counts) < _MANY or turn % 6 == 0:
                self.flush()

    def _sample(self, now: int) -> None:
        try:
            history.sample(self._database, now)
            self._database.analyze()
        except Exception as error:
            log.warning("what is stored this hour is not noted: %s", error)
