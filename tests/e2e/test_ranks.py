"""An 8-rank tree of real content: ranks published from three cache roots, pulled whole and rank by
rank, on two S3 servers and on the embedded default."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from aotcache.errors import UsageError
from aotcache.probe.trees import FoundTree
from aotcache.protocol.v1.lookup import Miss, StoredPart
from aotcache.protocol.v1.recipes import RecipeLookup
from aotcache.sync.pull import Pulled
from aotcache.sync.together import pull_recipe
from support import site as sites
from support.s3 import S3Server
from support.site import Service, publish_tree, pull_tree
from support.trees import H100, RECIPE, contents, make_ranks


@pytest.fixture(params=["embedded", "seaweedfs", "ministack"])
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Service]:
    """A service with its storage at each of the places."""
    if request.param == "embedded":
        with sites.run(tmp_path / "service") as service:
            yield service
        return
    server: S3Server = request.getfixturevalue(request.param)
    server.use(request.getfixturevalue("monkeypatch"))
    with sites.run(tmp_path / "service", storage_url=server.fresh_url()) as service:
        yield service


@pytest.fixture
def roots(tmp_path: Path, triton_kernels: Path, inductor_output: Path) -> list[FoundTree]:
    """Three nodes' cache roots with ranks 0-2, 3-5 and 6-7 of one tree."""
    split = [range(3), range(3, 6), range(6, 8)]
    return [
        make_ranks(tmp_path / f"node{number}", triton_kernels, inductor_output, ranks)
        for number, ranks in enumerate(split)
    ]


def test_ranks_of_three_nodes_are_one_tree(
    stored: Service, roots: list[FoundTree], tmp_path: Path
) -> None:
    site = stored.site()
    for tree in roots:
        result = publish_tree(site, tree)
        assert result.left_out == ()
        assert {part.status for part in result.parts} == {"published"}

    whole = pull_tree(site, roots[0], H100, tmp_path / "fresh")
    assert isinstance(whole, Pulled)
    assert [part.part for part in whole.parts] == [
        *(f"rank_{rank}_0-d{rank}" for rank in range(8)),
        "shared",
    ]
    assert whole.missing == ()
    found = contents(whole.path)
    for tree in roots:
        for path, data in contents(tree.path).items():
            assert found[path] == _moved(data, tree.path, whole.path), path
    assert set(found) == set().union(*(contents(tree.path) for tree in roots))
    # Eight device copies and eight models that differ little cost about one of each.
    assert whole.moved_bytes < whole.written_bytes / 4

    one = pull_tree(site, roots[0], H100, tmp_path / "rank5", "shared", "rank_5_0-d5")
    assert isinstance(one, Pulled)
    assert {path.split("/")[0] for path in contents(one.path)} == {"inductor_cache", "rank_5_0"}
    assert contents(one.path)["rank_5_0/model"] == contents(roots[1].path)["rank_5_0/model"]
    assert one.moved_bytes < whole.moved_bytes

    again = pull_tree(site, roots[0], H100, tmp_path / "fresh")
    assert isinstance(again, Pulled)
    assert (again.installed, again.moved_bytes, again.requests) == (0, 0, 0)


def test_a_pipeline_over_two_nodes(
    service: Service, tmp_path: Path, triton_kernels: Path, inductor_output: Path
) -> None:
    """PP2 x TP4: a node a stage, four devices each, and nobody has all ranks."""
    site = service.site()
    nodes = [
        make_ranks(tmp_path / f"node{node}", triton_kernels, inductor_output, ranks, local=4)
        for node, ranks in enumerate((range(4), range(4, 8)))
    ]
    second = [f"rank_{rank}_0-d{rank - 4}" for rank in range(4, 8)]
    publish_tree(site, nodes[0])
    half = pull_tree(site, nodes[0], H100, tmp_path / "half")
    assert isinstance(half, Pulled)
    assert half.missing == tuple(second)
    miss = pull_tree(site, nodes[0], H100, tmp_path / "early", "shared", second[0])
    assert isinstance(miss, Miss)
    assert (miss.reason, miss.missing) == ("part_missing", (second[0],))
    publish_tree(site, nodes[1])
    for rank in range(8):
        part, tree = f"rank_{rank}_0-d{rank % 4}", nodes[rank // 4]
        pulled = pull_tree(site, tree, H100, tmp_path / f"rank{rank}", "shared", part)
        assert isinstance(pulled, Pulled)
        assert pulled.missing == ()
        found = contents(pulled.path)
        assert found[f"rank_{rank}_0/model"] == contents(tree.path)[f"rank_{rank}_0/model"]


def test_one_topology_never_takes_the_place_of_another(
    service: Service, tmp_path: Path, triton_kernels: Path, inductor_output: Path
) -> None:
    """TP8 on one node of eight devices and on two of four share a hash, and the second four ranks
    sit on other devices."""
    site = service.site()
    one = make_ranks(tmp_path / "one", triton_kernels, inductor_output, range(8))
    two = [
        make_ranks(tmp_path / f"two{node}", triton_kernels, inductor_output, ranks, local=4)
        for node, ranks in enumerate((range(4), range(4, 8)))
    ]
    publish_tree(site, one)
    before = {part.part: part.generation for part in _parts(service, one)}
    for tree in two:
        publish_tree(site, tree)
    after = {part.part: part.generation for part in _parts(service, one)}
    assert {part: after[part] for part in before if part != "shared"} == {
        part: 1 for part in before if part != "shared"
    }
    assert set(after) - set(before) == {f"rank_{rank}_0-d{rank - 4}" for rank in range(4, 8)}

    for part, tree in (("rank_4_0-d4", one), ("rank_4_0-d0", two[1])):
        pulled = pull_tree(site, tree, H100, tmp_path / part, "shared", part)
        assert isinstance(pulled, Pulled)
        assert contents(pulled.path)["rank_4_0/model"] == contents(tree.path)["rank_4_0/model"]
    # All of it fits no disk: by name that is said, by recipe what is not in question comes.
    with pytest.raises(UsageError, match="rank_4_0 compiled for several devices"):
        pull_tree(site, one, H100, tmp_path / "whole")
    asked = RecipeLookup(recipe=RECIPE, platform=H100)
    (pulled,) = pull_recipe(site, asked, str(tmp_path / "recipe"))
    assert isinstance(pulled, Pulled)
    assert [part.part for part in pulled.parts] == [
        *(f"rank_{rank}_0-d{rank}" for rank in range(4)),
        "shared",
    ]


def _parts(service: Service, tree: FoundTree) -> Sequence[StoredPart]:
    (detail,) = service.site().index.tree(tree.hash).trees
    return detail.parts


def test_a_tree_that_is_pulled_where_it_came_from_is_byte_identical(
    service: Service, tmp_path: Path, triton_kernels: Path, inductor_output: Path
) -> None:
    tree = make_ranks(tmp_path / "node", triton_kernels, inductor_output, range(2), world=2)
    before = contents(tree.path)
    site = service.site()
    publish_tree(site, tree)
    Path(tree.path).rename(tmp_path / "gone")
    pulled = pull_tree(site, tree, H100, tmp_path / "node")
    assert isinstance(pulled, Pulled)
    assert contents(tree.path) == before


def test_another_platform_is_refused_and_the_field_is_named(
    service: Service, tmp_path: Path, triton_kernels: Path, inductor_output: Path
) -> None:
    tree = make_ranks(tmp_path / "node", triton_kernels, inductor_output, range(1), world=1)
    site = service.site()
    publish_tree(site, tree)
    for field, value in (
        ("arch", "sm_120"),
        ("python", "cpython-3.11.8"),
        ("torch", "2.12.1+cu130"),
        ("cpu", "fedcba9876543210"),  # the tree holds C++
    ):
        miss = pull_tree(site, tree, replace(H100, **{field: value}), tmp_path / field)
        assert isinstance(miss, Miss)
        assert miss.reason == "other_platform"
        assert [(d.field, d.asked) for d in miss.differences] == [(field, value)]
        assert field in miss.message
        assert not (tmp_path / field / "torch_compile_cache/torch_aot_compile" / tree.hash).exists()


def test_kernels_of_a_tree_without_cpp_serve_any_cpu(
    service: Service, tmp_path: Path, triton_kernels: Path
) -> None:
    (tmp_path / "none").mkdir()
    tree = make_ranks(tmp_path / "node", triton_kernels, tmp_path / "none", range(1), world=1)
    site = service.site()
    publish_tree(site, tree)
    other = replace(H100, cpu="fedcba9876543210")
    assert isinstance(pull_tree(site, tree, other, tmp_path / "fresh"), Pulled)


def _moved(data: bytes, old: str, new: str) -> bytes:
    """What Triton would have written at the new place."""
    if not data.startswith(b'{"child_paths"'):
        return data
    return data.replace(json.dumps(old)[1:-1].encode(), json.dumps(new)[1:-1].encode())
