import base64
import json
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from aotcache.errors import ManifestError
from aotcache.protocol.compression import zstd
from aotcache.protocol.manifest import (
    EXECUTABLE,
    MAX_FILES,
    MAX_FRAME,
    PLAIN,
    BlobPlace,
    FileEntry,
    Frame,
    Locations,
    PackPlace,
    decode_manifest,
    encode_manifest,
    encode_statement,
)
from aotcache.protocol.names import MAX_PARTS, VLLM_AOT, VLLM_JIT, manifest_key, parse_manifest_key
from aotcache.protocol.recipe import MAX_EXTRA, MAX_PARALLEL, MAX_TEXT
from aotcache.protocol.record import (
    MAX_FACTOR,
    MAX_FACTORS,
    MAX_FACTORS_IN_ALL,
    MAX_TREES_USED,
    TreeUsed,
)
from aotcache.protocol.sections import FORMAT, MAX_HEADER, Signature, split_manifest
from support.stored import HASH, PLATFORM, RECIPE, make_manifest

D1, D2, D3, D4 = (letter * 64 for letter in "1234")
PACK = PackPlace(f"{'a' * 64}-{'b' * 32}", (Frame(50, 100), Frame(5, 60, D4)))
NEXT = PackPlace(f"{'c' * 64}-{'d' * 32}", (Frame(30, 70),))
FILES = (
    FileEntry("a", 40, PLAIN, D1),
    FileEntry("b/__grp__k.json", 60, PLAIN, D2, "dir"),
    FileEntry("b/again", 40, EXECUTABLE, D1),
    FileEntry("b/empty", 0, PLAIN, D3),
    FileEntry("vllm_compile_cache.py", 60, PLAIN, D2, "tree"),
)
BLOBS = (BlobPlace(0, 0, 40), BlobPlace(0, 100, 60), BlobPlace(0, 0, 0), BlobPlace(1, 0, 70))
LOCATIONS = Locations(packs=(PACK, NEXT), blobs=BLOBS, extra=(D4,))
OTHER = TreeUsed(layout=VLLM_AOT, hash=HASH)
STATEMENT = msgspec.structs.replace(
    make_manifest()[0],
    part="rank_0_1-d2",
    recipe=RECIPE,
    expected_parts=("rank_0_1-d2", "shared"),
    compile_seconds=1.5,
    notes={"cpu": "Xeon® „Gold“"},
    trees=(TreeUsed(layout=VLLM_JIT, hash="0123456789", compile_seconds=1.5), OTHER),
    files=FILES,
)
SIGNATURES = (Signature("0" * 32, bytes(range(64))), Signature("1" * 32, b""))
MANIFEST = encode_manifest(encode_statement(STATEMENT), LOCATIONS, SIGNATURES)


def test_manifests_round_trip() -> None:
    manifest = decode_manifest(MANIFEST)
    assert manifest.statement == STATEMENT
    assert manifest.locations == LOCATIONS
    assert manifest.signatures == SIGNATURES
    assert manifest.statement_bytes == encode_statement(STATEMENT)
    assert manifest.statement.digests() == [D1, D2, D3]
    assert encode_manifest(manifest.statement_bytes, LOCATIONS, SIGNATURES) == MANIFEST


def test_the_header_is_that_of_the_format_page() -> None:
    line, _, body = MANIFEST.partition(b"\n")
    header = json.loads(line)
    assert header["format"] == FORMAT
    assert header["statement"] + header["locations"] == len(body)
    assert base64.b64decode(header["signatures"][0]["sig"]) == bytes(range(64))


def test_a_statement_knows_its_key() -> None:
    name = parse_manifest_key(manifest_key(STATEMENT.tree, STATEMENT.part, STATEMENT.generation))
    assert (name.tree, name.part) == (STATEMENT.tree, STATEMENT.part)
    assert name.tree.platform == PLATFORM.id


# -- bytes of any kind ------------------------------------------------------------------------


def refused(data: bytes, match: str | None = None) -> None:
    with pytest.raises(ManifestError, match=match):
        decode_manifest(data)


@given(data=st.binary(max_size=200))
@example(b"")
@example(b"\n")
@example(b"{}\n")
@example(b'{"format":"aotcache-manifest/1","statement":0,"locations":0}\n')
@example(b'{"format":"aotcache-manifest/1","statement":99999999999999999999,"locations":0}\n')
def test_any_bytes_are_refused(data: bytes) -> None:
    refused(data)
    refused(data + b"\n" + data)


@given(cut=st.integers(0, len(MANIFEST) - 1), more=st.binary(min_size=1, max_size=9))
def test_a_manifest_that_is_cut_or_longer_is_refused(cut: int, more: bytes) -> None:
    refused(MANIFEST[:cut])
    refused(MANIFEST + more)


def sections(statement: bytes, locations: bytes) -> bytes:
    header = {"format": FORMAT, "statement": len(statement), "locations": len(locations)}
    return json.dumps(header).encode() + b"\n" + statement + locations


STATED, PLACED = msgspec.json.encode(STATEMENT), msgspec.json.encode(LOCATIONS)


@pytest.mark.parametrize("place", ["header", "statement", "locations"])
def test_text_that_is_not_utf8_is_refused(place: str) -> None:
    if place == "header":
        refused(MANIFEST.replace(b"manifest/1", b"manifest\xff1", 1))
        return
    statement = STATED.replace(b"rank_0", b"rank\xff0") if place == "statement" else STATED
    locations = PLACED.replace(b"aa-b", b"aa\xffb") if place == "locations" else PLACED
    refused(sections(zstd.compress(statement), zstd.compress(locations)))


@settings(phases=[Phase.generate])  # shrinking through zstd and JSON takes a minute
@given(data=st.data())
def test_changed_bytes_are_a_manifest_or_refused(data: st.DataObject) -> None:
    """Flipped as stored, and flipped before compression: the second gets past zstd."""

    def flip(original: bytes) -> bytes:
        changed = bytearray(original)
        for _ in range(data.draw(st.integers(1, 3))):
            at = data.draw(st.integers(0, len(original) - 1))
            changed[at] = data.draw(st.one_of(st.integers(0, 255), st.sampled_from(b'"[{}],0-')))
        return bytes(changed)

    inner = sections(zstd.compress(flip(STATED)), zstd.compress(flip(PLACED)))
    for tried in (flip(MANIFEST), inner):
        with suppress(ManifestError):
            decode_manifest(tried)


JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just(D1)
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(data=st.data())
def test_any_json_in_a_field_is_a_manifest_or_refused(data: st.DataObject) -> None:
    both = [json.loads(STATED), json.loads(PLACED)]
    which = data.draw(st.sampled_from(both))
    field = data.draw(st.sampled_from(sorted(which)))
    target = which
    if isinstance(which[field], list) and data.draw(st.booleans()):
        target, field = which[field], 0
    elif isinstance(which[field], dict) and which[field] and data.draw(st.booleans()):
        target, field = which[field], data.draw(st.sampled_from(sorted(which[field])))
    target[field] = data.draw(JSON)
    statement, locations = (zstd.compress(json.dumps(one).encode()) for one in both)
    with suppress(ManifestError):
        decode_manifest(sections(statement, locations))


@pytest.mark.parametrize("deep", [b"[" * 200_000, b'{"a":' * 200_000])
def test_deep_sections_are_refused(deep: bytes) -> None:
    fine = zstd.compress(PLACED)
    refused(sections(zstd.compress(b'{"later":' + deep), fine))
    refused(sections(zstd.compress(STATED), zstd.compress(b'{"later":' + deep)))


def test_a_deep_header_is_refused() -> None:
    deep = b"[" * 30_000 + b"]" * 30_000
    refused(b'{"format":"aotcache-manifest/1","statement":0,"locations":0,"later":%b}\n' % deep)


@pytest.mark.parametrize("key", ["0" * 31, "\\n" + "0" * 31, "0" * 32 + "\\n", "A" * 32])
def test_a_key_that_signed_is_named_as_keys_are(key: str) -> None:
    """The name is in logs, in the index and on pages, and nothing of it is verified there."""
    refused(MANIFEST.replace(b"0" * 32, key.encode(), 1), match="header")


# -- header and sections ----------------------------------------------------------------------


def test_another_format_says_what_to_do() -> None:
    refused(MANIFEST.replace(b"manifest/1", b"manifest/3", 1), match="upgrade")


def test_fields_that_are_not_known_are_ignored() -> None:
    statement = zstd.compress(json.dumps(json.loads(STATED) | {"later": 1}).encode())
    locations = zstd.compress(json.dumps(json.loads(PLACED) | {"later": {}}).encode())
    manifest = decode_manifest(sections(statement, locations))
    assert (manifest.statement, manifest.locations) == (STATEMENT, LOCATIONS)


def test_a_header_has_an_end() -> None:
    line, _, body = MANIFEST.partition(b"\n")
    padded = line + b" " * (MAX_HEADER - len(line) - 1)
    assert split_manifest(padded + b"\n" + body) == split_manifest(MANIFEST)
    refused(padded + b"  \n" + body, match="header")


def test_a_section_is_exactly_one_frame() -> None:
    statement, locations = zstd.compress(STATED), zstd.compress(PLACED)
    assert decode_manifest(sections(statement, locations)).statement == STATEMENT
    skippable = b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"
    for wrong in (
        b"",
        STATED,
        statement + statement,
        statement + b"x",
        statement + skippable,
        skippable + statement,
        statement[:-1],
    ):
        refused(sections(wrong, locations))


def test_a_section_that_claims_to_be_huge_costs_nothing() -> None:
    bomb = zstd.compress(bytes(300 << 20), 1)
    assert len(bomb) < 1 << 20
    refused(sections(bomb, zstd.compress(PLACED)), match="too large")


# -- rules of the statement and the locations -------------------------------------------------


def encoded(**changes: Any) -> bytes:
    """The manifest with fields of either section replaced."""
    places = {k: changes.pop(k) for k in ("packs", "blobs", "extra") if k in changes}
    return encode_manifest(
        encode_statement(msgspec.structs.replace(STATEMENT, **changes)),
        msgspec.structs.replace(LOCATIONS, **places),
        (),
    )


def file(**changes: Any) -> tuple[FileEntry, ...]:
    return (msgspec.structs.replace(FILES[0], **changes), *FILES[1:])


FACTORS = (
    {str(number): "" for number in range(MAX_FACTORS + 1)},
    {"x" * (MAX_FACTOR + 1): ""},
    {"x": "x" * (MAX_FACTOR + 1)},
    {str(number): "x" * MAX_FACTOR for number in range(MAX_FACTORS_IN_ALL // MAX_FACTOR)},
    {"two\nlines": ""},
)


@pytest.mark.parametrize(
    "changes",
    [
        {"namespace": "-"},
        {"layout": "other"},
        {"hash": "a" * 63},
        {"part": "rank_0_0"},
        {"generation": 0},
        {"generation": 100_000_000},
        {"publish_id": "1"},
        {"expected_parts": ("all",)},
        {"expected_parts": ("shared",) * (MAX_PARTS + 1)},
        {"publisher": "n" * 256},
        {"publisher": "node\x1b[31m"},
        *({field: wrong} for field in ("hash_factors", "notes") for wrong in FACTORS),
        {"trees": (OTHER,) * (MAX_TREES_USED + 1)},
        {"files": ()},
        {"files": file(path="../etc/passwd")},
        {"files": file(path="/etc/passwd")},
        {"files": file(path="B/EMPTY")},
        {"files": file(path="b")},
        {"files": file(mode=0o4755)},
        {"files": file(mode=0o777)},
        {"files": file(relocate="other")},
        {"files": file(size=41)},
        {"files": file(size=-1)},
        {"files": file(digest="A" * 64)},
        {"files": file(digest=D1 + "\n")},
        {"files": FILES[1:]},
        {"packs": ()},
        {"packs": (PACK,)},
        {"packs": (msgspec.structs.replace(PACK, name="../x"), NEXT)},
        {"packs": (PACK, msgspec.structs.replace(NEXT, frames=(Frame(30, 69),)))},
        {"packs": (PACK, msgspec.structs.replace(NEXT, frames=()))},
        {"packs": (PACK, msgspec.structs.replace(NEXT, frames=(Frame(0, 70),)))},
        {"packs": (PACK, msgspec.structs.replace(NEXT, frames=(Frame(9, 70), Frame(9, 0))))},
        {"packs": (PACK, msgspec.structs.replace(NEXT, frames=(Frame(9, MAX_FRAME + 1),)))},
        {"packs": (PACK, msgspec.structs.replace(NEXT, frames=(Frame(9, 70, "x"),)))},
        {"packs": (PACK, msgspec.structs.replace(NEXT, frames=(Frame(9, 70, D4, 0, 7),)))},
        {"packs": (PACK, msgspec.structs.replace(NEXT, frames=(Frame(9, 70, D4, 1 << 26, 8),)))},
        {"blobs": BLOBS[:3]},
        {"blobs": (*BLOBS, BLOBS[0])},
        {"blobs": (BlobPlace(0, 0, 41), *BLOBS[1:])},
        {"blobs": (BlobPlace(0, 121, 40), *BLOBS[1:])},
        {"blobs": (BlobPlace(2, 0, 40), *BLOBS[1:])},
        {"blobs": (BlobPlace(-1, 0, 40), *BLOBS[1:])},
        {"extra": ()},
        {"extra": (D1,)},
        {"extra": (D4, D4), "blobs": (*BLOBS, BLOBS[3])},
    ],
)
def test_rules_of_the_format(changes: dict[str, Any]) -> None:
    most = {str(number): "x" * 1000 for number in range(MAX_FACTORS)}
    assert decode_manifest(
        encoded(
            expected_parts=("shared",) * MAX_PARTS,
            publisher="n" * 255,
            hash_factors=most,
            notes={"x" * 100: "two\nlines"},
        )
    )
    refused(encoded(**changes))


@pytest.mark.parametrize("field", ["namespace", "hash", "part", "platform", "files", "publish_id"])
def test_fields_that_must_be_there(field: str) -> None:
    statement = json.loads(STATED)
    del statement[field]
    refused(sections(zstd.compress(json.dumps(statement).encode()), zstd.compress(PLACED)))


def stating(**fields: Any) -> bytes:
    statement = json.loads(STATED) | fields
    return sections(zstd.compress(json.dumps(statement).encode()), zstd.compress(PLACED))


@pytest.mark.parametrize(
    "used",
    [
        {"layout": "vllm-jit", "hash": "../../etc"},
        {"layout": "other", "hash": "0123456789"},
        {"layout": "vllm-jit"},
        {"layout": "vllm-jit", "hash": "0123456789", "compile_seconds": -1},
        {"layout": "vllm-jit", "hash": "0123456789", "compile_seconds": 1e300},
    ],
)
def test_trees_used_are_checked(used: dict[str, Any]) -> None:
    assert decode_manifest(stating(trees=[{"layout": "vllm-jit", "hash": "0123456789"}]))
    refused(stating(trees=[used]))


@pytest.mark.parametrize(
    "change",
    [
        {"model": "m" * (MAX_TEXT + 1)},
        {"model": "ö" * (MAX_TEXT // 2 + 1)},
        {"engine": "vl\nlm"},
        {"tensor_parallel_size": -1},
        {"tensor_parallel_size": MAX_PARALLEL + 1},
        {"tensor_parallel_size": 1 << 80},
        {"extra": {str(number): "" for number in range(MAX_EXTRA + 1)}},
        {"extra": {"x" * MAX_TEXT: ""}},
        {"extra": {"x": "\x1b[31m"}},
        {"extra": {"x": 1}},
    ],
)
def test_recipes_are_bounded(change: dict[str, Any]) -> None:
    recipe = json.loads(STATED)["recipe"]
    most = {"model": "m" * MAX_TEXT, "extra": {str(n): "ö" for n in range(MAX_EXTRA)}}
    assert decode_manifest(stating(recipe=recipe | most))
    refused(stating(recipe=recipe | change))


def test_a_section_that_becomes_more_than_it_is() -> None:
    """A few kilobytes stored, some megabytes of JSON, and gigabytes of objects."""
    begin, end = PLACED.split(b'"frames":[', 1)
    many = b'"frames":[' + b"[1,1]," * (3 * MAX_FILES + 1)
    bomb = zstd.compress(begin + many + end)
    assert len(bomb) < 100_000
    with pytest.raises(ManifestError, match="more than can be said of 500000 files"):
        decode_manifest(sections(zstd.compress(STATED), bomb))
    texts = b",".join(b'"%d":""' % number for number in range(2 * MAX_FILES + 1))
    notes = zstd.compress(STATED[:-1] + b',"notes":{' + texts + b"}}")
    with pytest.raises(ManifestError, match="more than can be said"):
        decode_manifest(sections(notes, zstd.compress(PLACED)))


@pytest.mark.parametrize(("stored", "good"), [(4096 + 16 + 512, True), (4096 + 16 + 513, False)])
def test_a_frame_is_hardly_longer_than_what_it_holds(stored: int, *, good: bool) -> None:
    """Or a request for it could ask for anything."""
    placed = json.loads(PLACED)
    frames = placed["packs"][0]["frames"]
    frames.append([stored, 4096])
    data = sections(zstd.compress(STATED), zstd.compress(json.dumps(placed).encode()))
    if good:
        decode_manifest(data)
    else:
        refused(data)
