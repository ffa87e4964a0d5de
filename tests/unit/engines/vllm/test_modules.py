"""Modules of a start: which trees they used, and what is said of them at its end."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from aotcache.engines.vllm.jobs import Brought
from aotcache.engines.vllm.modules import NOT_COVERED, Module, end_line, holds_artifacts
from aotcache.protocol.names import VLLM_AOT, VLLM_JIT
from aotcache.protocol.record import TreeUsed

HASH = "a" * 64
PART = "rank_0_0-d0"


def _module(tmp_path: Path, cache_dir: str = "", tag: str = "backbone") -> Module:
    compilation = SimpleNamespace(cache_dir=cache_dir)
    model = SimpleNamespace(vllm_config=SimpleNamespace(compilation_config=compilation))
    return Module(model, tag, path=str(tmp_path / HASH / "rank_0_0/model"))


def _brought(**about: object) -> Brought:
    values = {
        "layout": VLLM_AOT,
        "hash": HASH,
        "seconds": 1.25,
        "moved_bytes": 5_800_000,
        "compile_seconds": 12.8,
        "installed": 31,
        **about,
    }
    return Brought(**values)  # type: ignore[arg-type]


def test_a_module_knows_its_tree(tmp_path: Path) -> None:
    module = _module(tmp_path)
    assert module.tree_path == str(tmp_path / HASH)
    assert module.hash == HASH
    assert module.trees(PART) == [TreeUsed(layout=VLLM_AOT, hash=HASH)]
    module.compiled, module.compile_seconds = True, 3.5
    assert module.trees(PART) == [TreeUsed(layout=VLLM_AOT, hash=HASH, compile_seconds=3.5)]


def test_the_older_loaders_tree_counts_where_it_holds_artifacts(tmp_path: Path) -> None:
    jit = tmp_path / "0123456789"
    module = _module(tmp_path, str(jit))
    (jit / "rank_0_0/backbone").mkdir(parents=True)
    (jit / "rank_0_0/backbone/computation_graph.py").write_text("")
    assert module.jit_path(PART) is None
    (jit / "rank_0_0/backbone/vllm_compile_cache.py").write_text("{}")
    assert module.jit_path(PART) == str(jit)
    assert module.jit_path("rank_1_0-d1") is None
    assert [(tree.layout, tree.hash) for tree in module.trees(PART)] == [
        (VLLM_AOT, HASH),
        (VLLM_JIT, "0123456789"),
    ]
    # Without AOT there is only the older one.
    module.path = ""
    assert [tree.layout for tree in module.trees(PART)] == [VLLM_JIT]


def test_where_the_handles_lie(tmp_path: Path) -> None:
    assert not holds_artifacts(str(tmp_path / "nowhere"))
    assert not holds_artifacts(str(tmp_path))
    (tmp_path / "vllm_compile_cache.py").write_text("{}")  # an old vLLM has no prefix
    assert holds_artifacts(str(tmp_path))


def test_a_configuration_without_a_directory(tmp_path: Path) -> None:
    module = _module(tmp_path)
    module.model.vllm_config.compilation_config = SimpleNamespace()
    assert module.jit_path(PART) is None


def test_a_hit_says_what_it_saved(tmp_path: Path) -> None:
    module = _module(tmp_path)
    module.loaded, module.load_seconds = True, 1.7
    assert end_line([module], [_brought()], 0.4) == (
        "hit: backbone aaaaaaaaaaaa loaded in 1.7 s instead of 12.8 s of compiling; "
        f"5.8 MB moved in 1.2 s, waited 0.4 s; not covered: {NOT_COVERED}"
    )


def test_a_second_start_here_is_no_hit(tmp_path: Path) -> None:
    module = _module(tmp_path)
    module.loaded, module.load_seconds = True, 1.7
    said = end_line([module], [], 0.0)
    assert said.startswith("on this disk already: backbone aaaaaaaaaaaa loaded in 1.7 s; nothing")
    found = end_line([module], [_brought(installed=0, moved_bytes=0)], 0.0)
    assert found.startswith("on this disk already")


@pytest.mark.parametrize(
    ("reason", "why", "said"),
    [
        ("", "unknown_hash: nothing is stored", "(unknown_hash: nothing is stored)"),
        ("source changed", "", "(vLLM refused the stored one: source changed)"),
        ("", "", "compiled in 16.9 s;"),
    ],
)
def test_a_miss_says_why(tmp_path: Path, reason: str, why: str, said: str) -> None:
    module = _module(tmp_path, tag="")
    module.compiled, module.compile_seconds = True, 16.9
    module.reason, module.why = reason, why
    line = end_line([module], [], 0.1)
    assert line.startswith("miss: aaaaaaaaaaaa compiled in 16.9 s")
    assert said in line
    assert "nothing moved, waited 0.1 s" in line


def test_one_of_two_that_was_compiled_is_a_miss(tmp_path: Path) -> None:
    loaded, compiled = _module(tmp_path), _module(tmp_path, tag="eagle_head")
    loaded.loaded = compiled.compiled = True
    line = end_line([loaded, compiled], [_brought(moved_bytes=999)], 0.0)
    assert line.startswith("miss: backbone")
    assert "eagle_head" in line
    assert "999 B moved" in line
