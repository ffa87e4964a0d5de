"""A small fleet of each kind, and what holds of one of any size. `make fleet` has the numbers."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.model import KINDS, Region, happen, requests
from fleet.plan import COMPILED, HIT, WAITED
from fleet.run import Measured
from fleet.scenarios import FIFTY, ONE, UPGRADE, Size, Trees, jobs_of, play
from fleet.servers import Servers, run_servers
from support.postgres import PostgresServer
from support.s3 import S3Server

pytestmark = pytest.mark.slow

NODES = 30
HASHES = 3
KERNELS = 4
# All are there before the first compile ends.
SIZE = Size(nodes=NODES, seconds=1.5, compile_seconds=4.0, wait=120.0, hashes=HASHES, recorded=60.0)


@pytest.fixture(scope="module")
def trees(
    tmp_path_factory: pytest.TempPathFactory, triton_kernels: Path, inductor_output: Path
) -> Trees:
    """Of few kernels."""
    chosen = tmp_path_factory.mktemp("chosen") / "kernels"
    for kernel in sorted(triton_kernels.iterdir())[:KERNELS]:
        shutil.copytree(kernel, chosen / kernel.name)
        for group in (chosen / kernel.name).glob("__grp__*.json"):
            group.write_text(group.read_text().replace(str(triton_kernels), str(chosen)))
    return Trees(chosen, inductor_output)


@pytest.fixture(scope="module")
def servers(
    tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer, seaweedfs: S3Server
) -> Iterator[Servers]:
    with run_servers(tmp_path_factory.mktemp("servers"), postgres, seaweedfs) as running:
        yield running


@pytest.mark.parametrize(("scenario", "hashes"), [(ONE, 1), (FIFTY, HASHES), (UPGRADE, 1)])
def test_one_node_compiles_each_hash_and_all_end_with_it(
    scenario: str, hashes: int, tmp_path: Path, servers: Servers, trees: Trees
) -> None:
    measured = play(scenario, servers, tmp_path, trees, SIZE)
    logs = [replica.log.read_text() for replica in servers.replicas]
    assert measured.errors == []
    assert not any(one.untold for one in measured.ended)
    assert measured.misses == hashes
    assert measured.hits + measured.misses == NODES
    assert {one.how for one in measured.ended} <= {HIT, WAITED, COMPILED}
    _holds_what_was_compiled(measured, hashes)
    _made_the_calls_of_the_model(measured, scenario)
    _bytes_go_past_the_service(measured, hashes)
    assert all("ERROR" not in log and "Traceback" not in log for log in logs)
    assert not list((tmp_path / "nodes").iterdir())


def _holds_what_was_compiled(measured: Measured, hashes: int) -> None:
    compiled = {one.model for one in measured.ended if one.how == COMPILED}
    assert len(compiled) == hashes
    assert {one.model for one in measured.ended} == compiled


def _made_the_calls_of_the_model(measured: Measured, scenario: str) -> None:
    """Of the leases' questions only how many there are at least: who compiles asks again now and
    then, perhaps after the last start."""
    modelled = happen(
        Region(
            jobs=jobs_of(scenario, SIZE),
            replicas=len(measured.cpu),
            service_ms=dict.fromkeys(KINDS, 1.0),
            write_seconds=0.001,
            compile_seconds=SIZE.compile_seconds,
            wait=SIZE.wait,
            pull_bytes=0,
            # Compressed against what the older engine compiled: that is read too, from its pack.
            pull_gets=3 if scenario == UPGRADE else 1,
            publish_seconds=0.3,
            neighbours=1 if scenario == UPGRADE else 0,
        )
    )
    assert modelled.ended == Counter(one.how for one in measured.ended)
    foreseen = requests(modelled)
    made = {route: measured.requests.get(route, 0) for route in foreseen}
    at_least = foreseen.pop("POST /v1/leases") - modelled.calls["kept"]
    assert made.pop("POST /v1/leases") >= at_least
    assert made == foreseen
    assert measured.s3["s3-nodes-get"]["requests"] == sum(modelled.gets.values())
    assert measured.s3["s3-nodes-put"]["requests"] == sum(modelled.puts.values())


def _bytes_go_past_the_service(measured: Measured, hashes: int) -> None:
    """Only manifests do not; the packs come from S3, a request a pack and node."""
    moved = sum(one.moved_bytes for one in measured.ended)
    assert moved > 0
    assert measured.bytes_through["out"] < moved / 20
    assert measured.s3["s3-nodes-put"]["requests"] == hashes
    assert measured.s3["s3-nodes-get"]["requests"] >= NODES - hashes
