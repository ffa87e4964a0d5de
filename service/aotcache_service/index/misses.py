"""Misses that nodes told of: one row for a node and a hash, of the last days."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict

from sqlalchemy import ColumnElement, delete, func, select, tuple_
from sqlalchemy.orm import Session, aliased

from aotcache.protocol.platform import Difference
from aotcache.protocol.v1.explain import (
    MAX_GROUPS,
    MAX_NODES,
    Explain,
    Explanation,
    Misses,
    MissGroup,
)

from .database import Database
from .kept import Kept, Namespaces
from .operation import MissRow

_KEPT = 7 * 24 * 3600
MAX_ROWS = 20_000  # of a namespace: those told of first go
_VALUE = 300  # characters


def record(db: Session, asked: Explain, said: Explanation, now: int) -> None:
    """Inside `Database.write`. Forgets what is too old."""
    name = (asked.namespace, asked.layout, asked.hash, asked.platform.id, asked.node)
    row = db.get(MissRow, name)
    if row is None:
        _make_room(db, asked.namespace, now)
        keys = ("namespace", "layout", "hash", "platform_id", "node")
        row = MissRow(**dict(zip(keys, name, strict=True)), count=0)
        db.add(row)
    row.count += 1
    row.last = now
    row.reason, row.cause = said.reason, said.cause[:_VALUE]
    row.model = asked.recipe.model[:_VALUE] if asked.recipe else ""
    near = said.nearest
    row.nearest = (
        {}
        if near is None
        else {"layout": near.layout, "hash": near.hash, "platform": near.platform}
    )
    row.differences = [
        {field: str(value)[:_VALUE] for field, value in asdict(one).items()}
        for kind in (
            (near.platform_differences, near.recipe_differences, near.factor_differences)
            if near is not None
            else ()
        )
        for one in kind[:10]
    ]


def _make_room(db: Session, namespace: str, now: int) -> None:
    db.execute(delete(MissRow).where(MissRow.last < now - _KEPT))
    same = MissRow.namespace == namespace
    over = (db.scalar(select(func.count()).where(same)) or 0) - MAX_ROWS
    if over >= 0:
        # A tenth at once: the next ones need not count that far again.
        order = select(MissRow.last).where(same).order_by(MissRow.last)
        before = db.scalar(order.offset(over + MAX_ROWS // 10).limit(1))
        db.execute(delete(MissRow).where(same, MissRow.last <= before))


class MissGroups(Kept[Misses]):
    def __init__(self, database: Database) -> None:
        def counted(namespaces: Namespaces) -> Misses:
            with database.read() as db:
                return groups(db, namespaces, database.now())

        super().__init__(counted)


def groups(db: Session, namespaces: Iterable[str] | None, now: int) -> Misses:
    """namespaces: None for all. Reads all rows."""
    # Hardly a row is older: SQLite would sort them all by why, to leave out those few.
    recent = [MissRow.last + 0 >= now - _KEPT]
    if namespaces is not None:
        recent.append(MissRow.namespace.in_(sorted(namespaces)))
    nodes, last = func.count(MissRow.node.distinct()), func.max(MissRow.last)
    of_one = (MissRow.reason, MissRow.cause)
    found = db.execute(
        select(*of_one, nodes.label("nodes"), func.sum(MissRow.count).label("misses"))
        .where(*recent)
        .group_by(*of_one)
        .order_by(nodes.desc(), last.desc())
        .limit(MAX_GROUPS)
    ).all()
    rows = _last_rows(db, recent, [(row.reason, row.cause) for row in found])
    return Misses(
        groups=tuple(
            _group(row.nodes, int(row.misses), rows[row.reason, row.cause]) for row in found
        )
    )


def _last_rows(
    db: Session, recent: Iterable[ColumnElement[bool]], groups: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], list[MissRow]]:
    """The last MAX_NODES of each group, the last one first."""
    of_one = (MissRow.reason, MissRow.cause)
    order = (MissRow.last.desc(), MissRow.node, MissRow.hash)
    place = func.row_number().over(partition_by=of_one, order_by=order).label("place")
    ranked = select(MissRow, place).where(*recent, tuple_(*of_one).in_(groups)).subquery()
    one = aliased(MissRow, ranked)
    found: dict[tuple[str, str], list[MissRow]] = {}
    query = select(one).where(ranked.c.place <= MAX_NODES).order_by(ranked.c.place)
    for row in db.scalars(query):
        found.setdefault((row.reason, row.cause), []).append(row)
    return found


def _group(nodes: int, misses: int, rows: Sequence[MissRow]) -> MissGroup:
    one = rows[0]
    return MissGroup(
        reason=one.reason,
        cause=one.cause,
        nodes=nodes,
        misses=misses,
        last=one.last,
        node=one.node,
        hash=one.hash,
        model=one.model,
        differences=tuple(Difference(**each) for each in one.differences),
        namespace=one.namespace,
        nearest=one.nearest,
        some_nodes=tuple(dict.fromkeys(each.node for each in rows)),
    )
