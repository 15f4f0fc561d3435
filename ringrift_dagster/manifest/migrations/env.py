"""Run by Alembic: migrates over the connection that `store` hands in. There is no offline mode."""

from __future__ import annotations

from alembic import context

from ringrift_dagster.manifest.schema import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
