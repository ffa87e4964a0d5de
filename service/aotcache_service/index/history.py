"""What happened, hour by hour, for charts.

hit, miss.{reason}        lookups by hash and by recipe
outcome.{outcome}         what engines did with pulled parts
saved_seconds             of compiling, less those of the pulls
pulled_bytes, published_bytes
stored_bytes              of all packs, once an hour
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TypeAlias

from sqlalchemy import delete, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from aotcache.protocol.v1.outcomes import Outcome

from .database import Database
from .models import PackRow
from .operation import HistoryRow

HOUR = 3600
HIT, MISS, OUTCOME = "hit", "miss.", "outcome."
SAVED, PULLED, PUBLISHED, STORED = (
    "saved_seconds",
    "pulled_bytes",
    "published_bytes",
    "stored_bytes",
)
_KEPT = 90 * 24 * HOUR

Place: TypeAlias = tuple[str, int, str]  # namespace, hour, what


def place(namespace: str, what: str, now: int) -> Place:
    return namespace, now - now % HOUR, what


def add(db: Session, amounts: Mapping[Place, float], *, instead: bool = False) -> None:
    """Inside `Database.write`. instead: of what is there, not to it."""
    if not amounts:
        return
    rows = [
        {"namespace": namespace, "hour": hour, "what": what, "value": float(value)}
        for (namespace, hour, what), value in amounts.items()
    ]
    insert = sqlite.insert if db.get_bind().dialect.name == "sqlite" else postgresql.insert
    statement = insert(HistoryRow)
    new = statement.excluded.value
    statement = statement.on_conflict_do_update(
        index_elements=["namespace", "hour", "what"],
        set_={"value": new if instead else HistoryRow.value + new},
    )
    db.execute(statement, rows)


def of_outcome(said: Outcome, saved: float, now: int) -> dict[Place, float]:
    """What it adds. saved: seconds."""
    amounts = {OUTCOME + said.outcome: 1.0, PULLED: float(said.bytes), SAVED: saved}
    return {place(said.namespace, what, now): value for what, value in amounts.items() if value}


def sample(database: Database, now: int) -> None:
    """What is stored this hour. Forgets what is too old."""
    hour = now - now % HOUR
    query = select(PackRow.namespace, func.sum(PackRow.size).label("size"))
    query = query.group_by(PackRow.namespace)
    before = select(HistoryRow.namespace).where(HistoryRow.what == STORED).distinct()
    with database.read() as db:
        # Where nothing is left, too.
        sizes = dict.fromkeys(db.scalars(before), 0)
        sizes |= {row.namespace: row.size for row in db.execute(query)}
    with database.write() as db:
        db.execute(delete(HistoryRow).where(HistoryRow.hour < now - _KEPT))
        add(db, {(name, hour, STORED): float(size) for name, size in sizes.items()}, instead=True)


def read(db: Session, namespaces: Iterable[str] | None, since: int) -> dict[str, dict[int, float]]:
    """By what, values by hour. namespaces: None for all."""
    query = select(HistoryRow.what, HistoryRow.hour, func.sum(HistoryRow.value))
    query = query.where(HistoryRow.hour >= since).group_by(HistoryRow.what, HistoryRow.hour)
    if namespaces is not None:
        query = query.where(HistoryRow.namespace.in_(sorted(namespaces)))
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for what, hour, value in db.execute(query):
        found[what][hour] = value
    return dict(found)
