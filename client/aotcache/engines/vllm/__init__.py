"""The vLLM plugin: pull a module's compiled tree before vLLM looks for it, say what came of it.

vLLM calls `register` in each of its processes, also in those that only parse a command line or
inspect a model: here nothing is imported, started or touched before a module is built.
"""

from __future__ import annotations

import os

from aotcache import settings


def register() -> None:
    """Entry point `aotcache` of the group `vllm.general_plugins`. Never raises."""
    environ = os.environ
    if not environ.get(settings.URL) or settings.is_on(environ.get(settings.DISABLE)):
        return
    from aotcache.engines.vllm import hooks

    hooks.install()
