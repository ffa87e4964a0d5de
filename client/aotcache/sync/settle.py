"""Look at a tree on this disk until its parts are complete."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field

from aotcache.core.settling import Look, Settling, State
from aotcache.probe.trees import FoundTree, ScannedFile, TreeScan, locks_held, scan_tree
from aotcache.protocol.names import SHARED, VLLM_AOT

QUIET = 2.0  # seconds without a write after which a part counts as settled


@dataclass(slots=True)
class TreeLooks:
    """The looks at one tree so far: `states` by directory (`shared`, `rank_0_0`)."""

    tree: FoundTree
    quiet: float = QUIET
    scan: TreeScan | None = None
    states: dict[str, State] = field(default_factory=dict)
    _settling: dict[str, Settling] = field(default_factory=dict)

    def look(self) -> TreeScan:
        """Scan the tree and bring `states` up to date."""
        scan = scan_tree(self.tree.layout, self.tree.path)
        locked = bool(locks_held(self.tree.path))
        by_folder: dict[str, list[ScannedFile]] = defaultdict(list)
        for file in scan.files:
            by_folder[file.part_dir].append(file)
        for folder in self.states:
            by_folder.setdefault(folder, [])
        at, now = time.monotonic(), time.time()
        for folder, files in by_folder.items():
            settling = self._settling.setdefault(folder, Settling(self.quiet))
            self.states[folder] = settling.look(self._one(folder, files, locked), at, now)
        self.scan = scan
        return scan

    def _one(self, folder: str, files: list[ScannedFile], locked: bool) -> Look:
        if not _has_what_makes_it_complete(self.tree.layout, folder, files):
            return Look(fingerprint=0, newest=0.0, files=0, locked=locked)
        return Look(
            fingerprint=hash(frozenset((f.path, f.size, f.mtime_ns) for f in files)),
            newest=max(f.mtime_ns for f in files) / 1e9,
            files=len(files),
            locked=locked,
        )

    @property
    def complete(self) -> list[str]:
        return sorted(name for name, state in self.states.items() if state is State.COMPLETE)

    @property
    def waiting(self) -> dict[str, str]:
        """What is still being written, and why it is not complete. A directory in which nothing
        has to be published yet (no `model`) is not waited for: it may never get one."""
        return {
            name: state.value
            for name, state in sorted(self.states.items())
            if state not in (State.COMPLETE, State.EMPTY)
        }

    def wait(self, timeout: float) -> TreeScan:
        """Look until every part is complete, at most `timeout` seconds."""
        end = time.monotonic() + timeout
        scan = self.look()
        while self.waiting and time.monotonic() < end:
            time.sleep(min(0.25, self.quiet))
            scan = self.look()
        return scan


def _has_what_makes_it_complete(layout: str, folder: str, files: list[ScannedFile]) -> bool:
    if folder == SHARED:
        return bool(files)
    # vLLM writes the one last: the serialized forward, or the handles of the older layout.
    last = "model" if layout == VLLM_AOT else "vllm_compile_cache.py"
    return any(file.path.rpartition("/")[2] == last for file in files)
