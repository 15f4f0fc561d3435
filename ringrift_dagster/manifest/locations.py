"""Which locations there are: kept in step with the hosts file. Whether they answer is `liveness`' business."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from ringrift_dagster.cluster.topology import Place
from ringrift_dagster.manifest import orphans
from ringrift_dagster.manifest.schema import locations, mounts
from ringrift_dagster.manifest.states import Liveness
from ringrift_dagster.manifest.store import Store, upsert

_DECLARED = ("kind", "provider", "rack", "role", "ephemeral", "via")


@dataclass(frozen=True)
class Location:
    """A place as the manifest knows it; sizes in bytes, times in seconds since 1970."""

    name: str
    kind: str
    provider: str | None
    rack: str | None
    role: str | None
    ephemeral: bool
    via: str | None
    active: bool
    liveness: Liveness
    reason: str | None
    changed_at: float | None
    answered_at: float | None
    latency: float | None
    clock_skew: float | None
    disk_total: int | None
    disk_free: int | None
    pending: int
    replicas: int
    bytes: int
    held: int
    epoch: str | None
    cursor: int | None


_FIELDS = [locations.c[name] for name in Location.__dataclass_fields__]


def register(store: Store, places: Sequence[Place], *, at: float) -> tuple[list[str], list[str]]:
    """Make the manifest's locations those of the hosts file; returns the names that came and those that went.

    What went keeps its rows and what is known of its replicas, but is not asked any more and not reachable: what only it had is
    stranded.
    """
    with store.writing() as writer:
        known = {row.name: row for row in writer.connection.execute(sa.select(locations))}
        named = {place.name: place for place in places}
        wanted = {name: {field: getattr(place, field) for field in _DECLARED} for name, place in named.items()}
        came = [name for name in named if name not in known or not known[name].active]
        went = [name for name, row in known.items() if row.active and name not in named]
        changed = [
            {"name": name, **values, "active": True}
            for name, values in wanted.items()
            if name in came or any(getattr(known[name], field) != value for field, value in values.items())
        ]
        insert = upsert(writer.connection, locations)
        update = {field: insert.excluded[field] for field in (*_DECLARED, "active")}
        writer.many(insert.on_conflict_do_update(index_elements=["name"], set_=update), changed)
        for name in went:
            gone = {"active": False, "liveness": Liveness.OFFLINE, "reason": "no longer in the hosts file", "changed_at": at}
            writer.connection.execute(sa.update(locations).where(locations.c.name == name).values(gone))
            writer.note(at, "LOCATION_REMOVED", name)
        for name in went:
            orphans.detect_stranded(writer, known[name].id, name, at=at)
        for name in came:
            writer.note(at, "LOCATION_ADDED", name, place=named[name].kind, provider=named[name].provider)
        writer.touched |= _write_mounts(writer.connection, places) or bool(changed)
    return came, went


def all_locations(store: Store) -> list[Location]:
    """Every location there ever was, by name."""
    with store.reading() as connection:
        return read_locations(connection)


def read_locations(connection: sa.Connection) -> list[Location]:
    """As `all_locations`, within a transaction."""
    return [Location(*row) for row in connection.execute(sa.select(*_FIELDS).order_by(locations.c.name))]


def location(store: Store, name: str) -> Location | None:
    """One location, or None if there is no such."""
    with store.reading() as connection:
        row = connection.execute(sa.select(*_FIELDS).where(locations.c.name == name)).one_or_none()
    return Location(*row) if row else None


def _write_mounts(connection: sa.Connection, places: Iterable[Place]) -> bool:
    """Bring up to date which host sees which shared file system; returns whether that changed anything."""
    ids = dict(connection.execute(sa.select(locations.c.name, locations.c.id)).all())
    wanted = {(ids[place.name], ids[host]) for place in places if place.kind == "shared" for host in place.hosts if host in ids}
    there = set(connection.execute(sa.select(mounts.c.location_id, mounts.c.host_id)).all())
    for location_id, host_id in there - wanted:
        connection.execute(sa.delete(mounts).where(mounts.c.location_id == location_id, mounts.c.host_id == host_id))
    for location_id, host_id in wanted - there:
        connection.execute(sa.insert(mounts).values(location_id=location_id, host_id=host_id))
    return there != wanted
