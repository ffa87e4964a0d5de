"""`bench`: a tree of one's own, published and pulled, against copying it by other means."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import click

from aotcache import settings
from aotcache.cli import options, output
from aotcache.cli.push import choose
from aotcache.errors import AotcacheError, LocalError, NotFoundError
from aotcache.local.python import our_python
from aotcache.local.records import read_records
from aotcache.local.state import TreeState
from aotcache.probe.trees import FoundTree, scan_tree, tree_path
from aotcache.sync.identity import identify

PUSH, AGAIN, PULL = "publish", "publish again, unchanged", "pull"
AOTCACHE, COPY, TAR, WALK = (
    "aotcache",
    "cp -r, same disk",
    "tar | zstd -3, same disk",
    "walk and stat",
)

_WALK = (
    "import os, sys; [os.lstat(os.path.join(d, f)) for d, _, n in os.walk(sys.argv[1]) for f in n]"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchReport:
    """What `bench --json` prints. seconds: of whole processes, by what was done and by whom, a
    number a round. bytes: of the tree, of what was uploaded and moved, of the archive."""

    tree: str
    files: int
    seconds: dict[str, dict[str, list[float]]]
    bytes: dict[str, int]
    left_out: dict[str, str]


@click.command()
@click.argument("hash")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1, 100))
@options.layout
@options.cache_root
@options.platform
@options.as_json
@options.transfer
def bench(
    hash: str,
    rounds: int,
    layout: str | None,
    cache_root: str,
    platform_from: str | None,
    as_json: bool,
    **site: Any,
) -> None:
    """Time publish and pull of the tree HASH (or the start of its name) with this machine's own
    storage, and what one would use instead on its disk.

    Works in a directory below the cache root and in a namespace of its own, and removes both; what
    was uploaded stays in storage until it is collected.
    """
    (tree,) = choose(cache_root, hash, layout)
    site.pop("namespace")
    run = _Bench(tree, cache_root, options.platform_of(platform_from), site)
    with run.scratch():
        for number in range(1, rounds + 1):
            if not as_json:
                click.echo(f"round {number} of {rounds}", err=True)
            run.round()
    report = run.report()
    if as_json:
        output.print_json(report)
    else:
        _print(report)


class _Bench:
    def __init__(
        self, tree: FoundTree, cache_root: str, platform: Any, site: dict[str, Any]
    ) -> None:
        self.tree = tree
        self.cache_root = os.path.abspath(cache_root)
        self.scan = scan_tree(tree.layout, tree.path)
        self.identity = identify(tree, self.scan, read_records(tree.path), platform)
        self.index = options.index_at(site["url"], site["token_file"])
        self.environment = {**os.environ, **options.variables_of(site)}
        self.seconds: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        self.bytes = {"tree": sum(file.size for file in self.scan.files)}
        self.left_out: dict[str, str] = {}
        for program in ("tar", "zstd"):
            if shutil.which(program) is None:
                self.left_out[TAR] = f"{program} is not installed here"

    @contextmanager
    def scratch(self) -> Iterator[None]:
        """A directory on the disk that trees are pulled to."""
        try:
            self.home = tempfile.mkdtemp(prefix=".aotcache-bench-", dir=self.cache_root)
        except OSError as error:
            raise LocalError(f"cannot work below {self.cache_root}: {error.strerror}") from error
        self.platform = os.path.join(self.home, "platform.json")
        with open(self.platform, "w", encoding="ascii") as file:
            json.dump(asdict(self.identity.platform), file)
        try:
            yield
        finally:
            shutil.rmtree(self.home, ignore_errors=True)

    def round(self) -> None:
        """Everybody once, on a copy that nobody has seen before."""
        place = os.path.join(self.home, secrets.token_hex(4))
        node, archive = os.path.join(place, "node"), os.path.join(place, "archive.tar.zst")
        copy = tree_path(node, self.tree.layout, self.tree.hash)
        os.makedirs(os.path.dirname(copy))
        self._time(PULL, COPY, ["cp", "-r", self.tree.path, copy])
        records, beside = TreeState(self.tree.path).records, TreeState(copy).records
        if os.path.isdir(records):
            shutil.copytree(records, beside)
        if TAR not in self.left_out:
            pack, unpack = (
                'tar -C "$1" -c . | zstd -3 -q -o "$2"',
                'zstd -dcq "$2" | tar -C "$1" -x',
            )
            self._time(PUSH, TAR, ["sh", "-c", pack, "sh", copy, archive])
            self.bytes["archive"] = os.path.getsize(archive)
            os.mkdir(os.path.join(place, "unpacked"))
            self._time(PULL, TAR, ["sh", "-c", unpack, "sh", f"{place}/unpacked", archive])
        namespace = f"bench-{secrets.token_hex(8)}"
        self.environment[settings.NAMESPACE] = namespace
        try:
            pushed = self._aotcache(PUSH, "push", node)
            self._aotcache(AGAIN, "push", node)
            self._time(AGAIN, WALK, [sys.executable, "-c", _WALK, copy])
            pulled = self._aotcache(PULL, "pull", os.path.join(place, "fresh"))
        finally:
            self._forget(namespace)
            shutil.rmtree(place, ignore_errors=True)
        self.bytes["uploaded"] = pushed["published"][0]["uploaded_bytes"]
        self.bytes["moved"] = pulled["moved_bytes"]

    def _aotcache(self, what: str, command: str, root: str) -> Any:
        words = our_python("aotcache", command, self.tree.hash, "--cache-root", root)
        words += ["--layout", self.tree.layout, "--platform", self.platform, "--json"]
        return json.loads(self._time(what, AOTCACHE, words))

    def _time(self, what: str, who: str, words: Sequence[str]) -> bytes:
        begin = time.perf_counter()
        done = subprocess.run(words, env=self.environment, capture_output=True, check=False)
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
            raise LocalError(f"`{words[0]}` failed at {self.tree.path} ({what}, {who}): {said}")
        self.seconds[what][who].append(round(time.perf_counter() - begin, 3))
        return done.stdout

    def _forget(self, namespace: str) -> None:
        try:
            self.index.delete(self.tree.hash, namespace=namespace, layout=self.tree.layout)
        except NotFoundError:
            pass  # nothing of it was published
        except AotcacheError as error:
            click.echo(f"the tree stays in the namespace {namespace}: {error}", err=True)

    def report(self) -> BenchReport:
        return BenchReport(
            tree=f"{self.tree.layout}/{self.tree.hash}",
            files=len(self.scan.files),
            seconds={what: dict(found) for what, found in self.seconds.items()},
            bytes=self.bytes,
            left_out=self.left_out,
        )


def _print(report: BenchReport) -> None:
    rows = []
    for what in (PUSH, AGAIN, PULL):
        ours = median(report.seconds[what][AOTCACHE])
        for who, samples in report.seconds[what].items():
            found = median(samples)
            ratio = "" if who == AOTCACHE else f"{ours / found:.2f}"
            rows.append((what, who, f"{found:.2f}", ratio))
    click.echo(f"{report.tree}: {report.files} files, {output.size(report.bytes['tree'])}")
    output.print_table(("what", "who", "median s", "aotcache divided by it"), rows)
    sizes = [f"{name} {output.size(size)}" for name, size in report.bytes.items() if name != "tree"]
    click.echo(f"bytes: {', '.join(sizes)}")
    for who, why in report.left_out.items():
        click.echo(f"left out: {who}: {why}")
