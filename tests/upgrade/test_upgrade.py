"""The release before this one, from a wheel of its own, beside the present sources: each as client
of the other, on what the other stored, and back.

`previous` names its commit.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from aotcache.probe.trees import FoundTree, tree_path
from aotcache.protocol.names import INDUCTOR
from aotcache.protocol.v1.lookup import Lookup
from aotcache.sync.leases import Leases
from support.s3 import S3Server
from support.site import AOTCACHE, Service, aotcache, printed, run
from support.small import add, small_tree
from support.trees import H100, contents
from support.wheels import APART, build, check_out, install

PREVIOUS = Path(__file__).with_name("previous")
ROOT = Path(__file__).parents[2]

Command = tuple[str, ...]
PRESENT: Command = tuple(AOTCACHE)


@pytest.fixture(scope="session")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Command:
    """Its `aotcache`, as a user of the wheel has it."""
    work = tmp_path_factory.mktemp("previous")
    sources = check_out(ROOT, PREVIOUS.read_text().strip(), work / "sources")
    (wheel,) = build(sources, work / "dist", "--wheel")
    return (str(install(wheel, work / "venv", "service,postgres")),)


@dataclass(frozen=True)
class Node:
    """A machine with its own keys and a cache root, on which either release may run."""

    home: Path
    command: Command
    settings: dict[str, str]

    def run(self, *words: str, by: Command = (), check: bool = True) -> Any:
        env = {**APART, "XDG_CONFIG_HOME": str(self.home / "config"), **self.settings}
        if words[0] in ("push", "pull", "exec"):
            words = (words[0], "--cache-root", str(self.home), *words[1:])
        return aotcache(*words, env=env, check=check, command=by or self.command)

    def push(self, tree: FoundTree, by: Command = ()) -> dict[str, Any]:
        (found,) = printed(self.run("push", "--json", tree.hash, by=by))["published"]
        return dict(found)

    def pull(self, tree: FoundTree, by: Command = ()) -> Path:
        self.run("pull", tree.hash, "--platform", str(platform(self.home)), by=by)
        return Path(tree_path(str(self.home), tree.layout, tree.hash))


def platform(folder: Path) -> Path:
    file = folder / "platform.json"
    folder.mkdir(exist_ok=True)
    file.write_text(json.dumps(asdict(H100)))
    return file


def statuses(published: dict[str, Any]) -> set[str]:
    return {part["status"] for part in published["parts"]}


def assert_same(tree: FoundTree, place: Path) -> None:
    """But for the paths that lead into it."""
    there, expected = contents(place), contents(tree.path)
    assert set(there) == set(expected)
    for path, data in expected.items():
        assert there[path].replace(bytes(place), tree.path.encode()) == data, path


def large_tree(cache_root: Path) -> FoundTree:
    """With so many files that a later generation is written against the first one."""
    tree = small_tree(cache_root, name="large", ranks=(0, 1), cpp=True)
    for number in range(400):
        add(tree.path, f"inductor_cache/ab/c{number}.py", b"# %d" % number)
    return tree


@pytest.fixture(params=["an older client", "an older service"])
def pair(request: pytest.FixtureRequest, previous: Command) -> tuple[Command, Command]:
    """Client and service."""
    return (previous, PRESENT) if request.param == "an older client" else (PRESENT, previous)


@pytest.fixture
def service(
    pair: tuple[Command, Command], seaweedfs: S3Server, tmp_path: Path
) -> Iterator[Service]:
    env = {**APART, **seaweedfs.env()}
    where = {"storage_url": seaweedfs.fresh_url(), "env": env}
    with run(tmp_path / "service", command=pair[1], **where) as found:
        yield found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_client_and_service_of_two_releases(
    pair: tuple[Command, Command], service: Service, tmp_path: Path
) -> None:
    client, other = pair
    settings = {"AOTCACHE_URL": service.url, "AOTCACHE_TRANSFER": "presigned"}
    publisher = Node(tmp_path / "node", client, settings)
    line = publisher.run("key", "generate").stdout.strip()
    tree = large_tree(publisher.home)
    assert statuses(publisher.push(tree)) == {"published"}
    # What one release noted beside a tree serves the other.
    again = publisher.push(tree, by=other)
    assert (statuses(again), again["uploaded_bytes"]) == ({"already stored"}, 0)

    hit = printed(
        publisher.run("lookup", tree.hash, "--platform", str(platform(tmp_path)), "--json")
    )
    assert [part["generation"] for part in hit["parts"]] == [1, 1, 1]
    missed = publisher.run("lookup", "0" * 64, "--platform", str(platform(tmp_path)), check=False)
    assert (missed.returncode, "unknown_hash" in missed.stdout) == (3, True)
    assert [row["hash"] for row in printed(publisher.run("ls", "--json"))] == [tree.hash]
    assert "rank_1_0-d1" in publisher.run("show", tree.hash).stdout
    assert publisher.run("quarantine", "list").returncode == 0

    fresh = Node(tmp_path / "fresh", client, settings)
    fresh.run("key", "trust", line)
    assert_same(tree, fresh.pull(tree))
    # It grows: one release publishes, the other has the rest of it.
    add(tree.path, "inductor_cache/ab/later.py", b"# later")
    assert statuses(publisher.push(tree)) == {"published", "already stored"}
    assert_same(tree, fresh.pull(tree, by=other))
    add(tree.path, "inductor_cache/ab/last.py", b"# last")
    assert statuses(publisher.push(tree, by=other)) == {"published", "already stored"}
    assert_same(tree, fresh.pull(tree))

    script = 'mkdir -p "$TORCHINDUCTOR_CACHE_DIR/ab"; f="$TORCHINDUCTOR_CACHE_DIR/ab/cab.py"; '
    script += '[ -e "$f" ] && echo warm; echo "# code" > "$f"'
    start = ("exec", "--key", "mine", "--platform", str(platform(tmp_path)), "--", "sh", "-c")
    assert "published" in publisher.run(*start, script).stderr
    assert fresh.run(*start, script).stdout == "warm\n"

    publisher.run("rm", tree.hash, "--yes")
    rows = printed(publisher.run("ls", "--json", by=other))
    assert [row["layout"] for row in rows] == [INDUCTOR]
    publisher.push(tree, by=other)
    shown = printed(publisher.run("show", tree.hash, "--json"))
    assert {part["generation"] for part in shown["trees"][0]["parts"]} == {2, 4}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_an_older_service_lacks(previous: Command, tmp_path: Path) -> None:
    """Says that it is the service which is to be upgraded, and harms nothing."""
    with run(tmp_path / "service", command=previous, env=APART) as service:
        node = Node(tmp_path / "node", PRESENT, {"AOTCACHE_URL": service.url})
        for words in (("stats",), ("misses",), ("pin", "0" * 64), ("gc", "--dry-run")):
            refused = node.run(*words, check=False)
            assert refused.returncode == 1, words
            assert "the service is older than this client" in refused.stderr
            assert "upgrade the service" in refused.stderr
        assert "status: ready" in node.run("status").stdout
        lookup = Lookup(layout="vllm-aot", hash="0" * 64, platform=H100)
        leases = Leases(service.site().index)
        state, why = leases.turn(lookup, "shared", budget=60, hold=True)
        leases.finish()
        assert (state, "upgrade the service" in why) == ("free", True)


@dataclass(frozen=True)
class Installation:
    """One machine's service: its data, its database, and either release of it."""

    data: Path
    database: str

    @property
    def options(self) -> list[str]:
        return ["--data-dir", str(self.data), "--database-url", self.database]

    def serve(self, command: Command) -> Any:
        env = {**APART, "AOTCACHE_DATABASE_URL": self.database}
        return run(self.data, command=command, env=env)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_upgrade_and_rollback(
    previous: Command, database: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    postgres = request.getfixturevalue("postgres") if database == "postgresql" else None
    data = tmp_path / "service"
    file = data / "index.sqlite3"
    here = Installation(data, postgres.fresh_url() if postgres else f"sqlite:///{file}")

    def token(at: Installation) -> str:
        words = ("token", "create", *at.options, "--scope", "admin", "--namespace", "*")
        return str(aotcache(*words, command=previous, env=APART).stdout.strip())

    settings = {"AOTCACHE_TOKEN": token(here), "AOTCACHE_TRUST": "unsigned"}
    trees = [small_tree(tmp_path / "node", name=name) for name in ("a", "b", "c", "gone")]
    before, meanwhile, after, gone = trees

    def node(service: Service, home: str, command: Command) -> Node:
        url = {"AOTCACHE_URL": service.url}
        return Node(tmp_path / home, command, {**settings, **url})

    with here.serve(previous) as older:
        node(older, "node", previous).push(before)
        node(older, "node", previous).push(gone)
        node(older, "node", previous).run("rm", gone.hash, "--yes")
    if not postgres:
        shutil.copy(file, tmp_path / "backup")

    # One replica after the other: the first that is new brings the tables up to date, below those
    # that are not.
    with here.serve(previous) as older, here.serve(PRESENT) as newer:
        node(older, "node", previous).push(meanwhile)
        assert_same(before, node(older, "1", previous).pull(before))
        for tree in (before, meanwhile):
            assert_same(tree, node(newer, "2", PRESENT).pull(tree))
        missed = node(newer, "2", PRESENT).run("show", gone.hash, check=False)
        assert missed.returncode == 1
        older.stop()

        node(newer, "node", PRESENT).push(after)
        add(before.path, "inductor_cache/ab/later.py", b"# later")
        node(newer, "node", PRESENT).push(before)
        node(newer, "node", PRESENT).run("pin", before.hash)
        counted = printed(node(newer, "node", PRESENT).run("stats", "--json"))
        assert (counted["trees"], counted["pinned"]) == (3, 1)
        # What the older one put below the newer tables is not taken for garbage.
        node(newer, "node", PRESENT).run("gc")
        assert_same(meanwhile, node(newer, "3", PRESENT).pull(meanwhile))

    tables = b"" if postgres else file.read_bytes()
    refused = aotcache(
        *("serve", *here.options, "--port", "0"), command=previous, env=APART, check=False
    )
    assert refused.returncode == 1
    assert "cannot be used" in refused.stderr
    assert postgres or file.read_bytes() == tables

    # Back: to the index of before, or to none; what was stored since is found in storage.
    if postgres:
        here = Installation(data, postgres.fresh_url())
        settings["AOTCACHE_TOKEN"] = token(here)
    else:
        for one in data.glob("index.sqlite3*"):
            one.unlink()
        shutil.copy(tmp_path / "backup", file)
    told = aotcache("reindex", *here.options, "--json", command=previous, env=APART)
    assert not printed(told)["skipped"]
    with here.serve(previous) as older:
        for tree in (before, meanwhile, after):
            assert_same(tree, node(older, "4", previous).pull(tree))
        missed = node(older, "4", previous).run("show", gone.hash, check=False)
        assert missed.returncode == 1

    # And forward again: the pin was in storage.
    with here.serve(PRESENT) as newer:
        node(newer, "node", PRESENT).run("reconcile")
        refused = node(newer, "node", PRESENT).run("rm", before.hash, "--yes", check=False)
        assert "is pinned" in refused.stderr
