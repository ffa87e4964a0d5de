"""What an operator does about trust on the command line: revokes a key, looks at what nodes failed
with, releases it. With a real service, and tokens."""

from __future__ import annotations

import json
import re
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aotcache import __version__
from aotcache.core.trust import SIGNED, UNSIGNED, generate_key, make_policy, parse_trusted_keys
from aotcache.net.http import HttpClient
from aotcache.probe.trees import FoundTree
from aotcache.protocol.platform import Platform
from aotcache.protocol.v1.explain import Explain
from aotcache.protocol.v1.outcomes import Outcome
from aotcache.remote.index import Index
from aotcache.storage import http_store
from support.site import Service, aotcache, printed, publish_tree
from support.small import record, small_tree
from support.stored import RANK
from support.trees import H100, RECIPE

PUBLISHER = generate_key()


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


@pytest.mark.usefixtures("service")
def test_a_publisher_whose_key_is_revoked_says_so(
    tree: FoundTree, env: dict[str, str], tmp_path: Path
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


def test_what_is_kept_and_what_goes(
    service: Service, tree: FoundTree, env: dict[str, str], tmp_path: Path
) -> None:
    env["AOTCACHE_TOKEN"] = token(service, "--scope", "admin", "--namespace", "*")
    other = small_tree(tmp_path / "other", name="other")
    site = service.site(make_policy(UNSIGNED, {}), signer=PUBLISHER)
    with_token = HttpClient(service.url, env["AOTCACHE_TOKEN"])
    publish_tree(replace(site, index=Index(with_token), store=http_store(with_token)), other)
    for start in (tree.hash, other.hash):
        assert f"pinned default/{tree.layout}/{start}" in aotcache("pin", start, env=env).stdout
    refused = aotcache("rm", tree.hash, "--yes", env=env, check=False)
    assert refused.returncode == 1
    assert "is pinned: nothing was deleted. `aotcache unpin` it first" in refused.stderr
    assert "not pinned any more" in aotcache("unpin", tree.hash, env=env).stdout
    for words in (("--keep-days", "36501"), ("--keep-bytes", str(1 << 63))):
        assert aotcache("gc", "--dry-run", *words, env=env, check=False).returncode == 2
    # Nobody is left to use it; all but the pinned one goes.
    dry = aotcache("gc", "--dry-run", "--keep-bytes", "1", env=env)
    assert f"would be deleted: default/{tree.layout}/{tree.hash}" in dry.stdout
    assert other.hash not in dry.stdout
    assert "parts" in lookup(tree, env, tmp_path)
    done = printed(aotcache("gc", "--keep-bytes", "1", "--json", env=env))
    assert [gone["hash"] for gone in done["trees"]] == [tree.hash]
    assert (done["deleted_trees"], done["deleted_packs"]) == (1, 0)
    assert lookup(tree, env, tmp_path)["reason"] == "unknown_hash"
    assert "0 withdrawn, 0 removed" in aotcache("reconcile", env=env).stdout
    (listed,) = printed(aotcache("ls", "--json", env=env))
    assert (listed["hash"], listed["pinned"]) == (other.hash, True)
    # It is the whole store's: not of who may do so in one namespace, nor of readers.
    for words in (("gc", "--dry-run"), ("reconcile", "--dry-run"), ("pin", other.hash)):
        scope = "read" if words[0] == "pin" else "admin"
        some = token(service, "--scope", scope, "--namespace", "default")
        done_by = aotcache(*words, env={**env, "AOTCACHE_TOKEN": some}, check=False)
        assert done_by.returncode == 1, words
        assert re.search("may not admin|takes one of all namespaces", done_by.stderr)


def test_a_miss_is_explained(tree: FoundTree, env: dict[str, str], tmp_path: Path) -> None:
    other = small_tree(tmp_path / "other", name="other", records=False)
    for part, factors in ((RANK, {"env": "2", "env.VLLM_A": "1"}), ("rank_1_0-d1", {})):
        record(Path(other.path), part, hash_factors=factors)
    file = tmp_path / "h100.json"
    file.write_text(json.dumps({name: getattr(H100, name) for name in Platform.__slots__}))
    words = ("lookup", other.hash, "--platform", str(file), "--explain")
    root = ("--cache-root", str(tmp_path / "other"))
    done = aotcache(*words, *root, env=env, check=False)
    assert done.returncode == 3
    assert f"nearest: {tree.layout}/{tree.hash}" in done.stdout
    assert "platform and recipe only: what was hashed is not known of both" in done.stdout
    said = printed(aotcache(*words, *root, "--json", env=env, check=False))
    assert (said["reason"], said["nearest"]["hash"]) == ("unknown_hash", tree.hash)
    # Without the record nothing is known of its model.
    done = aotcache(*words, "--cache-root", str(tmp_path / "nowhere"), env=env, check=False)
    assert "no engine record of it lies here" in done.stdout
    # It was only asked: nobody missed.
    assert "no node missed" in aotcache("misses", env=env).stderr
    index = Index(HttpClient(env["AOTCACHE_URL"], env["AOTCACHE_TOKEN"]))
    for node in ("n1", "n2"):
        index.explain(Explain(layout=tree.layout, hash=other.hash, platform=H100, node=node))
    line = aotcache("misses", env=env).stdout
    assert "2 nodes miss: unknown hash (2 times, last " in line


def test_what_the_service_holds_and_whether_it_is_well(
    service: Service, tree: FoundTree, env: dict[str, str]
) -> None:
    found = printed(aotcache("stats", "--json", env=env))
    assert (found["trees"], found["parts"]) == (1, 2)
    shown = aotcache("stats", env=env).stdout
    assert re.search(r"trees +1 *\n", shown)
    assert RECIPE.model in shown
    assert "found, last 7 days" in shown
    said = printed(aotcache("status", "--json", env=env))
    assert (said["status"], said["version"]) == ("ready", __version__)
    # Who may not ask for collections is told the rest.
    assert "not known: token" in said["collection"]
    env["AOTCACHE_TOKEN"] = token(service, "--scope", "admin", "--namespace", "*")
    assert "collection: ended never\n" in aotcache("status", env=env).stdout
    for words, what in ((("reconcile",), "a reconcile"), (("gc", "--dry-run"), "a dry run")):
        aotcache(*words, env=env)
        said = aotcache("status", env=env).stdout
        assert re.search(rf"collection: ended never; {what} ended \d{{4}}-", said)
    aotcache("gc", env=env)
    assert re.search(r"collection: ended \d{4}-[^;]+\n", aotcache("status", env=env).stdout)
    service.stop()
    done = aotcache("status", env=env, check=False)
    assert done.returncode == 1
    assert "no answer from" in done.stderr
    assert tree.hash not in done.stderr


def test_quarantine_by_hand_and_what_is_shown_of_it(
    tree: FoundTree, env: dict[str, str], tmp_path: Path
) -> None:
    """By the beginning of the hash, as `ls` prints it."""
    start = tree.hash[:16]
    aotcache("pin", start, env=env)
    done = aotcache("quarantine", "add", start, "--reason", "driver 590 crashes", env=env)
    assert done.stdout.count("not served any more") == 2
    assert "quarantined: " in lookup(tree, env, tmp_path)["message"]
    listed = aotcache("ls", env=env).stdout
    assert all(word in listed for word in (start, "pinned", "quarantined"))
    for only, found in (("--quarantined", 1), ("--pinned", 1), ("--publisher=nobody", 0)):
        assert len(printed(aotcache("ls", only, "--json", env=env))) == found
    shown = aotcache("show", start, env=env).stdout
    assert "pinned quarantined" in shown
    assert re.search(r"quarantined shared +generation 1 since .*: driver 590 crashes\n", shown)
    assert re.search(rf"{RANK} +1 +quarantined ", shown)
    assert re.search(r"saved +0 s of compiling\n", shown)
    assert "extra" not in shown
    refused = aotcache("rm", start, "--yes", env=env, check=False)
    assert (refused.returncode, "is pinned" in refused.stderr) == (1, True)
    assert aotcache("release", start, env=env).stdout.count("served again") == 2
    assert "parts" in lookup(tree, env, tmp_path)
    for wrong in ("0", "-1", "x"):
        words = ("quarantine", "add", start, "--reason", "x", "--after", wrong)
        assert aotcache(*words, env=env, check=False).returncode == 2
    nothing = ("quarantine", "add", start, "--reason", "x", "--after", "1")
    refused = aotcache(*nothing, env=env, check=False)
    assert (refused.returncode, "no earlier" in refused.stderr) == (1, True)


def test_what_would_go_is_said_before(
    tree: FoundTree, env: dict[str, str], tmp_path: Path, service: Service
) -> None:
    """By the beginnings of hash and platform, as `ls` prints them."""
    start, platform = tree.hash[:16], H100.for_any_cpu().id[:12]
    words = ("rm", start, "--platform-id", platform)
    aotcache("pin", start, "--platform-id", platform, env=env)
    refused = aotcache(*words, "--dry-run", env=env, check=False)
    assert (refused.returncode, "is pinned: nothing goes" in refused.stderr) == (1, True)
    aotcache("unpin", start, "--platform-id", platform, env=env)
    dry = aotcache(*words, "--dry-run", env=env).stdout
    assert f"would be deleted: default/{tree.layout}/{tree.hash}/{platform}" in dry
    assert RECIPE.model in dry
    (told,) = printed(aotcache(*words, "--dry-run", "--json", env=env))
    assert told["hash"] == tree.hash
    asked = aotcache(*words, env=env, check=False)
    assert asked.returncode == 1
    assert f"/{tree.hash}/{platform}" in asked.stderr
    assert "delete 1 stored tree(s)?" in asked.stderr
    assert len(printed(aotcache("ls", "--platform-id", platform, "--json", env=env))) == 1
    for command in ("pin", "rm"):
        unknown = aotcache(command, start, "--platform-id", "0f0f", env=env, check=False)
        assert (unknown.returncode, "0 stored platforms" in unknown.stderr) == (2, True)
    assert "parts" in lookup(FoundTree(tree.layout, start, tree.path), env, tmp_path)
    aotcache(*words, "--yes", env=env)
    assert lookup(tree, env, tmp_path)["reason"] == "unknown_hash"
    # What was done is told, to who may do so.
    said = aotcache("audit", env=env).stdout
    assert re.search(rf"unpin default/\*/{tree.hash}/{platform}.*: done \(token .*by api\)\n", said)
    actions = printed(aotcache("audit", "--limit", "2", "--json", env=env))
    assert [(one["action"], one["outcome"]) for one in actions] == [
        ("delete", "done"),
        ("unpin", "done"),
    ]
    reader = {**env, "AOTCACHE_TOKEN": token(service)}
    refused = aotcache("audit", env=reader, check=False)
    assert (refused.returncode, "may not admin" in refused.stderr) == (1, True)
    nothing = aotcache("export", "--all", "--to", str(tmp_path / "box"), env=env, check=False)
    assert (nothing.returncode, "nothing is stored" in nothing.stderr) == (1, True)
    assert aotcache("ls", "--limit", "-1", env=env, check=False).returncode == 2
