"""Exceptions from the age limit; who says that less urgent work has to wait."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "overrides",
        sa.Column("id", _ID, nullable=False),
        sa.Column("config", sa.String(length=16), nullable=False),
        sa.Column("who", sa.String(length=100), nullable=False),
        sa.Column("why", sa.String(length=500), nullable=False),
        sa.Column("granted_at", sa.Double(), nullable=False),
        sa.Column("until", sa.Double(), nullable=False),
        sa.CheckConstraint("until > granted_at AND until <= granted_at + 86400", name=op.f("ck_overrides_bounded")),
        sa.CheckConstraint("length(trim(who)) > 0 AND length(trim(why)) > 0", name=op.f("ck_overrides_signed")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_overrides")),
        comment="Exceptions from the age limit. Rows are never changed: going on takes another one.",
    )
    op.create_index("ix_overrides_until", "overrides", ["until"], unique=False)
    op.create_table(
        "backpressure",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("changed_at", sa.Double(), nullable=True, comment="when that was last said to have changed"),
        sa.Column("measured_at", sa.Double(), nullable=True),
        sa.Column("level", sa.String(length=10), nullable=False, comment="as last measured"),
        sa.Column("overall", sa.Double(), nullable=True, comment="as last measured; a lower bound if the level is unknown"),
        sa.Column("readings", sa.Text(), nullable=False, comment="JSON: as last measured"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_backpressure")),
        comment="One row: whether less urgent work is deferred.",
    )
    op.create_table(
        "backpressure_sources",
        sa.Column("source", sa.String(length=110), nullable=False, comment="`measured`, or `host X`"),
        sa.Column("since", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.Column("reason", sa.String(length=300), nullable=False),
        sa.PrimaryKeyConstraint("source", name=op.f("pk_backpressure_sources")),
        comment="Who says that less urgent work has to wait.",
    )
    op.execute("INSERT INTO backpressure (id, active, level, readings) VALUES (1, false, 'unknown', '[]')")
