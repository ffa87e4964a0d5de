"""What a publish refers to is in storage, or is packed again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from aotcache.errors import StorageError
from aotcache.storage.files import FileStore
from aotcache.sync.pull import Pulled
from support.site import publish_tree, pull_tree
from support.small import Here, add, small_tree
from support.trees import H100, contents


class Counting(FileStore):
    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.sized: list[str] = []

    def size(self, key: str) -> int:
        self.sized.append(key)
        return super().size(key)


def _counting(here: Here) -> Counting:
    return Counting(here.storage_url.removeprefix("file://"))


def _lose(here: Here, *, torn: bool = False) -> None:
    for key in [found.key for found in here.store.list("default/packs/")]:
        data = here.store.get(key)
        here.store.delete(key)
        if torn:
            here.store.put(key, data[:-1])


@pytest.mark.parametrize("torn", [False, True])
def test_what_is_equal_to_a_lost_pack_is_packed_again(
    here: Here, tmp_path: Path, torn: bool
) -> None:
    site = here.site()
    first = publish_tree(site, small_tree(tmp_path / "one", name="first"))
    _lose(here, torn=torn)
    tree = small_tree(tmp_path / "two", name="second")
    assert publish_tree(site, tree).uploaded_bytes > first.uploaded_bytes / 2
    pulled = pull_tree(site, tree, H100, tmp_path / "fresh")
    assert isinstance(pulled, Pulled)
    assert contents(pulled.path)["rank_0_0/model"] == contents(tree.path)["rank_0_0/model"]


def test_growth_of_a_tree_whose_packs_are_lost(here: Here, tmp_path: Path) -> None:
    """The part that grows is whole again. Where its files are not on this disk it cannot be, and
    is not made worse: after `rm` it can be published from here."""
    site = here.site()
    tree = small_tree(tmp_path / "node")
    publish_tree(site, tree)
    _lose(here)
    add(tree.path, "inductor_cache/ab/cnew.py", b"# new")
    publish_tree(site, tree)
    assert isinstance(pull_tree(site, tree, H100, tmp_path / "fresh", "shared"), Pulled)

    _lose(here)
    add(tree.path, "inductor_cache/ab/cnewer.py", b"# newer")
    shutil.rmtree(Path(tree.path) / "inductor_cache/fxgraph")
    with pytest.raises(StorageError, match="aotcache rm"):
        publish_tree(site, tree)
    site.index.delete(tree.hash)
    publish_tree(site, tree)
    assert isinstance(pull_tree(site, tree, H100, tmp_path / "again"), Pulled)


def test_a_pack_is_looked_at_once_and_only_where_it_is_used(here: Here, tmp_path: Path) -> None:
    store = _counting(here)
    tree = small_tree(tmp_path / "one", name="first", ranks=range(3))
    publish_tree(here.site(store=store), tree)
    assert store.sized == []  # all of it is its own
    packs = {found.key for found in here.store.list("default/packs/")}
    publish_tree(here.site(store=store), small_tree(tmp_path / "two", name="second"))
    assert len(store.sized) == len(set(store.sized))
    assert set(store.sized) <= packs
    store.sized.clear()
    publish_tree(here.site(store=store), small_tree(tmp_path / "three", name="second"))
    assert store.sized == []  # nothing is published
