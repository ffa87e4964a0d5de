"""Tokens, quarantine, revoked keys.

Revision ID: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

INT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
STR = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "tokens",
        sa.Column("id", STR, nullable=False),
        sa.Column("digest", STR, nullable=False),
        sa.Column("name", STR, nullable=False),
        sa.Column("scope", STR, nullable=False),
        sa.Column("namespaces", sa.JSON(), nullable=False),
        sa.Column("created", INT, nullable=False),
        sa.Column("expires", INT, nullable=False),
        sa.Column("revoked", INT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tokens")),
    )
    op.create_table(
        "verdicts",
        sa.Column("tree_id", INT, nullable=False),
        sa.Column("part", STR, nullable=False),
        sa.Column("token", STR, nullable=False),
        sa.Column("node", STR, nullable=False),
        sa.Column("failed", sa.Boolean(), nullable=False),
        sa.Column("outcome", STR, nullable=False),
        sa.Column("reason", STR, nullable=False),
        sa.Column("last", INT, nullable=False),
        sa.ForeignKeyConstraint(
            ["tree_id"], ["trees.id"], name=op.f("fk_verdicts_tree_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("tree_id", "part", "token", "node", name=op.f("pk_verdicts")),
    )
    op.create_table(
        "quarantines",
        sa.Column("namespace", STR, nullable=False),
        sa.Column("layout", STR, nullable=False),
        sa.Column("hash", STR, nullable=False),
        sa.Column("platform_id", STR, nullable=False),
        sa.Column("part", STR, nullable=False),
        sa.Column("generation", INT, nullable=False),
        sa.Column("content", STR, nullable=False),
        sa.Column("reason", STR, nullable=False),
        sa.Column("since", INT, nullable=False),
        sa.PrimaryKeyConstraint(
            "namespace", "layout", "hash", "platform_id", "part", name=op.f("pk_quarantines")
        ),
    )
    op.create_table(
        "revoked_keys",
        sa.Column("namespace", STR, nullable=False),
        sa.Column("key", STR, nullable=False),
        sa.PrimaryKeyConstraint("namespace", "key", name=op.f("pk_revoked_keys")),
    )
    op.add_column("parts", sa.Column("withheld", STR, nullable=False, server_default=""))
    op.add_column("parts", sa.Column("content", STR, nullable=False, server_default=""))
