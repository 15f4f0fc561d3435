"""Proposals for items with a single copy left: from where, and to which host, they should be replicated.

Only proposals; moving data is `transfer`'s business. What cannot be reached at all is `orphans`'.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ringrift_dagster.cluster.topology import Cluster
from ringrift_dagster.manifest.locations import Location, all_locations
from ringrift_dagster.manifest.queries import sole_copies
from ringrift_dagster.manifest.states import Liveness
from ringrift_dagster.manifest.store import Store


@dataclass(frozen=True)
class Rescue:
    """Copy an item from `source` (a host, the drive, the bucket) to `target`; None if no host may take it."""

    sha256: str
    type: str
    config: str | None
    size: int
    source: str
    target: str | None


def rescues(store: Store, cluster: Cluster, *, limit: int = 1000) -> list[Rescue]:
    """A proposal for each item that has one copy left: the lasting host elsewhere that has the most room."""
    places = {place.name: place for place in all_locations(store)}
    takers = sorted(_takers(cluster, places.values()), key=lambda place: -(place.disk_free or 0))
    found = []
    for danger in sole_copies(store, limit=limit):
        at = danger.location or ""
        fitting = (
            taker.name
            for taker in takers
            if taker.name != at and cluster.thresholds.has_room(taker.disk_total or 0, taker.disk_free or 0, danger.size)
        )
        found.append(Rescue(danger.sha256, danger.type, danger.config, danger.size, at, next(fitting, None)))
    return found


def _takers(cluster: Cluster, places: Iterable[Location]) -> Iterator[Location]:
    """Hosts that answer, last, and may be sent something."""
    excluded = set(cluster.excluded_hosts)
    for place in places:
        host = cluster.hosts.get(place.name)
        may_receive = host is not None and not host.skip_sync_receive and place.name not in excluded
        if may_receive and place.kind == "host" and place.liveness == Liveness.ONLINE and not place.ephemeral:
            yield place
