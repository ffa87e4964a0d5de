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
    op.add_column(
        "trees", sa.Column("quarantined", sa.Boolean(), nullable=False, server_default=sa.false())
    )
    for value in ("layout", "engine", "platform_id", "publisher"):
        name = op.f(f"ix_trees_{value}_created_id")
        op.create_index(name, "trees", [value, "created", "id"])
    for rare in ("pinned", "quarantined"):
        where = sa.text(rare)
        op.create_index(
            f"ix_trees_{rare}",
            "trees",
            ["created", "id"],
            sqlite_where=where,
            postgresql_where=where,
        )
    op.add_column("packs", sa.Column("condemned", INT, nullable=False, server_default="0"))
    op.add_column("packs", sa.Column("loose", INT, nullable=False, server_default="1"))
    op.create_index(op.f("ix_packs_loose_id"), "packs", ["loose", "id"])
    op.create_index(op.f("ix_packs_state_condemned"), "packs", ["state", "condemned"])
    op.add_column(
        "outcomes", sa.Column("saved_seconds", sa.Float(), nullable=False, server_default="0")
    )
    op.execute(
        "UPDATE trees SET quarantined = true WHERE id IN (SELECT tree_id FROM parts AS held WHERE "
        "held.withheld = 'quarantined' AND NOT EXISTS (SELECT 1 FROM parts AS served WHERE "
        "served.tree_id = held.tree_id AND served.part = held.part AND served.newest))"
    )
    op.add_column("quarantines", sa.Column("first", INT, nullable=False, server_default="1"))
    op.add_column("sessions", sa.Column("opened", sa.Float(), nullable=False, server_default="0"))
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
        sa.Column("nearest", sa.JSON(), nullable=False),
        sa.Column("count", INT, nullable=False),
        sa.Column("last", INT, nullable=False),
        sa.PrimaryKeyConstraint(
            "namespace", "layout", "hash", "platform_id", "node", name=op.f("pk_misses")
        ),
    )
    op.create_index(op.f("ix_misses_last"), "misses", ["last"])
    op.create_table(
        "history",
        sa.Column("namespace", STR, nullable=False),
        sa.Column("hour", INT, nullable=False),
        sa.Column("what", STR, nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "hour", "what", name=op.f("pk_history")),
    )
    op.create_index(op.f("ix_history_hour"), "history", ["hour"])
    op.create_table(
        "audit",
        sa.Column("id", INT, nullable=False),
        sa.Column("at", INT, nullable=False),
        sa.Column("token", STR, nullable=False),
        sa.Column("way", STR, nullable=False),
        sa.Column("namespace", STR, nullable=False),
        sa.Column("action", STR, nullable=False),
        sa.Column("what", STR, nullable=False),
        sa.Column("outcome", STR, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    op.create_index(op.f("ix_audit_namespace_id"), "audit", ["namespace", "id"])
    op.create_table(
        "sign_ins",
        sa.Column("digest", STR, nullable=False),
        sa.Column("token", STR, nullable=False),
        sa.Column("expires", INT, nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_sign_ins")),
    )
    op.create_index(op.f("ix_sign_ins_expires"), "sign_ins", ["expires"])
