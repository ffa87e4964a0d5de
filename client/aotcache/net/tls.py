"""TLS: whom a connection trusts. Imported for https only."""

from __future__ import annotations

import os
import ssl
from functools import cache

from aotcache.errors import UsageError

_BUNDLES = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")


def context() -> ssl.SSLContext:
    """The one that all connections share. CAs: of the file or directory that REQUESTS_CA_BUNDLE or
    SSL_CERT_FILE names, else the system's. Raises UsageError for one that cannot be read."""
    variable = next((name for name in _BUNDLES if os.environ.get(name)), "")
    return _context(variable, os.environ.get(variable, ""))


@cache
def _context(variable: str, bundle: str) -> ssl.SSLContext:
    try:
        if os.path.isdir(bundle):
            made = ssl.create_default_context(capath=bundle)
        else:
            made = ssl.create_default_context(cafile=bundle or None)
    except OSError as error:
        raise UsageError(
            f"{variable}={bundle} holds no certificates that can be read ({error.strerror}): "
            "name a PEM file, or a directory as `openssl rehash` makes it"
        ) from error
    made.set_alpn_protocols(["http/1.1"])
    return made
