"""Which values a column of the trees has: from its index, a step a value, however many trees there
are."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from .models import TreeRow

MAX_VALUES = 500
_LAST = 2000  # trees


def values_of(
    db: Session, column: InstrumentedAttribute[str], namespaces: Iterable[str] | None
) -> list[str]:
    """At most MAX_VALUES, the first ones as they sort; without the empty one. namespaces: None for
    all; of some, those of their last trees."""
    if namespaces is not None:
        query = select(column.label("value")).where(TreeRow.namespace.in_(sorted(namespaces)))
        last = query.order_by(TreeRow.created.desc(), TreeRow.id.desc()).limit(_LAST).subquery()
        values = select(last.c.value).distinct().where(last.c.value > "")
        return list(db.scalars(values.order_by(last.c.value).limit(MAX_VALUES)))
    step = select(func.min(column).label("value")).where(column > "").cte("steps", recursive=True)
    following = select(func.min(column)).where(column > step.c.value).scalar_subquery()
    step = step.union_all(select(following).where(step.c.value.is_not(None)))
    found = select(step.c.value).where(step.c.value.is_not(None)).limit(MAX_VALUES)
    return list(db.scalars(found))


def models_with(db: Session, text: str, namespaces: Iterable[str] | None) -> list[str]:
    """Models whose name holds this text, in whatever case; also the one that is called so."""
    wanted = text.lower()
    models = values_of(db, TreeRow.model, namespaces)
    found = [model for model in models if wanted in model.lower()]
    if namespaces is not None and text not in found:
        called = (TreeRow.model == text, TreeRow.namespace.in_(sorted(namespaces)))
        found += db.scalars(select(TreeRow.model).where(*called).limit(1)).all()
    return found
