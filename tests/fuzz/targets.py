"""What reads bytes of strangers. Each target raises AssertionError where a promise does not hold,
and lets through every exception that is not ours."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import cast

from blake3 import blake3

from aotcache.core.places import Places
from aotcache.core.trust import UNSIGNED, TrustPolicy
from aotcache.errors import AotcacheError, FormatError, ManifestError
from aotcache.local.state import STATE_DIRECTORY
from aotcache.protocol.manifest import (
    EXECUTABLE,
    MAX_FILES,
    MAX_FRAME,
    NOT_RELOCATED,
    PLAIN,
    Manifest,
    decode_manifest,
    encode_whole,
)
from aotcache.protocol.names import SHARED
from aotcache.protocol.sections import split_manifest
from aotcache.protocol.v1.lookup import Hit, Lookup, Miss, StoredPart
from aotcache.remote.index import Index
from aotcache.storage import ObjectStore
from aotcache.storage.memory import MemoryStore
from aotcache.sync import pull as pulling
from aotcache.sync.fetch import Fetcher
from aotcache.sync.site import Site
from support.stored import HASH, PLATFORM

from . import samples

Target = Callable[[bytes], bool]
"""Whether the bytes were taken for good."""


def manifest(data: bytes) -> bool:
    """Nothing but a ManifestError, and what is read keeps every rule."""
    with suppress(ManifestError):
        split_manifest(data)
    try:
        found = decode_manifest(data)
    except ManifestError:
        return False
    _check(found)
    assert decode_manifest(encode_whole(found)) == found
    return True


def _check(found: Manifest) -> None:
    files = found.statement.files
    assert 0 < len(files) <= MAX_FILES
    seen = set()
    for entry in files:
        assert entry.path.isascii()
        assert entry.path.isprintable()
        assert not os.path.isabs(entry.path)
        assert os.path.normpath(f"/tree/{entry.path}") == f"/tree/{entry.path}"
        assert entry.mode in (PLAIN, EXECUTABLE)
        assert entry.size >= 0
        seen.add(entry.path.lower())
    assert len(seen) == len(files)
    assert not any(parent in seen for path in seen for parent in _parents(path))
    assert all(0 < f.raw <= MAX_FRAME for p in found.locations.packs for f in p.frames)


def _parents(path: str) -> list[str]:
    pieces = path.split("/")
    return ["/".join(pieces[:count]) for count in range(1, len(pieces))]


def pack(data: bytes) -> bool:
    """The good manifest, and these bytes as its pack: blobs come out as they should, or not."""
    good, key, _ = samples.sample()
    places = Places()
    places.add_manifest(decode_manifest(good))
    store = _store(**{key: data})
    fetcher = Fetcher(store, samples.NAMESPACE, places, lambda _stored: None)

    def consume(digest: str, size: int, chunks: object) -> None:
        content = b"".join(cast("list[bytes]", chunks))
        assert len(content) <= size
        if blake3(content).hexdigest() != digest:
            raise FormatError("as staging says")

    try:
        fetcher.run([fetcher.plan(places.by_digest)], consume)
    except AotcacheError:
        return False
    return True


def pull(data: bytes) -> bool:
    """These bytes as the manifest, and the good pack: what lands on the disk is what they say, in
    the tree, and nothing else is touched."""
    _, key, good = samples.sample()
    store = _store(**{key: good, samples.key(): data})
    site = Site(index=cast("Index", _Fixed()), store=store, policy=TrustPolicy(UNSIGNED))
    home = Path(tempfile.mkdtemp(prefix="fuzz-", dir=_scratch()))
    try:
        (home / "outside").write_bytes(b"precious")
        tree = home / "cache" / HASH
        tree.parent.mkdir()
        asked = Lookup(layout=samples.LAYOUT, hash=HASH, platform=PLATFORM)
        try:
            found = pulling.pull(site, asked, str(tree))
        except AotcacheError:
            found = None
        assert not isinstance(found, Miss)
        _check_disk(home, tree, None if found is None else decode_manifest(data))
        return found is not None
    finally:
        shutil.rmtree(home)


class _Fixed:
    """The index: the tree is there, with one part."""

    def lookup(self, asked: Lookup) -> Hit:
        part = StoredPart(
            part=SHARED,
            generation=1,
            manifest=samples.key(),
            files=1,
            raw_bytes=1,
            stored_bytes=1,
        )
        return Hit(
            namespace=samples.NAMESPACE,
            layout=asked.layout,
            hash=asked.hash,
            platform=PLATFORM.id,
            parts=(part,),
        )


def _check_disk(home: Path, tree: Path, found: Manifest | None) -> None:
    named = {} if found is None else {entry.path: entry for entry in found.statement.files}
    installed = set()
    for folder, folders, files in os.walk(home):
        for name in (*folders, *files):
            path = Path(folder) / name
            assert not path.is_symlink()
            assert not path.lstat().st_mode & (stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX)
        for name in files:
            path = Path(folder) / name
            if path.is_relative_to(tree):
                installed.add(path.relative_to(tree).as_posix())
            else:
                assert path == home / "outside" or path.is_relative_to(
                    tree.parent / STATE_DIRECTORY
                )
    assert (home / "outside").read_bytes() == b"precious"
    if found is None:
        return
    assert installed == set(named)
    for path, entry in named.items():
        content = (tree / path).read_bytes()
        if entry.relocate == NOT_RELOCATED:
            assert blake3(content).hexdigest() == entry.digest
        assert stat.S_IMODE((tree / path).stat().st_mode) & ~entry.mode == 0


def _store(**objects: bytes) -> ObjectStore:
    store = MemoryStore("fuzz")
    for found in list(store.list("")):
        store.delete(found.key)
    for key, data in objects.items():
        store.put(key, data)
    return store


def _scratch() -> str | None:
    return "/dev/shm" if os.path.isdir("/dev/shm") else None


TARGETS: dict[str, Target] = {"manifest": manifest, "pack": pack, "pull": pull}
