"""Real vLLM with the plugin, and something wrong: it starts and compiles as it would without."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from aotcache.protocol.v1.trees import TreeDetail
from support.disk import small_disk
from support.process import eventually
from support.site import Service, aotcache, run
from support.vllm import VENV, Started, start
from support.vllm_site import PublishedStart, hash_of, plugin_env

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def check_compiled(
    started: Started, like: Started, *, warned: str, head: str = "not pulled"
) -> None:
    """It compiled and answered, and we warned once. head: of the line at the end, where an error is
    no miss."""
    assert started.exit_code == 0, started.log[-5000:]
    assert len(started.saved) == 1
    assert started.loaded == []
    assert started.tokens == like.tokens
    warnings = [line for line in started.aotcache if "WARNING" in line]
    assert len(warnings) == 1, started.aotcache
    assert re.search(warned, warnings[0]), warnings[0]
    assert f"{head}: backbone" in started.aotcache[-1]
    assert "client/aotcache/" not in started.log  # no traceback of ours


def waited(started: Started) -> float:
    found = re.search(r"waited ([\d.]+) s", started.aotcache[-1])
    assert found, started.aotcache
    return float(found[1])


def test_a_service_that_was_killed(vllm_published: PublishedStart, tmp_path: Path) -> None:
    with run(tmp_path / "service") as service:
        env = plugin_env(service, publishes=True)
        assert service.process is not None
        subprocess.run(["pkill", "-9", "-P", str(service.process.pid)], check=False)
        service.process.kill()
        started = vllm_published.fresh(tmp_path / "root", env=env)
        check_compiled(started, vllm_published.started, warned="service|127.0.0.1")

        # What could not be published then is by the next start's publisher.
        service.start()
        again = start(tmp_path / "root", env=plugin_env(service, publishes=True))
        assert again.loaded == started.saved
        name = hash_of(started.saved[0])
        eventually(lambda: service.site().index.trees(hash=name).trees or None, "the tree")


def test_a_service_that_hangs(vllm_published: PublishedStart, tmp_path: Path) -> None:
    """No delay beyond the budget, which is one for the whole start."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        env = {"AOTCACHE_URL": url, "AOTCACHE_TRUST": "unsigned", "AOTCACHE_DEADLINE": "4"}
        started = vllm_published.fresh(tmp_path / "root", env=env)
    check_compiled(started, vllm_published.started, warned="AOTCACHE_DEADLINE")
    assert waited(started) == pytest.approx(4.0, abs=0.5)


@contextmanager
def copied(published: PublishedStart, base: Path) -> Iterator[Service]:
    """A service of its own that knows what the published one knows."""
    shutil.copytree(published.service.data, base / "service")
    with run(base / "service") as service:
        yield service


def test_an_object_that_is_missing(vllm_published: PublishedStart, tmp_path: Path) -> None:
    with copied(vllm_published, tmp_path) as service:
        for pack in (service.data / "objects" / "default" / "packs").rglob("*-*"):
            pack.unlink()
        env = plugin_env(service, headers=True)
        started = vllm_published.fresh(tmp_path / "root", env=env)
    check_compiled(started, vllm_published.started, warned="packs/")


def test_a_disk_that_is_full(vllm_published: PublishedStart, tmp_path: Path) -> None:
    """The tree is larger than what is free; what vLLM itself writes is not."""
    root, large = tmp_path / "root", tmp_path / "large"
    shutil.copytree(vllm_published.cache_root, large)
    forget(large)
    tree = large / "torch_compile_cache" / "torch_aot_compile" / vllm_published.hash
    library = tree / "inductor_cache" / "zz" / f"c{'z' * 51}.so"
    library.parent.mkdir()
    library.write_bytes(os.urandom(1 << 20) * 90)
    with run(tmp_path / "service") as service, small_disk(root):
        env = plugin_env(service, headers=True)
        aotcache("push", vllm_published.hash, "--cache-root", str(large), env=env)
        started = vllm_published.fresh(root, env=env)
    check_compiled(started, vllm_published.started, warned=r"needs \d+ bytes and its disk has")


def test_a_cache_root_that_is_read_only(vllm_published: PublishedStart, tmp_path: Path) -> None:
    """vLLM alone does not start on one. With the plugin it does, and warm."""
    root = tmp_path / "root"
    env = {**vllm_published.env, "TMPDIR": str(tmp_path / "tmp")}
    (tmp_path / "tmp").mkdir()
    with small_disk(root, "ro"):
        started = start(root, env=env)
    assert started.exit_code == 0, started.log[-5000:]
    assert started.tokens == vllm_published.started.tokens
    (warning,) = [line for line in started.aotcache if "WARNING" in line]
    assert f"{root} cannot be written" in warning
    (loaded,) = started.loaded
    assert loaded.startswith(str(tmp_path / "tmp"))


def test_our_own_directory_cannot_be_written(
    vllm_published: PublishedStart, tmp_path: Path
) -> None:
    home = tmp_path / "root" / "torch_compile_cache" / "torch_aot_compile"
    home.mkdir(parents=True)
    (home / ".aotcache").write_text("somebody's file")
    (tmp_path / "root" / ".aotcache").write_text("somebody's file")
    env = plugin_env(vllm_published.service, publishes=True)
    started = vllm_published.fresh(tmp_path / "root", env=env)
    check_compiled(started, vllm_published.started, warned="is not a directory")


def forget(root: Path) -> None:
    """Make a copied root one that has published nothing yet; its records stay."""
    for state in root.rglob(".aotcache"):
        for name in ("manifests", "memo", "journal", "locks"):
            shutil.rmtree(state / name, ignore_errors=True)


class _Dies:
    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return os.abort, ()


def dies_at_load(tree: Path) -> None:
    (tree / "rank_0_0" / "model").write_bytes(pickle.dumps(_Dies()))


def dies_at_first_run(tree: Path) -> None:
    """An illegal instruction at the start of every kernel."""
    patched = 0
    for library in (tree / "inductor_cache").rglob("*.main.so"):
        symbols = subprocess.run(
            ["nm", "-D", "--defined-only", str(library)], capture_output=True, text=True, check=True
        ).stdout
        found = re.search(r"^([0-9a-f]+) T kernel$", symbols, re.MULTILINE)
        assert found
        # Text lies in the file where it lies in memory, in what g++ links for Inductor.
        content = bytearray(library.read_bytes())
        at = int(found[1], 16)
        content[at : at + 2] = b"\x0f\x0b"
        library.write_bytes(content)
        patched += 1
    assert patched


@pytest.mark.parametrize("poison", [dies_at_load, dies_at_first_run])
def test_poison_costs_one_crash(
    vllm_published: PublishedStart, tmp_path: Path, poison: Callable[[Path], None]
) -> None:
    shutil.copytree(vllm_published.cache_root, tmp_path / "publisher")
    forget(tmp_path / "publisher")
    poison(
        tmp_path / "publisher" / "torch_compile_cache" / "torch_aot_compile" / vllm_published.hash
    )
    with run(tmp_path / "service") as service:
        env = plugin_env(service, headers=True)
        aotcache("push", vllm_published.hash, "--cache-root", str(tmp_path / "publisher"), env=env)
        crashed = vllm_published.fresh(tmp_path / "node", env=env)
        assert crashed.exit_code != 0, crashed.aotcache
        assert crashed.tokens == []

        after = start(tmp_path / "node", env=env)
        check_compiled(after, vllm_published.started, warned="made the engine crash", head="miss")
        assert "crashed_here" in after.aotcache[-1]

        def told() -> TreeDetail | None:
            (detail,) = service.site().index.tree(vllm_published.hash).trees
            return detail if detail.tree.outcomes == {"crashed": 1} else None

        eventually(told, "the outcome")
        # What crashed can be looked at.
        aside = tmp_path / "node" / "torch_compile_cache" / "torch_aot_compile" / ".aotcache"
        assert (aside / "crashed" / vllm_published.hash / "rank_0_0" / "model").exists()


def test_another_source_is_refused_and_is_no_poison(
    vllm_published: PublishedStart, tmp_path: Path
) -> None:
    """A build of the same version whose model code is another: vLLM says so and compiles."""
    (module,) = VENV.glob("lib/python*/site-packages/vllm/model_executor/models/llama.py")
    changed = tmp_path / "llama.py"
    changed.write_text(module.read_text() + "\n# another build\n")
    mounted = 'mount --bind "$0" "$1" && shift && exec "$@"'
    started = vllm_published.fresh(
        tmp_path / "root",
        within=("unshare", "--mount", "sh", "-c", mounted, str(changed), str(module)),
    )
    assert started.exit_code == 0, started.log[-5000:]
    assert len(started.saved) == 1
    assert "Source code has changed" in started.aotcache[-1]

    def told() -> TreeDetail | None:
        detail = vllm_published.detail()
        return detail if detail.tree.outcomes.get("load_failed") == 1 else None

    eventually(told, "the outcome")
    assert not list((tmp_path / "root").rglob("poison/*"))
