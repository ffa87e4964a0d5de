import pytest
from hypothesis import given
from hypothesis import strategies as st

from aotcache.errors import InvalidNameError
from aotcache.protocol import names
from aotcache.protocol.names import (
    INDUCTOR,
    SHARED,
    VLLM_AOT,
    VLLM_JIT,
    PartName,
    TreeKey,
    check_generation,
    check_hash,
    check_namespace,
    check_object_key,
    check_part,
    deleted_key,
    manifest_key,
    namespace_of,
    new_publish_id,
    pack_key,
    parse_deleted_key,
    parse_manifest_key,
    part_directory,
    rank_part,
)

HEX = "0123456789abcdef"


def hexadecimal(size: int) -> st.SearchStrategy[str]:
    return st.text(HEX, min_size=size, max_size=size)


NAMESPACES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)
LAYOUTS_AND_HASHES = st.one_of(
    st.tuples(st.just(VLLM_AOT), hexadecimal(64)),
    st.tuples(st.just(VLLM_JIT), hexadecimal(10)),
    st.tuples(
        st.just(INDUCTOR), st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", fullmatch=True)
    ),
)
PARTS = st.one_of(
    st.just(SHARED),
    st.builds(rank_part, st.integers(0, 999_999), st.integers(0, 999_999), st.integers(0, 9_999)),
)
GENERATIONS = st.integers(1, names.MAX_GENERATION)
PUBLISH_IDS = hexadecimal(32)


@st.composite
def trees(draw: st.DrawFn) -> TreeKey:
    layout, tree_hash = draw(LAYOUTS_AND_HASHES)
    return TreeKey(
        namespace=draw(NAMESPACES), layout=layout, hash=tree_hash, platform=draw(hexadecimal(32))
    )


TREE = TreeKey(namespace="default", layout=VLLM_AOT, hash="a" * 64, platform="b" * 32)


@given(tree=trees(), part=PARTS, generation=GENERATIONS)
def test_keys_are_parsed_as_they_were_made(tree: TreeKey, part: str, generation: int) -> None:
    expected = PartName(tree, part, generation)
    manifest, deleted = manifest_key(tree, part, generation), deleted_key(tree, part, generation)
    assert parse_manifest_key(manifest) == expected
    assert parse_deleted_key(deleted) == expected
    for key in (manifest, deleted):
        assert check_object_key(key) == key
        assert namespace_of(key) == tree.namespace
    with pytest.raises(InvalidNameError):
        parse_manifest_key(deleted)
    with pytest.raises(InvalidNameError):
        parse_deleted_key(manifest)


@given(
    tree=trees(), part=PARTS, first=GENERATIONS, second=GENERATIONS, other=st.sampled_from("/.0a-")
)
def test_keys_sort_by_generation(
    tree: TreeKey, part: str, first: int, second: int, other: str
) -> None:
    keys = [manifest_key(tree, part, n) for n in (first, second)]
    assert (keys[0] < keys[1]) == (first < second)
    for at in range(0, len(keys[0]), 7):  # a key that was changed is another tree's, or none's
        changed = keys[0][:at] + other + keys[0][at + 1 :]
        try:
            assert (parse_manifest_key(changed) == PartName(tree, part, first)) == (
                changed == keys[0]
            )
        except InvalidNameError:
            assert changed != keys[0]


def test_keys_are_those_of_the_format_page() -> None:
    assert manifest_key(TREE, "rank_0_1-d3", 12) == (
        f"default/trees/vllm-aot/{'a' * 64}/{'b' * 32}/rank_0_1-d3/00000012.manifest"
    )
    assert deleted_key(TREE, SHARED, 1) == (
        f"default/marks/deleted/vllm-aot/{'a' * 64}/{'b' * 32}/shared/00000001"
    )
    pack = f"cd{'0' * 62}-{'1' * 32}"
    assert pack_key("team-1", pack) == f"team-1/packs/cd/{pack}"


@given(text=st.text(max_size=40))
def test_any_text_is_a_key_or_refused(text: str) -> None:
    for parse in (parse_manifest_key, parse_deleted_key, check_object_key, check_part):
        with pytest.raises(InvalidNameError):
            parse(f"{text}\n")


@pytest.mark.parametrize(
    "namespace", ["", "-a", "a-", "A", "a_b", "a.b", "a/b", "..", "a" * 64, "a\n", "é", "٣"]
)
def test_namespaces_that_are_refused(namespace: str) -> None:
    with pytest.raises(InvalidNameError):
        check_namespace(namespace)


@pytest.mark.parametrize(
    ("layout", "tree_hash"),
    [
        (VLLM_AOT, "a" * 63),
        (VLLM_AOT, "A" * 64),
        (VLLM_AOT, "a" * 64 + "\n"),
        (VLLM_JIT, "a" * 64),
        (VLLM_JIT, ""),
        (INDUCTOR, "."),
        (INDUCTOR, ".."),
        (INDUCTOR, ".hidden"),
        (INDUCTOR, "a/b"),
        (INDUCTOR, "a" * 129),
        (INDUCTOR, "ü"),
        ("other", "a" * 64),
        ("", ""),
    ],
)
def test_hashes_that_are_refused(layout: str, tree_hash: str) -> None:
    with pytest.raises(InvalidNameError):
        check_hash(layout, tree_hash)


@pytest.mark.parametrize(
    "part",
    [
        "",
        "Shared",
        "rank_0_0",
        "rank_00_0-d0",
        "rank_0_0-d00",
        "rank_0_0-d",
        "rank_-1_0-d0",
        "rank_1000000_0-d0",
        "rank_0_0-d10000",
        "rank_٣_0-d0",
        "rank_1_٣-d0",
        "rank_0_0-d0\n",
        "rank_0_0-d0/..",
    ],
)
def test_parts_that_are_refused(part: str) -> None:
    with pytest.raises(InvalidNameError):
        check_part(part)


@pytest.mark.parametrize("generation", [-1, 0, names.MAX_GENERATION + 1])
def test_generations_that_are_refused(generation: int) -> None:
    for make in (manifest_key, deleted_key):
        with pytest.raises(InvalidNameError):
            make(TREE, SHARED, generation)
    with pytest.raises(InvalidNameError):
        check_generation(generation)


@pytest.mark.parametrize("generation", ["00000000", "1", "000000001", "0000000a", "-0000001"])
def test_generations_in_keys_that_are_refused(generation: str) -> None:
    key = manifest_key(TREE, SHARED, 1).replace("00000001", generation)
    with pytest.raises(InvalidNameError):
        parse_manifest_key(key)


def test_generations_are_written_in_ascii() -> None:
    key = manifest_key(TREE, SHARED, 1).replace("00000001", "0000000\u0661")
    with pytest.raises(InvalidNameError):
        parse_manifest_key(key)


@pytest.mark.parametrize(
    "key",
    ["", "a", "/a/b", "a/", "a//b", "a/./b", "a/../b", "a/.b", "A/b", "a/b\n", "a/b c", "a\\b/c"],
)
def test_object_keys_that_are_refused(key: str) -> None:
    with pytest.raises(InvalidNameError):
        check_object_key(key)


def test_object_keys_have_an_end() -> None:
    longest = "a/" + "b" * (names.MAX_OBJECT_KEY - 2)
    assert check_object_key(longest) == longest
    with pytest.raises(InvalidNameError, match="512"):
        check_object_key(longest + "b")


@given(rank=st.integers(0, 99), dp_rank=st.integers(0, 99), device=st.integers(0, 99))
def test_the_directory_of_a_part(rank: int, dp_rank: int, device: int) -> None:
    assert part_directory(rank_part(rank, dp_rank, device)) == f"rank_{rank}_{dp_rank}"


def test_the_shared_part_has_no_directory() -> None:
    with pytest.raises(InvalidNameError):
        part_directory(SHARED)


def test_publish_ids_are_new() -> None:
    made = {new_publish_id() for _ in range(100)}
    assert len(made) == 100
    assert {names.check_publish_id(one) for one in made} == made


def test_messages_do_not_repeat_endless_names() -> None:
    with pytest.raises(InvalidNameError) as caught:
        check_namespace("x" * 10_000)
    assert len(str(caught.value)) < 300


def test_a_tree_says_which_it_is() -> None:
    assert str(TREE) == "default/vllm-aot/aaaaaaaaaaaa (platform bbbbbbbb)"
