"""The plugin, for real: vLLM compiles on one cache root, and starts warm on another. `make
demo-vllm`.

The service runs on its embedded default; the two starts know its URL and nothing else. A third one
generates tokens while the publisher of its cache root uploads a large tree, to show what serving
pays for that. Exits with 1 if the second start was not warm.
"""

from __future__ import annotations

import os
import re
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from aotcache.cli.output import size
from aotcache.local.records import read_record, write_record
from aotcache.local.state import TreeState
from aotcache.protocol.record import TreeUsed
from support.site import Service, run
from support.vllm import Started, compiled_files, start
from support.vllm_site import cold_start, hash_of, plugin_env

PART = "rank_0_0-d0"
TOKENS = 500  # timed one by one, some seconds
LARGE = 128 << 20  # bytes that cannot be compressed: uploading them takes about as long


def main() -> None:
    home = Path(tempfile.mkdtemp(prefix="aotcache-demo-"))
    say = Console(stderr=True).print
    try:
        with run(home / "service") as service:
            say("first cache root: vLLM compiles (cold), and its publisher publishes")
            cold = cold_start(service, home / "first")
            say("second cache root: vLLM starts again (warm)")
            second = home / "second" / "elsewhere"
            env = plugin_env(service)
            warm = start(second, env=env, timed_tokens=TOKENS)
            new = set(names(second)) - set(names(home / "first"))
            say("second cache root: tokens while a publisher uploads")
            large = add_tree(second, hash_of(cold.saved[0]))
            busy = start(second, env=plugin_env(service, publishes=True), timed_tokens=TOKENS)
            published = wait_for_upload(second, large)
            show(service, cold, warm, new, busy, published)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    if warm.exit_code or warm.saved or warm.built or new or warm.tokens != cold.tokens:
        sys.exit("the second start was not warm, or gave other tokens\n" + warm.log[-3000:])
    print("the second start compiled nothing and gave the same tokens")


def names(cache_root: Path) -> list[str]:
    return [name for name in compiled_files(cache_root) if "/.aotcache/" not in name]


def add_tree(cache_root: Path, like: str) -> str:
    """A large tree that nobody has published yet, with the record of one that vLLM compiled."""
    trees = cache_root / "torch_compile_cache" / "torch_aot_compile"
    name = "0" * 64
    shutil.copytree(trees / like, trees / name)
    folder = trees / name / "inductor_cache" / "zz"
    folder.mkdir()
    (folder / f"c{'z' * 51}.so").write_bytes(os.urandom(LARGE // 2))
    (folder / f"c{'y' * 51}.so").write_bytes(os.urandom(LARGE // 2))
    record = read_record(str(trees / like), PART)
    assert record is not None
    trees_used = (TreeUsed(layout=record.layout, hash=name),)
    write_record(str(trees / name), replace(record, hash=name, trees=trees_used))
    return str(trees / name)


def wait_for_upload(cache_root: Path, tree: str) -> str:
    """The publisher's line about it."""
    end = time.monotonic() + 120
    log = cache_root / ".aotcache" / "publisher.log"
    while time.monotonic() < end:
        found = re.search(rf".*{Path(tree).name[:12]}.*uploaded.*", log.read_text())
        if found and TreeState(tree).targets():
            return found[0]
        time.sleep(0.5)
    sys.exit(f"the large tree was not published:\n{log.read_text()}")


def milliseconds(started: Started) -> tuple[str, str]:
    """Median and 99th percentile of a token."""
    ordered = sorted(started.latencies)
    return (
        f"{1000 * statistics.median(ordered):.1f}",
        f"{1000 * ordered[int(0.99 * len(ordered))]:.1f}",
    )


def show(
    service: Service,
    cold: Started,
    warm: Started,
    new: set[str],
    busy: Started,
    published: str,
) -> None:
    (detail,) = service.site().index.tree(hash_of(cold.saved[0])).trees
    table = Table("", "cold", "warm", box=SIMPLE, title="aotcache demo with vLLM")
    table.add_row(
        "torch.compile as vLLM reports it, seconds",
        f"{cold.compile_seconds[0]:.1f}",
        f"{warm.compile_seconds[0]:.1f}",
    )
    table.add_row(
        "engine init, seconds", f"{cold.init_seconds or 0:.1f}", f"{warm.init_seconds or 0:.1f}"
    )
    table.add_row("compiler runs", str(len(cold.built)), str(len(warm.built)))
    table.add_row("new files in the trees", str(detail.tree.files), str(len(new)))
    table.add_row("stored bytes", size(detail.tree.stored_bytes), "")
    table.add_section()
    quiet, loud = milliseconds(warm), milliseconds(busy)
    table.add_row("", "no upload", "uploading", style="bold")
    table.add_row("a token, median, ms", quiet[0], loud[0])
    table.add_row("a token, 99th percentile, ms", quiet[1], loud[1])
    Console().print(table)
    print("cold:", cold.aotcache[-1].partition("aotcache: ")[2])
    print("warm:", warm.aotcache[-1].partition("aotcache: ")[2])
    print("upload:", published)


if __name__ == "__main__":
    main()
