"""Pull: what is verified is installed, whole; everything else leaves the disk as it was."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from aotcache.core.trust import TrustPolicy
from aotcache.errors import (
    AotcacheError,
    LocalError,
    ManifestError,
    ObjectMissingError,
    PackError,
    RemoteError,
    StorageUnavailableError,
    TrustError,
    UnavailableError,
    UsageError,
)
from aotcache.local.state import TreeState, target_of
from aotcache.net.http import HttpClient
from aotcache.probe.trees import FoundTree, tree_path
from aotcache.protocol.names import manifest_key
from aotcache.protocol.v1.lookup import Hit, Lookup, Miss
from aotcache.remote.index import Index
from aotcache.storage import open_store
from aotcache.storage.files import FileStore
from aotcache.sync.ahead import Ahead
from aotcache.sync.progress import Progress
from aotcache.sync.published import Published
from aotcache.sync.pull import Pulled, pull
from aotcache.sync.site import Site
from support.site import publish_tree, pull_tree
from support.small import Here, add, model_of, record, small_tree
from support.trees import H100, contents


@pytest.fixture
def tree(tmp_path: Path) -> FoundTree:
    return small_tree(tmp_path / "node", ranks=(0, 1))


@pytest.fixture
def published(here: Here, tree: FoundTree) -> Published:
    return publish_tree(here.site(), tree)


def _pull(site: Site, tree: FoundTree, root: Path, *parts: str) -> Pulled:
    found = pull_tree(site, tree, H100, root, *parts)
    assert isinstance(found, Pulled)
    return found


def _nothing_installed(root: Path) -> None:
    assert [path for path in contents(root) if ".aotcache/locks" not in path] == []
    assert not list(root.rglob("staging/*"))


def test_all_parts(here: Here, tree: FoundTree, published: Published, tmp_path: Path) -> None:
    pulled = _pull(here.site(), tree, tmp_path / "fresh")
    assert set(contents(pulled.path)) == set(contents(tree.path))
    assert {p.part: (p.generation, p.files, p.installed) for p in pulled.parts} == {
        "shared": (1, 7, 7),
        "rank_0_0-d0": (1, 1, 1),
        "rank_1_0-d1": (1, 1, 1),
    }
    assert pulled.unsigned
    assert pulled.tree == published.tree
    assert pulled.moved_bytes == published.uploaded_bytes
    target = target_of(here.storage_url, "default", published.tree.platform)
    remembered = TreeState(pulled.path).remembered(target)
    assert set(remembered) == {"shared", "rank_0_0-d0", "rank_1_0-d1"}
    again = _pull(here.site(), tree, tmp_path / "fresh")
    assert (again.installed, again.moved_bytes, again.requests) == (0, 0, 0)


@pytest.mark.usefixtures("published")
def test_one_part(here: Here, tree: FoundTree, tmp_path: Path) -> None:
    pulled = _pull(here.site(), tree, tmp_path / "fresh", "rank_1_0-d1")
    assert set(contents(pulled.path)) == {"rank_1_0/model"}
    assert [part.part for part in pulled.parts] == ["rank_1_0-d1"]
    # The ranks' models differ little, so this one's frame needs the other's bytes.
    assert pulled.requests == 2


@pytest.mark.usefixtures("published")
def test_what_is_not_stored_is_a_miss(here: Here, tree: FoundTree, tmp_path: Path) -> None:
    miss = pull_tree(here.site(), tree, H100, tmp_path / "fresh", "rank_7_0-d7")
    assert isinstance(miss, Miss)
    assert (miss.reason, miss.missing) == ("part_missing", ("rank_7_0-d7",))
    unknown = msgspec.structs.replace(tree, hash="f" * 64)
    miss = pull_tree(here.site(), unknown, H100, tmp_path / "fresh")
    assert isinstance(miss, Miss)
    assert miss.reason == "unknown_hash"
    _nothing_installed(tmp_path / "fresh")


@pytest.mark.usefixtures("published")
def test_a_rank_for_several_devices_needs_a_choice(
    here: Here, tree: FoundTree, tmp_path: Path
) -> None:
    other = small_tree(tmp_path / "other", ranks=(0, 1), records=False)
    for part in ("rank_0_0-d4", "rank_1_0-d5"):
        record(Path(other.path), part)
    publish_tree(here.site(), other)
    with pytest.raises(UsageError, match="--part"):
        pull_tree(here.site(), tree, H100, tmp_path / "fresh")
    _nothing_installed(tmp_path / "fresh")
    pulled = _pull(here.site(), tree, tmp_path / "fresh", "shared", "rank_0_0-d4")
    assert "rank_0_0/model" in contents(pulled.path)
    assert "rank_1_0/model" not in contents(pulled.path)


@pytest.mark.usefixtures("published")
def test_existing_files_stay_and_missing_ones_come(
    here: Here, tree: FoundTree, tmp_path: Path
) -> None:
    pulled = _pull(here.site(), tree, tmp_path / "fresh")
    expected = contents(pulled.path)
    graph = "inductor_cache/fxgraph/cd/fgraph/agraph"
    (Path(pulled.path) / graph).write_bytes(b"compiled here")
    (Path(pulled.path) / "inductor_cache/ab/cabcdef.py").unlink()
    again = _pull(here.site(), tree, tmp_path / "fresh")
    assert {p.part: (p.installed, p.kept) for p in again.parts} == {
        "shared": (1, 1),
        "rank_0_0-d0": (0, 0),
        "rank_1_0-d1": (0, 0),
    }
    assert (again.installed, again.kept, pulled.kept) == (1, 1, 0)
    assert contents(pulled.path) == expected | {graph: b"compiled here"}


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize("model", [b"", b"another platform's model"])
def test_another_model_in_the_way_is_kept_and_warned_of(
    here: Here,
    tree: FoundTree,
    tmp_path: Path,
    model: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    place = tmp_path / "fresh" / Path(tree.path).relative_to(tmp_path / "node")
    add(place, "rank_0_0/model", model)
    pulled = _pull(here.site(), tree, tmp_path / "fresh")
    assert (pulled.installed, pulled.kept) == (8, 1)
    assert contents(place)["rank_0_0/model"] == model
    (said,) = [entry.getMessage() for entry in caplog.records if entry.levelname == "WARNING"]
    assert f"{place}/rank_0_0/model" in said
    (place / "rank_0_0/model").unlink()
    assert _pull(here.site(), tree, tmp_path / "fresh").installed == 1


@pytest.mark.usefixtures("published")
def test_a_rank_of_another_device_in_the_way(here: Here, tree: FoundTree, tmp_path: Path) -> None:
    other = small_tree(tmp_path / "other", ranks=(0,), records=False)
    add(other.path, "rank_0_0/model", b"compiled for another device")
    record(Path(other.path), "rank_0_0-d1")
    publish_tree(here.site(), other)
    _pull(here.site(), tree, tmp_path / "fresh", "rank_0_0-d0")
    other_device = _pull(here.site(), tree, tmp_path / "fresh", "rank_0_0-d1")
    assert (other_device.installed, other_device.kept) == (0, 1)
    with pytest.raises(UsageError, match="one: say which with --part"):
        pull_tree(here.site(), tree, H100, tmp_path / "new", "rank_0_0-d0", "rank_0_0-d1")
    _nothing_installed(tmp_path / "new")


def test_a_manifest_of_another_tree_under_the_right_key(
    here: Here, tree: FoundTree, published: Published, tmp_path: Path
) -> None:
    site = here.site()
    foreign = small_tree(tmp_path / "foreign", name="foreign", ranks=(0, 1))
    add(foreign.path, "inductor_cache/ab/cevil.py", b"print('evil')")
    other = publish_tree(site, foreign)
    key = manifest_key(published.tree, "shared", 1)
    site.store.delete(key)
    site.store.put(key, site.store.get(manifest_key(other.tree, "shared", 1)))
    with pytest.raises(ManifestError, match="holds the manifest of"):
        pull_tree(site, tree, H100, tmp_path / "fresh")
    _nothing_installed(tmp_path / "fresh")


class Lying(Index):
    """Answers a lookup as `lie` makes of the true answer."""

    lie: Callable[[Hit], Hit]

    def lookup(self, asked: Lookup) -> Hit | Miss:
        answer = super().lookup(asked)
        assert isinstance(answer, Hit)
        return self.lie(answer)


def _lying(site: Site, lie: Callable[[Hit], Hit]) -> Site:
    index = Lying(site.index._client)
    index.lie = lie
    return replace(site, index=index)


@pytest.mark.usefixtures("published")
def test_an_index_that_leads_to_another_tree(here: Here, tree: FoundTree, tmp_path: Path) -> None:
    site = here.site()
    other = publish_tree(site, small_tree(tmp_path / "foreign", name="foreign"))

    def lead_away(hit: Hit) -> Hit:
        key = manifest_key(other.tree, "shared", 1)
        return replace(hit, parts=tuple(replace(part, manifest=key) for part in hit.parts))

    with pytest.raises(ManifestError, match="not what was asked for"):
        pull_tree(_lying(site, lead_away), tree, H100, tmp_path / "fresh", "shared")
    _nothing_installed(tmp_path / "fresh")


@pytest.mark.usefixtures("published")
def test_an_index_that_leads_to_another_platform(
    here: Here, tree: FoundTree, tmp_path: Path
) -> None:
    site = here.site()
    blackwell = replace(H100, arch="sm_100", device="NVIDIA B200")
    same = small_tree(tmp_path / "b200", ranks=(0, 1), platform=blackwell)
    other = publish_tree(site, same)

    def lead_away(hit: Hit) -> Hit:
        parts = tuple(
            replace(part, manifest=manifest_key(other.tree, part.part, part.generation))
            for part in hit.parts
        )
        return replace(hit, parts=parts)

    with pytest.raises(ManifestError, match="for platform"):
        pull_tree(_lying(site, lead_away), tree, H100, tmp_path / "fresh")
    _nothing_installed(tmp_path / "fresh")


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize("parts", [(), ("rank_0_0-d0",)])
def test_an_index_that_names_no_parts(
    here: Here, tree: FoundTree, tmp_path: Path, parts: tuple[str, ...]
) -> None:
    site = _lying(here.site(), lambda hit: replace(hit, parts=()))
    with pytest.raises(RemoteError, match="reindex"):
        pull_tree(site, tree, H100, tmp_path / "fresh", *parts)
    _nothing_installed(tmp_path / "fresh")


def _pack(here: Here) -> Path:
    (found,) = here.store.list("default/packs/")
    return Path(here.storage_url.removeprefix("file://")) / found.key


def _flip(pack: Path, at: int) -> None:
    data = bytearray(pack.read_bytes())
    data[at] ^= 1
    pack.write_bytes(data)


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lambda pack: _flip(pack, 100), PackError),
        (lambda pack: _flip(pack, pack.stat().st_size - 50), PackError),
        (lambda pack: pack.write_bytes(pack.read_bytes()[:-100]), StorageUnavailableError),
        (lambda pack: pack.unlink(), ObjectMissingError),
    ],
    ids=["flipped first", "flipped last", "cut", "missing"],
)
def test_a_damaged_pack_is_an_error_and_not_a_miss(
    here: Here,
    tree: FoundTree,
    tmp_path: Path,
    damage: Callable[[Path], None],
    error: type[AotcacheError],
) -> None:
    damage(_pack(here))
    with pytest.raises(error):
        pull_tree(here.site(), tree, H100, tmp_path / "fresh")
    _nothing_installed(tmp_path / "fresh")


@pytest.mark.usefixtures("published")
def test_a_missing_manifest_is_an_error_and_not_a_miss(
    here: Here, tree: FoundTree, published: Published, tmp_path: Path
) -> None:
    here.store.delete(manifest_key(published.tree, "shared", 1))
    with pytest.raises(ObjectMissingError):
        pull_tree(here.site(), tree, H100, tmp_path / "fresh")
    _nothing_installed(tmp_path / "fresh")


@pytest.mark.usefixtures("published")
def test_a_planted_link_is_not_written_through(here: Here, tree: FoundTree, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    place = tmp_path / "fresh" / Path(tree.path).relative_to(tmp_path / "node")
    (place / "inductor_cache").mkdir(parents=True)
    (place / "inductor_cache" / "triton").symlink_to(outside)
    with pytest.raises(LocalError, match="triton is a link or a file"):
        pull_tree(here.site(), tree, H100, tmp_path / "fresh")
    assert list(outside.iterdir()) == []
    assert not (place / "rank_0_0").exists()


@pytest.mark.usefixtures("published")
def test_growth_on_both_sides(here: Here, tree: FoundTree, tmp_path: Path) -> None:
    pulled = _pull(here.site(), tree, tmp_path / "fresh")
    there = FoundTree(tree.layout, tree.hash, pulled.path)
    add(pulled.path, "inductor_cache/ab/cthere.py", b"# there")
    add(tree.path, "inductor_cache/ab/chere.py", b"# here")
    for rank in (0, 1):
        record(Path(there.path), f"rank_{rank}_0-d{rank}")
    assert [p.generation for p in publish_tree(here.site(), tree).parts] == [1, 1, 2]
    assert [p.generation for p in publish_tree(here.site(), there).parts] == [1, 1, 3]
    for found in (tree, there):
        root = Path(found.path).parents[2]
        assert _pull(here.site(), tree, root).installed == 1
    assert set(contents(tree.path)) == set(contents(there.path))


def test_a_rank_finds_on_the_disk_what_its_model_is_compressed_against(
    here: Here, tmp_path: Path
) -> None:
    """Ranks of one node pull one after the other: each moves its own bytes and no more."""
    tree = small_tree(tmp_path / "node", ranks=(0, 1), model_bytes=400_000)
    site = here.site()
    publish_tree(site, tree)
    moved = []
    for part in ("rank_0_0-d0", "rank_1_0-d1"):
        pulled = pull_tree(site, tree, H100, tmp_path / "fresh", "shared", part)
        assert isinstance(pulled, Pulled)
        moved.append(pulled.moved_bytes)
    assert contents(pulled.path)["rank_1_0/model"] == model_of(1, 400_000)
    assert moved[1] < moved[0] / 10
    alone = pull_tree(site, tree, H100, tmp_path / "alone", "shared", "rank_1_0-d1")
    assert isinstance(alone, Pulled)
    assert alone.moved_bytes > 5 * moved[1]


@pytest.mark.usefixtures("published")
def test_the_service_is_asked_once(
    here: Here, tree: FoundTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Manifests come with what is found."""
    read: list[str] = []
    get = FileStore.get

    def noted(store: FileStore, key: str) -> bytes:
        read.append(key)
        return get(store, key)

    site = here.site(store=open_store(here.storage_url))
    monkeypatch.setattr(FileStore, "get", noted)
    found: list[Hit | Miss] = []

    def noting(hit: Hit) -> Hit:
        found.append(hit)
        return hit

    _pull(_lying(site, noting), tree, tmp_path / "fresh")
    (hit,) = found
    assert isinstance(hit, Hit)
    # By the service, which is in this process: each once.
    assert sorted(read) == sorted(part.manifest for part in hit.parts)


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize("data", [b"", b"damaged", b"AOTCACHE"])
def test_a_manifest_that_came_damaged_is_read_from_storage(
    here: Here, tree: FoundTree, tmp_path: Path, data: bytes
) -> None:
    def damage(hit: Hit) -> Hit:
        return replace(hit, parts=tuple(replace(part, data=data) for part in hit.parts))

    pulled = _pull(_lying(here.site(), damage), tree, tmp_path / "fresh")
    assert set(contents(pulled.path)) == set(contents(tree.path))


@pytest.mark.usefixtures("published")
def test_what_was_found_ahead_is_used(here: Here, tree: FoundTree, tmp_path: Path) -> None:
    site = here.site()
    lookup = Lookup(layout=tree.layout, hash=tree.hash, platform=H100).before_a_pull()
    ahead = Ahead(lambda: site.index.lookup(lookup))
    nobody = replace(site, index=Index(HttpClient("http://127.0.0.1:1", retries=0)))
    place = tree_path(str(tmp_path / "fresh"), tree.layout, tree.hash)
    assert isinstance(pull(nobody, lookup, place, found=ahead.answer), Pulled)


def test_what_could_not_be_found_ahead_is_raised(tmp_path: Path) -> None:
    def ask() -> Hit:
        raise UnavailableError("no answer from there")

    lookup = Lookup(layout="vllm-aot", hash="ab" * 32, platform=H100)
    site = Site(
        Index(HttpClient("http://127.0.0.1:1")), open_store("memory://x"), TrustPolicy("unsigned")
    )
    with pytest.raises(UnavailableError, match="from there"):
        pull(site, lookup, str(tmp_path / "tree"), found=Ahead(ask).answer)


@pytest.mark.usefixtures("published")
def test_who_had_to_wait_looks_again(here: Here, tree: FoundTree, tmp_path: Path) -> None:
    """What was found before another process was at the tree may be gone."""
    site = here.site()
    lookup = Lookup(layout=tree.layout, hash=tree.hash, platform=H100)
    place = tree_path(str(tmp_path / "fresh"), tree.layout, tree.hash)

    def never() -> Hit:
        raise AssertionError("an old answer was used")

    with ThreadPoolExecutor(1) as pool:
        with TreeState(place).locked():
            waiting = threading.Event()
            told = replace(site, progress=Progress(step=lambda _: waiting.set()))
            pulled = pool.submit(pull, told, lookup, place, found=never)
            assert waiting.wait(10)
        assert isinstance(pulled.result(), Pulled)


@pytest.mark.usefixtures("published")
def test_an_answer_from_before_what_this_node_has_seen_is_asked_for_anew(
    here: Here, tree: FoundTree, tmp_path: Path
) -> None:
    """Another process pulled what was published between the answer and the lock."""
    site = here.site()
    lookup = Lookup(layout=tree.layout, hash=tree.hash, platform=H100).before_a_pull()
    place = tree_path(str(tmp_path / "fresh"), tree.layout, tree.hash)
    old = site.index.lookup(lookup)
    add(tree.path, "inductor_cache/zz/cgrown.py", b"# grown")
    publish_tree(site, tree)
    _pull(site, tree, tmp_path / "fresh")
    found = pull(site, lookup, place, found=lambda: old)
    assert isinstance(found, Pulled)
    assert max(part.generation for part in found.parts) == 2
    with pytest.raises(TrustError, match="generation 1 of shared is offered"):
        pull(_lying(site, lambda _: old), lookup, place)  # type: ignore[arg-type,return-value]


@pytest.mark.usefixtures("published")
def test_a_tree_that_is_deleted_before_its_manifests_are_read_is_a_miss(
    here: Here, tree: FoundTree, tmp_path: Path
) -> None:
    site = here.site()
    lookup = Lookup(layout=tree.layout, hash=tree.hash, platform=H100).before_a_pull()
    old = site.index.lookup(replace(lookup, manifests=False))
    site.index.delete(tree.hash)
    place = tree_path(str(tmp_path / "fresh"), tree.layout, tree.hash)
    assert isinstance(pull(site, lookup, place, found=lambda: old), Miss)
