"""An S3 server that runs, and how tests talk to it."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

import botocore.session  # type: ignore[import-untyped]
import pytest

ACCESS_KEY = "AKAOTCACHETESTS00001"
SECRET_KEY = "sk-aotcache-tests-very-secret-0001"
BUCKET = "aotcache"


@dataclass(frozen=True, slots=True)
class S3Server:
    endpoint: str
    access_key: str = ACCESS_KEY
    secret_key: str = SECRET_KEY
    bucket: str = BUCKET

    def env(self) -> dict[str, str]:
        """The standard AWS environment that leads here, and nowhere else."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in self.env().items():
            monkeypatch.setenv(name, value)

    def fresh_url(self) -> str:
        """A storage URL below which nothing was ever stored."""
        return f"s3://{self.bucket}/{uuid.uuid4().hex}"

    def make_bucket(self) -> None:
        client = botocore.session.get_session().create_client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
        )
        client.create_bucket(Bucket=self.bucket)
        client.close()
