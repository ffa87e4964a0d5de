"""The trees that lie there: whose they are, and whether they can be published."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aotcache.engines.doctor.findings import NOTE, OK, PROBLEM, Finding
from aotcache.engines.doctor.trees import check_trees
from support.small import add, small_tree


def _said(findings: list[Finding], level: str) -> str:
    return "\n".join(finding.found for finding in findings if finding.level == level)


def test_no_tree(tmp_path: Path) -> None:
    (finding,) = check_trees(str(tmp_path / "none"))
    assert (finding.level, finding.found) == (OK, "none yet")


def test_trees_are_counted_by_layout(tmp_path: Path) -> None:
    for name in "ab":
        small_tree(tmp_path, name=name)
    # What vLLM leaves beside each mega-AOT tree, without a record: not spoken of.
    add(tmp_path / "torch_compile_cache" / "0123456789", "rank_0_0/backbone/x.py", b"")
    findings = list(check_trees(str(tmp_path)))
    assert [finding.level for finding in findings] == [OK]
    assert findings[0].found == "2 vllm-aot, 1 vllm-jit"


def test_a_tree_without_a_record(tmp_path: Path) -> None:
    tree = small_tree(tmp_path, records=False)
    jit = tmp_path / "torch_compile_cache" / "0123456789"
    findings = list(check_trees(str(tmp_path)))
    assert f"tree {tree.path} without an engine record" in _said(findings, NOTE)
    add(jit, "rank_0_0/backbone/vllm_compile_cache.py", b"{}")
    assert "2 trees (as " in _said(list(check_trees(str(tmp_path))), NOTE)


def test_a_record_that_is_none(tmp_path: Path) -> None:
    tree = small_tree(tmp_path)
    state = Path(tree.path).parent / ".aotcache"
    (record,) = state.rglob("*.json")
    record.write_text("{")
    assert str(record) in _said(list(check_trees(str(tmp_path))), PROBLEM)


def test_a_state_that_others_can_change(tmp_path: Path) -> None:
    for name in "ab":
        small_tree(tmp_path, name=name)
    (tmp_path / "torch_compile_cache" / "torch_aot_compile" / ".aotcache").chmod(0o777)
    said = _said(list(check_trees(str(tmp_path))), PROBLEM)
    assert said.count("can be written by others") == 1


@pytest.fixture
def open_directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


def test_a_model_that_this_user_cannot_read(
    open_directory: Path, as_another_user: Callable[..., list[Finding]]
) -> None:
    tree = Path(small_tree(open_directory, ranks=(0, 1)).path)
    for model in tree.glob("rank_*/model"):
        model.chmod(0o600 if os.geteuid() == 0 else 0)
    tree.chmod(0o555)
    said = _said(as_another_user(check_trees, str(open_directory)), PROBLEM)
    assert "2 models" in said
    assert "cannot be read by" in said
    assert f"tree {tree}, of " in said
    assert "cannot be written by" in said
    tree.chmod(0o755)


def test_a_root_that_this_user_cannot_list(
    open_directory: Path, as_another_user: Callable[..., list[Finding]]
) -> None:
    small_tree(open_directory)
    (open_directory / "torch_compile_cache").chmod(0)
    said = _said(as_another_user(check_trees, str(open_directory)), PROBLEM)
    assert "give this user read access" in said
    (open_directory / "torch_compile_cache").chmod(0o755)


def test_root_among_the_trees_of_another(tmp_path: Path) -> None:
    tree = small_tree(tmp_path)
    if os.geteuid() != 0:
        assert not _said(list(check_trees(str(tmp_path))), NOTE)
        return
    os.chown(tree.path, 4321, 4321)
    assert "1 of user 4321" in _said(list(check_trees(str(tmp_path))), NOTE)
