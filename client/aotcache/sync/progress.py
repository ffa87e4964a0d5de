"""What a long run says while it runs."""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec


class Progress(msgspec.Struct):
    """`step` gets one line a step, `moved` bytes moved of how many in all."""

    step: Callable[[str], None] = logging.getLogger("aotcache").info
    moved: Callable[[int, int], None] = lambda done, total: None  # noqa: ARG005
