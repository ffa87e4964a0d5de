"""Connect: the site that settings name."""

from __future__ import annotations

import os
from collections.abc import Mapping

from aotcache import settings
from aotcache.core.trust import (
    SigningKey,
    TrustedKey,
    load_signing_key,
    make_policy,
    parse_trusted_keys,
)
from aotcache.errors import UsageError
from aotcache.net.http import HttpClient
from aotcache.remote.index import Index
from aotcache.storage import ObjectStore, http_store, open_store, presigned_store
from aotcache.sync.site import Site


def connect(
    url: str,
    token: str | None = None,
    storage_url: str | None = None,
    trust: str = "",
    trusted_keys: str | None = None,
    signing_key: str | None = None,
    transfer: str = "",
) -> Site:
    """The service at `url`, bytes as `transfer` says (`store_of`), keys from these files or the
    user's own. Nothing is asked of anybody yet. Raises UsageError."""
    client = HttpClient(url, token)
    signer = read_signing_key(signing_key)
    keys = read_trusted_keys(trusted_keys)
    if signer is not None:
        # Who publishes here trusts what was published from here.
        keys += parse_trusted_keys(signer.public_line(), "the signing key")
    return Site(
        index=Index(client),
        store=store_of(client, storage_url, transfer or settings.AUTO),
        policy=make_policy(trust, keys),
        signer=signer,
    )


def connect_by(environ: Mapping[str, str]) -> Site:
    """The site that environment variables name, as the command line reads them."""
    return connect(
        url=environ.get(settings.URL) or settings.DEFAULT_URL,
        # Set and empty is as good as not set.
        token=environ.get(settings.TOKEN) or None,
        storage_url=environ.get(settings.STORAGE_URL) or None,
        trust=environ.get(settings.TRUST, ""),
        trusted_keys=environ.get(settings.TRUSTED_KEYS) or None,
        signing_key=environ.get(settings.SIGNING_KEY) or None,
        transfer=environ.get(settings.TRANSFER, ""),
    )


def store_of(client: HttpClient, storage_url: str | None, transfer: str) -> ObjectStore:
    """How bytes travel. `direct`: to and from `storage_url`, with this node's own credentials.
    `presigned`: packs to and from S3 by URLs that the service signs, the rest through the service.
    `proxy`: all through the service. `auto`: `direct` where there is a `storage_url`, else
    `presigned` where the service signs, else `proxy`."""
    if transfer not in settings.TRANSFERS:
        raise UsageError(
            f"{settings.TRANSFER}={transfer!r} is none of {', '.join(settings.TRANSFERS)}"
        )
    if transfer == settings.PROXY:
        return http_store(client)
    if transfer == settings.PRESIGNED:
        return presigned_store(client, required=True)
    if storage_url:
        return open_store(storage_url)
    if transfer == settings.DIRECT:
        raise UsageError(
            "--transfer direct (AOTCACHE_TRANSFER) needs the storage that this node has "
            f"credentials for: --storage-url ({settings.STORAGE_URL})"
        )
    return presigned_store(client)


def read_signing_key(path: str | None) -> SigningKey | None:
    """The key at `path`; where none is named, the user's own, if there is one."""
    where = path or settings.config_file("signing.pem")
    if path is None and not os.path.exists(where):
        return None
    return load_signing_key(_read(where), where)


def read_trusted_keys(path: str | None) -> list[TrustedKey]:
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
