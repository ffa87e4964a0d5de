"""Write golden files of one version of the storage format, once: they are never written again.

    PYTHONPATH=client:tests python tests/unit/format/make_golden.py

golden/v2/objects/{key}   what a store holds
golden/v2/trusted-keys    the line of the key that signed; its private half is thrown away
golden/v2/installed.json  {manifest key: {path: [mode, SHA-256 of the file as installed at AT]}},
                          where AT, written as `make_golden.AT`, stands for the tree's own path
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from aotcache.core.trust import generate_key
from aotcache.protocol.names import SHARED, VLLM_AOT, VLLM_JIT
from unit.format.sample import FIRST, JIT, SECOND, Files, aot_tree, jit_tree
from unit.format.writer import Writer

GOLDEN = Path(__file__).parent / "golden"
VERSION = "v2"
ELSEWHERE = "/var/cache/vllm/torch_compile_cache"
AT = "{tree}"


def listing(files: Files, tree: str) -> dict[str, tuple[int, str]]:
    """What an install of these files gives, with AT in place of the tree's path."""
    return {
        path: (
            file.mode,
            hashlib.sha256(file.content.replace(tree.encode(), AT.encode())).hexdigest(),
        )
        for path, file in sorted(files.items())
    }


def main() -> None:
    signer = generate_key()
    writer = Writer(signer)
    installed = {}

    def publish(layout: str, tree_hash: str, tree: str, parts: dict[str, Files]) -> None:
        for key, files in zip(
            writer.publish(layout, tree_hash, parts), parts.values(), strict=True
        ):
            installed[key] = listing(files, tree)

    first, second, jit = (f"{ELSEWHERE}/{name}" for name in (FIRST, SECOND, JIT))
    publish(VLLM_AOT, FIRST, first, aot_tree(first, "first", kernels=3))
    # The shared part grows: its later generations refer to the first one's pack and to their own,
    # and are written against the first one.
    for kernels in (4, 5):
        grown = aot_tree(first, "first", kernels=kernels)
        publish(VLLM_AOT, FIRST, first, {SHARED: grown[SHARED]})
    # A recompile: the shared part needs no new pack, the models are stored against the first one.
    publish(VLLM_AOT, SECOND, second, aot_tree(second, "second", kernels=4))
    publish(VLLM_JIT, JIT, jit, jit_tree(jit))

    here = GOLDEN / VERSION
    here.mkdir(parents=True)  # fails where golden files are: what was released stays readable
    for key, data in writer.objects.items():
        target = here / "objects" / key
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    (here / "trusted-keys").write_text(signer.public_line(f"golden files of {VERSION}") + "\n")
    (here / "installed.json").write_text(json.dumps(installed, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
