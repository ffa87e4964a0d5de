"""The proxy that the environment names, as http_proxy, https_proxy and no_proxy."""

from __future__ import annotations

from base64 import b64encode
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import msgspec

from aotcache.errors import UsageError


class Proxy(msgspec.Struct, frozen=True):
    """secure: it is spoken to over TLS. login: what goes into Proxy-Authorization, or empty."""

    secure: bool
    host: str
    port: int
    login: str

    def __repr__(self) -> str:
        return f"Proxy({self.host}:{self.port})"


def proxy_of(scheme: str, host: str) -> Proxy | None:
    """Raises UsageError for one that cannot be used; its password is not quoted."""
    named = None if proxy_bypass(host) else getproxies().get(scheme)
    if not named:
        return None
    variable = f"{scheme}_proxy"
    try:
        parts = urlsplit(named if "://" in named else f"http://{named}")
        port = parts.port
    except ValueError:
        raise UsageError(f"{variable} cannot be read: http://host:port") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(
            f"{variable} names a {parts.scheme} proxy: aotcache uses http and https proxies; "
            "exempt the service with no_proxy"
        )
    secure = parts.scheme == "https"
    if secure and scheme == "https":
        raise UsageError(
            f"{variable} names an https proxy: aotcache speaks TLS through http proxies only; "
            "name one as http://host:port, or exempt the service with no_proxy"
        )
    login = ""
    if parts.username:
        words = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        login = f"Basic {b64encode(words.encode()).decode()}"
    return Proxy(secure, parts.hostname, port or (443 if secure else 80), login)
