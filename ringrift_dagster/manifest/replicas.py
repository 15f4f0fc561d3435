"""Single copies that somebody has just made, doubted or removed, and knows about for certain: the manifest says so at once.

An inventory that was asked for before cannot undo it: the row carries a newer revision. What inventories say is `merge`'s business.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ringrift_dagster.manifest import orphans
from ringrift_dagster.manifest.holdings import Counted, Holdings
from ringrift_dagster.manifest.inventory import Gone
from ringrift_dagster.manifest.schema import items, locations, replicas
from ringrift_dagster.manifest.states import HELD, ReplicaState
from ringrift_dagster.manifest.store import Writer, in_batches, upsert

DROPPED = "dropped"
"""Reason of a LOST replica that we removed ourselves, after live proof of the others."""
_COUNTED = (
    replicas.c.item_id, replicas.c.path, replicas.c.state, replicas.c.reason, replicas.c.mtime, replicas.c.verified_at,
    replicas.c.revision, items.c.sha256, items.c.type, items.c.config, items.c.size, items.c.soundness, items.c.newest_game,
)  # fmt: skip
_ITEM = (items.c.id, items.c.sha256, items.c.type, items.c.config, items.c.size, items.c.soundness, items.c.newest_game)


@dataclass(frozen=True)
class Made:
    """A verified copy below a location's root. Times in seconds since 1970."""

    sha256: str
    path: str
    mtime: float | None
    verified_at: float


def record_copy(
    writer: Writer, location: str, sha256: str, path: str, *, mtime: float | None, verified_at: float, at: float
) -> None:
    """A verified copy of an item stands at a path of a location. Raises KeyError if the manifest knows no such item or location."""
    record_copies(writer, location, [Made(sha256, path, mtime, verified_at)], at=at)


def record_copies(writer: Writer, location: str, made: Sequence[Made], *, at: float) -> None:
    """As `record_copy`, for many at once."""
    place = _place(writer, location)
    contents = _items(writer, {bytes.fromhex(copy.sha256) for copy in made})
    here = _at_paths(writer, place.id, {copy.path for copy in made})
    change = _Change(writer, place)
    for copy in {(copy.sha256, copy.path): copy for copy in made}.values():
        item = contents[bytes.fromhex(copy.sha256)]
        for row in here.get(copy.path, ()):
            if row.item_id != item.item_id and row.state != ReplicaState.LOST:
                change.turn(row, ReplicaState.LOST, Gone.REPLACED.value)
        before = next((row for row in here.get(copy.path, ()) if row.item_id == item.item_id), None)
        now = item._replace(path=copy.path, mtime=copy.mtime, verified_at=copy.verified_at)
        change.turn(before, ReplicaState.AVAILABLE, None, now)
    change.write()
    orphans.resolve(writer, {item.item_id for item in contents.values()}, at=at)


def suspect(writer: Writer, location: str, sha256: str, reason: str, *, at: float) -> int:
    """A location sent other bytes than an item's: its copies are no sources until they were verified again. Returns how many."""
    place = _place(writer, location)
    change = _Change(writer, place)
    rows = [row for row in _of_item(writer, place.id, sha256) if row.state == ReplicaState.AVAILABLE]
    for row in rows:
        change.turn(row, ReplicaState.SUSPICIOUS, reason[:100])
    change.write()
    if rows:
        writer.note(at, "REPLICA_SUSPECTED", location, item=sha256, reason=reason[:300], paths=[row.path for row in rows])
        orphans.detect_lost(writer, {row.item_id for row in rows}, place.id, location, at=at)
    return len(rows)


def drop(writer: Writer, location: str, sha256: str, path: str | None = None, *, why: str, at: float) -> int:
    """We removed an item's copies at a location, or the one at a path. Returns how many were in the manifest.

    Whoever calls this has proof of the other copies. The rows stay, as LOST: an older answer would bring them back otherwise.
    """
    place = _place(writer, location)
    change = _Change(writer, place)
    rows = [row for row in _of_item(writer, place.id, sha256) if path in (None, row.path) and row.state != ReplicaState.LOST]
    for row in rows:
        change.turn(row, ReplicaState.LOST, DROPPED)
    change.write()
    if rows:
        writer.note(at, "REPLICA_DROPPED", location, item=sha256, why=why[:300], paths=[row.path for row in rows])
        orphans.detect_lost(writer, {row.item_id for row in rows}, place.id, location, at=at)
    return len(rows)


class _Change:
    """Changes of one location's replicas, with the counters that follow."""

    def __init__(self, writer: Writer, place: Any) -> None:
        self.writer = writer
        self.place = place
        self.holdings = Holdings()
        self.held = 0
        self.rows: dict[tuple[int, str], dict[str, Any]] = {}

    def turn(self, before: Counted | None, state: ReplicaState, reason: str | None, now: Counted | None = None) -> None:
        """A replica gets a state; `now` says what it is from now on, if that is not what it was."""
        row = now or before
        if row is None:
            raise ValueError("a replica that neither was nor is")
        if before is not None and before.state == ReplicaState.AVAILABLE:
            self.holdings.remove(self.place.id, before)
        if before is not None and before.reason == HELD:
            self.held -= 1
        if state == ReplicaState.AVAILABLE:
            self.holdings.add(self.place.id, row)
        self.rows[row.item_id, row.path] = {
            "item_id": row.item_id, "location_id": self.place.id, "path": row.path, "state": state.value, "reason": reason,
            "mtime": row.mtime, "verified_at": row.verified_at, "revision": self.writer.revision,
        }  # fmt: skip

    def write(self) -> None:
        if not self.rows:
            return
        insert = upsert(self.writer.connection, replicas)
        changed = {name: insert.excluded[name] for name in ("state", "reason", "mtime", "verified_at", "revision")}
        statement = insert.on_conflict_do_update(index_elements=["item_id", "location_id", "path"], set_=changed)
        self.writer.many(statement, list(self.rows.values()))
        self.holdings.write(self.writer)
        count, size = self.holdings.total(self.place.id)
        values = {
            "replicas": locations.c.replicas + count, "bytes": locations.c.bytes + size, "held": locations.c.held + self.held,
        }  # fmt: skip
        self.writer.connection.execute(sa.update(locations).where(locations.c.id == self.place.id).values(values))
        self.writer.touched = True


def _place(writer: Writer, name: str) -> Any:
    row = writer.connection.execute(sa.select(locations.c.id, locations.c.name).where(locations.c.name == name)).one_or_none()
    if row is None:
        raise KeyError(name)
    return row


def _items(writer: Writer, digests: Iterable[bytes]) -> dict[bytes, Counted]:
    """Items as replicas that are nowhere yet. Raises KeyError for one that is not known."""
    wanted = list(digests)
    found: dict[bytes, Counted] = {}
    for batch in in_batches(wanted):
        for id_, sha256, kind, config, size, soundness, newest in writer.rows(sa.select(*_ITEM).where(items.c.sha256.in_(batch))):
            digest = bytes(sha256)
            found[digest] = Counted(id_, "", "", None, None, None, 0, digest, kind, config, size, soundness, newest)
    for digest in wanted:
        if digest not in found:
            raise KeyError(digest.hex())
    return found


def _at_paths(writer: Writer, location_id: int, paths: Iterable[str]) -> dict[str, list[Counted]]:
    found: dict[str, list[Counted]] = defaultdict(list)
    for batch in in_batches(list(paths)):
        query = sa.select(*_COUNTED).join_from(replicas, items)
        for row in writer.rows(query.where(replicas.c.location_id == location_id, replicas.c.path.in_(batch))):
            found[row[1]].append(Counted._make(row))
    return found


def _of_item(writer: Writer, location_id: int, sha256: str) -> list[Counted]:
    query = sa.select(*_COUNTED).join_from(replicas, items).where(replicas.c.location_id == location_id)
    return [Counted._make(row) for row in writer.rows(query.where(items.c.sha256 == bytes.fromhex(sha256)))]
