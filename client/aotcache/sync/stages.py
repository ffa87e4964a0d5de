"""Stages: files that are staged together and installed together, one stage after the other."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor

from aotcache.local.install import install
from aotcache.local.staging import Staging
from aotcache.protocol.manifest import FileEntry
from aotcache.sync.fetch import Consume


class Stage:
    """entries: all files of it. path: where they are staged, by whoever it is."""

    def __init__(self, path: str, entries: Sequence[FileEntry]) -> None:
        self.path = path
        self.entries = entries


class OwnStage(Stage):
    """Its directories are made while the first bytes are on their way."""

    def __init__(
        self, path: str, tree_path: str, entries: Sequence[FileEntry], making: Executor
    ) -> None:
        super().__init__(path, entries)
        self._staging = making.submit(Staging, path, tree_path, entries)
        self.to: dict[str, list[FileEntry]] = defaultdict(list)
        for entry in entries:
            self.to[entry.digest].append(entry)

    def write(self, digest: str, size: int, chunks: Iterable[memoryview]) -> None:
        self._staging.result().write(digest, size, chunks, self.to[digest])

    def wait(self) -> None:
        """Until it is there, where nothing was written to it. Raises LocalError."""
        self._staging.result()

    def close(self) -> None:
        """Nothing is written any more."""
        if self._staging.exception() is None:
            self._staging.result().close()


class Installing:
    """Installs stages into a tree in their order, each when it and all before it are staged.
    Thread-safe."""

    def __init__(
        self, tree_path: str, stages: Sequence[Stage], before: Callable[[Stage], None]
    ) -> None:
        """before: is told of each that is about to be installed."""
        self._tree_path = tree_path
        self._left = list(stages)
        self._before = before
        self._staged: set[str] = set()
        self._lock = threading.Lock()
        self.begun = False

    def staged(self, stage: Stage) -> None:
        """All of its files are written. Raises LocalError."""
        with self._lock:
            self._staged.add(stage.path)
            while self._left and self._left[0].path in self._staged:
                ready = self._left[0]
                self._before(ready)
                self.begun = True
                install(ready.path, self._tree_path)
                del self._left[0]

    @property
    def half(self) -> bool:
        """Something is installed, perhaps, and not all of it."""
        return self.begun and bool(self._left)


def consumer(stages: Sequence[OwnStage]) -> Consume:
    """Writes a blob to all stages that have it."""

    def consume(digest: str, size: int, chunks: Iterable[memoryview]) -> None:
        taking = [stage for stage in stages if digest in stage.to]
        if len(taking) > 1:  # the same bytes under two names
            chunks = [memoryview(b"".join(chunks))]
        for stage in taking:
            stage.write(digest, size, chunks)

    return consume
