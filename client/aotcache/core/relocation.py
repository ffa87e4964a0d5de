"""Relocation: absolute paths out of what is stored, and back in at the place of the install.

Two kinds of files hold absolute paths that are followed when a tree is used:

    __grp__*.json           Triton: every string under a `child_paths` key, at any depth.
                            Stored with the file's own directory as a mark, so that the copies
                            under each triton/{device} are equal.
    vllm_compile_cache.py   vLLM: the handles. Stored with the tree's directory as a mark.

The prefix is taken from the content, not from where the tree lies now (it may have been copied),
and replaced byte for byte: installed where it came from, a file is what it was. All other files,
binary ones above all, are stored and installed as they are.
"""

from __future__ import annotations

import ast
import json
import threading
from collections.abc import Iterator
from posixpath import basename, dirname
from typing import Any

from aotcache.errors import InvalidNameError, RelocationError
from aotcache.protocol.manifest import BY_DIRECTORY, BY_TREE, NOT_RELOCATED
from aotcache.protocol.paths import check_path

MARKS = {BY_DIRECTORY: b"<<aotcache:dir>>", BY_TREE: b"<<aotcache:tree>>"}
# Bytes of a file that is relocated, with paths or marks in it. vLLM's has 250 for each piece of a
# graph and each size that it is compiled for. To parse a megabyte can take 700 of memory.
MAX_RELOCATED = 1 << 20
_PARSING = threading.Lock()  # one at a time, for the memory it takes


def kind_of(path: str) -> str:
    """How the file at this path inside a tree is relocated: a `FileEntry.relocate`."""
    name = path[path.rfind("/") + 1 :]
    if name.startswith("__grp__") and name.endswith(".json"):
        return BY_DIRECTORY
    return BY_TREE if name == "vllm_compile_cache.py" else NOT_RELOCATED


def make_free(content: bytes, path: str, tree_name: str) -> tuple[str, bytes]:
    """The location-free bytes of a file, and how it is relocated at install.

    path: inside the tree. tree_name: name of the tree's own directory, the hash.
    Raises RelocationError when a path points outside the tree.
    """
    kind = kind_of(path)
    if kind == NOT_RELOCATED:
        return NOT_RELOCATED, content
    _check_size(len(content), path)
    mark = MARKS[kind]
    if mark in content:
        raise RelocationError(f"{path}: holds the mark {mark.decode()} already")
    own = basename(dirname(path)) if kind == BY_DIRECTORY else tree_name
    prefix = _common_prefix(list(_followed(content, path, kind)), path, own)
    if prefix is None:
        return NOT_RELOCATED, content
    free = content.replace(_encode(prefix, kind) + b"/", mark + b"/")
    _check_free(free, path, kind)
    return kind, free


def put_back(free: bytes, path: str, kind: str, tree_path: str, *, checked: bool = False) -> bytes:
    """The bytes to install of a location-free file, for a tree at `tree_path` (absolute).

    checked: the same bytes were put back at another path before; what is checked does not depend on
    the place. Raises RelocationError when a path would point outside the tree.
    """
    if kind == NOT_RELOCATED:
        return free
    mark, place = MARKS[kind], _place(path, kind, tree_path)
    encoded = _encode(place, kind)
    # Before memory is taken for it: a path is longer than a mark.
    _check_size(len(free) + free.count(mark) * max(0, len(encoded) - len(mark)), path)
    if not checked:
        _check_free(free, path, kind)
    content = free.replace(mark, encoded)
    # What counts is what will be followed: a mark that was written with escapes is not replaced.
    for value in () if checked else _followed(content, path, kind):
        if not value.startswith(f"{place}/"):
            raise RelocationError(f"{path}: {value[:200]!r} would point outside the tree")
    return content


def most_bytes(size: int, path: str, kind: str, tree_path: str) -> int:
    """That a file of `size` location-free bytes can have once it is put back."""
    if kind == NOT_RELOCATED:
        return size
    encoded = _encode(_place(path, kind, tree_path), kind)
    return min(MAX_RELOCATED, size + size // len(MARKS[kind]) * len(encoded))


def _place(path: str, kind: str, tree_path: str) -> str:
    folder = dirname(path)
    return f"{tree_path}/{folder}" if kind == BY_DIRECTORY and folder else tree_path


def _check_size(size: int, path: str) -> None:
    if size > MAX_RELOCATED:
        raise RelocationError(
            f"{path}: {size} bytes with its paths in it, at most {MAX_RELOCATED} are relocated"
        )


def _encode(path: str, kind: str) -> bytes:
    """A path as it stands between the quotes of a JSON or Python string."""
    if kind == BY_DIRECTORY:
        return json.dumps(path)[1:-1].encode()
    if set(path) & set("'\"\\"):
        # How it is escaped depends on the quotes around it, which only the engine chose.
        raise RelocationError(f"{path!r} holds a quote or backslash: use another cache root")
    return repr(path)[1:-1].encode()


def _common_prefix(found: list[str], path: str, own: str) -> str | None:
    """The one directory under which all followed paths lie: `/…/{own}`. None: no path is
    followed."""
    prefixes = set()
    for value in found:
        head, middle, rest = value.rpartition(f"/{own}/")
        if not value.startswith("/") or not middle:
            raise RelocationError(f"{path}: {value[:200]!r} does not lie in a directory {own}")
        _check_rest(rest, path)
        prefixes.add(f"{head}/{own}")
    if len(prefixes) > 1:
        raise RelocationError(f"{path}: paths under different directories: {sorted(prefixes)[:2]}")
    return prefixes.pop() if prefixes else None


def _check_free(free: bytes, path: str, kind: str) -> None:
    mark = MARKS[kind].decode()
    for value in _followed(free, path, kind):
        if not value.startswith(f"{mark}/"):
            raise RelocationError(f"{path}: {value[:200]!r} points outside the tree")
        _check_rest(value[len(mark) + 1 :], path)


def _check_rest(rest: str, path: str) -> None:
    try:
        check_path(rest)
    except InvalidNameError as error:
        raise RelocationError(f"{path}: {error}") from error


def _followed(content: bytes, path: str, kind: str) -> Iterator[str]:
    """The strings that are followed as paths when the file is used."""
    try:
        if kind == BY_DIRECTORY:
            yield from _child_paths(json.loads(content))
        else:
            with _PARSING:
                found = list(_handles(ast.parse(content.decode(), mode="eval")))
            yield from found
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise RelocationError(f"{path}: cannot be read: {error}") from error


def _child_paths(value: Any, inside: bool = False) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _child_paths(item, inside or key == "child_paths")
    elif isinstance(value, list):
        for item in value:
            yield from _child_paths(item, inside)
    elif inside and isinstance(value, str):
        yield value


def _handles(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
            if text.startswith(("/", MARKS[BY_TREE].decode())):
                yield text
