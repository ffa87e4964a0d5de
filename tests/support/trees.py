"""Real trees to publish: Triton kernels for sm_90, Inductor's output for this CPU.

Made once a session by the real compilers, in processes of their own, and copied from there.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from aotcache.local.records import write_record
from aotcache.probe.trees import FoundTree, tree_path
from aotcache.protocol.names import VLLM_AOT, rank_part
from aotcache.protocol.platform import Platform
from aotcache.protocol.recipe import Recipe
from aotcache.protocol.record import EngineRecord

H100 = Platform(
    torch="2.13.0+cu130",
    triton="3.9.0",
    cuda="13.0",
    device="NVIDIA H100 80GB HBM3",
    arch="sm_90",
    python="cpython-3.11.7",
    machine="x86_64",
    libc="glibc-2.36",
    cpu="0123456789abcdef",
)
RECIPE = Recipe(engine="vllm", engine_version="0.32.0", model="org/llama", tensor_parallel_size=8)

KERNELS = """
import sys
import triton, triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

@triton.jit
def kernel(x, y, n, BLOCK: tl.constexpr, SCALE: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(x + i, mask=i < n) * SCALE, mask=i < n)

for number in range(int(sys.argv[1])):
    triton.compile(
        ASTSource(
            kernel,
            signature={"x": "*fp32", "y": "*fp32", "n": "i32", "BLOCK": "constexpr",
                       "SCALE": "constexpr"},
            constexprs={"BLOCK": 128, "SCALE": number},
        ),
        target=GPUTarget("cuda", 90, 32),
    )
"""
PROGRAM = """
import torch

def f(x):
    return torch.softmax(x @ x.T, dim=-1).cos() + x.sum()

torch.compile(f)(torch.randn(64, 64))
"""


def compile_kernels(directory: Path, count: int) -> None:
    """Have Triton make (or find) `count` sm_90 kernels with this directory as its cache."""
    # One script for all, as the kernels' keys hold its source; Triton reads that from the file.
    script = Path(tempfile.gettempdir()) / "aotcache-tests-kernels.py"
    script.write_text(KERNELS)
    subprocess.run(
        [sys.executable, str(script), str(count)],
        env={**os.environ, "TRITON_CACHE_DIR": str(directory), "TRITON_DEFAULT_FP_FUSION": "1"},
        check=True,
    )


@pytest.fixture(scope="session")
def triton_kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Triton cache of 24 real sm_90 kernels. Not to be changed: copy it."""
    directory = tmp_path_factory.mktemp("triton") / "cache"
    compile_kernels(directory, 24)
    return directory


def compile_program(directory: Path) -> None:
    """Have torch.compile compile a small program for this CPU with this directory as its cache."""
    env = {
        **os.environ,
        "TORCHINDUCTOR_CACHE_DIR": str(directory),
        "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0",
    }
    subprocess.run([sys.executable, "-c", PROGRAM], env=env, check=True)


@pytest.fixture(scope="session")
def inductor_output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Inductor cache of a real torch.compile on this CPU. Not to be changed: copy it."""
    directory = tmp_path_factory.mktemp("inductor") / "cache"
    compile_program(directory)
    return directory


def copy_kernels(source: Path, triton: Path) -> None:
    """Copy a Triton cache as Triton itself would have written it there: with paths that lead
    there."""
    shutil.copytree(source, triton)
    old, new = json.dumps(str(source))[1:-1], json.dumps(str(triton))[1:-1]
    for group in triton.rglob("__grp__*.json"):
        group.write_text(group.read_text().replace(old, new))


def make_ranks(
    cache_root: Path,
    kernels: Path,
    inductor: Path,
    ranks: range,
    *,
    world: int = 8,
    local: int = 8,
    name: str = "tree",
    model_bytes: int = 300_000,
    recipe: Recipe = RECIPE,
    seconds: float = 40.0,
) -> FoundTree:
    """A vllm-aot tree that holds these of `world` ranks, with the engine's records beside it:
    Inductor's output, a Triton directory a device, a `model` a rank that differs little. local:
    devices of a node; seconds: that compiling the first rank is said to have taken."""
    tree_hash = hashlib.sha256(name.encode()).hexdigest()
    path = Path(tree_path(str(cache_root), VLLM_AOT, tree_hash))
    cache = path / "inductor_cache"
    shutil.copytree(inductor, cache)
    parts = ("shared", *(rank_part(rank, 0, rank % local) for rank in range(world)))
    for rank in ranks:
        copy_kernels(kernels, cache / "triton" / str(rank % local))
        model = path / f"rank_{rank}_0" / "model"
        model.parent.mkdir()
        model.write_bytes(model_of(rank, model_bytes, rank % local))
        model.chmod(0o600)
        write_record(
            str(path),
            EngineRecord(
                layout=VLLM_AOT,
                hash=tree_hash,
                part=rank_part(rank, 0, rank % local),
                platform=H100,
                recipe=recipe,
                expected_parts=parts,
                compile_seconds=seconds + rank,
            ),
        )
    for file in path.rglob("*"):
        os.utime(file, (1_700_000_000, 1_700_000_000))
    return FoundTree(VLLM_AOT, tree_hash, str(path))


def model_of(rank: int, size: int, device: int | None = None) -> bytes:
    """Like a serialized forward: what all ranks share, and a few places with the rank and the
    device, by default of the same number, in them."""
    common = bytearray(random.Random(7).randbytes(size))
    for at in range(1000, size, size // 10):
        common[at : at + 16] = b"cuda:%d; rank %03d" % (rank if device is None else device, rank)
    return bytes(common)


def contents(tree: str | Path, *, transient: bool = False) -> dict[str, bytes]:
    """Every file of a tree by path, without locks unless they are asked for."""
    return dict(_contents(Path(tree), transient))


def _contents(tree: Path, transient: bool) -> Iterator[tuple[str, bytes]]:
    for path in sorted(tree.rglob("*")):
        relative = path.relative_to(tree)
        if path.is_file() and (transient or "locks" not in relative.parts):
            yield str(relative), path.read_bytes()
