"""Bytes: what is stored, what a later publish uploads, what one rank's pull moves."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from aotcache.protocol.names import SHARED, rank_part
from bench import ours
from bench.servers import SERVICE, Line
from bench.stage import Found, Stage, say
from bench.timing import timed
from bench.vllm_trees import lacking
from bench.work import EIGHT, GROWN, NEIGHBOUR, VLLM, distinct_files, files_below

STORED, TAR_BYTES = "aotcache, packs and manifests", "tar and zstd -3"
MOVED, UNIQUE = "aotcache, moved", "its distinct files through zstd -3"
UPLOADED, NEW = "aotcache, uploaded", "new content through zstd -3"
ADDED, FULL = "aotcache, added", "aotcache, in an empty namespace"

STORE, RANK = "stored MB", "MB of one rank's pull"
GROWTH, NEIGHBOURS = "MB of a second generation", "MB of a neighbour"
RANK_PARTS = (SHARED, rank_part(5, 0, 5))


def sizes(stage: Stage) -> Found:
    line = stage.line()
    say("sizes")
    _push(stage, line, EIGHT, "sizes")
    numbers = {
        STORE: {STORED: _stored(line, "sizes"), TAR_BYTES: _tar_bytes(stage.tree(EIGHT).path)},
        RANK: _one_rank(stage, line, "sizes"),
        GROWTH: _second_generation(stage, line, "sizes"),
    }
    return Found(numbers={what: _mb(counts) for what, counts in numbers.items()})


def neighbour(stage: Stage) -> Found:
    """What a neighbour adds to what is stored, against what it takes where nothing is."""
    if lacks := lacking():
        return Found(left_out=lacks)
    line = stage.line()
    say("neighbour")
    _push(stage, line, NEIGHBOUR, "neighbour-alone")
    _push(stage, line, VLLM, "neighbours")
    first = _stored(line, "neighbours")
    _push(stage, line, NEIGHBOUR, "neighbours")
    added = _stored(line, "neighbours") - first
    counts = {ADDED: added, FULL: _stored(line, "neighbour-alone")}
    return Found(numbers={NEIGHBOURS: _mb(counts)})


def _push(stage: Stage, line: Line, name: str, namespace: str) -> int:
    tree = stage.tree(name)
    ours.forget(tree)
    command = ours.push(line, SERVICE, tree, stage.root(name), namespace)
    return ours.uploaded(timed(command, line.env)[0])


def _one_rank(stage: Stage, line: Line, namespace: str) -> dict[str, int]:
    root = stage.folder("one rank")
    tree = stage.tree(EIGHT)
    command = ours.pull(
        line, SERVICE, tree, stage.platform(EIGHT), root, *RANK_PARTS, namespace=namespace
    )
    pulled = json.loads(timed(command, line.env)[0])
    trees = files_below(line.data / "objects" / namespace / "trees")
    manifests = sum(
        size for path, size in trees.items() if any(f"/{part}/" in path for part in RANK_PARTS)
    )
    return {
        MOVED: pulled["moved_bytes"] + manifests,
        "of that, manifests": manifests,
        UNIQUE: _compressed(b"".join(distinct_files(Path(pulled["path"])))),
    }


def _second_generation(stage: Stage, line: Line, namespace: str) -> dict[str, int]:
    before = _stored(line, namespace)
    packs = _push(stage, line, GROWN, namespace)
    uploaded = _stored(line, namespace) - before
    old = set(distinct_files(Path(stage.tree(EIGHT).path)))
    new = [
        content for content in distinct_files(Path(stage.tree(GROWN).path)) if content not in old
    ]
    return {
        UPLOADED: uploaded,
        "of that, manifests": uploaded - packs,
        NEW: _compressed(b"".join(new)),
    }


def _stored(line: Line, namespace: str) -> int:
    return sum(files_below(line.data / "objects" / namespace).values())


def _mb(counts: dict[str, int]) -> dict[str, float]:
    return {who: count / 1e6 for who, count in counts.items()}


def _tar_bytes(path: str) -> int:
    command = ["sh", "-c", 'tar -C "$1" -c . | zstd -3 -q -c | wc -c', "sh", path]
    return int(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def _compressed(data: bytes) -> int:
    command = ["zstd", "-3", "-q", "-c"]
    return len(subprocess.run(command, input=data, stdout=subprocess.PIPE, check=True).stdout)
