"""What is moved: an 8-rank tree of real content."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from itertools import islice
from pathlib import Path

from aotcache.probe.trees import FoundTree
from support.trees import PROGRAM, compile_kernels, make_ranks

RANKS = 8
KERNELS = 40
MODEL_BYTES = 6_000_000
_POINTER_EVERY = 4096
_TIME = 1_700_000_000  # long ago: settled at the first look


def make_tree(home: Path) -> FoundTree:
    """Kernels that Triton makes for sm_90, in a directory a device; what Inductor makes of a
    program for this CPU; a `model` a rank."""
    kernels, inductor = home / "kernels", home / "inductor"
    compile_kernels(kernels, KERNELS)
    env = {
        **os.environ,
        "TORCHINDUCTOR_CACHE_DIR": str(inductor),
        "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0",
    }
    subprocess.run([sys.executable, "-c", PROGRAM], env=env, check=True)
    # Locks do not travel with aotcache; without them the others do not carry them either.
    shutil.rmtree(inductor / "locks", ignore_errors=True)
    tree = make_ranks(home / "node", kernels, inductor, range(RANKS), model_bytes=1000)
    text = _source_text(MODEL_BYTES)
    for rank in range(RANKS):
        model = Path(tree.path) / f"rank_{rank}_0" / "model"
        model.write_bytes(_model(text, rank))
        os.utime(model, (_TIME, _TIME))
    return tree


def make_tree_without_models(home: Path, tree: FoundTree) -> FoundTree:
    """The same beside it, each `model` a byte: what the files of the compilers alone take."""
    root = home / "without-models"
    path = root / Path(tree.path).relative_to(home / "node")
    shutil.copytree(tree.path, path)
    records = Path(tree.path).parent / ".aotcache" / "records"
    shutil.copytree(records, path.parent / ".aotcache" / "records")
    for model in path.glob("rank_*/model"):
        model.write_bytes(b"m")
        os.utime(model, (_TIME, _TIME))
    return FoundTree(tree.layout, tree.hash, str(path))


def _source_text(size: int) -> bytes:
    """Text that compresses like a serialized forward, which is largely source code."""
    inductor = Path(sysconfig.get_paths()["purelib"]) / "torch" / "_inductor"
    text = b"".join(path.read_bytes() for path in sorted(inductor.rglob("*.py")))
    assert len(text) >= size, f"{inductor} has only {len(text)} bytes of source"
    return text[:size]


def _model(text: bytes, rank: int) -> bytes:
    """The text with the rank's own address every few kilobytes: ranks differ little, all over."""
    model = bytearray(text)
    for at in islice(range(0, len(text) - 8, _POINTER_EVERY), 1, None):
        model[at : at + 8] = hashlib.sha256(b"%d %d" % (rank, at)).digest()[:8]
    return bytes(model)


def files_below(path: Path) -> dict[str, int]:
    """Size of each file by its path below."""
    return {
        str(file.relative_to(path)): file.stat().st_size
        for file in path.rglob("*")
        if file.is_file()
    }


def distinct_bytes(path: Path) -> bytes:
    """The content of all files below, each distinct one once, in the order of paths."""
    found: dict[bytes, bytes] = {}
    for file in sorted(path.rglob("*")):
        if file.is_file():
            content = file.read_bytes()
            found.setdefault(hashlib.sha256(content).digest(), content)
    return b"".join(found.values())
