"""The manifest in figures: how much there is, how safe it is, what nobody can place. For reports; looking things up is `queries`.

Reading only, every figure from the tables as they stand in one transaction. Sizes are in bytes.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass

import orjson
import sqlalchemy as sa

from ringrift_dagster.manifest.inventory import Soundness
from ringrift_dagster.manifest.orphans import Orphanhood, reachable
from ringrift_dagster.manifest.schema import holdings, items, locations, orphans, replicas, state, untracked
from ringrift_dagster.manifest.states import Liveness, ReplicaState
from ringrift_dagster.manifest.store import Store


@dataclass(frozen=True)
class ItemCount:
    """Items of a type and config; `reachable` have a copy that can be read now, `unsound` ones failed the check of their type."""

    type: str
    config: str | None
    items: int
    reachable: int
    unsound: int
    bytes: int


@dataclass(frozen=True)
class Held:
    """AVAILABLE replicas of a type and config at one location."""

    type: str
    config: str | None
    replicas: int
    bytes: int
    newest_game: float | None


@dataclass(frozen=True)
class Dangers:
    """Items that can be reached and are sound or unchecked: those with one copy, with too few, with none that is durable."""

    sole: int
    under: int
    perishable: int


@dataclass(frozen=True)
class UntrackedCount:
    """Files at a location that are no items, by reason."""

    location: str
    reason: str
    files: int
    bytes: int


@dataclass(frozen=True)
class Doubtful:
    """A copy that is not used: BAD or SUSPICIOUS."""

    location: str
    path: str
    sha256: str
    state: str
    reason: str | None


def items_by_type(store: Store) -> list[ItemCount]:
    """How many items there are, by type and config."""
    query = (
        sa.select(
            items.c.type,
            items.c.config,
            sa.func.count(),
            sa.func.sum(sa.case((reachable(items.c.id), 1), else_=0)),
            sa.func.sum(sa.case((items.c.soundness == Soundness.UNSOUND, 1), else_=0)),
            sa.func.sum(items.c.size),
        )
        .group_by(items.c.type, items.c.config)
        .order_by(items.c.type, items.c.config)
    )
    with store.reading() as connection:
        return [ItemCount(row[0], row[1], *map(int, row[2:])) for row in connection.execute(query)]


def holdings_at(store: Store, names: Collection[str]) -> dict[str, list[Held]]:
    """What certain locations hold, from their counters; nothing for a location that holds nothing."""
    query = (
        sa.select(locations.c.name, holdings)
        .join_from(holdings, locations)
        .where(holdings.c.replicas > 0)
        .order_by(locations.c.name, holdings.c.type, holdings.c.config)
    )
    found: dict[str, list[Held]] = defaultdict(list)
    with store.reading() as connection:
        for row in connection.execute(query):
            if row.name in names:
                found[row.name].append(Held(row.type, row.config or None, row.replicas, row.bytes, row.newest_game))
    return dict(found)


def dangers(store: Store, target: int) -> Dangers:
    """How many items have fewer than `target` copies at reachable locations, and how many depend on one, or on fleeting ones."""
    copies = sa.func.count(sa.distinct(replicas.c.location_id))
    durable = sa.func.count(sa.distinct(sa.case((locations.c.ephemeral.is_(False), replicas.c.location_id))))
    counted = (
        sa.select(copies.label("copies"), durable.label("durable"))
        .join_from(replicas, locations)
        .join(items, items.c.id == replicas.c.item_id)
        .where(
            replicas.c.state == ReplicaState.AVAILABLE,
            locations.c.liveness == Liveness.ONLINE,
            items.c.soundness != Soundness.UNSOUND,
        )
        .group_by(replicas.c.item_id)
        .subquery()
    )
    conditions = (counted.c.copies == 1, sa.or_(counted.c.copies < target, counted.c.durable < 1), counted.c.durable < 1)
    query = sa.select(*(sa.func.coalesce(sa.func.sum(sa.case((condition, 1), else_=0)), 0) for condition in conditions))
    with store.reading() as connection:
        return Dangers(*map(int, connection.execute(query).one()))


def orphans_by_kind(store: Store) -> dict[Orphanhood, int]:
    """How many items cannot be reached now, by why."""
    query = sa.select(orphans.c.kind, sa.func.count()).where(orphans.c.resolved_at.is_(None)).group_by(orphans.c.kind)
    with store.reading() as connection:
        found = dict(connection.execute(query).all())
    return {kind: found.get(kind.value, 0) for kind in Orphanhood}


def untracked_by_reason(store: Store) -> list[UntrackedCount]:
    """Files that are no items, by location and reason."""
    query = (
        sa.select(locations.c.name, untracked.c.reason, sa.func.count(), sa.func.sum(untracked.c.size))
        .join_from(untracked, locations)
        .group_by(locations.c.name, untracked.c.reason)
        .order_by(locations.c.name, untracked.c.reason)
    )
    with store.reading() as connection:
        return [UntrackedCount(row[0], row[1], int(row[2]), int(row[3])) for row in connection.execute(query)]


def doubtful_copies(store: Store, *, limit: int = 1000) -> list[Doubtful]:
    """Copies that are damaged or contradicted, by location."""
    query = (
        sa.select(locations.c.name, replicas.c.path, items.c.sha256, replicas.c.state, replicas.c.reason)
        .join_from(replicas, locations)
        .join(items, items.c.id == replicas.c.item_id)
        .where(replicas.c.state.in_((ReplicaState.BAD, ReplicaState.SUSPICIOUS)))
        .order_by(locations.c.name, replicas.c.path)
        .limit(limit)
    )
    with store.reading() as connection:
        return [Doubtful(row[0], row[1], row[2].hex(), row[3], row[4]) for row in connection.execute(query)]


def digest(store: Store) -> str:
    """What names this state of the manifest: its revision and what every location holds."""
    query = (
        sa.select(locations.c.name, holdings.c.type, holdings.c.config, holdings.c.replicas, holdings.c.bytes)
        .join_from(holdings, locations)
        .order_by(locations.c.name, holdings.c.type, holdings.c.config)
    )
    with store.reading() as connection:
        revision = connection.execute(sa.select(state.c.revision)).scalar_one()
        held = [list(row) for row in connection.execute(query)]
    return hashlib.sha256(orjson.dumps([revision, held])).hexdigest()
