"""Misses are grouped in the order of an index.

Revision ID: 0007
"""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    # An index of PostgreSQL holds no long texts.
    op.execute("UPDATE misses SET cause = substr(cause, 1, 300)")
    op.create_index(op.f("ix_misses_reason_cause_last"), "misses", ["reason", "cause", "last"])
