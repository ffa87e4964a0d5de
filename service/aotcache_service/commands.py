"""The service's commands; the aotcache CLI finds them by their entry points."""

from __future__ import annotations

import ipaddress
import json
import logging
import socket
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click
import uvicorn

from aotcache.storage import open_store

from .http.app import create_app
from .index.database import Database
from .ops.reindex import reindex as run_reindex
from .settings import DEFAULT_HOST, DEFAULT_PORT, ServiceSettings

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
def serve(data_dir: Path, storage_url: str, database_url: str, host: str, port: int) -> None:
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
    )
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    app = create_app(settings)
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
        context = app.state.context
        line = (
            f"aotcache service listening on http://{shown}:{listener.getsockname()[1]} "
            f"(index: {context.database.url}, objects: {context.store.url})"
        )
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, timeout_graceful_shutdown=10
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
    database = Database(settings.database_url)
    store = open_store(settings.storage_url)
    try:
        database.migrate()
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
        if self.started:
            click.echo(self._line, err=True)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
