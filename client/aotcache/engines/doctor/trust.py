"""Whose trees are accepted here, and who signs what is published from here."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from aotcache import settings
from aotcache.core.trust import UNSIGNED, Keyring, make_policy
from aotcache.engines.doctor.findings import Finding, Setup, note, ok, problem
from aotcache.errors import AotcacheError
from aotcache.sync.connect import read_signing_key, read_trusted_keys


def check_trust(setup: Setup) -> Iterator[Finding]:
    signer = None
    try:
        signer = read_signing_key(setup.signing_key)
    except AotcacheError as error:
        yield problem("trust", f"the signing key cannot be used: {error}")
    try:
        keys = read_trusted_keys(setup.trusted_keys)
    except AotcacheError as error:
        yield problem("trust", str(error))
        keys = Keyring()
    if signer is not None and signer.id in keys.revoked:
        yield problem(
            "trust",
            f"the signing key {signer.id} is revoked here: nothing is signed with it",
            "move it away, and make another with `aotcache key generate`",
        )
        signer = None
    yield from _check_policy(setup, keys.plus(signer))
    if signer is not None:
        yield from _check_mode(setup.signing_key or settings.config_file("signing.pem"))
    publishes = settings.is_on(setup.environ.get(settings.PUBLISH))
    if signer is not None:
        yield ok("trust", f"what is published from here is signed with key {signer.id}")
    elif publishes and setup.trust != UNSIGNED:
        yield problem(
            "trust",
            f"{settings.PUBLISH} is set and there is no signing key: nothing is published",
            "make one with `aotcache key generate`, and trust its line on the other nodes",
        )
    elif publishes:
        yield note("trust", "published from here without a signature", "`aotcache key generate`")
    if not publishes:
        yield ok("trust", f"{settings.PUBLISH} is not set: the engine's node only pulls")


def _check_policy(setup: Setup, keys: Keyring) -> Iterator[Finding]:
    try:
        policy = make_policy(setup.trust, keys)
    except AotcacheError as error:
        yield problem("trust", str(error))
    else:
        if policy.mode == UNSIGNED:
            yield note(
                "trust",
                "unsigned: whoever can publish can run code here",
                "sign: `aotcache key generate` where trees are published, `aotcache key trust` "
                "elsewhere",
            )
        else:
            yield ok("trust", f"signed: {len(policy.keys)} trusted key(s)")


def _check_mode(path: str) -> Iterator[Finding]:
    mode = stat.S_IMODE(os.stat(path).st_mode)
    if mode & (stat.S_IRWXO | stat.S_IWGRP):
        yield problem(
            "trust",
            f"{path} has mode {mode:o}: whoever reads it can publish code that runs on every node "
            "that trusts it",
            f"chmod 600 {path}; as a Kubernetes secret, defaultMode: 0400",
        )
