"""Neighbours save bytes; one that cannot be read costs nothing."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from aotcache.core.places import Places
from aotcache.probe.trees import tree_path
from aotcache.protocol.names import manifest_key
from aotcache.sync.neighbours import Neighbours
from support.site import publish_tree, pull_tree
from support.small import KERNEL, Here, add, small_tree
from support.trees import H100, contents


@pytest.mark.parametrize("damage", ["", "gone", "other bytes"])
def test_the_prefix_of_a_neighbour(here: Here, tmp_path: Path, damage: str) -> None:
    site = here.site()
    tree = small_tree(tmp_path / "node")
    key = manifest_key(publish_tree(site, tree).tree, "rank_0_0-d0", 1)
    for pack in [found.key for found in here.store.list("default/packs/")]:
        if damage:
            data = here.store.get(pack)
            here.store.delete(pack)
            if damage != "gone":
                here.store.put(pack, bytes(len(data)))
    neighbours = Neighbours(site, "default", [key], Places())
    (entry,) = site.manifest(key).statement.files
    found = neighbours.prefix_for(entry)
    assert found is not None
    assert found[0] == entry.digest
    for _ in range(2):
        model = (Path(tree.path) / "rank_0_0/model").read_bytes()
        assert found[1]() == (None if damage else model)


def test_a_place_that_was_dropped_is_no_base(here: Here, tmp_path: Path) -> None:
    site = here.site()
    key = manifest_key(publish_tree(site, small_tree(tmp_path / "node")).tree, "rank_0_0-d0", 1)
    places = Places()
    neighbours = Neighbours(site, "default", [key], places)
    (entry,) = site.manifest(key).statement.files
    del places.by_digest[entry.digest]
    assert neighbours.prefix_for(entry) is None


def test_files_of_a_neighbour_are_nearly_ours(here: Here, tmp_path: Path) -> None:
    """By their name, or by their kind and size; a kernel never is."""
    site = here.site()
    first, second = (small_tree(tmp_path / name, name=name) for name in ("one", "two"))
    noise = hashlib.shake_256(b"content").digest(20_000)
    paths = {
        "inductor_cache/ab/cabcd.so": "inductor_cache/ab/cabcd.so",
        "inductor_cache/aotautograd/aa/first": "inductor_cache/aotautograd/bb/second",
    }
    for number, (one, two) in enumerate(paths.items()):
        add(first.path, one, bytes([number]) + noise)
        add(second.path, two, bytes([number]) + noise[:100] + b"changed" + noise[107:])
    kernel = f"inductor_cache/triton/0/{KERNEL}/other.cubin"
    add(first.path, kernel, b"1" + noise)
    add(second.path, kernel, b"2" + noise)
    publish_tree(site, first)
    result = publish_tree(site, second)
    assert 20_000 < result.uploaded_bytes < 25_000, "the kernel, and what differs of the others"
    place = tree_path(str(tmp_path / "fresh"), second.layout, second.hash)
    pull_tree(site, second, H100, tmp_path / "fresh")
    assert {path: data for path, data in contents(place).items() if path in paths.values()} == {
        path: (Path(second.path) / path).read_bytes() for path in paths.values()
    }


def test_files_that_cannot_be_read_are_done_without(here: Here, tmp_path: Path) -> None:
    site = here.site()
    first, second = (small_tree(tmp_path / name, name=name) for name in ("one", "two"))
    noise = hashlib.shake_256(b"content").digest(20_000)
    add(first.path, "inductor_cache/ab/cabcd.so", b"1" + noise)
    publish_tree(site, first)
    for found in list(here.store.list("default/packs/")):
        data = here.store.get(found.key)
        here.store.delete(found.key)
        here.store.put(found.key, bytes(len(data)))
    add(second.path, "inductor_cache/ab/cabcd.so", b"2" + noise)
    assert publish_tree(site, second).uploaded_bytes > 20_000
