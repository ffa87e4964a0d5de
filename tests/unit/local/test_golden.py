"""What released versions wrote beside trees is read: golden/state-1 is of the first one, written by
its own code and never written again. Each is `.aotcache` without its dot."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from aotcache.local.journal import Described, PutPack, read_journal, read_memo
from aotcache.local.outcomes import tell_outcomes
from aotcache.local.pulled import Note, read_note
from aotcache.local.records import read_records
from aotcache.local.state import TreeState
from aotcache.protocol.manifest import Frame, PackPlace
from aotcache.protocol.names import VLLM_AOT
from aotcache.protocol.recipe import Recipe
from aotcache.protocol.record import EngineRecord, TreeUsed
from aotcache.protocol.v1.explain import Explain
from aotcache.protocol.v1.outcomes import Outcome
from support.trees import H100

GOLDEN = Path(__file__).parent / "golden"
HASH = "a7e3" * 16
PART = "rank_1_0-d3"
DIGEST, PUBLISH_ID = "e1" * 32, "b2" * 16
RECIPE = Recipe(
    engine="vllm",
    engine_version="0.32.0",
    model="org/llama",
    tensor_parallel_size=8,
    extra={"x": "möbius"},
)


@pytest.fixture(params=["state-1"])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    shutil.copytree(GOLDEN / request.param, tmp_path / ".aotcache")
    return str(tmp_path / HASH)


def test_records(tree: str) -> None:
    expected = EngineRecord(
        layout=VLLM_AOT,
        hash=HASH,
        part=PART,
        platform=H100,
        recipe=RECIPE,
        expected_parts=("rank_0_0-d2", PART),
        compile_seconds=61.5,
        hash_factors={"env": "möbius"},
        notes={"driver": "580"},
        trees=(TreeUsed(layout=VLLM_AOT, hash=HASH, compile_seconds=61.5),),
    )
    assert list(read_records(tree)) == [expected]


def test_notes_of_pulls(tree: str) -> None:
    assert read_note(tree, PART) == Note(
        namespace="default",
        layout=VLLM_AOT,
        hash=HASH,
        platform=H100.id,
        part=PART,
        generation=2,
        content="c0" * 16,
        recipe=RECIPE.id,
        seconds=0.5,
        bytes=4096,
        compile_seconds=61.5,
        outcome="loaded",
        started=RECIPE,
    )


def test_outcomes_that_were_not_told(tree: str) -> None:
    told: list[Outcome | Explain] = []
    assert tell_outcomes(str(Path(tree).parent), told.append) == 1
    expected = Outcome(
        layout=VLLM_AOT,
        hash=HASH,
        platform=H100.id,
        part=PART,
        generation=2,
        outcome="load_failed",
        reason="no kernel",
        node="n1",
    )
    assert told == [expected]


def test_what_a_publisher_remembers(tree: str) -> None:
    state = TreeState(tree)
    frames = (Frame(40, 100), Frame(10, 50, DIGEST, 8, 64))
    place = PackPlace(name=f"{'d1' * 32}-{PUBLISH_ID}", frames=frames)
    journal = read_journal(state, "t")
    assert journal is not None
    assert (journal.publish_id, journal.searched) == (PUBLISH_ID, True)
    assert journal.packs == [PutPack(place, {DIGEST: (0, 100)})]
    described = Described((100, 1_700_000_000_000_000_000, 7), DIGEST, 100, "dir")
    assert read_memo(state) == {"rank_1_0/model": described}
