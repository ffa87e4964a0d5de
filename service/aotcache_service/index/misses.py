"""Misses that nodes told of: one row for a node and a hash, of the last days."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from aotcache.protocol.platform import Difference
from aotcache.protocol.v1.explain import (
    MAX_GROUPS,
    MAX_NODES,
    Explain,
    Explanation,
    Misses,
    MissGroup,
)

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
    row.reason, row.cause = said.reason, said.cause
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


def groups(
    db: Session, namespaces: Iterable[str] | None, now: int, limit: int = MAX_GROUPS
) -> Misses:
    """namespaces: None for all."""
    recent = [MissRow.last >= now - _KEPT]
    if namespaces is not None:
        recent.append(MissRow.namespace.in_(sorted(namespaces)))
    nodes = func.count(MissRow.node.distinct())
    found = db.execute(
        select(
            MissRow.reason, MissRow.cause, nodes, func.sum(MissRow.count), func.max(MissRow.last)
        )
        .where(*recent)
        .group_by(MissRow.reason, MissRow.cause)
        .order_by(nodes.desc(), func.max(MissRow.last).desc())
        .limit(limit)
    ).all()
    out = []
    for reason, cause, count, misses, at in found:
        last = db.scalars(
            select(MissRow)
            .where(*recent, MissRow.reason == reason, MissRow.cause == cause)
            .order_by(MissRow.last.desc())
            .limit(MAX_NODES)
        ).all()
        one = last[0]
        out.append(
            MissGroup(
                reason=reason,
                cause=cause,
                nodes=count,
                misses=int(misses),
                last=at,
                node=one.node,
                hash=one.hash,
                model=one.model,
                differences=tuple(Difference(**each) for each in one.differences),
                namespace=one.namespace,
                nearest=one.nearest,
                some_nodes=tuple(dict.fromkeys(each.node for each in last)),
            )
        )
    return Misses(groups=tuple(out))
