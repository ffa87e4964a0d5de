"""What is moved: trees of real content, made once below a directory and found there again.

    python -m bench.work DIR [NAME…]        (with `tests` on PYTHONPATH)

Each lies at DIR/NAME/torch_compile_cache/torch_aot_compile/{hash}, so DIR/NAME is a cache root,
with engine records beside it: `aotcache push --all --cache-root DIR/NAME` publishes it.
DIR/NAME/platform.json is its platform, for `pull --platform`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from base64 import b32encode
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from aotcache.local.records import read_records, write_record
from aotcache.probe.trees import FoundTree, find_trees, tree_path
from aotcache.protocol.names import SHARED, VLLM_AOT, rank_part
from aotcache.protocol.record import EngineRecord
from bench.models import model_of
from bench.vllm_trees import compile_tree
from support.trees import H100, RECIPE, make_ranks

EIGHT = "eight"  # eight ranks, 160 kernels a device
GROWN = "eight-grown"  # its second generation: the same, and 2 % more files
TINY = "tiny"  # 50,000 files of about a hundred bytes
QWEN = "qwen"  # files and bytes of Qwen3-0.6B's on an H100
VLLM = "vllm"  # real vLLM, one rank
TWO = "vllm-two"  # real vLLM, two ranks
NEIGHBOUR = "vllm-neighbour"  # real vLLM, one rank, another max_num_batched_tokens

RANKS = 8
KERNELS = 160
GROWTH = 3  # kernels more on each device: eight files each
MODEL_BYTES = 36_000_000
TINY_FILES = 50_000
QWEN_FILES, QWEN_BYTES = 509, 42_600_000

_TIME = 1_700_000_000  # long ago: settled at the first look
_MADE = "made-2"  # another name when what is made changes
PROGRAM = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.LayerNorm(64), nn.LayerNorm(64)
        self.qkv, self.out = nn.Linear(64, 192), nn.Linear(64, 64)
        self.up, self.down = nn.Linear(64, 256), nn.Linear(256, 64)

    def forward(self, x):
        q, k, v = self.qkv(self.first(x)).split(64, -1)
        x = x + self.out(torch.softmax(q @ k.transpose(-1, -2) / 8, -1) @ v)
        return x + self.down(nn.functional.silu(self.up(self.second(x))))

with torch.no_grad():
    for dynamic in (False, True):
        torch._dynamo.reset()
        torch.compile(nn.Sequential(Block(), Block()), dynamic=dynamic)(torch.randn(2, 16, 64))
"""


def work(home: Path, name: str) -> FoundTree:
    """The tree of this name below `home`; made if it is not there, or was left half made."""
    home.mkdir(parents=True, exist_ok=True)
    root = home / name
    if not (root / _MADE).exists():
        shutil.rmtree(root, ignore_errors=True)
        _MAKERS[name](home, root)
        record = read_records(tree_of(root).path)[0]
        platform_file(home, name).write_text(json.dumps(asdict(record.platform)))
        (root / _MADE).touch()
    return tree_of(root)


def tree_of(root: Path) -> FoundTree:
    (found,) = (tree for tree in find_trees(str(root)) if tree.layout == VLLM_AOT)
    return found


def platform_file(home: Path, name: str) -> Path:
    """What the tree is valid for, for `pull --platform`."""
    return home / name / "platform.json"


def _eight(home: Path, root: Path) -> None:
    _make_ranks(home, root, RANKS, KERNELS, name=EIGHT)


def _grown(home: Path, root: Path) -> None:
    _make_ranks(home, root, RANKS, KERNELS + GROWTH, name=EIGHT)


def _qwen(home: Path, root: Path) -> None:
    inductor = sum(path.is_file() for path in _inductor(home).rglob("*"))
    kernels = (QWEN_FILES - 1 - inductor) // 8
    tree = _make_ranks(home, root, 1, kernels, name=QWEN)
    have = files_below(tree)
    model = tree / "rank_0_0" / "model"
    _write(model, model_of(0, QWEN_BYTES - sum(have.values()) + have["rank_0_0/model"]))
    for number in range(QWEN_FILES - len(have)):
        _write(tree / _tiny_path(number), _tiny_content(number))


def _tiny(home: Path, root: Path) -> None:
    tree = _make_ranks(home, root, 1, 0, name=TINY)
    _write(tree / "rank_0_0" / "model", model_of(0, 1000))
    for number in range(TINY_FILES - len(files_below(tree))):
        _write(tree / _tiny_path(number), _tiny_content(number))


def make_small_trees(root: Path, trees: int, files: int) -> None:
    """So many trees of so many small files, under one cache root. Not kept for another run."""
    first: Path | None = None
    for number in range(trees):
        tree_hash = hashlib.sha256(b"small %d" % number).hexdigest()
        tree = Path(tree_path(str(root), VLLM_AOT, tree_hash))
        if first is None:
            _write(tree / "rank_0_0" / "model", model_of(0, 1000))
            for place in range(files - 1):
                _write(tree / _tiny_path(place), _tiny_content(place))
            first = tree
        else:
            shutil.copytree(first, tree, copy_function=os.link)
        write_record(
            str(tree),
            EngineRecord(
                layout=VLLM_AOT,
                hash=tree_hash,
                part=rank_part(0, 0, 0),
                platform=H100,
                recipe=RECIPE,
                expected_parts=(SHARED, rank_part(0, 0, 0)),
                compile_seconds=40.0,
            ),
        )


def _vllm(**options: object) -> Callable[[Path, Path], None]:
    return lambda _home, root: compile_tree(root, **options)


_MAKERS: dict[str, Callable[[Path, Path], None]] = {
    EIGHT: _eight,
    GROWN: _grown,
    TINY: _tiny,
    QWEN: _qwen,
    VLLM: _vllm(),
    TWO: _vllm(ranks=2),
    NEIGHBOUR: _vllm(batched_tokens=1024),
}


def _make_ranks(home: Path, root: Path, ranks: int, kernels: int, *, name: str) -> Path:
    """Kernels that Triton makes for sm_90, in a directory a device; what Inductor makes of a
    program for this CPU; a `model` a rank."""
    chosen = root / "chosen"
    made = _kernels(home, kernels)
    for group in made[:kernels]:
        shutil.copytree(group, chosen / group.name)
    chosen.mkdir(parents=True, exist_ok=True)
    for group in chosen.rglob("__grp__*.json"):
        old, new = str(home / "triton"), str(chosen)
        group.write_text(group.read_text().replace(old, new))
    tree = make_ranks(
        root, chosen, _inductor(home), range(ranks), world=ranks, name=name, model_bytes=1000
    )
    shutil.rmtree(chosen)
    for rank in range(ranks):
        _write(Path(tree.path) / f"rank_{rank}_0" / "model", model_of(rank, MODEL_BYTES))
    return Path(tree.path)


def _kernels(home: Path, count: int) -> list[Path]:
    """The first `count` kernels' directories, in the order in which they were compiled."""
    cache = home / "triton"
    env = {**os.environ, "TRITON_CACHE_DIR": str(cache), "TRITON_DEFAULT_FP_FUSION": "1"}
    script = Path(__file__).with_name("kernels.py")
    done = subprocess.run(
        [sys.executable, str(script), str(count)],
        env=env,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return [cache / name for name in done.stdout.split()]


def _inductor(home: Path) -> Path:
    cache = home / "inductor"
    if not (cache / _MADE).exists():
        shutil.rmtree(cache, ignore_errors=True)
        env = {
            **os.environ,
            "TORCHINDUCTOR_CACHE_DIR": str(cache / "cache"),
            "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0",
        }
        subprocess.run([sys.executable, "-c", PROGRAM], env=env, check=True)
        # Locks do not travel with aotcache; without them the others do not carry them either.
        shutil.rmtree(cache / "cache" / "locks", ignore_errors=True)
        (cache / _MADE).touch()
    return cache / "cache"


def _tiny_path(number: int) -> str:
    name = b32encode(hashlib.sha256(b"%d" % number).digest()).decode().lower().rstrip("=")
    return f"inductor_cache/{name[:2]}/c{name[:51]}.best_config"


def _tiny_content(number: int) -> bytes:
    return json.dumps(
        {"XBLOCK": 1 << number % 11, "num_warps": 4, "num_stages": 1, "triton_cache_hash": number}
    ).encode()


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (_TIME, _TIME))


def files_below(path: Path) -> dict[str, int]:
    """Size of each file by its path below."""
    return {
        str(file.relative_to(path)): file.stat().st_size
        for file in path.rglob("*")
        if file.is_file()
    }


def distinct_files(path: Path) -> list[bytes]:
    """The content of all files below, each distinct one once, in the order of paths."""
    found: dict[bytes, bytes] = {}
    for file in sorted(path.rglob("*")):
        if file.is_file():
            content = file.read_bytes()
            found.setdefault(hashlib.sha256(content).digest(), content)
    return list(found.values())


def main() -> None:
    home, *names = sys.argv[1:]
    for name in names or _MAKERS:
        tree = Path(work(Path(home), name).path)
        sizes = files_below(tree)
        print(f"{name}: {len(sizes)} files, {sum(sizes.values()) / 1e6:.1f} MB, {tree}", flush=True)


if __name__ == "__main__":
    main()
