"""Which website a request comes from. A service without tokens lets in all of its machine: another
website's page in a browser there is none of them."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit

from fastapi import Request

from aotcache.errors import ForbiddenError


def require_local(request: Request) -> None:
    """For who has no token, where none is asked for. A name that leads here may be any website's,
    which would then be taken for a page of this service. Raises ForbiddenError."""
    host = _host(request.headers.get("host", ""))
    try:
        local = ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost" or host.endswith(".localhost")
    if not local:
        raise ForbiddenError(
            f"{host[:200]!r} is no name of this machine: ask http://127.0.0.1, or make a token for "
            "the service (`aotcache token create`)"
        )
    if request.method not in {"GET", "HEAD"}:
        require_same_site(request)


def require_same_site(request: Request) -> None:
    """What changes something comes from a page of this service, or from no page. Raises
    ForbiddenError."""
    # The browser's own word counts: a proxy may have written another Host.
    said = request.headers.get("sec-fetch-site", "")
    origin = request.headers.get("origin", "")
    same = not origin or _place(origin) == request.headers.get("host", "")
    if said not in {"", "none", "same-origin"} or (not said and not same):
        raise ForbiddenError("the request comes from another website: nothing was done")


def _host(header: str) -> str:
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


def _place(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""
