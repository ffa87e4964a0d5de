"""`exec`: run a program with its compile cache pulled before and published after."""

from __future__ import annotations

import logging
import math
import os
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable
from typing import Any, Protocol

import click

from aotcache import settings
from aotcache.cli import options
from aotcache.engines.vllm.command import is_vllm
from aotcache.errors import AotcacheError, UsageError

logger = logging.getLogger("aotcache")


class Cache(Protocol):
    """What `exec` needs of a command's cache. Each but the first raises AotcacheError, and none
    after `connect` did."""

    name: str

    def environment(self, base: dict[str, str]) -> dict[str, str]:
        """The environment in which the command uses the cache, or its own where it cannot."""

    def connect(self) -> None: ...

    def fetch(self) -> None: ...

    def publish(self, wait: float) -> None:
        """wait: seconds to let the cache settle."""


@click.command(
    name="exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
)
@click.option("--key", help="Name of the cache; one per program and model. Not for `vllm serve`.")
@options.cache_root
@options.platform
@click.option(
    "--deadline",
    envvar=settings.DEADLINE,
    default=settings.DEFAULT_DEADLINE,
    show_default=True,
    show_envvar=True,
    help="Seconds that COMMAND waits for the pull at most.",
)
@click.option("--no-publish", is_flag=True, help="Only pull.")
@click.option("--wait", default=30.0, show_default=True, help="Seconds to let the cache settle.")
@options.transfer
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(
    key: str | None,
    cache_root: str,
    platform_from: str | None,
    deadline: float,
    no_publish: bool,
    wait: float,
    command: tuple[str, ...],
    **site: Any,
) -> None:
    """Run COMMAND with its compile cache: pull it, run, publish what is new.

    `vllm serve …` finds its trees by what it is asked to run, and the vLLM plugin does the rest;
    the cache of any other program is named by --key. Put `--` before COMMAND. Its exit code is
    COMMAND's own. Whatever goes wrong with the cache is one warning, and COMMAND runs and compiles
    as it would without.
    """
    if math.isnan(deadline):
        raise UsageError("--deadline nan: say seconds, or inf to wait for the whole pull")
    cache: Cache
    if is_vllm(command):
        if key is not None:
            raise UsageError("--key is not for `vllm serve`, which finds its trees by itself")
        from aotcache.cli.serve_cache import ServeCache

        cache = ServeCache(command, cache_root, platform_from, site, publishes=not no_publish)
    else:
        if key is None:
            raise UsageError("name the program's cache: `aotcache exec --key NAME -- COMMAND`")
        from aotcache.cli.key_cache import KeyCache

        cache = KeyCache(key, cache_root, command, platform_from, site)
    signals = _Signals()
    fetching = None
    begin = time.monotonic()
    try:
        cache.connect()
    except AotcacheError as error:
        logger.warning("%s is not used: %s", cache.name, error)
    else:
        fetching = _fetch(cache, deadline)
    # One budget for both: a plugin in COMMAND waits no longer than what is left of it.
    left = max(0.0, deadline - (time.monotonic() - begin))
    environment = cache.environment({**os.environ, settings.DEADLINE: f"{left:.1f}"})
    code = _run(command, environment, signals)
    if fetching is not None and code == 0 and not no_publish:
        _publish(cache, fetching, wait)
    if fetching is not None and fetching.is_alive():
        # The interpreter would wait for the threads of its pull, which may hear nothing for a
        # minute. One that is cut off leaves whole units only.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise SystemExit(code)


def _fetch(cache: Cache, deadline: float) -> threading.Thread:
    """Pull, and wait for it `deadline` seconds at most. What takes longer goes on beside the
    command: nothing that is there already is ever replaced."""

    def fetch() -> None:
        try:
            cache.fetch()
        except AotcacheError as error:
            logger.warning("%s is not used: %s", cache.name, error)

    fetching = threading.Thread(target=fetch, daemon=True)
    fetching.start()
    fetching.join(min(deadline, threading.TIMEOUT_MAX))
    if fetching.is_alive():
        logger.warning(
            "%s took over %.0f s to pull (--deadline): starting without it", cache.name, deadline
        )
    return fetching


def _publish(cache: Cache, fetching: threading.Thread, wait: float) -> None:
    if fetching.is_alive():
        # Said already, when the deadline passed; a service that does not answer is not asked
        # again, the program has ended.
        logger.info("%s is not published: its pull has not ended", cache.name)
        return
    try:
        cache.publish(wait)
    except AotcacheError as error:
        logger.warning("%s is not published: %s", cache.name, error)


def _run(command: tuple[str, ...], environment: dict[str, str], signals: _Signals) -> int:
    """Run the command, hand signals on, return its exit code as a shell gives it."""
    early: list[int] = []
    signals.go_to = early.append  # none may end this process beside a child that has just begun
    try:
        child = subprocess.Popen(list(command), env=environment)
    except OSError as error:
        raise UsageError(f"cannot run {command[0]}: {error.strerror}") from error
    signals.go_to = child.send_signal
    signals.take(ignored=True)
    for number in early:
        child.send_signal(number)
    code = child.wait()
    signals.go_to = _end
    return 128 - code if code < 0 else code


class _Signals:
    """They end this process at once, until they are told to go elsewhere. Taken from the start: the
    kernel keeps those that are not from process 1 of a container."""

    def __init__(self) -> None:
        self.go_to: Callable[[int], object] = _end
        # Not yet what is ignored, as by nohup: the command would not ignore it any more.
        self.take(ignored=False)

    def take(self, *, ignored: bool) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if ignored or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._handle)

    def _handle(self, number: int, _frame: types.FrameType | None) -> None:
        self.go_to(number)


def _end(number: int) -> None:
    os._exit(128 + number)  # an exception would wait for threads that pull
