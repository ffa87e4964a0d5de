"""Parts that are stored and not served: quarantined, or with a signature of a revoked key.

A generation that is withheld keeps its number, so that the next one is published after it, and its
manifest, which later ones may be written against.
"""

from __future__ import annotations

from sqlalchemy import ColumnElement, Text, cast, delete, exists, select, update
from sqlalchemy.orm import Session

from aotcache.protocol.names import TreeKey

from .models import (
    QUARANTINED,
    REVOKED,
    PartRow,
    QuarantineRow,
    RevokedKeyRow,
    TreeRow,
    VerdictRow,
)
from .publishing import find_tree, quarantine_of
from .write import settle_tree


def revoke(db: Session, namespace: str, key: str) -> list[str]:
    """From now on, and for what is stored; returns the manifests that were served until now."""
    if db.get(RevokedKeyRow, (namespace, key)) is None:
        db.add(RevokedKeyRow(namespace=namespace, key=key))
        db.flush()
    found = db.execute(
        select(PartRow, TreeRow)
        .join(TreeRow, TreeRow.id == PartRow.tree_id)
        # The text of the JSON: an id is 32 hex characters, and no other name has as many.
        .where(TreeRow.namespace == namespace, cast(PartRow.signers, Text).contains(key))
        # What is quarantined too: it may be released.
        .where(PartRow.withheld != REVOKED)
        .order_by(PartRow.id)
    ).all()
    served = [part.manifest for part, _ in found if part.newest]
    for part, _ in found:
        part.withheld = REVOKED
    for tree in {tree for _, tree in found}:
        settle_tree(db, tree)
    return served


def quarantine(
    db: Session,
    tree: TreeKey,
    part: str,
    generation: int,
    reason: str,
    now: int,
    content: str = "",
    first: int = 1,
) -> None:
    """Generations from `first` up to this one, and later ones of the same content. content: of it,
    where the index does not know it any more."""
    row = quarantine_of(db, tree, part)
    if row is None:
        row = QuarantineRow(
            namespace=tree.namespace,
            layout=tree.layout,
            hash=tree.hash,
            platform_id=tree.platform,
            part=part,
            generation=0,
            content=content,
            first=first,
        )
        db.add(row)
    row.first = min(row.first, first)
    if generation > row.generation:
        row.generation, row.reason, row.since = generation, reason, now
    stored = find_tree(db, tree)
    if stored is None:
        return
    if row.first == 1:  # else what is served may be of the same content
        row.content = content or content_of_part(db, stored, part, generation) or row.content
    of_part = (PartRow.tree_id == stored.id, PartRow.part == part)
    db.execute(
        update(PartRow)
        .where(*of_part, PartRow.generation.between(row.first, row.generation))
        .where(PartRow.withheld == "")
        .values(withheld=QUARANTINED)
    )
    _forget_verdicts(db, stored, part)
    settle_tree(db, stored)


def release(db: Session, row: QuarantineRow) -> None:
    """Serve it again; what nodes said of it until now is forgotten."""
    key = TreeKey(
        namespace=row.namespace, layout=row.layout, hash=row.hash, platform=row.platform_id
    )
    stored = find_tree(db, key)
    if stored is not None:
        # All of them: a later one of the same content may have been found in storage.
        of_part = (PartRow.tree_id == stored.id, PartRow.part == row.part)
        db.execute(
            update(PartRow).where(*of_part, PartRow.withheld == QUARANTINED).values(withheld="")
        )
        _forget_verdicts(db, stored, row.part)
        settle_tree(db, stored)
    db.delete(row)


def replaced() -> ColumnElement[bool]:
    """Of a QuarantineRow: whether a later generation is served."""
    return (
        exists()
        .where(TreeRow.namespace == QuarantineRow.namespace)
        .where(TreeRow.layout == QuarantineRow.layout, TreeRow.hash == QuarantineRow.hash)
        .where(TreeRow.platform_id == QuarantineRow.platform_id)
        .where(PartRow.tree_id == TreeRow.id, PartRow.part == QuarantineRow.part, PartRow.newest)
        .where(PartRow.generation > QuarantineRow.generation)
    )


def content_of_part(db: Session, tree: TreeRow, part: str, generation: int) -> str:
    """Empty where it is not known."""
    one = select(PartRow.content).where(
        PartRow.tree_id == tree.id, PartRow.part == part, PartRow.generation == generation
    )
    return db.scalar(one) or ""


def _forget_verdicts(db: Session, tree: TreeRow, part: str) -> None:
    db.execute(delete(VerdictRow).where(VerdictRow.tree_id == tree.id, VerdictRow.part == part))
