"""What an agent is offered for an item: every place that holds it, by every transport that reaches that place, the best first.

Sources are ranked as the manifest ranks them, transports as the operator prefers. Which of the ways are shut just now is
`breakers`' business.
"""

from __future__ import annotations

import os
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import sqlalchemy as sa

from ringrift_dagster.cluster.host import Host
from ringrift_dagster.cluster.topology import Place
from ringrift_dagster.manifest.inventory import ItemType
from ringrift_dagster.manifest.locations import all_locations
from ringrift_dagster.manifest.plane import HOME_LOCATION, THIS_HOST_VARIABLE, Plane, bucket_client
from ringrift_dagster.manifest.queries import RANKS, SILENT, Item, RankedSource, chunk_tables_of, items_of, sources_of
from ringrift_dagster.manifest.schema import operations
from ringrift_dagster.manifest.sources.s3_client import Failure
from ringrift_dagster.manifest.states import Liveness
from ringrift_dagster.manifest.store import Store, in_batches
from ringrift_dagster.transfer.agents import AgentRefused, Agents, AgentSilent
from ringrift_dagster.transfer.model import Offer, TransportName
from ringrift_dagster.transfer.preferences import preferred, transport_order

SOURCES = 8
"""Offered by one transport, at most."""
SWARM_BYTES = 64 << 20
SWARM_RECEIVERS = 3
"""From that size on, and for so many receivers at once, they get an item from each other as well."""
SWARM_PEERS = 12
PRESIGNED_SECONDS = 6 * 3600
NEW_SECONDS = 300.0
"""An item that the manifest has known for longer every agent has seen that holds it."""
_IN_PLACE, _THERE = RANKS[0], RANKS[1]


@dataclass(frozen=True)
class Goods:
    """An item as it can be had: what it is, its chunk table, and where it lies, ranked for who is to receive it."""

    item: Item
    chunks: bytes | None
    sources: tuple[RankedSource, ...]

    @property
    def suffix(self) -> str:
        """Of the file names of its copies."""
        return next((PurePosixPath(source.path).suffix for source in self.sources), "")

    @property
    def in_place(self) -> RankedSource | None:
        """A copy on a file system that the receiver sees."""
        return next((source for source in self.sources if source.why == _IN_PLACE), None)

    def silent(self, target: str) -> list[str]:
        """The locations that hold it and do not answer, but for the one that it is for."""
        return [source.location for source in self.sources if source.why == SILENT and source.location != target]


def goods_of(store: Store, sha256s: Iterable[str], host: str) -> dict[str, Goods]:
    """Items with their copies, the best for a host first; what the manifest does not know is left out."""
    wanted = list(dict.fromkeys(sha256s))
    sources, tables = sources_of(store, wanted, host), chunk_tables_of(store, wanted)
    return {sha256: Goods(item, tables.get(sha256), tuple(sources[sha256])) for sha256, item in items_of(store, wanted).items()}


def receivers_of(store: Store, sha256s: Iterable[str]) -> dict[str, set[str]]:
    """The targets at which items are wanted now."""
    found: dict[str, set[str]] = defaultdict(set)
    query = sa.select(operations.c.sha256, operations.c.target).where(operations.c.finished_at.is_(None)).distinct()
    with store.reading() as connection:
        for batch in in_batches([bytes.fromhex(sha256) for sha256 in sha256s]):
            for digest, target in connection.execute(query.where(operations.c.sha256.in_(batch))):
                found[digest.hex()].add(target)
    return found


class Servers:
    """Which host's agent serves a copy. For a moment only: it remembers who answers."""

    def __init__(self, plane: Plane) -> None:
        self._cluster = plane.cluster
        self.places: dict[str, Place] = {place.name: place for place in plane.cluster.locations()}
        self.online = {place.name for place in all_locations(plane.store) if place.liveness == Liveness.ONLINE}

    def of(self, source: RankedSource) -> Host | None:
        """Of the hosts that see a file system the first that answers, as the manifest asks them; None for a bucket."""
        if source.why == SILENT:
            return None
        if source.location == HOME_LOCATION:
            return self._cluster.hosts.get(self._cluster.coordinator or "")
        place = self.places.get(source.location)
        name = next((name for name in (place.hosts if place else ()) if name in self.online), None)
        return self._cluster.hosts.get(name) if name else None


class Offering:
    """Makes offers for what is to come to `target` through the agent of `host`; for a moment only, as Servers."""

    def __init__(self, plane: Plane, agents: Agents, target: str, host: str) -> None:
        self._plane = plane
        self._cluster = plane.cluster
        self._agents = agents
        self._target = target
        self._host = host
        self._servers = Servers(plane)
        self._shown: set[str] = set()
        self._places = self._servers.places
        self._by_transport: Mapping[TransportName, Callable[[Item, RankedSource], Offer | None]] = {
            TransportName.SHARED: self._shared,
            TransportName.HTTP: self._http,
            TransportName.ARIA2: self._aria2,
            TransportName.S3: self._s3,
            TransportName.RSYNC: self._rsync,
        }

    def of(self, goods: Goods, receivers: Iterable[str] = ()) -> list[Offer]:
        """Offers of an item, the best first; none if nobody can give it. `receivers` are the targets that want it now.

        The target's own copy is offered only if there is no other: its agent looks for itself whether it has it.
        """
        item = goods.item
        able = self._able
        elsewhere = [source for source in goods.sources if source.location != self._target] or list(goods.sources)
        found: list[Offer] = []
        for transport in self._order(item, set(receivers)):
            if able and transport not in able:
                continue
            if transport == TransportName.BITTORRENT:
                found += self._swarm(item, elsewhere, receivers)
            else:
                offers = (self._by_transport[transport](item, source) for source in elsewhere)
                found += [offer for offer in offers if offer is not None][:SOURCES]
        return found

    @property
    def _able(self) -> frozenset[TransportName]:
        """What the receiving agent can pull by; empty if it does not say."""
        health = self._agents.health(self._host)
        return frozenset(health.transports) if health else frozenset()

    def _order(self, item: Item, receivers: set[str]) -> tuple[TransportName, ...]:
        order = transport_order(self._cluster, self._host, item.type)
        many = item.size >= SWARM_BYTES and len(receivers) >= SWARM_RECEIVERS
        if many and TransportName.BITTORRENT not in preferred(self._cluster, self._host, item.type):
            return TransportName.BITTORRENT, *order
        return order

    def _shared(self, item: Item, source: RankedSource) -> Offer | None:
        """A place that is among the receiving agent's own roots; the path is below it."""
        place = self._places.get(source.location)
        if place is None or source.why == SILENT or self._host not in place.hosts or source.location == self._target:
            return None
        return Offer(transport=TransportName.SHARED, location=source.location, address=source.path)

    def _http(self, item: Item, source: RankedSource) -> Offer | None:
        host = self._servers.of(source)
        if host is None or host.agent_url is None:
            return None
        if item.first_seen > time.time() - NEW_SECONDS:
            self._show(host, source)
        return Offer(transport=TransportName.HTTP, location=source.location, address=f"{host.agent_url}/v1/objects/{item.sha256}")

    def _show(self, host: Host, source: RankedSource) -> None:
        """What the manifest knows from this machine's own disk, and from no agent, the agent may not have seen yet."""
        place = self._places.get(source.location)
        here = os.environ.get(THIS_HOST_VARIABLE)
        own = source.location == HOME_LOCATION or (place is not None and place.kind != "host" and here in place.hosts)
        if own and source.location not in self._shown:
            self._shown.add(source.location)
            with suppress(AgentSilent, AgentRefused):
                if (client := self._agents.client(host.name)) is not None:
                    client.look(source.location)

    def _aria2(self, item: Item, source: RankedSource) -> Offer | None:
        """As by HTTP: a bucket gives no piece hashes, so it is left to its own transport."""
        offer = self._http(item, source)
        return None if offer is None else offer.model_copy(update={"transport": TransportName.ARIA2})

    def _s3(self, item: Item, source: RankedSource) -> Offer | None:
        if source.kind != "s3" or source.why == SILENT or not self._may_pull(item) or self._bucket is None:
            return None
        where = {"Bucket": source.location, "Key": source.path}
        try:
            url = self._bucket.generate_presigned_url("get_object", Params=where, ExpiresIn=PRESIGNED_SECONDS)
        except Failure:  # no keys here
            return None
        return Offer(transport=TransportName.S3, location=source.location, address=url)

    def _rsync(self, item: Item, source: RankedSource) -> Offer | None:
        """Over ssh, also from a host whose agent does not answer."""
        place = self._places.get(source.location)
        host = self._cluster.hosts.get(place.hosts[0]) if place and place.hosts else None
        if place is None or host is None or host.name == self._host or host.ssh.host is None:
            return None
        ssh = host.ssh
        root = _absolute(place.path, ssh.user)
        if root is None:
            return None
        address = f"[{ssh.host}]" if ":" in str(ssh.host) else ssh.host
        options = {"port": str(ssh.port)} | ({"key": ssh.key} if ssh.key else {})
        return Offer(
            transport=TransportName.RSYNC,
            location=source.location,
            address=f"{ssh.user}@{address}:{root}/{source.path}",
            options=options,
        )

    def _swarm(self, item: Item, sources: Iterable[RankedSource], receivers: Iterable[str]) -> Iterator[Offer]:
        """The agents that have it make the torrent; to be asked are they, and those that are getting it."""
        seeds = {host.name: source for source in sources if (host := self._servers.of(source)) is not None}
        getting = {self._places[name].hosts[0] for name in receivers if name in self._places and self._places[name].hosts}
        peers = {name: peer for name in [*seeds, *sorted(getting - {self._host} - seeds.keys())] if (peer := self._peer(name))}
        told = " ".join(list(peers.values())[:SWARM_PEERS])
        for name, source in list(seeds.items())[:SOURCES]:
            offer = self._http(item, source)
            if name in peers and offer is not None:
                yield offer.model_copy(update={"transport": TransportName.BITTORRENT, "options": {"peers": told}})

    def _peer(self, name: str) -> str | None:
        """`ip:port` of a host's swarm; None if it takes part in none, or does not answer."""
        host = self._cluster.hosts.get(name)
        health = self._agents.health(name) if host is not None and name in self._servers.online else None
        if host is None or health is None or health.bittorrent is None:
            return None
        address = urlsplit(host.agent_url or "").hostname or ""
        try:
            family, *_, (ip, *_) = socket.getaddrinfo(address, None, type=socket.SOCK_STREAM)[0]
        except (OSError, UnicodeError):
            return None
        return f"[{ip}]:{health.bittorrent.port}" if family == socket.AF_INET6 else f"{ip}:{health.bittorrent.port}"

    def _may_pull(self, item: Item) -> bool:
        bucket = self._cluster.s3
        if bucket is None:
            return False
        flags = {
            ItemType.NPZ: bucket.pull_training_npz,
            ItemType.MODEL: bucket.pull_models,
            ItemType.CHECKPOINT: bucket.pull_models,
        }
        return flags.get(ItemType(item.type), bucket.pull_games)

    @cached_property
    def _bucket(self) -> Any:
        """Only signs here; None where this machine is not set up for it."""
        try:
            return self._plane.s3_client() if self._plane.s3_client else bucket_client(self._cluster)
        except Exception:  # a profile that is not there, an endpoint that is no URL: boto3 has many
            return None


def _absolute(path: str, user: str) -> str | None:
    """A path on a host, whose user's directory is where Linux has it; None for one that cannot be told."""
    if path == "~" or path.startswith("~/"):
        path = ("/root" if user == "root" else f"/home/{user}") + path[1:]
    return path.rstrip("/") if path.startswith("/") else None
