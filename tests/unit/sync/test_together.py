"""What belongs together: the older loader's two trees, the trees of a recipe's newest start."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from aotcache.errors import ObjectMissingError
from aotcache.local.loading import poisoned
from aotcache.local.pulled import read_note
from aotcache.local.records import write_record
from aotcache.local.state import TreeState, write_whole
from aotcache.probe.trees import FoundTree, tree_path
from aotcache.protocol.content import content_of
from aotcache.protocol.names import SHARED, VLLM_AOT, VLLM_JIT
from aotcache.protocol.recipe import Recipe
from aotcache.protocol.record import EngineRecord, TreeUsed
from aotcache.protocol.v1.lookup import Lookup, Miss
from aotcache.protocol.v1.recipes import RecipeLookup
from aotcache.sync.pull import Pulled
from aotcache.sync.refusals import CRASHED_HERE
from aotcache.sync.together import pull_recipe, pull_together
from support.site import publish_tree
from support.small import Here, add, small_tree
from support.trees import H100, RECIPE, contents

JIT = "0123456789"
PART = "rank_0_0-d0"
ASKED = RecipeLookup(
    recipe=Recipe(engine="vllm", model=RECIPE.model, tensor_parallel_size=8), platform=H100
)


def _jit_tree(root: Path, name: str = JIT, ranks: tuple[int, ...] = (0,)) -> FoundTree:
    path = Path(tree_path(str(root), VLLM_JIT, name))
    for rank in ranks:
        add(path, f"rank_{rank}_0/backbone/vllm_compile_cache.py", b"{}  # %d" % rank)
        add(path, f"rank_{rank}_0/backbone/artifact_0", b"artifact")
    return FoundTree(VLLM_JIT, name, str(path))


def _used(tree: FoundTree) -> TreeUsed:
    return TreeUsed(layout=tree.layout, hash=tree.hash, compile_seconds=30.0)


def _record(tree: FoundTree, *used: FoundTree, rank: int = 0, recipe: Recipe = RECIPE) -> None:
    record = EngineRecord(
        layout=tree.layout,
        hash=tree.hash,
        part=f"rank_{rank}_0-d{rank}",
        platform=H100,
        recipe=recipe,
        trees=tuple(_used(one) for one in (tree, *used)),
    )
    write_record(tree.path, record)


def _published(here: Here, *trees: FoundTree, ranks: tuple[int, ...] = (0,)) -> None:
    """Publish trees of one start, each of which names all."""
    for tree in trees:
        for rank in ranks:
            _record(tree, *(other for other in trees if other != tree), rank=rank)
    for tree in trees:
        publish_tree(here.site(), tree)


@pytest.fixture
def pair(here: Here, tmp_path: Path) -> tuple[FoundTree, FoundTree]:
    """Of the older loader, two ranks."""
    aot = small_tree(tmp_path / "node", ranks=(0, 1), records=False)
    jit = _jit_tree(tmp_path / "node", ranks=(0, 1))
    _published(here, aot, jit, ranks=(0, 1))
    return aot, jit


def _asked(tree: FoundTree, *parts: str) -> Lookup:
    return Lookup(layout=tree.layout, hash=tree.hash, platform=H100, parts=parts)


def _names(results: list[Pulled | Miss]) -> list[tuple[str, str]]:
    assert all(isinstance(one, Pulled) for one in results), results
    return [(one.tree.layout, one.tree.hash) for one in results if isinstance(one, Pulled)]


def test_the_older_tree_comes_before_the_one_that_leads_to_it(
    here: Here, pair: tuple[FoundTree, FoundTree], tmp_path: Path
) -> None:
    aot, _ = pair
    order: list[str] = []
    site = here.site()
    site.progress.step = order.append
    results = pull_together(site, _asked(aot), str(tmp_path / "fresh"))
    assert _names(results) == [(VLLM_JIT, JIT), (VLLM_AOT, aot.hash)]
    installed = [text for text in order if text.startswith("installing")]
    assert ["torch_aot_compile" in text for text in installed] == [False, True]
    for tree in pair:
        place = Path(tree_path(str(tmp_path / "fresh"), tree.layout, tree.hash))
        assert set(contents(place)) == set(contents(tree.path))
        assert read_note(str(place), PART) is not None


def test_of_both_only_the_ranks_that_are_asked_for(
    here: Here, pair: tuple[FoundTree, FoundTree], tmp_path: Path
) -> None:
    aot, _ = pair
    results = pull_together(here.site(), _asked(aot, SHARED, PART), str(tmp_path / "fresh"))
    assert [[part.part for part in one.parts] for one in results if isinstance(one, Pulled)] == [
        [PART],
        [PART, SHARED],
    ]
    shared = pull_together(here.site(), _asked(aot, SHARED), str(tmp_path / "shared"))
    assert _names(shared) == [(VLLM_AOT, aot.hash)]


def test_an_older_tree_that_is_not_stored_is_a_miss_of_both(
    here: Here, pair: tuple[FoundTree, FoundTree], tmp_path: Path
) -> None:
    aot, jit = pair
    here.site().index.delete(jit.hash)
    (result,) = pull_together(here.site(), _asked(aot), str(tmp_path / "fresh"))
    assert isinstance(result, Miss)
    assert jit.hash in result.message
    assert not list((tmp_path / "fresh").rglob("model"))


def test_a_miss_of_the_tree_itself_is_alone(
    here: Here, pair: tuple[FoundTree, FoundTree], tmp_path: Path
) -> None:
    aot, jit = pair
    here.site().index.delete(aot.hash)
    (miss,) = pull_together(here.site(), _asked(aot), str(tmp_path / "fresh"))
    assert isinstance(miss, Miss)
    assert not Path(tree_path(str(tmp_path / "fresh"), jit.layout, jit.hash)).exists()


def test_the_older_tree_leads_nowhere(
    here: Here, pair: tuple[FoundTree, FoundTree], tmp_path: Path
) -> None:
    results = pull_together(here.site(), _asked(pair[1]), str(tmp_path / "fresh"))
    assert _names(results) == [(VLLM_JIT, JIT)]


def test_other_modules_of_the_start_are_not_pulled_with_one(here: Here, tmp_path: Path) -> None:
    main, draft = (
        small_tree(tmp_path / "node", name=name, records=False) for name in ("main", "draft")
    )
    _published(here, main, draft)
    results = pull_together(here.site(), _asked(main), str(tmp_path / "fresh"))
    assert _names(results) == [(VLLM_AOT, main.hash)]


def test_an_error_of_the_older_tree_keeps_the_other_off_the_disk(
    here: Here, pair: tuple[FoundTree, FoundTree], tmp_path: Path
) -> None:
    """It would be looked for, found, and lead to nothing."""
    aot, jit = pair
    (details,) = here.site().index.tree(jit.hash).trees
    here.store.delete(details.parts[0].manifest)
    with pytest.raises(ObjectMissingError):
        pull_together(here.site(), _asked(aot), str(tmp_path / "fresh"))
    assert not Path(tree_path(str(tmp_path / "fresh"), aot.layout, aot.hash)).exists()


def test_a_recipe_brings_all_trees_of_its_start(here: Here, tmp_path: Path) -> None:
    main, draft = (
        small_tree(tmp_path / "node", name=name, records=False) for name in ("main", "draft")
    )
    jit = _jit_tree(tmp_path / "node")
    _published(here, main, draft, jit)
    results = list(pull_recipe(here.site(), ASKED, str(tmp_path / "fresh")))
    names = _names(results)
    assert names[0] == (VLLM_JIT, JIT)
    assert set(names[1:]) == {(VLLM_AOT, main.hash), (VLLM_AOT, draft.hash)}


def test_of_several_starts_the_newest(here: Here, tmp_path: Path) -> None:
    """Settings that a recipe does not tell apart: an older start's tree is not asked for."""
    old = small_tree(tmp_path / "node", name="old", records=False)
    old_jit = _jit_tree(tmp_path / "node", "9876543210")
    _published(here, old, old_jit)
    time.sleep(1.1)  # the index orders by seconds
    new = small_tree(tmp_path / "node", name="new", records=False)
    new_jit = _jit_tree(tmp_path / "node")
    _published(here, new, new_jit)
    results = list(pull_recipe(here.site(), ASKED, str(tmp_path / "fresh")))
    assert _names(results) == [(VLLM_JIT, JIT), (VLLM_AOT, new.hash)]


def test_what_a_recipe_brought_before_an_error_is_not_lost(here: Here, tmp_path: Path) -> None:
    aot = small_tree(tmp_path / "node", records=False)
    jit = _jit_tree(tmp_path / "node")
    _published(here, aot, jit)
    (details,) = here.site().index.tree(aot.hash).trees
    here.store.delete(details.parts[0].manifest)
    results = pull_recipe(here.site(), ASKED, str(tmp_path / "fresh"))
    assert _names([next(results)]) == [(VLLM_JIT, JIT)]
    with pytest.raises(ObjectMissingError):
        next(results)


@pytest.mark.usefixtures("pair")
def test_a_rank_takes_its_part_of_each(here: Here, tmp_path: Path) -> None:
    results = pull_recipe(here.site(), ASKED, str(tmp_path / "fresh"), part="rank_1_0-d1")
    parts = [{part.part for part in one.parts} for one in results if isinstance(one, Pulled)]
    assert parts == [{"rank_1_0-d1"}, {SHARED, "rank_1_0-d1"}]
    other = pull_recipe(here.site(), ASKED, str(tmp_path / "other"), part="rank_7_0-d7")
    assert [(type(one), one.reason) for one in other if isinstance(one, Miss)] == [
        (Miss, "part_missing")
    ] * 2
    assert not (tmp_path / "other").exists()


@pytest.mark.usefixtures("pair")
def test_a_recipe_that_nobody_started(here: Here, tmp_path: Path) -> None:
    asked = replace(ASKED, recipe=replace(ASKED.recipe, model="org/other"))
    (miss,) = pull_recipe(here.site(), asked, str(tmp_path / "fresh"))
    assert isinstance(miss, Miss)
    assert miss.reason == "unknown_recipe"
    other = replace(ASKED, platform=replace(H100, arch="sm_80"))
    (miss,) = pull_recipe(here.site(), other, str(tmp_path / "fresh"))
    assert isinstance(miss, Miss)


def _poison(place: str, tree: FoundTree, here: Here) -> None:
    """As `take_crashed` leaves it."""
    (details,) = here.site().index.tree(tree.hash).trees
    contents = []
    for part in details.parts:
        said = here.site().manifest(part.manifest).statement
        if said.part == PART:
            contents.append(content_of(said.files))
    write_whole(TreeState(place).poison, b'["%s"]' % contents[0].encode())
    assert poisoned(place) == set(contents)


def test_what_crashed_here_is_not_pulled_again(here: Here, tmp_path: Path) -> None:
    tree = small_tree(tmp_path / "node", ranks=(0, 1))
    publish_tree(here.site(), tree)
    place = tree_path(str(tmp_path / "fresh"), tree.layout, tree.hash)
    _poison(place, tree, here)

    def asked(*parts: str) -> Pulled | Miss:
        return pull_together(here.site(), _asked(tree, *parts), str(tmp_path / "fresh"))[-1]

    miss = asked(SHARED, PART)
    assert isinstance(miss, Miss)
    assert miss.reason == CRASHED_HERE
    assert TreeState(place).poison in miss.message
    assert not Path(place).exists()
    # A later generation has the same model.
    add(tree.path, "inductor_cache/zz/cgrown.py", b"# grown")
    assert [part.generation for part in publish_tree(here.site(), tree).parts] == [1, 1, 2]
    assert isinstance(asked(), Miss)
    # Another rank did not crash.
    assert isinstance(asked(SHARED, "rank_1_0-d1"), Pulled)
    # One that was compiled anew is another.
    here.site().index.delete(tree.hash)
    add(tree.path, "rank_0_0/model", b"compiled anew")
    publish_tree(here.site(), tree)
    found = asked(SHARED, PART)
    assert isinstance(found, Pulled)
    assert (Path(place) / "rank_0_0/model").read_bytes() == b"compiled anew"
    note = read_note(place, PART)
    assert note is not None
    assert note.content not in poisoned(place)


def test_notes_only_of_what_this_pull_installed(here: Here, tmp_path: Path) -> None:
    tree = small_tree(tmp_path / "node", ranks=(0, 1))
    published = publish_tree(here.site(), tree)
    root = str(tmp_path / "fresh")
    place = tree_path(root, tree.layout, tree.hash)
    add(place, "rank_1_0/model", b"compiled here")
    (pulled,) = pull_together(here.site(), _asked(tree), root)
    assert isinstance(pulled, Pulled)
    note = read_note(place, PART)
    assert note is not None
    assert (note.generation, note.platform, note.recipe, note.outcome) == (
        *(1, published.tree.platform, RECIPE.id),
        "",
    )
    assert note.bytes == pulled.moved_bytes
    assert 0 < note.seconds <= pulled.seconds
    assert read_note(place, "rank_1_0-d1") is None
    assert read_note(place, SHARED) is None
    # Nothing new: what is noted, and whether it was told, stays.
    add(tree.path, "inductor_cache/zz/cgrown.py", b"# grown")
    publish_tree(here.site(), tree)
    pull_together(here.site(), _asked(tree), root)
    assert read_note(place, PART) == note
