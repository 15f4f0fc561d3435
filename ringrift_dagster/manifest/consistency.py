"""Whether the manifest agrees with itself: what is counted on the side against what is there, and what the tables may not hold.

Reading only; nothing is put right here. That the manifest agrees with the disks is what inventories and scrubbing are for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ringrift_dagster.games.config import CONFIG_KEYS
from ringrift_dagster.manifest.inventory import CHUNK_DIGEST_BYTES, CHUNK_SIZE, Soundness
from ringrift_dagster.manifest.schema import chunk_tables, holdings, items, locations, replicas
from ringrift_dagster.manifest.states import CONTRADICTED, HELD, ReplicaState
from ringrift_dagster.manifest.store import Store

RULES = {
    "holdings": "the counters of every location are what its replicas add up to",
    "locations": "each location's totals are what its replicas add up to",
    "config": "every config is one of the twelve",
    "location": "no replica is at a location that is not registered",
    "chunks": "every chunk table fits the size of its item",
    "size": "every hash has one size, wherever it lies",
}
MAX_FINDINGS = 200
"""Of one rule; a manifest that is worse than that is not read line by line."""
_CELL = ("replicas", "bytes", "newest_game", "newest_mtime", "verified_at")


@dataclass(frozen=True)
class Disagreement:
    """One place where the manifest contradicts itself: `rule` is one of RULES."""

    rule: str
    where: str
    stored: str
    actual: str


def disagreements(store: Store) -> list[Disagreement]:
    """Everything that contradicts a rule, in one view of the manifest; at most MAX_FINDINGS of each rule."""
    found: list[Disagreement] = []
    with store.reading() as connection:
        for look in (_holdings, _totals, _configs, _unregistered, _chunks, _sizes):
            for number, finding in enumerate(look(connection)):
                if number == MAX_FINDINGS:
                    break
                found.append(finding)
    return found


def _holdings(connection: sa.Connection) -> Iterator[Disagreement]:
    config = sa.func.coalesce(items.c.config, "")
    sound = sa.case((items.c.soundness != Soundness.UNSOUND, items.c.newest_game))
    recounted = (
        sa.select(
            replicas.c.location_id, items.c.type, config, sa.func.count(), sa.func.sum(items.c.size), sa.func.max(sound),
            sa.func.max(replicas.c.mtime), sa.func.max(replicas.c.verified_at),
        )
        .join_from(replicas, items)
        .where(replicas.c.state == ReplicaState.AVAILABLE)
        .group_by(replicas.c.location_id, items.c.type, config)
    )  # fmt: skip
    actual = {tuple(row[:3]): (int(row[3]), int(row[4]), *row[5:]) for row in connection.execute(recounted)}
    kept = sa.select(holdings.c.location_id, holdings.c.type, holdings.c.config, *(holdings.c[name] for name in _CELL))
    stored = {tuple(row[:3]): tuple(row[3:]) for row in connection.execute(kept)}
    names = _names(connection)
    nothing = (0, 0, None, None, None)
    for key in sorted(actual.keys() | stored.keys()):
        here, there = stored.get(key, nothing), actual.get(key, nothing)
        if here != there:
            yield Disagreement("holdings", f"{names.get(key[0], key[0])} {key[1]} {key[2] or '-'}", _cell(here), _cell(there))


def _totals(connection: sa.Connection) -> Iterator[Disagreement]:
    available = replicas.c.state == ReplicaState.AVAILABLE
    held = sa.and_(replicas.c.state == ReplicaState.UNAVAILABLE, replicas.c.reason == HELD)
    recounted = (
        sa.select(
            replicas.c.location_id,
            sa.func.sum(sa.case((available, 1), else_=0)),
            sa.func.sum(sa.case((available, items.c.size), else_=0)),
            sa.func.sum(sa.case((held, 1), else_=0)),
        )
        .join_from(replicas, items)
        .group_by(replicas.c.location_id)
    )
    actual = {row[0]: tuple(map(int, row[1:])) for row in connection.execute(recounted)}
    query = sa.select(locations.c.id, locations.c.name, locations.c.replicas, locations.c.bytes, locations.c.held)
    for row in connection.execute(query.order_by(locations.c.name)):
        there = actual.get(row.id, (0, 0, 0))
        if tuple(row[2:]) != there:
            yield Disagreement("locations", row.name, _total(tuple(row[2:])), _total(there))


def _configs(connection: sa.Connection) -> Iterator[Disagreement]:
    strange = sa.select(items.c.sha256, items.c.config).where(items.c.config.is_not(None), items.c.config.not_in(CONFIG_KEYS))
    for row in connection.execute(strange.limit(MAX_FINDINGS)):
        yield Disagreement("config", row.sha256.hex(), row.config, "none of the twelve")
    elsewhere = sa.select(holdings.c.config).where(holdings.c.config.not_in(("", *CONFIG_KEYS))).distinct()
    for row in connection.execute(elsewhere):
        yield Disagreement("config", "counters", row.config, "none of the twelve")


def _unregistered(connection: sa.Connection) -> Iterator[Disagreement]:
    query = (
        sa.select(replicas.c.location_id, sa.func.count())
        .outerjoin_from(replicas, locations, locations.c.id == replicas.c.location_id)
        .where(locations.c.id.is_(None))
        .group_by(replicas.c.location_id)
    )
    for row in connection.execute(query):
        yield Disagreement("location", f"location {row[0]}", f"{row[1]} replicas", "not registered")


def _chunks(connection: sa.Connection) -> Iterator[Disagreement]:
    length = sa.func.length(chunk_tables.c.digests)
    needed = (items.c.size + (CHUNK_SIZE - 1)) // CHUNK_SIZE * CHUNK_DIGEST_BYTES
    query = sa.select(items.c.sha256, length, needed).join_from(chunk_tables, items).where(length != needed)
    for row in connection.execute(query.limit(MAX_FINDINGS)):
        yield Disagreement("chunks", row[0].hex(), f"{row[1]} bytes", f"{row[2]} bytes")


def _sizes(connection: sa.Connection) -> Iterator[Disagreement]:
    query = (
        sa.select(items.c.sha256, items.c.size, locations.c.name, replicas.c.path)
        .join_from(replicas, items)
        .join(locations, locations.c.id == replicas.c.location_id)
        .where(replicas.c.state == ReplicaState.SUSPICIOUS, replicas.c.reason == CONTRADICTED)
        .order_by(locations.c.name, replicas.c.path)
    )
    for row in connection.execute(query.limit(MAX_FINDINGS)):
        yield Disagreement("size", row.sha256.hex(), f"{row.size} bytes", f"another size at {row.name}: {row.path}")


def _names(connection: sa.Connection) -> dict[int, str]:
    return dict(connection.execute(sa.select(locations.c.id, locations.c.name)).all())


def _cell(values: tuple[Any, ...]) -> str:
    return ", ".join(f"{name} {value}" for name, value in zip(_CELL, values, strict=True) if value is not None)


def _total(values: tuple[int, ...]) -> str:
    return ", ".join(f"{name} {value}" for name, value in zip(("replicas", "bytes", "held"), values, strict=True))
