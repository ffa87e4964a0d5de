"""Bytes in object storage: one contract (`base`), five ways.

A backend is imported when it is opened: obstore costs a command that needs none nothing.
"""

from __future__ import annotations

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


def open_store(url: str) -> DirectStore:
    """The store at `file:///directory`, `memory://name` or `s3://bucket/prefix`.

    S3's endpoint, region and credentials come from the standard AWS environment. Sends nothing: a
    bucket that is not there shows with the first call. Raises UsageError for a URL that names no
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
            "credentials come from the AWS environment"
        )
    if parts.scheme == "file":
        from aotcache.storage.files import FileStore

        if parts.netloc not in ("", "localhost") or parts.path in ("", "/"):
            raise UsageError(f"{url!r} names no directory: file:///absolute/directory")
        return FileStore(unquote(parts.path))
    if parts.scheme == "memory":
        from aotcache.storage.memory import MemoryStore

        return MemoryStore(_checked_path(url, parts.netloc + parts.path))
    if parts.scheme == "s3":
        path = _checked_path(url, parts.netloc + parts.path)
        try:
            from aotcache.storage.s3 import S3Store
        except ImportError as error:
            raise UsageError(
                f"{url!r} needs obstore ({error}): pip install 'aotcache[s3]'"
            ) from error
        bucket, _, prefix = path.partition("/")
        return S3Store(bucket, prefix)
    if parts.scheme in ("http", "https"):
        raise UsageError(f"{url!r} is a service, not a store: give it as --url or AOTCACHE_URL")
    raise UsageError(
        f"{url!r} is not a storage URL: file:///directory, s3://bucket/prefix or memory://name"
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


def _checked_path(url: str, path: str) -> str:
    path = path.rstrip("/")
    if any(name in ("", ".", "..") for name in path.split("/")):
        raise UsageError(f"{url!r}: a bucket and prefix without empty, '.' or '..' names")
    return path
