"""Which parts of a tree are stored and not served.

Revision ID: 0006
"""

from __future__ import annotations

from collections import defaultdict

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("trees", sa.Column("withheld", sa.JSON(), nullable=False, server_default="[]"))
    rows = op.get_bind().execute(
        sa.text(
            "SELECT DISTINCT held.tree_id, held.part FROM parts AS held "
            "WHERE held.withheld <> '' AND NOT EXISTS (SELECT 1 FROM parts AS served WHERE "
            "served.tree_id = held.tree_id AND served.part = held.part AND served.newest) "
            "ORDER BY held.tree_id, held.part"
        )
    )
    withheld = defaultdict(list)
    for tree, part in rows:
        withheld[tree].append(part)
    trees = sa.table("trees", sa.column("id"), sa.column("withheld", sa.JSON()))
    for tree, parts in withheld.items():
        op.execute(trees.update().where(trees.c.id == tree).values(withheld=parts))
