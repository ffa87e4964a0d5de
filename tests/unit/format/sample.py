"""Small trees as an engine writes them, for the writer to store: two ranks of a vLLM AOT tree and
one of a vLLM JIT tree. Bytes come from a seed, so that the same tree can be made again."""

from __future__ import annotations

import json
import pprint
import random
from dataclasses import dataclass

from aotcache.protocol.manifest import EXECUTABLE, PLAIN
from aotcache.protocol.names import SHARED, rank_part

FIRST = "5f0c" * 16
SECOND = "a7e3" * 16
JIT = "0d4c8a61fe"
MODEL_BYTES = 80_000
KERNELS = ("triton_poi_fused_add_0", "triton_red_fused_mul_1")


@dataclass(frozen=True)
class File:
    """A file as it lies in a tree, absolute paths and all."""

    content: bytes
    mode: int = PLAIN


Files = dict[str, File]


def triton_key(number: int) -> str:
    """The name of a Triton cache directory: base32 of a SHA-256."""
    return "".join(random.Random(number).choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", k=52))


def kernel(tree: str, device: int, number: int, name: str) -> Files:
    """One Triton cache directory: what a kernel compiles to, and the group file that lists it."""
    chance = random.Random(f"{number} {name}")
    folder = f"inductor_cache/triton/{device}/{triton_key(number)}"
    files = {
        f"{name}.ttir": File(f"module {{ tt.func public @{name}() }}\n".encode()),
        f"{name}.ptx": File(f".version 8.8\n.target sm_90a\n.visible .entry {name}()\n".encode()),
        f"{name}.cubin": File(b"\x7fELF\x02\x01\x01" + chance.randbytes(1_500)),
        f"{name}.json": File(json.dumps({"name": name, "num_warps": 4, "shared": 0}).encode()),
    }
    children = {child: f"{tree}/{folder}/{child}" for child in files}
    group = json.dumps({"child_paths": children}).encode()
    return {f"{folder}/{child}": file for child, file in files.items()} | {
        f"{folder}/__grp__{name}.json": File(group)
    }


def shared_part(tree: str, kernels: int) -> Files:
    """inductor_cache with this many kernels, each once for each of two devices."""
    chance = random.Random("shared")
    code = "inductor_cache/ab/cabdefghijklmnop"
    files = {
        f"{code}.py": File(b"# AOT ID: ['0_inference']\nimport torch\n" * 12),
        f"{code}.best_config": File(b'{"XBLOCK": 256, "num_warps": 4}'),
        f"{code}.so": File(b"\x7fELF\x02\x01\x01" + chance.randbytes(3_000), EXECUTABLE),
        "inductor_cache/ab/__init__.py": File(b""),
        f"inductor_cache/fxgraph/xy/fxy{'q' * 50}/{'0c' * 32}": File(chance.randbytes(2_000)),
    }
    for number in range(kernels):
        for device in (0, 1):
            files |= kernel(tree, device, number, KERNELS[number % len(KERNELS)])
    return files


def models(seed: str) -> tuple[bytes, bytes]:
    """The serialized forwards of two ranks: nearly equal. Other seeds give other places where they
    differ, not other bytes, as recompiles do."""
    base = bytearray(random.Random("model").randbytes(MODEL_BYTES))
    made = []
    for rank in (0, 1):
        chance = random.Random(f"{seed} {rank}")
        for _ in range(20):
            at = chance.randrange(MODEL_BYTES)
            base[at : at + 1] = chance.randbytes(1)
        made.append(bytes(base))
    return made[0], made[1]


def aot_tree(tree: str, seed: str, kernels: int) -> dict[str, Files]:
    """The files of each part of a tree that lies at the absolute path `tree`."""
    rank_0, rank_1 = models(seed)
    return {
        SHARED: shared_part(tree, kernels),
        rank_part(0, 0, 0): {"rank_0_0/model": File(rank_0)},
        rank_part(1, 0, 1): {"rank_1_0/model": File(rank_1)},
    }


def jit_tree(tree: str) -> dict[str, Files]:
    folder = "rank_0_0/backbone"
    graph = f"artifact_compile_range_1_8192_subgraph_0/{'f' * 20}"
    handles = {("(1, 8192)", 0, "inductor"): ("fx-graph", f"{tree}/{folder}/{graph}")}
    return {
        rank_part(0, 0, 0): {
            f"{folder}/vllm_compile_cache.py": File(pprint.pformat(handles).encode()),
            f"{folder}/computation_graph.py": File(b"class GraphModule:\n    pass\n"),
            f"{folder}/{graph}": File(random.Random("graph").randbytes(700)),
        }
    }
