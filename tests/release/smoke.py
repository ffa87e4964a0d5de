"""The wheel alone, in an environment of its own, away from the sources: serve, push, pull."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from support.site import run
from support.small import small_tree
from support.trees import H100, contents
from support.wheels import APART, install


def smoke(wheel: Path, work: Path, version: str) -> None:
    """Raises AssertionError. work: an empty directory."""
    program = install(wheel, work / "venv", "service")

    def aotcache(*words: str, url: str = "") -> str:
        done = subprocess.run(
            [program, *words],
            env=environment(work, url),
            cwd=work,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, f"aotcache {' '.join(words)}: {done.stderr}"
        return done.stdout

    assert aotcache("--version").split()[-1] == version
    assert_alone(program.with_name("python"), work)
    tree = small_tree(work / "node", ranks=(0, 1), cpp=True)
    (work / "h100.json").write_text(json.dumps(asdict(H100)))
    with run(work / "service", command=(str(program),), env=APART) as service:
        aotcache("key", "generate")
        pushed = aotcache("push", tree.hash, "--cache-root", str(work / "node"), url=service.url)
        assert pushed.count("published (generation 1") == 3, pushed
        pulled = aotcache(
            *("pull", tree.hash, "--platform", str(work / "h100.json")),
            *("--cache-root", str(work / "fresh")),
            url=service.url,
        )
        assert "signed by" in pulled, pulled
    place = Path(tree.path.replace(str(work / "node"), str(work / "fresh")))
    assert_same(Path(tree.path), place)


def environment(work: Path, url: str) -> dict[str, str]:
    settings = {"AOTCACHE_URL": url, "XDG_CONFIG_HOME": str(work / "config")}
    others = {name: value for name, value in os.environ.items() if not name.startswith("AOTCACHE")}
    return {**others, **APART, **settings}


def assert_alone(python: Path, work: Path) -> None:
    """Both packages are the wheel's own."""
    code = "import aotcache, aotcache_service as s; print(aotcache.__file__, s.__file__, sep='\\n')"
    said: Sequence[str] = subprocess.check_output(
        [python, "-c", code], env=environment(work, ""), cwd=work, text=True
    ).splitlines()
    assert len(said) == 2, said
    assert all(Path(file).is_relative_to(work / "venv") for file in said), said


def assert_same(tree: Path, pulled: Path) -> None:
    """But for the paths that lead into it."""
    there, expected = contents(pulled), contents(tree)
    assert set(there) == set(expected)
    for path, data in expected.items():
        assert there[path].replace(bytes(pulled), bytes(tree)) == data, path
