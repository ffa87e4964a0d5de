"""What manifests state, and those that lie in the way: never committed, of no use to anybody."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from aotcache.core.trust import SigningKey, TrustPolicy, generate_key, make_policy
from aotcache.core.trust import parse_trusted_keys as parse
from aotcache.errors import ManifestError
from aotcache.net.http import HttpClient
from aotcache.probe.trees import FoundTree
from aotcache.protocol.manifest import encode_manifest
from aotcache.protocol.names import VLLM_JIT, TreeKey, manifest_key
from aotcache.protocol.recipe import Recipe
from aotcache.protocol.record import TreeUsed
from aotcache.protocol.v1.lookup import Lookup
from aotcache.protocol.v1.publish import Commit, Committed
from aotcache.protocol.v1.recipes import RecipeHit, RecipeLookup
from aotcache.remote.index import Index
from aotcache.storage import http_store
from aotcache.sync import announce
from aotcache.sync.published import PUBLISHED, Published
from aotcache.sync.pull import Pulled
from aotcache.sync.site import Site
from support.site import publish_tree, pull_tree
from support.small import Here, record, small_tree
from support.trees import H100, RECIPE


class Interrupted(Exception):
    """What ends a publish in the middle."""


class NoCommit(Index):
    def commit(self, publish_id: str, commit: Commit) -> Committed:
        raise Interrupted(publish_id, commit)


def _die_before_the_commit(site: Site, tree: FoundTree) -> None:
    with pytest.raises(Interrupted):
        publish_tree(replace(site, index=NoCommit(site.index._client)), tree)


def _signed(key: SigningKey) -> TrustPolicy:
    return make_policy("signed", parse(key.public_line(), "test"))


def _all_published(result: Published, parts: int) -> None:
    assert {(p.generation, p.status) for p in result.parts} == {(1, PUBLISHED)}
    assert len(result.parts) == parts


def _named(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [r for r in caplog.records if "never committed" in r.message]
    assert {r.levelno for r in found} <= {logging.WARNING}
    return sorted(r.message.split(" ")[0].split("/")[-2] for r in found)


@pytest.mark.parametrize("through_service", [False, True])
def test_one_whose_packs_are_gone(
    here: Here, tmp_path: Path, caplog: pytest.LogCaptureFixture, through_service: bool
) -> None:
    store = http_store(HttpClient(here.url)) if through_service else here.store
    _die_before_the_commit(here.site(store=store), small_tree(tmp_path / "one"))
    for found in here.store.list("default/packs/"):
        here.store.delete(found.key)
    tree = small_tree(tmp_path / "two", ranks=(0, 1))  # of rank 1 nothing is in the way
    _all_published(publish_tree(here.site(store=store), tree), 3)
    assert _named(caplog) == ["rank_0_0-d0", "shared"]
    assert isinstance(pull_tree(here.site(), tree, H100, tmp_path / "fresh"), Pulled)


def test_ones_own_whose_packs_are_gone(here: Here, tmp_path: Path) -> None:
    tree = small_tree(tmp_path / "node")
    _die_before_the_commit(here.site(), tree)
    for found in here.store.list("default/packs/"):
        here.store.delete(found.key)
    _all_published(publish_tree(here.site(), tree), 2)
    assert isinstance(pull_tree(here.site(), tree, H100, tmp_path / "fresh"), Pulled)


def test_ones_own_whose_packs_are_condemned(here: Here, tmp_path: Path) -> None:
    """They are in storage still, so that only the service knows."""
    tree = small_tree(tmp_path / "node")
    _die_before_the_commit(here.site(), tree)
    service = http_store(HttpClient(here.url))
    for key in [found.key for found in here.store.list("default/packs/")]:
        data = here.store.get(key)
        service.delete(key)
        here.store.put(key, data)
    _all_published(publish_tree(here.site(), tree), 2)
    assert isinstance(pull_tree(here.site(), tree, H100, tmp_path / "fresh"), Pulled)


def test_one_that_is_signed_by_a_stranger(
    here: Here, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stranger, ours = generate_key(), generate_key()
    _die_before_the_commit(
        here.site(_signed(stranger), signer=stranger), small_tree(tmp_path / "a")
    )
    tree = small_tree(tmp_path / "b")
    _all_published(publish_tree(here.site(_signed(ours), signer=ours), tree), 2)
    assert _named(caplog) == ["rank_0_0-d0", "shared"]
    assert isinstance(pull_tree(here.site(_signed(ours)), tree, H100, tmp_path / "fresh"), Pulled)


def test_one_that_cannot_be_read(
    here: Here, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tree = small_tree(tmp_path / "node")
    key = TreeKey(
        namespace="default",
        layout=tree.layout,
        hash=tree.hash,
        platform=H100.for_any_cpu().id,
    )
    here.store.put(manifest_key(key, "shared", 1), b"{}\n")
    _all_published(publish_tree(here.site(), tree), 2)
    assert _named(caplog) == ["shared"]


def test_what_breaks_the_format_is_not_put(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        announce,
        "encode_manifest",
        lambda *given, **more: encode_manifest(*given, **more) + b"more",
    )
    with pytest.raises(ManifestError):
        publish_tree(here.site(), small_tree(tmp_path / "node"))
    assert list(here.store.list("default/trees/")) == []


def test_the_trees_of_a_start_are_stated(here: Here, tmp_path: Path) -> None:
    tree = small_tree(tmp_path)
    own = TreeUsed(layout=tree.layout, hash=tree.hash, compile_seconds=12.0)
    beside = TreeUsed(layout=VLLM_JIT, hash="0123456789", compile_seconds=3.0)
    record(Path(tree.path), "rank_0_0-d0", trees=(own, beside))
    site = here.site()
    publish_tree(site, tree)
    hit = site.index.lookup(Lookup(layout=tree.layout, hash=tree.hash, platform=H100))
    assert hit.trees == (beside,)  # type: ignore[union-attr]
    named = Recipe(engine=RECIPE.engine, model=RECIPE.model, tensor_parallel_size=0)
    found = site.index.lookup_recipe(RecipeLookup(recipe=named, platform=H100))
    assert found == RecipeHit(recipe=RECIPE.id, trees=(hit,))  # type: ignore[arg-type]
