"""The main job, for real: compile, publish, pull at another path, start warm. `make demo`.

Everything runs on the embedded default in a directory of its own: the service (SQLite and a local
directory), the watcher, a signing key, two cache roots. Exits with 1 if the second start was not
warm.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from aotcache.cli.output import size
from aotcache.engines.torch import environment

KEY = "demo-block"
PROGRAM = Path(__file__).with_name("block.py")
AOTCACHE = [sys.executable, "-m", "aotcache"]
# Notes each compiler process that compiles (asking for the version does not), then is the compiler.
COMPILER = """#!/bin/sh
case " $* " in *" -o "*) echo x >> "$DEMO_COMPILED" ;; esac
exec {compiler} "$@"
"""


class Demo:
    def __init__(self, home: Path) -> None:
        self.home = home
        self.first = home / "first" / "cache"
        self.second = home / "second" / "elsewhere" / "cache"
        self.log = home / "log"
        compiler = home / "c++"
        compiler.write_text(COMPILER.format(compiler=shutil.which("g++") or "g++"))
        compiler.chmod(0o755)
        self.env = {
            **os.environ,
            "CXX": str(compiler),
            "DEMO_COMPILED": str(home / "compiled"),
            "XDG_CONFIG_HOME": str(home / "config"),
        }

    def aotcache(self, *words: str) -> str:
        done = subprocess.run(
            [*AOTCACHE, *words], env=self.env, capture_output=True, text=True, check=False
        )
        if done.returncode:
            sys.exit(f"aotcache {words[0]} failed with {done.returncode}:\n{done.stderr}")
        return done.stdout

    def start(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        with (self.home / f"{name}.log").open("wb") as log:
            return subprocess.Popen([*AOTCACHE, *words], env=self.env, stdout=log, stderr=log)

    def wait_for(self, name: str, pattern: str, process: subprocess.Popen[bytes]) -> re.Match[str]:
        end = time.monotonic() + 60
        while time.monotonic() < end and process.poll() is None:
            found = re.search(pattern, (self.home / f"{name}.log").read_text())
            if found:
                return found
            time.sleep(0.05)
        sys.exit(f"{name} did not say {pattern!r}:\n{(self.home / f'{name}.log').read_text()}")

    def run_program(self, cache_root: Path) -> dict[str, float]:
        compiled = Path(self.env["DEMO_COMPILED"])
        compiled.write_text("")
        tree = str(cache_root / "inductor" / KEY)
        done = subprocess.run(
            [sys.executable, str(PROGRAM), KEY],
            env=environment(tree, self.env),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(f"the program failed:\n{done.stderr}")
        said: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        said["compilers"] = len(compiled.read_text().split())
        return said


def files_of(cache_root: Path) -> set[str]:
    tree = cache_root / "inductor" / KEY
    return {
        str(path.relative_to(tree))
        for path in tree.rglob("*")
        if path.is_file() and "locks" not in path.parts
    }


def main() -> None:
    home = Path(tempfile.mkdtemp(prefix="aotcache-demo-"))
    demo = Demo(home)
    running: list[subprocess.Popen[bytes]] = []
    say = Console(stderr=True).print
    try:
        demo.aotcache("key", "generate")
        say("service: starting on its embedded default")
        service = demo.start("serve", "serve", "--data-dir", str(home / "data"), "--port", "0")
        running.append(service)
        demo.env["AOTCACHE_URL"] = demo.wait_for("serve", r"http://[\d.:]+", service)[0]
        watcher = demo.start("watch", "watch", "--cache-root", str(demo.first))
        running.append(watcher)
        demo.wait_for("watch", "watching", watcher)
        say("first cache root: compiling a transformer block (cold)")
        cold = demo.run_program(demo.first)
        say("watcher: publishing what has settled")
        demo.wait_for("watch", r"shared published", watcher)
        stored = json.loads(demo.aotcache("ls", "--json"))[0]
        publish_seconds = demo.wait_for("watch", r"in ([\d.]+) s", watcher)[1]
        say("second cache root: pulling")
        pulled = json.loads(demo.aotcache("pull", KEY, "--cache-root", str(demo.second), "--json"))
        before = files_of(demo.second)
        say("second cache root: starting again (warm)")
        warm = demo.run_program(demo.second)
        new_files = files_of(demo.second) - before
    finally:
        for process in reversed(running):
            process.terminate()
            process.wait(20)
        shutil.rmtree(home, ignore_errors=True)

    table = Table("", "cold", "warm", box=SIMPLE, title="aotcache demo")
    table.add_row("compile, seconds", f"{cold['seconds']:.1f}", f"{warm['seconds']:.1f}")
    table.add_row("compiler processes", f"{cold['compilers']:.0f}", f"{warm['compilers']:.0f}")
    table.add_row(
        "Inductor graph hits / misses",
        f"{cold['hits']} / {cold['misses']}",
        f"{warm['hits']} / {warm['misses']}",
    )
    table.add_row("new files in the tree", str(stored["files"]), str(len(new_files)))
    table.add_section()
    table.add_row("files, bytes", f"{stored['files']}", size(stored["raw_bytes"]))
    table.add_row("stored bytes", "", size(stored["stored_bytes"]))
    table.add_row("publish, seconds", publish_seconds, "")
    table.add_row("pull, seconds", "", f"{pulled['seconds']:.2f}")
    table.add_row("moved by the pull", "", size(pulled["moved_bytes"]))
    Console().print(table)
    warm_start = not (warm["misses"] or warm["compilers"] or new_files) and warm["hits"]
    if not warm_start or warm["sum"] != cold["sum"]:
        sys.exit("the second start was not warm, or gave another result")
    print("the second start compiled nothing and gave the same result")


if __name__ == "__main__":
    main()
