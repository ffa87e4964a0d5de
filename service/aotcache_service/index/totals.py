"""What the index holds, in numbers."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import ColumnElement, func, select, true
from sqlalchemy.orm import InstrumentedAttribute, Session

from aotcache.protocol.v1.stats import DAYS, MAX_MODELS, ModelStats, Stats

from . import history
from .database import Database
from .drift import drift
from .kept import Kept, Namespaces
from .models import OutcomeRow, PackRow, PartRow, QuarantineRow, TreeRow
from .operation import JobRow
from .withheld import replaced


class Totals(Kept[Stats]):
    def __init__(self, database: Database) -> None:
        def counted(namespaces: Namespaces) -> Stats:
            with database.read() as db:
                return count(db, namespaces, database.now())

        super().__init__(counted)


def count(db: Session, namespaces: Iterable[str] | None, now: int = 0) -> Stats:
    """Reads all rows."""
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
    told = history.read(db, wanted, now - DAYS * 24 * history.HOUR)
    looked_up = {what: int(sum(hours.values())) for what, hours in told.items()}
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
        counted=now,
        found=looked_up.get(history.HIT, 0),
        missed={
            what.removeprefix(history.MISS): number
            for what, number in sorted(looked_up.items())
            if what.startswith(history.MISS)
        },
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
