"""The service and the storage, asked once; and what the plugin is told about them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

from aotcache import __version__, settings
from aotcache.engines.doctor.findings import Finding, Setup, note, ok, problem
from aotcache.errors import AotcacheError, UnavailableError, VersionError
from aotcache.net.http import HttpClient
from aotcache.protocol.v1.presign import Presign, Presigned
from aotcache.protocol.v1.trees import TreePage
from aotcache.protocol.versions import fit
from aotcache.remote.index import Index
from aotcache.storage import open_store
from aotcache.sync.connect import http_client


def check_service(setup: Setup) -> Iterator[Finding]:
    if settings.is_on(setup.environ.get(settings.DISABLE)):
        yield problem("service", f"{settings.DISABLE} is set: the plugin does nothing", "unset it")
    yield from _check_seconds(setup, settings.DEADLINE, settings.DEFAULT_DEADLINE)
    yield from _check_seconds(setup, settings.WAIT, settings.DEFAULT_WAIT)
    if setup.url is None:
        yield problem(
            "service",
            f"{settings.URL} is not set: the plugin does nothing",
            f"set {settings.URL}=http://host:port to the service",
        )
        return
    if setup.url != setup.environ.get(settings.URL):
        yield note(
            "service",
            f"{setup.url} was said on the command line; an engine started from here does not know "
            "it",
            f"set {settings.URL} for the engine",
        )
    try:
        yield from _ask(setup, setup.url)
    except (UnavailableError, VersionError) as error:
        yield problem("service", str(error))
    except AotcacheError as error:
        token = "" if setup.has_token else f"; no token is named ({settings.TOKEN})"
        yield problem("service", f"{error}{token}")


def _client(setup: Setup, url: str) -> HttpClient:
    return http_client(
        url, setup.token_file, setup.environ, connect_seconds=3, read_seconds=5, retries=0
    )


def _ask(setup: Setup, url: str) -> Iterator[Finding]:
    client = _client(setup, url)
    try:
        query = {"namespace": setup.namespace, "limit": "1"}
        page = client.request_json("GET", "/v1/trees", None, TreePage, query=query)
        ready = Index(client).ready()
    finally:
        client.close()
    named = "with a token" if setup.has_token else "without a token"
    yield ok("service", f"{url} answers, version {ready.version or 'unknown'}, asked {named}")
    if not fit(ready.version, __version__):
        yield note(
            "service",
            f"the service is aotcache {ready.version}, this is {__version__}",
            "keep service and nodes at most one minor version apart",
        )
    if not page.trees:
        yield note(
            "service",
            f"nothing is stored in namespace {setup.namespace} yet: the first start compiles",
            f"publish: {settings.PUBLISH}=1 for the engine, or `aotcache watch` beside it",
        )


def _check_seconds(setup: Setup, name: str, default: float) -> Iterator[Finding]:
    text = setup.environ.get(name)
    if not text:
        return
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        yield problem(
            "service",
            f"{name}={text} is not a number of seconds",
            f"set it to a number, or unset it for {default:.0f}",
        )


def check_storage(setup: Setup) -> Iterator[Finding]:
    url = setup.storage_url
    if not url or setup.transfer in (settings.PRESIGNED, settings.PROXY):
        yield from _check_transfer(setup)
        return
    try:
        parts = urlsplit(url)
        if parts.scheme == "file" and not os.path.isdir(unquote(parts.path)):
            # Not opened: that would make it.
            yield problem(
                "storage", f"{url} is not there", "mount it, or look at AOTCACHE_STORAGE_URL"
            )
            return
        _list(url, setup.namespace)
    except (AotcacheError, ValueError) as error:
        yield problem("storage", str(error))
    else:
        yield ok("storage", f"{url} can be listed with this machine's credentials")


def _check_transfer(setup: Setup) -> Iterator[Finding]:
    """How packs travel where this node's own credentials are not used."""
    if setup.transfer == settings.DIRECT:
        yield problem(
            "storage",
            f"{settings.TRANSFER}=direct, and no storage is named",
            f"set {settings.STORAGE_URL}, or leave {settings.TRANSFER} out",
        )
    elif setup.transfer == settings.PROXY:
        yield ok("storage", f"packs pass the service ({settings.TRANSFER}=proxy)")
    elif setup.transfer == settings.PRESIGNED and setup.url is not None:
        yield from _ask_for_signing(setup, setup.url)
    else:
        yield ok("storage", "packs travel as the service says: by URLs of S3, or through it")


def _ask_for_signing(setup: Setup, url: str) -> Iterator[Finding]:
    try:
        client = _client(setup, url)
        signed = client.request_json("POST", "/v1/presign", Presign(), Presigned)
    except AotcacheError as error:
        yield problem("storage", str(error))
        return
    if signed.seconds:
        yield ok("storage", f"packs travel by URLs that {url} signs")
    else:
        yield problem(
            "storage",
            f"{settings.TRANSFER}=presigned, and {url} signs no URLs: its storage is not S3, or it "
            "is told to sign none",
            f"leave {settings.TRANSFER} out",
        )


def _list(url: str, namespace: str) -> None:
    store = open_store(url)
    try:
        next(iter(store.list(f"{namespace}/trees/")), None)
    finally:
        store.close()
