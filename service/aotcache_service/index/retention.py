"""Which trees need not be kept any more. Reads only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any

from sqlalchemy import Row, Select, case, func, select
from sqlalchemy.orm import Session

from aotcache.protocol.names import TreeKey
from aotcache.protocol.v1.collect import Gone, Keep

from .drift import of_one_start
from .models import LIVE, PackRow, PartPackRow, PartRow, TreeRow

_DAY = 24 * 3600
_BATCH = 500  # trees whose packs are looked at together

# When it was last looked up or published: a tree is not gone before it was used.
_USED = case((TreeRow.used > TreeRow.created, TreeRow.used), else_=TreeRow.created).label("last")


@dataclass(frozen=True, slots=True)
class Expired:
    """id: of its row."""

    id: int
    gone: Gone

    @property
    def key(self) -> TreeKey:
        return TreeKey(
            namespace=self.gone.namespace,
            layout=self.gone.layout,
            hash=self.gone.hash,
            platform=self.gone.platform,
        )


def expired(db: Session, keep: Keep, now: int) -> list[Expired]:
    """Trees that are not kept, each with the first reason that it has. Pinned ones never are among
    them; those that are withheld are, as they take place too."""
    found: dict[int, Expired] = {}
    for one in (*_too_old(db, keep, now), *_too_many(db, keep)):
        found.setdefault(one.id, one)
    for one in _too_large(db, keep, set(found)):
        found.setdefault(one.id, one)
    return list(found.values())


def is_used_since(db: Session, one: Expired) -> bool:
    """Whether it was looked up or published after it expired; False where it is not there."""
    last = db.scalar(select(_USED).where(TreeRow.id == one.id))
    return last is not None and last > one.gone.used


def freed(db: Session, trees: Sequence[Expired]) -> tuple[int, int]:
    """Packs, and their bytes, that nothing else refers to than these trees."""
    uses = _Uses(db)
    size = sum(uses.without(batch) for batch in _batches(sorted(one.id for one in trees)))
    return uses.unused, size


def kept_bytes(db: Session) -> int:
    """Of all packs that some tree refers to."""
    referred = select(PartPackRow.pack_id).where(PartPackRow.pack_id == PackRow.id).exists()
    query = select(func.coalesce(func.sum(PackRow.size), 0))
    return int(db.scalar(query.where(PackRow.state == LIVE, referred)) or 0)


def _too_old(db: Session, keep: Keep, now: int) -> Iterator[Expired]:
    if not keep.days:
        return
    before = now - keep.days * _DAY
    query = _candidates().where(TreeRow.used < before, TreeRow.created < before)
    for row in db.execute(query.order_by(_USED, TreeRow.id)):
        yield _expired(row, f"not used for {(now - row.last) // _DAY} days")


def _too_many(db: Session, keep: Keep) -> Iterator[Expired]:
    """A start may use several trees of one recipe, one for each module: as many as those of
    `keep.per_recipe` starts are kept of a layout and platform, the last used ones."""
    if not keep.per_recipe:
        return
    of_recipe = (TreeRow.recipe_id, TreeRow.layout, TreeRow.platform_id)
    query = _candidates().add_columns(TreeRow.recipe_id).where(TreeRow.recipe_id.is_not(None))
    rows = db.execute(query.order_by(*of_recipe, _USED.desc(), TreeRow.id.desc()))
    of_a_start = of_one_start(db)
    starts = "a start" if keep.per_recipe == 1 else f"{keep.per_recipe} starts"
    for name, trees in groupby(rows, lambda row: (row.recipe_id, row.layout, row.platform_id)):
        kept = keep.per_recipe * of_a_start.get(name[:2], 1)
        for row in islice(trees, kept, None):
            yield _expired(row, f"the {kept} trees of {starts} of its recipe were used since")


def _too_large(db: Session, keep: Keep, gone: set[int]) -> Iterator[Expired]:
    """Trees share packs: only what no other one refers to becomes free."""
    if not keep.bytes:
        return
    left = kept_bytes(db)
    uses = _Uses(db)
    for batch in _batches(sorted(gone)):
        left -= uses.without(batch)
    rows = db.execute(_candidates().order_by(_USED, TreeRow.id)).all()
    for row in rows:
        if left <= keep.bytes:
            return
        if row.id not in gone:
            left -= uses.without([row.id])
            why = f"more than {keep.bytes} bytes are stored, and it was the least recently used"
            yield _expired(row, why)


class _Uses:
    """How many trees refer to each pack, as trees go."""

    def __init__(self, db: Session) -> None:
        self._db = db
        self._left: dict[int, int] = {}
        self.unused = 0

    def without(self, trees: Sequence[int]) -> int:
        """Bytes of packs that nothing refers to once these trees are gone too."""
        pairs = (
            select(PartRow.tree_id, PackRow.id, PackRow.size)
            .join(PartPackRow, PartPackRow.part_id == PartRow.id)
            .join(PackRow, PackRow.id == PartPackRow.pack_id)
            .where(PartRow.tree_id.in_(trees))
            .distinct()
        )
        rows = self._db.execute(pairs).all()
        new = {row.id for row in rows} - self._left.keys()
        for batch in _batches(sorted(new)):
            counts = (
                select(PartPackRow.pack_id, func.count(PartRow.tree_id.distinct()).label("trees"))
                .join(PartRow, PartRow.id == PartPackRow.part_id)
                .where(PartPackRow.pack_id.in_(batch))
                .group_by(PartPackRow.pack_id)
            )
            self._left |= {row.pack_id: row.trees for row in self._db.execute(counts)}
        free = 0
        for row in rows:
            self._left[row.id] -= 1
            if self._left[row.id] == 0:
                self.unused += 1
                free += row.size
        return free


def _candidates() -> Select[Any]:
    columns = (TreeRow.id, TreeRow.namespace, TreeRow.layout, TreeRow.hash, TreeRow.platform_id)
    return select(*columns, _USED).where(TreeRow.pinned.is_(False))


def _expired(row: Row[Any], reason: str) -> Expired:
    gone = Gone(
        namespace=row.namespace,
        layout=row.layout,
        hash=row.hash,
        platform=row.platform_id,
        reason=reason,
        used=row.last,
    )
    return Expired(row.id, gone)


def _batches(items: Sequence[int]) -> Iterator[Sequence[int]]:
    return (items[at : at + _BATCH] for at in range(0, len(items), _BATCH))
