"""Tokens.

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
