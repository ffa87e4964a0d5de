"""The line at the end of a start: what it says is so."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from aotcache.engines.vllm.facts import Facts
from aotcache.engines.vllm.jobs import Brought
from aotcache.engines.vllm.modules import Module, end_line
from aotcache.engines.vllm.start import Start
from aotcache.local.outcomes import tell_outcomes
from aotcache.local.pulled import Note, write_note
from aotcache.probe.trees import tree_path
from aotcache.protocol.names import VLLM_AOT
from aotcache.protocol.v1.outcomes import Outcome
from support.small import add
from support.trees import H100

HASH = "a" * 64
PART = "rank_0_0-d0"


def _module(tag: str = "backbone", **about: object) -> Module:
    return Module(SimpleNamespace(), tag, **about)  # type: ignore[arg-type]


def _path(root: Path) -> str:
    return f"{tree_path(str(root), VLLM_AOT, HASH)}/rank_0_0/model"


def _note(outcome: str = "") -> Note:
    return Note(
        namespace="default",
        layout=VLLM_AOT,
        hash=HASH,
        platform=H100.id,
        part=PART,
        generation=1,
        content="c" * 32,
        outcome=outcome,
    )


def test_an_error_is_no_miss(tmp_path: Path) -> None:
    module = _module(path=_path(tmp_path), compiled=True, why="no answer", failed=True)
    assert end_line([module], [], 0.0).startswith("not pulled: backbone aaaaaaaaaaaa compiled in")


@pytest.mark.parametrize("unsigned", [False, True])
def test_that_unsigned_parts_are_accepted_is_said(tmp_path: Path, *, unsigned: bool) -> None:
    brought = Brought(
        layout=VLLM_AOT,
        hash=HASH,
        seconds=1.0,
        moved_bytes=5,
        compile_seconds=None,
        installed=1,
        unsigned=unsigned,
    )
    line = end_line([_module(path=_path(tmp_path), loaded=True)], [brought], 0.0)
    assert ("5 B moved in 1.0 s, unsigned parts accepted, waited" in line) is unsigned
    assert ("unsigned" in line) is unsigned


def test_what_was_built_and_never_ran_is_not_said_to_be_compiled(tmp_path: Path) -> None:
    loaded, built = _module(path=_path(tmp_path), loaded=True), _module("VisionEncoder")
    line = end_line([loaded, built], [], 0.0)
    assert line.startswith("on this disk already: backbone aaaaaaaaaaaa loaded in 0.0 s; nothing")
    assert "VisionEncoder" not in line
    assert end_line([built], [], 0.0).startswith("not used: nothing was loaded or compiled; ")


@pytest.fixture
def start(facts: Facts) -> Start:
    begun = Start()
    begun._facts = facts
    return begun


def test_without_time_it_is_not_asked_and_that_is_why(start: Start, tmp_path: Path) -> None:
    start._fetching.budget.total = 0.0
    module = _module()
    start._modules.append(module)
    start.before_load(module.model, _path(tmp_path))
    assert start._fetching._companion._process is None
    assert module.failed
    assert "AOTCACHE_DEADLINE" in module.why


@pytest.mark.parametrize("there", [True, False])
def test_a_refusal_is_told_where_the_log_level_hides_its_reason(
    start: Start, tmp_path: Path, there: bool
) -> None:
    note = _note()
    path = Path(_path(tmp_path))
    if there:
        add(path.parents[1], "rank_0_0/model", b"refused")
    else:
        path.parents[2].mkdir(parents=True)
    module = _module(path=str(path), note=note)
    start._modules.append(module)
    start._current = module
    start.after_load(module.model, False, "", 0.0)
    told: list[Outcome] = []
    tell_outcomes(str(path.parents[2]), told.append)
    assert [(one.outcome, one.reason) for one in told] == (
        [("load_failed", "its log level hides why")] if there else []
    )
    assert not start.over


@pytest.mark.parametrize("outcome", [None, "", "loaded"])
def test_what_is_there_is_waited_for_only_if_it_was_pulled_just_now(
    start: Start, tmp_path: Path, outcome: str | None
) -> None:
    asked: list[float] = []
    waiting = SimpleNamespace(unanswered=1, answer=asked.append, kill=asked.clear)
    start._fetching._companion = waiting  # type: ignore[assignment]
    path = Path(_path(tmp_path))
    add(path.parents[1], "rank_0_0/model", b"there")
    if outcome is not None:
        write_note(str(path.parents[1]), _note(outcome))
    module = _module()
    start._modules.append(module)
    assert not start.before_load(module.model, str(path))
    assert asked == [0.2 if outcome == "" else 0.0]
    start._left()
