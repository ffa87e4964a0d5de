"""Which packs a part refers to, when its bytes are put elsewhere. But for `packs_of` inside
`Database.write`."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from aotcache.protocol.manifest import Manifest, PackPlace
from aotcache.protocol.names import manifest_key, pack_key

from .database import Database
from .frames import frames_of
from .models import LIVE, PackRow, PartPackRow, PartRow


def holds(db: Session, namespace: str, packs: Collection[str]) -> bool:
    """Whether parts may refer to all of these."""
    live = select(func.count()).where(
        PackRow.namespace == namespace, PackRow.name.in_(packs), PackRow.state == LIVE
    )
    return db.scalar(live) == len(packs)


def packs_of(
    database: Database, trees: Collection[int], parts: Collection[str], limit: int
) -> list[str]:
    """Keys of the packs that these parts refer to, as they are served. trees: row ids."""
    of_parts = (
        select(PackRow.namespace, PackRow.name)
        .join(PartPackRow, PartPackRow.pack_id == PackRow.id)
        .join(PartRow, PartRow.id == PartPackRow.part_id)
        .where(PartRow.tree_id.in_(trees), PartRow.part.in_(parts), PartRow.newest)
        .distinct()
        .limit(limit)
    )
    with database.read() as db:
        return [pack_key(namespace, name) for namespace, name in db.execute(of_parts)]


def add_pack(db: Session, namespace: str, pack: PackPlace, instead_of: int) -> bool:
    """A pack that all parts refer to from now on which refer to this other one, too. False where
    somebody condemned it, as nothing referred to it for long."""
    same = select(PackRow.id).where(PackRow.namespace == namespace, PackRow.name == pack.name)
    if db.scalar(same) is not None:
        return False
    row = PackRow(namespace=namespace, name=pack.name, size=pack.size, state=LIVE, loose=0)
    db.add(row)
    db.flush()
    parts = db.scalars(select(PartPackRow.part_id).where(PartPackRow.pack_id == instead_of)).all()
    db.add_all(PartPackRow(part_id=part, pack_id=row.id, frames=[]) for part in parts)
    return True


def refer(db: Session, manifest: Manifest) -> None:
    """Its part refers to what its manifest says, and to nothing else."""
    said = manifest.statement
    key = manifest_key(said.tree, said.part, said.generation)
    part = db.scalars(select(PartRow).where(PartRow.manifest == key)).one()
    frames = frames_of(said, manifest.locations)
    packs = db.scalars(
        select(PackRow).where(PackRow.namespace == said.namespace, PackRow.name.in_(frames))
    ).all()
    db.execute(delete(PartPackRow).where(PartPackRow.part_id == part.id))
    db.add_all(
        PartPackRow(part_id=part.id, pack_id=pack.id, frames=frames[pack.name]) for pack in packs
    )
