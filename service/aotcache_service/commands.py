"""The service's commands; the aotcache CLI finds them by their entry points."""

from __future__ import annotations

import gc
import ipaddress
import json
import logging
import os
import socket
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click
import uvicorn
from alembic.util import CommandError
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from aotcache.errors import StorageUnavailableError
from aotcache.storage import open_store

from .http.app import create_app
from .index.database import Database
from .ops.reindex import reindex as run_reindex
from .settings import (
    DEFAULT_HOST,
    DEFAULT_PORT,
    DEFAULT_PRESIGN_SECONDS,
    MAX_PRESIGN_SECONDS,
    ServiceSettings,
)

Command = TypeVar("Command", bound=Callable[..., Any])


def _data_options(command: Command) -> Command:
    for option in (
        click.option(
            "--database-url",
            envvar="AOTCACHE_DATABASE_URL",
            default="",
            help="Where the index lies: sqlite:///FILE or postgresql://…  "
            "[default: DATA_DIR/index.sqlite3]",
        ),
        click.option(
            "--storage-url",
            envvar="AOTCACHE_STORAGE_URL",
            default="",
            help="Where packs and manifests lie: file:///DIRECTORY or s3://BUCKET/PREFIX.  "
            "[default: DATA_DIR/objects]",
        ),
        click.option(
            "--data-dir",
            envvar="AOTCACHE_DATA_DIR",
            required=True,
            type=click.Path(file_okay=False, path_type=Path),
            help="Directory of the service's own files; made when there is none.",
        ),
    ):
        command = option(command)
    return command


@click.command()
@_data_options
@click.option("--host", envvar="AOTCACHE_HOST", default=DEFAULT_HOST, show_default=True)
@click.option(
    "--port",
    envvar="AOTCACHE_PORT",
    type=click.IntRange(0, 65535),
    default=DEFAULT_PORT,
    show_default=True,
    help="0: any free one; the line on stderr says which.",
)
@click.option(
    "--presign-seconds",
    envvar="AOTCACHE_PRESIGN_SECONDS",
    type=click.IntRange(0, MAX_PRESIGN_SECONDS),
    default=DEFAULT_PRESIGN_SECONDS,
    show_default=True,
    help="With S3: how long the URLs are good for by which nodes move packs past the service. "
    "0: none are given, packs pass the service.",
)
@click.option(
    "--s3-public-endpoint",
    envvar="AOTCACHE_S3_PUBLIC_ENDPOINT",
    default="",
    help="S3 as nodes reach it, where that differs: https://HOST.  [default: this service's own "
    "endpoint]",
)
def serve(
    data_dir: Path,
    storage_url: str,
    database_url: str,
    host: str,
    port: int,
    presign_seconds: int,
    s3_public_endpoint: str,
) -> None:
    """Run the service: index, API and OpenAPI page (/docs), until it is told to stop."""
    if not _is_loopback(host):
        raise click.UsageError(
            f"--host {host}: there are no tokens yet, so whoever reaches the port could publish "
            "code that other machines run; listen on 127.0.0.1 and let a proxy or tunnel "
            "that authenticates forward to it"
        )
    settings = ServiceSettings(
        data_dir=data_dir,
        storage_url=storage_url,
        database_url=database_url,
        host=host,
        port=port,
        presign_seconds=presign_seconds,
        s3_public_endpoint=s3_public_endpoint,
    )
    with _unusable_data(settings):
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        app = create_app(settings)
        context = app.context
        _require_writable(context.database.sqlite_file, settings.storage_directory)
        # Here and not in uvicorn, whose answer to a failed start is a traceback and status 3.
        context.database.migrate()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise click.ClickException(f"cannot listen on {host} port {port}: {error}") from error
    with listener:
        # asyncio does so only for sockets it made itself; without it each small answer waits 40 ms
        # for the acknowledgement of its headers.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        shown = f"[{host}]" if family == socket.AF_INET6 else host
        line = (
            f"aotcache service listening on http://{shown}:{listener.getsockname()[1]} "
            f"(index: {context.database.url}, objects: {context.store.url})"
        )
        config = uvicorn.Config(
            app,
            # uvloop takes as long for a lookup, and accepts one connection a turn: a fleet that
            # connects at once would wait for as many turns as it has nodes.
            loop="asyncio",
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            timeout_graceful_shutdown=10,
        )
        _Server(config, line).run(sockets=[listener])


@click.command()
@_data_options
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
def reindex(data_dir: Path, storage_url: str, database_url: str, as_json: bool) -> None:
    """Rebuild the index from object storage; the service may go on running meanwhile."""
    settings = ServiceSettings(
        data_dir=data_dir, storage_url=storage_url, database_url=database_url
    )
    logging.basicConfig(format="%(levelname)s %(message)s")
    with _unusable_data(settings):
        database = Database(settings.database_url)
        database.migrate()
        store = open_store(settings.storage_url)
    try:
        done = run_reindex(database, store)
    finally:
        store.close()
        database.close()
    if as_json:
        click.echo(json.dumps(asdict(done)))
    else:
        click.echo(f"{done.trees} trees, {done.parts} parts; {done.skipped} manifests skipped")


class _Server(uvicorn.Server):
    """Says where it listens once it does."""

    def __init__(self, config: uvicorn.Config, line: str) -> None:
        super().__init__(config)
        self._line = line

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # Objects that stay as long as the process: to go through them again stops it for 0.1 s.
        gc.collect()
        gc.freeze()
        if self.started:
            click.echo(self._line, err=True)


@contextmanager
def _unusable_data(settings: ServiceSettings) -> Iterator[None]:
    """Why the service's data cannot be used: one line, and status 1 (3 is a miss in this CLI)."""
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error, CommandError) as error:
        reason = str(getattr(error, "orig", None) or error).partition("\n")[0]
        # Shown without its password.
        url = make_url(settings.database_url).render_as_string()
        raise click.ClickException(
            f"the index's database {url} cannot be used: {reason}"
        ) from error
    except OSError as error:
        raise click.ClickException(
            f"cannot write {error.filename or settings.data_dir}: {error.strerror or error}"
        ) from error
    except StorageUnavailableError as error:
        raise click.ClickException(str(error)) from error


def _require_writable(sqlite_file: Path | None, objects: Path | None) -> None:
    """None: not on this machine's disk. Says at the start what the first publish would run into."""
    for path in (sqlite_file and sqlite_file.parent, sqlite_file, objects):
        if path is not None and os.path.exists(path) and not os.access(path, os.W_OK):
            raise click.ClickException(
                f"cannot write {path}: let the service's user write it, or name another --data-dir"
            )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
