"""The manifest's tables, the same on SQLite and PostgreSQL. Only definitions belong here; `migrations/` makes them.

Times are seconds since 1970 (UTC), sizes bytes. A location's `revision` and a replica's say at which change of the manifest the row
was last written, so that "before" and "after" need no clock.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)
_Id = BigInteger().with_variant(Integer(), "sqlite")

state = Table(
    "manifest_state",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("revision", BigInteger, nullable=False),
    Column("refreshed_at", Double),
    comment="One row. Whoever writes locks it first.",
)

locations = Table(
    "locations",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("name", String(100), nullable=False, unique=True),
    Column("kind", String(10), nullable=False, comment="host, drive, shared, s3 or disk"),
    Column("provider", String(50)),
    Column("rack", String(100)),
    Column("role", String(50)),
    Column("ephemeral", Boolean, nullable=False, server_default=sa.false()),
    Column("via", String(100), comment="the host that a drive hangs on"),
    Column("active", Boolean, nullable=False, server_default=sa.true(), comment="still in the hosts file"),
    Column("liveness", String(12), nullable=False, server_default="UNKNOWN"),
    Column("reason", Text, comment="why it is not ONLINE"),
    Column("changed_at", Double, comment="when liveness last changed"),
    Column("answered_at", Double),
    Column("failures", Integer, nullable=False, server_default="0", comment="questions without an answer since the last one"),
    Column("latency", Double, comment="seconds, smoothed"),
    Column("clock_skew", Double, comment="its clock minus ours, seconds"),
    Column("disk_total", BigInteger),
    Column("disk_free", BigInteger),
    Column("pending", Integer, nullable=False, server_default="0"),
    Column("epoch", String(100)),
    Column("cursor", BigInteger),
    Column("replicas", BigInteger, nullable=False, server_default="0", comment="AVAILABLE ones"),
    Column("bytes", BigInteger, nullable=False, server_default="0"),
    Column("held", BigInteger, nullable=False, server_default="0", comment="missing replicas that a brake keeps from being LOST"),
)

mounts = Table(
    "mounts",
    metadata,
    Column("location_id", ForeignKey("locations.id"), nullable=False),
    Column("host_id", ForeignKey("locations.id"), nullable=False),
    PrimaryKeyConstraint("location_id", "host_id"),
    comment="Which hosts see a shared file system.",
)

items = Table(
    "items",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("sha256", LargeBinary(32), nullable=False, unique=True),
    Column("type", String(16), nullable=False),
    Column("config", String(16)),
    Column("size", BigInteger, nullable=False),
    Column("games", BigInteger),
    Column("samples", BigInteger),
    Column("quality", Double),
    Column("newest_game", Double),
    Column("elo", Double),
    Column("soundness", String(8), nullable=False),
    Column("reason", Text),
    Column("provenance", Text, comment="JSON"),
    Column("first_seen", Double, nullable=False),
)
by_quality = sa.func.coalesce(items.c.quality, sa.literal_column("-1"))
by_newest_game = sa.func.coalesce(items.c.newest_game, sa.literal_column("-1"))
"""What orders items; unknown comes last. Spelt so that both databases can use the index."""
Index("ix_items_best", items.c.config, items.c.type, by_quality.desc(), by_newest_game.desc())
Index("ix_items_newest", items.c.config, items.c.type, items.c.newest_game)

chunk_tables = Table(
    "chunk_tables",
    metadata,
    Column("item_id", ForeignKey("items.id"), primary_key=True, autoincrement=False),
    Column("digests", LargeBinary, nullable=False, comment="BLAKE3 of chunks of 4 MiB, concatenated"),
)

replicas = Table(
    "replicas",
    metadata,
    Column("item_id", ForeignKey("items.id"), nullable=False),
    Column("location_id", ForeignKey("locations.id"), nullable=False),
    Column("path", String(1024), nullable=False, comment="relative to the location's root"),
    Column("state", String(12), nullable=False),
    Column("reason", String(100)),
    Column("mtime", Double),
    Column("verified_at", Double),
    Column("revision", BigInteger, nullable=False),
    PrimaryKeyConstraint("item_id", "location_id", "path"),
    UniqueConstraint("location_id", "path", "item_id"),
    sqlite_with_rowid=False,
)

holdings = Table(
    "holdings",
    metadata,
    Column("location_id", ForeignKey("locations.id"), nullable=False),
    Column("type", String(16), nullable=False),
    Column("config", String(16), nullable=False, comment="empty: none"),
    Column("replicas", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("newest_game", Double, comment="of sound items"),
    Column("newest_mtime", Double),
    Column("verified_at", Double, comment="the latest"),
    PrimaryKeyConstraint("location_id", "type", "config"),
    comment="Counters of AVAILABLE replicas, kept with every change of them.",
)

untracked = Table(
    "untracked",
    metadata,
    Column("location_id", ForeignKey("locations.id"), nullable=False),
    Column("path", String(1024), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("mtime", Double, nullable=False),
    Column("reason", String(20), nullable=False),
    Column("detail", Text),
    Column("first_seen", Double, nullable=False),
    PrimaryKeyConstraint("location_id", "path"),
)

source_databases = Table(
    "source_databases",
    metadata,
    Column("location_id", ForeignKey("locations.id"), nullable=False),
    Column("path", String(1024), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("mtime", Double, nullable=False),
    Column("games", Text, nullable=False, comment="JSON: config to finished games"),
    Column("newest_game", Double),
    Column("snapshot", LargeBinary(32)),
    PrimaryKeyConstraint("location_id", "path"),
)

orphans = Table(
    "orphans",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("item_id", ForeignKey("items.id"), nullable=False),
    Column("kind", String(10), nullable=False, comment="stranded or lost"),
    Column("location_id", ForeignKey("locations.id"), nullable=False, comment="where the last copy was"),
    Column("detected_at", Double, nullable=False),
    Column("resolved_at", Double),
)
_open = orphans.c.resolved_at.is_(None)
Index("ix_orphans_open", orphans.c.item_id, unique=True, sqlite_where=_open, postgresql_where=_open)
Index("ix_orphans_location", orphans.c.location_id)

changes = Table(
    "changes",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("at", Double, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("location", String(100)),
    Column("detail", Text, nullable=False, comment="JSON"),
    sqlite_autoincrement=True,
    comment="What happened, in order; readers keep the last id they saw.",
)

strangers = Table(
    "strangers",
    metadata,
    Column("name", String(100), primary_key=True),
    Column("seen_at_location", String(100), nullable=False),
    Column("first_seen", Double, nullable=False),
    Column("last_seen", Double, nullable=False),
    comment="Hosts that showed up and are not in the hosts file.",
)

scrub_days = Table(
    "scrub_days",
    metadata,
    Column("location_id", ForeignKey("locations.id"), nullable=False),
    Column("day", String(10), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("files", BigInteger, nullable=False),
    Column("damaged", BigInteger, nullable=False),
    Column("remaining", BigInteger, nullable=False),
    PrimaryKeyConstraint("location_id", "day"),
)

operations = Table(
    "operations",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=False, comment="in the order of submission"),
    Column("kind", String(10), nullable=False, comment="sync, replicate, backup or preload"),
    Column("sha256", LargeBinary(32), nullable=False),
    Column("target", String(100), nullable=False),
    Column("size", BigInteger, comment="bytes, if whoever submitted it knew"),
    Column("priority", SmallInteger, nullable=False),
    Column("rank", SmallInteger, nullable=False, comment="what it is leased by: of its priority, or aged"),
    Column("state", String(10), nullable=False, server_default="QUEUED"),
    Column("why", String(200), comment="who wants it"),
    Column("submitted_at", Double, nullable=False),
    Column("due_at", Double, comment="of a WAITING one"),
    Column("attempts", Integer, nullable=False, server_default="0", comment="that failed"),
    Column("silent_seconds", Double, nullable=False, server_default="0", comment="it waited in all for who did not answer"),
    Column("leases", Integer, nullable=False, server_default="0", comment="fences off whoever held it before"),
    Column("owner", String(100)),
    Column("leased_until", Double),
    Column("order_id", String(100), comment="what the agent was posted"),
    Column("source", String(100), comment="the location whose link it counts on"),
    Column("transport", String(12)),
    Column("bytes", BigInteger),
    Column("seconds", Double),
    Column("retries", Integer),
    Column("cause", String(50)),
    Column("detail", Text),
    Column("next_action", Text),
    Column("finished_at", Double),
    comment="The queue. One is open until finished_at is set.",
)
_unfinished = operations.c.finished_at.is_(None)
_queued, _waiting, _leased = (operations.c.state == sa.literal_column(f"'{name}'") for name in ("QUEUED", "WAITING", "LEASED"))
Index(
    "ix_operations_open", operations.c.kind, operations.c.sha256, operations.c.target,
    unique=True, sqlite_where=_unfinished, postgresql_where=_unfinished,
)  # fmt: skip
Index("ix_operations_next", operations.c.target, operations.c.rank, operations.c.id, sqlite_where=_queued, postgresql_where=_queued)
Index("ix_operations_item", operations.c.sha256, operations.c.target)
Index("ix_operations_ended", operations.c.finished_at, sqlite_where=~_unfinished, postgresql_where=~_unfinished)
Index("ix_operations_due", operations.c.due_at, sqlite_where=_waiting, postgresql_where=_waiting)
Index("ix_operations_leased", operations.c.target, operations.c.leased_until, sqlite_where=_leased, postgresql_where=_leased)

link_limits = Table(
    "link_limits",
    metadata,
    Column("name", String(110), primary_key=True, comment="`to X` or `from X`"),
    Column("at_once", Integer, nullable=False),
    Column("ended", Integer, nullable=False, server_default="0", comment="since the last decision"),
    Column("succeeded", Integer, nullable=False, server_default="0", comment="of those"),
    Column("throughput", Double, comment="bytes a second of one transfer, smoothed"),
    Column("judged_throughput", Double, comment="as it was at the last decision"),
    Column("mean_size", Double, comment="bytes of a transfer, smoothed"),
    Column("judged_size", Double),
    Column("reason", String(200), comment="of the last decision"),
    Column("changed_at", Double),
    comment="How many transfers a link bears at once.",
)

breakers = Table(
    "breakers",
    metadata,
    Column("location", String(100), nullable=False),
    Column("transport", String(12), nullable=False),
    Column("state", String(10), nullable=False, comment="CLOSED, OPEN or TRIAL"),
    Column("failures", Integer, nullable=False, comment="in a row"),
    Column("cool_down", Double, nullable=False, comment="seconds"),
    Column("retry_at", Double),
    Column("changed_at", Double, nullable=False),
    Column("code", String(50)),
    PrimaryKeyConstraint("location", "transport"),
)

rules = Table(
    "rules",
    metadata,
    Column("name", String(100), primary_key=True),
    Column("type", String(16), comment="of the items it is about; any if not given"),
    Column("config", String(16)),
    Column("sha256", LargeBinary(32)),
    Column("copies", Integer, comment="so many; if not given, one on every host that fits"),
    Column("lasting", Integer, nullable=False, server_default="0", comment="so many of them where data does not come and go"),
    Column("hosts", Text, comment="JSON: names; any if not given"),
    Column("roles", Text, comment="JSON: roles; any if not given"),
    Column("kind", String(10), nullable=False),
    Column("priority", SmallInteger, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    comment="Who must hold what.",
)

pins = Table(
    "pins",
    metadata,
    Column("sha256", LargeBinary(32), nullable=False),
    Column("owner", String(100), nullable=False, comment="the job, the promotion, the person"),
    Column("reason", String(200), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    PrimaryKeyConstraint("sha256", "owner"),
    comment="What is never removed.",
)

LONGEST_OVERRIDE = 86_400.0
overrides = Table(
    "overrides",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("config", String(16), nullable=False),
    Column("who", String(100), nullable=False),
    Column("why", String(500), nullable=False),
    Column("granted_at", Double, nullable=False),
    Column("until", Double, nullable=False),
    CheckConstraint(f"until > granted_at AND until <= granted_at + {LONGEST_OVERRIDE:.0f}", name="bounded"),
    CheckConstraint("length(trim(who)) > 0 AND length(trim(why)) > 0", name="signed"),
    Index("ix_overrides_until", "until"),
    comment="Exceptions from the age limit. Rows are never changed: going on takes another one.",
)

backpressure = Table(
    "backpressure",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("active", Boolean, nullable=False),
    Column("changed_at", Double, comment="when that was last said to have changed"),
    Column("measured_at", Double),
    Column("level", String(10), nullable=False, comment="as last measured"),
    Column("overall", Double, comment="as last measured; a lower bound if the level is unknown"),
    Column("readings", Text, nullable=False, comment="JSON: as last measured"),
    comment="One row: whether less urgent work is deferred.",
)

backpressure_sources = Table(
    "backpressure_sources",
    metadata,
    Column("source", String(110), primary_key=True, comment="`measured`, or `host X`"),
    Column("since", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("reason", String(300), nullable=False),
    comment="Who says that less urgent work has to wait.",
)

events = Table(
    "events",
    metadata,
    Column("id", _Id, primary_key=True, comment="in the order of receipt; what consumers remember"),
    Column("event_id", String(36), nullable=False, unique=True),
    Column("type", String(32), nullable=False),
    Column("host", String(100), nullable=False, comment="whose agent took it in; the coordinator's own are of `home`"),
    Column("epoch", String(36), comment="of that host's outbox; none for the coordinator's own"),
    Column("sequence", BigInteger, comment="its place there"),
    Column("at", Double, nullable=False, comment="when it happened"),
    Column("received_at", Double, nullable=False),
    Column("config", String(16), comment="that it is about"),
    Column("subject", String(100), comment="the host that it is about"),
    Column("payload", Text, nullable=False, comment="JSON"),
    sqlite_autoincrement=True,
    comment="What hosts told, and what the coordinator tells.",
)
Index("ix_events_type", events.c.type, events.c.id)

event_hosts = Table(
    "event_hosts",
    metadata,
    Column("host", String(100), nullable=False),
    Column("epoch", String(36), nullable=False),
    Column("sequence", BigInteger, nullable=False, comment="everything up to it was received"),
    Column("received_at", Double, nullable=False),
    PrimaryKeyConstraint("host", "epoch"),
    comment="How far every host's outbox was read.",
)

handled_events = Table(
    "handled_events",
    metadata,
    Column("event", ForeignKey("events.id", ondelete="CASCADE"), nullable=False),
    Column("consumer", String(50), nullable=False),
    Column("at", Double, nullable=False),
    Column("outcome", Text, comment="in a line"),
    PrimaryKeyConstraint("event", "consumer"),
    comment="Who has done what there was to do about an event.",
)

dead_letters = Table(
    "dead_letters",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("event_id", String(36), nullable=False, unique=True),
    Column("host", String(100), nullable=False, comment="where it was told"),
    Column("epoch", String(36)),
    Column("sequence", BigInteger),
    Column("reason", String(32), nullable=False),
    Column("detail", Text, nullable=False),
    Column("raw", Text, nullable=False, comment="its text, as far as it fits"),
    Column("at", Double, nullable=False, comment="when it was told"),
    Column("received_at", Double, nullable=False),
    Column("replayed_at", Double, comment="when it was understood after all"),
    sqlite_autoincrement=True,
    comment="What could not be understood.",
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("event", ForeignKey("events.id", ondelete="CASCADE"), nullable=False),
    Column("target", String(110), nullable=False, comment="`host X` or `webhook X`"),
    Column("attempts", Integer, nullable=False, server_default="0", comment="that failed"),
    Column("due_at", Double, nullable=False),
    Column("cause", String(200), comment="of the last failure"),
    Column("ended_at", Double, comment="delivered, or given up"),
    Column("delivered", Boolean, nullable=False, server_default=sa.false()),
    PrimaryKeyConstraint("target", "event"),
    comment="To whom an event has to be told.",
)
_undelivered = deliveries.c.ended_at.is_(None)
Index("ix_deliveries_open", deliveries.c.target, deliveries.c.event, sqlite_where=_undelivered, postgresql_where=_undelivered)
Index("ix_deliveries_event", deliveries.c.event)

webhook_cursors = Table(
    "webhook_cursors",
    metadata,
    Column("name", String(100), primary_key=True),
    Column("event", BigInteger, nullable=False, comment="up to it events were considered"),
    comment="From where on a webhook is told.",
)
