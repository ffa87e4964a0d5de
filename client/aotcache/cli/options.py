"""Options that several commands share, and what is built from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from aotcache import settings
from aotcache.errors import FormatError, UsageError
from aotcache.protocol.names import (
    DEFAULT_NAMESPACE,
    INDUCTOR,
    LAYOUTS,
    VLLM_AOT,
    VLLM_JIT,
    check_hash,
)

if TYPE_CHECKING:
    from aotcache.net.http import HttpClient
    from aotcache.protocol.platform import Platform
    from aotcache.remote.index import Index
    from aotcache.sync.progress import Progress
    from aotcache.sync.site import Site

F = TypeVar("F", bound=Callable[..., Any])

_ACCESS = (
    click.option(
        "--url",
        envvar=settings.URL,
        default=settings.DEFAULT_URL,
        show_default=True,
        show_envvar=True,
        help="The service.",
    ),
    # A token itself is on no command line: every user of a machine can read those.
    click.option(
        "--token-file",
        envvar=settings.TOKEN_FILE,
        show_envvar=True,
        help=f"File with the token for the service.  [default: the variable {settings.TOKEN}]",
    ),
    click.option(
        "--namespace",
        envvar=settings.NAMESPACE,
        default=DEFAULT_NAMESPACE,
        show_default=True,
        show_envvar=True,
        help="Keeps teams apart.",
    ),
)
_TRANSFER = (
    click.option(
        "--transfer",
        envvar=settings.TRANSFER,
        type=click.Choice(settings.TRANSFERS),
        default=settings.AUTO,
        show_default=True,
        show_envvar=True,
        help="How packs travel. `direct`: to and from --storage-url. `presigned`: to and from S3, "
        "by URLs that the service signs. `proxy`: through the service. `auto`: the first of these "
        "that is to be had.",
    ),
    click.option(
        "--storage-url",
        envvar=settings.STORAGE_URL,
        show_envvar=True,
        help="Storage that this machine has credentials of its own for: s3://bucket/prefix, "
        "gs://bucket/prefix, az://container/prefix, file:///directory.",
    ),
    click.option(
        "--trust",
        envvar=settings.TRUST,
        default="",
        show_envvar=True,
        help="`signed` (the default: only parts signed by a trusted key) or `unsigned` (whoever "
        "can publish can run code here).",
    ),
    click.option(
        "--trusted-keys",
        envvar=settings.TRUSTED_KEYS,
        show_envvar=True,
        help="File of trusted public keys.  [default: ~/.config/aotcache/trusted_keys]",
    ),
    click.option(
        "--signing-key",
        envvar=settings.SIGNING_KEY,
        show_envvar=True,
        help="Private key that signs what is published.  [default: ~/.config/aotcache/signing.pem, "
        "where there is one]",
    ),
)

cache_root = click.option(
    "--cache-root",
    envvar=settings.CACHE_ROOT,
    default=settings.default_cache_root,
    show_envvar=True,
    help="Directory in which trees lie.  [default: vLLM's, ~/.cache/vllm]",
)
layout = click.option(
    "--layout",
    type=click.Choice(LAYOUTS),
    help="Kind of tree. Default: told by the hash, where one is given.",
)
platform_id = click.option(
    "--platform-id", help="Only trees of the platform of this id; its start suffices."
)
platform = click.option(
    "--platform",
    "platform_from",
    metavar="detect|FILE",
    help="What the tree is valid for: `detect` for this machine and Python, or a JSON file.",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")


_VARIABLES = {
    "url": settings.URL,
    "token_file": settings.TOKEN_FILE,
    "namespace": settings.NAMESPACE,
    "storage_url": settings.STORAGE_URL,
    "transfer": settings.TRANSFER,
    "trust": settings.TRUST,
    "trusted_keys": settings.TRUSTED_KEYS,
    "signing_key": settings.SIGNING_KEY,
}
_HEX = set("0123456789abcdef")
_LONGEST_HASH, _PLATFORM_ID = 64, 32  # characters of whole ones


def access(command: F) -> F:
    for option in reversed(_ACCESS):
        command = option(command)
    return command


def transfer(command: F) -> F:
    for option in reversed(_TRANSFER):
        command = option(command)
    return access(command)


def layout_of(tree_hash: str, layout: str | None) -> str:
    """The layout a hash belongs to by its form, unless it was said."""
    if layout is None:
        layout = {64: VLLM_AOT, 10: VLLM_JIT}.get(len(tree_hash), INDUCTOR)
        hexadecimal = set(tree_hash) <= _HEX
        if not hexadecimal or layout == INDUCTOR:
            layout = INDUCTOR
            if len(tree_hash) > 32 and set(tree_hash.lower()) <= _HEX:
                raise UsageError(
                    f"{tree_hash!r} looks like a vLLM hash, which has 64 characters of 0-9 a-f; "
                    f"this has {len(tree_hash)}. If it is a key of yours, say --layout inductor"
                )
    check_hash(layout, tree_hash)
    return layout


def whole_hash(index: Index, start: str, namespace: str, layout: str | None = None) -> str:
    """The stored hash that begins so, as `ls` shows them; as it is where there is none. Raises
    UsageError where there are several."""
    if len(start) == _LONGEST_HASH:
        return start
    page = index.trees(namespace=namespace, layout=layout, hash=start, limit=100)
    found = {tree.hash for tree in page.trees}
    if start in found or not found:
        return start
    if len(found) > 1:
        raise UsageError(f"{start!r} is the start of several stored hashes: say more of it")
    return found.pop()


def whole_platform(
    index: Index,
    start: str | None,
    namespace: str,
    hash: str | None = None,
    layout: str | None = None,
) -> str | None:
    """The id of the platform of a stored tree, of this hash, that begins so, as `ls` shows them.
    Raises UsageError where there is none, or are several."""
    if not start or len(start) == _PLATFORM_ID:
        return start
    page = index.trees(namespace=namespace, layout=layout, hash=hash, limit=500)
    found = {one.platform_id for one in page.trees if one.platform_id.startswith(start)}
    if len(found) != 1:
        what = f"platforms of {hash}" if hash else "platforms"
        raise UsageError(f"{len(found)} stored {what} begin with {start}; `aotcache ls` names them")
    return found.pop()


def platform_of(platform_from: str | None) -> Platform | None:
    if platform_from is None:
        return None
    if platform_from == "detect":
        from aotcache.probe.platform import detect

        return detect().platform
    from aotcache.probe.platform_file import load_platform

    try:
        return load_platform(platform_from)
    except FormatError as error:
        raise UsageError(str(error)) from error


def this_platform(platform_from: str | None) -> Platform:
    found = platform_of(platform_from or "detect")
    assert found is not None
    return found


def variables_of(site: Mapping[str, Any]) -> dict[str, str]:
    """These options of `transfer` as a child process reads them: our own, or vLLM with the
    plugin."""
    return {variable: str(site[name]) for name, variable in _VARIABLES.items() if site.get(name)}


def index_at(url: str, token_file: str | None) -> Index:
    from aotcache.remote.index import Index

    return Index(client_at(url, token_file))


def client_at(url: str, token_file: str | None) -> HttpClient:
    """A connection to the service is begun."""
    from aotcache.sync.connect import http_client

    client = http_client(url, token_file)
    client.prepare()
    return client


def site_at(
    progress: Progress | None = None,
    namespace: str = DEFAULT_NAMESPACE,  # noqa: ARG001
    **site: Any,
) -> Site:
    """All that publishing and pulling need, from the options of `transfer`; the namespace is named
    with each call instead."""
    from aotcache.sync.connect import connect

    return connect(**site, progress=progress)
