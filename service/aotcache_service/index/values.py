"""Which values a column of the trees has: from its index, a step a value, however many trees there
are."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from .models import TreeRow

MAX_VALUES = 500


def values_of(db: Session, column: InstrumentedAttribute[str]) -> list[str]:
    """At most MAX_VALUES, the first ones as they sort; without the empty one."""
    step = select(func.min(column).label("value")).where(column > "").cte("steps", recursive=True)
    following = select(func.min(column)).where(column > step.c.value).scalar_subquery()
    step = step.union_all(select(following).where(step.c.value.is_not(None)))
    found = select(step.c.value).where(step.c.value.is_not(None)).limit(MAX_VALUES)
    return list(db.scalars(found))


def models_with(db: Session, text: str) -> list[str]:
    """Models whose name holds this text, in whatever case."""
    wanted = text.lower()
    return [model for model in values_of(db, TreeRow.model) if wanted in model.lower()]
