"""The agent's HTTP face: health, inventory, objects by hash, scrub, metrics.

No request names a path. Every refusal is JSON `{"error": code, "detail": one line}`, and nothing of the program's inside is shown.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import os
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from anyio import CapacityLimiter, to_thread
from pydantic import BaseModel, ConfigDict, Field
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ringrift_dagster.manifest.inventory import Bytes, Cursor, Name, NoAnswer
from ringrift_dagster.manifest.sources.tree import Opened
from ringrift_dagster.node import event_api, piece_api, pull_api, removal_api
from ringrift_dagster.node.agent import TREE, Agent, AgentConfig, Root
from ringrift_dagster.node.http import (
    MAX_HEAD_BYTES,
    MAX_WAIT_SECONDS,
    MAX_WAITING,
    Refused,
    answer_error,
    json_answer,
    news,
    number,
    open_object,
    parse,
    read_body,
    refusal,
    room_to_wait,
    root_of,
    sha256_of,
)

MAX_LIMIT = 50_000
DEFAULT_WAIT_SECONDS = 10.0
SCRUBS_AT_ONCE = 8
"""Those beyond wait, and not in the threads that answer others."""

_RANGES = re.compile(r"bytes=\s*(\d{1,18}-\d{0,18}|-\d{1,18})(\s*,\s*(\d{1,18}-\d{0,18}|-\d{1,18}))*\s*")
_SINCE = re.compile(r"([A-Za-z0-9_-]{1,64}):([0-9]{1,18})")


class ScrubOrder(BaseModel):
    """The body of a request to scrub. `timeout` in seconds."""

    model_config = ConfigDict(extra="forbid")

    root: Name = TREE
    max_bytes: Bytes
    timeout: float = Field(default=30.0, gt=0, le=3600, allow_inf_nan=False)


def create_app(config: AgentConfig) -> Starlette:
    """The application; it scans as long as it runs."""
    agent = Agent(config)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        with agent:
            yield

    face = _Face(agent)
    app = Starlette(
        routes=[
            Route("/v1/health", face.health, methods=["GET"]),
            Route("/v1/inventory", face.inventory, methods=["GET"]),
            Route("/v1/objects/{sha256}", face.objects, methods=["GET"]),
            Route("/v1/scrub", face.scrub, methods=["POST"]),
            Route("/metrics", face.metrics, methods=["GET"]),
            *pull_api.routes(agent),
            *removal_api.routes(agent),
            *piece_api.routes(agent),
            *event_api.routes(agent),
        ],
        middleware=[Middleware(_Gate, token=config.token, count=agent.metrics.requests)],
        exception_handlers={
            Refused: answer_error,
            NoAnswer: answer_error,
            HTTPException: answer_error,
            Exception: answer_error,
        },
        lifespan=lifespan,
    )
    app.state.agent = agent
    return app


class _Face:
    """The endpoints. Those that are no coroutines run in threads."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.started = time.time()
        self._waiting = asyncio.Semaphore(MAX_WAITING)
        self._scrubs = CapacityLimiter(SCRUBS_AT_ONCE)

    def health(self, request: Request) -> Response:
        """How the agent and its roots are."""
        roots = [self._root_health(root) for root in self.agent.roots.values()]
        return json_answer(
            {
                "node": self.agent.config.name,
                "version": _version(),
                "now": time.time(),
                "started": self.started,
                "roots": roots,
                "scanning": any(root.scanning for root in self.agent.roots.values()),
                "pending": sum(root.pending for root in self.agent.roots.values()),
                "transports": sorted(self.agent.pulls.transports),
                "events": self.agent.events.health(),
                "models": self.agent.model_names.health(),
                "bittorrent": {"port": self.agent.swarm.port} if self.agent.swarm else None,
            }
        )

    async def inventory(self, request: Request) -> Response:
        """One page of a root's inventory, as fresh as `max_age` says if that comes within `wait` seconds."""
        query = request.query_params
        root = root_of(self.agent, query.get("root", TREE))
        limit = int(number(query.get("limit"), "limit", 1, MAX_LIMIT, MAX_LIMIT))
        since = _cursor(query.get("since"))
        max_age = number(query.get("max_age"), "max_age", 0, 1e9, -1)
        wait = number(query.get("wait"), "wait", 0, MAX_WAIT_SECONDS, DEFAULT_WAIT_SECONDS)
        oldest = await run_in_threadpool(_ask, root, None if max_age < 0 else max_age)
        if wait > 0 and not root.scanned_since(oldest):
            async with room_to_wait(self._waiting):
                await news(request, lambda: root.scanned_since(oldest), False, time.monotonic() + wait)
        page = await run_in_threadpool(_page, root, since, limit, self.agent.config.name)
        return Response(page, media_type="application/json")

    async def objects(self, request: Request) -> Response:
        """The bytes of an item, by its hash."""
        sha256 = sha256_of(request)
        if not _RANGES.fullmatch(request.headers.get("range", "bytes=0-")):
            raise Refused(400, "bad_request", "not a range of bytes")
        return _ObjectResponse(await run_in_threadpool(open_object, self.agent, sha256), self.agent)

    async def scrub(self, request: Request) -> Response:
        """Hash again what was verified longest ago."""
        order = parse(ScrubOrder, await read_body(request))
        scrub = root_of(self.agent, order.root).tree.scrub
        done = await to_thread.run_sync(scrub, order.max_bytes, order.timeout, limiter=self._scrubs)
        return json_answer({"files": done.files, "bytes": done.bytes, "damaged": list(done.damaged), "remaining": done.remaining})

    def metrics(self, request: Request) -> Response:
        """For Prometheus."""
        for root in self.agent.roots.values():
            available = root.check() is None
            try:
                counts = root.tree.counts() if available and root.asked else {}
            except NoAnswer:
                available, counts = False, {}
            self.agent.metrics.root(root.name, available=available, counts=counts, disk=root.tree.disk() if available else None)
        pulls = self.agent.pulls
        self.agent.metrics.pulls(pulls.counts(), pulls.links.rates(), self.agent.uplink.rate)
        return Response(self.agent.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    def _root_health(self, root: Root) -> dict[str, Any]:
        missing = root.check() or root.failure
        disk = root.tree.disk() if missing is None else None
        try:
            epoch = root.tree.epoch() if missing is None and root.asked else None
        except NoAnswer as error:
            missing, epoch = error, None
        return {
            "name": root.name,
            "location": root.location,
            "kind": root.kind,
            "available": missing is None,
            "reason": missing.code if missing else None,
            "detail": missing.detail if missing else None,
            "epoch": epoch,
            "disk": disk.model_dump() if disk else None,
            "scanning": root.scanning,
            "pending": root.pending,
            "age": root.age(),
        }


class _ObjectResponse(FileResponse):
    """A file that is already open and verified; closes it in the end, whatever happens."""

    max_ranges = 16

    def __init__(self, opened: Opened, agent: Agent) -> None:
        self._opened = opened
        self._sent = agent.metrics.served.inc
        self._uplink = agent.uplink
        self.chunk_size = agent.uplink.piece
        super().__init__(
            f"/dev/fd/{opened.descriptor}",
            headers={"etag": f'"{opened.sha256}"', "cache-control": "no-cache"},
            media_type="application/octet-stream",
            stat_result=os.fstat(opened.descriptor),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted(message: Message) -> None:
            await self._uplink.take(len(message.get("body", b"")))
            await send(message)
            self._sent(len(message.get("body", b"")))

        try:
            await super().__call__(scope, receive, counted)
        finally:
            os.close(self._opened.descriptor)


class _Gate:
    """Lets in who has the token, and counts."""

    def __init__(self, app: ASGIApp, token: str | None, count: Any) -> None:
        self.app = app
        self.token = token.encode() if token else None
        self.count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.count.labels(_endpoint(scope["path"]), str(message["status"])).inc()
            await send(message)

        if _head_bytes(scope) > MAX_HEAD_BYTES:
            await refusal(431, "too_large", f"a request's head has at most {MAX_HEAD_BYTES} bytes")(scope, receive, counted)
        elif self.token is not None and not self._is_let_in(Headers(scope=scope).get("authorization", "")):
            response = refusal(401, "unauthorized", "a bearer token is needed, and this is not it")
            response.headers["www-authenticate"] = "Bearer"
            await response(scope, receive, counted)
        else:
            await self.app(scope, receive, counted)

    def _is_let_in(self, header: str) -> bool:
        """By the token, or by it as anybody's password: aria2 keeps a password to its host, and repeats a header elsewhere."""
        scheme, _, rest = header.partition(" ")
        given = rest.strip().encode("latin-1", "replace")
        if scheme.lower() == "basic":
            with suppress(ValueError):
                return hmac.compare_digest(base64.b64decode(given).partition(b":")[2], self.token or b"")
        return scheme.lower() == "bearer" and hmac.compare_digest(given, self.token or b"")


def _head_bytes(scope: Scope) -> int:
    return len(scope["raw_path"]) + len(scope["query_string"]) + sum(len(name) + len(value) for name, value in scope["headers"])


def _endpoint(path: str) -> str:
    """A path as a metric's label: one of few."""
    known = (
        "health",
        "inventory",
        "objects",
        "scrub",
        "pulls",
        "bundles",
        "uploads",
        "proofs",
        "drops",
        "events",
        "inbox",
        "deliveries",
        "seeds",
    )
    part = path.removeprefix("/v1/").partition("/")[0]
    return part if path.startswith("/v1/") and part in known else "metrics" if path == "/metrics" else "other"


def _ask(root: Root, max_age: float | None) -> float:
    """Ask a root that is there for a pass, see Root.ask. Raises NoAnswer."""
    if missing := root.check():
        raise missing
    return root.ask(0 if root.failure is not None else max_age)  # if it is there again: look before answering


def _page(root: Root, since: Cursor | None, limit: int, node: str) -> bytes:
    """Raises NoAnswer."""
    if root.failure is not None and root.failure.code != "timeout":
        raise root.failure
    return root.tree.since(since, limit).model_copy(update={"node": node}).model_dump_json(exclude_defaults=True).encode()


def _cursor(text: str | None) -> Cursor | None:
    if text is None:
        return None
    parts = _SINCE.fullmatch(text)
    if parts is None:
        raise Refused(400, "bad_request", "since is EPOCH:POSITION")
    return Cursor(parts[1], int(parts[2]))


def _version() -> str:
    try:
        return version("ringrift-dagster")
    except PackageNotFoundError:
        return "unknown"
