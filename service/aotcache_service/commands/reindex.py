"""`reindex`."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path

import click

from aotcache.storage import open_store

from ..index.database import Database
from ..ops.listing import list_storage
from ..ops.reconcile import reconcile
from ..settings import ServiceSettings
from .data import data_options, unusable_data


@click.command()
@data_options
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
def reindex(data_dir: Path, storage_url: str, database_url: str, as_json: bool) -> None:
    """Rebuild the index from object storage; the service may go on running meanwhile."""
    settings = ServiceSettings(
        data_dir=data_dir, storage_url=storage_url, database_url=database_url
    )
    logging.basicConfig(format="%(levelname)s %(message)s")
    with unusable_data(settings):
        database = Database(settings.database_url)
        database.migrate()
        store = open_store(settings.storage_url)
    try:
        done = reconcile(database, store, list_storage(store))
    finally:
        store.close()
        database.close()
    if as_json:
        click.echo(json.dumps(asdict(done)))
    else:
        click.echo(f"{done.trees} trees, {done.parts} parts; {len(done.skipped)} manifests skipped")
