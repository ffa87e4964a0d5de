"""The engine's side of the disk: records, marks and outcomes of its own part."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Container, Sequence
from contextlib import suppress

import msgspec

from aotcache import settings
from aotcache.engines.vllm.facts import Facts
from aotcache.engines.vllm.modules import Module, holds_artifacts
from aotcache.errors import AotcacheError, LocalError
from aotcache.local.loading import Mark, mark, take_crashed
from aotcache.local.outcomes import has_kept, keep_outcome
from aotcache.local.pulled import Note, drop_note, read_note, write_note
from aotcache.local.records import read_record, write_record
from aotcache.local.state import TreeState
from aotcache.probe.trees import find_trees, tree_folders, tree_path
from aotcache.protocol.names import SHARED, VLLM_AOT, VLLM_JIT, part_directory
from aotcache.protocol.recipe import graph_differences, in_words
from aotcache.protocol.record import MAX_TREES_USED, EngineRecord, TreeUsed, all_trees
from aotcache.protocol.v1.explain import Explain
from aotcache.protocol.v1.outcomes import Outcome

logger = logging.getLogger("vllm.aotcache")

_UNTRIED = ("", "unused")  # outcomes of a pulled part that this node's engine has not loaded yet


def is_there(model_path: str) -> bool:
    """Whether a `model` is on the disk, and no pull of its tree has been cut off."""
    try:
        size = os.stat(model_path).st_size
        tree_path = os.path.dirname(os.path.dirname(model_path))
        return size > 0 and not os.path.isdir(TreeState(tree_path).staging)
    except (OSError, LocalError):
        return False


def has_all(known: Facts) -> bool:
    """Whether an earlier start of this recipe left all its trees here, by its records, or a pull
    of what they are."""
    for tree in find_trees(known.cache_root):
        note = note_of(tree.path, known.part)
        if note is not None and note.recipe == known.recipe.id:
            return _holds(known, TreeUsed(layout=tree.layout, hash=tree.hash))
        record = None
        with suppress(AotcacheError):
            record = read_record(tree.path, known.part)
        if (
            record is not None
            and (record.recipe, record.platform) == (known.recipe, known.detected.platform)
            and record.trees
            and all(_holds(known, used) for used in record.trees)
        ):
            return True
    return False


def _holds(known: Facts, used: TreeUsed) -> bool:
    path = tree_path(known.cache_root, used.layout, used.hash)
    rank = os.path.join(path, part_directory(known.part))
    if used.layout == VLLM_AOT:
        return is_there(os.path.join(rank, "model"))
    return holds_artifacts(rank)


def note_of(tree_path: str, part: str) -> Note | None:
    """The note of a part that was pulled; None: it was not, or nothing can be read of it."""
    try:
        return read_note(tree_path, part)
    except (AotcacheError, OSError) as error:
        logger.debug("aotcache: no note of %s %s: %s", tree_path, part, error)
        return None


def other_graph(note: Note | None, known: Facts) -> str:
    """How the start that compiled a pulled part differs from this one in what makes another graph;
    empty: it does not, or the operator allows it. For what was pulled by who knows no recipe."""
    if note is None or note.started is None or settings.is_on(os.environ.get(settings.ANY_RECIPE)):
        return ""
    found = graph_differences(note.started, known.recipe)
    if not found:
        return ""
    return (
        f"it was compiled for another graph: {in_words(found)}; {settings.ANY_RECIPE}=1 allows it"
    )


def forget(tree_path: str, part: str) -> None:
    """That a part was pulled."""
    try:
        drop_note(tree_path, part)
    except (AotcacheError, OSError) as error:
        logger.debug("aotcache: the note of %s %s stays: %s", tree_path, part, error)


class Marks:
    """The marks of this process's loads. Where none can be made (a read-only disk) a crash is not
    noticed at the next start, and nothing else is lost."""

    def __init__(self) -> None:
        self._marks: list[tuple[Module, Mark]] = []
        self._over = False

    def set(self, known: Facts, module: Module) -> None:
        """Mark the load of a pulled part, and of what was pulled for the older loader with it. One
        that has run here before is no suspect: a start that is killed from outside leaves a mark
        too, and would cost a compile."""
        if module.note is None or module.note.outcome not in _UNTRIED or self._over:
            return
        noted = [(module.tree_path, module.note)]
        for tree in find_trees(known.cache_root):
            beside = note_of(tree.path, known.part) if tree.layout == VLLM_JIT else None
            # Those of another model have no part in a crash.
            if beside is not None and beside.recipe == module.note.recipe:
                noted.append((tree.path, beside))
        for path, note in noted:
            try:
                self._marks.append((module, mark(path, note)))
            except LocalError as error:
                logger.debug("aotcache: %s", error)

    def lift(self, module: Module | None = None) -> None:
        """Of one module, or all."""
        kept = []
        for owner, one in self._marks:
            if module is None or owner is module:
                one.lift()
            else:
                kept.append((owner, one))
        self._marks = kept

    def end(self) -> None:
        """Lift them, and set no more: this process is asked to end."""
        self._over = True
        self.lift()

    def leave(self, module: Module | None = None) -> None:
        """Leave those of one module, or all, for the next start to find: this process goes down
        with what it loaded."""
        self._marks = [m for m in self._marks if module is not None and m[0] is not module]


def crashed_path(cache_root: str, note: Note) -> str:
    """Where a tree that made the engine crash was moved."""
    return TreeState(tree_path(cache_root, note.layout, note.hash)).crashed


def take_crashes(cache_root: str) -> list[Note]:
    """What an earlier start of this node crashed with: kept as outcomes, poison from now on."""
    notes = []
    for folder in tree_folders(cache_root):
        try:
            found = take_crashed(folder)
        except LocalError as error:
            logger.info("aotcache: %s", error)  # such a tree is not loaded: `has_crashed`
            continue
        for note in found:
            _keep(os.path.join(folder, note.hash), note, "crashed", "the engine died with it")
        notes += found
    return notes


def keep(tree_path: str, note: Note, outcome: str, reason: str) -> None:
    """Keep an outcome of a pulled part, once a pull; what was not used at first may be later."""
    note = note_of(tree_path, note.part) or note  # another start here may have kept one since
    if note.outcome in _UNTRIED and note.outcome != outcome:
        _keep(tree_path, note, outcome, reason)
        with suppress(LocalError):
            write_note(tree_path, msgspec.structs.replace(note, outcome=outcome))


def _keep(tree_path: str, note: Note, outcome: str, reason: str) -> None:
    try:
        keep_outcome(
            tree_path,
            Outcome(
                layout=note.layout,
                hash=note.hash,
                platform=note.platform,
                part=note.part,
                generation=note.generation,
                outcome=outcome,
                reason=(reason if reason.isprintable() else ascii(reason)[1:-1])[:2000],
                node=socket.gethostname()[:255],
                seconds=note.seconds,
                bytes=note.bytes,
                namespace=note.namespace,
            ),
        )
    except LocalError as error:
        logger.debug("aotcache: an outcome is lost: %s", error)


def keep_miss(known: Facts, module: Module, namespace: str) -> None:
    """That its tree was looked for, was not stored, and had to be compiled."""
    try:
        keep_outcome(
            module.tree_path,
            Explain(
                layout=VLLM_AOT,
                hash=module.hash,
                platform=known.detected.platform,
                namespace=namespace,
                parts=(SHARED, known.part),
                recipe=known.recipe,
                hash_factors=module.hash_factors(),
                node=socket.gethostname()[:255],
            ),
        )
    except (AotcacheError, ValueError) as error:
        logger.debug("aotcache: a miss is not told: %s", error)


def keep_unused(
    known: Facts, used: Container[tuple[str, str]], brought: Container[tuple[str, str]]
) -> None:
    """What was pulled for this start, by it or for its recipe before it, and not selected."""
    for tree in find_trees(known.cache_root):
        note = note_of(tree.path, known.part)
        name = (tree.layout, tree.hash)
        if note is None or name in used:
            continue
        if name in brought or note.recipe == known.recipe.id:
            keep(tree.path, note, "unused", "vLLM selected another tree")


def write_records(known: Facts, module: Module, trees: Sequence[TreeUsed]) -> None:
    """Write what this process knows beside the module's trees, for whoever publishes them, and for
    the next start here."""
    factors = module.hash_factors()
    for used in module.trees(known.part):
        path = tree_path(known.cache_root, used.layout, used.hash)
        before = None
        with suppress(AotcacheError):
            before = read_record(path, known.part)
        seconds = used.compile_seconds
        if seconds is None and before is not None:
            seconds = before.compile_seconds
        expected = [p for p in known.expected_parts if p != SHARED or used.layout == VLLM_AOT]
        record = EngineRecord(
            layout=used.layout,
            hash=used.hash,
            part=known.part,
            platform=known.detected.platform,
            recipe=known.recipe,
            expected_parts=tuple(expected),
            compile_seconds=seconds,
            hash_factors=factors,
            notes=known.detected.notes,
            trees=all_trees([trees])[:MAX_TREES_USED],
        )
        if record != before:
            write_record(path, record)


def has_outcomes(cache_root: str) -> bool:
    return any(has_kept(folder) for folder in tree_folders(cache_root))
