"""Connect: the site that settings name.

Stores and keys are imported by what opens them: an unchanged tree needs none.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aotcache import settings
from aotcache.errors import UsageError
from aotcache.net.http import HttpClient
from aotcache.remote.index import Index

if TYPE_CHECKING:
    from aotcache.core.trust import Keyring, SigningKey
    from aotcache.storage import ObjectStore
    from aotcache.sync.progress import Progress
    from aotcache.sync.site import Site

logger = logging.getLogger(__name__)

_SIGNING_KEY, _TRUSTED_KEYS = "signing.pem", "trusted_keys"


def connect(
    url: str,
    token_file: str | None = None,
    storage_url: str | None = None,
    trust: str = "",
    trusted_keys: str | None = None,
    signing_key: str | None = None,
    transfer: str = "",
    progress: Progress | None = None,
    environ: Mapping[str, str] = os.environ,
    client: HttpClient | None = None,
) -> Site:
    """The service at `url`, bytes as `transfer` says (`store_of`), keys from these files or the
    user's own, the token from its file or `environ`. Nothing is asked of anybody yet, but a
    connection to the service is begun. client: of that service, where there is one already. Raises
    UsageError."""
    if client is None:
        client = http_client(url, token_file, environ)
        client.prepare()  # it is there when what comes now is imported

    from aotcache.core.leaks import Scanner
    from aotcache.core.limits import limits_of
    from aotcache.core.trust import make_policy
    from aotcache.sync.progress import Progress
    from aotcache.sync.site import Site

    signer = read_signing_key(signing_key)
    keys = read_trusted_keys(trusted_keys)
    if signer is not None and signer.id in keys.revoked:
        logger.warning("the signing key %s is revoked here: nothing is signed with it", signer.id)
        signer = None
    return Site(
        index=Index(client),
        store=store_of(client, storage_url, transfer or settings.AUTO),
        policy=make_policy(trust, keys.plus(signer)),
        signer=signer,
        limits=limits_of(environ),
        scanner=None if settings.is_on(environ.get(settings.ALLOW_SECRETS)) else Scanner(environ),
        progress=progress or Progress(),
    )


def connect_by(environ: Mapping[str, str]) -> Site:
    """The site that environment variables name, as the command line reads them."""
    return connect(
        url=environ.get(settings.URL) or settings.DEFAULT_URL,
        # Set and empty is as good as not set.
        token_file=environ.get(settings.TOKEN_FILE) or None,
        storage_url=environ.get(settings.STORAGE_URL) or None,
        trust=environ.get(settings.TRUST, ""),
        trusted_keys=environ.get(settings.TRUSTED_KEYS) or None,
        signing_key=environ.get(settings.SIGNING_KEY) or None,
        transfer=environ.get(settings.TRANSFER, ""),
        environ=environ,
    )


def http_client(
    url: str,
    token_file: str | None = None,
    environ: Mapping[str, str] = os.environ,
    **how: Any,
) -> HttpClient:
    """With the token in this file, else that of the environment, if any. how: as HttpClient has
    it."""
    token = None if token_file else environ.get(settings.TOKEN) or None
    return HttpClient(url, token, token_file=token_file, **how)


def store_of(client: HttpClient, storage_url: str | None, transfer: str) -> ObjectStore:
    """How bytes travel. `direct`: to and from `storage_url`, with this node's own credentials.
    `presigned`: packs to and from S3 by URLs that the service signs, the rest through the service.
    `proxy`: all through the service. `auto`: `direct` where there is a `storage_url`, else
    `presigned` where the service signs, else `proxy`."""
    from aotcache.storage import http_store, open_store, presigned_store

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
    where = path or settings.config_file(_SIGNING_KEY)
    if path is None and not os.path.exists(where):
        return None
    from aotcache.core.trust import load_signing_key

    return load_signing_key(_read(where), where)


def read_trusted_keys(path: str | None) -> Keyring:
    from aotcache.core.trust import Keyring, parse_trusted_keys

    where = path or settings.config_file(_TRUSTED_KEYS)
    if path is None and not os.path.exists(where):
        return Keyring()
    return parse_trusted_keys(_read(where).decode("utf-8", "replace"), where)


def trust_marks(
    trust: str = "", trusted_keys: str | None = None, signing_key: str | None = None
) -> tuple[str, ...]:
    """Others whenever the policy is, or a file of keys. Raises UsageError as reading them does."""
    return (trust, _mark(trusted_keys, _TRUSTED_KEYS), _mark(signing_key, _SIGNING_KEY))


def _mark(path: str | None, name: str) -> str:
    """What no other content of the file has, without a look at it; empty: the user has none."""
    where = path or settings.config_file(name)
    try:
        found = os.stat(where)
    except OSError as error:
        if path is None and isinstance(error, FileNotFoundError):
            return ""
        raise UsageError(f"cannot read {where}: {error.strerror}") from error
    return f"{where} {found.st_dev} {found.st_ino} {found.st_size} {found.st_ctime_ns}"


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
