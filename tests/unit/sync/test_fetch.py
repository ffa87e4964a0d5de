"""Fetching: jobs that wait for each other's bytes, in whatever order they lie in storage."""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Iterable, Sequence

import pytest

from aotcache.core.framing import Source, digest_of, in_pieces
from aotcache.core.pack import build_packs
from aotcache.core.places import Job, Place, Places
from aotcache.errors import ObjectMissingError, PackError
from aotcache.protocol.names import pack_key
from aotcache.storage.memory import MemoryStore
from aotcache.sync import fetch
from aotcache.sync.fetch import Fetcher

BASE = hashlib.shake_256(b"base").digest(6 << 20)
NEAR = [bytes([number]) * 8 + BASE[8:] for number in range(1, 5)]


class Stored:
    """Blobs in a store, each group of sources in packs of its own."""

    def __init__(self, *groups: Sequence[Source]) -> None:
        self.store = MemoryStore(secrets.token_hex(4))
        self.places = Places()
        for number, sources in enumerate(groups):
            for pack in build_packs(sources, f"{number:032x}"):
                self.store.put(pack_key("default", pack.place.name), pack.data)
                for digest, (offset, size) in pack.blobs.items():
                    self.places.add(digest, Place(pack.place, offset, size))
        self.found: dict[str, bytes] = {}

    def fetcher(self) -> Fetcher:
        return Fetcher(self.store, "default", self.places, lambda _stored: None)

    def consume(self, digest: str, _size: int, chunks: Iterable[memoryview]) -> None:
        assert digest not in self.found
        self.found[digest] = b"".join(chunks)

    def fetch(self, *batches: Sequence[Job]) -> list[int]:
        done: list[int] = []
        self.fetcher().run(batches, self.consume, done.append)
        assert all(digest_of(data) == digest for digest, data in self.found.items())
        return done


def _source(data: bytes, against: bytes | None = None) -> Source:
    prefix = None if against is None else (digest_of(against), lambda: against)
    return Source(digest_of(data), len(data), ("shared",), "file", lambda: in_pieces(data), prefix)


def _counted(stored: Stored) -> list[str]:
    """The keys of the requests that follow."""
    requests: list[str] = []
    get_range = stored.store.get_range

    def counted(key: str, start: int, end: int) -> bytes:
        requests.append(key)
        return get_range(key, start, end)

    stored.store.get_range = counted  # type: ignore[method-assign]
    return requests


@pytest.mark.parametrize("first", [True, False])
def test_a_prefix_that_is_fetched_too_is_read_once(first: bool) -> None:
    near = [_source(data, BASE) for data in NEAR]
    base = _source(BASE)
    stored = Stored([base, *near] if first else [*near, base])
    requests = _counted(stored)
    jobs = stored.fetcher().plan([digest_of(data) for data in (BASE, *NEAR)])
    assert stored.fetch(jobs) == [0]
    assert len(stored.found) == 5
    if first:
        assert len(requests) == len(jobs)


def test_a_prefix_that_is_not_wanted_itself() -> None:
    stored = Stored([_source(BASE)], [_source(data, BASE) for data in NEAR])
    assert stored.fetch(stored.fetcher().plan([digest_of(data) for data in NEAR])) == [0]
    assert len(stored.found) == 4


def test_prefixes_that_lie_together_are_read_together() -> None:
    bases = [hashlib.shake_256(b"%d" % number).digest(5000) for number in range(20)]
    near = [b"x" * 8 + base[8:] for base in bases]
    stored = Stored(
        [_source(base) for base in bases],
        [_source(data, base) for data, base in zip(near, bases, strict=True)],
    )
    requests = _counted(stored)
    plan = stored.fetcher().plan
    halves = [digest_of(data) for data in near[:10]], [digest_of(data) for data in near[10:]]
    assert stored.fetch(*(plan(half) for half in halves)) == [0, 1]
    assert set(stored.found) == {digest_of(data) for data in near}
    assert len(requests) == 4, "a frame of bases for each batch, and the batches"


def test_a_prefix_of_other_bytes_is_refused() -> None:
    stored = Stored([_source(BASE)], [_source(data, BASE) for data in NEAR])
    key = pack_key("default", stored.places.by_digest[digest_of(BASE)].pack.name)
    other = bytearray(stored.store.get(key))
    other[len(other) // 2] ^= 1
    stored.store.delete(key)
    stored.store.put(key, bytes(other))
    with pytest.raises(PackError):
        stored.fetch(stored.fetcher().plan([digest_of(data) for data in NEAR]))


def test_what_this_disk_has_is_not_fetched() -> None:
    stored = Stored([_source(BASE)], [_source(data, BASE) for data in NEAR])
    requests = _counted(stored)
    near = {digest_of(BASE): BASE}
    fetcher = Fetcher(stored.store, "default", stored.places, lambda _stored: None, near.get)
    fetcher.run([fetcher.plan([digest_of(data) for data in NEAR])], stored.consume)
    base = stored.places.by_digest[digest_of(BASE)].pack.name
    assert not any(base in key for key in requests)


def test_a_prefix_in_a_later_batch_is_not_waited_for() -> None:
    stored = Stored([_source(BASE)], [_source(data, BASE) for data in NEAR])
    plan = stored.fetcher().plan
    assert stored.fetch(plan([digest_of(data) for data in NEAR]), plan([digest_of(BASE)])) == [0, 1]
    assert len(stored.found) == 5


def test_blobs_that_need_each_others_packs_crosswise() -> None:
    """Each pack begins with what needs the prefix in the other one."""
    other = BASE[::-1]
    near_other = b"x" * 8 + other[8:]
    stored = Stored(
        [_source(NEAR[0], BASE), _source(other)], [_source(near_other, other), _source(BASE)]
    )
    wanted = [digest_of(data) for data in (NEAR[0], other, near_other, BASE)]
    assert stored.fetch(stored.fetcher().plan(wanted)) == [0]
    assert len(stored.found) == 4


def test_a_lost_prefix_ends_all_that_wait_for_it() -> None:
    stored = Stored([_source(BASE)], [_source(data, BASE) for data in NEAR])
    base = stored.places.by_digest[digest_of(BASE)]
    stored.store.delete(pack_key("default", base.pack.name))
    with pytest.raises(ObjectMissingError):
        stored.fetch(stored.fetcher().plan([digest_of(data) for data in (BASE, *NEAR)]))


def test_an_error_of_the_consumer_ends_it() -> None:
    stored = Stored([_source(BASE)], [_source(data, BASE) for data in NEAR])

    def refuse(digest: str, _size: int, _chunks: Iterable[memoryview]) -> None:
        if digest == digest_of(BASE):
            raise PackError("refused")

    fetcher = stored.fetcher()
    with pytest.raises(PackError, match="refused"):
        fetcher.run([fetcher.plan([digest_of(data) for data in (BASE, *NEAR)])], refuse)


def test_a_batch_is_done_while_the_next_one_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_RANGE", 1)
    small = [hashlib.shake_256(b"%d" % number).digest(1000) for number in range(2)]
    stored = Stored([_source(small[0])], [_source(small[1])])
    first_done = threading.Event()
    get_range = stored.store.get_range

    def waits(key: str, start: int, end: int) -> bytes:
        if stored.places.by_digest[digest_of(small[1])].pack.name in key:
            assert first_done.wait(60)
        return get_range(key, start, end)

    stored.store.get_range = waits  # type: ignore[method-assign]
    fetcher = stored.fetcher()
    done: list[int] = []

    def note(batch: int) -> None:
        done.append(batch)
        first_done.set()

    plan = fetcher.plan
    fetcher.run([plan([digest_of(data)]) for data in small], stored.consume, note)
    assert done == [0, 1]
