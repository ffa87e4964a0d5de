"""Azure Blob Storage, with the credentials that obstore finds: a key of the account, a shared
access signature, a service principal, the identity of a pod or of a machine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from obstore.store import AzureStore

from aotcache.errors import UsageError
from aotcache.storage.cloud import Cloud

if TYPE_CHECKING:
    from obstore.store import AzureConfig, ClientConfig, RetryConfig


def azure(container: str) -> Cloud:
    """Raises UsageError where no account is named."""
    account = os.environ.get("AZURE_STORAGE_ACCOUNT_NAME")
    if not account:
        raise UsageError(
            f"az://{container}: set AZURE_STORAGE_ACCOUNT_NAME to the storage account that it is in"
        )
    endpoint = os.environ.get("AZURE_STORAGE_ENDPOINT") or os.environ.get("AZURE_ENDPOINT")
    config: AzureConfig = {"container_name": container}

    def opened(options: ClientConfig, again: RetryConfig) -> AzureStore:
        return AzureStore(config=config, client_options=options, retry_config=again)

    return Cloud(
        name="Azure",
        vendor="Azure",
        url=f"az://{container}",
        bucket=container,
        endpoint=endpoint or f"https://{account}.blob.core.windows.net",
        open=opened,
        environment="AZURE_STORAGE_ACCOUNT_KEY and the other variables of Azure; "
        "SSL_CERT_FILE names a PEM file of CA certificates",
        noun="container",
    )
