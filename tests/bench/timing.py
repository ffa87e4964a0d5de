"""Whole processes, timed in turns."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of one process and its children: seconds, and seconds of CPU (user and system, the
    servers' not counted)."""

    seconds: float
    cpu_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """command: of round n; before: what is done untimed ahead of it; check: ends the benchmark if
    round n, whose standard output it gets, did not do its work; rounds: how many at the most, for
    those so slow that a difference shows without more."""

    name: str
    command: Callable[[int], Sequence[str]]
    env: Mapping[str, str]
    before: Callable[[], None] = lambda: None
    check: Callable[[int, str], None] = lambda _round, _output: None
    rounds: int | None = None


def alternate(contestants: Iterable[Contestant], rounds: int) -> dict[str, list[Sample]]:
    """Everyone once a round, in an order drawn anew each round so that nobody always follows the
    same one. Round 0 does not count: it fills the page cache and Python's compiled files for all
    alike; those with few rounds are not in it. Each run starts with nothing waiting to be written
    back."""
    contestants = list(contestants)
    samples: dict[str, list[Sample]] = {contestant.name: [] for contestant in contestants}
    order = random.Random(0)
    for number in range(rounds + 1):
        for contestant in order.sample(contestants, len(contestants)):
            if contestant.rounds is not None and not 0 < number <= contestant.rounds:
                continue
            contestant.before()
            os.sync()
            output, sample = timed(contestant.command(number), contestant.env)
            contestant.check(number, output)
            if number:
                samples[contestant.name].append(sample)
    return samples


def timed(command: Sequence[str], env: Mapping[str, str]) -> tuple[str, Sample]:
    """Standard output and sample of a process that has to succeed."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        begin = time.perf_counter()
        process = subprocess.Popen(command, env=env, stdout=output, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            sys.exit(f"{command} failed with {process.returncode}:\n{errors.read()[-3000:]}")
        cpu = usage.ru_utime + usage.ru_stime
        return output.read(), Sample(round(seconds, 4), round(cpu, 4))
