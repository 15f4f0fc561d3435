"""The first tables. There is no way back from here: a manifest is rebuilt by refreshing an empty one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "changes",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("location", sa.String(length=100), nullable=True),
        sa.Column("detail", sa.Text(), nullable=False, comment="JSON"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_changes")),
        comment="What happened, in order; readers keep the last id they saw.",
        sqlite_autoincrement=True,
    )
    op.create_table(
        "items",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("sha256", sa.LargeBinary(length=32), nullable=False),
        sa.Column("type", sa.String(length=16), nullable=False),
        sa.Column("config", sa.String(length=16), nullable=True),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("games", sa.BigInteger(), nullable=True),
        sa.Column("samples", sa.BigInteger(), nullable=True),
        sa.Column("quality", sa.Double(), nullable=True),
        sa.Column("newest_game", sa.Double(), nullable=True),
        sa.Column("elo", sa.Double(), nullable=True),
        sa.Column("soundness", sa.String(length=8), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("provenance", sa.Text(), nullable=True, comment="JSON"),
        sa.Column("first_seen", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_items")),
        sa.UniqueConstraint("sha256", name=op.f("uq_items_sha256")),
    )
    op.create_index("ix_items_newest", "items", ["config", "type", "newest_game"], unique=False)
    by_quality = sa.text("coalesce(quality, -1) DESC")
    by_newest_game = sa.text("coalesce(newest_game, -1) DESC")
    op.create_index("ix_items_best", "items", ["config", "type", by_quality, by_newest_game])
    op.create_table(
        "locations",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("kind", sa.String(length=10), nullable=False, comment="host, drive, shared, s3 or disk"),
        sa.Column("provider", sa.String(length=50), nullable=True),
        sa.Column("rack", sa.String(length=100), nullable=True),
        sa.Column("role", sa.String(length=50), nullable=True),
        sa.Column("ephemeral", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("via", sa.String(length=100), nullable=True, comment="the host that a drive hangs on"),
        sa.Column("active", sa.Boolean(), server_default=sa.true(), nullable=False, comment="still in the hosts file"),
        sa.Column("liveness", sa.String(length=12), server_default="UNKNOWN", nullable=False),
        sa.Column("reason", sa.Text(), nullable=True, comment="why it is not ONLINE"),
        sa.Column("changed_at", sa.Double(), nullable=True, comment="when liveness last changed"),
        sa.Column("answered_at", sa.Double(), nullable=True),
        sa.Column(
            "failures", sa.Integer(), server_default="0", nullable=False, comment="questions without an answer since the last one"
        ),
        sa.Column("latency", sa.Double(), nullable=True, comment="seconds, smoothed"),
        sa.Column("clock_skew", sa.Double(), nullable=True, comment="its clock minus ours, seconds"),
        sa.Column("disk_total", sa.BigInteger(), nullable=True),
        sa.Column("disk_free", sa.BigInteger(), nullable=True),
        sa.Column("pending", sa.Integer(), server_default="0", nullable=False),
        sa.Column("epoch", sa.String(length=100), nullable=True),
        sa.Column("cursor", sa.BigInteger(), nullable=True),
        sa.Column("replicas", sa.BigInteger(), server_default="0", nullable=False, comment="AVAILABLE ones"),
        sa.Column("bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column(
            "held",
            sa.BigInteger(),
            server_default="0",
            nullable=False,
            comment="missing replicas that a brake keeps from being LOST",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_locations")),
        sa.UniqueConstraint("name", name=op.f("uq_locations_name")),
    )
    op.create_table(
        "manifest_state",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("refreshed_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_manifest_state")),
        comment="One row. Whoever writes locks it first.",
    )
    op.create_table(
        "strangers",
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("seen_at_location", sa.String(length=100), nullable=False),
        sa.Column("first_seen", sa.Double(), nullable=False),
        sa.Column("last_seen", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_strangers")),
        comment="Hosts that showed up and are not in the hosts file.",
    )
    op.create_table(
        "chunk_tables",
        sa.Column("item_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False),
        sa.Column("digests", sa.LargeBinary(), nullable=False, comment="BLAKE3 of chunks of 4 MiB, concatenated"),
        sa.ForeignKeyConstraint(["item_id"], ["items.id"], name=op.f("fk_chunk_tables_item_id")),
        sa.PrimaryKeyConstraint("item_id", name=op.f("pk_chunk_tables")),
    )
    op.create_table(
        "holdings",
        sa.Column("location_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("type", sa.String(length=16), nullable=False),
        sa.Column("config", sa.String(length=16), nullable=False, comment="empty: none"),
        sa.Column("replicas", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("newest_game", sa.Double(), nullable=True, comment="of sound items"),
        sa.Column("newest_mtime", sa.Double(), nullable=True),
        sa.Column("verified_at", sa.Double(), nullable=True, comment="the latest"),
        sa.ForeignKeyConstraint(["location_id"], ["locations.id"], name=op.f("fk_holdings_location_id")),
        sa.PrimaryKeyConstraint("location_id", "type", "config", name=op.f("pk_holdings")),
        comment="Counters of AVAILABLE replicas, kept with every change of them.",
    )
    op.create_table(
        "mounts",
        sa.Column("location_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("host_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.ForeignKeyConstraint(["host_id"], ["locations.id"], name=op.f("fk_mounts_host_id")),
        sa.ForeignKeyConstraint(["location_id"], ["locations.id"], name=op.f("fk_mounts_location_id")),
        sa.PrimaryKeyConstraint("location_id", "host_id", name=op.f("pk_mounts")),
        comment="Which hosts see a shared file system.",
    )
    op.create_table(
        "orphans",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("item_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("kind", sa.String(length=10), nullable=False, comment="stranded or lost"),
        sa.Column(
            "location_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False, comment="where the last copy was"
        ),
        sa.Column("detected_at", sa.Double(), nullable=False),
        sa.Column("resolved_at", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["item_id"], ["items.id"], name=op.f("fk_orphans_item_id")),
        sa.ForeignKeyConstraint(["location_id"], ["locations.id"], name=op.f("fk_orphans_location_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_orphans")),
    )
    op.create_index("ix_orphans_location", "orphans", ["location_id"], unique=False)
    op.create_index(
        "ix_orphans_open",
        "orphans",
        ["item_id"],
        unique=True,
        sqlite_where=sa.text("resolved_at IS NULL"),
        postgresql_where=sa.text("resolved_at IS NULL"),
    )
    op.create_table(
        "replicas",
        sa.Column("item_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("location_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("path", sa.String(length=1024), nullable=False, comment="relative to the location's root"),
        sa.Column("state", sa.String(length=12), nullable=False),
        sa.Column("reason", sa.String(length=100), nullable=True),
        sa.Column("mtime", sa.Double(), nullable=True),
        sa.Column("verified_at", sa.Double(), nullable=True),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["item_id"], ["items.id"], name=op.f("fk_replicas_item_id")),
        sa.ForeignKeyConstraint(["location_id"], ["locations.id"], name=op.f("fk_replicas_location_id")),
        sa.PrimaryKeyConstraint("item_id", "location_id", "path", name=op.f("pk_replicas")),
        sa.UniqueConstraint("location_id", "path", "item_id", name=op.f("uq_replicas_location_id_path_item_id")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "scrub_days",
        sa.Column("location_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("day", sa.String(length=10), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("files", sa.BigInteger(), nullable=False),
        sa.Column("damaged", sa.BigInteger(), nullable=False),
        sa.Column("remaining", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["location_id"], ["locations.id"], name=op.f("fk_scrub_days_location_id")),
        sa.PrimaryKeyConstraint("location_id", "day", name=op.f("pk_scrub_days")),
    )
    op.create_table(
        "source_databases",
        sa.Column("location_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("path", sa.String(length=1024), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("mtime", sa.Double(), nullable=False),
        sa.Column("games", sa.Text(), nullable=False, comment="JSON: config to finished games"),
        sa.Column("newest_game", sa.Double(), nullable=True),
        sa.Column("snapshot", sa.LargeBinary(length=32), nullable=True),
        sa.ForeignKeyConstraint(["location_id"], ["locations.id"], name=op.f("fk_source_databases_location_id")),
        sa.PrimaryKeyConstraint("location_id", "path", name=op.f("pk_source_databases")),
    )
    op.create_table(
        "untracked",
        sa.Column("location_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("path", sa.String(length=1024), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("mtime", sa.Double(), nullable=False),
        sa.Column("reason", sa.String(length=20), nullable=False),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("first_seen", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["location_id"], ["locations.id"], name=op.f("fk_untracked_location_id")),
        sa.PrimaryKeyConstraint("location_id", "path", name=op.f("pk_untracked")),
    )
    op.execute("INSERT INTO manifest_state (id, revision) VALUES (1, 0)")
