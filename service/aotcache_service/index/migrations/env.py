"""Alembic's entry: the connection, with its transaction, comes from Database.migrate."""

from __future__ import annotations

from alembic import context

from aotcache_service.index.models import Base

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
with context.begin_transaction():
    context.run_migrations()
