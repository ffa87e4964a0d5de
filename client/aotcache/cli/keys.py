"""`key`: make a signing key, show it, trust one, revoke one."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import click

from aotcache import settings
from aotcache.cli import options, output
from aotcache.errors import UsageError
from aotcache.local.state import make_directories

if TYPE_CHECKING:
    from aotcache.core.trust import Keyring


@click.group()
def key() -> None:
    """Signing keys and trusted keys.

    A publisher signs with a private key; a node installs only what is signed by a key it trusts.
    """


@key.command()
@click.option("--out", help="Private key file.  [default: ~/.config/aotcache/signing.pem]")
@options.as_json
def generate(out: str | None, as_json: bool) -> None:
    """Make a signing key; print the line that nodes trust it by."""
    from aotcache.core.trust import generate_key

    path = out or settings.config_file("signing.pem")
    make_directories(os.path.dirname(os.path.abspath(path)))
    made = generate_key()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError as error:
        raise UsageError(f"{path} is there already; move it away or say --out") from error
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
    with open(descriptor, "wb") as file:
        file.write(made.pem())
    line = made.public_line(socket.gethostname())
    if as_json:
        output.print_json({"id": made.id, "line": line, "path": path})
        return
    click.echo(f"wrote {path} (keep it secret); nodes trust it by this line:", err=True)
    click.echo(line)


@key.command()
@click.option("--signing-key", envvar=settings.SIGNING_KEY, show_envvar=True)
@click.option("--trusted-keys", envvar=settings.TRUSTED_KEYS, show_envvar=True)
@options.as_json
def show(signing_key: str | None, trusted_keys: str | None, as_json: bool) -> None:
    """Show this machine's signing key (its public line) and the keys it trusts."""
    from aotcache.sync import connect

    signer = connect.read_signing_key(signing_key)
    line = signer.public_line(socket.gethostname()) if signer else ""
    ring = connect.read_trusted_keys(trusted_keys)
    if as_json:
        signs = {"id": signer.id, "line": line} if signer else None
        trusts = [{"id": key.id, "comment": key.comment} for key in ring.usable.values()]
        output.print_json({"signs": signs, "trusts": trusts, "revoked": sorted(ring.revoked)})
        return
    click.echo(f"signs as {signer.id}: {line}" if signer else "no signing key: signs nothing")
    for key in ring.usable.values():
        click.echo(f"trusts {key.id} {key.comment}".rstrip())
    for revoked in sorted(ring.revoked):
        click.echo(f"never trusts {revoked}, which is revoked")


@key.command()
@click.argument("line")
@click.option("--trusted-keys", envvar=settings.TRUSTED_KEYS, show_envvar=True)
@options.as_json
def trust(line: str, trusted_keys: str | None, as_json: bool) -> None:
    """Trust the public key LINE (`aotcache-ed25519 BASE64 comment`, as `key generate` prints)."""
    from aotcache.core.trust import parse_trusted_keys

    keys = parse_trusted_keys(line, "the line").trusted
    if len(keys) != 1:
        raise UsageError("that is not one public key")
    path, known = _file_of(trusted_keys)
    if keys[0].id in known.revoked:
        raise UsageError(f"{keys[0].id} is revoked in {path}: it is not trusted again")
    already = keys[0].id in known.usable
    if not already:
        _append(path, line.strip())
    if as_json:
        output.print_json({"id": keys[0].id, "already": already, "path": path})
    elif already:
        click.echo(f"{keys[0].id} is trusted already")
    else:
        click.echo(f"trusts {keys[0].id} from now on ({path})")


@key.command()
@click.argument("key_id", metavar="ID")
@click.option("--trusted-keys", envvar=settings.TRUSTED_KEYS, show_envvar=True)
@click.option(
    "--stored",
    is_flag=True,
    help="Have the service stop serving what this key signed, too: in --namespace, for ever. "
    "Needs a token to admin.",
)
@options.as_json
@options.access
def revoke(
    key_id: str,
    trusted_keys: str | None,
    stored: bool,
    as_json: bool,
    url: str,
    token_file: str | None,
    namespace: str,
) -> None:
    """Never again trust the key of this ID here (`key show`), whatever else trusts it.

    Parts that another trusted key signed too stay good. To rotate: trust the new key everywhere,
    sign with it, then revoke the old one.
    """
    from aotcache.core.trust import revoked_line
    from aotcache.protocol.names import check_key_id
    from aotcache.protocol.v1.keys import RevokeKey

    check_key_id(key_id)
    manifests: tuple[str, ...] = ()
    if stored:
        # First: the file may not be ours to write, as a mounted one is not.
        asked = RevokeKey(key=key_id, namespace=namespace)
        manifests = options.index_at(url, token_file).revoke_key(asked).manifests
    path, known = _file_of(trusted_keys)
    if key_id not in known.revoked:
        _append(path, revoked_line(key_id))
    if as_json:
        output.print_json({"id": key_id, "path": path, "manifests": manifests})
        return
    click.echo(f"{key_id} is not trusted any more ({path})")
    for manifest in manifests:
        click.echo(f"not served any more: {manifest}")


def _file_of(trusted_keys: str | None) -> tuple[str, Keyring]:
    """The file to write, and what it says so far."""
    from aotcache.core.trust import Keyring
    from aotcache.sync import connect

    path = trusted_keys or settings.config_file("trusted_keys")
    make_directories(os.path.dirname(os.path.abspath(path)))
    return path, connect.read_trusted_keys(path) if os.path.exists(path) else Keyring()


def _append(path: str, line: str) -> None:
    try:
        with open(path, "a+", encoding="utf-8") as file:
            file.seek(0)
            text = file.read()
            file.write(("\n" if text and not text.endswith("\n") else "") + line + "\n")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
