"""What the service is told: where its data lies and where it listens."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from aotcache.protocol.v1.collect import Keep

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8750
DEFAULT_PRESIGN_SECONDS = 300
DEFAULT_TOKEN_RATE = 1000
DEFAULT_QUARANTINE_NODES = 3
DEFAULT_COLLECT_HOURS = 24
DEFAULT_GRACE_HOURS = 24
# Longer than a call may take with its repeats, and than a database takes to fail over.
DEFAULT_LEASE_SECONDS = 60
MAX_PRESIGN_SECONDS = 7 * 24 * 3600  # S3's own bound


@dataclass(slots=True, kw_only=True)
class ServiceSettings:
    """An empty URL is filled in with the embedded default below `data_dir`:

        {data_dir}/index.sqlite3    the index
        {data_dir}/objects          packs, manifests, marks

    session_seconds: lifetime of a publish session, counted from its opening or last resuming.
    presign_seconds: how long the URLs are good for by which nodes read and write packs in S3; 0:
    none are given, packs pass the service. token_rate: requests a second that each token may make;
    0: any number. quarantine_nodes: how many have to fail with a part before it is not served any
    more; 0: it always is. s3_public_endpoint: S3 as nodes reach it, where that is not the
    service's own endpoint. collect_hours: between two collections; 0: only when somebody asks.
    grace_seconds: how long a pack is left that nothing refers to any more, longer than any session
    or pull. lease_seconds: how long a node that compiles keeps others waiting without being heard
    of; 0: nobody waits. keep: which trees a collection leaves.
    """

    data_dir: Path
    storage_url: str = ""
    database_url: str = ""
    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    session_seconds: int = 3600
    presign_seconds: int = DEFAULT_PRESIGN_SECONDS
    token_rate: int = DEFAULT_TOKEN_RATE
    quarantine_nodes: int = DEFAULT_QUARANTINE_NODES
    s3_public_endpoint: str = ""
    collect_hours: int = DEFAULT_COLLECT_HOURS
    grace_seconds: int = DEFAULT_GRACE_HOURS * 3600
    lease_seconds: int = DEFAULT_LEASE_SECONDS
    keep: Keep = field(default_factory=Keep)

    def __post_init__(self) -> None:
        self.data_dir = self.data_dir.absolute()
        self.storage_url = self.storage_url or (self.data_dir / "objects").as_uri()
        self.database_url = self.database_url or f"sqlite:///{self.data_dir / 'index.sqlite3'}"

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the service."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def storage_directory(self) -> Path | None:
        """Where objects lie as files; None for any other storage."""
        parts = urlsplit(self.storage_url)
        return Path(unquote(parts.path)) if parts.scheme == "file" else None
