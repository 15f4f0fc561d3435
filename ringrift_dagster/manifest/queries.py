"""What the manifest is asked: where is it, who can give it best, what is good, what is in danger.

Reading only. Sizes are in bytes, times in seconds since 1970, latencies in seconds. Reports over time are in `freshness`, items
that cannot be reached in `orphans`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, NamedTuple

import orjson
import sqlalchemy as sa

from ringrift_dagster.games.config import CONFIG_KEYS
from ringrift_dagster.manifest.inventory import ItemType, Soundness
from ringrift_dagster.manifest.schema import (
    by_newest_game,
    by_quality,
    chunk_tables,
    items,
    locations,
    mounts,
    replicas,
    strangers,
    untracked,
)
from ringrift_dagster.manifest.states import ARCHIVED, Liveness, ReplicaState
from ringrift_dagster.manifest.store import Store, in_batches

MAX_MATCHES = 10


class AmbiguousItem(LookupError):
    """A short hash or a name fits more than one item; `matches` are their hashes."""

    def __init__(self, text: str, matches: Sequence[str]) -> None:
        many = f"{len(matches)}" if len(matches) < MAX_MATCHES else f"at least {MAX_MATCHES}"
        super().__init__(f"{text} fits {many} items: {', '.join(match[:12] for match in matches[:5])}")
        self.matches = matches


class UnknownItem(LookupError):
    """The manifest has no such item."""


@dataclass(frozen=True)
class Item:
    """One artifact and what its content tells."""

    sha256: str
    type: str
    config: str | None
    size: int
    games: int | None
    samples: int | None
    quality: float | None
    newest_game: float | None
    elo: float | None
    soundness: str
    reason: str | None
    provenance: dict[str, str]
    first_seen: float


@dataclass(frozen=True)
class Copy:
    """One replica of an item. `state` is UNAVAILABLE also while its location is not there; `last_seen` says that it stood there,
    sound as far as anybody knows, when its location answered last."""

    location: str
    kind: str
    path: str
    state: str
    reason: str | None
    liveness: str
    mtime: float | None
    verified_at: float | None
    last_seen: bool = False


@dataclass(frozen=True)
class Whereabouts:
    """An item and all its copies."""

    item: Item
    copies: tuple[Copy, ...]

    @property
    def reachable(self) -> tuple[Copy, ...]:
        return tuple(copy for copy in self.copies if copy.state == ReplicaState.AVAILABLE)


@dataclass(frozen=True)
class RankedSource:
    """A copy that a host could be given; `why` is the rule that ranks it."""

    location: str
    kind: str
    path: str
    via: str | None
    why: str
    latency: float | None


_FAR = float("inf")
SILENT = "does not answer"
RANKS = ("shared file system in place", "already there", "same rack", "same provider", "lowest latency", "any", SILENT)


class HeldItem(NamedTuple):
    """An item of a known config that a location holds; `reachable` if such a location answers now. `size` is in bytes."""

    sha256: str
    config: str
    size: int
    reachable: bool


@dataclass(frozen=True)
class Danger:
    """An item with too few copies. `copies` counts reachable locations; `durable` those of them that do not come and go."""

    sha256: str
    type: str
    config: str | None
    size: int
    copies: int
    durable: int
    location: str | None
    """Of the only copy, if there is but one."""


_COPY = (
    locations.c.name, locations.c.kind, replicas.c.path, replicas.c.state, replicas.c.reason, locations.c.liveness,
    replicas.c.mtime, replicas.c.verified_at,
)  # fmt: skip
_ITEM_IN_SHORT = (items.c.sha256, items.c.type, items.c.config, items.c.size)
_UNTRACKED = [untracked.c[name] for name in ("path", "size", "mtime", "reason", "detail", "first_seen")]
_ITEM = [items.c[name] for name in Item.__dataclass_fields__]


def find_item(store: Store, text: str) -> str:
    """The full hash of an item named by its hash, the beginning of it (at least 6 digits), or a path or file name of a copy.

    Raises UnknownItem or AmbiguousItem: one name may stand for different contents.
    """
    if "\0" in text:  # no database takes one in a text
        raise UnknownItem(text)
    matches: Sequence[bytes] = []
    with store.reading() as connection:
        if 6 <= len(text) <= 64 and set(text.lower()) <= set("0123456789abcdef"):
            low, high = bytes.fromhex(text.ljust(64, "0")), bytes.fromhex(text.ljust(64, "f"))
            query = sa.select(items.c.sha256).where(items.c.sha256.between(low, high)).limit(MAX_MATCHES)
            matches = connection.execute(query).scalars().all()
        if not matches:
            named = sa.or_(replicas.c.path == text, replicas.c.path.like(f"%/{_escaped(text)}", escape="!"))
            live = replicas.c.state != ReplicaState.LOST
            query = sa.select(items.c.sha256).join_from(replicas, items).where(named, live).distinct().limit(MAX_MATCHES)
            matches = connection.execute(query).scalars().all()
    if not matches:
        raise UnknownItem(text)
    if len(matches) > 1:
        raise AmbiguousItem(text, [match.hex() for match in matches])
    return matches[0].hex()


def where(store: Store, sha256: str) -> Whereabouts:
    """An item and every copy of it, reachable ones first. Raises UnknownItem."""
    digest = bytes.fromhex(sha256)
    with store.reading() as connection:
        row = connection.execute(sa.select(items.c.id, *_ITEM).where(items.c.sha256 == digest)).one_or_none()
        if row is None:
            raise UnknownItem(sha256)
        rows = connection.execute(
            sa.select(*_COPY)
            .join_from(replicas, locations)
            .where(replicas.c.item_id == row.id)
            .order_by(locations.c.name, replicas.c.path)
        ).all()
    copies = [_copy(copy) for copy in rows]
    return Whereabouts(_item(row[1:]), tuple(sorted(copies, key=lambda copy: copy.state != ReplicaState.AVAILABLE)))


def chunk_table(store: Store, sha256: str) -> bytes | None:
    """BLAKE3 digests of the item's chunks, concatenated; None if nobody made them."""
    with store.reading() as connection:
        query = sa.select(chunk_tables.c.digests).join_from(chunk_tables, items).where(items.c.sha256 == bytes.fromhex(sha256))
        return connection.execute(query).scalar_one_or_none()


def best_sources(store: Store, sha256: str, host: str) -> list[RankedSource]:
    """Where a host should get an item from, the best first: only copies that can be read now.

    A shared file system that the host sees > its own copy > same rack > same provider > lowest measured latency > any. Where the
    locations stand, and whether they answer, is remembered until the manifest changes.
    """
    known = store.remembered("map of locations", lambda: _map(store))
    copies = store.prepared("available copies", _available_copies).rows({"sha256": bytes.fromhex(sha256)})
    return [source for source in _ranked(known, copies, host) if source.why != SILENT]


def sources_of(store: Store, sha256s: Iterable[str], host: str) -> dict[str, list[RankedSource]]:
    """As `best_sources`, for many items at once; last come copies at places that do not answer, which may be had in other ways."""
    known = store.remembered("map of locations", lambda: _map(store))
    found: dict[str, list[tuple[int, str]]] = {sha256: [] for sha256 in sha256s}
    copies = sa.select(items.c.sha256, replicas.c.location_id, replicas.c.path).join_from(items, replicas)
    available = copies.where(replicas.c.state == sa.literal_column(f"'{ReplicaState.AVAILABLE}'"))
    with store.reading() as connection:
        for batch in in_batches([bytes.fromhex(sha256) for sha256 in found]):
            for digest, location_id, path in connection.execute(available.where(items.c.sha256.in_(batch))):
                found[digest.hex()].append((location_id, path))
    return {sha256: _ranked(known, copies, host) for sha256, copies in found.items()}


def items_of(store: Store, sha256s: Iterable[str]) -> dict[str, Item]:
    """Items by their hashes; those that the manifest does not know are left out."""
    found = {}
    with store.reading() as connection:
        for batch in in_batches([bytes.fromhex(sha256) for sha256 in sha256s]):
            for row in connection.execute(sa.select(*_ITEM).where(items.c.sha256.in_(batch))):
                found[row[0].hex()] = _item(row)
    return found


def chunk_tables_of(store: Store, sha256s: Iterable[str]) -> dict[str, bytes]:
    """As `chunk_table`, for many items at once; those without one are left out."""
    found = {}
    tables = sa.select(items.c.sha256, chunk_tables.c.digests).join_from(chunk_tables, items)
    with store.reading() as connection:
        for batch in in_batches([bytes.fromhex(sha256) for sha256 in sha256s]):
            for digest, table in connection.execute(tables.where(items.c.sha256.in_(batch))):
                found[digest.hex()] = table
    return found


def items_by_quality(
    store: Store,
    config: str,
    type: ItemType,
    *,
    min_quality: float | None = None,
    min_samples: int | None = None,
    newer_than: float | None = None,
    sound_only: bool = True,
    limit: int = 100,
) -> list[Item]:
    """Items of a config and type, the best quality first, then the newest game. What is unknown satisfies no minimum."""
    query = (
        sa.select(*_ITEM)
        .where(items.c.config == config, items.c.type == type)
        .order_by(by_quality.desc(), by_newest_game.desc())
        .limit(limit)
    )
    if min_quality is not None:
        query = query.where(items.c.quality >= min_quality)
    if min_samples is not None:
        query = query.where(items.c.samples >= min_samples)
    if newer_than is not None:
        query = query.where(items.c.newest_game >= newer_than)
    if sound_only:
        query = query.where(items.c.soundness == Soundness.SOUND)
    with store.reading() as connection:
        return [_item(row) for row in connection.execute(query)]


def items_held(store: Store, type: ItemType) -> list[HeldItem]:
    """Items of a type and of a known config that a location held when it answered last, the first seen first."""
    reachable = sa.func.max(sa.case((locations.c.liveness == Liveness.ONLINE, 1), else_=0))
    query = (
        sa.select(items.c.sha256, items.c.config, items.c.size, reachable)
        .join_from(items, replicas)
        .join(locations)
        .where(items.c.config.in_(CONFIG_KEYS), items.c.type == type, replicas.c.state == ReplicaState.AVAILABLE)
        .group_by(items.c.id)
        .order_by(items.c.id)
    )
    with store.reading() as connection:
        return [HeldItem(digest.hex(), config, size, bool(online)) for digest, config, size, online in connection.execute(query)]


def under_replicated(store: Store, target: int, *, limit: int = 1000) -> list[Danger]:
    """Items with fewer reachable copies than `target`, or none that is durable; the fewest first. Those without any are orphans."""
    copies = sa.func.count(sa.distinct(replicas.c.location_id))
    durable = sa.func.count(sa.distinct(sa.case((locations.c.ephemeral.is_(False), replicas.c.location_id))))
    return _in_danger(store, sa.or_(copies < target, durable < 1), limit)


def sole_copies(store: Store, *, at_location: str | None = None, limit: int = 1000) -> list[Danger]:
    """Items with exactly one location that can be reached now; only those at one location, if given."""
    if at_location is None:
        return _in_danger(store, sa.func.count(sa.distinct(replicas.c.location_id)) == 1, limit)
    other, place = replicas.alias("other"), locations.alias("place")
    elsewhere = (
        sa.select(sa.literal(1))
        .select_from(other)
        .join(place, place.c.id == other.c.location_id)
        .where(
            other.c.item_id == replicas.c.item_id,
            other.c.location_id != replicas.c.location_id,
            other.c.state == ReplicaState.AVAILABLE,
            place.c.liveness == Liveness.ONLINE,
        )
        .exists()
    )
    query = (
        sa.select(*_ITEM_IN_SHORT, sa.literal(1), sa.case((locations.c.ephemeral, 0), else_=1), locations.c.name)
        .join_from(replicas, items)
        .join(locations, locations.c.id == replicas.c.location_id)
        .where(locations.c.name == at_location, replicas.c.state == ReplicaState.AVAILABLE, ~elsewhere)
        .where(items.c.soundness != Soundness.UNSOUND)
        .distinct()
        .limit(limit)
    )
    with store.reading() as connection:
        return [Danger(row[0].hex(), *row[1:]) for row in connection.execute(query)]


def lost(store: Store, *, limit: int = 1000) -> list[Whereabouts]:
    """Items of which every copy is lost or bad, because it vanished, was overwritten or was damaged."""
    alive = (ReplicaState.AVAILABLE, ReplicaState.UNAVAILABLE, ReplicaState.COPYING, ReplicaState.SUSPICIOUS)
    copy = sa.select(replicas.c.item_id).where(replicas.c.item_id == items.c.id)
    query = sa.select(items.c.sha256).where(copy.exists(), ~copy.where(replicas.c.state.in_(alive)).exists()).limit(limit)
    with store.reading() as connection:
        digests = connection.execute(query).scalars().all()
    return [where(store, digest.hex()) for digest in digests]


def missing_at(store: Store, name: str, *, limit: int = 1000) -> list[Danger]:
    """Sound items that have a reachable copy and none, archived ones included, at a location: what a bucket lacks, say."""
    there = (
        sa.select(replicas.c.item_id)
        .join(locations, locations.c.id == replicas.c.location_id)
        .where(
            replicas.c.item_id == items.c.id,
            locations.c.name == name,
            sa.or_(replicas.c.state == ReplicaState.AVAILABLE, replicas.c.reason == ARCHIVED),
        )
        .correlate(items)
        .exists()
    )
    return _in_danger(store, sa.true(), limit, items.c.soundness == Soundness.SOUND, ~there)


def untracked_files(store: Store, *, location: str | None = None, limit: int = 1000) -> list[dict[str, Any]]:
    """Files that are on disk and no items, with why."""
    query = (
        sa.select(locations.c.name.label("location"), *_UNTRACKED)
        .join_from(untracked, locations)
        .order_by(locations.c.name, untracked.c.path)
        .limit(limit)
    )
    if location is not None:
        query = query.where(locations.c.name == location)
    with store.reading() as connection:
        return [dict(row._mapping) for row in connection.execute(query)]


def readable_at(store: Store, name: str) -> list[tuple[str, Item]]:
    """Everything AVAILABLE at a location: path and item, by path."""
    query = (
        sa.select(replicas.c.path, *_ITEM)
        .join_from(replicas, items)
        .join(locations, locations.c.id == replicas.c.location_id)
        .where(locations.c.name == name, replicas.c.state == ReplicaState.AVAILABLE)
        .order_by(replicas.c.path)
    )
    with store.reading() as connection:
        return [(row[0], _item(row[1:])) for row in connection.execute(query)]


def unknown_hosts(store: Store) -> list[dict[str, Any]]:
    """Hosts that showed up and are not in the hosts file."""
    with store.reading() as connection:
        return [dict(row._mapping) for row in connection.execute(sa.select(strangers).order_by(strangers.c.name))]


class _Place(NamedTuple):
    """What ranking has to know of a location."""

    name: str
    kind: str
    via: str | None
    provider: str | None
    rack: str | None
    latency: float | None
    online: bool


@dataclass(frozen=True)
class _Map:
    """Every location by number, their numbers by name, and who mounts what."""

    places: dict[int, _Place]
    mounts: frozenset[tuple[int, str]]

    def find(self, name: str) -> _Place | None:
        return next((place for place in self.places.values() if place.name == name), None)


def _map(store: Store) -> _Map:
    online = locations.c.liveness == Liveness.ONLINE
    columns = [locations.c[name] for name in _Place._fields[:-1]]
    host = locations.alias()
    with store.reading() as connection:
        places = {row[0]: _Place._make(row[1:]) for row in connection.execute(sa.select(locations.c.id, *columns, online))}
        seen = connection.execute(sa.select(mounts.c.location_id, host.c.name).join(host, host.c.id == mounts.c.host_id))
        return _Map(places, frozenset((row[0], row[1]) for row in seen))


def _available_copies() -> sa.Select[*tuple[Any, ...]]:
    return (
        sa.select(replicas.c.location_id, replicas.c.path)
        .select_from(items)
        .join(replicas, replicas.c.item_id == items.c.id)
        .where(
            items.c.sha256 == sa.bindparam("sha256"),
            replicas.c.state == sa.literal_column(f"'{ReplicaState.AVAILABLE}'"),
        )
    )


def _ranked(known: _Map, copies: Iterable[Sequence[Any]], host: str) -> list[RankedSource]:
    """Copies, by location and path, the best for a host first."""
    target = known.find(host)
    ranked = []
    for location_id, path in copies:
        place = known.places.get(location_id)
        if place is not None:
            rank = _rank(place, (location_id, host) in known.mounts, host, target)
            ranked.append((rank, _FAR if place.latency is None else place.latency, place.name, path, place))
    ranked.sort(key=itemgetter(0, 1, 2, 3))
    return [RankedSource(place.name, place.kind, path, place.via, RANKS[rank], place.latency) for rank, _, _, path, place in ranked]


def _rank(place: _Place, mounted: bool, host: str, target: _Place | None) -> int:
    if not place.online:
        return RANKS.index(SILENT)
    if mounted:
        return 0
    if place.name == host:
        return 1
    if target is not None and place.provider is not None and place.provider == target.provider:
        if place.rack is not None and place.rack == target.rack:
            return 2
        if place.provider != "unknown":
            return 3
    return 5 if place.latency is None else 4


def _in_danger(store: Store, having: sa.ColumnElement[bool], limit: int, *conditions: sa.ColumnElement[bool]) -> list[Danger]:
    copies = sa.func.count(sa.distinct(replicas.c.location_id))
    durable = sa.func.count(sa.distinct(sa.case((locations.c.ephemeral.is_(False), replicas.c.location_id))))
    only = sa.case((copies == 1, sa.func.max(locations.c.name)))
    counted = (
        sa.select(replicas.c.item_id, copies.label("copies"), durable.label("durable"), only.label("only"))
        .join_from(replicas, locations)
        .where(replicas.c.state == ReplicaState.AVAILABLE, locations.c.liveness == Liveness.ONLINE)
        .group_by(replicas.c.item_id)
        .having(having)
        .subquery()
    )
    query = (
        sa.select(*_ITEM_IN_SHORT, counted.c.copies, counted.c.durable, counted.c.only)
        .join_from(counted, items, items.c.id == counted.c.item_id)
        .where(items.c.soundness != Soundness.UNSOUND, *conditions)
        .order_by(counted.c.copies, counted.c.durable, items.c.id)
        .limit(limit)
    )
    with store.reading() as connection:
        return [Danger(row[0].hex(), *row[1:]) for row in connection.execute(query)]


def _item(row: Sequence[Any]) -> Item:
    values = dict(zip(Item.__dataclass_fields__, row, strict=True))
    values["sha256"] = values["sha256"].hex()
    values["provenance"] = orjson.loads(values["provenance"]) if values["provenance"] else {}
    return Item(**values)


def _copy(row: Sequence[Any]) -> Copy:
    name, kind, path, state, reason, liveness, mtime, verified = row
    last_seen = state == ReplicaState.AVAILABLE
    if last_seen and liveness != Liveness.ONLINE:
        state, reason = ReplicaState.UNAVAILABLE, f"{name} is {liveness}"
    return Copy(name, kind, path, str(state), reason, liveness, mtime, verified, last_seen)


def _escaped(text: str) -> str:
    return text.replace("!", "!!").replace("%", "!%").replace("_", "!_")
