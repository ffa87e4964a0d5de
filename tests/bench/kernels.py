"""Compile real Triton kernels for sm_90, without a GPU: `kernels.py COUNT`, into TRITON_CACHE_DIR.

Prints the name of each one's directory. Three kinds that Inductor writes too: pointwise, a norm
over rows, a matrix product; in as many shapes as are asked for. A script, as Triton reads a
kernel's source from its file; its path is part of a kernel's key.
"""

import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TARGET = GPUTarget("cuda", 90, 32)


@triton.jit
def pointwise(x, y, out, n, BLOCK: tl.constexpr, SCALE: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    a = tl.load(x + at, mask=at < n, other=0.0).to(tl.float32)
    b = tl.load(y + at, mask=at < n, other=0.0).to(tl.float32)
    silu = a * tl.sigmoid(a) * b * SCALE
    tl.store(out + at, silu.to(tl.bfloat16), mask=at < n)


@triton.jit
def norm(x, weight, out, rows, columns, BLOCK: tl.constexpr, SCALE: tl.constexpr):
    row = tl.program_id(0)
    column = tl.arange(0, BLOCK)
    inside = column < columns
    value = tl.load(x + row * columns + column, mask=inside, other=0.0).to(tl.float32)
    variance = tl.sum(value * value, 0) / columns
    value = value * tl.rsqrt(variance + SCALE * 1e-6)
    value = value * tl.load(weight + column, mask=inside, other=0.0)
    tl.store(out + row * columns + column, value.to(tl.bfloat16), mask=inside & (row < rows))


@triton.jit
def product(a, b, c, m, n, k, BLOCK: tl.constexpr, SCALE: tl.constexpr):
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    step = tl.arange(0, 32)
    total = tl.zeros((BLOCK, BLOCK), dtype=tl.float32)
    for start in range(0, k, 32):
        inner = start + step
        x = tl.load(
            a + row[:, None] * k + inner[None, :],
            mask=(row[:, None] < m) & (inner[None, :] < k),
            other=0.0,
        )
        y = tl.load(
            b + inner[:, None] * n + column[None, :],
            mask=(inner[:, None] < k) & (column[None, :] < n),
            other=0.0,
        )
        total = tl.dot(x, y, total)
    tl.store(
        c + row[:, None] * n + column[None, :],
        (total * SCALE).to(tl.bfloat16),
        mask=(row[:, None] < m) & (column[None, :] < n),
    )


SIGNATURES = {
    pointwise: {"x": "*bf16", "y": "*bf16", "out": "*bf16", "n": "i32"},
    norm: {"x": "*bf16", "weight": "*bf16", "out": "*bf16", "rows": "i32", "columns": "i32"},
    product: {"a": "*bf16", "b": "*bf16", "c": "*bf16", "m": "i32", "n": "i32", "k": "i32"},
}
# Pointwise ones are most of what a model has, and the smallest.
KINDS = (
    (pointwise, 512),
    (norm, 1024),
    (pointwise, 1024),
    (product, 32),
    (pointwise, 2048),
    (norm, 2048),
    (product, 64),
    (norm, 512),
)


def main() -> None:
    for number, (kernel, block) in zip(range(int(sys.argv[1])), endless(), strict=False):
        made = triton.compile(
            ASTSource(
                kernel,
                signature={**SIGNATURES[kernel], "BLOCK": "constexpr", "SCALE": "constexpr"},
                constexprs={"BLOCK": block, "SCALE": 1 + number},
            ),
            target=TARGET,
        )
        (group,) = (path for path in made.metadata_group if path.endswith(".cubin"))
        print(Path(made.metadata_group[group]).parent.name)


def endless() -> Iterator[tuple[Any, int]]:
    for _ in count():
        yield from KINDS


if __name__ == "__main__":
    main()
