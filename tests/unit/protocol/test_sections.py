"""Sections: a statement against an earlier one takes what is new, and nothing else can be read."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aotcache.errors import ManifestError
from aotcache.protocol.sections import (
    FORMAT,
    FORMAT_ON_BASE,
    Base,
    Sections,
    base_of,
    compress,
    compress_statement,
    decompress_statement,
    join_sections,
    split_manifest,
)

FIRST = json.dumps([f"{number:064x}" for number in range(0, 90_000, 61)]).encode()
GROWN = FIRST[:-1] + b', "one more"]'
BASE = Base(3, compress(FIRST))
STATEMENT = compress_statement(GROWN, BASE)
LOCATIONS = compress(b"{}")
STORED = Sections(statement=STATEMENT, locations=LOCATIONS, base=3)
KEPT = Sections(statement=STATEMENT, locations=LOCATIONS, base=3, base_statement=BASE.statement)
OF_BASE = join_sections(Sections(statement=BASE.statement, locations=LOCATIONS))


def read(sections: Sections, base: bytes = OF_BASE) -> bytes:
    again = split_manifest(join_sections(sections))
    return decompress_statement(again, base_of(again, lambda _generation: base))


def test_what_is_new_is_all_that_it_takes() -> None:
    assert len(STATEMENT) < 200 < len(BASE.statement)
    assert read(STORED) == GROWN


def test_a_node_reads_its_copy_without_storage() -> None:
    assert read(KEPT, base=b"") == GROWN
    assert split_manifest(join_sections(KEPT)) == KEPT


def test_the_format_says_whether_there_is_a_base() -> None:
    assert FORMAT.encode() in OF_BASE
    stored = join_sections(STORED)
    assert FORMAT_ON_BASE.encode() in stored
    for wrong in (
        stored.replace(b"manifest/2", b"manifest/1", 1),
        OF_BASE.replace(b"manifest/1", b"manifest/2", 1),
        OF_BASE.replace(b'"locations"', b'"base":1,"locations"', 1),
        stored.replace(b'"base":3', b'"base":0', 1),
        stored.replace(b'"base":3', b'"base":-1', 1),
        join_sections(KEPT).replace(b'"base":3,', b"", 1).replace(b"manifest/2", b"manifest/1", 1),
    ):
        with pytest.raises(ManifestError):
            split_manifest(wrong)


def test_only_what_it_was_written_against_will_do() -> None:
    other = join_sections(Sections(statement=compress(GROWN), locations=LOCATIONS))
    with pytest.raises(ManifestError, match="generation 3 is not the statement"):
        read(STORED, other)
    with pytest.raises(ManifestError, match="has a base itself"):
        read(STORED, join_sections(STORED))
    with pytest.raises(ManifestError, match="no header line"):
        read(STORED, b"")


def test_a_few_bytes_are_no_base() -> None:
    with pytest.raises(ManifestError, match="no base"):
        compress_statement(GROWN, Base(1, compress(b"{}")))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400), st.binary(max_size=200), st.integers(-1, 5))
def test_rubbish_is_refused(statement: bytes, base: bytes, generation: int) -> None:
    tried = Sections(statement=statement, locations=b"", base=generation, base_statement=base)
    with pytest.raises(ManifestError):
        read(tried, base)
