"""Stages: installed in their order, whoever is ready first, and the sign of one that failed."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from aotcache.errors import LocalError
from aotcache.sync import stages
from aotcache.sync.stages import Installing, Stage

NAMES = ("libraries", "models", "rest")


@pytest.fixture
def ordered(tmp_path: Path) -> list[Stage]:
    for name in NAMES:
        (tmp_path / "staging" / name).mkdir(parents=True)
        (tmp_path / "staging" / name / f"{name}.file").touch()
    return [Stage(str(tmp_path / "staging" / name), []) for name in NAMES]


def _there(tmp_path: Path) -> list[str]:
    tree = tmp_path / "tree"
    return sorted(path.stem for path in tree.iterdir()) if tree.exists() else []


@pytest.mark.parametrize("ready", list(itertools.permutations(range(3))))
def test_each_after_those_before_it(
    ordered: list[Stage], tmp_path: Path, ready: tuple[int, ...]
) -> None:
    told: list[str] = []
    installing = Installing(
        str(tmp_path / "tree"), ordered, lambda stage: told.append(Path(stage.path).name)
    )
    done: set[int] = set()
    for number in ready:
        installing.staged(ordered[number])
        done.add(number)
        whole = next((n for n in range(3) if n not in done), 3)
        assert _there(tmp_path) == sorted(NAMES[:whole])
        assert installing.half is (0 < whole < 3)
    assert told == list(NAMES)


@pytest.mark.parametrize("failing", range(3))
def test_one_that_fails_is_the_end(
    ordered: list[Stage], tmp_path: Path, failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while it is half done: the sign of that must stay."""
    install = stages.install

    def fail(staged: str, tree: str) -> None:
        if staged == ordered[failing].path:
            raise LocalError("a link is in the way")
        install(staged, tree)

    monkeypatch.setattr(stages, "install", fail)
    installing = Installing(str(tmp_path / "tree"), ordered, lambda _: None)
    for stage in ordered[:failing]:
        installing.staged(stage)
    with pytest.raises(LocalError):
        installing.staged(ordered[failing])
    assert installing.half
    for stage in ordered[failing + 1 :]:
        with pytest.raises(LocalError):
            installing.staged(stage)
    assert _there(tmp_path) == sorted(NAMES[:failing])
