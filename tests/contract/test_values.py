"""What a list of trees is searched by, and what it is chosen from. On both databases."""

from __future__ import annotations

from dataclasses import asdict, replace

from aotcache.protocol.names import VLLM_AOT
from aotcache.protocol.v1.trees import VALUES
from aotcache_service.index.database import Database
from aotcache_service.index.listing import Filter, list_trees
from aotcache_service.index.models import RecipeRow, TreeRow
from aotcache_service.index.values import MAX_VALUES, Values, choices, models_with
from support.stored import PLATFORM, RECIPE

MODELS = [f"org-{number % 5}/model-{number}" for number in range(600)]


def store_models(database: Database, *models: str, namespace: str = "default") -> None:
    """A tree of each."""
    with database.write() as db:
        for number, model in enumerate(models):
            recipe = replace(RECIPE, model=model)
            row = RecipeRow(
                namespace=namespace,
                name=recipe.id,
                engine=recipe.engine,
                model=model,
                fields=asdict(recipe),
                published=number,
            )
            db.add(row)
            db.flush()
            db.add(
                TreeRow(
                    namespace=namespace,
                    layout=VLLM_AOT,
                    hash=f"{number:064x}",
                    platform_id=PLATFORM.id,
                    platform=asdict(PLATFORM),
                    recipe_id=row.id,
                    engine=recipe.engine,
                    model=model,
                    created=number,
                )
            )


def test_a_model_is_found_however_many_there_are(database: Database) -> None:
    store_models(database, *MODELS)
    with database.read() as db:
        for namespaces in (None, ("default", "team")):
            for text in ("org-4/model-599", "ORG-4/Model-599", "del-599"):
                assert models_with(db, text, namespaces).found == ["org-4/model-599"], text
            every = models_with(db, "org-", namespaces)
            assert (every.found, every.cut) == (sorted(MODELS)[:MAX_VALUES], True)
            assert not models_with(db, "org-4/", namespaces).cut
        assert models_with(db, "model-599", ("team",)).found == []
        every = choices(db, None)
        assert every["model"] == Values(sorted(MODELS)[:MAX_VALUES], cut=True)
        assert every["layout"] == Values([VLLM_AOT], cut=False)


def test_what_a_pattern_is_made_of_is_text(database: Database) -> None:
    store_models(database, "org/100%", "org/a_b", "org/acb", "org/a\\b", "org/a/b")
    with database.read() as db:
        for text, found in (
            ("%", ["org/100%"]),
            ("a_b", ["org/a_b"]),
            ("a\\", ["org/a\\b"]),
            ("a/b", ["org/a/b"]),
            ("'", []),
        ):
            assert models_with(db, text, None).found == found, text


def test_of_some_namespaces_only_their_own(database: Database) -> None:
    store_models(database, "org/one", namespace="team")
    store_models(database, "org/two")
    with database.read() as db:
        assert models_with(db, "org", ("team",)).found == ["org/one"]
        for namespaces, models in (
            ((), []),
            (("team",), ["org/one"]),
            (("default", "team"), ["org/one", "org/two"]),
            (("team", *map("n{}".format, range(150))), ["org/one"]),
        ):
            found = choices(db, frozenset(namespaces))
            assert found["model"] == Values(models, cut=False)
            assert set(found) == set(VALUES)


def test_a_list_of_several_namespaces_is_in_order(database: Database) -> None:
    for turn, namespace in enumerate(("one", "two", "three")):
        store_models(database, *(f"{turn}/{number}" for number in range(7)), namespace=namespace)
    many = ("one", "two", *map("n{}".format, range(150)))
    for namespaces in (("one", "three"), ("one", "two", "three"), ("two", "none"), many):
        wanted, seen, cursor = Filter(namespaces=frozenset(namespaces)), [], ""
        with database.read() as db:
            while True:
                page = list_trees(db, wanted, sort="hash", order="asc", limit=4, cursor=cursor)
                seen += [(tree.hash, tree.namespace) for tree in page.trees]
                cursor = page.cursor
                if not cursor:
                    break
        stored = {"one", "two", "three"}.intersection(namespaces)
        assert len(seen) == len(set(seen)) == 7 * len(stored)
        assert {name for _, name in seen} == stored
        assert [hash for hash, _ in seen] == sorted(hash for hash, _ in seen)
