"""A small stored tree: the good manifest and pack that are changed."""

from __future__ import annotations

import random
from functools import cache

import msgspec
from blake3 import blake3

from aotcache.core.framing import FRAME_RAW, Source
from aotcache.core.pack import build_packs
from aotcache.core.places import Place, Places
from aotcache.protocol.manifest import (
    EXECUTABLE,
    PLAIN,
    FileEntry,
    Statement,
    encode_manifest,
    encode_statement,
)
from aotcache.protocol.names import manifest_key, pack_key
from aotcache.protocol.record import TreeUsed
from aotcache.protocol.sections import Base, split_manifest
from support.stored import HASH, PLATFORM, RECIPE

NAMESPACE, LAYOUT = "default", "vllm-aot"
PUBLISH_ID = "5" * 32
KERNEL = "inductor_cache/triton/{}/KERNELKERNELKERNELKERNEL/k.cubin"
_BASE = random.Random(0).randbytes(40_000)
CONTENTS: dict[str, tuple[bytes, int]] = {
    "inductor_cache/ab/cabcdef.py": (b"# code\n" * 40, PLAIN),
    "inductor_cache/fxgraph/cd/x/y": (_BASE[:700], PLAIN),
    "inductor_cache/gh/cgh.main.so": (_BASE[:3000], EXECUTABLE),
    KERNEL.format(0): (_BASE[:9000], PLAIN),
    KERNEL.format(1): (_BASE[:9000], PLAIN),
    "inductor_cache/fxgraph/cd/empty": (b"", PLAIN),
    "inductor_cache/aotautograd/cd/large": (_BASE, PLAIN),
    "inductor_cache/aotautograd/cd/near": (_BASE[:20_000] + b"other" + _BASE[20_000:], PLAIN),
}
LARGE, NEAR = "inductor_cache/aotautograd/cd/large", "inductor_cache/aotautograd/cd/near"


def _digest(data: bytes) -> str:
    return blake3(data).hexdigest()


@cache
def sample() -> tuple[bytes, str, bytes]:
    """The manifest, and its pack's key and bytes."""
    base = CONTENTS[LARGE][0]
    blobs = {_digest(data): data for data, _ in CONTENTS.values() if data}
    near = _digest(CONTENTS[NEAR][0])
    sources = [
        Source(
            digest,
            len(data),
            ("shared",),
            digest,
            lambda data=data: [data[at : at + FRAME_RAW] for at in range(0, len(data), FRAME_RAW)],
            (_digest(base), lambda: base) if digest == near else None,
        )
        for digest, data in sorted(blobs.items(), key=lambda item: item[0] == near)
    ]
    (pack,) = build_packs(sources, PUBLISH_ID)
    places = Places()
    for digest, (offset, size) in pack.blobs.items():
        places.add(digest, Place(pack.place, offset, size))
    statement = Statement(
        namespace=NAMESPACE,
        layout=LAYOUT,
        hash=HASH,
        platform=PLATFORM,
        part="shared",
        generation=1,
        publish_id=PUBLISH_ID,
        created=1_700_000_000,
        publisher="node",
        recipe=RECIPE,
        expected_parts=("shared", "rank_0_0-d0"),
        compile_seconds=1.5,
        hash_factors={"env": "x"},
        trees=(TreeUsed(layout=LAYOUT, hash=HASH),),
        files=tuple(
            FileEntry(path, len(data), mode, _digest(data))
            for path, (data, mode) in sorted(CONTENTS.items())
        ),
    )
    sizes = {entry.digest: entry.size for entry in statement.files}
    locations = places.locations(statement.digests(), sizes)
    data = encode_manifest(encode_statement(statement), locations, ())
    return data, pack_key(NAMESPACE, pack.place.name), pack.data


def base() -> Base:
    """The manifest's statement, for others to be written against."""
    return Base(1, split_manifest(sample()[0]).statement)


def key() -> str:
    """Of the manifest."""
    from aotcache.protocol.manifest import decode_manifest

    said = decode_manifest(sample()[0]).statement
    return manifest_key(said.tree, said.part, said.generation)


def sections() -> tuple[dict[str, object], dict[str, object]]:
    """Statement and locations as JSON."""
    from aotcache.protocol.manifest import decode_manifest

    manifest = decode_manifest(sample()[0])
    return (
        msgspec.json.decode(msgspec.json.encode(manifest.statement)),
        msgspec.json.decode(msgspec.json.encode(manifest.locations)),
    )
