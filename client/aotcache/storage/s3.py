"""S3, and what speaks its language. What the AWS environment says is in `s3_environment`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from obstore.store import S3Store

from aotcache.storage.cloud import Cloud
from aotcache.storage.s3_environment import aws_environment

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config


def s3(bucket: str) -> Cloud:
    environment = aws_environment(bucket)
    config: S3Config = {
        "bucket": bucket,
        "region": environment.region,
        # Not `endpoint`, before which obstore takes the variable of this name.
        "aws_endpoint_url_s3": environment.endpoint,
        "conditional_put": "etag",
        # One key at a time: some servers have no bulk deletion.
        "disable_bulk_delete": True,
    }
    if environment.in_host:
        config["virtual_hosted_style_request"] = True

    def opened(options: ClientConfig, again: RetryConfig) -> S3Store:
        return S3Store(
            config=config,
            client_options=options,
            retry_config=again,
            credential_provider=environment.credentials,
        )

    return Cloud(
        name="S3",
        vendor="AWS",
        url=f"s3://{bucket}",
        bucket=bucket,
        endpoint=environment.endpoint,
        open=opened,
        environment="the AWS environment; AWS_CA_BUNDLE names a PEM file of CA certificates",
        certificates=environment.certificates,
        unread=environment.unread,
        names_token_requests=False,
    )
