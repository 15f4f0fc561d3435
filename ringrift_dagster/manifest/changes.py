"""Following the manifest: what changed, in order, for sensors and people. Writing changes is `store.Writer.note`'s business."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson
import sqlalchemy as sa

from ringrift_dagster.manifest.schema import changes
from ringrift_dagster.manifest.store import Store

KINDS = {
    "HOST_ONLINE": "a host answers again, or for the first time",
    "HOST_OFFLINE": "a host does not answer any more",
    "HOST_UNAVAILABLE": "a host answers, and its data directory is not there",
    "LOCATION_ONLINE": "a drive, shared file system or bucket can be read",
    "LOCATION_OFFLINE": "a drive, shared file system or bucket does not answer",
    "LOCATION_UNAVAILABLE": "a drive or shared file system is not mounted",
    "LOCATION_ADDED": "the hosts file names a new place",
    "LOCATION_REMOVED": "the hosts file no longer names a place",
    "STRANGER_SEEN": "a host showed up that the hosts file does not name",
    "CLOCK_SKEW": "a host's clock went wrong",
    "REPLICAS_CHANGED": "copies came, went or changed at a location",
    "ORPHAN_DETECTED": "items cannot be reached any more",
    "ORPHANS_RESOLVED": "items can be reached again",
    "LOSS_ACCEPTED": "a person said that what was missing is lost",
    "SCRUBBED": "bytes were read again and compared with their hashes",
    "OPERATION_DONE": "an item that was asked for is where it has to be, verified",
    "OPERATION_FAILED": "an item that was asked for cannot be brought, and why",
    "REPLICA_SUSPECTED": "a copy's location sent other bytes than its hash says",
    "REPLICA_DROPPED": "a copy was removed after live proof of the others",
    "BREAKER_OPENED": "a location is not asked by a transport for a while",
    "BREAKER_CLOSED": "a location is asked by a transport again",
    "STALENESS_OVERRIDDEN": "a person lets a config train on games that are too old, for some hours",
    "BACKPRESSURE_ACTIVATED": "less urgent transfers wait, and why",
    "BACKPRESSURE_RELEASED": "nothing has to wait any more",
    "LIMIT_CHANGED": "a link bears more or fewer transfers at once",
}
"""Every kind of change."""


@dataclass(frozen=True)
class Change:
    """One change of state; `at` in seconds since 1970."""

    id: int
    at: float
    kind: str
    location: str | None
    detail: dict[str, Any]


def last_change(store: Store) -> int:
    """The id of the latest change; 0 if there was none."""
    with store.reading() as connection:
        return connection.execute(sa.select(sa.func.coalesce(sa.func.max(changes.c.id), 0))).scalar_one()


def changes_since(store: Store, id: int, *, limit: int = 1000) -> list[Change]:
    """The changes after one, in order."""
    with store.reading() as connection:
        rows = connection.execute(sa.select(changes).where(changes.c.id > id).order_by(changes.c.id).limit(limit)).all()
    return [Change(row.id, row.at, row.kind, row.location, orjson.loads(row.detail)) for row in rows]
