"""What a tree is: from the records beside it, or refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from aotcache.errors import FormatError, UsageError
from aotcache.local.records import read_records, write_record
from aotcache.probe.trees import FoundTree, scan_tree
from aotcache.protocol.names import INDUCTOR, VLLM_AOT
from aotcache.protocol.platform import Platform
from aotcache.protocol.record import EngineRecord, TreeUsed
from aotcache.sync.identity import Identity, identify
from support.small import add, record, small_tree
from support.trees import H100, RECIPE

CPU = Platform(
    torch="2.13.0+cpu",
    device="cpu",
    python="cpython-3.11.7",
    machine="x86_64",
    libc="glibc-2.36",
    cpu="0123456789abcdef",
)


def _identify(tree: FoundTree, platform: Platform | None = None) -> Identity:
    scan = scan_tree(tree.layout, tree.path)
    return identify(tree, scan, read_records(tree.path), platform)


def test_without_a_record_nothing_is_guessed_of_the_platform(tmp_path: Path) -> None:
    tree = small_tree(tmp_path, records=False)
    with pytest.raises(UsageError, match="--platform detect"):
        _identify(tree)


def test_records_say_it_all(tmp_path: Path) -> None:
    tree = small_tree(tmp_path, ranks=(0, 1), records=False, cpp=True)
    expected = ("shared", "rank_0_0-d6", "rank_1_0-d7")
    encoder = TreeUsed(layout=VLLM_AOT, hash="e" * 64, compile_seconds=3.0)
    for part, seconds in (("rank_0_0-d6", 10.0), ("rank_1_0-d7", 12.0)):
        own = TreeUsed(layout=VLLM_AOT, hash=tree.hash, compile_seconds=seconds)
        record(
            Path(tree.path),
            part,
            expected_parts=expected,
            compile_seconds=seconds,
            hash_factors={"env": "1"},
            notes={"driver": "580"},
            trees=(own, encoder) if seconds == 12.0 else (own,),
        )
    assert _identify(tree) == Identity(
        platform=H100,
        parts={"shared": "shared", "rank_0_0": "rank_0_0-d6", "rank_1_0": "rank_1_0-d7"},
        recipe=RECIPE,
        expected_parts=expected,
        compile_seconds=12.0,
        hash_factors={"env": "1"},
        notes={"driver": "580"},
        trees=(TreeUsed(layout=VLLM_AOT, hash=tree.hash, compile_seconds=12.0), encoder),
    )


def test_kernels_alone_are_for_any_cpu_and_cpp_is_not(tmp_path: Path) -> None:
    tree = small_tree(tmp_path)
    assert _identify(tree).platform == H100.for_any_cpu()
    add(tree.path, "inductor_cache/triton/0/LAUNCHERLAUNCHER/k.so", b"Triton's own")
    assert _identify(tree).platform == H100.for_any_cpu()
    add(tree.path, "inductor_cache/gh/cgh.main.so", b"C++")
    assert _identify(tree).platform == H100


def test_what_runs_on_a_cpu_is_for_that_cpu(tmp_path: Path) -> None:
    tree = small_tree(tmp_path, platform=CPU)
    assert _identify(tree).platform == CPU


def test_a_cpu_has_one_device(tmp_path: Path) -> None:
    tree = small_tree(tmp_path, ranks=(0, 1), records=False)
    parts = _identify(tree, CPU).parts
    assert parts == {
        "shared": "shared",
        "rank_0_0": "rank_0_0-d0",
        "rank_1_0": "rank_1_0-d0",
    }


@pytest.mark.parametrize(
    ("ranks", "parts"),
    [
        ((0,), ["rank_0_0-d0"]),
        # In the order of numbers, not of names.
        ((2, 10), ["rank_10_0-d10", "rank_2_0-d2"]),
    ],
)
def test_as_many_devices_as_ranks_are_taken_in_order(
    tmp_path: Path, ranks: Sequence[int], parts: list[str]
) -> None:
    tree = small_tree(tmp_path, ranks=ranks, records=False)
    found = _identify(tree, H100).parts
    assert sorted(found.values()) == [*parts, "shared"]


def test_another_number_of_devices_than_ranks_is_refused(tmp_path: Path) -> None:
    tree = small_tree(tmp_path, ranks=(0, 1), records=False)
    add(tree.path, "inductor_cache/triton/2/KERNELKERNELKERNEL/k.cubin", b"a third device")
    with pytest.raises(UsageError, match="2 ranks and kernels of 3 devices"):
        _identify(tree, H100)
    for part in ("rank_0_0-d1", "rank_1_0-d2"):
        record(Path(tree.path), part)
    assert _identify(tree).parts["rank_0_0"] == "rank_0_0-d1"


def test_records_of_different_platforms_are_refused(tmp_path: Path) -> None:
    tree = small_tree(tmp_path, ranks=(0, 1))
    record(Path(tree.path), "rank_1_0-d1", platform=replace(H100, python="cpython-3.11.8"))
    with pytest.raises(UsageError, match="different platforms \\(python\\)"):
        _identify(tree)
    with pytest.raises(UsageError, match="different platforms"):
        _identify(tree, H100)


def test_a_record_says_more_than_who_publishes(tmp_path: Path) -> None:
    """One `--platform detect` serves a cache root that also holds another Python's trees."""
    other = replace(H100, python="cpython-3.11.8")
    recorded = small_tree(tmp_path, name="recorded", platform=other)
    bare = small_tree(tmp_path, name="bare", records=False)
    assert _identify(recorded, H100).platform == other.for_any_cpu()
    assert _identify(bare, H100).platform == H100.for_any_cpu()


@pytest.mark.parametrize("about", [{"hash": "f" * 64}, {"layout": INDUCTOR}])
def test_a_record_of_another_tree_is_refused(tmp_path: Path, about: dict[str, str]) -> None:
    tree = small_tree(tmp_path, records=False)
    foreign = EngineRecord(
        **{"layout": tree.layout, "hash": tree.hash, **about}, part="rank_0_0-d0", platform=H100
    )
    where = write_record(tree.path, foreign)
    with pytest.raises(FormatError, match=f"^{where} is the engine record of"):
        _identify(tree, H100)


def test_records_of_one_rank_on_two_devices_are_refused(tmp_path: Path) -> None:
    tree = small_tree(tmp_path)
    record(Path(tree.path), "rank_0_0-d3")
    with pytest.raises(UsageError, match="rank_0_0-d0 and rank_0_0-d3"):
        _identify(tree)
