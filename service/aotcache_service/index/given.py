"""Many values given to one statement, as rows that it joins: JSON, which both databases take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import JSON, Subquery, Text, bindparam, column, func, select

# The limit is the count of what is given: PostgreSQL expects a hundred rows of any JSON, and would
# rather read a small table whole than look for as many.
GIVEN: Subquery = (
    select(
        func.json_each(bindparam("given", type_=JSON)).table_valued(
            column("key", Text), column("value", JSON), name="pairs"
        )
    )
    .limit(bindparam("count"))
    .subquery("given")
)


def given(values: Mapping[int, Any]) -> dict[str, Any]:
    """The parameters of a statement with GIVEN in it, whose rows are then (key as text, value)."""
    return {"given": values, "count": len(values)}
