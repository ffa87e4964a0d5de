"""The first tables of the index.

Revision ID: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

INT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
STR = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "deletions",
        sa.Column("namespace", STR, nullable=False),
        sa.Column("layout", STR, nullable=False),
        sa.Column("hash", STR, nullable=False),
        sa.Column("platform_id", STR, nullable=False),
        sa.Column("part", STR, nullable=False),
        sa.Column("generation", INT, nullable=False),
        sa.PrimaryKeyConstraint(
            "namespace", "layout", "hash", "platform_id", "part", name=op.f("pk_deletions")
        ),
    )
    op.create_table(
        "packs",
        sa.Column("id", INT, nullable=False),
        sa.Column("namespace", STR, nullable=False),
        sa.Column("name", STR, nullable=False),
        sa.Column("size", INT, nullable=False),
        sa.Column("state", STR, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_packs")),
        sa.UniqueConstraint("namespace", "name", name=op.f("uq_packs_namespace_name")),
    )
    op.create_table(
        "recipes",
        sa.Column("id", INT, nullable=False),
        sa.Column("namespace", STR, nullable=False),
        sa.Column("name", STR, nullable=False),
        sa.Column("engine", STR, nullable=False),
        sa.Column("model", STR, nullable=False),
        sa.Column("fields", sa.JSON(), nullable=False),
        sa.Column("published", INT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_recipes")),
        sa.UniqueConstraint("namespace", "name", name=op.f("uq_recipes_namespace_name")),
    )
    op.create_index(
        op.f("ix_recipes_namespace_engine_model_published_id"),
        "recipes",
        ["namespace", "engine", "model", "published", "id"],
    )
    op.create_table(
        "sessions",
        sa.Column("publish_id", STR, nullable=False),
        sa.Column("namespace", STR, nullable=False),
        sa.Column("layout", STR, nullable=False),
        sa.Column("hash", STR, nullable=False),
        sa.Column("platform_id", STR, nullable=False),
        sa.Column("expires", INT, nullable=False),
        sa.PrimaryKeyConstraint("publish_id", name=op.f("pk_sessions")),
    )
    op.create_index(op.f("ix_sessions_expires"), "sessions", ["expires"])
    op.create_table(
        "session_packs",
        sa.Column("publish_id", STR, nullable=False),
        sa.Column("pack_id", INT, nullable=False),
        sa.ForeignKeyConstraint(
            ["pack_id"], ["packs.id"], name=op.f("fk_session_packs_pack_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["publish_id"],
            ["sessions.publish_id"],
            name=op.f("fk_session_packs_publish_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("publish_id", "pack_id", name=op.f("pk_session_packs")),
    )
    op.create_index(op.f("ix_session_packs_pack_id"), "session_packs", ["pack_id"])
    op.create_table(
        "trees",
        sa.Column("id", INT, nullable=False),
        sa.Column("namespace", STR, nullable=False),
        sa.Column("layout", STR, nullable=False),
        sa.Column("hash", STR, nullable=False),
        sa.Column("platform_id", STR, nullable=False),
        sa.Column("platform", sa.JSON(), nullable=False),
        sa.Column("recipe_id", INT, nullable=True),
        sa.Column("engine", STR, nullable=False),
        sa.Column("model", STR, nullable=False),
        sa.Column("parts", sa.JSON(), nullable=False),
        sa.Column("expected_parts", sa.JSON(), nullable=False),
        sa.Column("files", INT, nullable=False),
        sa.Column("raw_bytes", INT, nullable=False),
        sa.Column("stored_bytes", INT, nullable=False),
        sa.Column("compile_seconds", sa.Float(), nullable=True),
        sa.Column("publisher", STR, nullable=False),
        sa.Column("created", INT, nullable=False),
        sa.Column("used", INT, nullable=False),
        sa.Column("lookups", INT, nullable=False),
        sa.Column("hash_factors", sa.JSON(), nullable=False),
        sa.Column("notes", sa.JSON(), nullable=False),
        sa.Column("hidden", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["recipe_id"], ["recipes.id"], name=op.f("fk_trees_recipe_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trees")),
        sa.UniqueConstraint(
            "namespace",
            "layout",
            "hash",
            "platform_id",
            name=op.f("uq_trees_namespace_layout_hash_platform_id"),
        ),
    )
    op.create_index(op.f("ix_trees_created_id"), "trees", ["created", "id"])
    op.create_index(op.f("ix_trees_hash_id"), "trees", ["hash", "id"])
    op.create_index(op.f("ix_trees_model_created_id"), "trees", ["model", "created", "id"])
    op.create_index(op.f("ix_trees_namespace_created_id"), "trees", ["namespace", "created", "id"])
    op.create_index(op.f("ix_trees_namespace_hash_id"), "trees", ["namespace", "hash", "id"])
    op.create_index(
        op.f("ix_trees_namespace_raw_bytes_id"), "trees", ["namespace", "raw_bytes", "id"]
    )
    op.create_index(
        op.f("ix_trees_namespace_stored_bytes_id"), "trees", ["namespace", "stored_bytes", "id"]
    )
    op.create_index(op.f("ix_trees_namespace_used_id"), "trees", ["namespace", "used", "id"])
    op.create_index(op.f("ix_trees_raw_bytes_id"), "trees", ["raw_bytes", "id"])
    op.create_index(op.f("ix_trees_stored_bytes_id"), "trees", ["stored_bytes", "id"])
    op.create_index(op.f("ix_trees_used_id"), "trees", ["used", "id"])
    op.create_table(
        "outcomes",
        sa.Column("tree_id", INT, nullable=False),
        sa.Column("part", STR, nullable=False),
        sa.Column("generation", INT, nullable=False),
        sa.Column("outcome", STR, nullable=False),
        sa.Column("count", INT, nullable=False),
        sa.Column("pull_seconds", sa.Float(), nullable=False),
        sa.Column("pulled_bytes", INT, nullable=False),
        sa.Column("reason", STR, nullable=False),
        sa.Column("node", STR, nullable=False),
        sa.Column("last", INT, nullable=False),
        sa.ForeignKeyConstraint(
            ["tree_id"], ["trees.id"], name=op.f("fk_outcomes_tree_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint(
            "tree_id", "part", "generation", "outcome", name=op.f("pk_outcomes")
        ),
    )
    op.create_table(
        "parts",
        sa.Column("id", INT, nullable=False),
        sa.Column("tree_id", INT, nullable=False),
        sa.Column("part", STR, nullable=False),
        sa.Column("generation", INT, nullable=False),
        sa.Column("newest", sa.Boolean(), nullable=False),
        sa.Column("manifest", STR, nullable=False),
        sa.Column("files", INT, nullable=False),
        sa.Column("raw_bytes", INT, nullable=False),
        sa.Column("stored_bytes", INT, nullable=False),
        sa.Column("signers", sa.JSON(), nullable=False),
        sa.Column("created", INT, nullable=False),
        sa.Column("publisher", STR, nullable=False),
        sa.Column("recipe_id", INT, nullable=True),
        sa.Column("compile_seconds", sa.Float(), nullable=True),
        sa.Column("expected_parts", sa.JSON(), nullable=False),
        sa.Column("trees", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["recipe_id"], ["recipes.id"], name=op.f("fk_parts_recipe_id")),
        sa.ForeignKeyConstraint(
            ["tree_id"], ["trees.id"], name=op.f("fk_parts_tree_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_parts")),
        sa.UniqueConstraint(
            "tree_id", "part", "generation", name=op.f("uq_parts_tree_id_part_generation")
        ),
    )
    op.create_table(
        "recipe_trees",
        sa.Column("recipe_id", INT, nullable=False),
        sa.Column("layout", STR, nullable=False),
        sa.Column("hash", STR, nullable=False),
        sa.Column("tree_id", INT, nullable=False),
        sa.ForeignKeyConstraint(
            ["recipe_id"],
            ["recipes.id"],
            name=op.f("fk_recipe_trees_recipe_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["tree_id"], ["trees.id"], name=op.f("fk_recipe_trees_tree_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint(
            "recipe_id", "layout", "hash", "tree_id", name=op.f("pk_recipe_trees")
        ),
    )
    op.create_index(op.f("ix_recipe_trees_tree_id"), "recipe_trees", ["tree_id"])
    op.create_table(
        "part_packs",
        sa.Column("part_id", INT, nullable=False),
        sa.Column("pack_id", INT, nullable=False),
        sa.Column("frames", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["pack_id"], ["packs.id"], name=op.f("fk_part_packs_pack_id")),
        sa.ForeignKeyConstraint(
            ["part_id"], ["parts.id"], name=op.f("fk_part_packs_part_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("part_id", "pack_id", name=op.f("pk_part_packs")),
    )
    op.create_index(op.f("ix_part_packs_pack_id"), "part_packs", ["pack_id"])
