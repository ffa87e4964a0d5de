"""A second reader of the storage format, written from docs/format.md alone.

It shares no code with aotcache, so that where both read the same bytes alike, the page says
enough. It is short rather than fast: it fetches whole packs and checks all before it writes any.
"""

import ast
import base64
import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from blake3 import blake3
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

STATEMENT_TYPE = b"application/vnd.aotcache.statement.v%d+json+zstd"
HEADER_BYTES, FRAME_BYTES, RELOCATED_BYTES = 65_536, 67_108_864, 1_048_576
BLOB_BYTES = 100_663_296
TREES, SECONDS = 64, 1_000_000_000
WINDOW = {int(zstd.DecompressionParameter.window_log_max): 27}
TREE = "(vllm-aot)/([0-9a-f]{64})|(vllm-jit)/([0-9a-f]{10})|(inductor)/([A-Za-z0-9][\\w.-]{0,127})"
KEY = re.compile(
    rf"([a-z0-9](?:[a-z0-9-]{{0,61}}[a-z0-9])?)/trees/(?:{TREE})/([0-9a-f]{{32}})"
    r"/(shared|rank_\d+_\d+-d\d+)/(\d{8})\.manifest",
    re.ASCII,
)
PLATFORM = ("arch", "cpu", "cuda", "device", "hip", "libc", "machine", "python", "torch", "triton")
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._,+=@-]{0,199}")
MARKS = {"dir": "<<aotcache:dir>>", "tree": "<<aotcache:tree>>"}
MALFORMED = (LookupError, TypeError, ValueError, AttributeError, SyntaxError, ArithmeticError)
LIBRARIES = (RecursionError, zstd.ZstdError, InvalidSignature)


class Refused(Exception):
    """The bytes are not what the page says they have to be."""


def _require(condition: object, what: str) -> None:
    if not condition:
        raise Refused(what)


@contextmanager
def _refusing() -> Iterator[None]:
    """Turn what libraries say about bytes that the code does not expect into refusals."""
    try:
        yield
    except (*MALFORMED, *LIBRARIES) as error:
        raise Refused(repr(error)) from error


def _frame(stored: bytes, raw: int, prefix: bytes | None = None) -> bytes:
    reference = None if prefix is None else zstd.ZstdDict(prefix, is_raw=True).as_prefix
    frame = zstd.ZstdDecompressor(zstd_dict=reference, options=WINDOW)
    content = bytes(frame.decompress(stored, max_length=raw + 1))
    _require(frame.eof and not frame.unused_data and len(content) == raw, "not one zstd frame")
    return content


def _split(manifest: bytes) -> tuple[dict[str, Any], bytes, bytes]:
    line, feed, body = manifest.partition(b"\n")
    _require(feed and len(line) <= HEADER_BYTES, "no header line")
    header = json.loads(line)
    version = {"aotcache-manifest/1": 1, "aotcache-manifest/2": 2}.get(header["format"])
    _require(version, f"format {header['format']!r}")
    _require((header.get("base", 0) > 0) == (version == 2), "a base of the other format")
    _require(not header.get("base_statement"), "a base that belongs to a node's own copy")
    cut = header["statement"]
    _require(0 <= cut <= len(body) == cut + header["locations"], "not two sections")
    return header, body[:cut], body[cut:]


def _section(stored: bytes, base: bytes | None = None) -> bytes:
    return _frame(stored, zstd.get_frame_info(stored).decompressed_size or 0, base)


@_refusing()
def read_manifest(manifest: bytes, base: bytes | None = None) -> dict[str, Any]:
    """{"header", "statement", "locations"} as decoded JSON; verifies nothing but their form.

    `base` is the manifest that the header's `base` names, where it names one.
    """
    header, statement, locations = _split(manifest)
    before = None
    if header.get("base"):
        first, section, _ = _split(base or b"")
        named, statement = statement[:32], statement[32:]
        _require(not first.get("base"), "a base has a base")
        _require(blake3(section).digest() == named, "not the base it was written against")
        before = _section(section)
    return {
        "header": header,
        "statement": json.loads(_section(statement, before)),
        "locations": json.loads(_section(locations)),
    }


@_refusing()
def verify(manifest: bytes, trusted: str) -> None:
    """Refuse a manifest without a good signature by the key of one trusted-keys line."""
    header, statement, _ = _split(manifest)
    kind, encoded = trusted.split()[:2]
    public = Ed25519PublicKey.from_public_bytes(raw := base64.b64decode(encoded, validate=True))
    key = hashlib.sha256(raw).hexdigest()[:32]
    signatures = [one["sig"] for one in header["signatures"] if one["key"] == key]
    _require(kind == "aotcache-ed25519" and signatures, "not signed by the trusted key")
    signed = STATEMENT_TYPE % (2 if header.get("base") else 1)
    sizes = b"%d %b %d" % (len(signed), signed, len(statement))
    for signature in signatures:
        raw = base64.b64decode(signature, validate=True)
        public.verify(raw, b"DSSEv1 " + sizes + b" " + statement)


def _check_path(path: str) -> None:
    names = path.split("/")
    _require(len(path) <= 512 and all(map(NAME.fullmatch, names)), f"path {path!r}")


def _check_statement(key: str, statement: dict[str, Any]) -> None:
    place = KEY.fullmatch(key)
    *expected, platform_id, part, generation = filter(None, place.groups() if place else ())
    stated = [statement[field] for field in ("namespace", "layout", "hash", "part", "generation")]
    _require(stated == [*expected, part, int(generation)] and stated[4], "not what the key says")
    platform = {name: statement["platform"][name] for name in PLATFORM}
    canonical = json.dumps(platform, sort_keys=True, separators=(",", ":")).encode()
    _require(hashlib.sha256(canonical).hexdigest()[:32] == platform_id, "platform id")
    trees = statement.get("trees", [])
    for tree in trees:
        _require(re.fullmatch(TREE, f"{tree['layout']}/{tree['hash']}", re.ASCII), "a tree's name")
        _require(0 <= (tree.get("compile_seconds") or 0) <= SECONDS, "a tree's compile_seconds")
    _require(len(trees) <= TREES, "too many trees")
    paths = [path for path, *_ in statement["files"]]
    lowered = {path.lower() for path in paths}
    _require(paths == sorted(paths) and len(lowered) == len(paths), "order of paths")
    for path, size, mode, digest, relocate in statement["files"]:
        _check_path(path)
        directories = {path[: at.start()].lower() for at in re.finditer("/", path)}
        _require(lowered.isdisjoint(directories), f"{path} lies in a file")
        _require(mode in (420, 493), f"mode of {path}")
        _require(re.fullmatch("[0-9a-f]{64}", digest), f"digest of {path}")
        _require(not relocate or size <= RELOCATED_BYTES, f"{path} is too large to relocate")


class _Blobs:
    """Reads blobs by digest out of the packs of one manifest."""

    def __init__(self, manifest: dict[str, Any], read_object: Callable[[str], bytes]) -> None:
        files, locations = manifest["statement"]["files"], manifest["locations"]
        self._namespace, self._read_object = manifest["statement"]["namespace"], read_object
        digests = [*dict.fromkeys(file[3] for file in files), *locations["extra"]]
        self._places = dict(zip(digests, locations["blobs"], strict=True))
        self._packs, self._read = locations["packs"], dict[str, bytes]()

    def read(self, digest: str, *, is_prefix: bool = False) -> bytes:
        pack, offset, size = self._places[digest]
        _require(size <= BLOB_BYTES, "size of a blob")
        content, at, stored_at = b"", 0, 0
        for stored, raw, *reference in self._packs[pack]["frames"] if size else ():
            prefix, start, length = [*reference, *(None, 0, 0)[len(reference) :]]
            _require(0 <= raw <= FRAME_BYTES, "size of a frame")
            if at < offset + size and offset < at + raw:
                _require(prefix is None or not is_prefix, "a prefix needs a prefix")
                before = None if prefix is None else self.read(prefix, is_prefix=True)
                if before is not None and length:
                    before = before[start : start + length]
                    _require(len(before) == length >= 8, "a piece that the prefix does not have")
                frame = self._pack(self._packs[pack]["name"])[stored_at : stored_at + stored]
                content += _frame(frame, raw, before)[max(offset - at, 0) : offset + size - at]
            at, stored_at = at + raw, stored_at + stored
        _require(len(content) == size, "a blob reaches beyond its pack")
        _require(blake3(content).hexdigest() == digest, f"blob {digest} has other bytes")
        return content

    def _pack(self, name: str) -> bytes:
        if name not in self._read:
            _require(re.fullmatch("[0-9a-f]{64}-[0-9a-f]{32}", name), f"pack {name!r}")
            pack = self._read_object(f"{self._namespace}/packs/{name[:2]}/{name}")
            _require(hashlib.sha256(pack).hexdigest() == name[:64], f"{name} has other bytes")
            self._read[name] = pack
        return self._read[name]


def _child_paths(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.get("child_paths", {}).values()
        value = list(value.values())
    for child in value if isinstance(value, list) else ():
        yield from _child_paths(child)


def _relocated(content: bytes, relocate: str, tree: Path, path: str) -> bytes:
    mark, text = MARKS[relocate], content.decode()
    if relocate == "dir":
        followed = list(_child_paths(json.loads(text)))
        place = json.dumps(str((tree / path).parent))[1:-1]
    else:
        values = [n.value for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Constant)]
        followed = [v for v in values if isinstance(v, str) and v.startswith(("/", mark))]
        place = repr(str(tree))[1:-1]
    for target in followed:
        _require(target.startswith(mark + "/"), f"{path} follows {target!r}")
        _check_path(target[len(mark) + 1 :])
    return text.replace(mark, place).encode()


def install(
    read_object: Callable[[str], bytes], manifest_key: str, destination: Path, trusted: str | None
) -> None:
    """Write all files of one manifest below `destination`, the absolute path of the tree.

    `trusted` is a trusted-keys line; None accepts any manifest. Refused: nothing is written.
    """
    stored = read_object(manifest_key)
    if trusted is not None:
        verify(stored, trusted)
    contents = list[tuple[Path, int, bytes]]()
    with _refusing():
        generation = _split(stored)[0].get("base", 0)
        base_key = re.sub(r"\d{8}(?=\.manifest$)", f"{generation:08}", manifest_key)
        _require(base_key < manifest_key or not generation, "written against a later one")
    manifest = read_manifest(stored, read_object(base_key) if generation else None)
    with _refusing():
        _check_statement(manifest_key, manifest["statement"])
        blobs = _Blobs(manifest, read_object)
        for path, size, mode, digest, relocate in manifest["statement"]["files"]:
            content = blobs.read(digest)
            _require(len(content) == size, f"size of {path}")
            if relocate:
                content = _relocated(content, relocate, destination, path)
                _require(len(content) <= RELOCATED_BYTES, f"{path} has too many paths")
            contents.append((destination / path, mode, content))
    for target, mode, content in contents:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        target.chmod(mode)
