"""What an operator does about trust on the command line: revokes a key, looks at what nodes failed
with, releases it. With a real service, and tokens."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from aotcache.core.trust import SIGNED, generate_key, make_policy, parse_trusted_keys
from aotcache.net.http import HttpClient
from aotcache.probe.trees import FoundTree
from aotcache.protocol.platform import Platform
from aotcache.protocol.v1.outcomes import Outcome
from aotcache.remote.index import Index
from support.site import Service, aotcache, printed, publish_tree
from support.small import small_tree
from support.trees import H100

PUBLISHER = generate_key()
RANK = "rank_0_0-d0"


@pytest.fixture
def tree(service: Service, tmp_path: Path) -> FoundTree:
    """Published and signed."""
    made = small_tree(tmp_path / "publisher")
    policy = make_policy(SIGNED, parse_trusted_keys(PUBLISHER.public_line(), "test"))
    publish_tree(service.site(policy, signer=PUBLISHER), made)
    return made


@pytest.fixture
def env(service: Service, tmp_path: Path, tree: FoundTree) -> dict[str, str]:  # noqa: ARG001
    """Of the operator, who trusts the publisher. From now on all need tokens."""
    trusted = tmp_path / "trusted_keys"
    trusted.write_text(PUBLISHER.public_line("the publisher") + "\n")
    return {
        "AOTCACHE_URL": service.url,
        "AOTCACHE_TRUSTED_KEYS": str(trusted),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "AOTCACHE_TOKEN": token(service, "--scope", "admin"),
    }


def token(service: Service, *words: str) -> str:
    done = aotcache("token", "create", "--data-dir", str(service.data), "--json", *words)
    return str(printed(done)["token"])


def lookup(tree: FoundTree, env: dict[str, str], tmp_path: Path) -> Any:
    file = tmp_path / "h100.json"
    file.write_text(json.dumps({name: getattr(H100, name) for name in Platform.__slots__}))
    words = ("lookup", tree.hash, "--platform", str(file), "--part", RANK, "--json")
    return printed(aotcache(*words, env=env, check=False))


def test_a_key_is_revoked_here_and_in_the_service(
    tree: FoundTree, env: dict[str, str], tmp_path: Path
) -> None:
    shown = printed(aotcache("key", "show", "--json", env=env))
    assert [key["id"] for key in shown["trusts"]] == [PUBLISHER.id]
    assert "parts" in lookup(tree, env, tmp_path)
    done = printed(aotcache("key", "revoke", PUBLISHER.id, "--stored", "--json", env=env))
    assert done["id"] == PUBLISHER.id
    assert sorted(key.split("/")[-2] for key in done["manifests"]) == [RANK, "shared"]
    assert lookup(tree, env, tmp_path)["reason"] == "unknown_hash"
    shown = printed(aotcache("key", "show", "--json", env=env))
    assert (shown["trusts"], shown["revoked"]) == ([], [PUBLISHER.id])
    # Nobody trusts it again by mistake, and once more changes nothing.
    refused = aotcache("key", "trust", PUBLISHER.public_line(), env=env, check=False)
    assert refused.returncode == 2
    assert f"{PUBLISHER.id} is revoked in {env['AOTCACHE_TRUSTED_KEYS']}" in refused.stderr
    before = Path(env["AOTCACHE_TRUSTED_KEYS"]).read_text()
    assert "not trusted any more" in aotcache("key", "revoke", PUBLISHER.id, env=env).stdout
    assert Path(env["AOTCACHE_TRUSTED_KEYS"]).read_text() == before


def test_the_service_is_told_though_the_file_cannot_be_written(
    tree: FoundTree, env: dict[str, str], tmp_path: Path
) -> None:
    """Kubernetes mounts it read-only."""
    env["AOTCACHE_TRUSTED_KEYS"] = "/proc/self/status"
    done = aotcache("key", "revoke", PUBLISHER.id, "--stored", env=env, check=False)
    assert done.returncode == 2
    assert "/proc/self/status" in done.stderr
    assert lookup(tree, env, tmp_path)["reason"] == "unknown_hash"


@pytest.mark.parametrize("words", [("nobody",), (PUBLISHER.id.upper(),), (PUBLISHER.id[:8],)])
def test_what_is_no_id_is_refused(env: dict[str, str], words: tuple[str, ...]) -> None:
    done = aotcache("key", "revoke", *words, env=env, check=False)
    assert done.returncode == 2
    assert "is not the id of a key" in done.stderr
    assert "revoked" not in Path(env["AOTCACHE_TRUSTED_KEYS"]).read_text()


def test_a_publisher_whose_key_is_revoked_says_so(
    service: Service, tree: FoundTree, env: dict[str, str], tmp_path: Path
) -> None:
    key = tmp_path / "signing.pem"
    key.write_bytes(PUBLISHER.pem())
    key.chmod(stat.S_IRUSR)
    env["AOTCACHE_SIGNING_KEY"] = str(key)
    aotcache("key", "revoke", PUBLISHER.id, env=env)
    (Path(tree.path) / "inductor_cache" / "zz").mkdir()
    (Path(tree.path) / "inductor_cache" / "zz" / "czz.py").write_text("# more\n")
    words = ("push", tree.hash, "--cache-root", str(tmp_path / "publisher"))
    done = aotcache(*words, env=env, check=False)
    assert done.returncode != 0
    assert f"the signing key {PUBLISHER.id} is revoked here" in done.stderr
    doctor = aotcache("doctor", "--json", env=env, check=False).stdout
    (problem,) = (one for one in json.loads(doctor) if "is revoked here" in one["found"])
    assert problem["level"] == "problem"
    assert "is signed with key" not in doctor
    assert service.process is not None


def crash(service: Service, tree: FoundTree, *nodes: str) -> None:
    """Each from a pool of nodes of its own."""
    for node in nodes:
        client = HttpClient(service.url, token(service))
        Index(client).outcome(
            Outcome(
                layout=tree.layout,
                hash=tree.hash,
                platform=H100.for_any_cpu().id,
                part=RANK,
                generation=1,
                outcome="crashed",
                reason="SIGSEGV",
                node=node,
            )
        )


def test_what_nodes_failed_with_is_listed_and_released(
    service: Service, tree: FoundTree, env: dict[str, str], tmp_path: Path
) -> None:
    assert "nothing is quarantined" in aotcache("quarantine", "list", env=env).stderr
    crash(service, tree, "n1", "n2", "n3")
    found = lookup(tree, env, tmp_path)
    assert (found["reason"], found["missing"]) == ("quarantined", [RANK])
    for node in ("n1", "n2", "n3"):
        assert f"{node}: crashed (SIGSEGV)" in found["message"]
    line = aotcache("quarantine", "list", env=env).stdout
    assert f"default/{tree.layout}/{tree.hash} {RANK} (platform " in line
    assert "n1: crashed (SIGSEGV)" in line
    (listed,) = printed(aotcache("quarantine", "list", "--all-namespaces", "--json", env=env))
    assert (listed["part"], listed["generation"]) == (RANK, 1)
    assert "is quarantined: n" in service.log.read_text()
    # Who may only read cannot release it.
    reader = {**env, "AOTCACHE_TOKEN": token(service)}
    words = ("quarantine", "release", tree.hash)
    done = aotcache(*words, env=reader, check=False)
    assert done.returncode == 1
    assert "may not admin in namespace default" in done.stderr
    other = aotcache(*words, "--part", "shared", env=env, check=False)
    assert other.returncode == 1
    assert "`aotcache quarantine list` names what is" in other.stderr
    assert aotcache(*words, env=env).stdout.endswith(f"{tree.hash} {RANK}\n")
    assert "parts" in lookup(tree, env, tmp_path)
