"""Rows of the index as the bodies of the API."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from aotcache.protocol.names import TreeKey
from aotcache.protocol.platform import Platform
from aotcache.protocol.recipe import Recipe
from aotcache.protocol.v1.lookup import StoredPart
from aotcache.protocol.v1.quarantine import QuarantinedPart
from aotcache.protocol.v1.trees import StoredGeneration, TreeSummary

from .models import PartRow, QuarantineRow, RecipeRow, TreeRow


def tree_key(row: TreeRow) -> TreeKey:
    return TreeKey(
        namespace=row.namespace, layout=row.layout, hash=row.hash, platform=row.platform_id
    )


def stored_part(row: PartRow | Any, signers: Iterable[str]) -> StoredPart:
    """row: a PartRow, or a plain row that has its columns."""
    return StoredPart(
        part=row.part,
        generation=row.generation,
        manifest=row.manifest,
        files=row.files,
        raw_bytes=row.raw_bytes,
        stored_bytes=row.stored_bytes,
        signers=tuple(signers),
    )


def stored_generation(row: PartRow) -> StoredGeneration:
    return StoredGeneration(
        part=stored_part(row, row.signers),
        state="served" if row.newest else row.withheld or "replaced",
        created=row.created,
        publisher=row.publisher,
    )


def missing_parts(expected: Iterable[str], stored: Iterable[str]) -> tuple[str, ...]:
    have = set(stored)
    return tuple(part for part in expected if part not in have)


def summary(row: TreeRow, recipe: RecipeRow | None, outcomes: dict[str, int]) -> TreeSummary:
    return TreeSummary(
        namespace=row.namespace,
        layout=row.layout,
        hash=row.hash,
        platform_id=row.platform_id,
        platform=Platform(**row.platform),
        recipe=None if recipe is None else Recipe(**recipe.fields),
        parts=tuple(row.parts),
        missing=missing_parts(row.expected_parts, [*row.parts, *row.withheld]),
        withheld=tuple(row.withheld),
        files=row.files,
        raw_bytes=row.raw_bytes,
        stored_bytes=row.stored_bytes,
        compile_seconds=row.compile_seconds,
        publisher=row.publisher,
        created=row.created,
        used=row.used,
        lookups=row.lookups,
        outcomes=outcomes,
        pinned=row.pinned,
        quarantined=row.quarantined,
    )


def quarantined_part(row: QuarantineRow) -> QuarantinedPart:
    return QuarantinedPart(
        namespace=row.namespace,
        layout=row.layout,
        hash=row.hash,
        platform=row.platform_id,
        part=row.part,
        generation=row.generation,
        reason=row.reason,
        since=row.since,
        first=row.first,
    )
