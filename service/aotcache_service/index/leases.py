"""Leases: who compiles a part that is not stored, so that others need not."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import delete, func, or_, select
from sqlalchemy.engine import CursorResult
from sqlalchemy.orm import Session

from aotcache.protocol.names import SHARED, TreeKey
from aotcache.protocol.recipe import Recipe
from aotcache.protocol.v1.leases import AskLease, EndLease

from .database import Database
from .lookup import acceptable
from .models import RecipeRow, TreeRow, recipe_trees
from .operation import LeaseRow

# hash, namespace, layout, platform, part: LeaseRow's primary key.
Name = tuple[str, str, str, str, str]

_KEY = (
    LeaseRow.hash,
    LeaseRow.namespace,
    LeaseRow.layout,
    LeaseRow.platform_id,
    LeaseRow.part,
)


@dataclass(frozen=True, slots=True)
class Held:
    """new: it has just been given to who asks, mine: by this or an earlier call."""

    node: str
    elapsed: float
    compile_seconds: float | None
    mine: bool
    new: bool = False


def name_of(asked: AskLease | EndLease) -> Name:
    about = asked.lookup
    platform = acceptable(about.platform)[0]
    return about.hash, about.namespace, about.layout, platform, asked.part


def ask_all(
    database: Database, asked: Sequence[AskLease], seconds: int
) -> list[Held | Exception | None]:
    """Who holds each of these leases: whoever asks, where nobody did and it has a holder. None:
    nobody. What others hold is read only; the rest is one transaction, in the order asked."""
    answers: dict[int, Held | None] = {}
    with database.read() as db:
        now = database.time()
        rows = {_name(row): row for row in _live(db, asked, now)}
        for number, one in enumerate(asked):
            row = rows.get(name_of(one))
            if row is not None and row.holder != one.holder:
                answers[number] = _held(row, one, now)
            elif not one.holder:
                answers[number] = None
    if len(answers) < len(asked):
        with database.write() as db:
            now = database.time()
            db.execute(delete(LeaseRow).where(LeaseRow.expires <= now))
            for number, one in enumerate(asked):
                if number not in answers:
                    answers[number] = _take(db, one, now, seconds)
    return [answers[number] for number in range(len(asked))]


def _take(db: Session, asked: AskLease, now: float, seconds: int) -> Held:
    name = name_of(asked)
    row = db.get(LeaseRow, name)
    if row is not None:
        if row.holder == asked.holder:
            row.expires = now + seconds
        return _held(row, asked, now)
    row = LeaseRow(
        **dict(zip((column.key for column in _KEY), name, strict=True)),
        any_cpu=acceptable(asked.lookup.platform)[1],
        holder=asked.holder,
        node=asked.node,
        started=now,
        expires=now + seconds,
        compile_seconds=compile_seconds(db, asked.lookup.namespace, asked.recipe),
    )
    db.add(row)
    db.flush()
    return _held(row, asked, now, new=True)


def _held(row: LeaseRow, asked: AskLease, now: float, *, new: bool = False) -> Held:
    return Held(
        node=row.node,
        elapsed=max(0.0, now - row.started),
        compile_seconds=row.compile_seconds,
        mine=row.holder == asked.holder,
        new=new,
    )


def _live(db: Session, asked: Sequence[AskLease], now: float) -> Sequence[LeaseRow]:
    hashes = {one.lookup.hash for one in asked}
    return db.scalars(
        select(LeaseRow).where(LeaseRow.hash.in_(hashes), LeaseRow.expires > now)
    ).all()


def held(database: Database) -> set[Name]:
    """All that are."""
    with database.read() as db:
        rows = db.execute(select(*_KEY).where(LeaseRow.expires > database.time()))
        return {(row[0], row[1], row[2], row[3], row[4]) for row in rows}


def end(database: Database, asked: EndLease) -> bool:
    """Whether it was held by this holder."""
    mine = [column == value for column, value in zip(_KEY, name_of(asked), strict=True)]
    with database.write() as db:
        done = db.execute(delete(LeaseRow).where(*mine, LeaseRow.holder == asked.holder))
        assert isinstance(done, CursorResult)
        return done.rowcount > 0


def end_published(db: Session, tree: TreeKey, parts: Collection[str]) -> None:
    """Nobody need wait any more for a part that is stored, once what all share is stored as well:
    without that it cannot be pulled. parts: of the tree that are stored now."""
    if SHARED not in parts:
        return
    db.execute(
        delete(LeaseRow).where(
            LeaseRow.hash == tree.hash,
            LeaseRow.namespace == tree.namespace,
            LeaseRow.layout == tree.layout,
            LeaseRow.part.in_(parts),
            or_(LeaseRow.platform_id == tree.platform, LeaseRow.any_cpu == tree.platform),
        )
    )


def compile_seconds(db: Session, namespace: str, recipe: Recipe | None) -> float | None:
    """What compiling took a start of this recipe or, where there was none, the last one of its
    engine and model: the longest of its trees. None: that is not known."""
    if recipe is None or not recipe.model:
        return None
    alike = select(RecipeRow.id).where(
        RecipeRow.namespace == namespace,
        RecipeRow.engine == recipe.engine,
        RecipeRow.model == recipe.model,
    )
    last = alike.order_by(RecipeRow.published.desc(), RecipeRow.id.desc()).limit(1)
    for recipes in (alike.where(RecipeRow.name == recipe.id), last):
        seconds = db.scalar(
            select(func.max(TreeRow.compile_seconds))
            .join(recipe_trees, recipe_trees.c.tree_id == TreeRow.id)
            .where(recipe_trees.c.recipe_id.in_(recipes), TreeRow.hidden.is_(False))
        )
        if seconds is not None:
            return float(seconds)
    return None


def _name(row: LeaseRow) -> Name:
    return row.hash, row.namespace, row.layout, row.platform_id, row.part
