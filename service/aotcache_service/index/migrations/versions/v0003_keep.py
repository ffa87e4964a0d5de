"""What is kept: pins, when packs were condemned, jobs; which nodes missed.

Revision ID: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

INT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
STR = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.add_column(
        "trees", sa.Column("pinned", sa.Boolean(), nullable=False, server_default=sa.false())
    )
    op.add_column("packs", sa.Column("condemned", INT, nullable=False, server_default="0"))
    op.add_column("packs", sa.Column("loose", INT, nullable=False, server_default="1"))
    op.create_index(op.f("ix_packs_loose_id"), "packs", ["loose", "id"])
    op.create_index(op.f("ix_packs_state_condemned"), "packs", ["state", "condemned"])
    op.add_column("sessions", sa.Column("opened", INT, nullable=False, server_default="0"))
    op.create_table(
        "jobs",
        sa.Column("name", STR, nullable=False),
        sa.Column("holder", STR, nullable=False),
        sa.Column("until", INT, nullable=False),
        sa.Column("started", INT, nullable=False),
        sa.Column("finished", INT, nullable=False),
        sa.Column("done", INT, nullable=False),
        sa.Column("report", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_jobs")),
    )
    op.create_table(
        "misses",
        sa.Column("namespace", STR, nullable=False),
        sa.Column("layout", STR, nullable=False),
        sa.Column("hash", STR, nullable=False),
        sa.Column("platform_id", STR, nullable=False),
        sa.Column("node", STR, nullable=False),
        sa.Column("model", STR, nullable=False),
        sa.Column("reason", STR, nullable=False),
        sa.Column("cause", STR, nullable=False),
        sa.Column("differences", sa.JSON(), nullable=False),
        sa.Column("count", INT, nullable=False),
        sa.Column("last", INT, nullable=False),
        sa.PrimaryKeyConstraint(
            "namespace", "layout", "hash", "platform_id", "node", name=op.f("pk_misses")
        ),
    )
    op.create_index(op.f("ix_misses_last"), "misses", ["last"])
