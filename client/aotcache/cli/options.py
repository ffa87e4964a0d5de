"""Options that several commands share, and what is built from them."""

from __future__ import annotations

import os
from collections.abc import Callable
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
from aotcache.protocol.platform import Platform

if TYPE_CHECKING:
    from aotcache.core.trust import SigningKey, TrustedKey
    from aotcache.remote.index import Index
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
    click.option("--token", envvar=settings.TOKEN, show_envvar=True, help="Token for the service."),
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
        "--storage-url",
        envvar=settings.STORAGE_URL,
        show_envvar=True,
        help="Move bytes straight to and from this storage (s3://bucket/prefix, file:///directory) "
        "with this machine's own credentials. Default: through the service.",
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
platform = click.option(
    "--platform",
    "platform_from",
    metavar="detect|FILE",
    help="What the tree is valid for: `detect` for this machine and Python, or a JSON file.",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")


_HEX = set("0123456789abcdef")


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


def platform_of(platform_from: str | None) -> Platform | None:
    if platform_from is None:
        return None
    from aotcache.probe.platform import detect, load_platform

    if platform_from == "detect":
        return detect().platform
    try:
        return load_platform(platform_from)
    except FormatError as error:
        raise UsageError(str(error)) from error


def this_platform(platform_from: str | None) -> Platform:
    found = platform_of(platform_from or "detect")
    assert found is not None
    return found


def index_at(url: str, token: str | None) -> Index:
    from aotcache.net.http import HttpClient
    from aotcache.remote.index import Index

    return Index(HttpClient(url, token))


def site_at(
    url: str,
    token: str | None,
    storage_url: str | None,
    trust: str,
    trusted_keys: str | None,
    signing_key: str | None,
    **_others: object,
) -> Site:
    """All that publishing and pulling need, from the options of `transfer`."""
    from aotcache.core.trust import make_policy, parse_trusted_keys
    from aotcache.net.http import HttpClient
    from aotcache.remote.index import Index
    from aotcache.storage import http_store, open_store
    from aotcache.sync.site import Site

    client = HttpClient(url, token)
    signer = read_signing_key(signing_key)
    keys = read_trusted_keys(trusted_keys)
    if signer is not None:
        # Who publishes here trusts what was published from here.
        keys += parse_trusted_keys(signer.public_line(), "the signing key")
    return Site(
        index=Index(client),
        store=open_store(storage_url) if storage_url else http_store(client),
        policy=make_policy(trust, keys),
        signer=signer,
    )


def read_signing_key(path: str | None) -> SigningKey | None:
    """The key at `path`; where none is named, the user's own, if there is one."""
    from aotcache.core.trust import load_signing_key

    where = path or settings.config_file("signing.pem")
    if path is None and not os.path.exists(where):
        return None
    return load_signing_key(_read(where), where)


def read_trusted_keys(path: str | None) -> list[TrustedKey]:
    from aotcache.core.trust import parse_trusted_keys

    where = path or settings.config_file("trusted_keys")
    if path is None and not os.path.exists(where):
        return []
    return parse_trusted_keys(_read(where).decode("utf-8", "replace"), where)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
