"""The queue of operations, its limits and breakers; rules and pins."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "operations",
        sa.Column("id", _ID, autoincrement=False, nullable=False, comment="in the order of submission"),
        sa.Column("kind", sa.String(length=10), nullable=False, comment="sync, replicate, backup or preload"),
        sa.Column("sha256", sa.LargeBinary(length=32), nullable=False),
        sa.Column("target", sa.String(length=100), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=True, comment="bytes, if whoever submitted it knew"),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("rank", sa.SmallInteger(), nullable=False, comment="what it is leased by: of its priority, or aged"),
        sa.Column("state", sa.String(length=10), server_default="QUEUED", nullable=False),
        sa.Column("why", sa.String(length=200), nullable=True, comment="who wants it"),
        sa.Column("submitted_at", sa.Double(), nullable=False),
        sa.Column("due_at", sa.Double(), nullable=True, comment="of a WAITING one"),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False, comment="that failed"),
        sa.Column("leases", sa.Integer(), server_default="0", nullable=False, comment="fences off whoever held it before"),
        sa.Column("owner", sa.String(length=100), nullable=True),
        sa.Column("leased_until", sa.Double(), nullable=True),
        sa.Column("order_id", sa.String(length=100), nullable=True, comment="what the agent was posted"),
        sa.Column("source", sa.String(length=100), nullable=True, comment="the location whose link it counts on"),
        sa.Column("transport", sa.String(length=12), nullable=True),
        sa.Column("bytes", sa.BigInteger(), nullable=True),
        sa.Column("seconds", sa.Double(), nullable=True),
        sa.Column("retries", sa.Integer(), nullable=True),
        sa.Column("cause", sa.String(length=50), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("next_action", sa.Text(), nullable=True),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_operations")),
        comment="The queue. One is open until finished_at is set.",
    )
    for name, columns, unique, condition in (
        ("ix_operations_open", ["kind", "sha256", "target"], True, "finished_at IS NULL"),
        ("ix_operations_next", ["target", "rank", "id"], False, "state = 'QUEUED'"),
        ("ix_operations_ended", ["finished_at"], False, "finished_at IS NOT NULL"),
        ("ix_operations_due", ["due_at"], False, "state = 'WAITING'"),
        ("ix_operations_leased", ["target", "leased_until"], False, "state = 'LEASED'"),
    ):
        where = sa.text(condition)
        op.create_index(name, "operations", columns, unique=unique, sqlite_where=where, postgresql_where=where)
    op.create_table(
        "link_limits",
        sa.Column("name", sa.String(length=110), nullable=False, comment="`to X` or `from X`"),
        sa.Column("at_once", sa.Integer(), nullable=False),
        sa.Column("ended", sa.Integer(), server_default="0", nullable=False, comment="since the last decision"),
        sa.Column("succeeded", sa.Integer(), server_default="0", nullable=False, comment="of those"),
        sa.Column("throughput", sa.Double(), nullable=True, comment="bytes a second of one transfer, smoothed"),
        sa.Column("judged_throughput", sa.Double(), nullable=True, comment="as it was at the last decision"),
        sa.Column("mean_size", sa.Double(), nullable=True, comment="bytes of a transfer, smoothed"),
        sa.Column("judged_size", sa.Double(), nullable=True),
        sa.Column("reason", sa.String(length=200), nullable=True, comment="of the last decision"),
        sa.Column("changed_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_link_limits")),
        comment="How many transfers a link bears at once.",
    )
    op.create_table(
        "breakers",
        sa.Column("location", sa.String(length=100), nullable=False),
        sa.Column("transport", sa.String(length=12), nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False, comment="CLOSED, OPEN or TRIAL"),
        sa.Column("failures", sa.Integer(), nullable=False, comment="in a row"),
        sa.Column("cool_down", sa.Double(), nullable=False, comment="seconds"),
        sa.Column("retry_at", sa.Double(), nullable=True),
        sa.Column("changed_at", sa.Double(), nullable=False),
        sa.Column("code", sa.String(length=50), nullable=True),
        sa.PrimaryKeyConstraint("location", "transport", name=op.f("pk_breakers")),
    )
    op.create_table(
        "rules",
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("type", sa.String(length=16), nullable=True, comment="of the items it is about; any if not given"),
        sa.Column("config", sa.String(length=16), nullable=True),
        sa.Column("sha256", sa.LargeBinary(length=32), nullable=True),
        sa.Column("copies", sa.Integer(), nullable=True, comment="so many; if not given, one on every host that fits"),
        sa.Column(
            "lasting", sa.Integer(), server_default="0", nullable=False, comment="so many of them where data does not come and go"
        ),
        sa.Column("hosts", sa.Text(), nullable=True, comment="JSON: names; any if not given"),
        sa.Column("roles", sa.Text(), nullable=True, comment="JSON: roles; any if not given"),
        sa.Column("kind", sa.String(length=10), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_rules")),
        comment="Who must hold what.",
    )
    op.create_table(
        "pins",
        sa.Column("sha256", sa.LargeBinary(length=32), nullable=False),
        sa.Column("owner", sa.String(length=100), nullable=False, comment="the job, the promotion, the person"),
        sa.Column("reason", sa.String(length=200), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("sha256", "owner", name=op.f("pk_pins")),
        comment="What is never removed.",
    )
