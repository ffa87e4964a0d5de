"""Journal and memo: kept between runs, left aside where they cannot be read."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from aotcache.local.journal import (
    Described,
    Journal,
    PutPack,
    drop_journal,
    read_journal,
    read_memo,
    write_journal,
    write_memo,
)
from aotcache.local.state import TreeState, write_whole
from aotcache.protocol.manifest import Frame, PackPlace
from aotcache.protocol.names import new_publish_id

DAMAGED = [b"", b"{", b"[]", b'{"target": 1}', b"\xff" * 100]


@pytest.fixture
def state(tmp_path: Path) -> TreeState:
    return TreeState(str(tmp_path / "tree"))


def test_a_journal_comes_back_for_its_target_only(state: TreeState) -> None:
    pack = PackPlace("0" * 64 + "-" + "1" * 32, (Frame(10, 20),))
    journal = Journal(
        target="file:///a default",
        publish_id=new_publish_id(),
        packs=[PutPack(pack, {"d" * 64: (0, 20)})],
    )
    write_journal(state, journal)
    assert read_journal(state, journal.target) == journal
    assert read_journal(state, "file:///b default") is None
    drop_journal(state)
    drop_journal(state)
    assert read_journal(state, journal.target) is None


@pytest.mark.parametrize("data", DAMAGED)
def test_a_damaged_journal_is_left_aside(
    state: TreeState, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    write_whole(state.journal, data)
    with caplog.at_level(logging.WARNING):
        assert read_journal(state, "anything") is None
    assert state.journal in caplog.text


def test_a_memo_comes_back(state: TreeState) -> None:
    assert read_memo(state) == {}
    memo = {"ab/x.py": Described((10, 20, 30), "d" * 64, 9, "dir")}
    write_memo(state, memo)
    assert read_memo(state) == memo


@pytest.mark.parametrize("data", [*DAMAGED[:3], b'{"a": [1]}'])
def test_a_damaged_memo_is_left_aside(
    state: TreeState, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    write_whole(state.memo, data)
    with caplog.at_level(logging.WARNING):
        assert read_memo(state) == {}
    assert state.memo in caplog.text
