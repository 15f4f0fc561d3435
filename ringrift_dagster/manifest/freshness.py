"""What every location would train on: for each location and config, how old its newest game is and why it is stale.

Age is that of the newest *game* in the sound training sets that lie there; the time of an export or of a copy is shown and proves
nothing. Missing evidence is stale. The state of the canonical games themselves is `datasets.freshness`' business.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa

from ringrift_dagster.games.config import CONFIG_KEYS
from ringrift_dagster.manifest.inventory import ItemType, Soundness
from ringrift_dagster.manifest.schema import holdings, items, locations, mounts, replicas
from ringrift_dagster.manifest.states import Liveness, ReplicaState
from ringrift_dagster.manifest.store import Store, in_batches

FUTURE_SECONDS = 3600.0
"""A game this much younger than now comes from a wrong clock: its time is no evidence."""


@dataclass(frozen=True)
class HostFreshness:
    """What a location holds of a config. Ages and times in seconds; `why` says why it is stale, and is None if it is fresh."""

    location: str
    config: str
    newest_game: float | None
    newest_export: float | None
    age: float | None
    training_sets: int
    is_reference: bool | None
    """Whether it holds the reference copy; None if there is none."""
    verified_at: float | None
    why: str | None

    @property
    def fresh(self) -> bool:
        return self.why is None


class Reference(NamedTuple):
    """The training set that jobs of a config should use."""

    item_id: int
    sha256: bytes
    samples: int | None
    newest_game: float | None


def host_freshness(store: Store, now: float, *, limit: timedelta, hosts_only: bool = True) -> list[HostFreshness]:
    """A row for each config at each location that is still in the hosts file, by location and config."""
    with store.reading() as connection:
        best = references(connection, now)
        kinds = ("host",) if hosts_only else ("host", "disk", "shared", "drive", "s3")
        columns = (locations.c.id, locations.c.name, locations.c.liveness, locations.c.answered_at)
        places = connection.execute(
            sa.select(*columns).where(locations.c.active, locations.c.kind.in_(kinds)).order_by(locations.c.name)
        ).all()
        cells = {
            (row.location_id, row.config): row
            for row in connection.execute(sa.select(holdings).where(holdings.c.type == ItemType.NPZ, holdings.c.replicas > 0))
        }
        holders = _holders(connection, [reference.item_id for reference in best.values()])
        seen = _shared(connection)
    rows = []
    for place in places:
        visible = [place.id, *seen.get(place.id, ())]
        for config in CONFIG_KEYS:
            there = [cells[key] for location in visible if (key := (location, config)) in cells]
            wanted = best.get(config)
            has_it = None if wanted is None else any((location, wanted.item_id) in holders for location in visible)
            rows.append(_judge(place, config, there, has_it, now, limit))
    return rows


def references(connection: sa.Connection, now: float) -> dict[str, Reference]:
    """For each config the sound training set with the newest game, the larger of two, that can be reached."""
    future = items.c.newest_game > now + FUTURE_SECONDS
    found: dict[str, Reference] = {}
    reachable = (
        sa.select(sa.literal(1))
        .select_from(replicas)
        .join(locations, locations.c.id == replicas.c.location_id)
        .where(
            replicas.c.item_id == items.c.id, replicas.c.state == ReplicaState.AVAILABLE, locations.c.liveness == Liveness.ONLINE
        )
        .exists()
    )
    for config in CONFIG_KEYS:
        row = connection.execute(
            sa.select(items.c.id, items.c.sha256, items.c.samples, items.c.newest_game)
            .where(items.c.config == config, items.c.type == ItemType.NPZ, items.c.soundness == Soundness.SOUND)
            .where(items.c.newest_game.is_not(None), ~future, reachable)
            .order_by(items.c.newest_game.desc(), items.c.samples.desc().nulls_last(), items.c.id)
            .limit(1)
        ).one_or_none()
        if row is not None:
            found[config] = Reference(*row)
    return found


def _judge(place: Any, config: str, cells: list[Any], has_it: bool | None, now: float, limit: timedelta) -> HostFreshness:
    newest = max((cell.newest_game for cell in cells if cell.newest_game is not None), default=None)
    age = None if newest is None else now - newest
    if place.liveness != Liveness.ONLINE:
        why = f"the host is {place.liveness}"
    elif not cells:
        why = "it has no training set"
    elif age is None:
        why = "no sound training set tells when its newest game was"
    elif age < -FUTURE_SECONDS:
        why, age = "its newest game is in the future: a clock is wrong", None
    elif age > limit.total_seconds():
        why = f"its newest game is {age / 3600:.1f} h old, more than {limit.total_seconds() / 3600:g} h"
    elif has_it is False:
        why = "it lacks the reference copy, which has newer games or more samples"
    else:
        why = None
    return HostFreshness(
        location=place.name,
        config=config,
        newest_game=newest,
        newest_export=max((cell.newest_mtime for cell in cells if cell.newest_mtime), default=None),
        age=age,
        training_sets=sum(cell.replicas for cell in cells),
        is_reference=has_it,
        verified_at=max((cell.verified_at for cell in cells if cell.verified_at), default=None),
        why=why,
    )


def _holders(connection: sa.Connection, references: list[int]) -> set[tuple[int, int]]:
    """Which locations hold which references."""
    found: set[tuple[int, int]] = set()
    for batch in in_batches(references):
        query = sa.select(replicas.c.location_id, replicas.c.item_id).where(replicas.c.item_id.in_(batch))
        found.update((row[0], row[1]) for row in connection.execute(query.where(replicas.c.state == ReplicaState.AVAILABLE)))
    return found


def _shared(connection: sa.Connection) -> dict[int, list[int]]:
    """The shared file systems that a host sees and that are there."""
    query = sa.select(mounts.c.host_id, mounts.c.location_id).join(locations, locations.c.id == mounts.c.location_id)
    seen: dict[int, list[int]] = {}
    for host, shared in connection.execute(query.where(locations.c.liveness == Liveness.ONLINE)):
        seen.setdefault(host, []).append(shared)
    return seen
