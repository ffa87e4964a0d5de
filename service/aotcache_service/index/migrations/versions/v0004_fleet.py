"""Leases.

Revision ID: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

STR = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "leases",
        sa.Column("hash", STR, nullable=False),
        sa.Column("namespace", STR, nullable=False),
        sa.Column("layout", STR, nullable=False),
        sa.Column("platform_id", STR, nullable=False),
        sa.Column("part", STR, nullable=False),
        sa.Column("any_cpu", STR, nullable=False),
        sa.Column("holder", STR, nullable=False),
        sa.Column("node", STR, nullable=False),
        sa.Column("started", sa.Float(), nullable=False),
        sa.Column("expires", sa.Float(), nullable=False),
        sa.Column("compile_seconds", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint(
            "hash", "namespace", "layout", "platform_id", "part", name=op.f("pk_leases")
        ),
    )
    op.create_index(op.f("ix_leases_expires"), "leases", ["expires"])
