"""What nodes and lists ask costs the same however many trees there are: nothing is scanned."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.orm import Session

from aotcache.protocol.v1.explain import MAX_GROUPS, MAX_NODES
from aotcache.protocol.v1.trees import SORTS
from aotcache_service.index import misses
from aotcache_service.index.database import Database
from aotcache_service.index.listing import Filter, list_trees
from aotcache_service.index.lookup import Found, lookup
from aotcache_service.index.models import FLAGS
from aotcache_service.index.recipes import RecipeFound, lookup_recipe
from aotcache_service.index.references import packs_of
from aotcache_service.index.usage import UsageCounter
from aotcache_service.index.values import choices, platforms_of
from support import filled

# Fewer, and PostgreSQL rightly reads whole tables.
TREES = 4000
LAST = TREES - 1


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def database(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Database]:
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres").fresh_url()
    else:
        url = f"sqlite:///{tmp_path_factory.mktemp('filled') / 'index.sqlite3'}"
    opened = Database(url)
    opened.migrate()
    filled.fill(opened, TREES)
    yield opened
    opened.close()


@contextmanager
def plans() -> Iterator[list[list[str]]]:
    """The steps of each question that the database is asked meanwhile."""
    found: list[list[str]] = []

    def explain(_: object, cursor: Any, statement: str, parameters: Any, *_more: object) -> None:
        if not statement.startswith(("SELECT ", "UPDATE ")):
            return
        if isinstance(cursor, sqlite3.Cursor):
            rows = cursor.execute(f"EXPLAIN QUERY PLAN {statement}", parameters).fetchall()
            found.append([str(row[3]) for row in rows])
        else:
            cursor.execute(f"EXPLAIN (FORMAT JSON) {statement}", parameters)
            found.append(list(_steps(cursor.fetchone()[0][0]["Plan"])))

    event.listen(Engine, "before_cursor_execute", explain)
    try:
        yield found
    finally:
        event.remove(Engine, "before_cursor_execute", explain)


def _steps(plan: dict[str, Any]) -> Iterator[str]:
    """PostgreSQL's plan in the words of SQLite's."""
    kind, table = plan["Node Type"], plan.get("Relation Name", "")
    conditions = plan.get("Index Cond", "")
    if kind == "Seq Scan":
        yield f"SCAN {table}"
    elif "Index" in kind:
        yield f"{'SEARCH' if conditions else 'SCAN'} {table} USING INDEX {plan['Index Name']}"
    elif kind in ("Sort", "Incremental Sort"):
        yield "USE TEMP B-TREE FOR ORDER BY"
    for inner in plan.get("Plans", ()):
        yield from _steps(inner)


# What a statement goes through from end to end: what it is given.
GIVEN = {"given", "pairs"}


def scanned(steps: list[str]) -> set[str]:
    return {step.split()[1] for step in steps if step.startswith("SCAN ")}


QUESTIONS: dict[str, Callable[[Session], object]] = {
    "hit": lambda db: lookup(db, filled.found(LAST)),
    "unknown hash": lambda db: lookup(db, filled.unknown(LAST)),
    "other platform": lambda db: lookup(db, filled.elsewhere(LAST)),
    "recipe": lambda db: lookup_recipe(db, filled.by_recipe(LAST)),
    "no such recipe": lambda db: lookup_recipe(db, filled.by_recipe(TREES + 1000)),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_lookups_read_what_they_look_for(database: Database, question: str) -> None:
    with database.read() as db, plans() as asked:
        QUESTIONS[question](db)
    steps = [step for plan in asked for step in plan]
    assert any(step.startswith("SEARCH") for step in steps), steps
    assert scanned(steps) <= GIVEN, steps
    # Searching all trees of a namespace is a scan by another name.
    assert not any(step.endswith("(namespace=?)") for step in steps), steps


def test_packs_of_a_hit_are_found_by_their_parts(database: Database) -> None:
    with database.read() as db:
        found = lookup(db, filled.found(LAST))
    assert isinstance(found, Found)
    with plans() as asked:
        packs = packs_of(database, found.trees, [part.part for part in found.hit.parts], 10)
    assert packs
    steps = [step for plan in asked for step in plan]
    assert any(step.startswith("SEARCH") for step in steps), steps
    assert scanned(steps) == set(), steps


def test_counting_reads_what_it_counts(database: Database) -> None:
    usage = UsageCounter(database)
    with plans() as asked:
        usage.record([LAST], 1)
        usage.flush()
    *_, steps = asked  # after the lock of writers
    assert any(step.startswith("SEARCH trees") for step in steps), steps
    assert scanned(steps) <= GIVEN, steps


def test_what_was_filled_is_found(database: Database) -> None:
    with database.read() as db:
        for number in (0, 9, 1234, LAST):
            assert isinstance(lookup(db, filled.found(number)), Found)
            assert isinstance(lookup_recipe(db, filled.by_recipe(number)), RecipeFound)
            unknown = lookup(db, filled.unknown(number))
            elsewhere = lookup(db, filled.elsewhere(number))
            assert not isinstance(unknown, Found)
            assert not isinstance(elsewhere, Found)
            assert (unknown.reason, elsewhere.reason) == ("unknown_hash", "other_platform")


@pytest.mark.parametrize("namespace", ["", "default"])
@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("sort", SORTS)
def test_pages_are_read_in_the_order_of_an_index(
    database: Database, sort: str, order: str, namespace: str
) -> None:
    with database.read() as db, plans() as asked:
        wanted = Filter(namespaces=frozenset((namespace,)) if namespace else None)
        page = list_trees(db, wanted, sort=sort, order=order, limit=1)
    assert len(page.trees) == 1
    steps, outcomes = asked
    assert f"trees USING INDEX ix_trees_{'namespace_' * bool(namespace)}{sort}_id" in steps[0]
    assert "USE TEMP B-TREE FOR ORDER BY" not in steps
    assert not scanned([*steps[1:], *outcomes]), asked


@pytest.mark.parametrize("sort", SORTS)
def test_pages_of_two_namespaces_sort_few(database: Database, sort: str) -> None:
    with database.read() as db, plans() as asked:
        wanted = Filter(namespaces=frozenset(("default", "team-a")))
        assert len(list_trees(db, wanted, sort=sort, limit=10).trees) == 10
    steps = asked[0]
    uses = [one for one in steps if f"USING INDEX ix_trees_namespace_{sort}_id" in one]
    uses += [one for one in steps if f"USING COVERING INDEX ix_trees_namespace_{sort}_id" in one]
    assert len(uses) == 2, steps
    assert "trees" not in scanned(steps), steps


def test_what_is_chosen_from_is_of_few_trees(database: Database) -> None:
    with database.read() as db, plans() as asked:
        found = choices(db, frozenset(("default", "team-a")))
    assert found["model"].found
    (steps,) = asked
    if database.sqlite_file is not None:  # PostgreSQL rather reads all of so few
        assert "USE TEMP B-TREE FOR ORDER BY" not in steps, steps
        assert "trees" not in scanned(steps), steps


def test_platforms_are_found_by_their_index_even_where_no_tree_has_one(database: Database) -> None:
    known = filled.found(LAST).platform
    with database.read() as db, plans() as asked:
        found = platforms_of(db, [known.id, "0" * 16])
    assert found == {known.id: asdict(known)}
    (steps,) = asked
    assert "SEARCH trees USING INDEX ix_trees_platform_id" in steps[-1], steps
    assert scanned(steps) <= GIVEN, steps


@pytest.mark.parametrize("flag", FLAGS)
def test_rare_trees_are_found_by_their_own_index(database: Database, flag: str) -> None:
    with database.read() as db, plans() as asked:
        page = list_trees(db, replace(Filter(), **{flag: True}), limit=5)
    assert all(getattr(tree, flag) for tree in page.trees)
    assert len(page.trees) == 5
    assert f"trees USING INDEX ix_trees_{flag}" in asked[0][0], asked[0]
    assert "USE TEMP B-TREE FOR ORDER BY" not in asked[0], asked[0]


def test_misses_are_grouped_in_the_order_of_an_index(database: Database) -> None:
    with database.read() as db, plans() as asked:
        found = misses.groups(db, None, database.now()).groups
    assert (len(found), len(asked)) == (MAX_GROUPS, 2)
    assert all(len(one.some_nodes) == MAX_NODES for one in found)
    if database.sqlite_file is None:
        return  # reads all of so few
    for steps in asked:
        assert any("misses USING INDEX ix_misses_reason_cause_last" in one for one in steps), steps
        assert "USE TEMP B-TREE FOR GROUP BY" not in steps
