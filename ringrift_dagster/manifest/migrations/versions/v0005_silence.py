"""How long operations waited for who did not answer."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    comment = "it waited in all for who did not answer"
    op.add_column("operations", sa.Column("silent_seconds", sa.Double(), server_default="0", nullable=False, comment=comment))
