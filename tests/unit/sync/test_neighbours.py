"""Neighbours save bytes; one that cannot be read costs nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from aotcache.core.places import Places
from aotcache.protocol.names import manifest_key
from aotcache.sync.neighbours import Neighbours
from support.site import publish_tree
from support.small import Here, small_tree


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
