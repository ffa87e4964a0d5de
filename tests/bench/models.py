"""A rank's `model`: the bytes of a serialized forward, made to compress as real ones do.

What realistic means here is taken from `model` files that vLLM 0.32 wrote with torch 2.13 (2 MB, a
Llama of four layers), and that is as large as a CPU gets them: 36 MB is a model with many layers.
They have two halves. The first is the pickled graph: a record a node, with its name, numbers of the
pickle's memo, and the stack trace of the line that made it. Neighbours share traces, so zlib makes
a 15th to a 25th of it; two ranks, or two compiles, differ there in places of about three bytes, all
over. The second half is the model's Python sources: a quarter by any compressor, the same for all
ranks. Aimed at, with `zstd -3`, and what 36 MB of this give:

                                                              real     here
    alone                                                     1/8.3    1/8.2
    a second rank, after the first one in a long window       + 2 %    + 2 %
    8 KiB blocks of the second rank that the first one has    38 %     86 %

so a long window or a prefix finds a second rank nearly whole, as it does with real ones. Nobody who
takes part here deduplicates by blocks; who does would look better than with real ones.
"""

from __future__ import annotations

import random
import sysconfig
from functools import cache
from pathlib import Path

_SOURCES = 0.38  # share of the file; the rest is the graph
_LAYER_NODES = 230
_SAME_TRACE = 3  # nodes, one after another
_TRACE_LINES = 8
_NUMBERS = 4  # of the pickle's memo, in a node
_DIFFER = 0.055  # share of nodes in which each rank has a number of its own
_FRAME = (
    b'  File "/opt/vllm/lib/python3.12/site-packages/vllm/model_executor/layers/linear.py", '
    b"line %d, in forward\n%s\n    %s\n"
)


def model_of(rank: int, size: int) -> bytes:
    """The `model` of a rank, `size` bytes. ValueError: more than torch has sources for."""
    graph, places = _graph(int(size * (1 - _SOURCES)))
    model = bytearray(graph)
    own = random.Random(rank)
    for at in places:
        model[at : at + 3] = own.randbytes(3)
    sources = _sources()
    missing = size - len(model)
    if missing > len(sources):
        raise ValueError(f"torch has {len(sources)} bytes of sources, not the {missing} wanted")
    return bytes(model) + sources[:missing]


@cache
def _graph(size: int) -> tuple[bytes, list[int]]:
    """The graph as all ranks have it, and the places at which each has three bytes of its own."""
    drawn = random.Random(0)
    lines = [line for line in _sources().splitlines() if 30 < len(line) < 90]
    made = bytearray()
    places: list[int] = []
    node = 0
    while len(made) < size:
        if node % _SAME_TRACE == 0:
            trace = b"".join(
                _FRAME % (drawn.randrange(2000), line, b"^" * len(line.strip()))
                for line in drawn.sample(lines, _TRACE_LINES)
            )
        made += b"\x8c\x20layers_%d_modules_node_%d\x94h" % divmod(node, _LAYER_NODES)
        if drawn.random() < _DIFFER:
            places.append(len(made))
        for _ in range(_NUMBERS):
            made += drawn.randrange(1 << 24).to_bytes(3, "little") + b"\x00j"
        made += b"X%s%s\x94ub" % (len(trace).to_bytes(4, "little"), trace)
        node += 1
    return bytes(made[:size]), [at for at in places if at + 3 <= size]


@cache
def _sources() -> bytes:
    """Python's, as vLLM's are."""
    torch = Path(sysconfig.get_paths()["purelib"]) / "torch"
    return b"".join(path.read_bytes() for path in sorted(torch.rglob("*.py")))
