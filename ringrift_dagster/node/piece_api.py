"""The endpoints that other programs need beside the bytes: piece hashes, torrents, and what this host shares by BitTorrent.

An item is read once for both kinds of hashes, and checked on the way; they are remembered by its hash, and so never outdated.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Annotated

from anyio import CapacityLimiter, to_thread
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ringrift_dagster.manifest.inventory import Sha256
from ringrift_dagster.manifest.sources.tree import Opened
from ringrift_dagster.node.agent import Agent
from ringrift_dagster.node.http import Refused, chunk_table_of, json_answer, model_answer, open_object, parse, read_body, sha256_of
from ringrift_dagster.transfer.pieces import NotTheItem, Pieces, compute
from ringrift_dagster.transfer.swarm import MAX_PEERS, Full, Peer, Swarm, parse_peers

HASHED_AT_ONCE = 2
MAX_REMEMBERED_BYTES = 64 << 20
MAX_SEED_SECONDS = 86_400.0
_ENTRY_BYTES = 500

PeerText = Annotated[str, StringConstraints(max_length=60)]


class SeedOrder(BaseModel):
    """The body of a request to share an item with `peers`, each `ip:port`, for so many seconds. With a `port`, whoever asks is one
    of them, from there."""

    model_config = ConfigDict(extra="forbid")

    sha256: Sha256
    peers: Annotated[list[PeerText], Field(max_length=MAX_PEERS)] = []
    port: Annotated[int, Field(ge=1, le=65535, strict=True)] | None = None
    seconds: Annotated[float, Field(gt=0, le=MAX_SEED_SECONDS, allow_inf_nan=False)] = 600.0


def routes(agent: Agent) -> list[Route]:
    """The endpoints."""
    face = _Face(agent)
    return [
        Route("/v1/objects/{sha256}/pieces", face.pieces, methods=["GET"]),
        Route("/v1/objects/{sha256}/torrent", face.torrent, methods=["GET"]),
        Route("/v1/seeds", face.seed, methods=["POST"]),
        Route("/v1/seeds", face.seeding, methods=["GET"]),
        Route("/v1/seeds/{sha256}", face.leave, methods=["DELETE"]),
    ]


class _Face:
    """The endpoints. Those that are no coroutines run in threads."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self._remembered = _Remembered()
        self._at_once = CapacityLimiter(HASHED_AT_ONCE)

    async def pieces(self, request: Request) -> Response:
        """The SHA-256 of each piece of an item."""
        pieces = await to_thread.run_sync(self._hashed, sha256_of(request), limiter=self._at_once)
        return model_answer(pieces.answer())

    async def torrent(self, request: Request) -> Response:
        """The torrent of an item: the same bytes at every host."""
        pieces = await to_thread.run_sync(self._hashed, sha256_of(request), limiter=self._at_once)
        return Response(pieces.torrent(), media_type="application/x-bittorrent")

    async def seed(self, request: Request) -> Response:
        """Share an item. Again prolongs it, and adds peers."""
        swarm, order = self._swarm(), parse(SeedOrder, await read_body(request))
        try:
            peers = parse_peers(" ".join(order.peers))
        except ValueError as error:
            raise Refused(400, "bad_request", f"peers: {error}") from None
        if order.port is not None and request.client is not None:
            peers.append((request.client.host, order.port))
        until = await to_thread.run_sync(self._seed, swarm, order, peers, limiter=self._at_once)
        return json_answer({"sha256": order.sha256, "port": swarm.port, "until": until})

    def seeding(self, request: Request) -> Response:
        """What is shared now."""
        swarm = self._swarm()
        told = [
            {"sha256": each.sha256, "until": each.until, "uploaded": each.uploaded, "peers": each.peers} for each in swarm.seeding()
        ]
        return json_answer({"port": swarm.port, "seeds": told})

    def leave(self, request: Request) -> Response:
        """Share an item no more. One that is being fetched goes on, and one that is not shared is no error."""
        swarm, sha256 = self._swarm(), sha256_of(request)
        if any(each.sha256 == sha256 and each.until is not None for each in swarm.seeding()):
            swarm.leave(sha256)
        return json_answer({"sha256": sha256})

    def _swarm(self) -> Swarm:
        if self.agent.swarm is None:
            raise Refused(404, "not_installed", "this agent does not share by BitTorrent")
        return self.agent.swarm

    def _seed(self, swarm: Swarm, order: SeedOrder, peers: list[Peer]) -> float:
        pieces = self._hashed(order.sha256)
        opened = open_object(self.agent, order.sha256)
        try:
            return swarm.seed(pieces, opened.descriptor, peers, order.seconds)
        except Full:
            raise Refused(503, "busy", "as much is shared as may be") from None
        finally:
            os.close(opened.descriptor)

    def _hashed(self, sha256: str) -> Pieces:
        """Raises Refused: 404, 410."""
        opened = open_object(self.agent, sha256)
        try:
            return self._remembered.get(sha256, lambda: self._compute(opened))
        except NotTheItem:
            raise Refused(410, "gone", "the content changed since it was hashed") from None
        except OSError:
            raise Refused(503, "disk_error", "the item cannot be read") from None
        finally:
            os.close(opened.descriptor)

    def _compute(self, opened: Opened) -> Pieces:
        return compute(opened.descriptor, opened.sha256, opened.size, chunk_table_of(self.agent, opened.sha256))


class _Remembered:
    """The pieces of items asked for lately. What two want at once is computed once."""

    def __init__(self) -> None:
        self._pieces: OrderedDict[str, Pieces] = OrderedDict()
        self._bytes = 0
        self._under_way: set[str] = set()
        self._changed = threading.Condition()

    def get(self, sha256: str, make: Callable[[], Pieces]) -> Pieces:
        """What is remembered, or made now. Raises what `make` raises."""
        with self._changed:
            self._changed.wait_for(lambda: sha256 not in self._under_way)
            if sha256 in self._pieces:
                self._pieces.move_to_end(sha256)
                return self._pieces[sha256]
            self._under_way.add(sha256)
        try:
            made = make()
            with self._changed:
                self._keep(made)
            return made
        finally:
            with self._changed:
                self._under_way.discard(sha256)
                self._changed.notify_all()

    def _keep(self, made: Pieces) -> None:
        self._pieces[made.sha256] = made
        self._bytes += _weight(made)
        while self._bytes > MAX_REMEMBERED_BYTES and len(self._pieces) > 1:
            self._bytes -= _weight(self._pieces.popitem(last=False)[1])


def _weight(pieces: Pieces) -> int:
    return _ENTRY_BYTES + len(pieces.sha256s) + len(pieces.sha1s)
