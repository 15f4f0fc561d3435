"""What every location would train on: for each location and config, how old its newest game is and why it is stale.

Age is that of the newest *game* in the sound training sets that lie there; the time of an export or of a copy is shown and proves
nothing. Missing evidence is stale. Whether an age is good enough `staleness` judges.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ringrift_dagster.cluster.topology import AgeLimits
from ringrift_dagster.games.config import CONFIG_KEYS
from ringrift_dagster.manifest.inventory import ItemType
from ringrift_dagster.manifest.overrides import Override, in_force
from ringrift_dagster.manifest.schema import holdings, locations, mounts, replicas
from ringrift_dagster.manifest.staleness import Reason, Staleness, judge, references, stale
from ringrift_dagster.manifest.states import Liveness, ReplicaState
from ringrift_dagster.manifest.store import Store, in_batches


@dataclass(frozen=True)
class HostFreshness:
    """What a location holds of a config. Ages and times in seconds.

    `reason` and `why` say why it is stale, and are None if it is fresh; `override` is the exception that excuses its age, if any.
    """

    location: str
    config: str
    newest_game: float | None
    newest_export: float | None
    age: float | None
    training_sets: int
    is_reference: bool | None
    """Whether it holds the reference copy; None if there is none."""
    verified_at: float | None
    state: str
    reason: Reason | None
    why: str | None
    override: Override | None = None

    @property
    def fresh(self) -> bool:
        return self.reason is None

    @property
    def may_train(self) -> bool:
        """Whether the gate lets a job on this host train on it."""
        return self.fresh or self.override is not None


def host_freshness(
    store: Store, now: float, *, limits: AgeLimits, hosts_only: bool = True, only: str | None = None
) -> list[HostFreshness]:
    """A row for each config at each location that is still in the hosts file, or at `only` that one; by location and config."""
    with store.reading() as connection:
        best = references(connection, now)
        excused = in_force(connection, now)
        kinds = ("host",) if hosts_only else ("host", "disk", "shared", "drive", "s3")
        columns = (locations.c.id, locations.c.name, locations.c.liveness, locations.c.answered_at)
        query = sa.select(*columns).where(locations.c.active, locations.c.kind.in_(kinds)).order_by(locations.c.name)
        places = connection.execute(query if only is None else query.where(locations.c.name == only)).all()
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
            rows.append(_row(place, config, there, has_it, _judge(place, there, has_it, limits, now, excused.get(config))))
    return rows


def of_host(store: Store, host: str, config: str, limits: AgeLimits, now: float) -> HostFreshness | None:
    """What one host would train on; None if the hosts file names no such host."""
    return next((row for row in host_freshness(store, now, limits=limits, only=host) if row.config == config), None)


def _judge(
    place: Any, cells: list[Any], has_it: bool | None, limits: AgeLimits, now: float, override: Override | None
) -> Staleness:
    newest = _newest(cell.newest_game for cell in cells)
    if place.liveness != Liveness.ONLINE:
        return stale(Reason.UNREACHABLE, f"the host is {place.liveness}", newest_game=newest)
    if not cells:
        return stale(Reason.NO_DATA, "it has no training set")
    if newest is None:
        return stale(Reason.NO_GAME_TIME, "no sound training set tells when its newest game was")
    verdict = judge(newest, limits, now, override)
    if verdict.may_train and has_it is False:
        lacks = "it lacks the reference copy, which has newer games or more samples"
        return stale(Reason.NOT_THE_REFERENCE, lacks, newest_game=newest, age=verdict.age)
    if verdict.may_train and has_it is None:
        return stale(Reason.UNSOUND, "nobody has found its training sets sound", newest_game=newest, age=verdict.age)
    return verdict


def _row(place: Any, config: str, cells: list[Any], has_it: bool | None, verdict: Staleness) -> HostFreshness:
    return HostFreshness(
        location=place.name,
        config=config,
        newest_game=_newest(cell.newest_game for cell in cells),
        newest_export=_newest(cell.newest_mtime for cell in cells),
        age=verdict.age,
        training_sets=sum(cell.replicas for cell in cells),
        is_reference=has_it,
        verified_at=_newest(cell.verified_at for cell in cells),
        state=verdict.state,
        reason=verdict.reason,
        why=verdict.detail,
        override=verdict.override,
    )


def _newest(times: Iterable[float | None]) -> float | None:
    return max((time for time in times if time is not None), default=None)


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
