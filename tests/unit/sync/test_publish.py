"""Publish: what is new goes up once, and what is good stays."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from aotcache.core.trust import TrustPolicy, generate_key, make_policy, parse_trusted_keys
from aotcache.errors import (
    ManifestError,
    NotSettledError,
    StorageUnavailableError,
    TrustError,
    UsageError,
)
from aotcache.local.records import read_records
from aotcache.local.state import TreeState, target_of
from aotcache.probe.trees import FoundTree, scan_tree
from aotcache.protocol.manifest import Manifest, decode_manifest
from aotcache.protocol.names import manifest_key
from aotcache.protocol.v1.publish import Commit, Committed
from aotcache.remote.index import Index
from aotcache.storage.files import FileStore
from aotcache.sync.describe import describe
from aotcache.sync.identity import identify
from aotcache.sync.publish import publish
from aotcache.sync.published import ALREADY_STORED, PUBLISHED, Published
from aotcache.sync.pull import Pulled
from aotcache.sync.site import Site
from support.site import publish_tree, pull_tree
from support.small import Here, add, record, small_tree
from support.trees import H100, contents, model_of

ANY = H100.for_any_cpu()
Audited = list[tuple[str, str]]


class Interrupted(Exception):
    """What ends a publish in the middle."""


class Stumbling(FileStore):
    """A real store that fails before its n-th put of a pack or manifest."""

    def __init__(self, root: str, before: int, fail: Callable[[], None]) -> None:
        super().__init__(root)
        self._left = before
        self._fail = fail

    def put(self, key: str, data: bytes | memoryview) -> None:
        self._left -= 1
        if self._left == 0:
            self._fail()
        super().put(key, data)


def _interrupt() -> None:
    raise Interrupted


def _stumbling(here: Here, before: int, fail: Callable[[], None] = _interrupt) -> Stumbling:
    return Stumbling(here.storage_url.removeprefix("file://"), before, fail)


def _puts(audited: Audited, kind: str = "/packs/") -> list[str]:
    found = [key for operation, key in audited if operation == "put" and kind in key]
    audited.clear()
    return found


def _stored(here: Here, kind: str = "packs") -> list[str]:
    return [found.key for found in here.store.list(f"default/{kind}/")]


def _manifest(site: Site, published: Published, part: str) -> Manifest:
    (generation,) = (found.generation for found in published.parts if found.part == part)
    return site.manifest(manifest_key(published.tree, part, generation))


def _summary(published: Published) -> dict[str, tuple[int, int, str]]:
    return {p.part: (p.generation, p.new_files, p.status) for p in published.parts}


def test_a_second_publish_uploads_nothing(here: Here, tmp_path: Path, audited: Audited) -> None:
    tree = small_tree(tmp_path / "node")
    site = here.site()
    first = publish_tree(site, tree)
    assert _summary(first) == {"shared": (1, 5, PUBLISHED), "rank_0_0-d0": (1, 1, PUBLISHED)}
    assert first.uploaded_bytes == sum(here.store.size(key) for key in _stored(here))
    assert first.raw_bytes == sum(len(data) for data in contents(tree.path).values()) - len(
        f"{tree.path}/inductor_cache/triton/0/KERNELKERNELKERNELKERNEL"
    ) + len("<<aotcache:dir>>")
    audited.clear()
    again = publish_tree(site, tree)
    assert _summary(again) == {
        "shared": (1, 0, ALREADY_STORED),
        "rank_0_0-d0": (1, 0, ALREADY_STORED),
    }
    assert (again.uploaded_bytes, audited) == (0, [])


def test_a_large_part_grows_by_what_is_new(here: Here, tmp_path: Path, audited: Audited) -> None:
    """Its manifest is written against the first one: what its readers see is the same."""
    tree = small_tree(tmp_path / "node")
    for number in range(400):
        add(tree.path, f"inductor_cache/ab/c{number:04}.py", random.Random(number).randbytes(20))
    site = here.site()
    first = publish_tree(site, tree)
    audited.clear()
    for generation in (2, 3):
        add(tree.path, f"inductor_cache/ab/new{generation}.py", b"new")
        grown = publish_tree(site, tree)
        ((part, generation_now),) = {
            (p.part, p.generation) for p in grown.parts if p.status == PUBLISHED
        }
        assert (part, generation_now) == ("shared", generation)
        (key,) = _puts(audited, "/trees/")
        assert here.store.size(key) * 4 < here.store.size(manifest_key(first.tree, part, 1))
        manifest = _manifest(here.site(), grown, part)
        assert manifest.base is not None
        assert manifest.base.generation == 1
        # Who publishes next, watches or pulls over it reads what is kept here.
        target = target_of(site.store.url, "default", first.tree.platform)
        kept = TreeState(tree.path).remembered(target)[part]
        assert decode_manifest(kept) == manifest
    pulled = pull_tree(here.site(), tree, H100, tmp_path / "other")
    assert isinstance(pulled, Pulled)
    assert contents(pulled.path).keys() == {
        path for path in contents(tree.path) if ".aotcache" not in path and "lock" not in path
    }
    again = pull_tree(here.site(), tree, H100, tmp_path / "other")
    assert isinstance(again, Pulled)


def test_growth_is_a_generation_that_uploads_what_is_new(
    here: Here, tmp_path: Path, audited: Audited
) -> None:
    tree = small_tree(tmp_path / "node")
    site = here.site()
    first = publish_tree(site, tree)
    new = random.Random(9).randbytes(500)
    add(tree.path, "inductor_cache/ab/cnew.py", new)
    audited.clear()
    second = publish_tree(site, tree)
    assert _summary(second) == {
        "shared": (2, 1, PUBLISHED),
        "rank_0_0-d0": (1, 0, ALREADY_STORED),
    }
    assert second.uploaded_bytes < len(new) + 100
    (pack,) = _puts(audited)
    old = {place.name for place in _manifest(site, first, "shared").locations.packs}
    grown = {place.name for place in _manifest(site, second, "shared").locations.packs}
    assert grown == old | {pack.rpartition("/")[2]}
    pulled = pull_tree(site, tree, H100, tmp_path / "fresh")
    assert isinstance(pulled, Pulled)
    assert contents(pulled.path)["inductor_cache/ab/cnew.py"] == new


def test_the_first_good_model_wins(here: Here, tmp_path: Path, audited: Audited) -> None:
    first, second = small_tree(tmp_path / "one"), small_tree(tmp_path / "two")
    site = here.site()
    publish_tree(site, first)
    add(second.path, "rank_0_0/model", model_of(5, 100_000))
    audited.clear()
    assert _summary(publish_tree(site, second))["rank_0_0-d0"] == (1, 0, ALREADY_STORED)
    assert audited == []
    pulled = pull_tree(site, first, H100, tmp_path / "fresh")
    assert isinstance(pulled, Pulled)
    model = contents(first.path)["rank_0_0/model"]
    assert contents(pulled.path)["rank_0_0/model"] == model


def test_what_cannot_be_published_is_named_and_the_rest_is(here: Here, tmp_path: Path) -> None:
    tree = small_tree(tmp_path / "node")
    (Path(tree.path) / "inductor_cache/ab/link.py").symlink_to("/etc/passwd")
    group = "inductor_cache/triton/0/OUTSIDEOUTSIDEOUTSIDE/__grp__k.json"
    add(tree.path, group, b'{"child_paths": {"k": "/etc/passwd"}}')
    result = publish_tree(here.site(), tree)
    assert {left.path for left in result.left_out} == {group, "inductor_cache/ab/link.py"}
    assert _summary(result)["shared"] == (1, 5, PUBLISHED)


def test_a_file_that_changes_meanwhile(here: Here, tmp_path: Path) -> None:
    tree = small_tree(tmp_path / "node")
    scan = scan_tree(tree.layout, tree.path)
    describe(tree, scan.files)
    add(tree.path, "rank_0_0/model", b"changed")
    identity = identify(tree, scan, [], H100)
    with pytest.raises(NotSettledError, match="rank_0_0/model"):
        publish(here.site(), "default", tree, scan, identity, ["rank_0_0"])
    assert _stored(here, "trees") == []


@pytest.mark.parametrize("ranks", [1, 9])
def test_an_interrupted_publish_goes_on(
    here: Here, tmp_path: Path, audited: Audited, ranks: int
) -> None:
    tree = small_tree(tmp_path / "node", ranks=range(ranks))
    for before in range(1, 100):
        site = here.site(store=_stumbling(here, before))
        try:
            publish_tree(site, tree, namespace=f"n{before}")
        except Interrupted:
            last = publish_tree(here.site(), tree, namespace=f"n{before}")
            assert {(p.generation, p.status) for p in last.parts} == {(1, PUBLISHED)}
            assert len(last.parts) == ranks + 1
            puts = _puts(audited)
            assert len(puts) == len(set(puts)), "a pack was uploaded twice"
            assert len(list(here.store.list(f"n{before}/packs/"))) == len(puts)
        else:
            break
    assert before > ranks + 1  # packs and manifests


def test_a_journal_whose_pack_went_is_of_no_harm(here: Here, tmp_path: Path) -> None:
    tree = small_tree(tmp_path / "node")
    with pytest.raises(Interrupted):
        publish_tree(here.site(store=_stumbling(here, 2)), tree)
    (pack,) = _stored(here)
    here.store.delete(pack)
    published = publish_tree(here.site(), tree)
    assert {part.status for part in published.parts} == {PUBLISHED}
    assert isinstance(pull_tree(here.site(), tree, H100, tmp_path / "fresh"), Pulled)


def test_an_interrupted_publish_for_another_platform_is_left_aside(
    here: Here, tmp_path: Path
) -> None:
    tree = small_tree(tmp_path / "node")
    with pytest.raises(Interrupted):
        publish_tree(here.site(store=_stumbling(here, 2)), tree)
    # Its first C++: from now on it is for one CPU.
    add(tree.path, "inductor_cache/gh/cgh.main.so", b"C++")
    published = publish_tree(here.site(), tree)
    assert published.tree.platform == H100.id


def test_all_that_an_interrupted_publish_put_is_adopted(
    here: Here, tmp_path: Path, audited: Audited
) -> None:
    """By another node: nine manifests that were put and never committed."""
    first = small_tree(tmp_path / "one", ranks=range(8))
    site = here.site()

    class NoCommit(Index):
        def commit(self, publish_id: str, commit: Commit) -> Committed:
            raise Interrupted(publish_id, commit)

    index = NoCommit(site.index._client)
    with pytest.raises(Interrupted):
        publish_tree(replace(site, index=index), first)
    assert len(_stored(here, "trees")) == 9
    audited.clear()
    second = small_tree(tmp_path / "two", ranks=range(8))
    result = publish_tree(site, second)
    assert {p.status for p in result.parts} == {ALREADY_STORED}
    assert {p.generation for p in result.parts} == {1}
    pulled = pull_tree(site, first, H100, tmp_path / "fresh")
    assert isinstance(pulled, Pulled)
    assert len(pulled.parts) == 9


def test_near_equal_trees_share_what_they_can(here: Here, tmp_path: Path) -> None:
    first = small_tree(tmp_path / "node", name="first", model_bytes=400_000)
    site = here.site()
    whole = publish_tree(site, first).uploaded_bytes
    second = small_tree(tmp_path / "node", name="second", model_bytes=400_000)
    model = bytearray(model_of(0, 400_000))
    model[200_000:200_016] = b"another's handle"
    add(second.path, "rank_0_0/model", bytes(model))
    add(second.path, "inductor_cache/ab/cnew.py", b"# new\n")
    result = publish_tree(site, second)
    assert result.uploaded_bytes < whole / 50
    places = _manifest(site, result, "rank_0_0-d0").locations
    (frame,) = (f for pack in places.packs for f in pack.frames if f.prefix)
    assert frame.stored < frame.raw / 100
    pulled = pull_tree(site, second, H100, tmp_path / "fresh")
    assert isinstance(pulled, Pulled)
    assert contents(pulled.path)["rank_0_0/model"] == bytes(model)


def test_ranks_of_a_later_publish_are_prefixed_with_one_read_of_the_neighbour(
    here: Here, tmp_path: Path
) -> None:
    publish_tree(here.site(), small_tree(tmp_path / "a", name="first", model_bytes=400_000))
    tree = small_tree(tmp_path / "b", name="second", ranks=(1, 2, 3), model_bytes=400_000)

    class Counting(FileStore):
        ranges = 0

        def get_range(self, key: str, start: int, end: int) -> bytes:
            self.ranges += 1
            return super().get_range(key, start, end)

    store = Counting(here.storage_url.removeprefix("file://"))
    result = publish_tree(here.site(store=store), tree)
    assert store.ranges == 1
    assert result.uploaded_bytes < 100_000
    assert isinstance(pull_tree(here.site(), tree, H100, tmp_path / "fresh"), Pulled)


def test_signed_parts_and_who_trusts_them(here: Here, tmp_path: Path) -> None:
    tree = small_tree(tmp_path / "node")
    key, other = generate_key(), generate_key()

    def trusting(*lines: str) -> TrustPolicy:
        return make_policy("signed", parse_trusted_keys("\n".join(lines), "test"))

    published = publish_tree(here.site(trusting(key.public_line()), signer=key), tree)
    assert {part.status for part in published.parts} == {PUBLISHED}

    site = here.site(trusting(other.public_line(), key.public_line()))
    pulled = pull_tree(site, tree, H100, tmp_path / "trusts")
    assert isinstance(pulled, Pulled)
    assert ({part.signers for part in pulled.parts}, pulled.unsigned) == ({(key.id,)}, False)

    stranger = here.site(trusting(other.public_line()), signer=other)
    with pytest.raises(TrustError, match=key.id):
        pull_tree(stranger, tree, H100, tmp_path / "stranger")
    assert contents(tmp_path / "stranger").keys() <= _locks(tmp_path / "stranger")

    anyone = pull_tree(here.site(), tree, H100, tmp_path / "anyone")
    assert isinstance(anyone, Pulled)
    assert anyone.unsigned

    # What a publisher would not accept it does not build on, either.
    add(tree.path, "inductor_cache/ab/cnew.py", b"# new\n")
    before = _stored(here, "trees")
    with pytest.raises(TrustError, match=key.id):
        publish_tree(stranger, tree)
    assert _stored(here, "trees") == before


def _locks(root: Path) -> set[str]:
    return {path for path in contents(root, transient=True) if path.endswith(".lock")}


def test_two_publishers_of_one_part_at_once(here: Here, tmp_path: Path) -> None:
    roots = [tmp_path / "one", tmp_path / "two"]
    for number in range(5):
        trees = [small_tree(root, name=f"tree{number}", ranks=(0, 1)) for root in roots]
        for at, tree in enumerate(trees):
            add(tree.path, f"inductor_cache/ab/cnode{at}.py", b"# node %d" % at)
            add(tree.path, "rank_0_0/model", model_of(10 + at, 100_000))
        begin = threading.Barrier(2)
        results: list[Published] = []

        def work(tree: FoundTree, begin: threading.Barrier, results: list[Published]) -> None:
            site = here.site()
            begin.wait()
            results.append(publish_tree(site, tree))

        threads = [threading.Thread(target=work, args=(tree, begin, results)) for tree in trees]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(results) == 2
        by_part = [{p.part: p for p in result.parts} for result in results]
        # One good model; of the shared part two generations, the second with both nodes' files.
        assert sorted(parts["rank_0_0-d0"].status for parts in by_part) == [
            ALREADY_STORED,
            PUBLISHED,
        ]
        shared = {parts["shared"].generation for parts in by_part}
        assert shared == {1, 2}
        manifests = [
            here.site().manifest(manifest_key(results[0].tree, "shared", generation))
            for generation in (1, 2)
        ]
        assert set(manifests[0].statement.files) < set(manifests[1].statement.files)
        pulled = pull_tree(here.site(), trees[0], H100, tmp_path / f"fresh{number}")
        assert isinstance(pulled, Pulled)
        found = contents(pulled.path)
        assert {"inductor_cache/ab/cnode0.py", "inductor_cache/ab/cnode1.py"} <= set(found)
        models = [contents(tree.path)["rank_0_0/model"] for tree in trees]
        assert found["rank_0_0/model"] in models


def test_what_was_published_is_remembered_here(here: Here, tmp_path: Path) -> None:
    one, two = small_tree(tmp_path / "one"), small_tree(tmp_path / "two")
    site = here.site()
    for tree in (one, two):  # the second finds everything stored
        result = publish_tree(site, tree)
        target = target_of(site.store.url, "default", result.tree.platform)
        known = TreeState(tree.path).remembered(target)
        assert set(known) == {"shared", "rank_0_0-d0"}
        paths = {e.path for data in known.values() for e in decode_manifest(data).statement.files}
        assert paths == set(contents(tree.path))


def test_no_generation_is_built_on_another_trees_manifest(here: Here, tmp_path: Path) -> None:
    site = here.site()
    tree = small_tree(tmp_path / "node")
    own = publish_tree(site, tree)
    foreign = small_tree(tmp_path / "node", name="foreign")
    add(foreign.path, "inductor_cache/ab/cforeign.py", b"# not ours")
    other = publish_tree(site, foreign)
    key = manifest_key(own.tree, "shared", 1)
    planted = site.store.get(manifest_key(other.tree, "shared", 1))
    site.store.delete(key)
    site.store.put(key, planted)
    # On another node, which has not seen the true one.
    again = small_tree(tmp_path / "second")
    add(again.path, "inductor_cache/ab/cnew.py", b"# new")
    with pytest.raises(ManifestError, match="holds the manifest of"):
        publish_tree(site, again)
    assert len(_stored(here, "trees")) == 4


def test_a_manifest_that_this_node_knows_is_not_fetched(here: Here, tmp_path: Path) -> None:
    site = here.site()
    tree = small_tree(tmp_path / "node")
    own = publish_tree(site, tree)
    for part in own.parts:
        site.store.delete(manifest_key(own.tree, part.part, 1))
    assert {part.status for part in publish_tree(site, tree).parts} == {ALREADY_STORED}


def test_storage_that_fails_fails_the_publish(here: Here, tmp_path: Path) -> None:
    def fail() -> None:
        raise StorageUnavailableError("no space")

    tree = small_tree(tmp_path / "node")
    with pytest.raises(StorageUnavailableError):
        publish_tree(here.site(store=_stumbling(here, 1, fail)), tree)
    assert publish_tree(here.site(), tree).uploaded_bytes > 0


def test_a_record_for_another_device_is_another_part(here: Here, tmp_path: Path) -> None:
    site = here.site()
    publish_tree(site, small_tree(tmp_path / "one"))
    two = small_tree(tmp_path / "two", records=False)
    record(Path(two.path), "rank_0_0-d3")
    assert _summary(publish_tree(site, two)) == {
        "shared": (1, 0, ALREADY_STORED),
        "rank_0_0-d3": (1, 1, PUBLISHED),
    }


def test_who_trusts_only_signed_parts_publishes_none_without_a_key(
    here: Here, tmp_path: Path
) -> None:
    policy = make_policy("signed", parse_trusted_keys(generate_key().public_line(), "test"))
    with pytest.raises(UsageError, match="aotcache key generate"):
        publish_tree(here.site(policy), small_tree(tmp_path / "node"))
    assert list(here.store.list("default/")) == []


def test_a_tree_that_grows_its_first_cpp_moves_to_its_cpu_as_a_whole(
    here: Here, tmp_path: Path
) -> None:
    site = here.site()
    tree = small_tree(tmp_path / "node", ranks=(0, 1))
    assert publish_tree(site, tree).tree.platform == ANY.id
    add(tree.path, "inductor_cache/gh/cgh.main.so", b"C++", 0o755)
    complete = ["rank_0_0", "rank_1_0", "shared"]

    def grown() -> Published:
        scan = scan_tree(tree.layout, tree.path)
        identity = identify(tree, scan, read_records(tree.path))
        return publish(site, "default", tree, scan, identity, ["shared"], complete=complete)

    moved = grown()
    assert moved.tree.platform == H100.id
    assert {p.part: p.status for p in moved.parts} == dict.fromkeys(
        ("rank_0_0-d0", "rank_1_0-d1", "shared"), PUBLISHED
    )
    # Later growth is that of its own part.
    add(tree.path, "inductor_cache/gh/cij.main.so", b"more C++", 0o755)
    assert _summary(grown()) == {"shared": (2, 1, PUBLISHED)}
