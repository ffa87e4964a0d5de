"""The images of deploy/docker: `images`, built once a session by buildah, which needs no engine.

No registry of images is asked: Debian with its own Python stands in for python:…-slim and busybox.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from support.containers import Container
from support.process import work_folder
from support.vllm import ROOT

DOCKERFILES = ROOT / "deploy" / "docker"
BASE = "localhost/base"
PACKAGES = "python3,python3-venv,python3-pip,ca-certificates"


class Images:
    """Those of deploy/docker by name, and `base`; each is built when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.image = cache(self._image)

    def _image(self, name: str) -> Image:
        tag = BASE
        if name == "base":
            self._make_base()
        else:
            self.image("base")
            tag = f"localhost/aotcache-{name}"
            self._build(name, tag)
        mounted = self._buildah("mount", self._buildah("from", "--pull-never", tag))
        about = json.loads(self._buildah("inspect", "--type=image", tag))
        return Image(Path(mounted), about["OCIv1"]["config"])

    def _make_base(self) -> None:
        container = self._buildah("from", "scratch")
        codename = platform.freedesktop_os_release()["VERSION_CODENAME"]
        words = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={PACKAGES}", codename]
        # Its hundred packages are each synced to the disk: not here.
        env = {**os.environ, "TMPDIR": str(self._folder)}
        tar = self._folder / "base.tar"
        _run([*words, str(tar)], env)
        self._buildah("add", "--quiet", container, str(tar), "/")
        tar.unlink()
        self._buildah("commit", "--quiet", "--rm", container, BASE)

    def _build(self, name: str, tag: str) -> None:
        # Nothing but this machine's CAs comes from here.
        words = [
            "build",
            "--pull-never",
            "--layers=false",
            "--volume=/etc/ssl/certs:/etc/ssl/certs:ro",
        ]
        words += [f"--build-arg={argument}={BASE}" for argument in ("BASE", "CARRIER")]
        self._buildah(*words, f"--file={DOCKERFILES / name}.Dockerfile", f"--tag={tag}", str(ROOT))

    def _buildah(self, *words: str) -> str:
        store = [f"--root={self._folder}/store", f"--runroot={self._folder}/run"]
        env = {**os.environ, "BUILDAH_ISOLATION": "chroot", "XDG_RUNTIME_DIR": str(self._folder)}
        said = _run(["buildah", *store, "--storage-driver=overlay", *words], env)
        return said.strip()

    def close(self) -> None:
        self._buildah("umount", "--all")


def _run(words: list[str], env: Mapping[str, str]) -> str:
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}:\n{(done.stdout + done.stderr)[-5000:]}"
    return done.stdout


@dataclass(frozen=True)
class Image:
    """config: as the Dockerfile has it: Entrypoint, Cmd, Env, User."""

    root: Path
    config: dict[str, Any]

    def container(self, env: Mapping[str, str] | None = None, **more: Any) -> Container:
        own = dict(variable.split("=", 1) for variable in self.config.get("Env", ()))
        user = self.config.get("User") or "0:0"
        return Container(image=self.root, env={**own, **(env or {})}, **{"user": user, **more})

    def command(self, *words: str) -> list[str]:
        """words: in place of the image's own."""
        return [*self.config.get("Entrypoint", ()), *(words or self.config.get("Cmd", ()))]


@pytest.fixture(scope="session")
def images() -> Iterator[Images]:
    with work_folder("images") as folder:
        # In memory, where there is much: thousands of files come and go.
        memory = Path("/dev/shm")
        if memory.is_dir() and shutil.disk_usage(memory).free > 6 << 30:
            subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(folder)], check=True)
        found = Images(folder)
        try:
            yield found
        finally:
            found.close()
            subprocess.run(["umount", "--recursive", "--lazy", str(folder)], check=False)
