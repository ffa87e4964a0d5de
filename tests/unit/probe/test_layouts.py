import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aotcache.errors import InvalidNameError
from aotcache.probe.layouts import classify, never
from aotcache.protocol.names import INDUCTOR, LAYOUTS, VLLM_AOT, VLLM_JIT, rank_part
from aotcache.protocol.paths import check_path

CODE = "c" + "a2" * 25 + "z"
KEY = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567ABCDEFGHIJKLMNOPQRST"
UUID = "0f8fad5b-d9cb-469f-a165-70867728950e"

INDUCTOR_FILES = [
    f"a2/{CODE}.py",
    f"a2/{CODE}.cpp",
    f"a2/{CODE}.so",
    f"a2/{CODE}.main.cpp",
    f"a2/{CODE}.main.so",
    f"a2/{CODE}.best_config",
    f"a2/{CODE}.kernel_perf",
    f"a2/{CODE}.cubin",
    f"fxgraph/a2/f{CODE}/{CODE}",
    f"aotautograd/a{CODE}/{CODE}",
    f"triton/0/{KEY}/triton_poi_fused_add_0.source",
    f"triton/0/{KEY}/triton_poi_fused_add_0.cubin",
    f"triton/7/{KEY}/triton_poi_fused_add_0.hsaco",
    f"triton/7/{KEY}/__grp__triton_poi_fused_add_0.json",
    f"triton/0/{KEY}/kernel.autotune.json",
    f"triton/0/{KEY}/hip_utils.cpython-311-x86_64-linux-gnu.so",
    # Triton kernels may be called like this; their temporary directories are called otherwise.
    f"triton/0/{KEY}/tmp.ttir",
    f"triton/0/{KEY}/lock.json",
    f"cutedsl_compile_cache/{'0a' * 32}.o",
]

NEVER_FILES = [
    f"locks/{CODE}.lock",
    f"a2/{CODE}.lock",
    "a2/.4711.140042.tmp",
    f"fxgraph/a2/f{CODE}/.4711.140042.tmp",
    f"fxgraph/a2/f{CODE}/{CODE}.tmp",
    f"triton/0/{KEY}/lock",
    f"triton/0/{KEY}/tmp.pid_4711_{UUID}/kernel.json",
    f"triton/0/tmp.{UUID}/kernel.json",
    f"a2/{CODE}_CxxBuild/CMakeLists.txt",
]

FOREIGN_FILES = [
    "",
    "model",
    "id_rsa",
    ".netrc",
    f"a2/{CODE}.o",
    f"a2/{CODE}.error",
    f"A2/{CODE}.py",
    f"a2/deep/{CODE}.py",
    f"a2/../{CODE}.py",
    f"/a2/{CODE}.py",
    f"a2/{CODE}.py\n",
    f"triton/0/short/{CODE}.json",
    f"triton/01/{KEY}/kernel.json",
    f"triton/0/{KEY}/kernel.sh",
    f"triton/0/{KEY}/nested/kernel.json",
    "fxgraph",
    "fxgraph/",
    "fxgraph/../../../etc/passwd",
    "cache/4a5b6c",
    "memoizer_cache.json",
    "dynamo/code_state_job.pkl",
]


@pytest.mark.parametrize("path", INDUCTOR_FILES)
def test_inductor_files_are_allowed_where_an_inductor_cache_lies(path: str) -> None:
    assert classify(INDUCTOR, path) == "shared"
    assert classify(VLLM_AOT, f"inductor_cache/{path}") == "shared"
    assert classify(VLLM_JIT, f"rank_1_0/inductor_cache/{path}") == "rank_1_0"
    assert classify(VLLM_JIT, f"rank_1_0/backbone/inductor_cache/{path}") == "rank_1_0"
    assert classify(VLLM_JIT, f"rank_1_0/backbone/artifact_range_1_8/{path}") == "rank_1_0"
    assert classify(VLLM_AOT, path) is None
    assert classify(VLLM_JIT, path) is None


@pytest.mark.parametrize("path", [*NEVER_FILES, *FOREIGN_FILES])
def test_nothing_else_is_allowed(path: str) -> None:
    assert classify(INDUCTOR, path) is None
    assert classify(VLLM_AOT, f"inductor_cache/{path}") is None
    assert classify(VLLM_JIT, f"rank_0_0/backbone/inductor_cache/{path}") is None


@pytest.mark.parametrize("path", NEVER_FILES)
def test_leftovers_are_known_as_such(path: str) -> None:
    assert any(never(name) for name in path.split("/"))
    assert not any(never(name) for good in INDUCTOR_FILES for name in good.split("/"))


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("rank_0_0/model", "rank_0_0"),
        ("rank_13_2/model", "rank_13_2"),
        ("rank_00_0/model", None),
        ("rank_0/model", None),
        ("rank_0_0/model.4711.tmp", None),
        ("rank_0_0/model.txt", None),
        ("rank_0_0/other/model", None),
        ("inductor_cache/rank_0_0/model", None),
    ],
)
def test_a_model_belongs_to_its_rank(path: str, part: str | None) -> None:
    assert classify(VLLM_AOT, path) == part


@pytest.mark.parametrize(
    "path",
    [
        "backbone/vllm_compile_cache.py",
        "backbone/computation_graph.py",
        "backbone/cache_key_factors.json",
        "eagle_head/transformed_code.py",
        "backbone/artifact_compile_range_1_8192_subgraph_0",
        "backbone/artifact_shape_None_subgraph_3",
        "backbone/artifact_range_1_8/entry",
        f"backbone/triton_cache/{KEY}/kernel.json",
        f"backbone/triton_cache/0/{KEY}/kernel.json",
        # vLLM up to 0.9 has no prefix.
        "vllm_compile_cache.py",
        f"triton_cache/{KEY}/kernel.json",
    ],
)
def test_all_of_a_jit_tree_belongs_to_the_rank(path: str) -> None:
    assert classify(VLLM_JIT, f"rank_2_0/{path}") == "rank_2_0"
    assert classify(VLLM_JIT, path) is None
    assert classify(VLLM_AOT, f"rank_2_0/{path}") is None


@pytest.mark.parametrize(
    "path",
    [
        "rank_0_0/backbone/notes.txt",
        "rank_0_0/backbone/deeper/vllm_compile_cache.py",
        "rank_0_0/inductor_cache/vllm_compile_cache.py",
        "rank_0_0/backbone/artifact_x.lock",
        "rank_0_0/backbone/artifact_x/locks/y.lock",
    ],
)
def test_foreign_files_of_a_jit_tree(path: str) -> None:
    assert classify(VLLM_JIT, path) is None


def _mutations(path: str) -> st.SearchStrategy[str]:
    """The path with a piece of text put in somewhere."""
    piece = st.sampled_from(
        ["/", "//", "..", "/../", ".", "\x00", "\n", " ", "é", "-", "~", "a" * 250]
    )
    return st.builds(
        lambda at, text: path[:at] + text + path[at:], st.integers(0, len(path)), piece | st.text()
    )


SEEDS = [
    *INDUCTOR_FILES,
    *(f"inductor_cache/{path}" for path in INDUCTOR_FILES),
    "rank_0_0/model",
    "rank_0_0/backbone/artifact_range_1_8",
    *(f"rank_0_0/backbone/artifact_x/{path}" for path in INDUCTOR_FILES),
]


@given(st.sampled_from(LAYOUTS), st.sampled_from(SEEDS).flatmap(_mutations) | st.text())
def test_what_is_allowed_is_a_valid_path_of_a_valid_part(layout: str, path: str) -> None:
    part = classify(layout, path)
    try:
        check_path(path)
    except InvalidNameError:
        assert part is None
    if part not in (None, "shared"):
        found = re.fullmatch(r"rank_(\d+)_(\d+)", part)
        assert found is not None
        assert rank_part(int(found[1]), int(found[2]), 0) == f"{part}-d0"
