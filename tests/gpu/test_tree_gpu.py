"""A real GPU: compiled under one path, published, pulled under another: no kernel is compiled again
and the results are equal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from aotcache.engines.torch import environment
from aotcache.local.records import read_records
from aotcache.probe.trees import FoundTree, tree_path
from aotcache.protocol.names import INDUCTOR
from aotcache.sync.pull import Pulled
from support.site import Service, publish_tree, pull_tree
from support.trees import contents

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device, and there is none here"
)

PROGRAM = """
import json, os, torch
from torch._dynamo.utils import counters
from aotcache.engines.torch import record
from aotcache.local.records import write_record
from aotcache.probe.torch_probe import detect_with_torch

torch.manual_seed(0)
weight, x = (torch.randn(512, 512, device="cuda") for _ in range(2))

@torch.compile
def block(x):
    y = torch.nn.functional.layer_norm(x, (512,))
    return torch.softmax(y @ weight, dim=-1).cumsum(0) + torch.nn.functional.gelu(y)

found = block(x)
write_record(os.environ["TORCHINDUCTOR_CACHE_DIR"], record("gpu", detect_with_torch()))
inductor = counters["inductor"]
print(json.dumps({"sum": found.double().sum().item(), "hits": inductor["fxgraph_cache_hit"],
                  "misses": inductor["fxgraph_cache_miss"]}))
"""


def _run(tree: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment(tree, os.environ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return said


def test_a_gpu_tree_is_warm_at_another_path(service: Service, tmp_path: Path) -> None:
    path = tree_path(str(tmp_path / "first"), INDUCTOR, "gpu")
    cold = _run(path)
    assert (cold["hits"], cold["misses"]) == (0, 1)
    tree = FoundTree(INDUCTOR, "gpu", path)
    platform = read_records(path)[0].platform
    assert platform.arch.startswith(("sm_", "gfx"))

    site = service.site()
    published = publish_tree(site, tree)
    assert published.left_out == ()
    pulled = pull_tree(site, tree, platform, tmp_path / "second")
    assert isinstance(pulled, Pulled)
    before = contents(pulled.path)
    assert any(name.endswith((".cubin", ".hsaco")) for name in before)
    Path(path).rename(tmp_path / "gone")

    warm = _run(pulled.path)
    assert (warm["hits"], warm["misses"]) == (1, 0)
    assert warm["sum"] == cold["sum"]
    assert contents(pulled.path) == before, "something was compiled or written again"
