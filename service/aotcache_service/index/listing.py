"""Lists of trees with filter, sort and cursor, and everything about the trees of one hash."""

from __future__ import annotations

import base64
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import ColumnElement, Select, func, literal_column, select, tuple_, union_all
from sqlalchemy.orm import Session

from aotcache.errors import NotFoundError, UsageError
from aotcache.protocol.v1.trees import (
    MAX_LIMIT,
    SORTS,
    VALUES,
    TreeDetail,
    TreeDetails,
    TreePage,
)

from .models import FLAGS, OutcomeRow, PartRow, QuarantineRow, RecipeRow, TreeRow
from .rows import quarantined_part, stored_generation, stored_part, summary

ORDERS = ("asc", "desc")
_MAX_INT = 1 << 63
_APART = 100  # namespaces that are asked for one by one
_FEW = 2000  # trees that are read and sorted as fast as a page of a common value is found


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Empty: any. hash: a prefix. The rest is compared whole. namespaces, models: None for all.
    pinned, quarantined: only what is."""

    namespaces: frozenset[str] | None = None
    layout: str = ""
    hash: str = ""
    platform_id: str = ""
    engine: str = ""
    model: str = ""
    models: tuple[str, ...] | None = None
    publisher: str = ""
    pinned: bool = False
    quarantined: bool = False

    def values(self) -> dict[str, str]:
        """Those that are asked for, by column."""
        return {name: value for name in VALUES if (value := getattr(self, name))}

    def apart(self) -> list[Filter]:
        """The same for each namespace; empty for one, for all, and for very many."""
        names = sorted(self.namespaces or ())
        some = 1 < len(names) <= _APART
        return [replace(self, namespaces=frozenset((name,))) for name in names] if some else []

    def conditions(
        self, *, hidden: bool = False, unindexed: Iterable[str] = ()
    ) -> list[ColumnElement[bool]]:
        """hidden: those that are not served too. unindexed: columns whose indexes are not to
        serve."""
        found: list[ColumnElement[bool]] = []
        if not hidden:
            # All of a tree may be quarantined: it is stored, and shown.
            found.append(TreeRow.hidden.is_(False) | TreeRow.quarantined)
        for name, value in self.values().items():
            column = getattr(TreeRow, name)
            found.append((column + "" if name in unindexed else column) == value)
        # As their partial indexes are written: SQLite uses none for `pinned = 1`.
        found += [literal_column(f"trees.{flag}") for flag in FLAGS if getattr(self, flag)]
        if self.models is not None:
            found.append(TreeRow.model.in_(self.models))
        if self.namespaces is not None:
            found.append(TreeRow.namespace.in_(sorted(self.namespaces)))
        if self.hash:
            # A range, so that the index serves it; hashes are ASCII, `~` follows all of it.
            found += [TreeRow.hash >= self.hash, TreeRow.hash < self.hash + "~"]
        return found


def list_trees(
    db: Session,
    wanted: Filter,
    *,
    sort: str = "created",
    order: str = "desc",
    cursor: str = "",
    limit: int = 100,
) -> TreePage:
    """One page. Raises UsageError for a sort, order, limit or cursor that is none."""
    if sort not in SORTS or order not in ORDERS:
        raise UsageError(f"sort is one of {', '.join(SORTS)}; order is asc or desc")
    if not 1 <= limit <= MAX_LIMIT:
        raise UsageError(f"limit is 1 to {MAX_LIMIT}, not {limit}")
    column = getattr(TreeRow, sort)
    unindexed = _unindexed(db, wanted, sort)
    row = (column.desc(), TreeRow.id.desc()) if order == "desc" else (column, TreeRow.id)

    def first(query: Any, wanted: Filter) -> Any:
        query = query.where(*wanted.conditions(unindexed=unindexed))
        if cursor:
            after = tuple_(*_decode_cursor(cursor, sort, order))
            place = tuple_(column, TreeRow.id)
            query = query.where(place < after if order == "desc" else place > after)
        return query.order_by(*row).limit(limit + 1)

    query = select(TreeRow, RecipeRow).outerjoin(RecipeRow, RecipeRow.id == TreeRow.recipe_id)
    if apart := wanted.apart():
        # An index has the order of one namespace: SQLite would sort all trees of several.
        found = limited(first(select(TreeRow.id), one) for one in apart)
        query = query.where(TreeRow.id.in_(found)).order_by(*row).limit(limit + 1)
    else:
        query = first(query, wanted)
    rows = db.execute(query).all()
    page = rows[:limit]
    outcomes = _outcomes(db, [tree.id for tree, _ in page])
    trees = tuple(summary(tree, recipe, outcomes.get(tree.id, {})) for tree, recipe in page)
    if len(rows) <= limit:
        return TreePage(trees=trees)
    last = page[-1][0]
    return TreePage(trees=trees, cursor=_encode_cursor(sort, order, getattr(last, sort), last.id))


def limited(queries: Iterable[Select[Any]]) -> Select[Any]:
    """The rows of all of them, each of which has its own limit."""
    return select(union_all(*(select(one.subquery()) for one in queries)).subquery())


def _unindexed(db: Session, wanted: Filter, sort: str) -> list[str]:
    """Which columns' indexes SQLite should leave alone. PostgreSQL knows how many have a value;
    SQLite would sort a million trees of one value, or walk as many to find the few of another."""
    if db.get_bind().dialect.name != "sqlite":
        return []
    common = []
    for name, value in wanted.values().items():
        having = select(TreeRow.id).where(getattr(TreeRow, name) == value).limit(_FEW).subquery()
        if db.scalar(select(func.count()).select_from(having)) == _FEW:
            common.append(name)
    # The index of a common value has its trees as they were created, and in no other order.
    return [] if sort == "created" and len(common) == len(wanted.values()) else common


def tree_details(db: Session, wanted: Filter) -> TreeDetails:
    """Every tree of `wanted.hash`, here a whole hash. Raises NotFoundError when there is none."""
    conditions = [*wanted.conditions(), TreeRow.hash == wanted.hash]
    rows = db.execute(
        select(TreeRow, RecipeRow)
        .outerjoin(RecipeRow, RecipeRow.id == TreeRow.recipe_id)
        .where(*conditions)
        .order_by(TreeRow.layout, TreeRow.created.desc(), TreeRow.id.desc())
    ).all()
    if not rows:
        raise NotFoundError(
            f"no tree of hash {wanted.hash[:12]} in {', '.join(wanted.namespaces or ('any',))}; "
            "`aotcache ls` lists what is stored"
        )
    ids = [tree.id for tree, _ in rows]
    outcomes, saved = _outcomes(db, ids), _saved(db, ids)
    parts: dict[int, list[PartRow]] = {tree_id: [] for tree_id in ids}
    stored = select(PartRow).where(PartRow.tree_id.in_(ids))
    for part in db.scalars(stored.order_by(PartRow.part, PartRow.generation.desc())):
        parts[part.tree_id].append(part)
    held = defaultdict(list)
    for row in _quarantined(db, wanted):
        held[row.namespace, row.layout, row.platform_id].append(row)
    return TreeDetails(
        trees=tuple(
            TreeDetail(
                tree=summary(tree, recipe, outcomes.get(tree.id, {})),
                parts=tuple(
                    stored_part(part, part.signers) for part in parts[tree.id] if part.newest
                ),
                hash_factors=tree.hash_factors,
                notes=tree.notes,
                generations=tuple(stored_generation(part) for part in parts[tree.id]),
                quarantined=tuple(
                    quarantined_part(row)
                    for row in held[tree.namespace, tree.layout, tree.platform_id]
                ),
                saved_seconds=saved.get(tree.id, 0.0),
            )
            for tree, recipe in rows
        )
    )


def _quarantined(db: Session, wanted: Filter) -> Sequence[QuarantineRow]:
    query = select(QuarantineRow).where(QuarantineRow.hash == wanted.hash)
    if wanted.namespaces is not None:
        query = query.where(QuarantineRow.namespace.in_(sorted(wanted.namespaces)))
    return db.scalars(query.order_by(QuarantineRow.part)).all()


def _saved(db: Session, trees: Iterable[int]) -> dict[int, float]:
    query = select(OutcomeRow.tree_id, func.sum(OutcomeRow.saved_seconds).label("saved"))
    query = query.where(OutcomeRow.tree_id.in_(list(trees))).group_by(OutcomeRow.tree_id)
    return {row.tree_id: row.saved for row in db.execute(query)}


def _outcomes(db: Session, trees: Iterable[int]) -> dict[int, dict[str, int]]:
    query = (
        select(OutcomeRow.tree_id, OutcomeRow.outcome, func.sum(OutcomeRow.count))
        .where(OutcomeRow.tree_id.in_(list(trees)))
        .group_by(OutcomeRow.tree_id, OutcomeRow.outcome)
    )
    found: dict[int, dict[str, int]] = {}
    for tree_id, outcome, count in db.execute(query):
        found.setdefault(tree_id, {})[outcome] = int(count)
    return found


def _encode_cursor(sort: str, order: str, value: int | str, row: int) -> str:
    text = json.dumps([sort, order, value, row], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _decode_cursor(cursor: str, sort: str, order: str) -> tuple[int | str, int]:
    try:
        text = base64.urlsafe_b64decode(cursor.encode() + b"=" * (-len(cursor) % 4))
        cursor_sort, cursor_order, value, row = json.loads(text)
        str(value).encode()  # surrogates are in no database
    except (ValueError, TypeError, RecursionError) as error:
        raise UsageError("the cursor is not one that a page ended with") from error
    kind = str if sort == "hash" else int
    if (
        (cursor_sort, cursor_order) != (sort, order)
        or type(value) is not kind
        or type(row) is not int
        or not all(-_MAX_INT <= n < _MAX_INT for n in (value, row) if isinstance(n, int))
    ):
        raise UsageError("the cursor is of a list with another sort or order: start a new list")
    return value, row
