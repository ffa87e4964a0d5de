"""The engine's side of the disk: what it marks, records and tells of its own part."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from aotcache.engines.vllm import disk
from aotcache.engines.vllm.facts import Facts
from aotcache.engines.vllm.modules import Module
from aotcache.local.pulled import Note, read_note, write_note
from aotcache.local.records import read_records
from aotcache.local.state import TreeState
from aotcache.probe.platform import Detected
from aotcache.probe.trees import tree_path
from aotcache.protocol.names import VLLM_AOT, VLLM_JIT
from aotcache.protocol.record import TreeUsed
from support.small import add
from support.trees import H100, RECIPE

PART = "rank_0_0-d0"
MAIN, DRAFT = "a" * 64, "b" * 64
JIT = "0123456789"


@pytest.fixture
def known(tmp_path: Path) -> Facts:
    return Facts(
        cache_root=str(tmp_path),
        part=PART,
        expected_parts=("shared", PART),
        recipe=RECIPE,
        detected=Detected(platform=H100, notes={"driver": "580"}),
    )


def _module(known: Facts, tree_hash: str = MAIN, note: Note | None = None) -> Module:
    compilation = SimpleNamespace(cache_dir="")
    model = SimpleNamespace(vllm_config=SimpleNamespace(compilation_config=compilation))
    path = f"{tree_path(known.cache_root, VLLM_AOT, tree_hash)}/rank_0_0/model"
    add(Path(path).parents[1], "rank_0_0/model", b"model")
    return Module(model, "backbone", path=path, note=note)


def _note(known: Facts, layout: str, tree_hash: str, **about: object) -> Note:
    """Of a tree that was pulled and lies there."""
    values = {"recipe": RECIPE.id, "generation": 1, "content": tree_hash[0] * 32, **about}
    note = Note(
        namespace="default",
        layout=layout,
        hash=tree_hash,
        platform=H100.id,
        part=PART,
        **values,  # type: ignore[arg-type]
    )
    path = tree_path(known.cache_root, layout, tree_hash)
    Path(path).mkdir(parents=True, exist_ok=True)
    write_note(path, note)
    return note


def _marked(known: Facts) -> set[str]:
    return {Path(path).parent.name for path in Path(known.cache_root).rglob("loading/*/*.json")}


def _kept(known: Facts) -> list[tuple[str, str, str]]:
    files = Path(known.cache_root).rglob("outcomes/*.json")
    found = [json.loads(file.read_text()) for file in files]
    return sorted((one["hash"], one["outcome"], one["reason"]) for one in found)


def test_a_model_is_there_when_no_pull_of_it_was_cut_off(known: Facts) -> None:
    module = _module(known)
    assert disk.is_there(module.path)
    staging = Path(TreeState(module.tree_path).staging)
    staging.mkdir(parents=True)
    assert not disk.is_there(module.path)
    staging.rmdir()
    Path(module.path).write_bytes(b"")  # as a failed save leaves it
    assert not disk.is_there(module.path)
    Path(module.path).unlink()
    assert not disk.is_there(module.path)


def test_only_what_was_pulled_is_marked(known: Facts) -> None:
    marks = disk.Marks()
    marks.set(known, _module(known))
    assert _marked(known) == set()
    marks.set(known, _module(known, note=_note(known, VLLM_AOT, MAIN)))
    assert _marked(known) == {MAIN}
    marks.lift()
    assert _marked(known) == set()


def test_the_older_loaders_tree_is_marked_with_it_and_another_models_not(known: Facts) -> None:
    _note(known, VLLM_JIT, JIT)
    _note(known, VLLM_JIT, "9876543210", recipe="f" * 32)
    marks = disk.Marks()
    marks.set(known, _module(known, note=_note(known, VLLM_AOT, MAIN)))
    assert _marked(known) == {MAIN, JIT}
    marks.lift()


def test_a_module_that_is_refused_takes_its_own_marks_only(known: Facts) -> None:
    main = _module(known, MAIN, _note(known, VLLM_AOT, MAIN))
    draft = _module(known, DRAFT, _note(known, VLLM_AOT, DRAFT))
    marks = disk.Marks()
    marks.set(known, main)
    marks.set(known, draft)
    marks.lift(draft)
    assert _marked(known) == {MAIN}
    marks.lift()
    assert _marked(known) == set()


def test_marks_that_cannot_be_made_are_no_error(known: Facts) -> None:
    module = _module(known, note=_note(known, VLLM_AOT, MAIN))
    Path(TreeState(module.tree_path).loading).parent.write_bytes(b"in the way")
    marks = disk.Marks()
    marks.set(known, module)
    marks.lift()


CRASH = """
import os, sys
import msgspec
from aotcache.local.loading import mark
from aotcache.local.pulled import Note

mark(sys.argv[1], msgspec.json.decode(sys.argv[2], type=Note))
os._exit(1)
"""


def test_a_crash_is_kept_as_an_outcome(known: Facts) -> None:
    module = _module(known)
    note = _note(known, VLLM_AOT, MAIN)
    subprocess.run(
        [sys.executable, "-c", CRASH, module.tree_path, msgspec.json.encode(note).decode()],
        check=False,
    )
    assert disk.take_crashes(known.cache_root) == [note]
    assert _kept(known) == [(MAIN, "crashed", "the engine died with it")]
    assert disk.has_outcomes(known.cache_root)
    assert disk.take_crashes(known.cache_root) == []
    assert len(_kept(known)) == 1


def test_an_outcome_is_kept_once_a_pull(known: Facts) -> None:
    note = _note(known, VLLM_AOT, MAIN)
    path = tree_path(known.cache_root, VLLM_AOT, MAIN)
    disk.keep(path, note, "loaded", "")
    told = disk.note_of(path, PART)
    assert told is not None
    assert told.outcome == "loaded"
    disk.keep(path, told, "loaded", "")
    assert _kept(known) == [(MAIN, "loaded", "")]
    # A new pull of the part is another.
    disk.keep(path, _note(known, VLLM_AOT, MAIN, generation=2), "load_failed", "x" * 5000)
    assert [(what, len(why)) for _, what, why in _kept(known)] == [
        ("load_failed", 2000),
        ("loaded", 0),
    ]


def test_what_an_engine_says_in_several_lines_is_told_in_one(known: Facts) -> None:
    path = tree_path(known.cache_root, VLLM_AOT, MAIN)
    disk.keep(path, _note(known, VLLM_AOT, MAIN), "load_failed", "two\n\x1b[31mlines")
    assert _kept(known) == [(MAIN, "load_failed", "two\\n\\x1b[31mlines")]


def test_what_was_not_used_at_first_is_marked_and_told_when_it_is(known: Facts) -> None:
    early = _note(known, VLLM_AOT, MAIN)
    path = tree_path(known.cache_root, VLLM_AOT, MAIN)
    disk.keep(path, early, "unused", "vLLM selected another tree")
    module = _module(known, note=disk.note_of(path, PART))
    marks = disk.Marks()
    marks.set(known, module)
    assert _marked(known) == {MAIN}
    marks.lift()
    # Two starts loaded it at once, and each had read the note before.
    for _ in range(2):
        disk.keep(path, early, "loaded", "")
    assert sorted(what for _, what, _ in _kept(known)) == ["loaded", "unused"]
    marks.set(known, _module(known, note=disk.note_of(path, PART)))
    assert _marked(known) == set()


def test_what_was_pulled_for_this_start_and_not_selected_is_unused(known: Facts) -> None:
    for tree_hash, recipe in ((MAIN, RECIPE.id), (DRAFT, RECIPE.id), ("c" * 64, "f" * 32)):
        _note(known, VLLM_AOT, tree_hash, recipe=recipe)
    _note(known, VLLM_AOT, "d" * 64, recipe="f" * 32)
    disk.keep_unused(known, {(VLLM_AOT, MAIN)}, {(VLLM_AOT, "c" * 64)})
    said = "vLLM selected another tree"
    assert _kept(known) == [(DRAFT, "unused", said), ("c" * 64, "unused", said)]
    disk.keep_unused(known, {(VLLM_AOT, MAIN)}, ())
    assert len(_kept(known)) == 2


def test_a_note_that_cannot_be_read_is_none(known: Facts) -> None:
    path = tree_path(known.cache_root, VLLM_AOT, MAIN)
    _note(known, VLLM_AOT, MAIN)
    Path(TreeState(path).pulled, f"{PART}.json").write_bytes(b"{}")
    assert disk.note_of(path, PART) is None


def test_records_name_all_trees_of_the_start(known: Facts) -> None:
    module = _module(known)
    module.compiled, module.compile_seconds = True, 16.9
    trees = [TreeUsed(layout=VLLM_AOT, hash=MAIN, compile_seconds=16.9)]
    disk.write_records(known, module, trees)
    (record,) = read_records(module.tree_path)
    assert (record.part, record.platform, record.recipe) == (PART, H100, RECIPE)
    assert (record.compile_seconds, record.expected_parts) == (16.9, ("shared", PART))
    assert record.notes == {"driver": "580"}
    # A start that loads it knows no seconds, and keeps those of the compile.
    module.compiled = False
    used = [TreeUsed(layout=VLLM_AOT, hash=name) for name in (MAIN, DRAFT)]
    disk.write_records(known, module, used)
    (record,) = read_records(module.tree_path)
    assert record.compile_seconds == 16.9
    assert [tree.hash for tree in record.trees] == [MAIN, DRAFT]


def test_a_start_that_has_all_asks_nobody(known: Facts) -> None:
    assert not disk.has_all(known)
    main = _module(known)
    used = [TreeUsed(layout=VLLM_AOT, hash=name) for name in (MAIN, DRAFT)]
    disk.write_records(known, main, used)
    assert not disk.has_all(known)  # the draft's is not there
    _module(known, DRAFT)
    assert disk.has_all(known)
    other = replace(known, recipe=replace(RECIPE, model="org/other"))
    assert not disk.has_all(other)
    elsewhere = replace(known, detected=Detected(platform=replace(H100, arch="sm_80"), notes={}))
    assert not disk.has_all(elsewhere)
    assert read_note(main.tree_path, PART) is None
