"""The vLLM plugin: pull a module's compiled tree before vLLM looks for it, say what came of it.

vLLM calls `register` in each of its processes, also in those that only parse a command line or
inspect a model: here nothing is imported, started or touched before a module is built.
"""

from __future__ import annotations

import logging
import os

from aotcache import settings


def register() -> None:
    """Entry point `aotcache` of the group `vllm.general_plugins`. Never raises."""
    environ = os.environ
    if not environ.get(settings.URL) or settings.is_on(environ.get(settings.DISABLE)):
        return
    try:
        from aotcache.engines.vllm import hooks

        hooks.install()
    except Exception as error:
        # vLLM calls this unguarded: what we lack (a library of another Python) must not end it.
        logging.getLogger("vllm.aotcache").warning(
            "aotcache: not used, vLLM compiles: %s: %s", type(error).__name__, error
        )
