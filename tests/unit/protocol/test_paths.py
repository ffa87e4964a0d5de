import pytest
from hypothesis import given
from hypothesis import strategies as st

from aotcache.errors import InvalidNameError
from aotcache.protocol.paths import MAX_NAME, MAX_PATH, check_path, check_paths

NAMES = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._,+=@-]{0,8}", fullmatch=True)
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)


@given(path=PATHS)
def test_paths_of_a_tree(path: str) -> None:
    assert check_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/a",
        "a/",
        "a//b",
        ".",
        "..",
        "a/..",
        "../a",
        "a/./b",
        ".hidden",
        "a/.hidden",
        "-a",
        "a b",
        "a\n",
        "a\0",
        "a\\b",
        "a:b",
        "é",
        "e\u0301",
        "٣",
        "a~",
        "x" * (MAX_NAME + 1),
        "/".join(["x" * 100] * 6),
    ],
)
def test_paths_that_are_refused(path: str) -> None:
    with pytest.raises(InvalidNameError):
        check_path(path)
    with pytest.raises(InvalidNameError):
        check_paths(["fine", path])


def test_the_longest_path() -> None:
    longest = "/".join(["x" * 170] * 3)
    assert len(longest) == MAX_PATH
    assert check_path(longest)
    assert check_path("x" * MAX_NAME)


@pytest.mark.parametrize(
    "paths",
    [
        ["a", "a"],
        ["a", "A"],
        ["a/b", "a/B"],
        ["a", "a/b"],
        ["a/b", "a"],
        ["a/b/c/d", "x", "A/B"],
        ["A", "a/b"],
    ],
)
def test_paths_that_cannot_lie_in_one_tree(paths: list[str]) -> None:
    with pytest.raises(InvalidNameError):
        check_paths(paths)


@given(paths=st.lists(PATHS, max_size=6), other=st.booleans())
def test_paths_that_can_lie_in_one_tree(paths: list[str], other: bool) -> None:
    """Against the definition: pair by pair."""
    lowered = [path.lower() for path in paths]
    clash = len(set(lowered)) < len(lowered) or any(
        one.startswith(f"{two}/") for one in lowered for two in lowered
    )
    if clash:
        with pytest.raises(InvalidNameError):
            check_paths(paths)
    else:
        check_paths(paths[::-1] if other else paths)
