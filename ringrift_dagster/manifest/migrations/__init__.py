"""Alembic's scripts: how the manifest's tables came to be what `schema` says."""
