from __future__ import annotations

import pytest

from aotcache.protocol.versions import API, fit


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        ("0.1.0", "0.1.0", True),
        ("0.1.9", "0.2.0", True),
        ("0.3.0", "0.2.7", True),
        ("0.1.0", "0.3.0", False),
        ("1.0.0", "0.9.0", False),
        ("1.4.0rc1", "1.5", True),
        ("", "0.1.0", True),
        ("unknown", "0.1.0", True),
    ],
)
def test_one_minor_version_apart_is_together(one: str, other: str, together: bool) -> None:
    assert fit(one, other) is together
    assert fit(other, one) is together


def test_versions_of_the_api_ascend() -> None:
    assert list(API) == sorted(set(API))
