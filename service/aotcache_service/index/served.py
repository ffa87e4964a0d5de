"""Trees with the parts that are served, by the shortest way out of the database.

All rows of an answer come as one text of JSON: the database makes it without the interpreter's
lock, which every row by itself would take and give back, and msgspec decodes it several times
faster than rows are made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import msgspec
from sqlalchemy import Integer, Text, and_, cast, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from .given import GIVEN, given
from .models import PartRow, TreeRow

# namespace, layout, hash, and the two platform ids that may answer, which may be the same
Key: TypeAlias = tuple[str, str, str, str, str]


class Served(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The newest generation of a part, and its tree.

    expected_parts, signers, trees: JSON as it is stored; most have one of a few texts. question:
    the number of the key that the tree was asked for by.
    """

    id: int
    namespace: str
    layout: str
    hash: str
    platform_id: str
    expected_parts: str
    compile_seconds: float | None
    part: str
    generation: int
    manifest: str
    files: int
    raw_bytes: int
    stored_bytes: int
    signers: str
    trees: str
    question: int


_decoder = msgspec.json.Decoder(list[Served])


class _Rows(FunctionElement[str]):
    """One text for all rows: an array of arrays of these columns, null for no rows."""

    inherit_cache = True
    type = Text()


@compiles(_Rows, "sqlite")
def _in_sqlite(rows: _Rows, compiler: SQLCompiler, **how: Any) -> str:
    return f"json_group_array(json_array({compiler.process(rows.clauses, **how)}))"


@compiles(_Rows, "postgresql")
def _in_postgresql(rows: _Rows, compiler: SQLCompiler, **how: Any) -> str:
    return f"CAST(json_agg(json_build_array({compiler.process(rows.clauses, **how)})) AS TEXT)"


_tree, _part = TreeRow.__table__.c, PartRow.__table__.c
# Of a Key, given by its number.
_field = [GIVEN.c.value[place].as_string() for place in range(5)]
# Each use of it is one look into the unique index of trees, and one into that of parts.
_OF_KEYS = (
    select(
        _Rows(
            _tree.id,
            _tree.namespace,
            _tree.layout,
            _tree.hash,
            _tree.platform_id,
            cast(_tree.expected_parts, Text),
            _tree.compile_seconds,
            _part.part,
            _part.generation,
            _part.manifest,
            _part.files,
            _part.raw_bytes,
            _part.stored_bytes,
            cast(_part.signers, Text),
            cast(_part.trees, Text),
            cast(GIVEN.c.key, Integer),
        )
    )
    .join_from(
        GIVEN,
        TreeRow.__table__,
        and_(
            _tree.namespace == _field[0],
            _tree.layout == _field[1],
            _tree.hash == _field[2],
            _tree.platform_id.in_(_field[3:]),
            _tree.hidden.is_(False),
        ),
    )
    # A tree without a part is not served.
    .join(PartRow.__table__, and_(_part.tree_id == _tree.id, _part.newest))
)


def served(db: Session, keys: Sequence[Key]) -> list[list[Served]]:
    """For each key, the rows of all trees that it fits."""
    found: list[list[Served]] = [[] for _ in keys]
    text = db.connection().scalar(_OF_KEYS, given(dict(enumerate(keys))))
    for row in _decoder.decode(text or "[]"):
        found[row.question].append(row)
    return found
