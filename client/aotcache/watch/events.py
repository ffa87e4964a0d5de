"""File system events: which directories that hold trees have changed.

Only the few directories that hold trees are watched, never the thousands inside them: a new tree
gives an event, what grows inside one is found by the watcher's own looks. Network file systems give
no events for what another host writes; there the looks alone have to do.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import ObservedWatch

logger = logging.getLogger(__name__)

_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "ceph", "glusterfs", "lustre", "gpfs", "beegfs", "9p"}


def on_network(path: str, mountinfo: str = "/proc/self/mountinfo") -> bool:
    """Whether a path lies on a file system that other hosts write to (FUSE counts as one)."""
    try:
        with open(mountinfo, encoding="utf-8", errors="surrogateescape") as file:
            mounts = [line.split() for line in file]
    except OSError:
        return False
    path = os.path.realpath(path)
    best, kind = "", ""
    for words in mounts:
        point = words[4].replace("\\040", " ")
        if (path == point or path.startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
            best, kind = point, words[words.index("-") + 1]
    return kind in _NETWORK or kind.startswith("fuse")


class Events:
    """Sets `changed` whenever something appears in one of the watched directories, or goes."""

    def __init__(self) -> None:
        self.changed = threading.Event()
        self._observer = Observer()
        self._watched: dict[str, ObservedWatch | None] = {}
        self._handler = _Handler(self.changed)
        self._observer.start()

    def watch(self, directories: Iterable[str]) -> None:
        """Watch these too, where they exist and are not watched already."""
        for directory in directories:
            if not os.path.isdir(directory):
                self._forget(directory)
            elif directory not in self._watched:
                self._watched[directory] = self._schedule(directory)
                # What was made in it before it was watched gave no event.
                self.changed.set()

    def _schedule(self, directory: str) -> ObservedWatch | None:
        try:
            return self._observer.schedule(self._handler, directory, recursive=False)
        except OSError as error:
            # Out of inotify watches: the looks at intervals find everything, only later.
            logger.warning("no events for %s (%s): it is looked at instead", directory, error)
            return None

    def _forget(self, directory: str) -> None:
        """A watch dies with its directory; one of the same name later needs a new one."""
        watch = self._watched.pop(directory, None)
        if watch is not None:
            self._observer.unschedule(watch)

    def stop(self) -> None:
        self._observer.stop()
        self._observer.join(5)


class _Handler(FileSystemEventHandler):
    def __init__(self, changed: threading.Event) -> None:
        self._changed = changed

    def on_created(self, event: FileSystemEvent) -> None:  # noqa: ARG002 (watchdog's signature)
        self._changed.set()

    def on_deleted(self, event: FileSystemEvent) -> None:  # noqa: ARG002 (watchdog's signature)
        self._changed.set()

    def on_moved(self, event: FileSystemEvent) -> None:  # noqa: ARG002 (watchdog's signature)
        self._changed.set()
