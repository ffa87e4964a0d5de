"""What is stored and accepted, and not installed all the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from aotcache.errors import ManifestError, TrustError
from aotcache.probe.trees import FoundTree, tree_path
from aotcache.protocol.manifest import decode_manifest, encode_manifest, encode_statement
from aotcache.protocol.recipe import Recipe, graph_differences
from aotcache.protocol.v1.lookup import OTHER_RECIPE, Lookup, Miss
from aotcache.sync.pull import Pulled, pull
from aotcache_service.index.database import Database
from support.indexed import rebuild
from support.site import publish_tree
from support.small import Here, add, service_here, small_tree
from support.trees import H100, RECIPE, contents


@pytest.fixture
def tree(here: Here, tmp_path: Path) -> FoundTree:
    made = small_tree(tmp_path / "publisher", ranks=(0,))
    publish_tree(here.site(), made)
    return made


def pulled(here: Here, tree: FoundTree, root: Path, recipe: Recipe | None = None) -> Pulled | Miss:
    asked = Lookup(layout=tree.layout, hash=tree.hash, platform=H100)
    path = tree_path(str(root), tree.layout, tree.hash)
    return pull(here.site(), asked, path, recipe=recipe)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("lora", "rank 16 loras 4"),
        ("speculative", "eagle org/draft 3"),
        ("multimodal", '{"image": 4}'),
        ("quantization", "fp8"),
        ("dtype", "float16"),
        ("tensor_parallel_size", 4),
        ("pipeline_parallel_size", 2),
    ],
)
def test_another_graph_under_the_same_hash(
    here: Here, tmp_path: Path, field: str, value: str | int
) -> None:
    known = replace(RECIPE, quantization="awq", dtype="bfloat16")
    tree = small_tree(tmp_path / "publisher", recipe=known)
    publish_tree(here.site(), tree)
    asked = replace(known, **{field: value})  # type: ignore[arg-type]
    found = pulled(here, tree, tmp_path / "node", asked)
    assert isinstance(found, Miss)
    assert found.reason == OTHER_RECIPE
    assert [difference.field for difference in found.differences] == [field]
    assert f"{field} {getattr(known, field) or 'none'} (here {value})" in found.message
    assert not [path for path in contents(tmp_path / "node") if ".aotcache" not in path]
    # Said explicitly, or where the recipe is the same, it comes.
    assert isinstance(pulled(here, tree, tmp_path / "node", known), Pulled)
    assert isinstance(pulled(here, tree, tmp_path / "other"), Pulled)


def test_what_makes_no_other_graph() -> None:
    asked = replace(RECIPE, model="/models/llama", revision="main", data_parallel_size=4)
    assert graph_differences(RECIPE, asked) == []
    # Not known on one side, which says nothing.
    assert graph_differences(replace(RECIPE, dtype=""), replace(RECIPE, dtype="float16")) == []


@pytest.mark.parametrize(
    "path",
    [
        "evil.py",
        "rank_0_0/model",
        "inductor_cache/locks/x.lock",
        "inductor_cache/ab/cab.py.tmp",
        "inductor_cache/ab/sitecustomize.pth",
        "inductor_cache/triton/0/SHORT/k.cubin",
    ],
)
def test_a_path_that_no_publisher_lists(
    here: Here, tree: FoundTree, tmp_path: Path, path: str
) -> None:
    """Whoever signed it."""
    (key,) = (found.key for found in here.store.list("default/trees/") if "/shared/" in found.key)
    good = decode_manifest(here.store.get(key))
    (first, *rest) = good.statement.files
    files = (msgspec.structs.replace(first, path=path), *rest)
    said = encode_statement(msgspec.structs.replace(good.statement, files=files))
    here.store.delete(key)
    here.store.put(key, encode_manifest(said, good.locations, ()))
    with pytest.raises(ManifestError, match=f"shared lists {path}, which has no place in it"):
        pulled(here, tree, tmp_path / "node")
    assert not [path for path in contents(tmp_path / "node") if ".aotcache" not in path]


def test_an_older_generation_from_a_place_of_another_name(
    here: Here, tree: FoundTree, tmp_path: Path
) -> None:
    """The service says by which way bytes come: it must not be forgotten with that."""
    assert isinstance(pulled(here, tree, tmp_path / "node"), Pulled)
    first = {found.key: here.store.get(found.key) for found in here.store.list("default/trees/")}
    add(tree.path, "inductor_cache/zz/czz.py", b"# more")
    publish_tree(here.site(), tree)
    assert isinstance(pulled(here, tree, tmp_path / "node"), Pulled)
    with service_here(tmp_path / "other") as other:
        for found in here.store.list(""):
            if found.key in first or "/trees/" not in found.key:
                other.store.put(found.key, here.store.get(found.key))
        database = Database(f"sqlite:///{tmp_path / 'other' / 'index.sqlite3'}")
        rebuild(database, other.store)
        database.close()
        with pytest.raises(TrustError, match=r"generation 1 of shared is offered, .* has seen 2"):
            pulled(other, tree, tmp_path / "node")
        assert isinstance(pulled(other, tree, tmp_path / "fresh"), Pulled)
