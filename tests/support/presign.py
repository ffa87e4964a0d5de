"""A service on S3 that signs URLs, and the publish sessions that it signs puts for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aotcache.net.http import HttpClient
from aotcache.protocol.v1.publish import OpenSession
from aotcache.remote.index import Index
from aotcache_service.settings import ServiceSettings
from support.service import run_service
from support.stored import HASH, PLATFORM


@contextmanager
def presigning(folder: Path, storage_url: str, **settings: Any) -> Iterator[HttpClient]:
    """A client of a service with its storage at `storage_url` (S3, in the AWS environment)."""
    told = ServiceSettings(data_dir=folder / "service", storage_url=storage_url, **settings)
    with run_service(told) as url:
        client = HttpClient(url)
        yield client
        client.close()


def open_publish(client: HttpClient, publish_id: str, namespace: str = "default") -> None:
    asked = OpenSession(
        publish_id=publish_id,
        namespace=namespace,
        layout="vllm-aot",
        hash=HASH,
        platform=PLATFORM,
        parts=("shared",),
    )
    Index(client).open_session(asked)
