import ast
import json
import pprint
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from aotcache.core.relocation import MAX_RELOCATED, kind_of, make_free, most_bytes, put_back
from aotcache.errors import RelocationError
from aotcache.protocol.manifest import BY_DIRECTORY, BY_TREE, NOT_RELOCATED

HASH = "0d4c8a61fe"
FOLDER = "inductor_cache/triton/0/KEY"
GROUP = f"{FOLDER}/__grp__kernel.json"
HANDLES = "rank_0_0/backbone/vllm_compile_cache.py"

NAMES = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._,+=@-]{0,20}", fullmatch=True)
# What a user may have above the tree: spaces, both quotes, backslashes, any Unicode.
ANY_NAME = st.text(
    st.one_of(
        st.sampled_from(" '\"\\é漢😀$%{}<>"),
        st.characters(
            exclude_characters="/\0"
        ),  # lone surrogates stand for bytes that are not UTF-8
    ),
    min_size=1,
    max_size=12,
).filter(lambda name: name not in (".", ".."))
ROOTS = st.lists(ANY_NAME, min_size=1, max_size=4).map(lambda names: "/" + "/".join(names))
PLAIN_ROOTS = st.lists(NAMES, min_size=1, max_size=4).map(lambda names: "/" + "/".join(names))


def group(root: str, children: list[str], **more: object) -> bytes:
    paths = {child: f"{root}/{HASH}/{FOLDER}/{child}" for child in children}
    return json.dumps({"child_paths": paths, **more}).encode()


def handles(tree: str, children: list[str]) -> bytes:
    """As vLLM writes them, on one line."""
    return repr(
        {(None, n, "inductor"): (f"key{n}", f"{tree}/{child}") for n, child in enumerate(children)}
    ).encode()


def values_of(content: bytes) -> list[str]:
    return [path for _, path in ast.literal_eval(content.decode()).values()]


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (GROUP, BY_DIRECTORY),
        ("__grp__.json", BY_DIRECTORY),
        (f"{FOLDER}/kernel.json", NOT_RELOCATED),
        (f"{FOLDER}/__grp__kernel.cubin", NOT_RELOCATED),
        ("x__grp__kernel.json", NOT_RELOCATED),
        (HANDLES, BY_TREE),
        ("vllm_compile_cache.py", BY_TREE),
        ("vllm_compile_cache.py/model", NOT_RELOCATED),
    ],
)
def test_kind_of(path: str, kind: str) -> None:
    assert kind_of(path) == kind


@given(content=st.binary(max_size=200))
def test_other_files_are_stored_as_they_are(content: bytes) -> None:
    content += b"/cache/" + HASH.encode() + b"/<<aotcache:dir>>"
    assert make_free(content, "rank_0_0/model", HASH) == (NOT_RELOCATED, content)
    assert put_back(content, "rank_0_0/model", NOT_RELOCATED, "/elsewhere") == content


@given(root=PLAIN_ROOTS, children=st.lists(NAMES, min_size=1, max_size=5))
def test_group_files_round_trip(root: str, children: list[str]) -> None:
    content = group(root, children)
    kind, free = make_free(content, GROUP, HASH)
    assert kind == BY_DIRECTORY
    assert json.dumps(root)[1:-1].encode() + b"/" not in free
    assert put_back(free, GROUP, kind, f"{root}/{HASH}") == content


@given(old=ROOTS, new=ROOTS, children=st.lists(NAMES, min_size=1, max_size=5))
def test_group_files_move(old: str, new: str, children: list[str]) -> None:
    _, free = make_free(group(old, children), GROUP, HASH)
    assert put_back(free, GROUP, BY_DIRECTORY, f"{new}/{HASH}") == group(new, children)


def test_copies_on_several_devices_are_stored_as_one() -> None:
    frees = set()
    for device in (0, 1):
        path = GROUP.replace("/0/", f"/{device}/")
        folder = path.rpartition("/")[0]
        content = json.dumps({"child_paths": {"a.ptx": f"/r/{HASH}/{folder}/a.ptx"}}).encode()
        frees.add(make_free(content, path, HASH))
    assert len(frees) == 1


@given(root=PLAIN_ROOTS, children=st.lists(NAMES, min_size=1, max_size=5))
def test_handles_round_trip(root: str, children: list[str]) -> None:
    tree = f"{root}/{HASH}"
    content = handles(tree, children)
    kind, free = make_free(content, HANDLES, HASH)
    assert kind == BY_TREE
    assert put_back(free, HANDLES, kind, tree) == content


@given(old=PLAIN_ROOTS, new=PLAIN_ROOTS, children=st.lists(NAMES, min_size=1, max_size=5))
def test_handles_move(old: str, new: str, children: list[str]) -> None:
    _, free = make_free(handles(f"{old}/{HASH}", children), HANDLES, HASH)
    moved = put_back(free, HANDLES, BY_TREE, f"{new}/{HASH}")
    assert values_of(moved) == [f"{new}/{HASH}/{child}" for child in children]


@pytest.mark.parametrize(("old", "new"), [("/a", "/o'b"), ("/o'a", '/q"b'), ("/a", "/b', x, '")])
def test_handles_do_not_move_from_or_to_paths_with_quotes(old: str, new: str) -> None:
    def move() -> None:
        _, free = make_free(handles(f"{old}/{HASH}", ["child"]), HANDLES, HASH)
        put_back(free, HANDLES, BY_TREE, f"{new}/{HASH}")

    with pytest.raises(RelocationError):
        move()


def test_handles_as_vllm_prints_them() -> None:
    root = "/root/.cache/vllm/torch_compile_cache"
    data = {("(1, 8192)", n, "inductor"): ("k" * 40, f"{root}/{HASH}/a/b{n}") for n in range(30)}
    content = pprint.PrettyPrinter(indent=4).pformat(data).encode()
    kind, free = make_free(content, HANDLES, HASH)
    assert free.count(b"<<aotcache:tree>>/a/b") == 30
    assert put_back(free, HANDLES, kind, f"{root}/{HASH}") == content


def test_a_string_that_was_broken_over_lines_is_left_out() -> None:
    """pprint breaks long strings at spaces; such a file is refused rather than half relocated."""
    root = "/root/my cache/" + "d" * 80
    data = {(None, 0, "inductor"): ("key", f"{root}/{HASH}/child")}
    with pytest.raises(RelocationError, match="outside the tree"):
        make_free(pprint.pformat(data).encode(), HANDLES, HASH)


def nested(paths: list[str], draw: Any) -> Any:
    value: Any = {"child_paths": {f"k{n}": path for n, path in enumerate(paths)}}
    for step in draw:
        value = {"wrap": [1, None, value]} if step else {"child_paths": {"x": [value]}}
    return value


@given(
    root=ROOTS,
    children=st.lists(NAMES, min_size=1, max_size=3),
    depth=st.lists(st.booleans(), max_size=6),
)
def test_child_paths_at_any_depth(root: str, children: list[str], depth: list[bool]) -> None:
    def content(at: str) -> bytes:
        paths = [f"{at}/{HASH}/{FOLDER}/{child}" for child in children]
        return json.dumps(nested(paths, depth)).encode()

    kind, free = make_free(content(root), GROUP, HASH)
    assert kind == BY_DIRECTORY
    assert put_back(free, GROUP, kind, f"/new/{HASH}") == content("/new")

    outside = [f"{root}/{HASH}/{FOLDER}/{child}" for child in children] + ["/etc/passwd"]
    with pytest.raises(RelocationError):
        make_free(json.dumps(nested(outside, depth)).encode(), GROUP, HASH)
    with pytest.raises(RelocationError):
        put_back(json.dumps(nested(["/etc/passwd"], depth)).encode(), GROUP, kind, "/tree")


def bad_followed(mark: str) -> Iterator[str]:
    yield from ("/etc/passwd", mark, f"{mark}/", f"{mark}/../x", f"{mark}/a/../../x", f"{mark}//x")
    yield from (f"{mark}/a/./b", f"{mark}/a b", f"{mark}x/y", f"{mark}/.hidden", f"{mark}/a\n")


@pytest.mark.parametrize("value", [*bad_followed("<<aotcache:dir>>"), "relative", ""])
def test_put_back_refuses_group_files_that_point_outside(value: str) -> None:
    free = json.dumps({"child_paths": {"a": "<<aotcache:dir>>/fine", "b": value}}).encode()
    with pytest.raises(RelocationError):
        put_back(free, GROUP, BY_DIRECTORY, "/tree")


@pytest.mark.parametrize("value", [*bad_followed("<<aotcache:tree>>")])
def test_put_back_refuses_handles_that_point_outside(value: str) -> None:
    free = repr({1: ("k", "<<aotcache:tree>>/fine"), 2: ("k", value)}).encode()
    with pytest.raises(RelocationError):
        put_back(free, HANDLES, BY_TREE, "/tree")


@pytest.mark.parametrize(
    ("free", "path", "kind"),
    [
        (b'{"child_paths": {"a": "\\u003c<aotcache:dir>>/x"}}', GROUP, BY_DIRECTORY),
        (b"{1: ('k', '\\x3c<aotcache:tree>>/x')}", HANDLES, BY_TREE),
    ],
)
def test_put_back_refuses_marks_that_are_escaped(free: bytes, path: str, kind: str) -> None:
    with pytest.raises(RelocationError):
        put_back(free, path, kind, "/tree")


@pytest.mark.parametrize(
    "rest", ["../x", "a/../../x", "./x", "/x", "", "a b", ".x", "a//b", "x" * 201]
)
def test_make_free_refuses_paths_that_are_not_of_a_tree(rest: str) -> None:
    content = json.dumps({"child_paths": {"a": f"/r/{HASH}/{FOLDER}/{rest}"}}).encode()
    with pytest.raises(RelocationError):
        make_free(content, GROUP, HASH)
    with pytest.raises(RelocationError):
        make_free(handles(f"/r/{HASH}", [rest]), HANDLES, HASH)


@pytest.mark.parametrize(
    "values",
    [
        ["/r/other/a"],
        ["relative/KEY/a"],
        ["/r/KEY"],
        ["/r/KEY/a", "/s/KEY/a"],
        ["/r/KEYS/a"],
    ],
)
def test_make_free_refuses_paths_outside_the_own_directory(values: list[str]) -> None:
    content = json.dumps({"child_paths": dict(enumerate(values))}).encode()
    with pytest.raises(RelocationError):
        make_free(content, GROUP, HASH)


def test_the_prefix_is_taken_from_the_content() -> None:
    """The tree was copied since; its own name occurs above it as well."""
    content = handles(f"/{HASH}/x/{HASH}", ["a", "b/c"])
    _, free = make_free(content, HANDLES, HASH)
    assert values_of(free) == ["<<aotcache:tree>>/a", "<<aotcache:tree>>/b/c"]


def test_what_holds_no_path_is_stored_as_it_is() -> None:
    for path, content in ((GROUP, b'{"child_paths": {}, "at": "/x"}'), (HANDLES, b"{1: ('k', 2)}")):
        assert make_free(content, path, HASH) == (NOT_RELOCATED, content)


@pytest.mark.parametrize("path", [GROUP, HANDLES])
@given(content=st.binary(max_size=60))
def test_bytes_that_cannot_be_read_are_refused(path: str, content: bytes) -> None:
    content = b"{[" + content
    with pytest.raises(RelocationError):
        make_free(content, path, HASH)
    with pytest.raises(RelocationError):
        put_back(content, path, kind_of(path), "/tree")


@pytest.mark.parametrize("path", [GROUP, HANDLES])
def test_nesting_and_size_are_bounded(path: str) -> None:
    for content in (b"[" * 300_000, b'{"child_paths":' * 100_000, b" " * (MAX_RELOCATED + 1)):
        with pytest.raises(RelocationError):
            make_free(content, path, HASH)
        with pytest.raises(RelocationError):
            put_back(content, path, kind_of(path), "/tree")


def test_what_marks_grow_to_is_bounded_too() -> None:
    content = group("/r", [f"k{n}" for n in range(5000)])
    kind, free = make_free(content, GROUP, HASH)
    assert len(free) < MAX_RELOCATED
    for checked in (False, True):
        with pytest.raises(RelocationError, match=f"at most {MAX_RELOCATED} are relocated"):
            put_back(free, GROUP, kind, "/" + "d" * 250, checked=checked)


@given(root=ROOTS, children=st.lists(NAMES, min_size=1, max_size=3))
def test_the_most_that_a_file_may_have(root: str, children: list[str]) -> None:
    kind, free = make_free(group(root, children), GROUP, HASH)
    back = put_back(free, GROUP, kind, f"{root}/{HASH}")
    assert len(back) <= most_bytes(len(free), GROUP, kind, f"{root}/{HASH}")
    assert most_bytes(7, "rank_0_0/model", NOT_RELOCATED, root) == 7


def test_a_file_that_holds_the_mark_is_refused() -> None:
    with pytest.raises(RelocationError, match="holds the mark"):
        make_free(group("/r", ["a"], note="<<aotcache:dir>>"), GROUP, HASH)


@given(note=st.text(max_size=30), children=st.lists(NAMES, min_size=1, max_size=2))
def test_the_rest_of_a_group_file_keeps_its_bytes(note: str, children: list[str]) -> None:
    assume("<<aotcache:dir>>" not in note)
    content = group("/r", children, note=note, more=[1.50, {"a": None}])
    content = content.replace(b"1.5,", b" 1.50 ,")  # as no serializer would write it
    kind, free = make_free(content, GROUP, HASH)
    assert put_back(free, GROUP, kind, f"/r/{HASH}") == content
