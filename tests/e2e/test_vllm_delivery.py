"""The plugin as a directory on PYTHONPATH, in a vLLM environment that aotcache is not installed in:
the commands of docs/vllm.md, and real vLLM."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.site import printed
from support.vllm import ROOT, VENV, compiled_files
from support.vllm_site import PublishedStart

PYTHON = str(VENV / "bin" / "python")
# What the environment has because aotcache was installed in it.
BROUGHT = ("aotcache", "ahocorasick-rs", "backports.zstd", "nvidia-ml-py", "watchdog")


def documented(beginning: str) -> list[str]:
    """The words of the one command in the documentation that begins so."""
    text = (ROOT / "docs" / "vllm.md").read_text()
    section = text.split("## Into an image without pip\n")[1].split("\n## ")[0]
    joined = section.replace("\\\n", "")
    (command,) = re.findall(rf"^ +(?:RUN )?({re.escape(beginning)}.*)", joined, re.MULTILINE)
    return shlex.split(command)


@dataclass(frozen=True)
class Bare:
    """within: runs a command that is put behind it where `.venv-vllm`, under the same path (which
    is in the keys of compiled C++), is as it was before aotcache was installed."""

    within: tuple[str, ...]

    def python(
        self, *words: str, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.within, PYTHON, *words],
            env={**os.environ, "PYTHONSAFEPATH": "1", **(env or {})},
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture(scope="module")
def bare() -> Iterator[Bare]:
    copy = Path(tempfile.mkdtemp(prefix=".venv-vllm-", dir=ROOT))
    try:
        # Links, which pip removes and never writes into; so it has to be the same file system.
        subprocess.run(["cp", "-al", f"{VENV}/.", str(copy)], check=True)
        uninstall = [str(copy / "bin" / "python"), "-m", "pip", "uninstall", "--quiet", "--yes"]
        subprocess.run([*uninstall, *BROUGHT], check=True)
        mount = 'mount --bind "$0" "$1" && shift && exec "$@"'
        yield Bare(("unshare", "--mount", "sh", "-c", mount, str(copy), str(VENV)))
    finally:
        shutil.rmtree(copy)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as an image of its own, and copied out of it by an init container."""
    base = tmp_path_factory.mktemp("delivery")
    places = {"/aotcache": str(base / "image"), "/src": str(ROOT)}
    words = [places.get(word, word) for word in documented("pip install --no-deps")]
    done = subprocess.run([PYTHON, "-m", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (base / "mounted").mkdir()
    subprocess.run(["cp", "-r", f"{base / 'image'}/.", str(base / "mounted")], check=True)
    return base / "mounted"


def test_the_environment_lacks_only_what_is_delivered(bare: Bare, directory: Path) -> None:
    lacking = bare.python("-c", "import aotcache")
    assert "ModuleNotFoundError" in lacking.stderr
    env = {"PYTHONPATH": str(directory)}
    where = bare.python("-c", "import aotcache; print(aotcache.__file__)", env=env)
    assert where.stdout.strip() == str(directory / "aotcache" / "__init__.py")
    # What a command outside the engine asks NVIDIA's driver with: not an engine on this machine.
    complaints = bare.python("-m", "pip", "check", env=env).stdout.splitlines()
    (ours,) = [line for line in complaints if re.match(r"aotcache|backports|watchdog", line)]
    assert ours.endswith("requires nvidia-ml-py, which is not installed.")


def test_nothing_is_there_twice(bare: Bare, directory: Path) -> None:
    """PYTHONPATH comes before all that the environment has."""
    _, *words = documented("python3 -c")
    twice = bare.python(*words, env={"PYTHONPATH": str(directory)})
    assert (twice.returncode, twice.stdout) == (0, "[]\n"), twice.stderr
    # And it would say so: here aotcache is installed as well.
    env = {**os.environ, "PYTHONPATH": str(directory)}
    done = subprocess.run([PYTHON, *words], env=env, capture_output=True, text=True, check=True)
    assert "aotcache" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_fresh_node_starts_warm(
    bare: Bare, directory: Path, vllm_published: PublishedStart, tmp_path: Path
) -> None:
    cold = vllm_published.started
    env = {**vllm_published.env, "PYTHONPATH": str(directory)}
    _, *words = documented("python3 -m aotcache doctor")
    doctor = bare.python(*words, "--json", env={**env, "VLLM_CACHE_ROOT": str(tmp_path / "root")})
    found = {each["subject"]: each for each in printed(doctor)}
    assert doctor.returncode == 0, doctor.stdout
    assert found["plugin"]["found"] == "vLLM finds the plugin `aotcache`"

    for compiled in (directory / "aotcache").rglob("*.pyc"):
        compiled.unlink()
    warm = vllm_published.fresh(tmp_path / "root", env=env, within=bare.within)
    assert warm.exit_code == 0, warm.log[-5000:]
    assert len(warm.loaded) == len(cold.saved), warm.aotcache
    assert warm.saved == warm.built == []
    assert warm.tokens == cold.tokens
    assert "hit: backbone" in warm.aotcache[-1]
    name = f"torch_aot_compile/{vllm_published.hash}/"
    trees = [
        {path for path in compiled_files(root) if name in path and ".aotcache" not in path}
        for root in (vllm_published.cache_root, tmp_path / "root")
    ]
    assert trees[0] == trees[1]
    # What has run, in the engine and in its companion, was compiled anew.
    ran = {found.name.split(".")[0] for found in (directory / "aotcache").rglob("*.pyc")}
    assert {"hooks", "start", "pull"} <= ran
