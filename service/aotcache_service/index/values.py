"""Which values the columns of the trees have, for somebody to choose from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from sqlalchemy import func, literal, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from aotcache.protocol.v1.trees import VALUES

from .given import GIVEN, given
from .listing import Filter, limited
from .models import RecipeRow, TreeRow

MAX_VALUES = 500
_LAST = 2000  # trees


@dataclass(frozen=True, slots=True)
class Values:
    """As they sort, without the empty one. cut: there may be more than these."""

    found: list[str]
    cut: bool


def choices(db: Session, namespaces: frozenset[str] | None) -> dict[str, Values]:
    """By column, at most MAX_VALUES of each. namespaces: None for all, by a column's index, a step
    a value, however many trees there are; of some, those of their last trees."""
    if namespaces is None:
        return {name: _first(_every(db, getattr(TreeRow, name))) for name in VALUES}
    columns = [getattr(TreeRow, name) for name in VALUES]
    wanted = Filter(namespaces=namespaces)
    apart = wanted.apart() or [wanted]
    each = _LAST // len(apart)
    rows = db.execute(
        limited(
            select(literal(turn).label("turn"), *columns)
            .where(*one.conditions(hidden=True))
            .order_by(TreeRow.created.desc(), TreeRow.id.desc())
            .limit(each)
            for turn, one in enumerate(apart)
        )
    ).all()
    cut = each in Counter(row.turn for row in rows).values()
    return {
        name: _first(sorted({getattr(row, name) for row in rows} - {""}), cut=cut)
        for name in VALUES
    }


def _every(db: Session, column: InstrumentedAttribute[str]) -> list[str]:
    step = select(func.min(column).label("value")).where(column > "").cte("steps", recursive=True)
    following = select(func.min(column)).where(column > step.c.value).scalar_subquery()
    step = step.union_all(select(following).where(step.c.value.is_not(None)))
    found = select(step.c.value).where(step.c.value.is_not(None)).limit(MAX_VALUES + 1)
    return list(db.scalars(found))


def platforms_of(db: Session, ids: Collection[str]) -> dict[str, dict[str, str]]:
    """The fields of each of these platforms, by its id."""
    one = GIVEN.c.value[0].as_string()
    # A range of one in an order, so that PostgreSQL goes by the index: of few values it expects to
    # find each soon without, and reads all trees for one that no tree has.
    of_one = select(TreeRow.platform).where(TreeRow.platform_id >= one, TreeRow.platform_id <= one)
    fields = of_one.order_by(TreeRow.platform_id).limit(1).scalar_subquery()
    rows = db.execute(
        select(one, fields), given({number: [name] for number, name in enumerate(ids)})
    )
    return {name: platform for name, platform in rows if platform}


def models_with(db: Session, text: str, namespaces: Iterable[str] | None) -> Values:
    """Models whose name holds this text, in whatever case. From the index of recipes: each tree has
    its model from there."""
    holds = RecipeRow.model.icontains(text, autoescape=True)
    query = select(RecipeRow.model).where(holds).distinct().order_by(RecipeRow.model)
    if namespaces is not None:
        query = query.where(RecipeRow.namespace.in_(sorted(namespaces)))
    return _first(list(db.scalars(query.limit(MAX_VALUES + 1))))


def _first(values: list[str], *, cut: bool = False) -> Values:
    return Values(values[:MAX_VALUES], cut or len(values) > MAX_VALUES)
