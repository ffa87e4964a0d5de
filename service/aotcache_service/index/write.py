"""Changes of the index. Each is called inside `Database.write`, as the only writer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from operator import attrgetter

from sqlalchemy import ColumnElement, delete, select, update
from sqlalchemy.orm import Session

from aotcache.errors import CondemnedError, UsageError
from aotcache.protocol.content import content_or_all
from aotcache.protocol.manifest import Manifest
from aotcache.protocol.names import TreeKey, manifest_key, parse_manifest_key
from aotcache.protocol.record import check_factors

from .frames import frames_of
from .links import find_or_add_recipe, link_recipes
from .models import (
    CONDEMNED,
    LIVE,
    QUARANTINED,
    REVOKED,
    DeletionRow,
    PackRow,
    PartPackRow,
    PartRow,
    RecipeRow,
    TreeRow,
)
from .publishing import deleted_up_to, find_tree, quarantine_of, revoked_keys
from .rows import tree_key

_MAX_PUBLISHER = 255  # characters; an index of PostgreSQL holds no long ones


def add_part(db: Session, manifest: Manifest, stored: Mapping[str, int]) -> TreeRow:
    """Add one generation of a part, which becomes the newest where it is the highest. Its tree is
    returned, and to be refreshed when all of its parts are there.

    stored: sizes of its packs seen in object storage; the index need not know those yet.
    Raises CondemnedError when a pack is not there, of another size than the manifest says, or not
    a live one of the index any more.
    """
    statement = manifest.statement
    packs = _pack_rows(db, manifest, stored)
    tree = _find_or_add_tree(db, manifest)
    others = select(PartRow).where(PartRow.tree_id == tree.id, PartRow.part == statement.part)
    served = db.scalar(others.where(PartRow.newest))
    withheld = _why_withheld(db, manifest)
    newest = not withheld and (served is None or served.generation < statement.generation)
    if served is not None and newest:
        served.newest = False
    frames = frames_of(statement, manifest.locations)
    row = PartRow(
        tree_id=tree.id,
        part=statement.part,
        generation=statement.generation,
        newest=newest,
        manifest=manifest_key(statement.tree, statement.part, statement.generation),
        files=len(statement.files),
        raw_bytes=sum(entry.size for entry in statement.files),
        stored_bytes=sum(stored for used in frames.values() for _, stored in used),
        signers=[signature.key for signature in manifest.signatures],
        created=statement.created,
        publisher=statement.publisher,
        recipe_id=find_or_add_recipe(db, statement),
        compile_seconds=statement.compile_seconds,
        expected_parts=list(statement.expected_parts),
        trees=[asdict(tree_used) for tree_used in statement.trees],
        withheld=withheld,
        content=content_or_all(statement.files),
    )
    db.add(row)
    db.flush()
    db.add_all(
        PartPackRow(part_id=row.id, pack_id=packs[name].id, frames=used)
        for name, used in frames.items()
    )
    if not withheld:
        tree.hash_factors = _joined(tree.hash_factors, statement.hash_factors)
        tree.notes = _joined(tree.notes, statement.notes)
    db.flush()
    return tree


def _joined(known: dict[str, str], said: dict[str, str]) -> dict[str, str]:
    """Together no more than what one publisher may say: then what the last said."""
    both = {**known, **said}
    try:
        check_factors(both)
    except UsageError:
        return said
    return both


def hide_generations(db: Session, key: TreeKey, up_to: Mapping[str, int]) -> None:
    """Stop serving these generations of these parts, for ever; their rows stay for the moment."""
    for part, generation in up_to.items():
        name = (key.namespace, key.layout, key.hash, key.platform, part)
        row = db.get(DeletionRow, name)
        if row is None:
            row = DeletionRow(
                namespace=key.namespace,
                layout=key.layout,
                hash=key.hash,
                platform_id=key.platform,
                part=part,
                generation=generation,
            )
            db.add(row)
        row.generation = max(row.generation, generation)
    tree = find_tree(db, key)
    if tree is not None:
        for part, generation in up_to.items():
            db.execute(
                update(PartRow)
                .where(PartRow.tree_id == tree.id, PartRow.part == part)
                .where(PartRow.generation <= generation)
                .values(newest=False)
            )
        refresh(db, tree)


def remove_generations(db: Session, key: TreeKey, up_to: Mapping[str, int]) -> None:
    """Drop the rows, and the tree's when it has no part left. Packs stay for the collector."""
    tree = find_tree(db, key)
    if tree is None:
        return
    for part, generation in up_to.items():
        of_part = (PartRow.tree_id == tree.id, PartRow.part == part)
        _drop(db, *of_part, PartRow.generation <= generation)
    settle_tree(db, tree)


def withdraw(db: Session, manifest: str) -> None:
    """Forget a part whose manifest is not in storage any more."""
    name = parse_manifest_key(manifest)
    tree = find_tree(db, name.tree)
    if tree is None:
        return
    of_tree = (PartRow.tree_id == tree.id, PartRow.part == name.part)
    _drop(db, *of_tree, PartRow.generation == name.generation)
    settle_tree(db, tree)


def _drop(db: Session, *which: ColumnElement[bool]) -> None:
    """Parts; what is left of their packs is to be looked at."""
    packs = (
        select(PartPackRow.pack_id).join(PartRow, PartRow.id == PartPackRow.part_id).where(*which)
    )
    db.execute(update(PackRow).where(PackRow.id.in_(packs)).values(loose=PackRow.loose + 1))
    db.execute(delete(PartRow).where(*which))


def pin(db: Session, key: TreeKey, *, pinned: bool = True) -> bool:
    """False: there is no such tree."""
    tree = find_tree(db, key)
    if tree is not None:
        tree.pinned = pinned
    return tree is not None


def settle_tree(db: Session, tree: TreeRow) -> None:
    """After rows of parts went or were withheld: serve the highest generation that is left, or drop
    the tree."""
    rows = db.scalars(select(PartRow).where(PartRow.tree_id == tree.id)).all()
    if not rows:
        db.execute(delete(TreeRow).where(TreeRow.id == tree.id))
        return
    key = tree_key(tree)
    deleted = {part: deleted_up_to(db, key, part) for part in {row.part for row in rows}}
    highest: dict[str, PartRow] = {}
    for row in sorted(rows, key=lambda row: row.generation):
        if not row.withheld and row.generation > deleted[row.part]:
            highest[row.part] = row
    for row in rows:
        row.newest = highest.get(row.part) is row
    db.flush()
    refresh(db, tree)


def refresh(db: Session, tree: TreeRow) -> None:
    """Derive what describes the tree from its parts, whatever order they were committed in: the
    same after a rebuild as before. Hidden while no part is served; what is withheld takes place
    all the same."""
    found = db.scalars(select(PartRow).where(PartRow.tree_id == tree.id)).all()
    age = attrgetter("created", "generation", "part")
    by_age = sorted(found, key=age)
    every = [row for row in by_age if not row.withheld]
    rows = [row for row in every if row.newest]
    tree.hidden = not rows
    link_recipes(db, tree, every)
    kept = {row.part for row in rows}
    tree.parts = sorted(kept)
    not_served = [row for row in by_age if row.withheld and row.part not in kept]
    tree.quarantined = any(row.withheld == QUARANTINED for row in not_served)
    last = {row.part: row for row in sorted(not_served, key=attrgetter("generation"))}
    tree.withheld = sorted(last)
    rows = sorted([*rows, *last.values()], key=age)
    if not rows:
        return
    every = every or rows
    tree.files = sum(row.files for row in rows)
    tree.raw_bytes = sum(row.raw_bytes for row in rows)
    tree.created = rows[-1].created
    tree.publisher = rows[-1].publisher[:_MAX_PUBLISHER]
    # What only some publishers know is taken from the last that did: growth may come from a node
    # that compiled little, or whose watcher found no record.
    late = every[::-1]
    tree.expected_parts = next((row.expected_parts for row in late if row.expected_parts), [])
    tree.recipe_id = next((row.recipe_id for row in late if row.recipe_id), None)
    seconds = [row.compile_seconds for row in every if row.compile_seconds is not None]
    tree.compile_seconds = max(seconds, default=None)
    recipe = None if tree.recipe_id is None else db.get_one(RecipeRow, tree.recipe_id)
    tree.engine = "" if recipe is None else recipe.engine
    tree.model = "" if recipe is None else recipe.model
    # Parts of one publish share frames: each counts once.
    uses = db.execute(
        select(PartPackRow.pack_id, PartPackRow.frames).where(
            PartPackRow.part_id.in_([row.id for row in rows])
        )
    )
    frames = {(pack, offset): stored for pack, used in uses for offset, stored in used}
    tree.stored_bytes = sum(frames.values())


def condemn_unknown_pack(db: Session, namespace: str, pack: str, now: int) -> bool:
    """See to it that no commit will refer to this pack. False, and nothing done, when the index
    knows it already: it goes the collector's way."""
    row = db.scalar(select(PackRow).where(PackRow.namespace == namespace, PackRow.name == pack))
    if row is None:
        row = PackRow(namespace=namespace, name=pack, size=0, state=CONDEMNED, condemned=now)
        db.add(row)
        return True
    return row.state == CONDEMNED


def _pack_rows(db: Session, manifest: Manifest, stored: Mapping[str, int]) -> dict[str, PackRow]:
    namespace = manifest.statement.namespace
    places = manifest.locations.packs
    found = {
        row.name: row
        for row in db.scalars(
            select(PackRow).where(
                PackRow.namespace == namespace, PackRow.name.in_([place.name for place in places])
            )
        )
    }
    for place in places:
        row, size = found.get(place.name), stored.get(place.name)
        condemned = row is not None and row.state != LIVE
        if condemned or size != place.size:
            why = "being deleted" if condemned else "missing" if size is None else "torn"
            raise CondemnedError(
                f"{manifest.statement.tree} {manifest.statement.part}: pack {place.name[:12]} is "
                f"{why}: publish again with a new id, without reusing it"
            )
        if row is None:
            row = PackRow(namespace=namespace, name=place.name, size=place.size, state=LIVE)
            db.add(row)
            found[place.name] = row
    db.flush()
    return found


def _why_withheld(db: Session, manifest: Manifest) -> str:
    statement = manifest.statement
    signers = {signature.key for signature in manifest.signatures}
    if signers & revoked_keys(db, statement.namespace):
        return REVOKED
    quarantine = quarantine_of(db, statement.tree, statement.part)
    if quarantine is None:
        return ""
    same = bool(quarantine.content) and content_or_all(statement.files) == quarantine.content
    if same or quarantine.first <= statement.generation <= quarantine.generation:
        return QUARANTINED
    return ""


def _find_or_add_tree(db: Session, manifest: Manifest) -> TreeRow:
    key = manifest.statement.tree
    tree = find_tree(db, key)
    if tree is None:
        tree = TreeRow(
            namespace=key.namespace,
            layout=key.layout,
            hash=key.hash,
            platform_id=key.platform,
            platform=asdict(manifest.statement.platform),
            hash_factors={},
            notes={},
        )
        db.add(tree)
        db.flush()
    return tree
