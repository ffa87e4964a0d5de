"""Settling: when a part that is being written counts as complete. A pure state machine.

A part is complete when its files have not changed for `quiet` seconds, no Inductor lock is held,
and, for a rank, its `model` is there. An engine that dies leaves stale temporary files and locks
nobody holds; neither blocks publishing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class State(Enum):
    EMPTY = "nothing to publish yet"
    GROWING = "files were written since the last look"
    LOCKED = "a live process holds an Inductor lock"
    SETTLING = "waiting until nothing was written for a while"
    COMPLETE = "complete"


@dataclass(frozen=True, slots=True)
class Look:
    """One look at a part. Times in seconds.

    fingerprint  of the (path, size, mtime) of all its files
    newest       wall-clock time of the last write to any of them
    files        how many there are (for a rank, 0 until its model is there)
    """

    fingerprint: int
    newest: float
    files: int
    locked: bool


@dataclass(slots=True)
class Settling:
    """The looks at one part so far.

    `at` of a look is any clock that only goes forward; `now` is the wall clock, as the files'
    times.
    """

    quiet: float
    _fingerprint: int | None = None
    _since: float = 0.0

    def look(self, look: Look, at: float, now: float) -> State:
        if look.files == 0:
            self._fingerprint = None
            return State.EMPTY
        if look.fingerprint != self._fingerprint:
            first = self._fingerprint is None
            self._fingerprint = look.fingerprint
            # A first look believes the files' own times, so that what was completed while the
            # watcher was down need not wait. Times in the future (a clock that jumped) are not old.
            age = now - look.newest
            self._since = at - age if first and age > 0 else at
            if not first:
                return State.GROWING
        if look.locked:
            return State.LOCKED
        return State.COMPLETE if at - self._since >= self.quiet else State.SETTLING
