"""The allow-list against a tree that torch.compile itself wrote."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aotcache.probe.trees import TreeScan, devices, holds_cpp, locks_held, scan_tree
from aotcache.protocol.names import INDUCTOR

PROGRAM = """
import torch

model = torch.nn.Linear(8, 8)

@torch.compile
def step(x):
    return torch.nn.functional.gelu(model(x) @ x.T).sum(-1).sin()

step(torch.ones(8, 8)).sum().backward()
print(dict(torch._dynamo.utils.counters["inductor"]))
"""


def run(cache: Path) -> str:
    env = os.environ | {
        "TORCHINDUCTOR_CACHE_DIR": str(cache),
        "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0",
    }
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=env,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> TreeScan:
    cache = tmp_path_factory.mktemp("compiled")
    run(cache)
    return scan_tree(INDUCTOR, str(cache))


def test_nothing_that_torch_wrote_is_left_out(compiled: TreeScan) -> None:
    assert compiled.left_out == ()
    assert {file.part_dir for file in compiled.files} == {"shared"}
    kinds = {os.path.splitext(file.path)[1] for file in compiled.files}
    assert {".py", ".cpp", ".so"} <= kinds
    assert {file.path.split("/")[0] for file in compiled.files} >= {"fxgraph", "aotautograd"}


def test_it_holds_cpp_and_no_kernels_and_is_at_rest(compiled: TreeScan) -> None:
    assert holds_cpp(compiled)
    assert devices(compiled) == ()
    assert locks_held(compiled.path) == []
    assert compiled.transient >= 1
    assert all(file.executable for file in compiled.files if file.path.endswith(".so"))


@pytest.mark.slow
def test_what_is_allowed_is_enough_for_a_warm_start(compiled: TreeScan, tmp_path: Path) -> None:
    """Only the listed files, elsewhere: the next start hits, builds nothing, and adds no file."""
    for file in compiled.files:
        target = tmp_path / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((Path(compiled.path) / file.path).read_bytes())
        target.chmod(0o755 if file.executable else 0o644)
    counters = run(tmp_path)
    assert "'fxgraph_cache_hit': " in counters
    assert "miss" not in counters
    assert "fxgraph_lookup_write_file" not in counters
    after = scan_tree(INDUCTOR, str(tmp_path))
    assert [file.path for file in after.files] == [file.path for file in compiled.files]
