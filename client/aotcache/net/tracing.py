"""OpenTelemetry, where the process has it already: nothing is imported for it, and nothing is asked
of a process without it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def span(name: str, **about: str) -> Iterator[None]:
    """about: attributes, `aotcache.` put before."""
    trace: Any = sys.modules.get("opentelemetry.trace")
    if trace is None:
        yield
        return
    attributes = {f"aotcache.{key}": value for key, value in about.items()}
    with trace.get_tracer("aotcache").start_as_current_span(name, attributes=attributes):
        yield


def is_traced() -> bool:
    """Whether `span` begins one, perhaps: what is to be in it is not asked before."""
    return "opentelemetry.trace" in sys.modules


def trace_headers() -> dict[str, str]:
    """Those that tell the service of which trace a request is (`traceparent`)."""
    trace: Any = sys.modules.get("opentelemetry.trace")
    found: dict[str, str] = {}
    # Many have it imported, few have it set up: those need not look for propagators.
    if trace is not None and trace.get_current_span().get_span_context().is_valid:
        from opentelemetry import propagate

        propagate.inject(found)
    return found
