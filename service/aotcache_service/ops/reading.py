"""Reads from storage what the index relies on: manifests, deletions, the sizes of packs."""

from __future__ import annotations

import threading

from aotcache.errors import InvalidNameError, ManifestError, ObjectMissingError
from aotcache.protocol.manifest import Manifest, decode_manifest
from aotcache.protocol.names import (
    TreeKey,
    deleted_prefix,
    manifest_key,
    parse_deleted_key,
    parse_manifest_key,
    sibling_key,
)
from aotcache.protocol.record import MAX_SECONDS
from aotcache.storage.base import ObjectStore

_MAX_TIME = 1 << 40
_MAX_RAW = 1 << 50
_MAX_PACKS = 10_000  # names are bound into one query
# A manifest takes a hundred times as much memory as it has bytes, while it is read; more at a time
# would only wait for the interpreter's lock.
_READING = threading.Semaphore(2)


def read_manifest(store: ObjectStore, key: str) -> Manifest:
    """Raises ObjectMissingError, and ManifestError for one that is damaged or lies elsewhere."""
    return check_manifest(store, key, store.get(key))


def check_manifest(store: ObjectStore, key: str, data: bytes) -> Manifest:
    """The manifest of these bytes, whose statement must be about the object's own key. Raises as
    `read_manifest`: what it is written against may be missing."""
    try:
        with _READING:
            manifest = decode_manifest(data, lambda base: store.get(sibling_key(key, base)))
    except ManifestError as error:
        raise ManifestError(f"{key}: {error}") from error
    statement = manifest.statement
    if manifest_key(statement.tree, statement.part, statement.generation) != key:
        raise ManifestError(f"{key}: the statement is about another tree, part or generation")
    seconds = statement.compile_seconds
    # NaN is in no range.
    possible = seconds is None or 0 <= seconds <= MAX_SECONDS
    if not 0 <= statement.created < _MAX_TIME or not possible:
        raise ManifestError(f"{key}: a time that cannot be")
    if sum(entry.size for entry in statement.files) > _MAX_RAW:
        raise ManifestError(f"{key}: more than {_MAX_RAW >> 40} TiB of files")
    if len(manifest.locations.packs) > _MAX_PACKS:
        raise ManifestError(f"{key}: more than {_MAX_PACKS} packs")
    return manifest


def weight(manifest: Manifest) -> int:
    """How much memory it takes, in files or what takes about as much as one."""
    said, places = manifest.statement, manifest.locations
    texts = (*said.hash_factors.items(), *said.notes.items())
    characters = sum(len(name) + len(value) for name, value in texts)
    listed = len(said.files) + len(said.expected_parts) + len(places.blobs) + len(places.packs)
    return listed + sum(len(pack.frames) for pack in places.packs) + characters // 256


def is_manifest_key(key: str) -> bool:
    """False for an object that somebody else has put among the manifests."""
    try:
        parse_manifest_key(key)
    except InvalidNameError:
        return False
    return True


def read_deletions(store: ObjectStore, tree: TreeKey) -> dict[str, int]:
    """By part, the last generation that its marks say is deleted."""
    found: dict[str, int] = {}
    for mark in store.list(f"{deleted_prefix(tree.namespace)}{tree.path}/"):
        try:
            name = parse_deleted_key(mark.key)
        except InvalidNameError:
            continue  # somebody else's
        found[name.part] = max(found.get(name.part, 0), name.generation)
    return found


def stored_size(store: ObjectStore, key: str) -> int | None:
    """Bytes of the object, None when there is none."""
    try:
        return store.size(key)
    except ObjectMissingError:
        return None
