"""Google Cloud Storage, with the credentials that obstore finds: keys of a service account, those
of the `gcloud` command, and the metadata server's (of a machine, or a pod of GKE)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from obstore.store import GCSStore

from aotcache.storage.cloud import Cloud

if TYPE_CHECKING:
    from obstore.store import ClientConfig, GCSConfig, RetryConfig


def gcs(bucket: str) -> Cloud:
    config: GCSConfig = {"bucket": bucket}

    def opened(options: ClientConfig, again: RetryConfig) -> GCSStore:
        return GCSStore(config=config, client_options=options, retry_config=again)

    return Cloud(
        name="GCS",
        vendor="Google",
        url=f"gs://{bucket}",
        bucket=bucket,
        endpoint=os.environ.get("GOOGLE_BASE_URL") or "https://storage.googleapis.com",
        open=opened,
        environment="GOOGLE_APPLICATION_CREDENTIALS and the other variables of Google; "
        "SSL_CERT_FILE names a PEM file of CA certificates",
    )
