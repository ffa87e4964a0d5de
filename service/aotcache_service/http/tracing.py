"""A span for each request, where OpenTelemetry is installed and set up (`opentelemetry-instrument
aotcache serve`)."""

from __future__ import annotations

import logging
import sys
from importlib.util import find_spec

from starlette.types import ASGIApp

log = logging.getLogger(__name__)


def traced(app: ASGIApp) -> ASGIApp:
    """The same app, unless the process runs with OpenTelemetry."""
    if "opentelemetry.sdk.trace" not in sys.modules:
        return app
    if find_spec("opentelemetry.instrumentation.asgi") is None:
        log.warning("requests are not traced: pip install opentelemetry-instrumentation-asgi")
        return app
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

    return OpenTelemetryMiddleware(app)
