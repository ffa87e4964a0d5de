"""When a job that was to do all of its work began.

Revision ID: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

INT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("jobs", sa.Column("tried", INT, nullable=False, server_default="0"))
    op.execute("UPDATE jobs SET tried = started")
