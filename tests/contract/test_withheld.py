"""Parts that are stored and not served: quarantined, or of revoked keys. On both databases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DataError

from aotcache.errors import (
    ManifestError,
    NotFoundError,
    StorageUnavailableError,
    TrustError,
    UsageError,
)
from aotcache.protocol.manifest import encode_manifest, encode_statement
from aotcache.protocol.names import VLLM_AOT, pack_key, parse_manifest_key, quarantined_key
from aotcache.protocol.sections import Signature
from aotcache.protocol.v1.keys import RevokeKey
from aotcache.protocol.v1.lookup import Hit, Lookup, Miss
from aotcache.protocol.v1.outcomes import OTHER_SOURCE, Outcome
from aotcache.protocol.v1.quarantine import Quarantine, Release
from aotcache.protocol.v1.trees import TreeSummary
from aotcache.storage import DirectStore, ObjectStore
from aotcache_service.auth import READ
from aotcache_service.index import lookup as lookups
from aotcache_service.index import tokens, verdicts
from aotcache_service.index.database import Database
from aotcache_service.index.listing import Filter, list_trees
from aotcache_service.index.operation import TokenRow
from aotcache_service.index.write import hide_generations
from aotcache_service.ops import quarantine
from aotcache_service.ops.delete import delete_trees
from aotcache_service.ops.revoke import revoke_key
from support.indexed import NOW, TREE, begin, finish, hit, publish, rebuild
from support.stored import HASH, PLATFORM, RANK, RECIPE, key_of, make_manifest, put_part

NODES = 3
ONE, TWO = "1" * 32, "2" * 32
CRASH = Outcome(
    layout=VLLM_AOT,
    hash=HASH,
    platform=PLATFORM.id,
    part=RANK,
    generation=1,
    outcome="crashed",
    reason="SIGSEGV",
)


def look_up(database: Database, *parts: str) -> Hit | Miss:
    with database.read() as db:
        asked = Lookup(layout=VLLM_AOT, hash=HASH, platform=PLATFORM, parts=parts)
        found = lookups.lookup(db, asked)
    return found if isinstance(found, Miss) else found.hit


def tokens_of(database: Database, names: str = "abcdef") -> None:
    """These tokens are good ones."""
    with database.write() as db:
        for name in names:
            if db.get(TokenRow, name) is None:
                about = {"digest": "", "name": "", "scope": READ, "namespaces": ["*"]}
                db.add(TokenRow(id=name, created=0, expires=0, revoked=0, **about))


def tell(
    database: Database, store: ObjectStore, *said: tuple[str, str, str], generation: int = 1
) -> None:
    """said: token, node, outcome."""
    tokens_of(database, "".join({token for token, _, _ in said}))
    for token, node, outcome in said:
        about = replace(CRASH, node=node, outcome=outcome, generation=generation)
        quarantine.tell(database, store, about, token=token, nodes=NODES, now=NOW)


@pytest.mark.usefixtures("stored")
def test_outcomes_that_are_told_together_are_counted_each_by_itself(database: Database) -> None:
    said = [replace(CRASH, outcome="loaded", node=f"n{number}") for number in range(4)]
    said[1] = replace(said[1], generation=7)
    found = quarantine.count_all(database, [(one, "") for one in said], nodes=NODES, now=NOW)
    assert [type(one) for one in found] == [type(None), NotFoundError, type(None), type(None)]
    assert _counted(database) == 3
    # PostgreSQL holds no such character, and nobody can tell one. If something else cannot be kept,
    # it spoils nothing that came with it.
    said = [replace(CRASH) for _ in range(3)]
    object.__setattr__(said[1], "reason", "\0")
    found = quarantine.count_all(database, [(one, "") for one in said], nodes=NODES, now=NOW)
    spoilt = isinstance(found[1], DataError)
    assert [found[0], found[2]] == [None, None]
    assert spoilt == (database.sqlite_file is None)
    assert _counted(database) == 3 + (2 if spoilt else 3)


def _counted(database: Database) -> int:
    with database.read() as db:
        return int(db.scalar(text("SELECT sum(count) FROM outcomes")) or 0)


def is_quarantined(database: Database) -> bool:
    found = look_up(database, RANK)
    if isinstance(found, Hit):
        return False
    assert found.reason == "quarantined"
    return True


@pytest.fixture
def stored(database: Database, store: ObjectStore) -> None:
    publish(database, store)
    publish(database, store, b"model", part=RANK)


@pytest.mark.usefixtures("stored")
def test_a_part_that_enough_nodes_fail_with_is_answered_with_their_reasons(
    database: Database, store: ObjectStore
) -> None:
    tell(database, store, ("a", "n1", "crashed"), ("b", "n2", "load_failed"))
    assert not is_quarantined(database)
    tell(database, store, ("a", "n3", "crashed"))
    found = look_up(database, "shared", RANK)
    assert isinstance(found, Miss)
    assert (found.reason, found.missing, found.available) == ("quarantined", (RANK,), ("shared",))
    for node, outcome in (("n1", "crashed"), ("n2", "load_failed"), ("n3", "crashed")):
        assert f"{node}: {outcome} (SIGSEGV)" in found.message
    # The other part is not in doubt.
    assert isinstance(look_up(database, "shared"), Hit)
    whole = look_up(database)
    assert isinstance(whole, Hit)
    assert [part.part for part in whole.parts] == ["shared"]
    (listed,) = quarantine.listed(database, None).parts
    assert (listed.part, listed.generation, listed.since) == (RANK, 1, NOW)
    assert quarantine.listed(database, frozenset(("team",))).parts == ()


@pytest.mark.usefixtures("stored")
@pytest.mark.parametrize(
    "said",
    [
        pytest.param([("a", f"n{n}", "crashed") for n in range(50)], id="one token, many nodes"),
        pytest.param([(t, "n1", "crashed") for t in "abcdef"], id="many tokens, one node"),
        pytest.param(
            [
                ("a", "n0", "loaded"),
                *(("b", f"n{n}", "crashed") for n in range(9)),
                ("a", "m", "crashed"),
            ],
            id="it loaded somewhere",
        ),
        pytest.param([(t, t, "unused") for t in "abcdef"], id="not tried"),
    ],
)
def test_a_part_is_served_on(
    database: Database, store: ObjectStore, said: list[tuple[str, str, str]]
) -> None:
    tell(database, store, *said)
    assert not is_quarantined(database)


@pytest.mark.usefixtures("stored")
def test_a_node_that_loaded_it_once_and_fails_now_counts_as_it_is_now(
    database: Database, store: ObjectStore
) -> None:
    tell(database, store, ("a", "n1", "loaded"), ("a", "n2", "crashed"), ("b", "n3", "crashed"))
    assert not is_quarantined(database)
    tell(database, store, ("a", "n1", "crashed"))
    assert is_quarantined(database)


@pytest.mark.usefixtures("stored")
def test_another_build_of_the_engine_is_no_fault_of_the_part(
    database: Database, store: ObjectStore
) -> None:
    tokens_of(database)
    for token in "abcdef":
        about = replace(
            CRASH, node=token, outcome="load_failed", reason=f"RuntimeError: {OTHER_SOURCE} since"
        )
        quarantine.tell(database, store, about, token=token, nodes=NODES, now=NOW)
    assert not is_quarantined(database)


@pytest.mark.usefixtures("stored")
def test_without_tokens_nodes_are_enough_and_zero_is_never(
    database: Database, store: ObjectStore
) -> None:
    for node in "abcdef":
        about = replace(CRASH, node=node)
        quarantine.tell(database, store, about, token="", nodes=0, now=NOW)
    assert not is_quarantined(database)
    tell(database, store, *(("", node, "crashed") for node in "abc"))
    assert is_quarantined(database)


@pytest.mark.usefixtures("stored")
def test_words_of_a_token_that_is_revoked_do_not_count(
    database: Database, store: ObjectStore
) -> None:
    tell(database, store, ("a", "n1", "crashed"), ("a", "n2", "crashed"), ("a", "n0", "loaded"))
    with database.write() as db:
        tokens.revoke(db, "a", NOW)
    tell(database, store, ("b", "n3", "crashed"))
    assert not is_quarantined(database)
    tell(database, store, ("b", "n4", "crashed"), ("c", "n5", "crashed"))
    assert is_quarantined(database)


def fail(database: Database, store: ObjectStore, generation: int = 1) -> None:
    tell(
        database,
        store,
        ("a", "n1", "crashed"),
        ("b", "n2", "crashed"),
        ("a", "n3", "crashed"),
        generation=generation,
    )


@pytest.mark.usefixtures("stored")
def test_a_replacement_is_published_and_served(database: Database, store: ObjectStore) -> None:
    fail(database, store)
    (state,) = begin(database, store, parts=(RANK,)).parts
    # Nothing to build on, and a number of its own.
    assert (state.generation, state.next_generation, state.manifest) == (0, 2, "")
    publish(database, store, b"a good model", part=RANK, generation=2)
    found = look_up(database, RANK)
    assert isinstance(found, Hit)
    assert found.parts[0].generation == 2
    assert quarantine.listed(database, None).parts == ()
    # What is told late of the one before does not count for it.
    tell(database, store, *(("cd"[n % 2], f"m{n}", "crashed") for n in range(6)), generation=1)
    assert not is_quarantined(database)
    fail(database, store, generation=2)
    assert is_quarantined(database)
    assert begin(database, store, parts=(RANK,)).parts[0].next_generation == 3


@pytest.mark.usefixtures("stored")
def test_the_same_model_is_no_replacement(
    new_database: Callable[[], Database], database: Database, store: ObjectStore
) -> None:
    """Its publisher still has it, and would publish it again at once."""
    fail(database, store)
    with pytest.raises(ManifestError, match="holds what nodes failed with: nothing was committed"):
        publish(database, store, b"model", part=RANK, generation=2)
    assert is_quarantined(database)
    # A rebuild finds what was put, and does not serve it either.
    rebuilt = new_database()
    rebuild(rebuilt, store)
    assert is_quarantined(rebuilt)
    assert quarantine.listed(rebuilt, None).parts[0].generation == 1


@pytest.mark.usefixtures("stored")
def test_all_generations_with_the_same_model_are(database: Database, store: ObjectStore) -> None:
    publish(database, store, b"model and more", part=RANK, generation=2)
    fail(database, store, generation=1)
    assert is_quarantined(database)
    assert quarantine.listed(database, None).parts[0].generation == 2


@pytest.mark.usefixtures("stored")
def test_what_is_released_is_served_and_begins_anew(database: Database, store: ObjectStore) -> None:
    release = Release(layout=VLLM_AOT, hash=HASH)
    with pytest.raises(NotFoundError, match=r"nothing of .* is quarantined"):
        quarantine.release(database, store, release)
    fail(database, store)
    with pytest.raises(NotFoundError):
        quarantine.release(database, store, replace(release, part="shared"))
    assert [part.part for part in quarantine.release(database, store, release).parts] == [RANK]
    assert not is_quarantined(database)
    tell(database, store, ("a", "n1", "crashed"), ("b", "n2", "crashed"))
    assert not is_quarantined(database)
    assert not list(store.list("default/marks/"))


@pytest.mark.usefixtures("stored")
def test_a_deleted_part_is_not_quarantined_any_more(database: Database, store: ObjectStore) -> None:
    fail(database, store)
    delete_trees(database, store, "default", HASH)
    assert quarantine.listed(database, None).parts == ()
    found = look_up(database, RANK)
    assert isinstance(found, Miss)
    assert found.reason == "unknown_hash"
    assert not list(store.list("default/marks/quarantined/"))


@pytest.mark.usefixtures("stored")
def test_a_tree_of_which_all_is_quarantined_is_listed_as_such(
    database: Database, store: ObjectStore
) -> None:
    tokens_of(database)
    for part in (RANK, "shared"):
        for token, node in ("a1", "b2", "a3"):
            about = replace(CRASH, part=part, node=node)
            quarantine.tell(database, store, about, token=token, nodes=NODES, now=NOW)
    found = look_up(database)
    assert isinstance(found, Miss)
    assert found.reason == "quarantined"
    with database.read() as db:
        (tree,) = list_trees(db, Filter()).trees
    assert (tree.quarantined, tree.parts) == (True, ())
    assert (tree.withheld, tree.missing) == ((RANK, "shared"), ())
    quarantine.release(database, store, Release(layout=VLLM_AOT, hash=HASH))
    with database.read() as db:
        (tree,) = list_trees(db, Filter()).trees
    assert (tree.quarantined, tree.parts, tree.withheld) == (False, (RANK, "shared"), ())


def test_what_is_withheld_is_not_missing_and_has_its_size(
    new_database: Callable[[], Database], database: Database, store: ObjectStore
) -> None:
    """Whatever order parts are withheld in, and after a rebuild."""
    about = {"expected_parts": ("shared", RANK, "rank_1_0-d1"), "recipe": RECIPE}
    publish(database, store, b"shared", **about)
    publish(database, store, b"model", part=RANK, **about)
    publish(database, store, b"a larger model", part=RANK, generation=2, created=2_000, **about)

    def listed(index: Database) -> TreeSummary:
        with index.read() as db:
            (tree,) = list_trees(db, Filter()).trees
        return tree

    before = listed(database)
    for part, served in ((RANK, ("shared",)), ("shared", ())):
        asked = Quarantine(layout=VLLM_AOT, hash=HASH, reason="x", part=part)
        quarantine.put(database, store, asked, now=NOW)
        now = listed(database)
        withheld = tuple(sorted({RANK, "shared"}.difference(served)))
        assert (now.parts, now.withheld, now.missing) == (served, withheld, ("rank_1_0-d1",))
        changed = {"parts": served, "withheld": withheld, "quarantined": True}
        assert now == replace(before, **changed)  # type: ignore[arg-type]
    rebuilt = new_database()
    rebuild(rebuilt, store)
    assert listed(rebuilt) == listed(database)
    assert before.raw_bytes == len(b"shared" + b"a larger model")


@pytest.mark.usefixtures("stored")
def test_a_rebuilt_index_withholds_the_same(
    new_database: Callable[[], Database], database: Database, store: ObjectStore
) -> None:
    fail(database, store)
    key = sign(database, store, b"of one", ONE, part="rank_1_0-d1")
    revoke_key(database, store, RevokeKey(key=ONE))
    before = look_up(database, RANK)
    for other in (database, new_database()):
        assert rebuild(other, store).skipped == ()
        assert look_up(other, RANK) == before
        assert not isinstance(look_up(other, "rank_1_0-d1"), Hit)
        assert quarantine.listed(other, None) == quarantine.listed(database, None)
        (state,) = begin(other, store, parts=("rank_1_0-d1",)).parts
        assert (state.generation, state.next_generation) == (0, 2)
    store.put("default/marks/quarantined/strange", b"")
    store.put(f"default/marks/quarantined/{VLLM_AOT}/{HASH}/{PLATFORM.id}/shared/00000001", b"{")
    third = new_database()
    rebuild(third, store)
    assert parse_manifest_key(key).part == "rank_1_0-d1"
    assert len(quarantine.listed(third, None).parts) == 2


class Refusing:
    """A store that takes nothing now."""

    def put(self, key: str, _data: bytes) -> None:
        raise StorageUnavailableError(f"no {key} today")


@pytest.mark.usefixtures("stored")
def test_a_mark_that_cannot_be_put_is_tried_with_the_next_outcome(
    database: Database, store: ObjectStore
) -> None:
    fail(database, Refusing())  # type: ignore[arg-type]
    assert not is_quarantined(database)
    tell(database, store, ("b", "n2", "crashed"))
    assert is_quarantined(database)


@pytest.mark.usefixtures("stored")
def test_words_that_are_kept_are_bounded(
    database: Database, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one token they are half: what others tell is heard."""
    monkeypatch.setattr(verdicts, "MOST", 20)
    for token, most in (("a", 10), ("b", 20), ("c", 20)):
        tell(database, store, *((token, f"n{number}", "crashed") for number in range(15)))
        with database.read() as db:
            assert db.scalar(text("SELECT count(*) FROM verdicts")) == most
        if token == "a":
            tell(database, store, ("b", "good", "loaded"))
    assert not is_quarantined(database)


@pytest.mark.usefixtures("stored")
def test_without_tokens_all_words_are_nobodys(
    database: Database, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verdicts, "MOST", 20)
    for number in range(25):
        about = replace(CRASH, node=f"n{number}", outcome="loaded")
        quarantine.tell(database, store, about, token="", nodes=NODES, now=NOW)
    with database.read() as db:
        assert db.scalar(text("SELECT count(*) FROM verdicts")) == 20


def sign(
    database: Database, store: ObjectStore, content: bytes, *signers: str, **about: object
) -> str:
    """A part with signatures of these keys: only a node verifies them."""
    statement, locations = make_manifest(content, **about)  # type: ignore[arg-type]
    store.put(pack_key(statement.namespace, locations.packs[0].name), content)
    signatures = tuple(Signature(signer, b"s" * 64) for signer in signers)
    data = encode_manifest(encode_statement(statement), locations, signatures)
    store.put(key_of(statement), data)
    finish(database, store, key_of(statement))
    return key_of(statement)


def test_a_revoked_key_takes_exactly_its_parts(database: Database, store: ObjectStore) -> None:
    kept = sign(database, store, b"1", ONE, part="shared")
    gone = sign(database, store, b"2", TWO, part="shared", generation=2)
    both = sign(database, store, b"3", TWO, ONE, part=RANK)
    unsigned = sign(database, store, b"4", part="rank_1_0-d1")
    elsewhere = sign(database, store, b"5", TWO, namespace="team")
    # A name beside it may be made up: the service verifies no signature.
    assert revoke_key(database, store, RevokeKey(key=TWO)).manifests == (gone, both)
    assert revoke_key(database, store, RevokeKey(key=TWO)).manifests == ()
    found = look_up(database)
    assert isinstance(found, Hit)
    assert {part.manifest for part in found.parts} == {kept, unsigned}
    with database.read() as db:
        assert [tree.namespace for tree in list_trees(db, Filter()).trees] == ["team", "default"]
    assert parse_manifest_key(elsewhere).tree.namespace == "team"
    # The number is used up, the generation before it is the one to build on.
    (state,) = begin(database, store).parts
    assert (state.generation, state.next_generation) == (1, 3)
    assert revoke_key(database, store, RevokeKey(key=ONE)).manifests == (kept,)


def test_what_a_revoked_key_signs_later_is_refused(database: Database, store: ObjectStore) -> None:
    revoke_key(database, store, RevokeKey(key=TWO))
    for part, signers in (("shared", (TWO,)), (RANK, (ONE, TWO))):
        with pytest.raises(TrustError, match=f"signed by {TWO}, which is revoked here"):
            sign(database, store, b"x", *signers, part=part)
    sign(database, store, b"y", ONE, part="rank_1_0-d1")
    assert isinstance(look_up(database, "rank_1_0-d1"), Hit)


def test_a_deletion_that_was_cut_off_is_not_undone(database: Database, store: ObjectStore) -> None:
    """What settles a tree again looks at all its parts: also at those whose rows are still there.

    As a kill leaves it after the index hid them.
    """
    sign(database, store, b"1", TWO, part="rank_1_0-d1")
    publish(database, store, b"model", part=RANK)
    publish(database, store, b"shared")
    with database.write() as db:
        hide_generations(db, TREE, {"shared": 1})
    fail(database, store)
    assert is_quarantined(database)
    assert not isinstance(look_up(database, "shared"), Hit)
    revoke_key(database, store, RevokeKey(key=TWO))
    quarantine.release(database, store, Release(layout=VLLM_AOT, hash=HASH))
    assert not is_quarantined(database)
    found = look_up(database)
    assert isinstance(found, Hit)
    assert [part.part for part in found.parts] == [RANK]


@pytest.mark.usefixtures("stored")
def test_a_release_frees_what_a_rebuild_found_of_the_same(
    new_database: Callable[[], Database], database: Database, store: ObjectStore
) -> None:
    fail(database, store)
    put_part(store, b"model", part=RANK, generation=2)  # and was refused at its commit
    rebuilt = new_database()
    rebuild(rebuilt, store)
    assert is_quarantined(rebuilt)
    quarantine.release(rebuilt, store, Release(layout=VLLM_AOT, hash=HASH))
    found = look_up(rebuilt, RANK)
    assert isinstance(found, Hit)
    assert found.parts[0].generation == 2


def test_what_is_revoked_while_it_is_quarantined_is_not_released(
    database: Database, store: ObjectStore
) -> None:
    sign(database, store, b"1", TWO, part=RANK)
    fail(database, store)
    # It was not served.
    assert revoke_key(database, store, RevokeKey(key=TWO)).manifests == ()
    quarantine.release(database, store, Release(layout=VLLM_AOT, hash=HASH))
    found = look_up(database, RANK)
    assert isinstance(found, Miss)
    assert found.reason == "unknown_hash"


def test_later_generations_are_set_aside_until_they_are_released(
    database: Database, store: DirectStore, new_database: Callable[[], Database]
) -> None:
    for generation, content in ((1, b"first"), (2, b"second"), (3, b"third")):
        publish(database, store, content, generation=generation)
    asked = Quarantine(layout=VLLM_AOT, hash=HASH, reason="slower", after=1)
    (part,) = quarantine.put(database, store, asked, now=NOW).parts
    assert (part.first, part.generation) == (2, 3)
    with pytest.raises(NotFoundError, match="no earlier"):
        quarantine.put(database, store, asked, now=NOW)
    # So it is in an index that was lost, and the list says so.
    other = new_database()
    rebuild(other, store)
    for index in (database, other):
        assert hit(index).parts[0].generation == 1
        assert quarantine.listed(index, None).parts == (part,)
    # Whatever comes next is served, and has the next number.
    publish(database, store, b"fourth", generation=4)
    assert hit(database).parts[0].generation == 4
    assert quarantine.listed(database, None).parts == ()
    quarantine.release(other, store, Release(layout=VLLM_AOT, hash=HASH))
    rebuild(other, store)
    assert hit(other).parts[0].generation == 4


def test_a_mark_that_a_database_cannot_hold_does_not_stop_a_rebuild(
    database: Database, store: DirectStore
) -> None:
    publish(database, store)
    mark = b'{"reason":"a\\u0000b","since":5}'
    store.put(quarantined_key(TREE, "shared", 1), mark)
    rebuild(database, store)
    (part,) = quarantine.listed(database, None).parts
    assert part.reason == "a b"
    for reason in ("a\0b", "two\nlines", " ", "x" * 501):
        with pytest.raises(UsageError, match="one line"):
            Quarantine(layout=VLLM_AOT, hash=HASH, reason=reason)
