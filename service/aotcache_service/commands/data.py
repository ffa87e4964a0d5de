"""Where the service's data lies: options that all its commands have, and what is said when it
cannot be used."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
from alembic.util import CommandError
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from aotcache.errors import StorageUnavailableError

from ..index.database import Database
from ..settings import ServiceSettings

Command = TypeVar("Command", bound=Callable[..., Any])


def data_options(command: Command) -> Command:
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
            help="Where packs and manifests lie: file:///DIRECTORY, s3://BUCKET/PREFIX, "
            "gs://BUCKET/PREFIX or az://CONTAINER/PREFIX.  [default: DATA_DIR/objects]",
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


@contextmanager
def index_of(settings: ServiceSettings) -> Iterator[Database]:
    """The database, its tables brought up to this version."""
    with unusable_data(settings):
        database = Database(settings.database_url)
        try:
            database.migrate()
            yield database
        finally:
            database.close()


@contextmanager
def unusable_data(settings: ServiceSettings) -> Iterator[None]:
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
