"""The tables. Times are Unix seconds, sizes bytes.

Every list order has an index that ends in `id`, alone and within a namespace, so that a page costs
the same however many trees there are.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from aotcache.protocol.v1.trees import SORTS, VALUES

LIVE, CONDEMNED = "live", "condemned"
# Why a generation is withheld.
REVOKED, QUARANTINED = "revoked", "quarantined"
FLAGS = ("pinned", "quarantined")  # of a tree, that lists are filtered by

# SQLite makes a row id only of its own INTEGER (64 bits there).
_INT = BigInteger().with_variant(Integer(), "sqlite")
# Code point order on both databases: names sort the same, and a prefix is a range of the index.
_STR = Text().with_variant(Text(collation="C"), "postgresql")


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 (SQLAlchemy's declaration)
        int: _INT,
        str: _STR,
        float: Float(),
        list[str]: JSON(),
        list[dict[str, Any]]: JSON(),
        list[list[int]]: JSON(),
        dict[str, str]: JSON(),
        dict[str, Any]: JSON(),
    }


class RecipeRow(Base):
    """A recipe that starts of a namespace had. name: Recipe.id. fields: all of the recipe's.
    published: when the last manifest of it was."""

    __tablename__ = "recipes"

    id: Mapped[int] = mapped_column(primary_key=True)
    namespace: Mapped[str]
    name: Mapped[str]
    engine: Mapped[str]
    model: Mapped[str]
    fields: Mapped[dict[str, Any]]
    published: Mapped[int]

    __table_args__ = (
        UniqueConstraint("namespace", "name"),
        # For the recipes that may answer another one, the last published first.
        Index(None, "namespace", "engine", "model", "published", "id"),
    )


# Starts of the recipe used trees of this layout and hash: tree `tree_id` (itself, or one that need
# not be stored yet) says so. Goes with the tree that said it.
recipe_trees = Table(
    "recipe_trees",
    Base.metadata,
    Column("recipe_id", _INT, ForeignKey("recipes.id", ondelete="CASCADE"), primary_key=True),
    Column("layout", _STR, primary_key=True),
    Column("hash", _STR, primary_key=True),
    Column(
        "tree_id", _INT, ForeignKey("trees.id", ondelete="CASCADE"), primary_key=True, index=True
    ),
)


class TreeRow(Base):
    """A tree. What describes its parts is derived from their newest generations (write.refresh).

    withheld: parts that are stored and not served: quarantined, or of a revoked key.

    hidden: nothing of it is served: it is being deleted, or withheld. pinned: it is not
    deleted. quarantined: some part is, and no other generation serves in its place. engine, model:
    of the recipe, to filter by.
    """

    __tablename__ = "trees"

    id: Mapped[int] = mapped_column(primary_key=True)
    namespace: Mapped[str]
    layout: Mapped[str]
    hash: Mapped[str]
    platform_id: Mapped[str]
    platform: Mapped[dict[str, str]]
    recipe_id: Mapped[int | None] = mapped_column(ForeignKey("recipes.id"))
    engine: Mapped[str] = mapped_column(default="")
    model: Mapped[str] = mapped_column(default="")
    parts: Mapped[list[str]] = mapped_column(default=list)
    withheld: Mapped[list[str]] = mapped_column(default=list, server_default="[]")
    expected_parts: Mapped[list[str]] = mapped_column(default=list)
    files: Mapped[int] = mapped_column(default=0)
    raw_bytes: Mapped[int] = mapped_column(default=0)
    stored_bytes: Mapped[int] = mapped_column(default=0)
    compile_seconds: Mapped[float | None]
    publisher: Mapped[str] = mapped_column(default="")
    created: Mapped[int] = mapped_column(default=0)
    used: Mapped[int] = mapped_column(default=0)
    lookups: Mapped[int] = mapped_column(default=0)
    hash_factors: Mapped[dict[str, str]] = mapped_column(default=dict)
    notes: Mapped[dict[str, str]] = mapped_column(default=dict)
    hidden: Mapped[bool] = mapped_column(default=False)
    pinned: Mapped[bool] = mapped_column(default=False, server_default=false())
    quarantined: Mapped[bool] = mapped_column(default=False, server_default=false())

    __table_args__ = (
        UniqueConstraint("namespace", "layout", "hash", "platform_id"),
        *(Index(None, sort, "id") for sort in SORTS),
        *(Index(None, "namespace", sort, "id") for sort in SORTS),
        # For lists of what one of these has, the values they have, and a publish's neighbours.
        *(Index(None, value, "created", "id") for value in VALUES),
        # Few trees are.
        *(
            Index(
                f"ix_trees_{rare}",
                "created",
                "id",
                sqlite_where=text(rare),
                postgresql_where=text(rare),
            )
            for rare in FLAGS
        ),
    )


class PartRow(Base):
    """One generation of a part: all of them are kept, the newest is the one that is served.

    trees: TreeUsed of the starts that wrote it. withheld: why it is never served, empty if it may
    be. content: of what the engine loads of it, empty if that is not known.
    """

    __tablename__ = "parts"

    id: Mapped[int] = mapped_column(primary_key=True)
    tree_id: Mapped[int] = mapped_column(ForeignKey("trees.id", ondelete="CASCADE"))
    part: Mapped[str]
    generation: Mapped[int]
    newest: Mapped[bool]
    manifest: Mapped[str]
    files: Mapped[int]
    raw_bytes: Mapped[int]
    stored_bytes: Mapped[int]
    signers: Mapped[list[str]]
    created: Mapped[int]
    publisher: Mapped[str]
    recipe_id: Mapped[int | None] = mapped_column(ForeignKey("recipes.id"))
    compile_seconds: Mapped[float | None]
    expected_parts: Mapped[list[str]]
    trees: Mapped[list[dict[str, Any]]]
    withheld: Mapped[str] = mapped_column(default="", server_default="")
    content: Mapped[str] = mapped_column(default="", server_default="")

    __table_args__ = (UniqueConstraint("tree_id", "part", "generation"),)


class PackRow(Base):
    """state: live; condemned (since then): no commit may refer to it any more. loose: how many
    parts stopped to refer to it since somebody looked whether most of it is dead; 1 at first."""

    __tablename__ = "packs"

    id: Mapped[int] = mapped_column(primary_key=True)
    namespace: Mapped[str]
    name: Mapped[str]
    size: Mapped[int]
    state: Mapped[str] = mapped_column(default=LIVE)
    condemned: Mapped[int] = mapped_column(default=0, server_default="0")
    loose: Mapped[int] = mapped_column(default=1, server_default="1")

    __table_args__ = (
        UniqueConstraint("namespace", "name"),
        Index(None, "state", "condemned"),
        Index(None, "loose", "id"),
    )


class PartPackRow(Base):
    """A part refers to a pack. frames: [offset, stored bytes] of those that its files are in."""

    __tablename__ = "part_packs"

    part_id: Mapped[int] = mapped_column(
        ForeignKey("parts.id", ondelete="CASCADE"), primary_key=True
    )
    pack_id: Mapped[int] = mapped_column(ForeignKey("packs.id"), primary_key=True, index=True)
    frames: Mapped[list[list[int]]]


class SessionRow(Base):
    """A publish session: its packs (named by publish_id) and those it pins are not collected.
    opened: the first time, 0 if that is not known."""

    __tablename__ = "sessions"

    publish_id: Mapped[str] = mapped_column(primary_key=True)
    namespace: Mapped[str]
    layout: Mapped[str]
    hash: Mapped[str]
    platform_id: Mapped[str]
    expires: Mapped[int] = mapped_column(index=True)
    opened: Mapped[float] = mapped_column(default=0.0, server_default="0")


class SessionPackRow(Base):
    __tablename__ = "session_packs"

    publish_id: Mapped[str] = mapped_column(
        ForeignKey("sessions.publish_id", ondelete="CASCADE"), primary_key=True
    )
    pack_id: Mapped[int] = mapped_column(
        ForeignKey("packs.id", ondelete="CASCADE"), primary_key=True, index=True
    )


class OutcomeRow(Base):
    """How often a generation of a part had an outcome, and the last reason and node given.

    pull_seconds, pulled_bytes: sums over the pulls of these outcomes. saved_seconds: of compiling,
    less those of the pulls; the ranks of a start compile side by side, and each has its share.
    """

    __tablename__ = "outcomes"

    tree_id: Mapped[int] = mapped_column(
        ForeignKey("trees.id", ondelete="CASCADE"), primary_key=True
    )
    part: Mapped[str] = mapped_column(primary_key=True)
    generation: Mapped[int] = mapped_column(primary_key=True)
    outcome: Mapped[str] = mapped_column(primary_key=True)
    count: Mapped[int]
    pull_seconds: Mapped[float]
    pulled_bytes: Mapped[int]
    saved_seconds: Mapped[float] = mapped_column(default=0.0, server_default="0")
    reason: Mapped[str]
    node: Mapped[str]
    last: Mapped[int]


class VerdictRow(Base):
    """The last thing that a node said of a part since it was published, released or replaced.

    token: of whom it came from; empty where there are none. failed: it did not load, or made the
    engine crash.
    """

    __tablename__ = "verdicts"

    tree_id: Mapped[int] = mapped_column(
        ForeignKey("trees.id", ondelete="CASCADE"), primary_key=True
    )
    part: Mapped[str] = mapped_column(primary_key=True)
    token: Mapped[str] = mapped_column(primary_key=True)
    node: Mapped[str] = mapped_column(primary_key=True)
    failed: Mapped[bool]
    outcome: Mapped[str]
    reason: Mapped[str]
    last: Mapped[int]


class QuarantineRow(Base):
    """Generations of this part from `first` to `generation` are not served, nor later ones of the
    same content. Outlives the tree's own row."""

    __tablename__ = "quarantines"

    namespace: Mapped[str] = mapped_column(primary_key=True)
    layout: Mapped[str] = mapped_column(primary_key=True)
    hash: Mapped[str] = mapped_column(primary_key=True)
    platform_id: Mapped[str] = mapped_column(primary_key=True)
    part: Mapped[str] = mapped_column(primary_key=True)
    generation: Mapped[int]
    content: Mapped[str]
    reason: Mapped[str]
    since: Mapped[int]
    first: Mapped[int] = mapped_column(default=1, server_default="1")


class RevokedKeyRow(Base):
    """What only such keys signed is not served in this namespace."""

    __tablename__ = "revoked_keys"

    namespace: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)


class DeletionRow(Base):
    """Generations of this part up to `generation` are deleted. Outlives the tree's own row."""

    __tablename__ = "deletions"

    namespace: Mapped[str] = mapped_column(primary_key=True)
    layout: Mapped[str] = mapped_column(primary_key=True)
    hash: Mapped[str] = mapped_column(primary_key=True)
    platform_id: Mapped[str] = mapped_column(primary_key=True)
    part: Mapped[str] = mapped_column(primary_key=True)
    generation: Mapped[int]
