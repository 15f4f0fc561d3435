"""The endpoints of moving data: orders to pull, bundles of small objects; those of `upload_api` are among its routes."""

from __future__ import annotations

import asyncio
import os
import struct
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from ringrift_dagster.manifest.inventory import CHUNK_SIZE, Sha256
from ringrift_dagster.manifest.sources.tree import Opened
from ringrift_dagster.node import upload_api
from ringrift_dagster.node.agent import Agent
from ringrift_dagster.node.http import (
    MAX_WAIT_SECONDS,
    Refused,
    json_answer,
    model_answer,
    news,
    number,
    object_opener,
    parse,
    read_body,
)
from ringrift_dagster.node.pull_store import Conflict
from ringrift_dagster.node.pulls import Busy, UnknownRoot
from ringrift_dagster.transfer.model import Order, Progress

MAX_ORDER_BYTES = 64 << 20
ORDERS_AT_ONCE = 2
"""Orders read and parsed at once: large ones take several times their size."""
ORDER_SECONDS = 60.0
"""In which an order's body has to come."""
MAX_BUNDLE_ITEMS = 500
MAX_BUNDLE_BYTES = 256 << 20
BUNDLE_BLOCK = 4 << 20
"""Bytes of a bundle that are read ahead."""
NOT_HERE = 2**64 - 1

_HEAD = struct.Struct(">32sQ")


class BundleOrder(BaseModel):
    """The body of a request for many small objects."""

    model_config = ConfigDict(extra="forbid")

    sha256: Annotated[list[Sha256], Field(min_length=1, max_length=MAX_BUNDLE_ITEMS)]


def routes(agent: Agent) -> list[Route]:
    """The endpoints."""
    face = _Face(agent)
    return [
        Route("/v1/pulls", face.submit, methods=["POST"]),
        Route("/v1/pulls", face.all, methods=["GET"]),
        Route("/v1/pulls/{id}", face.progress, methods=["GET"]),
        Route("/v1/pulls/{id}", face.cancel, methods=["DELETE"]),
        Route("/v1/bundles", face.bundle, methods=["POST"]),
        *upload_api.routes(agent),
    ]


class _Face:
    """The endpoints. Those that are no coroutines run in threads."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self._orders = asyncio.Semaphore(ORDERS_AT_ONCE)

    async def submit(self, request: Request) -> Response:
        """Take an order. The same again is answered the same."""
        async with self._orders:
            try:
                async with asyncio.timeout(ORDER_SECONDS):
                    body = await read_body(request, MAX_ORDER_BYTES)
            except TimeoutError:
                raise Refused(408, "timeout", f"an order comes within {ORDER_SECONDS:g} s") from None
            progress = await run_in_threadpool(self._submit, body)
        return model_answer(progress, 202)

    def _submit(self, body: bytes) -> Progress:
        order = parse(Order, body)
        try:
            return self.agent.pulls.submit(order)
        except Conflict:
            raise Refused(409, "conflict", f"{order.id} is known with another body") from None
        except UnknownRoot:
            raise Refused(404, "unknown_root", "this agent has no such root") from None
        except Busy as busy:
            raise Refused(503, "busy", str(busy)) from None

    def all(self, request: Request) -> Response:
        """Every order, without its items."""
        return json_answer({"pulls": self.agent.pulls.list()})

    async def progress(self, request: Request) -> Response:
        """How an order stands. With `wait` not before it has another version than `version`, or that many seconds passed."""
        id, query = request.path_params["id"], request.query_params
        until = time.monotonic() + number(query.get("wait"), "wait", 0, MAX_WAIT_SECONDS, 0)
        known = int(number(query.get("version"), "version", 0, 1 << 40, -1)) if "version" in query else None
        if known is not None:
            await news(request, lambda: self.agent.pulls.version(id), known, until)
        return _answer(await run_in_threadpool(self.agent.pulls.get, id))

    def cancel(self, request: Request) -> Response:
        """End an order."""
        return _answer(self.agent.pulls.cancel(request.path_params["id"]))

    async def bundle(self, request: Request) -> Response:
        """Many small objects in one answer: for each its hash, its size in eight bytes, and its bytes."""
        order = parse(BundleOrder, await read_body(request))
        return StreamingResponse(self._pieces(deque(dict.fromkeys(order.sha256))), media_type="application/octet-stream")

    async def _pieces(self, sha256s: deque[str]) -> AsyncIterator[memoryview]:
        uplink, left = self.agent.uplink, MAX_BUNDLE_BYTES
        opener = await run_in_threadpool(object_opener, self.agent, tuple(sha256s))
        while sha256s:
            block = memoryview(await run_in_threadpool(_block, opener, sha256s, left))
            left -= len(block)
            for start in range(0, len(block), uplink.piece):
                piece = block[start : start + uplink.piece]
                await uplink.take(len(piece))
                yield piece
                self.agent.metrics.served.inc(len(piece))


def _block(opener: Callable[[str], Opened], sha256s: deque[str], left: int) -> bytes:
    """The next objects, as many as are read ahead."""
    block = bytearray()
    while sha256s and len(block) < BUNDLE_BLOCK:
        sha256 = sha256s.popleft()
        data = _small(opener, sha256, left - len(block))
        block += _HEAD.pack(bytes.fromhex(sha256), NOT_HERE if data is None else len(data))
        block += data or b""
    return bytes(block)


def _small(opener: Callable[[str], Opened], sha256: str, left: int) -> bytes | None:
    """An object's bytes, unless it is not here or is too large."""
    try:
        opened = opener(sha256)
    except Refused:
        return None
    with os.fdopen(opened.descriptor, "rb") as file:
        if opened.size > min(CHUNK_SIZE, left):
            return None
        data = file.read(opened.size)
    return data if len(data) == opened.size else None


def _answer(progress: Progress | None) -> Response:
    if progress is None:
        raise Refused(404, "not_found", "no such order")
    return model_answer(progress)
