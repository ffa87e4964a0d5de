from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from aotcache.core.settling import Look, Settling, State

QUIET = 10.0
NOW = 1_000_000.0  # the wall clock where a test does not move it apart from `at`


def looks(settling: Settling, *steps: tuple[float, int, bool], newest: float = NOW) -> list[State]:
    """States after looks at (seconds, fingerprint, locked)."""
    return [
        settling.look(Look(fingerprint, newest, 1, locked), at, NOW + at)
        for at, fingerprint, locked in steps
    ]


def test_complete_when_nothing_was_written_for_the_quiet_time() -> None:
    assert looks(Settling(QUIET), (0, 1, False), (9.9, 1, False), (10, 1, False)) == [
        State.SETTLING,
        State.SETTLING,
        State.COMPLETE,
    ]


def test_every_write_starts_the_wait_again() -> None:
    states = looks(
        Settling(QUIET),
        (0, 1, False),
        (9, 2, False),
        (18, 2, False),
        (19, 2, False),
        (20, 3, False),
    )
    assert states == [
        State.SETTLING,
        State.GROWING,
        State.SETTLING,
        State.COMPLETE,
        State.GROWING,
    ]


def test_a_lock_holds_completion_back_but_not_the_quiet_time() -> None:
    states = looks(Settling(QUIET), (0, 1, True), (20, 1, True), (21, 1, False))
    assert states == [State.LOCKED, State.LOCKED, State.COMPLETE]


def test_a_write_is_seen_under_a_lock() -> None:
    assert looks(Settling(QUIET), (0, 1, True), (1, 2, True)) == [State.LOCKED, State.GROWING]


def test_what_was_completed_before_the_watcher_came_need_not_wait() -> None:
    old = looks(Settling(QUIET), (0, 1, False), newest=NOW - QUIET)
    younger = looks(Settling(QUIET), (0, 1, False), (1, 1, False), newest=NOW - QUIET + 1)
    assert old == [State.COMPLETE]
    assert younger == [State.SETTLING, State.COMPLETE]


def test_times_in_the_future_are_not_old() -> None:
    states = looks(Settling(QUIET), (0, 1, False), (10, 1, False), newest=NOW + 3_600)
    assert states == [State.SETTLING, State.COMPLETE]


def test_file_times_are_believed_once_only() -> None:
    """A second look sees writes itself: old times of new files (copied in) are not old writes."""
    assert looks(Settling(QUIET), (0, 1, False), (1, 2, False), newest=NOW - 3_600) == [
        State.COMPLETE,
        State.GROWING,
    ]


def test_a_part_that_went_away_begins_anew() -> None:
    settling = Settling(QUIET)
    looks(settling, (0, 1, False), (10, 1, False))
    assert settling.look(Look(1, NOW, 0, True), 11, NOW) is State.EMPTY
    assert looks(settling, (12, 1, False), newest=NOW + 12) == [State.SETTLING]


@dataclass
class Part:
    """What the machine does to a part, told from outside."""

    files: int = 0
    fingerprint: int = 0
    locked: bool = False
    written: list[float] = field(default_factory=list)


class Watched(RuleBasedStateMachine):
    """Whatever happens: COMPLETE only where nothing was written for the quiet time and no lock is
    held, and always then."""

    @initialize(quiet=st.integers(0, 5))
    def start(self, quiet: int) -> None:
        self.settling = Settling(float(quiet))
        self.part = Part()
        self.at = 0.0

    @rule()
    def write(self) -> None:
        self.part.files += 1
        self.part.fingerprint += 1
        self.part.written.append(self.at)

    @rule()
    def remove(self) -> None:
        self.part.files = 0
        self.part.fingerprint += 1

    @rule(locked=st.booleans())
    def lock(self, locked: bool) -> None:
        self.part.locked = locked

    @rule(seconds=st.integers(0, 8))
    def wait(self, seconds: int) -> None:
        self.at += seconds

    @rule()
    def look(self) -> None:
        part = self.part
        newest = part.written[-1] if part.written else 0.0
        state = self.settling.look(
            Look(part.fingerprint, newest, part.files, part.locked), self.at, self.at
        )
        quiet = self.at - newest >= self.settling.quiet
        if not part.files:
            assert state is State.EMPTY
        elif state is State.COMPLETE:
            assert quiet
            assert not part.locked
        elif state is State.LOCKED:
            assert part.locked

    @rule()
    def look_after_the_quiet_time(self) -> None:
        self.look()
        self.at += self.settling.quiet
        part = self.part
        if part.files and not part.locked:
            look = Look(part.fingerprint, part.written[-1], part.files, part.locked)
            assert self.settling.look(look, self.at, self.at) is State.COMPLETE


Watched.TestCase.settings = settings(max_examples=60, deadline=None)
TestWatched = Watched.TestCase
