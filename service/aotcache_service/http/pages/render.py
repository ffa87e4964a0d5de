"""Templates become answers. Whatever is shown is escaped, and no page runs a script."""

from __future__ import annotations

import time
from typing import Any

from fastapi import Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

from aotcache import __version__

from .visitors import Visitor

_HEADERS = {
    # Should anything ever get past the escaping: nothing runs, nothing is sent anywhere else.
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def render(
    request: Request, template: str, visitor: Visitor | None, status: int = 200, **values: Any
) -> Response:
    """visitor: None where nobody is signed in."""
    text = _env.get_template(template).render(
        **values, visitor=visitor, path=request.url.path, version=__version__
    )
    answer = HTMLResponse(text, status, headers=_HEADERS)
    if visitor is not None and visitor.fresh:
        visitor.remember(request, answer)
    return answer


def _utc(seconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds)) if seconds else "never"


def duration(seconds: float) -> str:
    """In the two largest units that it has."""
    sign, left = ("-" if seconds < 0 else ""), abs(seconds)
    if left < 60:
        return f"{sign}{left:.3g} s"
    whole = round(left)
    for size, unit, smaller, name in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            rest = whole % size // smaller
            return f"{sign}{whole // size} {unit}" + (f" {rest} {name}" if rest else "")
    raise AssertionError(seconds)


def _count(number: float) -> str:
    return f"{number:,.0f}"


_env = Environment(
    loader=PackageLoader("aotcache_service.http.pages"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_env.filters |= {"utc": _utc, "duration": duration, "count": _count}
