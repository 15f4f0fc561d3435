"""The transports that an agent pulls by: those that this host can do."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol, runtime_checkable

from ringrift_dagster.node.roots import Root
from ringrift_dagster.transfer.model import TransportName
from ringrift_dagster.transfer.swarm import Swarm
from ringrift_dagster.transfer.transports.aria2 import Aria2Transport
from ringrift_dagster.transfer.transports.bittorrent import BitTorrentTransport
from ringrift_dagster.transfer.transports.http import HttpTransport
from ringrift_dagster.transfer.transports.protocol import RangeTransport, WholeTransport
from ringrift_dagster.transfer.transports.rsync import RsyncTransport
from ringrift_dagster.transfer.transports.s3 import S3Transport
from ringrift_dagster.transfer.transports.shared import SharedTransport

Transports = Mapping[TransportName, RangeTransport | WholeTransport]


@runtime_checkable
class _Closable(Protocol):
    def close(self) -> None: ...


def make_transports(roots: Mapping[str, Root], state: Path, token: str | None, swarm: Swarm | None) -> Transports:
    """All that this host can do. `state` is where they remember something, `token` what other agents want to see."""
    transports: dict[TransportName, RangeTransport | WholeTransport] = {
        TransportName.SHARED: SharedTransport({root.location: root.tree for root in roots.values()}),
        TransportName.HTTP: HttpTransport(token),
        TransportName.S3: S3Transport(),
    }
    if shutil.which("rsync") and shutil.which("ssh"):
        transports[TransportName.RSYNC] = RsyncTransport(state / "known_hosts")
    if shutil.which("aria2c"):
        transports[TransportName.ARIA2] = Aria2Transport(state / "aria2", token)
    if swarm is not None:
        transports[TransportName.BITTORRENT] = BitTorrentTransport(swarm, token)
    return transports


def close_transports(transports: Transports) -> None:
    """End what they keep running."""
    for transport in transports.values():
        if isinstance(transport, _Closable):
            with suppress(OSError):
                transport.close()
