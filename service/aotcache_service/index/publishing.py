"""What a publisher must know before it publishes: generations, neighbours, and its session."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from aotcache.errors import ManifestError, SessionExpiredError, UsageError
from aotcache.protocol.manifest import Manifest
from aotcache.protocol.names import PartName, TreeKey
from aotcache.protocol.recipe import Recipe
from aotcache.protocol.v1.publish import PartState

from .models import (
    LIVE,
    DeletionRow,
    PackRow,
    PartPackRow,
    PartRow,
    QuarantineRow,
    RevokedKeyRow,
    SessionPackRow,
    SessionRow,
    TreeRow,
)

# Neighbour trees of the same engine and model: enough to find equal kernels in, few to read.
NEIGHBOUR_TREES = 2


def find_tree(db: Session, key: TreeKey) -> TreeRow | None:
    """The tree's row, also while it is being deleted."""
    return db.scalar(
        select(TreeRow).where(
            TreeRow.namespace == key.namespace,
            TreeRow.layout == key.layout,
            TreeRow.hash == key.hash,
            TreeRow.platform_id == key.platform,
        )
    )


def quarantine_of(db: Session, tree: TreeKey, part: str) -> QuarantineRow | None:
    return db.get(QuarantineRow, (tree.namespace, tree.layout, tree.hash, tree.platform, part))


def quarantined(
    db: Session, namespace: str, layout: str, tree_hash: str, platforms: Iterable[str]
) -> Sequence[QuarantineRow]:
    return db.scalars(
        select(QuarantineRow)
        .where(
            QuarantineRow.namespace == namespace,
            QuarantineRow.layout == layout,
            QuarantineRow.hash == tree_hash,
            QuarantineRow.platform_id.in_(list(platforms)),
        )
        .order_by(QuarantineRow.part)
    ).all()


def revoked_keys(db: Session, namespace: str) -> set[str]:
    return set(db.scalars(select(RevokedKeyRow.key).where(RevokedKeyRow.namespace == namespace)))


def manifests_of(db: Session, tree: TreeRow) -> set[str]:
    """Keys of all its generations."""
    return set(db.scalars(select(PartRow.manifest).where(PartRow.tree_id == tree.id)))


def is_committed(db: Session, name: PartName) -> bool:
    tree = find_tree(db, name.tree)
    if tree is None:
        return False
    row = select(PartRow.id).where(
        PartRow.tree_id == tree.id,
        PartRow.part == name.part,
        PartRow.generation == name.generation,
    )
    return db.scalar(row) is not None


def require_base(db: Session, name: PartName, manifest: Manifest) -> None:
    """What a manifest is written against must be as lasting as it is itself."""
    if manifest.base is None:
        return
    base = PartName(name.tree, name.part, manifest.base.generation)
    if not is_committed(db, base):
        raise ManifestError(
            f"{name.tree} {name.part}: generation {name.generation} is written against "
            f"{base.generation}, which is not committed: open the session again and rebase"
        )


def newest_parts(db: Session, key: TreeKey) -> dict[str, PartRow]:
    """By name, the generation of each part that is served."""
    tree = find_tree(db, key)
    if tree is None:
        return {}
    rows = select(PartRow).where(PartRow.tree_id == tree.id, PartRow.newest)
    return {row.part: row for row in db.scalars(rows.order_by(PartRow.part))}


def deleted_up_to(db: Session, key: TreeKey, part: str) -> int:
    """The last generation that is deleted, 0 for none."""
    row = db.get(DeletionRow, (key.namespace, key.layout, key.hash, key.platform, part))
    return 0 if row is None else row.generation


def _deletions(db: Session, key: TreeKey) -> dict[str, int]:
    """As `deleted_up_to`, of all parts at once."""
    rows = db.execute(
        select(DeletionRow.part, DeletionRow.generation).where(
            DeletionRow.namespace == key.namespace,
            DeletionRow.layout == key.layout,
            DeletionRow.hash == key.hash,
            DeletionRow.platform_id == key.platform,
        )
    )
    return {row.part: row.generation for row in rows}


def unknown_parts(db: Session, key: TreeKey, parts: Iterable[str]) -> list[str]:
    """Those of which the index knows neither a generation nor a deletion."""
    known = newest_parts(db, key).keys() | _deletions(db, key).keys()
    return [part for part in parts if part not in known]


def part_states(
    db: Session, key: TreeKey, parts: Iterable[str], newest: dict[str, PartRow]
) -> tuple[PartState, ...]:
    tree = find_tree(db, key)
    # Those that are withheld keep their numbers.
    of_tree = select(PartRow.part, func.max(PartRow.generation).label("top")).group_by(PartRow.part)
    used: dict[str, int] = {}
    if tree is not None:
        rows = db.execute(of_tree.where(PartRow.tree_id == tree.id))
        used = {row.part: row.top for row in rows}
    deleted = _deletions(db, key)
    states = []
    for part in parts:
        row = newest.get(part)
        states.append(
            PartState(
                part=part,
                generation=0 if row is None else row.generation,
                next_generation=max(used.get(part, 0), deleted.get(part, 0)) + 1,
                manifest="" if row is None else row.manifest,
            )
        )
    return tuple(states)


def neighbour_parts(db: Session, key: TreeKey, recipe: Recipe | None) -> Sequence[PartRow]:
    """Newest parts of the most recent other trees of the same engine and model."""
    if recipe is None or not recipe.model:
        return []
    trees = db.scalars(
        select(TreeRow.id)
        .where(
            TreeRow.model == recipe.model,
            TreeRow.engine == recipe.engine,
            TreeRow.namespace == key.namespace,
            TreeRow.hidden.is_(False),
            # The same tree is no neighbour of itself.
            (TreeRow.layout != key.layout)
            | (TreeRow.hash != key.hash)
            | (TreeRow.platform_id != key.platform),
        )
        .order_by(TreeRow.created.desc(), TreeRow.id.desc())
        .limit(NEIGHBOUR_TREES)
    ).all()
    rows = select(PartRow).where(PartRow.tree_id.in_(trees), PartRow.newest)
    found = db.scalars(rows.order_by(PartRow.part)).all()
    return sorted(found, key=lambda row: trees.index(row.tree_id))


def open_session(
    db: Session, publish_id: str, key: TreeKey, now: int, expires: int, opened: float = 0.0
) -> None:
    """A new session, or the one of this id extended. Forgets those that are over."""
    db.execute(delete(SessionRow).where(SessionRow.expires <= now))
    row = db.get(SessionRow, publish_id)
    if row is None:
        row = SessionRow(
            publish_id=publish_id,
            namespace=key.namespace,
            layout=key.layout,
            hash=key.hash,
            platform_id=key.platform,
            expires=expires,
            opened=opened,
        )
        db.add(row)
    elif (row.namespace, row.layout, row.hash, row.platform_id) != (
        key.namespace,
        key.layout,
        key.hash,
        key.platform,
    ):
        raise UsageError(f"publish {publish_id[:12]} is one of another tree: take a new id")
    row.expires = max(row.expires, expires)
    db.flush()


def pin_packs(db: Session, publish_id: str, parts: Iterable[PartRow]) -> None:
    """Keep the packs of these parts from being collected while the session lasts."""
    pinned = select(SessionPackRow.pack_id).where(SessionPackRow.publish_id == publish_id)
    packs = (
        select(PartPackRow.pack_id)
        .join(PackRow, PackRow.id == PartPackRow.pack_id)
        .where(
            PartPackRow.part_id.in_([row.id for row in parts]),
            PackRow.state == LIVE,
            PartPackRow.pack_id.not_in(pinned),
        )
        .distinct()
    )
    db.add_all(
        SessionPackRow(publish_id=publish_id, pack_id=pack) for pack in db.scalars(packs).all()
    )


def unknown_packs(db: Session, namespace: str, names: Iterable[str]) -> set[str]:
    wanted = set(names)
    known = select(PackRow.name).where(PackRow.namespace == namespace, PackRow.name.in_(wanted))
    return wanted.difference(db.scalars(known))


def require_session(db: Session, publish_id: str, namespace: str, now: int) -> SessionRow:
    row = db.get(SessionRow, publish_id)
    if row is None or row.expires <= now or row.namespace != namespace:
        raise SessionExpiredError(
            f"publish {publish_id[:12]} has no session in namespace {namespace}, or it is over: "
            "open it again; what is stored already is found again"
        )
    return row
