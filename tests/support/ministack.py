"""S3 on ministack, the second opinion: `ministack`, one server a session.

It pins botocore, so it lives in an environment of its own, made once a machine outside the
repository.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.installed import installed
from support.process import answers, free_ports, running, work_folder
from support.s3 import ACCESS_KEY, SECRET_KEY, S3Server

VERSION = "1.5.33"


def _install(home: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", home], check=True)
    package = f"ministack=={VERSION}"
    subprocess.run([home / "bin/python", "-m", "pip", "install", "-q", package], check=True)


@contextmanager
def run_ministack() -> Iterator[S3Server]:
    command = [str(installed(f"ministack-{VERSION}", _install) / "bin/ministack")]
    (port,) = free_ports(1)
    with work_folder("ministack") as folder:
        env = {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AUTH": "true",
            "GATEWAY_PORT": str(port),
            "BIND_HOST": "127.0.0.1",
            "SERVICES": "s3,iam,sts",
            "S3_DATA_DIR": str(folder / "data"),
        }
        server = S3Server(f"http://127.0.0.1:{port}")
        up = lambda: answers(server.endpoint)  # noqa: E731
        with running(command, folder / "log", up, env=env):
            server.make_bucket()
            yield server


@pytest.fixture(scope="session")
def ministack() -> Iterator[S3Server]:
    with run_ministack() as server:
        yield server
