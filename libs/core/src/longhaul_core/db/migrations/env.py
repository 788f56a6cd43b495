"""Run by Alembic: migrates over the connection, and within the transaction, that the caller opened."""

from __future__ import annotations

from alembic import context

from longhaul_core.db.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
