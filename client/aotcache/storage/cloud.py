"""What is particular to one kind of cloud storage, and opening a client of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from obstore.store import AzureStore, ClientConfig, GCSStore, RetryConfig, S3Store

    Client = S3Store | GCSStore | AzureStore
    Opener = Callable[[ClientConfig, RetryConfig], Client]


class Cloud(msgspec.Struct, frozen=True):
    """name: of the storage. vendor: of its credentials. url: of the bucket, `bucket`, which the
    cloud calls `noun`. endpoint: as its messages show it.

    open: makes obstore's client, and sends nothing. certificates: PEM to trust beside the system's;
    environment: what to look at where `open` cannot. unread: what to say of files that hold perhaps
    the credentials; else empty. names_token_requests: obstore says so of what fails on the way to
    credentials.
    """

    name: str
    vendor: str
    url: str
    bucket: str
    endpoint: str
    open: Opener
    environment: str
    noun: str = "bucket"
    certificates: bytes | None = None
    unread: str = ""
    names_token_requests: bool = True


def packaged_certificates() -> bytes | None:
    """What Python programs trust where the system has no certificates, as in small containers."""
    for package in ("certifi", "botocore"):
        spec = find_spec(package)
        path = os.path.join(os.path.dirname(spec.origin or ""), "cacert.pem") if spec else ""
        if os.path.exists(path):
            with open(path, "rb") as file:
                return file.read()
    return None
