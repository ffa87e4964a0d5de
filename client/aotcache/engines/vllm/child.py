"""The engine's end of its companion: asks, waits as long as there is time, and lets go."""

from __future__ import annotations

import os
import select
import subprocess
import threading
import time
from contextlib import suppress

import msgspec

from aotcache.engines.vllm.jobs import Answer, Compiled, Fetch, Tell, Wait
from aotcache.local.python import our_python
from aotcache.protocol.v1.leases import HELD

_LONGEST = 3600.0  # seconds of one wait: the kernel's own limit is weeks, a deadline has none
PATIENCE = 60.0  # seconds that a companion may take to tell outcomes, nobody waits for it


class Companion:
    """Starts its process with the first job. Jobs are answered in order."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._buffer = b""
        self.unanswered = 0

    def ask(self, job: Fetch | Tell | Wait) -> None:
        """Raises OSError where no process can be started, or it has died."""
        self.say(job)
        self.unanswered += 1

    def say(self, job: Fetch | Tell | Wait | Compiled) -> None:
        """As `ask`, where there is no answer."""
        if self._process is None:
            self._process = subprocess.Popen(
                our_python("aotcache.engines.vllm.companion"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                # Ctrl-C and a supervisor's signals to the group are the engine's to answer.
                start_new_session=True,
            )
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(job) + b"\n")
        self._process.stdin.flush()

    def answer(self, timeout: float) -> Answer | None:
        """The next answer; None: it took longer than `timeout` seconds."""
        if self._process is None or not self.unanswered:
            return Answer(error="its companion process was not started", fatal=True)
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        end = time.monotonic() + timeout
        while b"\n" not in self._buffer:
            left = end - time.monotonic()
            if left <= 0:
                return None
            if not poll.poll(min(left, _LONGEST) * 1000):
                continue
            data = os.read(fd, 1 << 16)
            if not data:
                code = self._process.wait()
                return Answer(error=f"its companion process ended with code {code}", fatal=True)
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer = msgspec.json.decode(line, type=Answer)
        if answer.turn != HELD:
            self.unanswered -= 1
        return answer

    def kill(self) -> None:
        """What it was at is left: a pull that was killed leaves whole units only."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self._buffer, self.unanswered = b"", 0

    def leave(self, patience: float = PATIENCE) -> None:
        """Let it finish what it was asked and end, within so many seconds; nobody waits for it."""
        process = self._process
        if process is None:
            return
        self._process = None
        assert process.stdin is not None
        with suppress(OSError):
            process.stdin.close()

        def reap() -> None:
            try:
                process.wait(patience)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

        threading.Thread(target=reap, name="aotcache-companion", daemon=True).start()
