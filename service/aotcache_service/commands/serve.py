"""`serve`."""

from __future__ import annotations

import gc
import os
import resource
import socket
from pathlib import Path

import click
import uvicorn

from aotcache.protocol.v1.collect import MAX_BYTES, MAX_DAYS, MAX_PER_RECIPE, Keep

from .. import logs
from ..http.app import create_app
from ..http.server import server_config
from ..http.tracing import traced
from ..http.waiting import Waiting
from ..index.tokens import any_usable
from ..settings import (
    DEFAULT_COLLECT_HOURS,
    DEFAULT_GRACE_HOURS,
    DEFAULT_HOST,
    DEFAULT_LEASE_SECONDS,
    DEFAULT_PORT,
    DEFAULT_PRESIGN_SECONDS,
    DEFAULT_QUARANTINE_NODES,
    DEFAULT_TOKEN_RATE,
    MAX_PRESIGN_SECONDS,
    ServiceSettings,
)
from .data import data_options, unusable_data

HOUR = 3600
OPEN_FILES = 1 << 16


class _PortOption(click.Option):
    """Kubernetes sets AOTCACHE_PORT=tcp://… in pods beside a Service that is called `aotcache`."""

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        value = super().resolve_envvar_value(ctx)
        return None if value and value.startswith(("tcp://", "udp://")) else value


@click.command()
@data_options
@click.option("--host", envvar="AOTCACHE_HOST", default=DEFAULT_HOST, show_default=True)
@click.option(
    "--port",
    cls=_PortOption,
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
    "0: none are given, as on other storage; packs pass the service.",
)
@click.option(
    "--token-rate",
    envvar="AOTCACHE_TOKEN_RATE",
    type=click.IntRange(0),
    default=DEFAULT_TOKEN_RATE,
    show_default=True,
    help="Requests a second that each token may make. 0: any number.",
)
@click.option(
    "--quarantine-nodes",
    envvar="AOTCACHE_QUARANTINE_NODES",
    type=click.IntRange(0),
    default=DEFAULT_QUARANTINE_NODES,
    show_default=True,
    help="How many nodes have to fail with a part, and none load it, before it is not served any "
    "more. 0: it always is.",
)
@click.option(
    "--collect-hours",
    envvar="AOTCACHE_COLLECT_HOURS",
    type=click.IntRange(0),
    default=DEFAULT_COLLECT_HOURS,
    show_default=True,
    help="How often trees that need not be kept are deleted, and packs that nothing refers to; one "
    "replica does it. 0: only by `aotcache gc`.",
)
@click.option(
    "--grace-hours",
    envvar="AOTCACHE_GRACE_HOURS",
    type=click.IntRange(2),
    default=DEFAULT_GRACE_HOURS,
    show_default=True,
    help="How long a pack is left that nothing refers to any more: longer than any pull takes.",
)
@click.option(
    "--lease-seconds",
    envvar="AOTCACHE_LEASE_SECONDS",
    type=click.IntRange(0, 600),
    default=DEFAULT_LEASE_SECONDS,
    show_default=True,
    help="How long nodes wait for one that compiles and is not heard of any more.  0: none waits.",
)
@click.option(
    "--keep-days",
    envvar="AOTCACHE_KEEP_DAYS",
    type=click.IntRange(0, MAX_DAYS),
    default=0,
    help="Delete trees that were neither looked up nor published for so long.  [default: keep all]",
)
@click.option(
    "--keep-bytes",
    envvar="AOTCACHE_KEEP_BYTES",
    type=click.IntRange(0, MAX_BYTES),
    default=0,
    help="Delete the least recently used trees while all that are stored take more.  [default: "
    "keep all]",
)
@click.option(
    "--keep-per-recipe",
    envvar="AOTCACHE_KEEP_PER_RECIPE",
    type=click.IntRange(0, MAX_PER_RECIPE),
    default=0,
    help="Of each recipe, layout and platform keep the trees of so many starts, the last used "
    "ones.  [default: keep all]",
)
@click.option(
    "--log-format",
    envvar="AOTCACHE_LOG_FORMAT",
    type=click.Choice(logs.FORMATS),
    default=logs.TEXT,
    show_default=True,
    help="Lines to read, or one JSON object a line.",
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
    token_rate: int,
    quarantine_nodes: int,
    collect_hours: int,
    grace_hours: int,
    lease_seconds: int,
    keep_days: int,
    keep_bytes: int,
    keep_per_recipe: int,
    log_format: str,
    s3_public_endpoint: str,
) -> None:
    """Run the service: index, API and OpenAPI page (/docs), until it is told to stop."""
    logs.configure(log_format)
    _allow_connections()
    settings = ServiceSettings(
        data_dir=data_dir,
        storage_url=storage_url,
        database_url=database_url,
        host=host,
        port=port,
        presign_seconds=presign_seconds,
        token_rate=token_rate,
        quarantine_nodes=quarantine_nodes,
        s3_public_endpoint=s3_public_endpoint,
        collect_hours=collect_hours,
        grace_seconds=grace_hours * HOUR,
        lease_seconds=lease_seconds,
        keep=Keep(days=keep_days, bytes=keep_bytes, per_recipe=keep_per_recipe),
    )
    with unusable_data(settings):
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        app = create_app(settings)
        context = app.context
        _require_writable(context.database.sqlite_file, settings.storage_directory)
        # Here and not in uvicorn, whose answer to a failed start is a traceback and status 3.
        context.database.migrate()
        with context.database.read() as db:
            closed = any_usable(db, context.database.now())
    if not closed and not settings.is_local:
        raise click.UsageError(
            f"--host {host}: there is no token, so whoever reaches the port could publish code "
            "that other machines run. Make one with `aotcache token create`, or listen on "
            "127.0.0.1"
        )
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
        config = server_config(traced(app))
        _Server(config, line, context.waiting).run(sockets=[listener])


class _Server(uvicorn.Server):
    """Says where it listens once it does. Who waits for a lease is answered before it ends."""

    def __init__(self, config: uvicorn.Config, line: str, waiting: Waiting) -> None:
        super().__init__(config)
        self._line = line
        self._waiting = waiting

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._waiting.close()
        await super().shutdown(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # Objects that stay as long as the process: to go through them again stops it for 0.1 s.
        gc.collect()
        gc.freeze()
        if self.started:
            click.echo(self._line, err=True)


def _allow_connections() -> None:
    """Each node that waits has one, and 1024 is what is usual."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _require_writable(sqlite_file: Path | None, objects: Path | None) -> None:
    """None: not on this machine's disk. Says at the start what the first publish would run into."""
    for path in (sqlite_file and sqlite_file.parent, sqlite_file, objects):
        if path is not None and os.path.exists(path) and not os.access(path, os.W_OK):
            raise click.ClickException(
                f"cannot write {path}: let the service's user write it, or name another --data-dir"
            )
