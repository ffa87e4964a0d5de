"""Bytes in object storage: one contract (`base`), several ways.

A backend is imported when it is opened: obstore costs a command that needs none nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from aotcache.errors import UsageError
from aotcache.storage.base import DirectStore, ObjectInfo, ObjectStore

if TYPE_CHECKING:
    from aotcache.net.http import HttpClient

__all__ = [
    "DirectStore",
    "ObjectInfo",
    "ObjectStore",
    "http_store",
    "open_store",
    "presigned_store",
]

# By scheme: the module, which has a function of its own name, and the extra that brings what it
# needs.
_CLOUDS = {"s3": "s3", "gs": "gcs", "az": "azure", "abfs": "azure"}


def open_store(url: str) -> DirectStore:
    """The store at `file:///directory`, `memory://name`, `s3://bucket/prefix`, `gs://bucket/prefix`
    or `az://container/prefix` (`abfs://` is the same).

    Endpoint, region and credentials come from the standard environment of the cloud. Sends nothing:
    a bucket that is not there shows with the first call. Raises UsageError for a URL that names no
    store, or one for which something must be installed first.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise UsageError("the storage URL cannot be read: file:///directory, s3://bucket") from None
    if "@" in parts.netloc or parts.query or parts.fragment:
        # Not quoted back: what is there may be a secret.
        raise UsageError(
            f"a storage URL has no user, password, query or fragment ({parts.scheme}://…): "
            "credentials come from the environment"
        )
    if parts.scheme == "file":
        from aotcache.storage.files import FileStore

        if parts.netloc not in ("", "localhost") or parts.path in ("", "/"):
            raise UsageError(f"{url!r} names no directory: file:///absolute/directory")
        return FileStore(unquote(parts.path))
    if parts.scheme == "memory":
        from aotcache.storage.memory import MemoryStore

        return MemoryStore(_checked_path(url, parts.netloc + parts.path))
    if parts.scheme in _CLOUDS:
        bucket, _, prefix = _checked_path(url, parts.netloc + parts.path).partition("/")
        return _cloud_store(url, _CLOUDS[parts.scheme], bucket, prefix)
    if parts.scheme in ("http", "https"):
        raise UsageError(f"{url!r} is a service, not a store: give it as --url or AOTCACHE_URL")
    raise UsageError(
        f"{url!r} is not a storage URL: file:///directory, s3://bucket/prefix, gs://bucket/prefix, "
        "az://container/prefix or memory://name"
    )


def http_store(client: HttpClient, objects: str = "/v1/objects") -> ObjectStore:
    """The store behind a service, for nodes without storage credentials. objects: as in a Hit.

    The client stays the caller's: closing the store leaves it open.
    """
    from aotcache.storage.http import HttpStore

    return HttpStore(client, objects)


def presigned_store(
    client: HttpClient, objects: str = "/v1/objects", *, required: bool = False
) -> ObjectStore:
    """The store behind a service, with packs straight from and to S3 by URLs that it signs.

    A service that signs none is asked once, and packs pass it too; required: that is a UsageError
    instead. The client stays the caller's, as with `http_store`.
    """
    from aotcache.storage.presigned import PresignedStore

    return PresignedStore(client, objects, required=required)


def _cloud_store(url: str, cloud: str, bucket: str, prefix: str) -> DirectStore:
    try:
        from aotcache.storage.cloud_store import CloudStore

        described = getattr(import_module(f"aotcache.storage.{cloud}"), cloud)
    except ImportError as error:
        raise UsageError(
            f"{url!r} needs obstore ({error}): pip install 'aotcache[{cloud}]'"
        ) from error
    return CloudStore(described(bucket), prefix)


def _checked_path(url: str, path: str) -> str:
    path = path.rstrip("/")
    if any(name in ("", ".", "..") for name in path.split("/")):
        raise UsageError(f"{url!r}: a bucket and prefix without empty, '.' or '..' names")
    return path
