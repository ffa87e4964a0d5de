"""The marks that storage should hold, by the index: pins, deletions, quarantine, revoked keys."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import select
from sqlalchemy.orm import Session

from aotcache.protocol.names import (
    TreeKey,
    deleted_key,
    pinned_key,
    quarantined_key,
    revoked_key,
)

from ..index.models import DeletionRow, QuarantineRow, RevokedKeyRow, TreeRow
from .quarantine import Mark, encode_mark


def marks_of(db: Session) -> Iterator[tuple[str, bytes]]:
    """Their keys and what they say."""
    for tree in db.scalars(select(TreeRow).where(TreeRow.pinned)):
        yield pinned_key(_key(tree)), b""
    for gone in db.scalars(select(DeletionRow)):
        yield deleted_key(_key(gone), gone.part, gone.generation), b""
    for row in db.scalars(select(QuarantineRow)):
        mark = Mark(reason=row.reason, since=row.since, content=row.content, first=row.first)
        yield quarantined_key(_key(row), row.part, row.generation), encode_mark(mark)
    for key in db.scalars(select(RevokedKeyRow)):
        yield revoked_key(key.namespace, key.key), b""


def _key(row: TreeRow | DeletionRow | QuarantineRow) -> TreeKey:
    return TreeKey(
        namespace=row.namespace, layout=row.layout, hash=row.hash, platform=row.platform_id
    )
