"""Engine records beside a tree."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from aotcache.errors import FormatError
from aotcache.local.records import read_records, write_record
from aotcache.protocol.names import VLLM_AOT
from aotcache.protocol.record import EngineRecord
from support.trees import H100, RECIPE

RECORD = EngineRecord(
    layout=VLLM_AOT,
    hash="a" * 64,
    part="rank_0_0-d0",
    platform=H100,
    recipe=RECIPE,
    expected_parts=("shared", "rank_0_0-d0"),
    compile_seconds=12.5,
    hash_factors={"env": "1"},
)


@pytest.fixture
def tree(tmp_path: Path) -> str:
    path = tmp_path / "home" / RECORD.hash
    path.mkdir(parents=True)
    return str(path)


def test_a_tree_without_records(tree: str) -> None:
    assert read_records(tree) == []


def test_records_come_back_by_part_and_lie_beside_the_tree(tree: str) -> None:
    second = replace(RECORD, part="rank_1_0-d1")
    where = write_record(tree, second)
    write_record(tree, RECORD)
    assert read_records(tree) == [RECORD, second]
    assert os.path.dirname(os.path.dirname(where)) == f"{os.path.dirname(tree)}/.aotcache/records"
    assert os.listdir(tree) == []


def test_a_later_record_of_a_part_replaces_it(tree: str) -> None:
    write_record(tree, RECORD)
    write_record(tree, replace(RECORD, compile_seconds=1.0))
    assert [record.compile_seconds for record in read_records(tree)] == [1.0]


def test_a_record_that_cannot_be_read_is_named(tree: str) -> None:
    where = write_record(tree, RECORD)
    Path(where).write_bytes(b"{}")
    with pytest.raises(FormatError, match=r"rank_0_0-d0\.json"):
        read_records(tree)
