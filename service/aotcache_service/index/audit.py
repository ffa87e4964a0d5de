"""What was changed by hand: when, by which token, and in what way."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from .database import Database
from .operation import AuditRow

log = logging.getLogger(__name__)

LONGEST = 2000  # characters
API, PAGES = "api", "pages"
BEGUN, DONE = "begun", "done"
_KEPT = 400 * 24 * 3600


def begin(db: Session, row: AuditRow) -> int:
    """Its id. Inside `Database.write`."""
    db.execute(delete(AuditRow).where(AuditRow.at < row.at - _KEPT))
    db.add(row)
    db.flush()
    return row.id


def end(database: Database, row: int, outcome: str) -> None:
    said = outcome[:LONGEST].replace("\0", " ")
    try:
        with database.write() as db:
            db.execute(update(AuditRow).where(AuditRow.id == row).values(outcome=said))
    except Exception as error:
        # It is done, or has failed for its own reason: that is what is answered.
        log.warning("how it ended is not noted: %s", error)


def listed(
    db: Session, namespaces: Iterable[str] | None, *, before: int = 0, limit: int
) -> Sequence[AuditRow]:
    """The last ones first; before: a row id, 0 for the end. namespaces: None for all."""
    query = select(AuditRow).order_by(AuditRow.id.desc()).limit(limit)
    if before:
        query = query.where(AuditRow.id < before)
    if namespaces is not None:
        query = query.where(AuditRow.namespace.in_(sorted(namespaces)))
    return db.scalars(query).all()
