"""Where something could be sent: every location with what decides about it. `planner` chooses among them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ringrift_dagster.cluster.domains import failure_domains
from ringrift_dagster.cluster.topology import Cluster
from ringrift_dagster.manifest.inventory import ItemType
from ringrift_dagster.manifest.locations import Location, read_locations
from ringrift_dagster.manifest.schema import operations
from ringrift_dagster.manifest.states import Liveness
from ringrift_dagster.transfer.model import Priority

OPEN_AT_ONCE = 1000
"""Operations that the planner lets wait for a target; what is left over is planned once those are done."""
_FLAGS = {
    ItemType.GAME_DB: "receive_games",
    ItemType.CANONICAL_GAMES: "receive_games",
    ItemType.NPZ: "receive_npz",
    ItemType.MODEL: "receive_models",
    ItemType.CHECKPOINT: "receive_models",
}
"""What the hosts file says a drive takes."""


@dataclass
class Spot:
    """A location that may be sent something. `queued` bytes are on their way there, as `open` operations.

    `domain` is what is lost with it (`cluster.domains`), None if nobody knows. `sees` are other locations whose files can be read
    there in place.
    """

    place: Location
    domain: str | None
    sees: frozenset[str]
    refuses: str | None
    favoured: bool
    queued: int = 0
    open: int = 0

    @property
    def name(self) -> str:
        return self.place.name

    def why_not(self, cluster: Cluster, type: str, size: int, priority: Priority) -> str | None:
        """Why an item of a type, of `size` bytes, is not sent there now; None if it may be."""
        if self.refuses:
            return self.refuses
        if self.place.liveness != Liveness.ONLINE:
            return f"{self.name} is {self.place.liveness}"
        drive = next((drive for drive in cluster.drives if drive.name == self.name), None)
        if drive is not None and not getattr(drive, flag := _FLAGS[ItemType(type)]):
            return f"{flag} is off for {self.name}"
        if self.place.kind != "s3" and not self._has_room(cluster, size, priority):
            return f"{self.name} has no room"
        if priority > Priority.HIGH and self.open >= OPEN_AT_ONCE:
            return f"{self.open} operations wait for {self.name}"
        return None

    def _has_room(self, cluster: Cluster, size: int, priority: Priority) -> bool:
        """With what is on its way there. What a job waits for may go on where others stop: only the floor holds for it."""
        total, free = self.place.disk_total or 0, (self.place.disk_free or 0) - self.queued
        limits = cluster.thresholds
        if priority <= Priority.HIGH:
            return free - size >= total * limits.min_free_disk_percent / 100 and total > 0
        return limits.has_room(total, max(0, free), size) and free >= size

    def take(self, size: int) -> None:
        """One more is on its way there."""
        self.queued += size
        self.open += 1

    def share_left(self, size: int) -> float:
        """Of its disk, once an item of `size` bytes is there too."""
        total = self.place.disk_total or 0
        return ((self.place.disk_free or 0) - self.queued - size) / total if total else 0.0


def all_spots(connection: Connection, cluster: Cluster) -> dict[str, Spot]:
    """Every location that the manifest knows, by name."""
    waiting = sa.select(operations.c.target, sa.func.coalesce(sa.func.sum(operations.c.size), 0), sa.func.count())
    queued = {
        target: (int(size), count)
        for target, size, count in connection.execute(
            waiting.where(operations.c.finished_at.is_(None)).group_by(operations.c.target)
        )
    }
    declared = {place.name: place for place in cluster.locations()}
    found = {}
    places = read_locations(connection)
    domains = failure_domains(cluster, places)
    for place in places:
        hosts = declared[place.name].hosts if place.name in declared else ()
        sees = frozenset(_sees(cluster, place.name))
        favoured = not set(hosts).isdisjoint(cluster.priority_hosts)
        spot = Spot(place, domains[place.name], sees, _refusal(cluster, place, hosts), favoured)
        spot.queued, spot.open = queued.get(place.name, (0, 0))
        found[place.name] = spot
    return found


def _refusal(cluster: Cluster, place: Location, hosts: tuple[str, ...]) -> str | None:
    """Why nothing at all is sent to a place."""
    if place.kind == "s3":
        return None
    if place.kind == "disk":
        return f"{place.name} is this coordinator's own"
    if not hosts:
        return f"{place.name} has no host that is active"
    if all(host in cluster.excluded_hosts for host in hosts):
        return f"{hosts[0]} is among the excluded hosts"
    if place.kind == "host" and cluster.hosts[place.name].skip_sync_receive:
        return f"{place.name} has skip_sync_receive"
    return None


def _sees(cluster: Cluster, name: str) -> Iterable[str]:
    """Shared file systems that a host mounts, and the drive that it keeps its own data on."""
    yield from (shared.name for shared in cluster.shared if name in shared.hosts)
    host = cluster.hosts.get(name)
    if host is not None and host.use_external_storage and host.external_storage_path:
        path = host.external_storage_path.rstrip("/")
        yield from (drive.name for drive in cluster.drives if drive.host == name and drive.path.rstrip("/") == path)
