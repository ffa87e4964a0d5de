"""What a lookup finds in the index, in each of the databases it can lie in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import select, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session as Transaction

from aotcache.errors import (
    ForbiddenError,
    UnauthenticatedError,
)
from aotcache.protocol.names import (
    INDUCTOR,
    VLLM_AOT,
    new_publish_id,
)
from aotcache.protocol.platform import Difference
from aotcache.protocol.v1.lookup import Lookup
from aotcache.protocol.v1.publish import PartState
from aotcache.protocol.v1.recipes import RecipeLookup
from aotcache.storage import ObjectStore
from aotcache_service.auth import READ, Caller
from aotcache_service.index import lookup as lookups
from aotcache_service.index import recipes
from aotcache_service.index.database import Database
from aotcache_service.index.listing import Filter, tree_details
from aotcache_service.index.models import Base, PartRow
from support.indexed import begin, finish, hit, miss, page, publish
from support.stored import (
    HASH,
    OTHER_PLATFORM,
    PLATFORM,
    RANK,
    RECIPE,
    make_pack,
    put_part,
)


def test_tables_are_those_of_the_models(database: Database) -> None:
    with database.read() as db:
        assert compare_metadata(MigrationContext.configure(db.connection()), Base.metadata) == []


def test_what_was_committed_is_found(database: Database, store: ObjectStore) -> None:
    about = {"expected_parts": ("shared", RANK), "compile_seconds": 42.5, "recipe": RECIPE}
    key = publish(database, store, b"hello", **about)
    found = hit(database)
    (part,) = found.parts
    assert (part.part, part.generation, part.manifest) == ("shared", 1, key)
    assert (part.files, part.raw_bytes, part.stored_bytes) == (1, 5, 5)
    assert found.missing == (RANK,)
    assert found.compile_seconds == 42.5
    with database.read() as db:
        (detail,) = tree_details(db, Filter(namespaces=frozenset(("default",)), hash=HASH)).trees
    assert detail.parts == found.parts
    assert detail.tree.recipe == RECIPE
    assert detail.tree.platform == PLATFORM
    assert (detail.hash_factors, detail.notes) == ({"env": "1"}, {"driver": "580"})


def test_miss_says_why(database: Database, store: ObjectStore) -> None:
    assert miss(database).reason == "unknown_hash"
    far = replace(OTHER_PLATFORM, python="cpython-3.12.1")
    publish(database, store, platform=far)
    publish(database, store, platform=OTHER_PLATFORM)
    other = miss(database)
    assert other.reason == "other_platform"
    assert other.differences == (
        Difference(field="device", stored=OTHER_PLATFORM.device, asked=PLATFORM.device),
        Difference(field="arch", stored="sm_80", asked="sm_90"),
    )
    publish(database, store)
    partly = miss(database, parts=("shared", RANK))
    assert (partly.reason, partly.missing, partly.available) == (
        "part_missing",
        (RANK,),
        ("shared",),
    )
    assert miss(database, namespace="other").reason == "unknown_hash"


def test_a_database_that_goes_away_is_gone_for_all_who_asked_together(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first statement that fails ends the transaction: what others raise then tells nothing."""

    def gone(*_about: object) -> None:
        raise OperationalError("SELECT", {}, Exception("server closed the connection"))

    monkeypatch.setattr(lookups, "_answer", gone)
    one = (Lookup(layout=VLLM_AOT, hash=HASH, platform=PLATFORM), "")
    with pytest.raises(OperationalError):
        lookups.lookup_all(database, [one, one], lambda _db, all_: [Caller() for _ in all_], "")


def test_many_are_answered_together_and_each_by_itself(
    database: Database, store: ObjectStore
) -> None:
    publish(database, store, part=RANK)
    publish(database, store)
    publish(database, store, layout=INDUCTOR, tree_hash="broken")
    with database.write() as db:
        wrong = select(PartRow.id).where(PartRow.manifest.contains("/broken/"))
        db.execute(update(PartRow).where(PartRow.id.in_(wrong)).values(trees=[{"no": "tree"}]))
    hit = Lookup(layout=VLLM_AOT, hash=HASH, platform=PLATFORM)
    good = [
        hit,
        replace(hit, hash="b" * 64),
        replace(hit, platform=OTHER_PLATFORM),
        replace(hit, namespace="team"),
        replace(hit, parts=("shared", RANK)),
        replace(hit, parts=("rank_7_0-d7",)),
        hit,
    ]
    bad = replace(hit, layout=INDUCTOR, hash="broken")
    asked = [(one, "") for one in [*good, bad]] + [(hit, "refused"), (hit, "of another team")]

    def callers(_db: Transaction, headers: Sequence[str]) -> list[Caller | Exception]:
        known: dict[str, Caller | Exception] = {
            "": Caller(),
            "refused": UnauthenticatedError("nobody"),
            "of another team": Caller("id", READ, frozenset(("team",))),
        }
        return [known[header] for header in headers]

    *answers, broken, refused, forbidden = lookups.lookup_all(
        database, asked, callers, "s3://bucket"
    )
    assert isinstance(broken, msgspec.ValidationError)
    assert (str(refused), type(forbidden)) == ("nobody", ForbiddenError)
    with database.read() as db:
        assert answers == [lookups.lookup(db, one, "s3://bucket") for one in good]
    assert [getattr(one, "reason", "hit") for one in answers] == [
        "hit",
        "unknown_hash",
        "other_platform",
        "unknown_hash",
        "hit",
        "part_missing",
        "hit",
    ]
    assert lookups.lookup_all(database, [], callers, "") == []


def test_of_trees_for_this_cpu_and_for_any_the_fuller_is_found(
    database: Database, store: ObjectStore
) -> None:
    mine = replace(PLATFORM, cpu="avx512")
    other = "rank_1_0-d1"

    def by_recipe() -> str:
        with database.read() as db:
            found = recipes.lookup_recipe(db, RecipeLookup(recipe=RECIPE, platform=mine))
        assert isinstance(found, recipes.RecipeFound)
        (tree,) = found.hit.trees
        return tree.platform

    publish(database, store, recipe=RECIPE)
    publish(database, store, part=RANK)
    assert hit(database, platform=mine).platform == by_recipe() == PLATFORM.id
    publish(database, store, platform=mine, recipe=RECIPE)
    # It lacks the rank, the tree for any CPU has it.
    assert hit(database, platform=mine).platform == by_recipe() == PLATFORM.id
    assert hit(database, platform=mine, parts=(RANK,)).platform == PLATFORM.id
    lacking = miss(database, platform=mine, parts=("shared", RANK, other))
    assert (lacking.missing, lacking.available) == ((other,), (RANK, "shared"))
    # Both have what is asked for: the closer one.
    assert hit(database, platform=mine, parts=("shared",)).platform == mine.id
    publish(database, store, platform=mine, part=RANK)
    assert hit(database, platform=mine).platform == by_recipe() == mine.id
    assert hit(database, platform=replace(mine, cpu="sse")).platform == PLATFORM.id


def test_growth_serves_the_newest_generation(database: Database, store: ObjectStore) -> None:
    publish(database, store, b"one")
    publish(database, store, b"three", generation=2, created=2_000)
    (part,) = hit(database).parts
    assert (part.generation, part.raw_bytes) == (2, 5)
    (tree,) = page(database).trees
    assert (tree.created, tree.raw_bytes) == (2_000, 5)
    assert begin(database, store).parts == (
        PartState(part="shared", generation=2, next_generation=3, manifest=part.manifest),
    )


def test_frames_shared_by_parts_count_once(database: Database, store: ObjectStore) -> None:
    publish_id = new_publish_id()
    pack = make_pack(b"12345678", publish_id)
    first = put_part(store, b"12345678", publish_id=publish_id)
    second = put_part(store, b"12345678", publish_id=publish_id, part=RANK, pack=pack)
    finish(database, store, first, second)
    (tree,) = page(database).trees
    assert (tree.files, tree.raw_bytes, tree.stored_bytes) == (2, 16, 8)
