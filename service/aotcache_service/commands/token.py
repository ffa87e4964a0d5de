"""`token`: make, adopt, list and revoke tokens. At once: a running service asks the same index."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TextIO, TypeVar

import click

from aotcache.errors import NotFoundError, UsageError
from aotcache.protocol.names import DEFAULT_NAMESPACE, check_namespace

from ..auth import ALL_NAMESPACES, READ, SCOPES, parse_token
from ..index import tokens
from ..index.operation import TokenRow
from ..settings import ServiceSettings
from .data import data_options, index_of

_AGE = re.compile(r"([1-9][0-9]{0,5})([mhd])")
_SECONDS = {"m": 60, "h": 3600, "d": 86400}
MAX_NAME = 200
MAX_FILE = 1000
_ADOPTED = {
    tokens.ADOPTED: "token {} is adopted",
    tokens.KNOWN: "token {} is known already",
    tokens.REVOKED: "token {} is revoked and stays so: make another one",
}

_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")

Command = TypeVar("Command", bound=Callable[..., Any])


def _rights(command: Command) -> Command:
    for option in (
        click.option("--name", default="", help="Whose it is, for the list."),
        click.option(
            "--namespace",
            "namespaces",
            multiple=True,
            default=(DEFAULT_NAMESPACE,),
            show_default=True,
            help=f"May be given several times; {ALL_NAMESPACES} for all.",
        ),
        click.option("--scope", type=click.Choice(SCOPES), default=READ, show_default=True),
    ):
        command = option(command)
    return command


@click.group()
def token() -> None:
    """Tokens for the service. Run it where the service runs: it writes the service's index.

    A service for which no token was ever made asks for none and listens on loopback only. From the
    first one on all calls need one.
    """


@token.command()
@data_options
@_rights
@click.option("--expires", metavar="AGE", help="90d, 12h or 30m from now.  [default: never]")
@_as_json
def create(
    scope: str,
    namespaces: Sequence[str],
    name: str,
    expires: str | None,
    as_json: bool,
    **where: Any,
) -> None:
    """Make a token and print it. It is shown this once: only its digest is kept."""
    _check(namespaces, name)
    with index_of(_settings(**where)) as database, database.write() as db:
        now = database.now()
        made = tokens.create(
            db,
            name=name,
            scope=scope,
            namespaces=namespaces,
            now=now,
            expires=now + _seconds(expires) if expires else 0,
        )
    if as_json:
        click.echo(json.dumps({"id": made.id, "token": made.text}))
        return
    click.echo(f"token {made.id}, to {scope} in {', '.join(namespaces)}; keep it secret:", err=True)
    click.echo(made.text)


@token.command()
@click.argument("file", type=click.File())
@data_options
@_rights
def adopt(file: TextIO, scope: str, namespaces: Sequence[str], name: str, **where: Any) -> None:
    """Know the token in FILE (-: stdin), which was made elsewhere: a secret of a cluster, say.

    Again it changes nothing, so that it can be run before each start. A token is
    aotc_ID_SECRET: 12 hexadecimal digits, 43 characters of A-Za-z0-9_- that nobody can guess.
    """
    _check(namespaces, name)
    given = parse_token(file.read(MAX_FILE))
    if given is None:
        raise UsageError(
            f"{file.name} holds no token: aotc_, 12 hexadecimal digits, _, 43 characters of "
            "A-Za-z0-9_-"
        )
    with index_of(_settings(**where)) as database, database.write() as db:
        done = tokens.adopt(
            db, given, name=name, scope=scope, namespaces=namespaces, now=database.now()
        )
    click.echo(_ADOPTED[done].format(given.id), err=True)


@token.command("list")
@data_options
@_as_json
def list_tokens(as_json: bool, **where: Any) -> None:
    """List all tokens that were ever made, without their secrets."""
    with index_of(_settings(**where)) as database, database.read() as db:
        now = database.now()
        rows = [_shown(row, now) for row in tokens.listed(db)]
    if as_json:
        click.echo(json.dumps(rows))
        return
    for row in rows:
        click.echo(
            f"{row['id']}  {row['state']:<8} {row['scope']:<8} {', '.join(row['namespaces']):<16} "
            f"{_day(row['expires']):<11} {row['name']}".rstrip()
        )
    if not rows:
        click.echo("no token was ever made: the service asks for none", err=True)


@token.command()
@click.argument("token_id", metavar="ID")
@data_options
@_as_json
def revoke(token_id: str, as_json: bool, **where: Any) -> None:
    """Revoke the token of this ID (`token list`), at once and for ever."""
    with index_of(_settings(**where)) as database, database.write() as db:
        try:
            tokens.revoke(db, token_id, database.now())
        except NotFoundError as error:
            raise UsageError(str(error)) from error
    click.echo(json.dumps({"id": token_id}) if as_json else f"{token_id} is revoked")


def _check(namespaces: Sequence[str], name: str) -> None:
    for namespace in namespaces:
        if namespace != ALL_NAMESPACES:
            check_namespace(namespace)
    if len(name) > MAX_NAME or not name.isprintable():
        raise UsageError(f"--name: at most {MAX_NAME} printable characters")


def _settings(data_dir: Path, storage_url: str, database_url: str) -> ServiceSettings:
    return ServiceSettings(data_dir=data_dir, storage_url=storage_url, database_url=database_url)


def _seconds(age: str) -> int:
    found = _AGE.fullmatch(age)
    if found is None:
        raise UsageError(f"--expires {age!r}: a number of days, hours or minutes: 90d, 12h, 30m")
    return int(found[1]) * _SECONDS[found[2]]


def _shown(row: TokenRow, now: int) -> dict[str, Any]:
    ended = bool(row.expires) and row.expires <= now
    return {
        "id": row.id,
        "name": row.name,
        "scope": row.scope,
        "namespaces": row.namespaces,
        "created": row.created,
        "expires": row.expires,
        "state": "revoked" if row.revoked else "expired" if ended else "good",
    }


def _day(seconds: int) -> str:
    """Of UTC."""
    if not seconds:
        return "never"
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d")
