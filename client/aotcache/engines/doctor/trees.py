"""The trees under the cache root: whose they are, and whether they can be published."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from glob import escape, glob

from aotcache.engines.doctor.disk import may_write, user
from aotcache.engines.doctor.findings import Finding, note, ok, problem, several
from aotcache.errors import AotcacheError
from aotcache.local.records import read_records
from aotcache.probe.trees import FoundTree, find_trees
from aotcache.protocol.names import VLLM_JIT

_AS_ENGINE = (
    "run the engine, and whatever pulls and publishes, as one user; what is there can be given to "
    "it with chown -R"
)


def check_trees(cache_root: str) -> Iterator[Finding]:
    try:
        trees = find_trees(os.path.abspath(cache_root))
    except AotcacheError as error:
        yield problem("trees", str(error))
        return
    if not trees:
        yield ok("trees", "none yet")
        return
    counts = Counter(tree.layout for tree in trees)
    yield ok("trees", ", ".join(f"{number} {layout}" for layout, number in counts.items()))
    yield from _check_owners(trees)
    yield from _check_records([tree for tree in trees if _travels(tree)])


def _travels(tree: FoundTree) -> bool:
    """vLLM makes a directory of the older layout beside each mega-AOT tree, with nothing in it that
    a start would read."""
    return tree.layout != VLLM_JIT or bool(
        glob("rank_*/*/vllm_compile_cache.py", root_dir=tree.path)
    )


def _check_owners(trees: list[FoundTree]) -> Iterator[Finding]:
    me = os.geteuid()
    unreadable: list[str] = []
    closed: list[str] = []
    others: Counter[int] = Counter()
    for tree in trees:
        try:
            owner = os.stat(tree.path).st_uid
        except FileNotFoundError:
            continue  # deleted meanwhile
        if not may_write(tree.path):
            closed.append(f"{tree.path}, of {user(owner)}")
        models = glob(os.path.join(escape(tree.path), "rank_*", "model"))
        unreadable += [
            f"{model}, of {user(os.stat(model).st_uid)}"
            for model in models
            if not os.access(model, os.R_OK, effective_ids=True)
        ]
        if owner != me:
            others[owner] += 1
    if unreadable:
        yield problem(
            "trees",
            f"{several(unreadable, 'model')} cannot be read by {user(me)}: torch and aotcache "
            "write `model` for its owner only",
            _AS_ENGINE,
        )
    if closed:
        yield problem(
            "trees",
            f"{several(closed, 'tree')} cannot be written by {user(me)}: an engine of this user "
            "fails to lock and to save there",
            _AS_ENGINE,
        )
    if others and me == 0:
        owners = ", ".join(f"{count} of {user(owner)}" for owner, count in others.most_common(3))
        yield note(
            "trees",
            f"this runs as root, and trees belong to others: {owners}; what root pulls, they "
            "cannot read",
            "run this and `aotcache pull` as the engine's user",
        )


def _check_records(trees: list[FoundTree]) -> Iterator[Finding]:
    bare: list[str] = []
    said: Counter[str] = Counter()
    for tree in trees:
        try:
            if not read_records(tree.path):
                bare.append(tree.path)
        except AotcacheError as error:
            # Of a directory that is not ours each of its trees says the same.
            said[str(error)] += 1
    for message in said:
        yield problem("trees", message)
    if bare:
        yield note(
            "trees",
            f"{several(bare, 'tree')} without an engine record: not published, as nothing says "
            "what it was compiled for",
            "start the engine with aotcache installed, or `aotcache push --platform detect` where "
            "this machine and this Python compiled it",
        )
