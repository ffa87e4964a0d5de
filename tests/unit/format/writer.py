"""Trees into a store with aotcache's own codec, as its publish does it, without a service."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from posixpath import basename

from aotcache.core.framing import Source, digest_of, in_pieces
from aotcache.core.pack import build_packs
from aotcache.core.places import Place, Places
from aotcache.core.relocation import make_free
from aotcache.core.trust import SigningKey
from aotcache.protocol.manifest import FileEntry, Statement, encode_manifest, encode_statement
from aotcache.protocol.names import TreeKey, manifest_key, new_publish_id, pack_key
from aotcache.protocol.platform import Platform
from aotcache.protocol.recipe import Recipe
from aotcache.protocol.record import TreeUsed
from aotcache.protocol.sections import Base
from unit.format.sample import Files

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
RECIPE = Recipe(engine="vllm", engine_version="0.32.0", model="org/möbius-7b", dtype="bfloat16")
WORTH_A_PREFIX = 64 << 10


@dataclass
class Writer:
    """Publishes trees one after another, and reuses all that it stored before.

    objects: what is stored, by key. generations: of each part of each tree so far; all but the
    first are written against it, however small.
    """

    signer: SigningKey | None
    platform: Platform = PLATFORM
    objects: dict[str, bytes] = field(default_factory=dict)
    generations: dict[tuple[TreeKey, str], int] = field(default_factory=dict)
    _places: Places = field(default_factory=Places)
    _bases: dict[tuple[TreeKey, str], Base] = field(default_factory=dict)
    _first_model: tuple[str, bytes] | None = None

    def publish(self, layout: str, tree_hash: str, parts: Mapping[str, Files]) -> list[str]:
        """Store one generation of each part; the keys of its manifests, in the order of parts."""
        key = TreeKey(namespace="default", layout=layout, hash=tree_hash, platform=self.platform.id)
        publish_id = new_publish_id()
        entries: dict[str, list[FileEntry]] = defaultdict(list)
        blobs: dict[str, tuple[str, bytes]] = {}
        needed: dict[str, set[str]] = defaultdict(set)
        for part, files in parts.items():
            for path, file in sorted(files.items()):
                relocate, free = make_free(file.content, path, tree_hash)
                digest = digest_of(free)
                entries[part].append(FileEntry(path, len(free), file.mode, digest, relocate))
                if free and digest not in self._places.by_digest:
                    blobs.setdefault(digest, (path, free))
                    needed[digest].add(part)
        self._store_blobs(blobs, needed, publish_id)
        return [
            self._store_manifest(key, part, tuple(entries[part]), sorted(parts), publish_id)
            for part in parts
        ]

    def _store_blobs(
        self,
        blobs: Mapping[str, tuple[str, bytes]],
        needed: Mapping[str, set[str]],
        publish_id: str,
    ) -> None:
        sources = []
        for digest in sorted(blobs, key=lambda digest: (sorted(needed[digest]), blobs[digest][0])):
            path, free = blobs[digest]
            prefix: tuple[str, Callable[[], bytes]] | None = None
            if basename(path) == "model" and len(free) >= WORTH_A_PREFIX:
                if self._first_model is None:
                    self._first_model = digest, free
                else:
                    prefix = self._first_model[0], partial(bytes, self._first_model[1])
            group = tuple(sorted(needed[digest]))
            sources.append(Source(digest, len(free), group, path, partial(in_pieces, free), prefix))
        for pack in build_packs(sources, publish_id):
            self.objects[pack_key("default", pack.place.name)] = pack.data
            for digest, (offset, size) in pack.blobs.items():
                self._places.add(digest, Place(pack.place, offset, size))

    def _store_manifest(
        self,
        key: TreeKey,
        part: str,
        files: tuple[FileEntry, ...],
        expected_parts: list[str],
        publish_id: str,
    ) -> str:
        generation = self.generations.get((key, part), 0) + 1
        statement = Statement(
            namespace=key.namespace,
            layout=key.layout,
            hash=key.hash,
            platform=self.platform,
            part=part,
            generation=generation,
            publish_id=publish_id,
            created=1_790_000_000,
            publisher="node-1",
            recipe=RECIPE,
            expected_parts=tuple(expected_parts),
            compile_seconds=61.5,
            hash_factors={"env": "0" * 64},
            notes={"driver": "580.95.05"},
            trees=(TreeUsed(layout=key.layout, hash=key.hash, compile_seconds=61.5),),
            files=files,
        )
        base = self._bases.get((key, part))
        stated = encode_statement(statement, base)
        self._bases.setdefault((key, part), Base(generation, stated))
        sizes = {entry.digest: entry.size for entry in files}
        locations = self._places.locations(statement.digests(), sizes)
        on_base = base is not None
        signatures = (self.signer.sign(stated, on_base=on_base),) if self.signer else ()
        name = manifest_key(key, part, generation)
        self.objects[name] = encode_manifest(stated, locations, signatures, base)
        self.generations[key, part] = generation
        return name
