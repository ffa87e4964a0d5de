"""The program of the demo: one transformer block under torch.compile, run once.

Usage: block.py KEY. Its cache is TORCHINDUCTOR_CACHE_DIR. Prints what happened as one line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time

import torch
from torch import nn
from torch._dynamo.utils import counters

from aotcache.engines.torch import record
from aotcache.local.records import write_record
from aotcache.probe.torch_probe import detect_with_torch


class Block(nn.Module):
    def __init__(self, width: int = 256, heads: int = 4) -> None:
        super().__init__()
        self.first = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.second = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.second(x))


def main() -> None:
    key = sys.argv[1]
    tree = os.environ["TORCHINDUCTOR_CACHE_DIR"]
    torch.manual_seed(0)
    block, x = Block().eval(), torch.randn(4, 128, 256)
    compiled = torch.compile(block)
    with torch.no_grad():
        expected = block(x)
        begin = time.monotonic()
        found = compiled(x)
        seconds = time.monotonic() - begin
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    # The compiling process says what a watcher cannot know, beside the tree.
    write_record(tree, record(key, detect_with_torch(), seconds))
    inductor = counters["inductor"]
    print(
        json.dumps(
            {
                "seconds": seconds,
                "sum": float(found.double().sum()),
                "hits": inductor["fxgraph_cache_hit"],
                "misses": inductor["fxgraph_cache_miss"],
            }
        )
    )


if __name__ == "__main__":
    main()
