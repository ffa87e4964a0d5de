"""One compiles, the others wait: on both databases."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from aotcache.protocol.names import SHARED, VLLM_AOT
from aotcache.protocol.platform import Platform
from aotcache.protocol.recipe import Recipe
from aotcache.protocol.v1.leases import AskLease, EndLease, new_holder
from aotcache.protocol.v1.lookup import Lookup
from aotcache.storage import DirectStore
from aotcache_service.index.database import Database
from aotcache_service.index.leases import Held, ask_all, end, held, name_of
from support.indexed import publish
from support.stored import HASH, OTHER_PLATFORM, PLATFORM, RANK, RECIPE

ONE, OTHER = "1" * 32, "2" * 32
SECONDS = 15


def wanted(
    holder: str = "",
    *,
    part: str = RANK,
    platform: Platform = PLATFORM,
    recipe: Recipe | None = RECIPE,
    node: str = "",
) -> AskLease:
    lookup = Lookup(layout=VLLM_AOT, hash=HASH, platform=platform, parts=("shared", part))
    return AskLease(lookup=lookup, part=part, holder=holder, recipe=recipe, node=node)


def ask(database: Database, asked: AskLease, seconds: int = SECONDS) -> Held | None:
    (found,) = ask_all(database, [asked], seconds)
    assert not isinstance(found, Exception)
    return found


def let_go(database: Database, asked: AskLease) -> bool:
    return end(database, EndLease(lookup=asked.lookup, part=asked.part, holder=asked.holder))


class Clock:
    """The database's, moved."""

    def __init__(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead, real = 0.0, database.time
        monkeypatch.setattr(database, "time", lambda: real() + self.ahead)


@pytest.fixture
def clock(database: Database, monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(database, monkeypatch)


def test_the_first_has_it_until_it_lets_go(database: Database) -> None:
    first = ask(database, wanted(ONE, node="gpu-1"))
    assert first is not None
    assert (first.mine, first.new, first.node) == (True, True, "gpu-1")
    second = ask(database, wanted(OTHER, node="gpu-2"))
    assert second is not None
    assert (second.mine, second.new, second.node) == (False, False, "gpu-1")
    assert 0 <= second.elapsed < 60
    assert held(database) == {name_of(wanted())}
    assert not let_go(database, wanted(OTHER))
    assert let_go(database, wanted(ONE))
    third = ask(database, wanted(OTHER))
    assert third is not None
    assert third.mine
    assert not let_go(database, wanted(ONE))


def test_who_would_not_compile_is_given_none(database: Database) -> None:
    assert ask(database, wanted()) is None
    assert held(database) == set()
    ask(database, wanted(ONE, node="gpu-1"))
    seen = ask(database, wanted())
    assert seen is not None
    assert (seen.mine, seen.node) == (False, "gpu-1")


def test_it_ends_with_its_heartbeat(database: Database, clock: Clock) -> None:
    for _ in range(4):
        clock.ahead += SECONDS - 5
        kept = ask(database, wanted(ONE))
        assert kept is not None
        assert kept.mine
    assert kept is not None
    assert 3 * (SECONDS - 5) <= kept.elapsed < 4 * SECONDS
    clock.ahead += SECONDS + 1
    assert held(database) == set()
    found = ask(database, wanted(OTHER))
    assert found is not None
    assert (found.mine, found.elapsed) == (True, 0.0)
    late = ask(database, wanted(ONE))
    assert late is not None
    assert not late.mine


@pytest.mark.parametrize(
    "other",
    [
        wanted(OTHER, part="rank_1_0-d0"),
        wanted(OTHER, part="rank_0_0-d1"),
        wanted(OTHER, platform=OTHER_PLATFORM),
        replace(wanted(OTHER), lookup=replace(wanted().lookup, namespace="team-a")),
        replace(wanted(OTHER), lookup=replace(wanted().lookup, hash="b" * 64)),
    ],
)
def test_another_part_is_another_lease(database: Database, other: AskLease) -> None:
    ask(database, wanted(ONE))
    found = ask(database, other)
    assert found is not None
    assert found.mine


def test_of_many_at_once_one_has_it(database: Database) -> None:
    """Some together, as the service asks for them, and several replicas at a time."""
    batches = [[wanted(new_holder()) for _ in range(20)] for _ in range(8)]
    with ThreadPoolExecutor(len(batches)) as pool:
        answers = list(pool.map(lambda batch: ask_all(database, batch, SECONDS), batches))
    found = [one for batch in answers for one in batch]
    assert all(isinstance(one, Held) for one in found)
    assert sum(one.mine for one in found if isinstance(one, Held)) == 1


@pytest.mark.parametrize("any_cpu", [False, True])
def test_a_publish_ends_it(database: Database, store: DirectStore, any_cpu: bool) -> None:
    """Also where the tree turns out to run on any CPU."""
    own = replace(PLATFORM, cpu="c" * 16)
    ask(database, wanted(ONE, platform=own))
    ask(database, wanted(ONE, platform=own, part="rank_1_0-d0"))
    platform = PLATFORM if any_cpu else own
    publish(database, store, part=RANK, platform=platform)
    # It cannot be pulled without what all share, which another rank is still writing.
    assert len(held(database)) == 2
    publish(database, store, part=SHARED, platform=platform)
    assert held(database) == {name_of(wanted(platform=own, part="rank_1_0-d0"))}


def test_how_long_it_took_before(database: Database, store: DirectStore) -> None:
    def expected(recipe: Recipe | None) -> float | None:
        found = ask(database, wanted(ONE, recipe=recipe))
        let_go(database, wanted(ONE))
        assert found is not None
        return found.compile_seconds

    assert expected(RECIPE) is None
    for number, seconds in enumerate((40.5, 7.0)):
        about = {"tree_hash": str(number) * 64, "part": RANK, "recipe": RECIPE}
        publish(database, store, compile_seconds=seconds, **about)
    assert expected(RECIPE) == 40.5
    # Another version of the engine: as long as the last one.
    assert expected(replace(RECIPE, engine_version="0.33.0")) == 40.5
    assert expected(replace(RECIPE, model="org/other")) is None
    assert expected(None) is None
