"""Presigning: URLs by which nodes move packs without the service, and without credentials."""

from __future__ import annotations

import base64
import logging
import os
from typing import Any
from urllib.parse import urlsplit

from aotcache.errors import StorageUnavailableError, UsageError
from aotcache.protocol.names import parse_pack_key
from aotcache.protocol.v1.presign import NewPack, Presign, Presigned, SignedUrl

from ..index.database import Database
from ..index.publishing import require_session


class Presigner:
    """Signs for the packs below `storage_url` (s3://bucket/prefix), each URL for `seconds`.

    endpoint: of S3 as the nodes reach it; empty: the service's own. All else comes from the
    standard AWS environment: region, credentials, path or virtual-host addresses. Nothing is sent.
    """

    def __init__(self, storage_url: str, endpoint: str, seconds: int) -> None:
        # Only a service on S3 pays for them.
        import botocore.session  # type: ignore[import-untyped]
        from botocore.config import Config  # type: ignore[import-untyped]

        # What it logs at DEBUG is all that a URL is made of.
        logging.getLogger("botocore.auth").setLevel(logging.INFO)
        parts = urlsplit(storage_url)
        self.seconds = seconds
        self._bucket = parts.netloc
        self._root = f"{parts.path.strip('/')}/".lstrip("/")
        try:
            self._client: Any = botocore.session.get_session().create_client(
                "s3",
                # botocore itself reads only AWS_DEFAULT_REGION, every other AWS tool AWS_REGION.
                region_name=os.environ.get("AWS_REGION"),
                endpoint_url=endpoint or None,
                # Without it botocore signs for custom endpoints as S3 has not for ten years.
                config=Config(signature_version="s3v4"),
            )
        except ValueError as error:
            raise UsageError(f"{endpoint!r} is not an endpoint of S3: {error}") from error

    def read(self, key: str) -> SignedUrl:
        """To get the object, or ranges of it, any number of times."""
        return SignedUrl(url=self._sign("get_object", key))

    def write(self, pack: NewPack) -> SignedUrl:
        """To put the object if it is absent, with the bytes that its name says, and their number.
        The storage checks all three: they are signed."""
        digest = bytes.fromhex(parse_pack_key(pack.key).sha256)
        checksum = base64.b64encode(digest).decode()
        url = self._sign(
            "put_object",
            pack.key,
            ContentLength=pack.size,
            ChecksumSHA256=checksum,
            IfNoneMatch="*",
        )
        headers = {"x-amz-checksum-sha256": checksum, "If-None-Match": "*"}
        return SignedUrl(url=url, headers=headers)

    def _sign(self, operation: str, key: str, **signed: Any) -> str:
        from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]

        parameters = {"Bucket": self._bucket, "Key": self._root + key, **signed}
        try:
            return str(self._client.generate_presigned_url(operation, parameters, self.seconds))
        except BotoCoreError as error:
            raise StorageUnavailableError(
                f"no URL can be signed for {key}: {error} Check the AWS credentials and region of "
                "the service"
            ) from error


def open_presigner(storage_url: str, endpoint: str, seconds: int) -> Presigner | None:
    """None: nodes reach this storage through the service only, or are meant to (no `seconds`)."""
    if not seconds or urlsplit(storage_url).scheme != "s3":
        return None
    return Presigner(storage_url, endpoint, seconds)


def presign(
    database: Database, presigner: Presigner | None, asked: Presign, *, now: int
) -> Presigned:
    """URLs for all that is asked for, or for nothing of it.

    A pack is written under a publish id whose session is open. Raises SessionExpiredError.
    """
    if presigner is None:
        return Presigned()
    names = [parse_pack_key(pack.key) for pack in asked.write]
    if names:
        with database.read() as db:
            for publish_id, namespace in {(name.publish_id, name.namespace) for name in names}:
                require_session(db, publish_id, namespace, now)
    return Presigned(
        read=tuple(presigner.read(key) for key in asked.read),
        write=tuple(presigner.write(pack) for pack in asked.write),
        seconds=presigner.seconds,
    )
