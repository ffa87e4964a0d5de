"""Each way that bytes can travel, by the command line: the same tree arrives, and only `proxy`
takes it through the service."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from aotcache.probe.trees import FoundTree
from support.cloud import CloudServer
from support.relay import Relay, relay_to
from support.site import aotcache, printed, run
from support.small import add, small_tree
from support.trees import H100, contents

MODEL = 3_000_000
BIG = 6_000_000  # incompressible, and more than all else together


@dataclass
class Fleet:
    """Machines that reach a service through `relay`; env: what they all have."""

    relay: Relay
    env: dict[str, str]
    cloud: CloudServer
    storage_url: str
    h100: str

    def credentials(self) -> dict[str, str]:
        return {**self.cloud.env(), "AOTCACHE_STORAGE_URL": self.storage_url}


@pytest.fixture(params=["seaweedfs", "ministack"])
def cloud(request: pytest.FixtureRequest) -> CloudServer:
    found: CloudServer = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def serving_env() -> dict[str, str]:
    return {}


@pytest.fixture
def fleet(
    cloud: CloudServer, serving_env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Fleet]:
    for name in cloud.env():
        monkeypatch.delenv(name, raising=False)
    h100 = tmp_path / "h100.json"
    h100.write_text(json.dumps(asdict(H100)))
    storage_url = cloud.fresh_url()
    with ExitStack() as stack:
        env = {**cloud.env(), **serving_env}
        service = stack.enter_context(run(tmp_path / "service", storage_url=storage_url, env=env))
        relay = stack.enter_context(relay_to(service.url))
        ours = {
            "AOTCACHE_URL": relay.url,
            "AOTCACHE_TRUST": "unsigned",
            "XDG_CONFIG_HOME": str(tmp_path / "config"),
        }
        yield Fleet(relay, ours, cloud, storage_url, str(h100))


@pytest.fixture
def tree(tmp_path: Path) -> FoundTree:
    made = small_tree(tmp_path / "node", ranks=(0, 1), model_bytes=MODEL)
    add(made.path, "inductor_cache/zz/weights.py", random.Random(9).randbytes(BIG))
    return made


def push_and_pull(fleet: Fleet, tree: FoundTree, folder: Path, env: dict[str, str]) -> int:
    """Bytes that the service saw meanwhile."""
    before = fleet.relay.bytes
    words = ("push", tree.hash, "--cache-root", str(folder / "node"), "--json")
    (pushed,) = printed(aotcache(*words, env=env))["published"]
    assert {part["status"] for part in pushed["parts"]} == {"published"}
    assert pushed["uploaded_bytes"] > BIG
    aotcache(
        *("pull", tree.hash, "--cache-root", str(folder / "fresh"), "--platform", fleet.h100),
        env=env,
    )
    place = str(tree.path).replace(str(folder / "node"), str(folder / "fresh"))
    got, had = contents(place), contents(tree.path)
    assert set(got) == set(had)
    assert all(got[path] == had[path] for path in had if "__grp__" not in path)
    return fleet.relay.bytes - before


@pytest.mark.parametrize(
    ("transfer", "own"),
    [("presigned", False), ("auto", False), ("direct", True), ("auto", True), ("proxy", True)],
)
def test_the_same_tree_each_way(
    fleet: Fleet, tree: FoundTree, tmp_path: Path, transfer: str, own: bool
) -> None:
    """own: the node has a storage URL and credentials of its own."""
    env = {**fleet.env, "AOTCACHE_TRANSFER": transfer, **(fleet.credentials() if own else {})}
    passed = push_and_pull(fleet, tree, tmp_path, env)
    if transfer == "proxy":
        assert passed > 2 * (BIG + MODEL)
    else:
        # Of more than 18 MB, there and back: manifests, lookups, sessions and URLs.
        assert passed < 200_000


@pytest.mark.parametrize("cloud", ["fake_gcs", "azurite"], indirect=True)
@pytest.mark.parametrize("transfer", ["direct", "auto"])
def test_the_same_tree_straight_from_other_clouds(
    fleet: Fleet, tree: FoundTree, tmp_path: Path, transfer: str
) -> None:
    env = {**fleet.env, "AOTCACHE_TRANSFER": transfer, **fleet.credentials()}
    assert push_and_pull(fleet, tree, tmp_path, env) < 200_000


@pytest.mark.parametrize(
    ("cloud", "serving_env"),
    [("seaweedfs", {"AOTCACHE_PRESIGN_SECONDS": "0"}), ("fake_gcs", {}), ("azurite", {})],
    indirect=["cloud"],
)
def test_a_service_that_signs_nothing(fleet: Fleet, tree: FoundTree, tmp_path: Path) -> None:
    env = {**fleet.env, "AOTCACHE_TRANSFER": "presigned"}
    words = ("push", tree.hash, "--cache-root", str(tmp_path / "node"))
    refused = aotcache(*words, env=env, check=False)
    assert refused.returncode == 2
    assert "signs no URLs" in refused.stderr
    assert push_and_pull(fleet, tree, tmp_path, fleet.env) > 2 * (BIG + MODEL)


@pytest.mark.parametrize("cloud", ["seaweedfs"], indirect=True)
def test_direct_needs_to_know_where(fleet: Fleet, tree: FoundTree, tmp_path: Path) -> None:
    env = {**fleet.env, "AOTCACHE_TRANSFER": "direct"}
    words = ("push", tree.hash, "--cache-root", str(tmp_path / "node"))
    refused = aotcache(*words, env=env, check=False)
    assert refused.returncode == 2
    assert "--storage-url" in refused.stderr
    wrong = aotcache(*words, "--transfer", "teleport", env=env, check=False)
    assert (wrong.returncode, "teleport" in wrong.stderr) == (2, True)
