"""Quarantine and its end, also in object storage: a rebuilt index knows it too.

The mark comes first, and goes first: killed before the index follows, what is told next, or the
same call again, completes it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import msgspec
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from aotcache.errors import (
    AotcacheError,
    FormatError,
    NotFoundError,
    ObjectExistsError,
    StorageError,
    UsageError,
)
from aotcache.protocol.decoding import decode_json
from aotcache.protocol.names import TreeKey, quarantined_key, quarantined_prefix
from aotcache.protocol.v1.outcomes import Outcome
from aotcache.protocol.v1.quarantine import (
    MAX_QUARANTINED,
    Quarantine,
    Quarantined,
    QuarantinedPart,
    Release,
    Released,
)
from aotcache.storage.base import ObjectStore

from ..index import history, outcomes, verdicts, withheld
from ..index.database import Database
from ..index.models import PartRow, QuarantineRow, TreeRow
from ..index.publishing import deleted_up_to, newest_parts, quarantine_of
from ..index.rows import quarantined_part, tree_key
from ..metrics import OUTCOMES, PULL_BYTES, PULL_SECONDS, QUARANTINES

log = logging.getLogger(__name__)


class Mark(msgspec.Struct, kw_only=True):
    """What a quarantine's mark in storage says."""

    reason: str
    since: int
    content: str = ""
    first: int = 1


@dataclass(frozen=True, slots=True)
class Verdict:
    """generation: that is to be quarantined, with this content."""

    generation: int
    reason: str
    content: str


def tell(
    database: Database,
    store: ObjectStore,
    outcome: Outcome,
    *,
    token: str,
    nodes: int,
    now: int,
) -> None:
    """Count an outcome; quarantine its part where that is enough (`verdicts.hear`). Raises
    NotFoundError and UsageError as `outcomes.count_outcome` does."""
    (found,) = count_all(database, [(outcome, token)], nodes=nodes, now=now)
    if isinstance(found, Exception):
        raise found
    if found is not None:
        follow(database, store, outcome, found, now=now)


def count_all(
    database: Database, told: Sequence[tuple[Outcome, str]], *, nodes: int, now: int
) -> list[Verdict | Exception | None]:
    """Count outcomes, each told with a token, in one transaction: of each the verdict that is to be
    followed, if there is one, or what `outcomes.count_outcome` raises."""
    heard: list[Verdict | Exception | None] = []
    amounts: Counter[history.Place] = Counter()
    try:
        with database.write() as db:
            for outcome, token in told:
                try:
                    tree, saved = outcomes.count_outcome(db, outcome, now)
                except AotcacheError as error:
                    heard.append(error)
                    continue
                amounts.update(history.of_outcome(outcome, saved, now))
                heard.append(_heard(db, tree, outcome, token, nodes, now))
            history.add(db, amounts)
    except DBAPIError as error:
        if len(told) == 1:
            return [error]
        # One may hold what the database cannot: it does not spoil the others.
        return [one for each in told for one in count_all(database, [each], nodes=nodes, now=now)]
    for (outcome, _), one in zip(told, heard, strict=True):
        if not isinstance(one, Exception):
            OUTCOMES.labels(outcome.outcome).inc()
            PULL_SECONDS.inc(outcome.seconds)
            PULL_BYTES.inc(outcome.bytes)
    return heard


def _heard(
    db: Session, tree: TreeRow, outcome: Outcome, token: str, nodes: int, now: int
) -> Verdict | None:
    found = verdicts.hear(db, tree, outcome, token, nodes, now)
    if found is None:
        return None
    return Verdict(*found, withheld.content_of_part(db, tree, outcome.part, found[0]))


def follow(
    database: Database, store: ObjectStore, outcome: Outcome, verdict: Verdict, *, now: int
) -> None:
    """Quarantine what an outcome is about."""
    generation, reason, content = verdict.generation, verdict.reason, verdict.content
    key = TreeKey(
        namespace=outcome.namespace,
        layout=outcome.layout,
        hash=outcome.hash,
        platform=outcome.platform,
    )
    mark = quarantined_key(key, outcome.part, generation)
    try:
        store.put(mark, encode_mark(Mark(reason=reason, since=now, content=content)))
    except ObjectExistsError:
        log.debug("%s is there already", mark)
    except StorageError as error:
        # The outcome is counted; the next one tries again.
        log.warning("%s %s is not quarantined yet: %s", key, outcome.part, error)
        return
    with database.write() as db:
        withheld.quarantine(db, key, outcome.part, generation, reason, now, content)
    QUARANTINES.inc()
    log.warning("%s %s is quarantined: %s", key, outcome.part, reason)


def listed(database: Database, namespaces: frozenset[str] | None) -> Quarantined:
    query = select(QuarantineRow).where(~withheld.replaced())
    query = query.order_by(QuarantineRow.since.desc()).limit(MAX_QUARANTINED)
    if namespaces is not None:
        query = query.where(QuarantineRow.namespace.in_(sorted(namespaces)))
    with database.read() as db:
        return Quarantined(parts=tuple(quarantined_part(row) for row in db.scalars(query)))


def put(database: Database, store: ObjectStore, asked: Quarantine, *, now: int) -> Quarantined:
    """Quarantine by hand. Raises NotFoundError where nothing of it is served, or nothing earlier is
    there to serve in its place; UsageError where the part is quarantined in another way."""
    with database.read() as db:
        wanted = [*_wanted(db, asked)]
    if not wanted:
        raise NotFoundError(
            f"{asked.namespace}/{asked.layout}/{asked.hash[:12]} {asked.part} is not served: there "
            "is nothing to quarantine"
        )
    first = asked.after + 1
    for key, name, generation, content in wanted:
        mark = Mark(reason=asked.reason, since=now, content=content, first=first)
        with suppress(ObjectExistsError):  # from before
            store.put(quarantined_key(key, name, generation), encode_mark(mark))
        with database.write() as db:
            withheld.quarantine(db, key, name, generation, asked.reason, now, content, first)
        log.warning("%s %s is quarantined: %s", key, name, asked.reason)
    return Quarantined(
        parts=tuple(
            QuarantinedPart(
                namespace=key.namespace,
                layout=key.layout,
                hash=key.hash,
                platform=key.platform,
                part=name,
                generation=generation,
                reason=asked.reason,
                since=now,
                first=first,
            )
            for key, name, generation, _ in wanted
        )
    )


def _wanted(db: Session, asked: Quarantine) -> Iterator[tuple[TreeKey, str, int, str]]:
    """Tree, part, the generation that is served, and its content."""
    query = select(TreeRow).where(
        TreeRow.namespace == asked.namespace,
        TreeRow.layout == asked.layout,
        TreeRow.hash == asked.hash,
    )
    if asked.platform:
        query = query.where(TreeRow.platform_id == asked.platform)
    for tree in db.scalars(query.order_by(TreeRow.id)).all():
        key = tree_key(tree)
        for name, part in newest_parts(db, key).items():
            if asked.part not in {"", name}:
                continue
            content = withheld.content_of_part(db, tree, name, part.generation)
            if asked.after:
                _require_earlier(db, tree, part, asked.after)
                content = ""
            yield key, name, part.generation, content


def _require_earlier(db: Session, tree: TreeRow, part: PartRow, after: int) -> None:
    key = tree_key(tree)
    kept = select(PartRow.id).where(
        PartRow.tree_id == tree.id,
        PartRow.part == part.part,
        PartRow.generation <= after,
        PartRow.generation > deleted_up_to(db, key, part.part),
        PartRow.withheld == "",
    )
    if part.generation <= after or db.scalar(kept.limit(1)) is None:
        raise NotFoundError(
            f"{key} {part.part}: generation {part.generation} is served, and there is no earlier "
            f"one up to {after} to serve in its place"
        )
    if quarantine_of(db, key, part.part) is not None:
        raise UsageError(
            f"{key} {part.part} is quarantined already, or was set back: release it first"
        )


def release(database: Database, store: ObjectStore, asked: Release) -> Released:
    """Raises NotFoundError where nothing of it is quarantined."""
    query = select(QuarantineRow).where(
        QuarantineRow.namespace == asked.namespace,
        QuarantineRow.layout == asked.layout,
        QuarantineRow.hash == asked.hash,
    )
    if asked.platform:
        query = query.where(QuarantineRow.platform_id == asked.platform)
    if asked.part:
        query = query.where(QuarantineRow.part == asked.part)
    with database.read() as db:
        found = tuple(
            quarantined_part(row) for row in db.scalars(query.order_by(QuarantineRow.part))
        )
    if not found:
        raise NotFoundError(
            f"nothing of {asked.namespace}/{asked.layout}/{asked.hash[:12]} is quarantined; "
            "`aotcache quarantine list` names what is"
        )
    for part in found:
        key = TreeKey(
            namespace=part.namespace, layout=part.layout, hash=part.hash, platform=part.platform
        )
        end(database, store, key, part.part)
    return Released(parts=found)


def end(database: Database, store: ObjectStore, tree: TreeKey, part: str) -> None:
    """As if it had never been quarantined."""
    for mark in list(store.list(quarantined_prefix(tree, part))):
        store.delete(mark.key)
    with database.write() as db:
        row = quarantine_of(db, tree, part)
        if row is not None:
            withheld.release(db, row)


def encode_mark(mark: Mark) -> bytes:
    return msgspec.json.encode(mark)


def read_mark(store: ObjectStore, key: str) -> Mark:
    """Raises ObjectMissingError."""
    try:
        found = decode_json(store.get(key), Mark)
    except FormatError:
        return Mark(reason="its mark in storage cannot be read", since=0)
    # PostgreSQL holds no NUL, and who may write to storage may have put one.
    found.reason = "".join(c if c.isprintable() else " " for c in found.reason)
    found.content = found.content if found.content.isprintable() else ""
    return found
