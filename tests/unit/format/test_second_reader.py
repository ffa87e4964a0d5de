"""Two readers of one format: the one written from docs/format.md, and aotcache's own."""

import base64
import hashlib
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aotcache.core.framing import digest_of
from aotcache.core.places import Places
from aotcache.core.relocation import put_back
from aotcache.core.trust import SIGNED, TrustPolicy, generate_key, make_policy, parse_trusted_keys
from aotcache.errors import ManifestError, PackError, TrustError
from aotcache.protocol.compression import zstd
from aotcache.protocol.manifest import EXECUTABLE, PLAIN, decode_manifest
from aotcache.protocol.names import (
    INDUCTOR,
    SHARED,
    VLLM_AOT,
    VLLM_JIT,
    pack_key,
    parse_manifest_key,
    sibling_key,
)
from aotcache.protocol.sections import ReadBase
from aotcache.storage import open_store
from aotcache.sync.fetch import Fetcher
from unit.format.make_golden import GOLDEN, listing
from unit.format.reader import Refused, install, read_manifest, verify
from unit.format.sample import FIRST, JIT, SECOND, File, Files, aot_tree, jit_tree
from unit.format.writer import Writer

VERSIONS = ("v1", "v2")
OBJECTS = GOLDEN / "v1" / "objects"


def trusted(version: str) -> str:
    return (GOLDEN / version / "trusted-keys").read_text().strip()


def installed(version: str) -> dict[str, dict[str, list[Any]]]:
    found: dict[str, dict[str, list[Any]]] = json.loads(
        (GOLDEN / version / "installed.json").read_text()
    )
    return found


TRUSTED, INSTALLED = trusted("v1"), installed("v1")
ALL = [(version, key) for version in VERSIONS for key in installed(version)]


def golden(key: str, version: str = "v1") -> bytes:
    return (GOLDEN / version / "objects" / key).read_bytes()


def read_base(key: str, version: str) -> ReadBase:
    return lambda generation: golden(sibling_key(key, generation), version)


def policy(line: str) -> TrustPolicy:
    return make_policy(SIGNED, parse_trusted_keys(line, "the test"))


def on_disk(tree: Path) -> Files:
    """What lies below a directory, as the tree it is."""
    return {
        str(path.relative_to(tree)): File(path.read_bytes(), stat.S_IMODE(path.stat().st_mode))
        for path in tree.rglob("*")
        if path.is_file()
    }


def as_json(value: object) -> Any:
    return json.loads(json.dumps(value))


@pytest.mark.parametrize("version", VERSIONS)
def test_golden_files_hold_what_a_reader_has_to_cope_with(version: str) -> None:
    manifests = [
        decode_manifest(golden(key, version), read_base(key, version)) for key in installed(version)
    ]
    frames = {
        frame
        for manifest in manifests
        for pack in manifest.locations.packs
        for frame in pack.frames
    }
    entries = [entry for manifest in manifests for entry in manifest.statement.files]
    shared = [m for m in manifests if m.statement.part == SHARED and m.statement.hash == FIRST]
    assert any(frame.prefix for frame in frames)
    assert any(manifest.locations.extra for manifest in manifests)
    assert {entry.relocate for entry in entries} == {"", "dir", "tree"}
    assert {entry.mode for entry in entries} == {PLAIN, EXECUTABLE}
    assert any(entry.size == 0 for entry in entries)
    packs = [{pack.name for pack in manifest.locations.packs} for manifest in shared]
    assert packs[0] < packs[1]
    on_base = {one.base.generation for one in manifests if one.base}
    assert on_base == ({1} if version == "v2" else set())
    everything = [path for path in (GOLDEN / version).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in everything) < 200_000


@pytest.mark.parametrize(("version", "key"), ALL)
def test_the_second_reader_installs_golden_files(version: str, key: str, tmp_path: Path) -> None:
    install(lambda name: golden(name, version), key, tmp_path, trusted(version))
    assert as_json(listing(on_disk(tmp_path), str(tmp_path))) == installed(version)[key]


@pytest.mark.parametrize(("version", "key"), ALL)
def test_aotcache_reads_golden_files(version: str, key: str) -> None:
    store = open_store(f"file://{GOLDEN / version / 'objects'}")
    manifest = policy(trusted(version)).accept(store.get(key), key, read_base(key, version))
    statement, name = manifest.statement, parse_manifest_key(key)
    assert (statement.tree, statement.part, statement.generation) == (
        name.tree,
        name.part,
        name.generation,
    )
    places = Places()
    places.add_manifest(manifest)
    fetcher = Fetcher(store, statement.namespace, places, lambda _stored: None)
    blobs = {digest_of(b""): b""}
    fetcher.run(
        [fetcher.plan(entry.digest for entry in statement.files if entry.size)],
        lambda digest, _size, chunks: blobs.update({digest: b"".join(chunks)}),
    )
    assert all(digest_of(content) == digest for digest, content in blobs.items())
    files = {
        entry.path: File(
            put_back(blobs[entry.digest], entry.path, entry.relocate, "/at"), entry.mode
        )
        for entry in statement.files
    }
    assert as_json(listing(files, "/at")) == installed(version)[key]


@pytest.mark.parametrize(
    ("layout", "tree_hash", "make"),
    [
        (VLLM_AOT, SECOND, lambda tree: aot_tree(tree, "fresh", kernels=2)),
        (VLLM_JIT, JIT, jit_tree),
    ],
)
def test_what_is_written_now_installs_as_it_was(
    layout: str, tree_hash: str, make: Callable[[str], dict[str, Files]], tmp_path: Path
) -> None:
    signer = generate_key()
    writer = Writer(signer)
    tree = tmp_path / tree_hash
    parts = make(str(tree))
    for key in writer.publish(layout, tree_hash, parts):
        install(writer.objects.__getitem__, key, tree, signer.public_line())
    assert on_disk(tree) == {path: file for files in parts.values() for path, file in files.items()}


def test_another_base_is_refused_by_both(tmp_path: Path) -> None:
    """A storage that puts another statement in the place of a base changes no file list."""
    (key,) = [
        key
        for key in installed("v2")
        if f"{FIRST}/" in key and SHARED in key and parse_manifest_key(key).generation == 2
    ]
    first = sibling_key(key, 1)
    other = next(name for name in installed("v2") if f"{SECOND}/" in name and SHARED in name)

    def replaced(name: str) -> bytes:
        return golden(other if name == first else name, "v2")

    with pytest.raises(Refused, match="base"):
        install(replaced, key, tmp_path / "tree", trusted("v2"))
    assert not (tmp_path / "tree").exists()
    with pytest.raises(ManifestError, match="not the statement that this one was written against"):
        policy(trusted("v2")).accept(golden(key, "v2"), key, lambda _: golden(other, "v2"))
    with pytest.raises(ManifestError, match="has a base itself"):
        policy(trusted("v2")).accept(
            golden(key, "v2"), key, lambda _: golden(sibling_key(key, 3), "v2")
        )


def test_a_signature_is_of_one_format() -> None:
    key = next(key for key in installed("v2") if "00000002" in key)
    manifest = golden(key, "v2")
    for wrong in (b'/1","statement"', b'/1", "statement"'):
        changed = manifest.replace(b'/2","statement"', wrong, 1)
        refused_by_both(changed, trusted("v2"))


# -- tampering --------------------------------------------------------------------------------


def refused_by_both(manifest: bytes, line: str) -> None:
    with pytest.raises(Refused):
        verify(manifest, line)
    with pytest.raises((TrustError, ManifestError)):
        policy(line).accept(manifest, "the tree")


KEY = next(key for key in INSTALLED if SHARED in key)
RANK = next(key for key in INSTALLED if f"{FIRST}/" in key and "rank_0_0" in key)


def test_both_refuse_a_changed_statement() -> None:
    manifest = golden(KEY)
    statement_at = manifest.index(b"\n") + 1
    size = read_manifest(manifest)["header"]["statement"]
    for at in range(statement_at, statement_at + size, 97):
        changed = bytearray(manifest)
        changed[at] ^= 0x10
        refused_by_both(bytes(changed), TRUSTED)


def test_both_refuse_another_key() -> None:
    refused_by_both(golden(KEY), generate_key().public_line())


def test_both_refuse_a_signature_that_claims_to_be_of_a_trusted_key() -> None:
    head, _, body = golden(KEY).partition(b"\n")
    header = json.loads(head)
    header["signatures"][0]["sig"] = base64.b64encode(bytes(64)).decode()
    refused_by_both(json.dumps(header).encode() + b"\n" + body, TRUSTED)


def test_both_refuse_what_is_not_signed() -> None:
    writer = Writer(None)
    (key,) = writer.publish(INDUCTOR, "mine", {SHARED: {"a": File(b"a")}})
    refused_by_both(writer.objects[key], TRUSTED)


def test_both_refuse_the_next_format() -> None:
    manifest = golden(KEY).replace(b"aotcache-manifest/1", b"aotcache-manifest/3", 1)
    refused_by_both(manifest, TRUSTED)
    with pytest.raises(Refused, match="format"):
        read_manifest(manifest)
    with pytest.raises(ManifestError, match="upgrade"):
        decode_manifest(manifest)


def test_both_ignore_fields_they_do_not_know() -> None:
    head, _, body = golden(KEY).partition(b"\n")
    header = json.loads(head) | {"later": [1, {"more": None}]}
    manifest = json.dumps(header).encode() + b"\n" + body
    verify(manifest, TRUSTED)
    assert policy(TRUSTED).accept(manifest, "the tree") == decode_manifest(golden(KEY))


def test_the_second_reader_refuses_a_manifest_under_another_key(tmp_path: Path) -> None:
    moved = KEY.replace(FIRST, SECOND)
    objects = {moved: golden(KEY)}
    with pytest.raises(Refused):
        install(objects.__getitem__, moved, tmp_path, TRUSTED)
    assert not list(tmp_path.iterdir())


def test_changed_packs_are_refused_by_both(tmp_path: Path) -> None:
    def changed(key: str) -> bytes:
        data = bytearray(golden(key))
        if "/packs/" in key:
            data[len(data) // 2] ^= 1  # inside the model, which is most of the pack
        return bytes(data)

    with pytest.raises(Refused, match="other bytes"):
        install(changed, RANK, tmp_path / "tree", TRUSTED)
    assert not (tmp_path / "tree").exists()

    manifest = decode_manifest(golden(RANK))
    store = open_store(f"file://{tmp_path}/store")
    for pack in manifest.locations.packs:
        key = pack_key("default", pack.name)
        store.put(key, changed(key))
    places = Places()
    places.add_manifest(manifest)
    with pytest.raises(PackError):
        Fetcher(store, "default", places, lambda _stored: None).read(
            manifest.statement.files[0].digest
        )


# -- any files --------------------------------------------------------------------------------

NAMES = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._,+=@-]{0,12}", fullmatch=True)
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
CONTENTS = st.one_of(
    st.binary(max_size=300),
    st.sampled_from([b"", b"same", b"same" * 5_000, b"<<aotcache:dir>>/x"]),
)
FILES = st.builds(File, CONTENTS, st.sampled_from([PLAIN, EXECUTABLE]))


def without_clashes(files: Files) -> Files:
    """The files whose paths may lie beside each other: none in the place of another's directory,
    none that differs by case only."""
    kept: Files = {}
    taken: set[str] = set()
    folders: set[str] = set()
    for path, file in sorted(files.items()):
        lowered = path.lower()
        above = {lowered[:at] for at, letter in enumerate(lowered) if letter == "/"}
        if lowered not in taken | folders and not above & taken:
            kept[path] = file
            taken.add(lowered)
            folders |= above
    return kept


TREES = st.dictionaries(PATHS, FILES, min_size=1, max_size=8).map(without_clashes)


@settings(max_examples=60, deadline=None)
@given(first=TREES, grown=TREES, signed=st.booleans())
def test_any_files_come_back(
    first: Files, grown: Files, signed: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    signer = generate_key() if signed else None
    writer = Writer(signer)
    trusted = signer.public_line() if signer else None
    second = without_clashes(grown | first)
    for files in (first, second):
        (key,) = writer.publish(INDUCTOR, "any", {SHARED: files})
        tree = tmp_path_factory.mktemp("tree")
        install(writer.objects.__getitem__, key, tree, trusted)
        assert on_disk(tree) == files


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_blobs_that_cross_frames_come_back(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    sizes = data.draw(st.lists(st.integers(0, 9 << 20), min_size=1, max_size=3))
    files = {
        f"blob{number}": File(hashlib.sha256(b"%d" % number).digest() * (size // 32 + 1))
        for number, size in enumerate(sizes)
    }
    writer = Writer(None)
    (key,) = writer.publish(INDUCTOR, "large", {SHARED: files})
    tree = tmp_path_factory.mktemp("tree")
    install(writer.objects.__getitem__, key, tree, None)
    assert on_disk(tree) == files


def test_a_section_that_does_not_declare_its_size_is_refused_by_both() -> None:
    head, _, body = golden(KEY).partition(b"\n")
    header = json.loads(head)
    statement = zstd.decompress(body[: header["statement"]])
    streamer = zstd.ZstdCompressor()
    undeclared = streamer.compress(statement) + streamer.flush()
    assert zstd.get_frame_info(undeclared).decompressed_size is None
    locations = body[header["statement"] :]
    header |= {"statement": len(undeclared), "signatures": []}
    manifest = json.dumps(header).encode() + b"\n" + undeclared + locations
    with pytest.raises(Refused):
        read_manifest(manifest)
    with pytest.raises(ManifestError):
        decode_manifest(manifest)
