import json
import math
from contextlib import suppress

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from aotcache.errors import FormatError, InvalidNameError
from aotcache.protocol.names import INDUCTOR, SHARED, VLLM_AOT
from aotcache.protocol.record import (
    MAX_RECORD,
    MAX_TREES_USED,
    EngineRecord,
    TreeUsed,
    all_trees,
    decode_record,
    encode_record,
)
from support.stored import HASH, PLATFORM, RECIPE

RECORD = EngineRecord(
    layout=VLLM_AOT,
    hash=HASH,
    part="rank_1_0-d3",
    platform=PLATFORM,
    recipe=RECIPE,
    expected_parts=("rank_0_0-d2", "rank_1_0-d3"),
    compile_seconds=61.5,
    hash_factors={"env": "möbius"},
    notes={"driver": "580"},
    trees=(TreeUsed(layout=VLLM_AOT, hash=HASH, compile_seconds=61.5),),
)
LEAST = EngineRecord(layout=INDUCTOR, hash="mine", part=SHARED, platform=PLATFORM)


@pytest.mark.parametrize("record", [RECORD, LEAST])
def test_records_round_trip(record: EngineRecord) -> None:
    data = encode_record(record)
    assert decode_record(data) == record
    assert data.endswith(b"}\n")


def test_fields_that_are_not_known_are_ignored() -> None:
    data = json.loads(encode_record(RECORD)) | {"later": [1]}
    assert decode_record(json.dumps(data).encode()) == RECORD


@pytest.mark.parametrize(
    "change",
    [
        {"hash": "../../etc"},
        {"layout": "other"},
        {"part": "rank_0_0"},
        {"expected_parts": ["shared", "x"]},
        {"platform": {"torch": "2"}},
        {"platform": None},
        {"compile_seconds": "soon"},
        {"notes": {"a": 1}},
        {"trees": [{"layout": "vllm-aot", "hash": "short"}]},
        {"trees": [{"layout": "other", "hash": "a"}]},
        {"trees": [{"layout": "inductor", "hash": "a", "compile_seconds": -1}]},
        {"trees": [{"layout": "inductor", "hash": "a", "compile_seconds": 1e12}]},
        {"trees": [{"layout": "inductor", "hash": "a"}] * (MAX_TREES_USED + 1)},
        {"recipe": {"engine": "x" * 2000}},
    ],
)
def test_what_is_no_record_is_a_format_error(change: dict[str, object]) -> None:
    data = json.loads(encode_record(RECORD)) | change
    with pytest.raises(FormatError):
        decode_record(json.dumps(data).encode())


def test_another_version_says_what_to_do() -> None:
    data = json.loads(encode_record(RECORD)) | {"version": 2}
    with pytest.raises(FormatError, match=r"version 2.*upgrade"):
        decode_record(json.dumps(data).encode())


@given(data=st.binary(max_size=100))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        decode_record(data)


def test_text_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(FormatError):
        decode_record(encode_record(RECORD).replace(b"rank_0", b"rank\xff0"))


@settings(phases=[Phase.generate])
@given(at=st.integers(0), value=st.integers(0, 255), cut=st.integers(0))
def test_changed_bytes_are_a_record_or_refused(at: int, value: int, cut: int) -> None:
    data = encode_record(RECORD)
    changed = bytearray(data)
    changed[at % len(data)] = value
    for tried in (bytes(changed), data[: cut % len(data)]):
        with suppress(FormatError):
            assert isinstance(decode_record(tried), EngineRecord)


def test_large_records_are_refused() -> None:
    with pytest.raises(FormatError, match="at most"):
        decode_record(b" " * (MAX_RECORD + 1))


def test_deep_records_are_refused() -> None:
    with pytest.raises(FormatError):
        decode_record(b'{"later":' + b"[" * 100_000)


def test_a_record_is_checked_where_it_is_made() -> None:
    with pytest.raises(InvalidNameError):
        EngineRecord(layout=VLLM_AOT, hash="short", part=SHARED, platform=PLATFORM)


def test_all_trees_are_named_once_with_the_longest_time() -> None:
    def used(name: str, seconds: float | None = None) -> TreeUsed:
        return TreeUsed(layout=INDUCTOR, hash=name, compile_seconds=seconds)

    several = [(used("b", 2), used("a")), (), (used("c"), used("a", 0.0), used("b", 1))]
    assert all_trees(several) == (used("b", 2), used("a", 0.0), used("c"))
    other = TreeUsed(layout=VLLM_AOT, hash=HASH)
    assert all_trees([(other,), (TreeUsed(layout=INDUCTOR, hash=HASH),)])[0] == other


def test_a_time_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="compile_seconds"):
        TreeUsed(layout=INDUCTOR, hash="a", compile_seconds=math.nan)
