"""One decorated module of this process, and what is said of all of them at the end of a start."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from aotcache.engines.vllm import facts
from aotcache.engines.vllm.jobs import Brought
from aotcache.local.pulled import Note
from aotcache.protocol.names import VLLM_AOT, VLLM_JIT, part_directory
from aotcache.protocol.record import TreeUsed

NOT_COVERED = "graph capture, weights, FlashInfer and other caches outside the tree"


@dataclass(slots=True)
class Module:
    """model: vLLM's own object. path: of its `model` file, known at the hook. reason: vLLM's own
    for a load that it refused; why: ours for not having it; failed: that is an error, no miss;
    missed: the service said that it is not stored. libraries: C++ libraries of its tree before the
    load; rebuilt: how many came in spite of it."""

    model: Any
    tag: str
    path: str = ""
    loaded: bool = False
    compiled: bool = False
    load_seconds: float = 0.0
    compile_seconds: float = 0.0
    reason: str = ""
    why: str = ""
    failed: bool = False
    missed: bool = False
    note: Note | None = None
    libraries: int = 0
    rebuilt: int = 0
    _factors: dict[str, str] | None = None

    @property
    def tree_path(self) -> str:
        return os.path.dirname(os.path.dirname(self.path))

    @property
    def hash(self) -> str:
        return os.path.basename(self.tree_path)

    def hash_factors(self) -> dict[str, str]:
        """What its hash is made of, found out once: it takes a look at every file of the model's
        source."""
        if self._factors is None:
            self._factors = facts.hash_factors(self.model)
        return self._factors

    def jit_path(self, part: str) -> str | None:
        """The tree of the older loader that this module's artifacts lie in, if it has one: a path
        from the configuration that the compile or the load has filled in."""
        path = getattr(self.model.vllm_config.compilation_config, "cache_dir", "")
        found = os.path.join(path, part_directory(part))
        return path if path and holds_artifacts(found) else None

    def trees(self, part: str) -> list[TreeUsed]:
        seconds = self.compile_seconds if self.compiled else None
        used = []
        if self.path:
            used.append(TreeUsed(layout=VLLM_AOT, hash=self.hash, compile_seconds=seconds))
        jit = self.jit_path(part)
        if jit is not None:
            name = os.path.basename(jit)
            used.append(TreeUsed(layout=VLLM_JIT, hash=name, compile_seconds=seconds))
        return used


def holds_artifacts(rank_path: str) -> bool:
    """With one artifact for all the directory holds only what explains it, and no handles."""
    try:
        prefixes = os.listdir(rank_path)
    except OSError:
        return False
    return any(
        os.path.exists(os.path.join(rank_path, prefix, "vllm_compile_cache.py"))
        for prefix in (*prefixes, "")
    )


def end_line(
    modules: Sequence[Module],
    brought: Iterable[Brought],
    waited: float,
    *,
    cut: bool = False,
    for_others: float = 0.0,
) -> str:
    """What this start got out of the cache, in one line. cut: a pull was under way when the budget
    ended, so that nobody knows how much of it came. for_others: seconds waited for nodes that were
    compiling it."""
    moved = list(brought)
    # An encoder that no request may reach is built, and never run.
    ran = [module for module in modules if module.loaded or module.compiled]
    compiled = [module for module in ran if module.compiled]
    if compiled:
        head = "not pulled" if any(module.failed for module in compiled) else "miss"
    elif ran:
        pulled = cut or any(one.installed for one in moved)
        head = "hit" if pulled else "on this disk already"
    else:
        head = "not used"
    said = "; ".join(_said(module, moved) for module in ran) or "nothing was loaded or compiled"
    size = sum(one.moved_bytes for one in moved)
    seconds = sum(one.seconds for one in moved)
    fetched = f"{_size(size)} moved in {seconds:.1f} s, " if moved else "nothing moved, "
    if cut:
        fetched = "a pull was cut off, "
    if any(one.unsigned for one in moved):
        fetched += "unsigned parts accepted, "
    patience = f"waited {waited:.1f} s"
    if for_others:
        patience += f" and {for_others:.1f} s for another node that compiled"
    return f"{head}: {said}; {fetched}{patience}; not covered: {NOT_COVERED}"


def _said(module: Module, moved: Sequence[Brought]) -> str:
    name = f"{module.tag} {module.hash[:12]}".strip()
    if module.loaded:
        there = [one.compile_seconds for one in moved if one.hash == module.hash]
        saved = f" instead of {there[0]:.1f} s of compiling" if there and there[0] else ""
        again = f", {module.rebuilt} C++ libraries built again" if module.rebuilt else ""
        return f"{name} loaded in {module.load_seconds:.1f} s{saved}{again}"
    refused = f"vLLM refused the stored one: {module.reason}" if module.reason else module.why
    why = f" ({refused})" if refused else ""
    return f"{name} compiled in {module.compile_seconds:.1f} s{why}"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
