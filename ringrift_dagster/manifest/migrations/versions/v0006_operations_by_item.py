"""What was ever asked for of an item at a target is found by index."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_operations_item", "operations", ["sha256", "target"], unique=False)
