"""Who carries out what is wanted at a place: the host whose agent serves it. Names only; `agents` talks to them."""

from __future__ import annotations

from ringrift_dagster.cluster.topology import Cluster, Place
from ringrift_dagster.manifest.plane import HOME_LOCATION


def agent_hosts(cluster: Cluster) -> dict[str, str]:
    """Every place that an agent can write to, and that agent's host: itself, a drive's, the first that mounts a share."""
    return {place.name: place.hosts[0] for place in _places(cluster) if place.hosts}


def served_by(cluster: Cluster, host: str) -> list[str]:
    """The places that a host's agent carries for, the host itself first."""
    places = [place for place, carrier in agent_hosts(cluster).items() if carrier == host]
    return sorted(places, key=lambda place: (place != host, place))


def buckets(cluster: Cluster) -> tuple[str, ...]:
    """The buckets, which no agent carries for."""
    return tuple(place.name for place in cluster.locations() if place.kind == "s3")


def place_of(cluster: Cluster, name: str) -> Place | None:
    """What is known of a place: by the hosts file, or as the project's own home, which the coordinator's agent serves."""
    return next((place for place in _places(cluster) if place.name == name), None)


def _places(cluster: Cluster) -> list[Place]:
    hosts = [host.name for host in cluster.active_hosts if host.name == cluster.coordinator]
    return [*cluster.locations(), Place(HOME_LOCATION, "disk", "", hosts=tuple(hosts))]
