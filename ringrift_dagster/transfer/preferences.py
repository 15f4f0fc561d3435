"""In which order transports are tried: the operator's preferences of the hosts file, then the project's own order.

Which of them can bring an item at all is `offers`' business.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

from ringrift_dagster.cluster.topology import Cluster, TransportPreference
from ringrift_dagster.transfer.model import TransportName

DEFAULT_ORDER = (TransportName.SHARED, TransportName.HTTP, TransportName.S3, TransportName.RSYNC)
"""Where nobody says anything. bittorrent goes first where it is worth it; aria2 is used only where somebody prefers it."""


def preferred(cluster: Cluster, host: str, item_type: str) -> tuple[TransportName, ...]:
    """What an operator wants a host to receive items of a type by, the best first; empty if nobody said so."""
    rule = next((rule for rule in cluster.transports if _fits(rule, cluster, host, item_type)), None)
    return tuple(TransportName(name) for name in rule.prefer) if rule else ()


def transport_order(cluster: Cluster, host: str, item_type: str) -> tuple[TransportName, ...]:
    """Every transport that may be used to bring items of a type to a host, the best first."""
    first = preferred(cluster, host, item_type)
    return (*first, *(name for name in DEFAULT_ORDER if name not in first))


def _fits(rule: TransportPreference, cluster: Cluster, host: str, item_type: str) -> bool:
    receiver = cluster.hosts.get(host)
    by_name = not rule.hosts or any(fnmatchcase(host, pattern) for pattern in rule.hosts)
    by_provider = not rule.providers or (receiver is not None and receiver.provider in rule.providers)
    return by_name and by_provider and (not rule.types or item_type in rule.types)
