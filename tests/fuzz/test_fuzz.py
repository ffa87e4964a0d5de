"""A short run of each target; docs/security.md says what a long one found."""

from __future__ import annotations

import pytest

from . import samples
from .run import CORPUS, inputs
from .targets import TARGETS


@pytest.mark.parametrize(("target", "count"), [("manifest", 4000), ("pack", 400), ("pull", 400)])
def test_bytes_of_any_kind(target: str, count: int) -> None:
    taken = sum(TARGETS[target](data) for data in inputs(target, count, seed=1))
    assert taken < count // 2


def test_what_is_good_is_taken() -> None:
    good, _, packed = samples.sample()
    assert TARGETS["manifest"](good)
    assert TARGETS["pack"](packed)
    assert TARGETS["pull"](good)


def test_nothing_of_the_corpus_is_installed_but_what_is_good() -> None:
    """Each file is named after what is wrong with it."""
    taken = [
        path.name for path in (CORPUS / "pull").iterdir() if TARGETS["pull"](path.read_bytes())
    ]
    assert taken == ["good"]
