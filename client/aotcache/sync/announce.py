"""Announce: put the manifest of a part's next generation."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Collection
from dataclasses import dataclass

from aotcache.core.places import Places
from aotcache.errors import GenerationTakenError, ManifestError, ObjectExistsError, TrustError
from aotcache.protocol.manifest import (
    Manifest,
    Statement,
    decode_manifest,
    encode_manifest,
    encode_statement,
)
from aotcache.protocol.names import TreeKey
from aotcache.protocol.sections import FORMAT_ON_BASE, Base
from aotcache.sync.identity import Identity
from aotcache.sync.plan import PartPlan
from aotcache.sync.session import PublishSession
from aotcache.sync.site import Site

logger = logging.getLogger(__name__)

_WORTH = 8 << 10  # bytes of a statement that others are written against


@dataclass(frozen=True, slots=True)
class Written:
    """A statement, and its section; base: what that is written against."""

    statement: Statement
    section: bytes
    base: Base | None


def put_manifest(
    site: Site, session: PublishSession, plan: PartPlan, written: Written, places: Places
) -> None:
    """Put a plan's manifest; where there is one of its name, accept that one instead. One that
    cannot be accepted would keep its part from everybody for ever: it is deleted."""
    statement, statement_bytes, base = written.statement, written.section, written.base
    on_base = base is not None
    signatures = (site.signer.sign(statement_bytes, on_base=on_base),) if site.signer else ()
    sizes = {entry.digest: entry.size for entry in statement.files}
    locations = places.locations(statement.digests(), sizes)
    stored = encode_manifest(statement_bytes, locations, signatures, base)
    plan.data = encode_manifest(statement_bytes, locations, signatures, base, whole=True)
    decode_manifest(plan.data)  # one that breaks a rule of the format must not get into storage
    for _ in range(2):
        try:
            site.store.put(plan.manifest_key, stored)
        except ObjectExistsError:
            logger.debug("%s is there already", plan.manifest_key)
        else:
            return
        try:
            # Another publisher's, or our own from before an interruption.
            plan.taken = site.manifest(plan.manifest_key).statement
        except (TrustError, ManifestError) as error:
            session.remove(plan.manifest_key, error)
        else:
            return
    raise GenerationTakenError(f"{plan.manifest_key} is put by somebody this node does not trust")


def write(statement: Statement, previous: Manifest | None, formats: Collection[str]) -> Written:
    """Against the statement that the newest generation has or is, if that makes it smaller by what
    another request is worth to a reader. formats: that the service reads."""
    if previous is not None and FORMAT_ON_BASE in formats:
        base = previous.base or Base(previous.statement.generation, previous.statement_bytes)
        if len(base.statement) >= _WORTH:
            grown = encode_statement(statement, base)
            if len(grown) <= len(base.statement) // 2:
                return Written(statement, grown, base)
    return Written(statement, encode_statement(statement), None)


def statement_of(identity: Identity, key: TreeKey, plan: PartPlan, publish_id: str) -> Statement:
    return Statement(
        namespace=key.namespace,
        layout=key.layout,
        hash=key.hash,
        platform=identity.platform,
        part=plan.state.part,
        generation=plan.state.next_generation,
        publish_id=publish_id,
        created=int(time.time()),
        publisher=socket.gethostname()[:255],
        recipe=identity.recipe,
        expected_parts=identity.expected_parts,
        compile_seconds=identity.compile_seconds,
        hash_factors=identity.hash_factors,
        notes=identity.notes,
        trees=identity.trees,
        files=plan.files,
    )
