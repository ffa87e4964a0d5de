"""Packs and manifests put into a store as a publisher would, without compiling anything."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import msgspec

from aotcache.protocol.manifest import (
    PLAIN,
    BlobPlace,
    FileEntry,
    Frame,
    Locations,
    PackPlace,
    Statement,
    encode_manifest,
    encode_statement,
)
from aotcache.protocol.names import VLLM_AOT, manifest_key, new_publish_id, pack_key
from aotcache.protocol.platform import Platform
from aotcache.protocol.recipe import Recipe
from aotcache.protocol.record import TreeUsed
from aotcache.protocol.sections import Base
from aotcache.storage import ObjectStore

HASH = "a" * 64
RANK = "rank_0_0-d0"
PLATFORM = Platform(
    torch="2.13.0+cu130",
    triton="3.7.0",
    cuda="13.0",
    device="NVIDIA H100 80GB HBM3",
    arch="sm_90",
    python="cpython-3.11.7",
    machine="x86_64",
    libc="glibc-2.36",
)
OTHER_PLATFORM = replace(PLATFORM, device="NVIDIA A100-SXM4-80GB", arch="sm_80")
RECIPE = Recipe(engine="vllm", engine_version="0.32.0", model="org/model", dtype="bfloat16")


def make_pack(content: bytes, publish_id: str, frames: int = 1) -> PackPlace:
    """Of frames of equal size."""
    name = f"{hashlib.sha256(content).hexdigest()}-{publish_id}"
    size = len(content) // frames
    return PackPlace(name=name, frames=(Frame(stored=size, raw=size),) * frames)


def make_manifest(
    content: bytes = b"content",
    *,
    namespace: str = "default",
    layout: str = VLLM_AOT,
    tree_hash: str = HASH,
    platform: Platform = PLATFORM,
    part: str = "shared",
    generation: int = 1,
    publish_id: str | None = None,
    pack: PackPlace | None = None,
    at: int = 0,
    created: int = 1_000,
    publisher: str = "node-1",
    recipe: Recipe | None = None,
    expected_parts: tuple[str, ...] = (),
    compile_seconds: float | None = None,
    trees: tuple[TreeUsed, ...] = (),
) -> tuple[Statement, Locations]:
    """One file of these bytes, in one pack. at: where in it they begin."""
    publish_id = publish_id or new_publish_id()
    pack = pack or make_pack(content, publish_id)
    # The service does not look into files: any digest does.
    digest = hashlib.sha256(content).hexdigest()
    statement = Statement(
        namespace=namespace,
        layout=layout,
        hash=tree_hash,
        platform=platform,
        part=part,
        generation=generation,
        publish_id=publish_id,
        created=created,
        publisher=publisher,
        recipe=recipe,
        expected_parts=expected_parts,
        compile_seconds=compile_seconds,
        hash_factors={"env": "1"},
        notes={"driver": "580"},
        trees=trees,
        files=(FileEntry(f"{part}/file.py", len(content), PLAIN, digest),),
    )
    return statement, Locations(packs=(pack,), blobs=(BlobPlace(0, at, len(content)),))


def key_of(statement: Statement) -> str:
    return manifest_key(statement.tree, statement.part, statement.generation)


def manifest_bytes(statement: Statement, locations: Locations) -> bytes:
    return encode_manifest(encode_statement(statement), locations, ())


def grown_part(publish_id: str) -> tuple[str, bytes]:
    """Key and manifest of a second generation that is written against the first."""
    first, locations = make_manifest(b"first", publish_id=publish_id)
    base = Base(1, encode_statement(first))
    grown = msgspec.structs.replace(first, generation=2)
    return key_of(grown), encode_manifest(encode_statement(grown, base), locations, (), base)


def put_part(
    store: ObjectStore,
    content: bytes = b"content",
    *,
    pack: PackPlace | None = None,
    **about: object,
) -> str:
    """Put a pack (unless an existing one is named) and the manifest. Returns the manifest's key."""
    statement, locations = make_manifest(content, pack=pack, **about)  # type: ignore[arg-type]
    if pack is None:
        store.put(pack_key(statement.namespace, locations.packs[0].name), content)
    store.put(key_of(statement), manifest_bytes(statement, locations))
    return key_of(statement)
