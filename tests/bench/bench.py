"""Run all of it once: the work is made, the servers run, everybody takes turns. `make bench`.

One machine and one run, so only ratios mean something: client, service and S3 server share its
cores. Writes docs/benchmarks.json and the tables of docs/benchmarks.md.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aotcache.local.state import TreeState
from aotcache.probe.trees import FoundTree, tree_path
from aotcache.protocol.names import DEFAULT_NAMESPACE, SHARED, rank_part
from bench import report
from bench.machine import load, machine, versions
from bench.report import CP, DIRECT, S3FS, SERVICE, TAR, WALK
from bench.timing import Contestant, Sample, alternate, timed
from bench.work import (
    KERNELS,
    RANKS,
    distinct_bytes,
    files_below,
    make_tree,
    make_tree_without_models,
)
from support import site as sites
from support.s3 import S3Server
from support.seaweedfs import run_seaweedfs
from support.trees import H100

ROUNDS = 7
_BEGIN = time.monotonic()
AOTCACHE = (sys.executable, "-m", "aotcache")
ONE_RANK = (SHARED, rank_part(5, 0, 5))

S3FS_GET = "import s3fs, sys; s3fs.S3FileSystem().get(*sys.argv[1:])"
S3FS_PUT = "import s3fs, sys; s3fs.S3FileSystem().put(*sys.argv[1:])"
S3FS_GET_TREE = "import s3fs, sys; s3fs.S3FileSystem().get(*sys.argv[1:], recursive=True)"
S3FS_PUT_TREE = "import s3fs, sys; s3fs.S3FileSystem().put(*sys.argv[1:], recursive=True)"
SCANDIR = """
import os, sys
todo = [sys.argv[1]]
while todo:
    with os.scandir(todo.pop()) as entries:
        for entry in entries:
            entry.stat(follow_symlinks=False)
            if entry.is_dir(follow_symlinks=False):
                todo.append(entry.path)
"""


class Bench:
    """Everything that runs. home: a fresh directory; all trees and servers' data lie below it."""

    def __init__(self, home: Path, running: ExitStack) -> None:
        self.home = home
        self.python = sys.executable
        _say("making the tree: Triton and Inductor compile")
        self.tree = make_tree(home)
        self.path = Path(self.tree.path)
        self.files = files_below(self.path)
        self.targets = home / "targets"
        self.targets.mkdir()
        self.archive = home / "tree.tar.zst"
        self.platform = home / "platform.json"
        self.platform.write_text(json.dumps(asdict(H100)))
        _say("starting SeaweedFS and two services")
        self.s3: S3Server = running.enter_context(run_seaweedfs())
        # botocore, so s3fs as it comes, reads only this name of the region.
        server_env = {**self.s3.env(), "AWS_DEFAULT_REGION": "us-east-1"}
        own = {
            "XDG_CONFIG_HOME": str(home / "config"),
            # The round that does not count compiles all modules, whatever the installation has.
            "PYTHONPYCACHEPREFIX": str(home / "pycache"),
            **server_env,
        }
        foreign = ("AOTCACHE_", "AWS_", "PYTHONDONTWRITEBYTECODE")
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(foreign)} | own
        self.storage = self.s3.fresh_url()
        self.data = home / "service"
        embedded = running.enter_context(sites.run(self.data))
        on_s3 = running.enter_context(
            sites.run(home / "service-s3", storage_url=self.storage, env=server_env)
        )
        self.access = {
            SERVICE: ("--url", embedded.url),
            DIRECT: ("--url", on_s3.url, "--storage-url", self.storage),
        }
        self.bucket = f"{self.s3.bucket}/bench"
        self._fill()

    def _fill(self) -> None:
        """Store the tree in every way once, to be pulled later."""
        self.run(*AOTCACHE, "key", "generate")
        for name in self.access:
            self.forget()
            self.run(*self._push(name))
        self.run("sh", "-c", *self._tar_put(f"{self.bucket}/tree.tar.zst"))
        self.archive_bytes = self.archive.stat().st_size
        _say("storing an object a file for s3fs")
        self.run(self.python, "-c", S3FS_PUT_TREE, f"{self.path}/", f"{self.bucket}/tree/")

    def run(self, *command: str) -> str:
        return timed(command, self.env)[0]

    def _push(
        self, name: str, namespace: str = DEFAULT_NAMESPACE, root: Path | None = None
    ) -> list[str]:
        root = root or self.home / "node"
        words = ["push", self.tree.hash, "--cache-root", str(root), "--namespace", namespace]
        return [*AOTCACHE, *words, "--json", *self.access[name]]

    def _pull(self, name: str, root: Path, *parts: str) -> list[str]:
        words = ["pull", self.tree.hash, "--cache-root", str(root), "--json"]
        words += [word for part in parts for word in ("--part", part)]
        return [*AOTCACHE, *words, "--platform", str(self.platform), *self.access[name]]

    def _tar_put(self, key: str) -> list[str]:
        """Words of `sh -c`: what is stored is the tree's content, below no directory."""
        script = 'tar -C "$1" -c . | zstd -3 -q -f -o "$2" && "$3" -c "$4" "$2" "$5"'
        return [script, "sh", str(self.path), str(self.archive), self.python, S3FS_PUT, key]

    def _tar_get(self, target: Path) -> list[str]:
        script = '"$1" -c "$2" "$3" "$4" && mkdir "$5" && tar --zstd -xf "$4" -C "$5"'
        key, archive = f"{self.bucket}/tree.tar.zst", f"{target}.tar.zst"
        return ["sh", "-c", script, "sh", self.python, S3FS_GET, key, archive, str(target)]

    def forget(self) -> None:
        """Nothing is remembered of the tree but its records: the publish is a first one."""
        state = TreeState(self.tree.path)
        for path in (state.journal, state.memo):
            Path(path).unlink(missing_ok=True)
        home = Path(state.records).parents[1]
        shutil.rmtree(home / "manifests" / self.tree.hash, ignore_errors=True)

    def pull(self) -> dict[str, list[Sample]]:
        objects = f"{self.bucket}/tree/"

        def ours(name: str) -> Contestant:
            return contestant(name, lambda to: self._pull(name, to), below=self._place)

        def contestant(
            name: str,
            command: Callable[[Path], Sequence[str]],
            below: Callable[[Path], Path] = lambda to: to,
        ) -> Contestant:
            # A new directory each round, and nothing deleted meanwhile: for minutes after many
            # files are deleted, ext4 makes new ones several times slower.
            def at(number: int) -> Path:
                return self.targets / f"{number} {name}"

            return Contestant(
                name=name,
                command=lambda number: command(at(number)),
                check=lambda number, _output: _same(
                    set(self.files), set(files_below(below(at(number)))), name
                ),
            )

        return self.measure(
            ours(SERVICE),
            ours(DIRECT),
            contestant(CP, lambda to: ("cp", "-r", str(self.path), str(to))),
            contestant(TAR, self._tar_get),
            contestant(S3FS, lambda to: (self.python, "-c", S3FS_GET_TREE, objects, f"{to}/")),
        )

    def _place(self, root: Path) -> Path:
        return Path(tree_path(str(root), self.tree.layout, self.tree.hash))

    def first_publish(self) -> dict[str, list[Sample]]:
        def ours(name: str) -> Contestant:
            return Contestant(
                name=name,
                # A namespace where nothing was ever stored.
                command=lambda number: self._push(name, f"first-{number}"),
                before=self.forget,
                check=lambda _round, output: _same(True, _uploaded(output) > 0, "uploaded"),
            )

        tar = Contestant(
            name=TAR,
            command=lambda number: ["sh", "-c", *self._tar_put(f"{self.bucket}/first-{number}")],
            before=lambda: self.archive.unlink(missing_ok=True),
        )
        return self.measure(ours(SERVICE), ours(DIRECT), tar)

    def publish_again(self) -> dict[str, list[Sample]]:
        def ours(name: str) -> Contestant:
            return Contestant(
                name=name,
                command=lambda _round: self._push(name),
                check=lambda _round, output: _same(0, _uploaded(output), "uploaded bytes"),
            )

        walk = (self.python, "-c", SCANDIR, str(self.path))
        return self.measure(
            ours(SERVICE), ours(DIRECT), Contestant(name=WALK, command=lambda _round: walk)
        )

    def starts(self) -> dict[str, list[Sample]]:
        """What a process costs before it does anything."""
        commands: dict[str, Sequence[str]] = {
            "python -c pass": (self.python, "-c", "pass"),
            "aotcache --version": (*AOTCACHE, "--version"),
            "python -c 'import s3fs'": (self.python, "-c", "import s3fs"),
        }
        return self.measure(
            *(
                Contestant(name=name, command=lambda _round, words=words: words)  # type: ignore[misc]
                for name, words in commands.items()
            )
        )

    def measure(self, *contestants: Contestant) -> dict[str, list[Sample]]:
        return alternate(contestants, ROUNDS, self.env)

    def sizes(self) -> dict[str, dict[str, int]]:
        bare = make_tree_without_models(self.home, self.tree)
        self.run(*self._push(SERVICE, "without-models", self.home / "without-models"))
        pulled = json.loads(self.run(*self._pull(SERVICE, self.targets / "rank", *ONE_RANK)))
        manifests = sum(self._manifest_bytes(part) for part in ONE_RANK)
        unique = _compressed(["zstd", "-3", "-q", "-c"], distinct_bytes(Path(pulled["path"])))
        return {
            "stored bytes": {
                report.STORED: self._stored(DEFAULT_NAMESPACE),
                report.TAR_BYTES: self.archive_bytes,
            },
            "stored bytes, without the models": {
                report.STORED: self._stored("without-models"),
                report.TAR_BYTES: _tar_bytes(bare),
            },
            "bytes of one rank's pull": {
                report.MOVED: pulled["moved_bytes"] + manifests,
                "aotcache, manifests of that": manifests,
                report.UNIQUE: unique,
            },
        }

    def _stored(self, namespace: str) -> int:
        return sum(files_below(self.data / "objects" / namespace).values())

    def _manifest_bytes(self, part: str) -> int:
        trees = files_below(self.data / "objects" / DEFAULT_NAMESPACE / "trees")
        return sum(size for path, size in trees.items() if f"/{part}/" in path)


def _uploaded(output: str) -> int:
    return sum(one["uploaded_bytes"] for one in json.loads(output)["published"])


def _same(wanted: object, found: object, what: str) -> None:
    if wanted != found:
        sys.exit(f"the benchmark does not measure what it says: {what}: {found} not {wanted}")


def _tar_bytes(tree: FoundTree) -> int:
    words = ["sh", "-c", 'tar -C "$1" -c . | zstd -3 -q -c', "sh", tree.path]
    return _compressed(words, b"")


def _compressed(command: Sequence[str], data: bytes) -> int:
    return len(subprocess.run(command, input=data, stdout=subprocess.PIPE, check=True).stdout)


def _say(text: str) -> None:
    print(f"bench, {time.monotonic() - _BEGIN:.0f} s: {text}", file=sys.stderr, flush=True)


def run(home: Path) -> dict[str, Any]:
    before = load()
    with ExitStack() as running:
        bench = Bench(home, running)
        seconds = {}
        for what, measure in (
            ("pull", bench.pull),
            ("first publish", bench.first_publish),
            ("publish again, unchanged", bench.publish_again),
            ("start of a process", bench.starts),
        ):
            _say(what)
            seconds[what] = {
                name: [asdict(sample) for sample in samples] for name, samples in measure().items()
            }
        _say("sizes")
        sizes = bench.sizes()
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": machine(home),
        "versions": versions(),
        "load": {"before": before, "after": load()},
        "work": {
            "files": len(bench.files),
            "bytes": sum(bench.files.values()),
            "distinct_bytes": len(distinct_bytes(bench.path)),
            "ranks": RANKS,
            "kernels": KERNELS,
        },
        "rounds": ROUNDS,
        "seconds": seconds,
        "bytes": sizes,
    }


def main() -> None:
    missing = [name for name in ("tar", "zstd", "cp") if shutil.which(name) is None]
    if missing:
        sys.exit(f"the benchmark needs {', '.join(missing)}: apt-get install {' '.join(missing)}")
    with tempfile.TemporaryDirectory(prefix="aotcache-bench-") as home:
        found = run(Path(home))
    print(report.write(found))
    _say("written to docs/benchmarks.json and docs/benchmarks.md")


if __name__ == "__main__":
    main()
