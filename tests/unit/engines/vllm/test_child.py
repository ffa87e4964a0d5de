"""The companion as the engine sees it: a real process against a real service."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from aotcache.core.leaks import Scanner
from aotcache.engines.vllm.child import Companion
from aotcache.engines.vllm.companion import _do
from aotcache.engines.vllm.fetching import Fetching
from aotcache.engines.vllm.jobs import Answer, Fetch, Tell
from aotcache.local.outcomes import has_kept, keep_outcome
from aotcache.local.pulled import read_note
from aotcache.probe.trees import FoundTree, tree_path
from aotcache.protocol.names import VLLM_AOT
from aotcache.protocol.record import TreeUsed
from aotcache.protocol.v1.outcomes import Outcome
from support.site import Service, publish_tree, run
from support.small import record, small_tree
from support.trees import H100, RECIPE, contents

PART = "rank_0_0-d0"
ENOUGH = 60.0  # seconds


@pytest.fixture
def companion() -> Iterator[Companion]:
    found = Companion()
    yield found
    found.kill()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with run(tmp_path_factory.mktemp("service") / "data") as found:
        yield found


@pytest.fixture(scope="module")
def tree(service: Service, tmp_path_factory: pytest.TempPathFactory) -> FoundTree:
    found = small_tree(tmp_path_factory.mktemp("node"))
    publish_tree(service.site(), found)
    return found


@pytest.fixture
def environment(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> pytest.MonkeyPatch:
    monkeypatch.setenv("AOTCACHE_URL", service.url)
    monkeypatch.setenv("AOTCACHE_TRUST", "unsigned")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return monkeypatch


def _fetch(root: Path, tree_hash: str = "", **about: object) -> Fetch:
    values = {"namespace": "default", "part": PART, "platform": H100, "recipe": RECIPE, **about}
    return Fetch(cache_root=str(root), hash=tree_hash, **values)  # type: ignore[arg-type]


def _ask(companion: Companion, job: Fetch | Tell) -> Answer:
    companion.ask(job)
    answer = companion.answer(ENOUGH)
    assert answer is not None
    return answer


@pytest.mark.usefixtures("environment")
def test_a_tree_is_brought(companion: Companion, tree: FoundTree, tmp_path: Path) -> None:
    root = tmp_path / "fresh"
    answer = _ask(companion, _fetch(root, tree.hash))
    (brought,) = answer.brought
    assert (brought.layout, brought.hash, brought.installed) == (VLLM_AOT, tree.hash, 6)
    assert brought.unsigned
    assert (answer.error, answer.why, answer.fatal) == ("", "", False)
    place = tree_path(str(root), VLLM_AOT, tree.hash)
    assert set(contents(place)) == set(contents(tree.path))
    assert read_note(place, PART) is not None
    again = _ask(companion, _fetch(root, tree.hash))
    assert [one.installed for one in again.brought] == [0]


@pytest.mark.usefixtures("environment")
def test_jobs_are_answered_in_order(companion: Companion, tree: FoundTree, tmp_path: Path) -> None:
    companion.ask(_fetch(tmp_path / "first", recipe=RECIPE))
    companion.ask(_fetch(tmp_path / "second", "f" * 64))
    companion.ask(_fetch(tmp_path / "third", tree.hash, platform=replace(H100, arch="sm_80")))
    companion.ask(_fetch(tmp_path / "fourth", tree.hash, part="rank_5_0-d5"))
    assert companion.unanswered == 4
    answers = [companion.answer(ENOUGH) for _ in range(4)]
    assert companion.unanswered == 0
    assert all(answer is not None and not answer.error for answer in answers)
    said = [(len(a.brought), a.why.partition(":")[0]) for a in answers if a is not None]
    assert said == [(1, ""), (0, "unknown_hash"), (0, "other_platform"), (0, "part_missing")]
    assert not (tmp_path / "second/torch_compile_cache/torch_aot_compile" / ("f" * 64)).exists()


@pytest.mark.usefixtures("environment")
def test_bad_input_is_answered_and_the_next_job_too(
    companion: Companion, tree: FoundTree, tmp_path: Path
) -> None:
    job = _fetch(tmp_path / "fresh", tree.hash)
    companion.ask(job)
    assert companion._process is not None
    assert companion._process.stdin is not None
    lines = (b"no json\n", b'{"type": "Explode"}\n', b"\xff\xfe\n", b'{"type": "Fetch"}\n')
    for line in lines:
        companion._process.stdin.write(line)
        companion.unanswered += 1
    companion.ask(job)
    first, *bad, last = [companion.answer(ENOUGH) for _ in range(len(lines) + 2)]
    assert all(answer is not None and answer.error and answer.fatal for answer in bad)
    assert first is not None
    assert last is not None
    assert (len(first.brought), len(last.brought)) == (1, 1)


@pytest.mark.usefixtures("environment")
def test_what_fails_for_one_tree_is_not_fatal(
    companion: Companion, service: Service, tmp_path: Path
) -> None:
    packs = service.data / "objects/default/packs"
    before = set(packs.rglob("*-*"))
    broken = small_tree(tmp_path / "node", name="broken", model_bytes=50_000)
    publish_tree(service.site(), broken)
    for pack in set(packs.rglob("*-*")) - before:
        pack.unlink()
    answer = _ask(companion, _fetch(tmp_path / "fresh", broken.hash))
    assert answer.error
    assert not answer.fatal
    assert answer.brought == ()


@pytest.mark.usefixtures("environment")
def test_what_came_before_an_error_is_counted(
    companion: Companion, service: Service, tmp_path: Path
) -> None:
    recipe = replace(RECIPE, model="org/pair")
    pair = [small_tree(tmp_path / "node", name=name, recipe=recipe) for name in ("one", "two")]
    used = tuple(TreeUsed(layout=tree.layout, hash=tree.hash) for tree in pair)
    for tree in pair:
        record(Path(tree.path), PART, recipe=recipe, trees=used)
        publish_tree(service.site(), tree)
    asked = _ask(companion, _fetch(tmp_path / "whole", recipe=recipe))
    first, second = asked.brought
    for manifest in (service.data / "objects").rglob(f"{second.hash}/**/*.manifest"):
        manifest.unlink()
    fetching = Fetching(lambda text: None)  # noqa: ARG005
    fetching._take(_ask(companion, _fetch(tmp_path / "fresh", recipe=recipe)))
    assert [one.hash for one in fetching.brought.values()] == [first.hash]
    assert fetching.brought[first.layout, first.hash].moved_bytes > 0
    assert (fetching.failed, fetching.closed) == (True, "")


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("AOTCACHE_URL", "http://127.0.0.1:1", "no answer"),
        ("AOTCACHE_URL", "ftp://nobody", "not the URL of a service"),
        ("AOTCACHE_TRUST", "", "aotcache key trust"),
        ("AOTCACHE_TRUST", "maybe", "maybe"),
        ("AOTCACHE_TRUSTED_KEYS", "/nowhere/keys", "cannot read /nowhere/keys"),
    ],
)
def test_what_fails_for_all_is_fatal(
    companion: Companion,
    environment: pytest.MonkeyPatch,
    tmp_path: Path,
    variable: str,
    value: str,
    said: str,
) -> None:
    environment.setenv(variable, value)
    answer = _ask(companion, _fetch(tmp_path / "fresh", "f" * 64))
    assert said in answer.error
    assert answer.fatal


def test_a_service_that_hangs_is_left_with_the_budget(
    companion: Companion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AOTCACHE_TRUST", "unsigned")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AOTCACHE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        companion.ask(_fetch(tmp_path / "fresh", "f" * 64))
        assert companion._process is not None
        process = companion._process
        connection, _ = silent.accept()  # it has asked
        assert companion.answer(0.1) is None
        assert companion.answer(0) is None
        companion.kill()
        assert process.returncode == -signal.SIGKILL
        connection.close()
    assert companion.unanswered == 0
    assert not list(tmp_path.glob("fresh/**/rank_0_0"))


@pytest.mark.usefixtures("environment")
def test_a_deadline_of_ages_is_waited_for(
    companion: Companion, tree: FoundTree, tmp_path: Path
) -> None:
    companion.ask(_fetch(tmp_path / "fresh", tree.hash))
    answer = companion.answer(1e12)
    assert answer is not None
    assert len(answer.brought) == 1


@pytest.mark.usefixtures("environment")
def test_a_companion_that_dies(companion: Companion, tmp_path: Path) -> None:
    _ask(companion, _fetch(tmp_path / "fresh", "f" * 64))
    assert companion._process is not None
    os.kill(companion._process.pid, signal.SIGSTOP)
    companion.ask(_fetch(tmp_path / "fresh", "f" * 64))
    os.kill(companion._process.pid, signal.SIGKILL)
    answer = companion.answer(ENOUGH)
    assert answer is not None
    assert answer.fatal
    assert "ended with code -9" in answer.error
    with pytest.raises(OSError, match="pipe"):
        companion.ask(_fetch(tmp_path / "fresh", "f" * 64))


@pytest.mark.usefixtures("environment")
def test_another_companion_after_one_that_was_killed(
    companion: Companion, tree: FoundTree, tmp_path: Path
) -> None:
    companion.ask(_fetch(tmp_path / "fresh", "f" * 64))
    companion._buffer = b'{"brou'  # as far as it had come
    companion.kill()
    assert companion.answer(ENOUGH) == Answer(
        error="its companion process was not started", fatal=True
    )
    assert len(_ask(companion, _fetch(tmp_path / "fresh", tree.hash)).brought) == 1


def test_no_python_to_start(
    companion: Companion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(OSError):  # noqa: PT011 (any: it says what is lacking)
        companion.ask(_fetch(tmp_path / "fresh", "f" * 64))


def _keep(tree: FoundTree, root: Path, reason: str = "") -> str:
    place = tree_path(str(root), tree.layout, tree.hash)
    outcome = Outcome(
        layout=tree.layout,
        hash=tree.hash,
        platform=H100.for_any_cpu().id,
        part=PART,
        generation=1,
        outcome="loaded",
        reason=reason,
    )
    keep_outcome(place, outcome)
    return os.path.dirname(place)


def _loaded(service: Service, tree: FoundTree) -> int:
    (details,) = service.site().index.tree(tree.hash).trees
    return details.tree.outcomes.get("loaded", 0)


@pytest.mark.usefixtures("environment")
def test_outcomes_are_told(
    companion: Companion, service: Service, tree: FoundTree, tmp_path: Path
) -> None:
    folder = _keep(tree, tmp_path / "fresh")
    before = _loaded(service, tree)
    assert _ask(companion, Tell(cache_root=str(tmp_path / "fresh"))) == Answer()
    assert not has_kept(folder)
    assert _loaded(service, tree) == before + 1


def test_outcomes_are_told_without_secrets(tree: FoundTree, tmp_path: Path) -> None:
    _keep(tree, tmp_path, "no s3://me:hunter2hunter2@models/x")
    told: list[Outcome] = []
    scanner = Scanner({"MODELS_PWD": "hunter2hunter2"})
    site: Any = SimpleNamespace(index=SimpleNamespace(tell=told.append), scanner=scanner)
    assert list(_do(site, Tell(cache_root=str(tmp_path)))) == []
    assert [one.reason for one in told] == ["no s3://me:(a secret)"]


@pytest.mark.usefixtures("environment")
def test_who_leaves_waits_for_nothing_and_the_job_is_done(
    companion: Companion, tree: FoundTree, tmp_path: Path
) -> None:
    folder = _keep(tree, tmp_path / "fresh")
    companion.ask(Tell(cache_root=str(tmp_path / "fresh")))
    process = companion._process
    assert process is not None
    companion.leave()
    assert process.wait(ENOUGH) == 0
    assert not has_kept(folder)
    companion.leave()  # there is nothing left to leave


def test_outcomes_of_a_service_that_is_away_are_kept(
    companion: Companion, tree: FoundTree, environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = _keep(tree, tmp_path / "fresh")
    environment.setenv("AOTCACHE_URL", "http://127.0.0.1:1")
    assert _ask(companion, Tell(cache_root=str(tmp_path / "fresh"))).fatal
    assert has_kept(folder)


@pytest.mark.usefixtures("environment")
def test_what_lies_in_the_engines_directory_is_not_imported(
    companion: Companion, tree: FoundTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "msgspec.py").write_text("raise RuntimeError('imported')")
    monkeypatch.chdir(tmp_path)
    assert len(_ask(companion, _fetch(tmp_path / "fresh", tree.hash)).brought) == 1


@pytest.mark.usefixtures("environment")
def test_nothing_heavy_is_imported(tree: FoundTree, tmp_path: Path) -> None:
    """It shares a node with an engine that starts: no torch, no second vLLM."""
    program = (
        "import sys\n"
        "from aotcache.engines.vllm import companion\n"
        "companion.main()\n"
        "heavy = ['torch', 'triton', 'vllm', 'obstore', 'rich', 'fastapi', 'watchdog', 'click']\n"
        "print([name for name in heavy if name in sys.modules], file=sys.stderr)\n"
    )
    jobs = [_fetch(tmp_path / "fresh", tree.hash), Tell(cache_root=str(tmp_path / "fresh"))]
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(b"".join(msgspec.json.encode(job) + b"\n" for job in jobs))
        child.stdin.flush()
        # Its stdin stays open as long as it pulls: else the engine is gone, and it ends.
        fetched, told = [msgspec.json.decode(child.stdout.readline(), type=Answer) for _ in jobs]
        _, said = child.communicate()
    assert said == b"[]\n"
    assert (len(fetched.brought), told) == (1, Answer())
