"""What the index holds, in numbers."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable

from sqlalchemy import ColumnElement, func, select, true
from sqlalchemy.orm import InstrumentedAttribute, Session

from aotcache.protocol.v1.stats import MAX_MODELS, ModelStats, Stats

from .database import Database
from .drift import drift
from .models import OutcomeRow, PackRow, PartRow, QuarantineRow, TreeRow
from .operation import JobRow
from .withheld import replaced

log = logging.getLogger(__name__)

_KEPT = 100  # of how many sets of namespaces
_SECONDS = 60.0  # that a count is good for: it reads all rows


class Totals:
    """Counted when somebody asks, and then not for a while."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._found: dict[frozenset[str] | None, tuple[float, Stats]] = {}

    def of(self, namespaces: frozenset[str] | None, *, wait: bool = True) -> Stats:
        """None: of all. Who asks meanwhile waits for the same count; with `wait` false an older one
        does, which is then counted anew for who asks next."""
        until, found = self._found.get(namespaces, (0.0, None))
        if found is not None and time.monotonic() <= until:
            return found
        if found is None or wait:
            return self._counted(namespaces)
        if not self._lock.locked():
            threading.Thread(target=self._again, args=(namespaces,), daemon=True).start()
        return found

    def forget(self) -> None:
        """What was counted is not so any more."""
        self._found = {}

    def _again(self, namespaces: frozenset[str] | None) -> None:
        try:
            self._counted(namespaces)
        except Exception as error:
            log.debug("what the index holds is counted later: %s", error)

    def _counted(self, namespaces: frozenset[str] | None) -> Stats:
        with self._lock:
            until, found = self._found.get(namespaces, (0.0, None))
            now = time.monotonic()
            if found is None or now > until:
                with self._database.read() as db:
                    found = count(db, namespaces)
                kept = list(self._found.items())[-_KEPT:]
                self._found = {**dict(kept), namespaces: (now + _SECONDS, found)}
            return found


def count(db: Session, namespaces: Iterable[str] | None) -> Stats:
    wanted = None if namespaces is None else sorted(namespaces)

    def within(column: InstrumentedAttribute[str]) -> ColumnElement[bool]:
        return true() if wanted is None else column.in_(wanted)

    served = (TreeRow.hidden.is_(False), within(TreeRow.namespace))
    trees, pinned, lookups = db.execute(
        select(
            func.count(),
            func.count().filter(TreeRow.pinned),
            func.coalesce(func.sum(TreeRow.lookups), 0),
        ).where(*served)
    ).one()
    parts = select(func.count()).select_from(PartRow).join(TreeRow, TreeRow.id == PartRow.tree_id)
    quarantined = select(func.count()).select_from(QuarantineRow).where(~replaced())
    packs = db.execute(
        select(PackRow.state, func.count(), func.sum(PackRow.size))
        .where(within(PackRow.namespace))
        .group_by(PackRow.state)
    ).all()
    outcomes = db.execute(
        select(
            OutcomeRow.outcome,
            func.sum(OutcomeRow.count),
            func.sum(OutcomeRow.pull_seconds),
            func.sum(OutcomeRow.pulled_bytes),
            func.sum(OutcomeRow.saved_seconds),
        )
        .join(TreeRow, TreeRow.id == OutcomeRow.tree_id)
        .where(within(TreeRow.namespace))
        .group_by(OutcomeRow.outcome)
    ).all()
    return Stats(
        trees=trees,
        parts=db.scalar(parts.where(PartRow.newest, *served)) or 0,
        pinned=pinned,
        quarantined=db.scalar(quarantined.where(within(QuarantineRow.namespace))) or 0,
        packs={state: int(number) for state, number, _ in packs},
        pack_bytes={state: int(size) for state, _, size in packs},
        lookups=int(lookups),
        outcomes={name: int(number) for name, number, *_ in outcomes},
        pull_seconds=sum(float(seconds) for _, _, seconds, *_ in outcomes),
        pull_bytes=sum(int(size) for _, _, _, size, _ in outcomes),
        saved_seconds=sum(float(saved) for *_, saved in outcomes),
        finished={row.name: row.done for row in db.scalars(select(JobRow)) if row.done},
        models=_models(db, served),
        drift=drift(db, served),
    )


def _models(db: Session, served: Iterable[ColumnElement[bool]]) -> tuple[ModelStats, ...]:
    size = func.sum(TreeRow.stored_bytes)
    rows = db.execute(
        select(TreeRow.model, func.count(), size, func.sum(TreeRow.lookups))
        .where(*served)
        .group_by(TreeRow.model)
        .order_by(size.desc(), TreeRow.model)
        .limit(MAX_MODELS)
    )
    return tuple(
        ModelStats(model=model, trees=number, stored_bytes=int(stored), lookups=int(lookups))
        for model, number, stored, lookups in rows
    )
