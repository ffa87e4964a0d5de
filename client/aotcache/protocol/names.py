"""Names of trees, parts and objects: one grammar, checked wherever a name enters or leaves.

A tree's key is (namespace, layout, hash, platform). Objects lie under

    {namespace}/packs/{aa}/{sha256}-{publish id}
    {namespace}/trees/{layout}/{hash}/{platform}/{part}/{generation:08}.manifest
    {namespace}/marks/deleted/{layout}/{hash}/{platform}/{part}/{generation:08}
    {namespace}/marks/quarantined/{layout}/{hash}/{platform}/{part}/{generation:08}
    {namespace}/marks/revoked/{key id}
    {namespace}/marks/pinned/{layout}/{hash}/{platform}
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

import msgspec

from aotcache.errors import InvalidNameError, UsageError

VLLM_AOT = "vllm-aot"
VLLM_JIT = "vllm-jit"
INDUCTOR = "inductor"
LAYOUTS = (VLLM_AOT, VLLM_JIT, INDUCTOR)

DEFAULT_NAMESPACE = "default"
SHARED = "shared"
MAX_GENERATION = 99_999_999
MAX_PARTS = 4096  # of one tree

_NAMESPACE = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_HASH = {
    VLLM_AOT: re.compile(r"[0-9a-f]{64}"),
    VLLM_JIT: re.compile(r"[0-9a-f]{10}"),
    # A name the user chose; never a dot first, so that it is never `.` or `..` or hidden.
    INDUCTOR: re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"),
}
_PLATFORM_ID = re.compile(r"[0-9a-f]{32}")
_PART = re.compile(r"shared|rank_(0|[1-9]\d{0,5})_(0|[1-9]\d{0,5})-d(0|[1-9]\d{0,3})")
_PUBLISH_ID = re.compile(r"[0-9a-f]{32}")
_KEY_ID = re.compile(r"[0-9a-f]{32}")
_PACK = re.compile(r"[0-9a-f]{64}-[0-9a-f]{32}")
_GENERATION = re.compile(r"\d{8}")
_OBJECT_KEY = re.compile(r"[a-z0-9][a-z0-9-]*(?:/[A-Za-z0-9_][A-Za-z0-9._-]*)+")
MAX_OBJECT_KEY = 512
# A header of both directions: what a client sends is in the service's log, and in its answer.
REQUEST_ID = "X-Request-Id"
MAX_OBJECT = 128 << 20  # bytes; what is larger is none of ours, and is not read whole


_RULES = {
    _NAMESPACE: "1 to 63 of a-z 0-9 -, no - first or last",
    _HASH[VLLM_AOT]: "64 of 0-9 a-f",
    _HASH[VLLM_JIT]: "10 of 0-9 a-f",
    _HASH[INDUCTOR]: "1 to 128 letters, digits, . _ -, first a letter or digit",
    _PLATFORM_ID: "32 of 0-9 a-f",
    _PART: "shared, or rank_R_D-dN with rank, data-parallel rank and device index",
    _PUBLISH_ID: "32 of 0-9 a-f",
    _PACK: "SHA-256, -, publish id",
    _GENERATION: "8 digits",
    _OBJECT_KEY: "names of A-Z a-z 0-9 . _ - between single slashes, the first a namespace",
}


def _check(pattern: re.Pattern[str], value: str, what: str) -> str:
    if not pattern.fullmatch(value):
        raise InvalidNameError(f"{value[:140]!r} is not a valid {what}: {_RULES[pattern]}")
    return value


def check_namespace(value: str) -> str:
    return _check(_NAMESPACE, value, "namespace")


def check_layout(value: str) -> str:
    if value not in LAYOUTS:
        raise InvalidNameError(f"{value[:140]!r} is not a layout; there are {', '.join(LAYOUTS)}")
    return value


def check_hash(layout: str, value: str) -> str:
    what = "key" if layout == INDUCTOR else f"{layout} hash"
    return _check(_HASH[check_layout(layout)], value, what)


def check_platform_id(value: str) -> str:
    return _check(_PLATFORM_ID, value, "platform id")


def check_part(value: str) -> str:
    return _check(_PART, value, "part")


def check_parts(values: Sequence[str]) -> None:
    """Raises UsageError for more than a tree has."""
    if len(values) > MAX_PARTS:
        raise UsageError(f"a tree has at most {MAX_PARTS} parts, not {len(values)}")
    for value in values:
        check_part(value)


def check_publish_id(value: str) -> str:
    return _check(_PUBLISH_ID, value, "publish id")


def check_pack(value: str) -> str:
    return _check(_PACK, value, "pack name")


def check_generation(value: int) -> int:
    if not 1 <= value <= MAX_GENERATION:
        raise InvalidNameError(f"{value} is not a generation (1 to {MAX_GENERATION})")
    return value


def check_object_key(value: str) -> str:
    """A key as it may enter or leave object storage: no `.`, `..`, `//`, no leading slash."""
    if len(value) > MAX_OBJECT_KEY:
        raise InvalidNameError(f"an object key has at most {MAX_OBJECT_KEY} characters")
    return _check(_OBJECT_KEY, value, "object key")


def namespace_of(key: str) -> str:
    return check_object_key(key).split("/", 1)[0]


def new_publish_id() -> str:
    return os.urandom(16).hex()


def rank_part(rank: int, dp_rank: int, device: int) -> str:
    """The part of one rank: `rank_{rank}_{dp_rank}-d{device index}`."""
    return check_part(f"rank_{rank}_{dp_rank}-d{device}")


def part_directory(part: str) -> str:
    """The directory of a rank's part inside the tree: `rank_0_0-d3` lies in `rank_0_0`."""
    if part == SHARED:
        raise InvalidNameError("the shared part has no directory of its own in every layout")
    return check_part(part).rsplit("-d", 1)[0]


class TreeKey(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """What names one tree. `platform` is a `Platform.id`."""

    namespace: str
    layout: str
    hash: str
    platform: str

    def __post_init__(self) -> None:
        check_namespace(self.namespace)
        check_hash(self.layout, self.hash)
        check_platform_id(self.platform)

    @property
    def path(self) -> str:
        return f"{self.layout}/{self.hash}/{self.platform}"

    def __str__(self) -> str:
        return f"{self.namespace}/{self.layout}/{self.hash[:12]} (platform {self.platform[:8]})"


class PackName(msgspec.Struct, frozen=True):
    """sha256: of the pack's bytes, hexadecimal."""

    namespace: str
    sha256: str
    publish_id: str


def pack_key(namespace: str, pack: str) -> str:
    return f"{check_namespace(namespace)}/packs/{check_pack(pack)[:2]}/{pack}"


def parse_pack_key(key: str) -> PackName:
    pieces = check_object_key(key).split("/")
    if len(pieces) != 4 or key != pack_key(pieces[0], pieces[3]):
        raise InvalidNameError(f"{key!r} is not the key of a pack")
    sha256, _, publish_id = pieces[3].partition("-")
    return PackName(pieces[0], sha256, publish_id)


def trees_prefix(namespace: str) -> str:
    return f"{check_namespace(namespace)}/trees/"


def deleted_prefix(namespace: str) -> str:
    return f"{check_namespace(namespace)}/marks/deleted/"


def manifest_key(tree: TreeKey, part: str, generation: int) -> str:
    check_part(part)
    check_generation(generation)
    return f"{trees_prefix(tree.namespace)}{tree.path}/{part}/{generation:08}.manifest"


def sibling_key(key: str, generation: int) -> str:
    """The manifest of another generation of the same part."""
    name = parse_manifest_key(key)
    return manifest_key(name.tree, name.part, generation)


def deleted_key(tree: TreeKey, part: str, generation: int) -> str:
    """The marker that says: generations of this part up to this one are deleted."""
    check_part(part)
    check_generation(generation)
    return f"{deleted_prefix(tree.namespace)}{tree.path}/{part}/{generation:08}"


def quarantined_prefix(tree: TreeKey, part: str) -> str:
    namespace = check_namespace(tree.namespace)
    return f"{namespace}/marks/quarantined/{tree.path}/{check_part(part)}/"


def quarantined_key(tree: TreeKey, part: str, generation: int) -> str:
    """The marker that says: generations of this part up to this one are quarantined."""
    check_generation(generation)
    return f"{quarantined_prefix(tree, part)}{generation:08}"


def revoked_key(namespace: str, key: str) -> str:
    """The marker that says: what this key signed is not served."""
    return f"{check_namespace(namespace)}/marks/revoked/{check_key_id(key)}"


def pinned_prefix(namespace: str) -> str:
    return f"{check_namespace(namespace)}/marks/pinned/"


def pinned_key(tree: TreeKey) -> str:
    """The marker that says: this tree is not deleted."""
    return f"{pinned_prefix(tree.namespace)}{tree.path}"


def parse_pinned_key(key: str) -> TreeKey:
    pieces = check_object_key(key).split("/")
    if len(pieces) != 6 or pieces[1:3] != ["marks", "pinned"]:
        raise InvalidNameError(f"{key!r} does not mark a pinned tree")
    return TreeKey(namespace=pieces[0], layout=pieces[3], hash=pieces[4], platform=pieces[5])


def check_key_id(value: str) -> str:
    """Raises InvalidNameError for what is no signing key's id."""
    if not _KEY_ID.fullmatch(value):
        raise InvalidNameError(
            f"{value[:140]!r} is not the id of a key: 32 of 0-9 a-f, as `aotcache key show` says"
        )
    return value


class PartName(msgspec.Struct, frozen=True):
    tree: TreeKey
    part: str
    generation: int


def _parse_part(key: str, kind: str, suffix: str) -> PartName:
    pieces = check_object_key(key).removesuffix(suffix).split("/")
    size = 1 + kind.count("/") + 1
    if "/".join(pieces[1:size]) != kind or len(pieces) != size + 5 or not key.endswith(suffix):
        raise InvalidNameError(f"{key!r} is not the key of a {kind} object")
    layout, tree_hash, platform, part, generation = pieces[size:]
    tree = TreeKey(namespace=pieces[0], layout=layout, hash=tree_hash, platform=platform)
    number = int(_check(_GENERATION, generation, "generation"))
    return PartName(tree, check_part(part), check_generation(number))


def parse_manifest_key(key: str) -> PartName:
    return _parse_part(key, "trees", ".manifest")


def parse_deleted_key(key: str) -> PartName:
    return _parse_part(key, "marks/deleted", "")


def parse_quarantined_key(key: str) -> PartName:
    return _parse_part(key, "marks/quarantined", "")


def parse_revoked_key(key: str) -> tuple[str, str]:
    """Namespace and key id."""
    pieces = check_object_key(key).split("/")
    if len(pieces) != 4 or pieces[1:3] != ["marks", "revoked"]:
        raise InvalidNameError(f"{key!r} does not mark a revoked key")
    return check_namespace(pieces[0]), check_key_id(pieces[3])
