"""Packs that nothing refers to: condemned first, so that no commit refers to them any more, and
deleted when nobody can be reading them. Inside `Database.write` each, but for the counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, delete, func, select, update
from sqlalchemy.orm import Session

from .models import CONDEMNED, LIVE, PackRow, PartPackRow, PartRow, SessionPackRow, SessionRow

_NAME = 64 + 1  # characters of a pack's name before its publish id
_PACK = (PackRow.id, PackRow.namespace, PackRow.name, PackRow.size)
_REFERRED = select(PartPackRow.pack_id).where(PartPackRow.pack_id == PackRow.id).exists()


def unreferred(db: Session, now: int, first: int, last: int) -> list[Row[Any]]:
    """id, namespace, name, size of live packs with row ids [first, last) that no part refers to,
    nor a session that is open: those it may reuse, and those it has put."""
    pinned = (
        select(SessionPackRow.pack_id)
        .join(SessionRow, SessionRow.publish_id == SessionPackRow.publish_id)
        .where(SessionPackRow.pack_id == PackRow.id, SessionRow.expires > now)
    )
    putting = select(SessionRow.publish_id).where(
        SessionRow.publish_id == func.substr(PackRow.name, _NAME + 1), SessionRow.expires > now
    )
    query = select(*_PACK).where(
        PackRow.id >= first,
        PackRow.id < last,
        PackRow.state == LIVE,
        ~_REFERRED,
        ~pinned.exists(),
        ~putting.exists(),
    )
    return list(db.execute(query))


def last_pack(db: Session) -> int:
    return db.scalar(select(func.max(PackRow.id))) or 0


def referred(db: Session, first: int, last: int) -> Sequence[PackRow]:
    """Packs with row ids [first, last) that some part refers to."""
    window = (PackRow.id >= first, PackRow.id < last)
    return db.scalars(select(PackRow).where(*window, _REFERRED)).all()


def manifests_with(db: Session, pack: int) -> Sequence[str]:
    """Of all parts that refer to this pack."""
    return db.scalars(
        select(PartRow.manifest)
        .join(PartPackRow, PartPackRow.part_id == PartRow.id)
        .where(PartPackRow.pack_id == pack)
        .order_by(PartRow.id)
    ).all()


def loose(db: Session, after: int, limit: int) -> Sequence[PackRow]:
    """Packs with greater row ids that a part refers to, and that were not looked at since another
    stopped to."""
    query = select(PackRow).where(PackRow.loose > 0, PackRow.state == LIVE, PackRow.id > after)
    return db.scalars(query.where(_REFERRED).order_by(PackRow.id).limit(limit)).all()


def looked_at(db: Session, pack: int, loose: int) -> None:
    """Unless another part stopped to refer to it since it was that loose."""
    seen = update(PackRow).where(PackRow.id == pack, PackRow.loose == loose)
    db.execute(seen.values(loose=0))


def live_bytes(db: Session, pack: int) -> int:
    """Of the frames that files of some part lie in. Those that only serve as prefixes are not
    counted."""
    uses = db.scalars(select(PartPackRow.frames).where(PartPackRow.pack_id == pack))
    return sum({offset: stored for used in uses for offset, stored in used}.values())


def is_pinned(db: Session, pack: int, now: int) -> bool:
    """By an open session, which may be about to refer to it."""
    query = select(SessionPackRow.pack_id).join(
        SessionRow, SessionRow.publish_id == SessionPackRow.publish_id
    )
    found = query.where(SessionPackRow.pack_id == pack, SessionRow.expires > now)
    return db.scalar(found.limit(1)) is not None


def count(db: Session, which: ColumnElement[bool]) -> tuple[int, int]:
    """Packs, and their bytes."""
    row = db.execute(
        select(func.count(), func.coalesce(func.sum(PackRow.size), 0)).where(which)
    ).one()
    return int(row[0]), int(row[1])


def condemn(db: Session, packs: Iterable[int], now: int) -> None:
    which = PackRow.id.in_(list(packs))
    db.execute(update(PackRow).where(which).values(state=CONDEMNED, condemned=now))


def unknown(db: Session, namespace: str, packs: Mapping[str, int], now: int) -> dict[str, int]:
    """Those of these packs in storage that the index does not know and no open session puts."""
    names = list(packs)
    known = set(
        db.scalars(
            select(PackRow.name).where(PackRow.namespace == namespace, PackRow.name.in_(names))
        )
    )
    ids = {name[_NAME:] for name in names}
    query = select(SessionRow.publish_id).where(SessionRow.publish_id.in_(ids))
    putting = set(db.scalars(query.where(SessionRow.expires > now)))
    return {
        name: size
        for name, size in packs.items()
        if name not in known and name[_NAME:] not in putting
    }


def condemn_unknown(
    db: Session, namespace: str, packs: Mapping[str, int], now: int
) -> dict[str, int]:
    """The same, condemned from now on."""
    found = unknown(db, namespace, packs, now)
    db.add_all(
        PackRow(namespace=namespace, name=name, size=size, state=CONDEMNED, condemned=now)
        for name, size in found.items()
    )
    return found


def condemned_before(before: int) -> ColumnElement[bool]:
    return and_(PackRow.state == CONDEMNED, PackRow.condemned <= before, ~_REFERRED)


def some_condemned(db: Session, before: int, limit: int) -> list[Row[Any]]:
    """id, namespace, name, size of packs that may be deleted."""
    query = select(*_PACK).where(condemned_before(before)).order_by(PackRow.id)
    return list(db.execute(query.limit(limit)))


def forget(db: Session, packs: Iterable[int]) -> None:
    """Drop the rows of packs that are deleted."""
    db.execute(delete(PackRow).where(PackRow.id.in_(list(packs))))


def known_manifests(db: Session, keys: Iterable[str]) -> set[str]:
    return set(db.scalars(select(PartRow.manifest).where(PartRow.manifest.in_(list(keys)))))
