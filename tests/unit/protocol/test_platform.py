import hashlib
import json
from dataclasses import asdict, fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aotcache.protocol.platform import MAX_FIELD, Difference, Platform, differences
from support.stored import PLATFORM

FIELDS = [field.name for field in fields(Platform)]
TEXTS = st.text(st.one_of(st.just(" "), st.characters(exclude_categories=["C", "Z"])), max_size=6)
PLATFORMS = st.builds(Platform, **dict.fromkeys(FIELDS, TEXTS))


def test_the_id_never_changes() -> None:
    """It is part of every key that was ever stored."""
    assert PLATFORM.id == "956941b9697c58b7b30ba7732a68e2e1"


@given(platform=PLATFORMS)
def test_the_id_is_that_of_the_format_page(platform: Platform) -> None:
    ordered = [f"{json.dumps(k)}:{json.dumps(v)}" for k, v in sorted(asdict(platform).items())]
    digest = hashlib.sha256(f"{{{','.join(ordered)}}}".encode("ascii")).hexdigest()
    assert platform.id == digest[:32]


@given(one=PLATFORMS, two=PLATFORMS)
def test_equal_ids_are_equal_platforms(one: Platform, two: Platform) -> None:
    assert (one.id == two.id) == (one == two)


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_is_compared(field: str) -> None:
    other = replace(PLATFORM, **{field: "other"})
    assert other.id != PLATFORM.id
    stored = getattr(PLATFORM, field)
    expected = [Difference(field=field, stored="other", asked=stored)]
    assert differences(other, PLATFORM) == expected


def test_a_tree_without_compiled_cpp_runs_on_any_cpu() -> None:
    machine = replace(PLATFORM, cpu="0" * 64)
    assert PLATFORM.cpu == ""
    assert machine.acceptable() == (machine.id, PLATFORM.id)
    assert differences(PLATFORM, machine) == []
    assert [one.field for one in differences(machine, PLATFORM)] == ["cpu"]


@given(stored=PLATFORMS, asked=PLATFORMS)
def test_no_difference_means_acceptable(stored: Platform, asked: Platform) -> None:
    assert (not differences(stored, asked)) == (stored.id in asked.acceptable())


@pytest.mark.parametrize("value", ["a\nb", "\0", "\ud800", "\u202e", "x" * (MAX_FIELD + 1)])
def test_fields_that_are_refused(value: str) -> None:
    with pytest.raises(ValueError, match="platform field device"):
        replace(PLATFORM, device=value)
