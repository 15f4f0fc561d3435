"""BitTorrent, for items that many hosts want at once: each gives on what it has while it fetches.

An offer's address is the URL of the item at an agent, which is asked for the torrent, and to share it; its option `peers` is
`ip:port ip:port …`: the BitTorrent ports of all hosts that have it or fetch it, and of no others. Its own hashes only keep a
swarm clean: whether the bytes are the right ones is decided above.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

from ringrift_dagster.transfer.model import Offer, OrderedItem, TransportName
from ringrift_dagster.transfer.pieces import Pieces, parse_torrent
from ringrift_dagster.transfer.swarm import Full, Peer, Swarm, parse_peers
from ringrift_dagster.transfer.transports import asking
from ringrift_dagster.transfer.transports.protocol import Probe, TransportFailure

STALL_SECONDS = 4.0
SEED_SECONDS = 300.0
"""What was fetched is shared for so long."""
SOURCE_SECONDS = 3600.0
"""For so long whoever has it is asked to share it."""
LOOK_SECONDS = 0.1


class BitTorrentTransport:
    """Fetches in `swarm`; `token` is what agents want to see. Without a swarm it is not installed."""

    name: ClassVar[TransportName] = TransportName.BITTORRENT

    def __init__(
        self,
        swarm: Swarm | None,
        token: str | None = None,
        *,
        seed_seconds: float = SEED_SECONDS,
        stall_seconds: float = STALL_SECONDS,
    ) -> None:
        self._swarm = swarm
        self._token = token
        self._seed_seconds = seed_seconds
        self._stall_seconds = stall_seconds

    def probe(self, offer: Offer, timeout: float) -> Probe:
        """Whether this host shares at all, and the agent answers that has the torrent."""
        began = time.monotonic()
        try:
            self._there()
            sha256 = offer.address.rpartition("/")[2]
            asking.reach(offer.address, asking.headers_for(offer.address, sha256, self._token), timeout)
        except TransportFailure as failure:
            return Probe(failure=failure.code, detail=failure.detail)
        return Probe(latency=time.monotonic() - began)

    def fetch_whole(
        self,
        item: OrderedItem,
        offers: Sequence[Offer],
        into: Path,
        *,
        bytes_a_second: float | None,
        cancelled: Callable[[], bool],
        progress: Callable[[int], None],
    ) -> None:
        """See WholeTransport. All offers are one swarm. The file goes on being shared for a while, under whatever name."""
        swarm, peers = self._there(), _peers(offers)
        self._announce(swarm, item, offers, peers)
        pieces = self._torrent(item, offers, cancelled)
        descriptor = os.open(into, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        complete = False
        try:
            swarm.fetch(pieces, descriptor, peers, bytes_a_second, empty=os.fstat(descriptor).st_blocks == 0)
            self._follow(swarm, item.sha256, cancelled, progress)
            swarm.flush(item.sha256)
            complete = True
        except Full:
            raise TransportFailure("failed", "this host shares as much as it may") from None
        finally:
            os.close(descriptor)
            if complete:
                swarm.keep(item.sha256, self._seed_seconds)
            else:
                swarm.leave(item.sha256)
        progress(item.size)

    def _there(self) -> Swarm:
        if self._swarm is None:
            raise TransportFailure("not_installed", "this host does not share by BitTorrent")
        return self._swarm

    def _announce(self, swarm: Swarm, item: OrderedItem, offers: Sequence[Offer], peers: Sequence[Peer]) -> None:
        """Tell the agents that have it to share it, with us as well as with those that we know of."""
        order = {
            "sha256": item.sha256,
            "peers": [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in peers],
            "port": swarm.port,
            "seconds": SOURCE_SECONDS,
        }
        for url in dict.fromkeys(offer.address for offer in offers if asking.is_agent(offer.address, item.sha256)):
            agent = url.removesuffix(f"/v1/objects/{item.sha256}")
            asking.tell(f"{agent}/v1/seeds", asking.headers_for(url, item.sha256, self._token), order, item.size)

    def _torrent(self, item: OrderedItem, offers: Sequence[Offer], cancelled: Callable[[], bool]) -> Pieces:
        """The torrent, from the first agent that gives it. Raises TransportFailure."""
        failure = TransportFailure("not_found", "nothing is offered")
        for url in dict.fromkeys(offer.address for offer in offers):
            if not asking.is_agent(url, item.sha256):
                failure = TransportFailure("failed", f"not the item at an agent: {url}")
                continue
            try:
                headers = asking.headers_for(url, item.sha256, self._token)
                return parse_torrent(asking.ask(f"{url}/torrent", headers, item.size, cancelled), item.sha256, item.size)
            except TransportFailure as error:
                if error.code == "cancelled":
                    raise
                failure = error
            except ValueError as error:
                failure = TransportFailure("changed", f"{url}: {error}")
        raise failure

    def _follow(self, swarm: Swarm, sha256: str, cancelled: Callable[[], bool], progress: Callable[[int], None]) -> None:
        """Wait until everything is there. Raises TransportFailure and OSError."""
        best, moved = 0, time.monotonic()
        while True:
            standing = swarm.standing(sha256)
            if standing.error is not None:
                raise standing.error
            if standing.complete:
                return
            if standing.checking or standing.done > best:
                best = max(best, standing.done)
                progress(best)
                moved = time.monotonic()
            if cancelled():
                raise TransportFailure("cancelled")
            if time.monotonic() - moved > self._stall_seconds:
                raise TransportFailure("timeout", f"nothing came from any peer for {self._stall_seconds:g} s")
            time.sleep(LOOK_SECONDS)


def _peers(offers: Sequence[Offer]) -> list[Peer]:
    try:
        return list(dict.fromkeys(peer for offer in offers for peer in parse_peers(offer.options.get("peers", ""))))
    except ValueError as error:
        raise TransportFailure("failed", f"peers: {error}") from None
