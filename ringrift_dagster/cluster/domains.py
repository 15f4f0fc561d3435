"""What is lost together: which places stand on one machine or one file system. Copies within one failure domain count as one.

The hosts file and what the manifest knows of a place are all there is to go by. Nothing is measured here, and what is not known
is not taken for independent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from ringrift_dagster.cluster.addresses import plain_host
from ringrift_dagster.cluster.host import DRIVE_FOLDERS, Host
from ringrift_dagster.cluster.topology import Cluster

UNKNOWN_PROVIDER = "unknown"


class Described(Protocol):
    """What has to be known of a place: `topology.Place` and the manifest's `Location` both say it."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def via(self) -> str | None: ...


def failure_domains(cluster: Cluster, places: Iterable[Described]) -> dict[str, str | None]:
    """The failure domain of each place, by name. None: nobody knows what it is lost with, so its copies count for nothing.

    A host has its own, and a drive or a home that of the host it is on. Hosts that RingRift's flags say to be on NFS are one domain
    with the others of their provider, and with a shared file system that they mount; so are hosts whose folders, or drives, lie
    below a shared file system that they mount, and hosts of one address. A bucket is a domain of its own.
    """
    joined = _Joined()
    for one, other in _together(cluster):
        joined.join(one, other)
    return {place.name: _domain(cluster, place, joined) for place in places}


def _domain(cluster: Cluster, place: Described, joined: _Joined) -> str | None:
    if place.kind == "s3":
        return place.name
    if place.kind == "disk":  # on a machine that is one of the hosts: without any, on none of theirs
        return joined.of(place.via) if place.via in cluster.hosts else None if cluster.hosts else place.name
    if place.kind == "shared":
        return joined.of(_share(place.name)) if any(shared.name == place.name for shared in cluster.shared) else None
    host = place.via if place.kind == "drive" else place.name
    return joined.of(host) if host in cluster.hosts else None


def _together(cluster: Cluster) -> Iterator[tuple[str, str]]:
    """Pairs of what is lost together: names of hosts, and of shared file systems as `_share` spells them."""
    hosts = list(cluster.hosts.values())
    yield from _of_one_address(hosts)
    on_nfs = [host for host in hosts if host.nfs]
    for host in on_nfs:
        for other in on_nfs:
            if host.provider == other.provider or UNKNOWN_PROVIDER in (host.provider, other.provider):
                yield host.name, other.name
    for shared in cluster.shared:
        for host in (cluster.hosts[name] for name in shared.hosts if name in cluster.hosts):
            others = [(_share(other.name), other.path) for other in cluster.shared if host.name in other.hosts]
            folders = [(host.name, path) for path in _folders(cluster, host)]
            yield from ((_share(shared.name), name) for name, path in (*others, *folders) if _is_within(path, shared.path))
            if host.nfs:
                yield _share(shared.name), host.name


def _of_one_address(hosts: Iterable[Host]) -> Iterator[tuple[str, str]]:
    first: dict[str, str] = {}
    for host in hosts:
        for address in (host.agent_url, plain_host(host.tailscale_ip), host.tailscale_ipv6):
            if address:
                yield first.setdefault(address, host.name), host.name


def _folders(cluster: Cluster, host: Host) -> Iterator[str]:
    """Where a host keeps data: its tree, the folders of each kind, its drives."""
    yield from filter(None, (host.root, *(host.storage_path(kind) for kind in DRIVE_FOLDERS)))
    yield from (drive.path for drive in cluster.drives if drive.host == host.name)


def _is_within(path: str, folder: str) -> bool:
    return f"{path.rstrip('/')}/".startswith(f"{folder.rstrip('/')}/")


def _share(name: str) -> str:
    """A shared file system among hosts; no host has a slash in its name."""
    return f"shared/{name}"


class _Joined:
    """Sets of names that only ever grow together. Each is called by the first of its names in the alphabet."""

    def __init__(self) -> None:
        self._above: dict[str, str] = {}

    def of(self, name: str) -> str:
        while (above := self._above.get(name, name)) != name:
            name = above
        return name

    def join(self, one: str, other: str) -> None:
        first, second = sorted((self.of(one), self.of(other)))
        self._above[second] = first
