"""Events, how far every host's were read, dead letters, and to whom events have to be told."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "events",
        sa.Column("id", _ID, nullable=False, comment="in the order of receipt; what consumers remember"),
        sa.Column("event_id", sa.String(length=36), nullable=False),
        sa.Column("type", sa.String(length=32), nullable=False),
        sa.Column(
            "host", sa.String(length=100), nullable=False, comment="whose agent took it in; the coordinator's own are of `home`"
        ),
        sa.Column("epoch", sa.String(length=36), nullable=True, comment="of that host's outbox; none for the coordinator's own"),
        sa.Column("sequence", sa.BigInteger(), nullable=True, comment="its place there"),
        sa.Column("at", sa.Double(), nullable=False, comment="when it happened"),
        sa.Column("received_at", sa.Double(), nullable=False),
        sa.Column("config", sa.String(length=16), nullable=True, comment="that it is about"),
        sa.Column("subject", sa.String(length=100), nullable=True, comment="the host that it is about"),
        sa.Column("payload", sa.Text(), nullable=False, comment="JSON"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
        sa.UniqueConstraint("event_id", name=op.f("uq_events_event_id")),
        comment="What hosts told, and what the coordinator tells.",
        sqlite_autoincrement=True,
    )
    op.create_index("ix_events_type", "events", ["type", "id"], unique=False)
    op.create_table(
        "event_hosts",
        sa.Column("host", sa.String(length=100), nullable=False),
        sa.Column("epoch", sa.String(length=36), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False, comment="everything up to it was received"),
        sa.Column("received_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("host", "epoch", name=op.f("pk_event_hosts")),
        comment="How far every host's outbox was read.",
    )
    op.create_table(
        "handled_events",
        sa.Column("event", _ID, nullable=False),
        sa.Column("consumer", sa.String(length=50), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=True, comment="in a line"),
        sa.ForeignKeyConstraint(["event"], ["events.id"], name=op.f("fk_handled_events_event"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("event", "consumer", name=op.f("pk_handled_events")),
        comment="Who has done what there was to do about an event.",
    )
    op.create_table(
        "dead_letters",
        sa.Column("id", _ID, nullable=False),
        sa.Column("event_id", sa.String(length=36), nullable=False),
        sa.Column("host", sa.String(length=100), nullable=False, comment="where it was told"),
        sa.Column("epoch", sa.String(length=36), nullable=True),
        sa.Column("sequence", sa.BigInteger(), nullable=True),
        sa.Column("reason", sa.String(length=32), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("raw", sa.Text(), nullable=False, comment="its text, as far as it fits"),
        sa.Column("at", sa.Double(), nullable=False, comment="when it was told"),
        sa.Column("received_at", sa.Double(), nullable=False),
        sa.Column("replayed_at", sa.Double(), nullable=True, comment="when it was understood after all"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dead_letters")),
        sa.UniqueConstraint("event_id", name=op.f("uq_dead_letters_event_id")),
        comment="What could not be understood.",
        sqlite_autoincrement=True,
    )
    op.create_table(
        "deliveries",
        sa.Column("event", _ID, nullable=False),
        sa.Column("target", sa.String(length=110), nullable=False, comment="`host X` or `webhook X`"),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False, comment="that failed"),
        sa.Column("due_at", sa.Double(), nullable=False),
        sa.Column("cause", sa.String(length=200), nullable=True, comment="of the last failure"),
        sa.Column("ended_at", sa.Double(), nullable=True, comment="delivered, or given up"),
        sa.Column("delivered", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.ForeignKeyConstraint(["event"], ["events.id"], name=op.f("fk_deliveries_event"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("target", "event", name=op.f("pk_deliveries")),
        comment="To whom an event has to be told.",
    )
    undelivered = sa.text("ended_at IS NULL")
    op.create_index(
        "ix_deliveries_open", "deliveries", ["target", "event"], unique=False,
        sqlite_where=undelivered, postgresql_where=undelivered,
    )  # fmt: skip
    op.create_index("ix_deliveries_event", "deliveries", ["event"], unique=False)
    op.create_table(
        "webhook_cursors",
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("event", sa.BigInteger(), nullable=False, comment="up to it events were considered"),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_webhook_cursors")),
        comment="From where on a webhook is told.",
    )
