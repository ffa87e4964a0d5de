"""What the contestants talk to: one S3 server, and services, near or a round trip away."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from support import site as sites
from support.process import answers, free_ports, running
from support.s3 import S3Server

SERVICE = "aotcache, through the service"
PRESIGNED = "aotcache, presigned from S3"
DIRECT = "aotcache, straight from S3"

_FOREIGN = ("AOTCACHE_", "AWS_", "PYTHONDONTWRITEBYTECODE", "RCLONE_", "S3_")


@dataclass(frozen=True, slots=True)
class Line:
    """A way from the node to the servers. env: of whoever runs on the node; options: of `push` and
    `pull`, by the way in which bytes move; data: the embedded service's directory."""

    name: str
    env: Mapping[str, str]
    options: Mapping[str, tuple[str, ...]]
    data: Path
    bucket: str

    def prefix(self, name: str) -> str:
        return f"{self.bucket}/{name}"


def distance(milliseconds: int) -> str:
    return f"{milliseconds} ms more" if milliseconds else "loopback"


def open_line(running_: ExitStack, home: Path, s3: S3Server, milliseconds: int) -> Line:
    """Services of their own, on empty storage. With a round trip the S3 server is far from the
    service's nodes, and near the service."""
    folder = home / f"line-{milliseconds}"
    folder.mkdir()

    def seen(url: str) -> str:
        if not milliseconds:
            return url
        return _further(running_, folder, url, milliseconds)

    storage = s3.fresh_url()
    far = replace(s3, endpoint=seen(s3.endpoint))
    embedded = running_.enter_context(sites.run(folder / "embedded"))
    on_s3 = running_.enter_context(
        sites.run(
            folder / "on-s3",
            storage_url=storage,
            env={
                **s3.env(),
                "AWS_DEFAULT_REGION": "us-east-1",
                "AOTCACHE_S3_PUBLIC_ENDPOINT": far.endpoint,
            },
        )
    )
    service, stored = seen(embedded.url), seen(on_s3.url)
    return Line(
        name=distance(milliseconds),
        env=node_env(home, far),
        options={
            SERVICE: ("--url", service),
            PRESIGNED: ("--url", stored, "--transfer", "presigned"),
            DIRECT: ("--url", stored, "--storage-url", storage),
        },
        data=folder / "embedded",
        bucket=f"{s3.bucket}/{folder.name}",
    )


def node_env(home: Path, s3: S3Server) -> dict[str, str]:
    """A node with credentials for this S3, and nothing else set that anybody here reads."""
    return {
        **{k: v for k, v in os.environ.items() if not k.startswith(_FOREIGN)},
        **s3.env(),
        # botocore, so s3fs as it comes, reads only this name of the region.
        "AWS_DEFAULT_REGION": "us-east-1",
        "S3_ENDPOINT_URL": s3.endpoint,  # s5cmd's
        "RCLONE_CONFIG": str(home / "no-rclone.conf"),
        "RCLONE_CONFIG_BENCH_TYPE": "s3",
        "RCLONE_CONFIG_BENCH_PROVIDER": "Other",
        "RCLONE_CONFIG_BENCH_ENV_AUTH": "true",
        "RCLONE_CONFIG_BENCH_REGION": "us-east-1",
        "RCLONE_CONFIG_BENCH_ENDPOINT": s3.endpoint,
        "XDG_CONFIG_HOME": str(home / "config"),
    }


def _further(running_: ExitStack, folder: Path, url: str, milliseconds: int) -> str:
    (port,) = free_ports(1)
    target = urlsplit(url).port
    command = [sys.executable, str(Path(__file__).with_name("latency.py"))]
    command += [str(port), str(target), str(milliseconds)]
    further = f"http://127.0.0.1:{port}"
    running_.enter_context(
        running(command, folder / f"latency-{port}.log", lambda: answers(further))
    )
    return further
