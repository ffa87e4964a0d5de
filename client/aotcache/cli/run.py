"""`exec`: run a program with its compile cache pulled before and published after."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
import types
from contextlib import suppress
from typing import Any

import click

from aotcache import settings
from aotcache.cli import options
from aotcache.cli.move import said
from aotcache.core.trust import SIGNED
from aotcache.engines import torch as engine
from aotcache.errors import AotcacheError, InvalidNameError, UsageError
from aotcache.local.records import read_records, write_record
from aotcache.probe.platform import Detected, detect, load_platform
from aotcache.probe.trees import FoundTree, tree_path
from aotcache.protocol.names import INDUCTOR, check_hash
from aotcache.protocol.v1.lookup import Lookup, Miss
from aotcache.sync import pull as pulling
from aotcache.sync.identity import identify
from aotcache.sync.publish import publish
from aotcache.sync.settle import TreeLooks

logger = logging.getLogger("aotcache")


@click.command(
    name="exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
)
@click.option(
    "--key", required=True, help="Name of the program's cache; one per program and model."
)
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
    key: str,
    cache_root: str,
    platform_from: str | None,
    deadline: float,
    no_publish: bool,
    wait: float,
    namespace: str,
    command: tuple[str, ...],
    **site: Any,
) -> None:
    """Run COMMAND with the compile cache named KEY: pull it, run, publish what is new.

    Put `--` before COMMAND. Its exit code is COMMAND's own. Whatever goes wrong with the cache is
    one warning, and COMMAND runs and compiles as it would without.
    """
    try:
        check_hash(INDUCTOR, key)
    except InvalidNameError as error:
        raise UsageError(f"--key: {error}") from error
    path = os.path.abspath(os.environ.get(engine.CACHE_DIR) or tree_path(cache_root, INDUCTOR, key))
    cache = None
    try:
        if trap := engine.trap(os.environ):
            logger.warning("%s", trap)
        if engine.CACHE_DIR in os.environ:
            logger.info("%s is set: cache %s is %s", engine.CACHE_DIR, key, path)
        cache = _Cache(key, path, namespace, command, platform_from, site)
    except AotcacheError as error:
        logger.warning("cache %s is not used: %s", key, error)
    else:
        cache.pull(deadline)
    environment = dict(os.environ)
    if _usable(path):
        environment = engine.environment(path, environment)
    code = _run(command, environment)
    if cache is not None and code == 0 and not no_publish:
        try:
            cache.publish(wait)
        except AotcacheError as error:
            logger.warning("cache %s is not published: %s", key, error)
    raise SystemExit(code)


class _Cache:
    def __init__(
        self,
        key: str,
        path: str,
        namespace: str,
        command: tuple[str, ...],
        platform_from: str | None,
        site: dict[str, Any],
    ) -> None:
        self.tree = FoundTree(INDUCTOR, key, path)
        self.namespace = namespace
        if platform_from is None:
            engine.check_python(command)
        if platform_from in (None, "detect"):
            self.detected = detect()
        else:
            assert platform_from is not None
            self.detected = Detected(platform=load_platform(platform_from), notes={})
        self.site = options.site_at(**site)

    def pull(self, deadline: float) -> None:
        """Pull, and wait for it `deadline` seconds at most. What takes longer goes on beside the
        command: nothing that is there already is ever replaced."""
        self.pulling = threading.Thread(target=self._pull, daemon=True)
        self.pulling.start()
        self.pulling.join(deadline)
        if self.pulling.is_alive():
            logger.warning(
                "cache %s took over %.0f s to pull (--deadline): starting without it",
                self.tree.hash,
                deadline,
            )

    def _pull(self) -> None:
        try:
            self._pull_now()
        except AotcacheError as error:
            logger.warning("cache %s is not used: %s", self.tree.hash, error)

    def _pull_now(self) -> None:
        lookup = Lookup(
            layout=INDUCTOR,
            hash=self.tree.hash,
            platform=self.detected.platform,
            namespace=self.namespace,
        )
        result = pulling.pull(self.site, lookup, self.tree.path)
        if isinstance(result, Miss):
            logger.info("miss (%s): %s", result.reason, result.message)
        else:
            logger.info("%s", said(result))

    def publish(self, wait: float) -> None:
        if self.pulling.is_alive():
            # Said already, when the deadline passed; a service that does not answer is not asked
            # again, the program has ended.
            logger.info("cache %s is not published: its pull has not ended", self.tree.hash)
            return
        if self.site.signer is None and self.site.policy.mode == SIGNED:
            logger.info("cache %s is not published: this node has no signing key", self.tree.hash)
            return
        if not os.path.isdir(self.tree.path):
            logger.info("%s compiled nothing: there is nothing to publish", self.tree.hash)
            return
        write_record(self.tree.path, engine.record(self.tree.hash, self.detected))
        looks = TreeLooks(self.tree)
        scan = looks.wait(wait)
        for folder, why in looks.waiting.items():
            logger.warning("%s %s is not published: %s", self.tree.hash, folder, why)
        if looks.complete:
            identity = identify(self.tree, scan, read_records(self.tree.path))
            result = publish(self.site, self.namespace, self.tree, scan, identity, looks.complete)
            for left in result.left_out:
                logger.warning("left out: %s: %s", left.path, left.reason)
            for part in result.parts:
                logger.info(
                    "%s %s %s, %d bytes uploaded",
                    result.tree,
                    part.part,
                    part.status,
                    result.uploaded_bytes,
                )


def _usable(path: str) -> bool:
    """Whether the program can write its cache there. If not it runs with its own default."""
    try:
        os.makedirs(path, exist_ok=True)
    except OSError:
        return False
    return os.access(path, os.W_OK | os.X_OK)


def _run(command: tuple[str, ...], environment: dict[str, str]) -> int:
    """Run the command, hand signals on, return its exit code as a shell gives it."""
    try:
        child = subprocess.Popen(list(command), env=environment)
    except OSError as error:
        raise UsageError(f"cannot run {command[0]}: {error.strerror}") from error

    def hand_on(number: int, _frame: types.FrameType | None) -> None:
        with suppress(ProcessLookupError):
            child.send_signal(number)

    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = [signal.signal(number, hand_on) for number in numbers]
    code = child.wait()
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)
    return 128 - code if code < 0 else code
