"""The agent's HTTP face: health, inventory, objects by hash, scrub, metrics.

No request names a path. Every refusal is JSON `{"error": code, "detail": one line}`, and nothing of the program's inside is shown.
"""

from __future__ import annotations

import hmac
import os
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError
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
from ringrift_dagster.manifest.sources.page import Page
from ringrift_dagster.manifest.sources.tree import ContentChanged, Opened
from ringrift_dagster.node.agent import TREE, Agent, AgentConfig, Root

MAX_BODY_BYTES = 64 << 10
MAX_HEAD_BYTES = 16 << 10
"""Of a request line with its headers."""
MAX_LIMIT = 50_000
MAX_WAIT_SECONDS = 60.0
DEFAULT_WAIT_SECONDS = 10.0
SERVE_CHUNK_BYTES = 1 << 20
"""Sent at once: Starlette's own 64 KiB make serving three times as slow."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_RANGES = re.compile(r"bytes=\s*(\d{1,18}-\d{0,18}|-\d{1,18})(\s*,\s*(\d{1,18}-\d{0,18}|-\d{1,18}))*\s*")
_SINCE = re.compile(r"([A-Za-z0-9_-]{1,64}):([0-9]{1,18})")
_CODES = {400: "bad_request", 401: "unauthorized", 404: "not_found", 405: "method_not_allowed", 413: "too_large"}


class Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail


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
        ],
        middleware=[Middleware(_Gate, token=config.token, count=agent.metrics.requests)],
        exception_handlers={
            Refused: _answer_error,
            NoAnswer: _answer_error,
            HTTPException: _answer_error,
            Exception: _answer_error,
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

    def health(self, request: Request) -> Response:
        """How the agent and its roots are."""
        roots = [self._root_health(root) for root in self.agent.roots.values()]
        return _json(
            {
                "node": self.agent.config.name,
                "version": _version(),
                "now": time.time(),
                "started": self.started,
                "roots": roots,
                "scanning": any(root.scanning for root in self.agent.roots.values()),
                "pending": sum(root.pending for root in self.agent.roots.values()),
            }
        )

    def inventory(self, request: Request) -> Response:
        """One page of a root's inventory."""
        query = request.query_params
        root = self._root(query.get("root", TREE))
        limit = int(_number(query.get("limit"), "limit", 1, MAX_LIMIT, MAX_LIMIT))
        since = _cursor(query.get("since"))
        if refusal := root.check():
            raise refusal
        max_age = _number(query.get("max_age"), "max_age", 0, 1e9, -1)
        wait = _number(query.get("wait"), "wait", 0, MAX_WAIT_SECONDS, DEFAULT_WAIT_SECONDS)
        if root.failure is not None:
            max_age = 0  # it is there again: look before answering
        root.refresh(None if max_age < 0 else max_age, wait)
        if root.failure is not None and root.failure.code != "timeout":
            raise root.failure
        page = root.tree.since(since, limit)
        return Response(_page_json(page.model_copy(update={"node": self.agent.config.name})), media_type="application/json")

    async def objects(self, request: Request) -> Response:
        """The bytes of an item, by its hash."""
        sha256 = request.path_params["sha256"]
        if not _SHA256.fullmatch(sha256):
            raise Refused(400, "bad_request", "not a SHA-256 in lower-case hexadecimal")
        if not _RANGES.fullmatch(request.headers.get("range", "bytes=0-")):
            raise Refused(400, "bad_request", "not a range of bytes")
        return _ObjectResponse(await run_in_threadpool(self._open, sha256), self.agent.metrics.served.inc)

    def _open(self, sha256: str) -> Opened:
        changed = False
        for root in self.agent.roots.values():
            if not root.asked:
                continue
            try:
                if (opened := root.tree.open(sha256)) is not None:
                    return opened
            except ContentChanged:
                changed = True
            except NoAnswer:
                continue
        if changed:
            raise Refused(410, "gone", "the content changed since it was hashed")
        raise Refused(404, "not_found", "no item has this hash here")

    async def scrub(self, request: Request) -> Response:
        """Hash again what was verified longest ago."""
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > MAX_BODY_BYTES:
                raise Refused(413, "too_large", f"a body has at most {MAX_BODY_BYTES} bytes")
        try:
            order = ScrubOrder.model_validate_json(bytes(body))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise Refused(400, "bad_request", f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        done = await run_in_threadpool(self._root(order.root).tree.scrub, order.max_bytes, order.timeout)
        return _json({"files": done.files, "bytes": done.bytes, "damaged": list(done.damaged), "remaining": done.remaining})

    def metrics(self, request: Request) -> Response:
        """For Prometheus."""
        for root in self.agent.roots.values():
            available = root.check() is None
            try:
                counts = root.tree.counts() if available and root.asked else {}
            except NoAnswer:
                available, counts = False, {}
            self.agent.metrics.root(root.name, available=available, counts=counts, disk=root.tree.disk() if available else None)
        return Response(self.agent.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    def _root(self, name: str) -> Root:
        if name not in self.agent.roots:
            raise Refused(404, "unknown_root", "this agent has no such root")
        return self.agent.roots[name]

    def _root_health(self, root: Root) -> dict[str, Any]:
        refusal = root.check() or root.failure
        disk = root.tree.disk() if refusal is None else None
        try:
            epoch = root.tree.epoch() if refusal is None and root.asked else None
        except NoAnswer as error:
            refusal, epoch = error, None
        return {
            "name": root.name,
            "location": root.location,
            "kind": root.kind,
            "available": refusal is None,
            "reason": refusal.code if refusal else None,
            "detail": refusal.detail if refusal else None,
            "epoch": epoch,
            "disk": disk.model_dump() if disk else None,
            "scanning": root.scanning,
            "pending": root.pending,
            "age": root.age(),
        }


class _ObjectResponse(FileResponse):
    """A file that is already open and verified; closes it in the end, whatever happens."""

    chunk_size = SERVE_CHUNK_BYTES
    max_ranges = 16

    def __init__(self, opened: Opened, sent: Callable[[float], None]) -> None:
        self._opened = opened
        self._sent = sent
        super().__init__(
            f"/dev/fd/{opened.descriptor}",
            headers={"etag": f'"{opened.sha256}"', "cache-control": "no-cache"},
            media_type="application/octet-stream",
            stat_result=os.fstat(opened.descriptor),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted(message: Message) -> None:
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
            await _refusal(431, "too_large", f"a request's head has at most {MAX_HEAD_BYTES} bytes")(scope, receive, counted)
        elif self.token is not None and not self._is_let_in(Headers(scope=scope).get("authorization", "")):
            response = _refusal(401, "unauthorized", "a bearer token is needed, and this is not it")
            response.headers["www-authenticate"] = "Bearer"
            await response(scope, receive, counted)
        else:
            await self.app(scope, receive, counted)

    def _is_let_in(self, header: str) -> bool:
        scheme, _, given = header.partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode("latin-1", "replace"), self.token or b"")


def _head_bytes(scope: Scope) -> int:
    return len(scope["raw_path"]) + len(scope["query_string"]) + sum(len(name) + len(value) for name, value in scope["headers"])


def _endpoint(path: str) -> str:
    """A path as a metric's label: one of few."""
    known = ("health", "inventory", "objects", "scrub")
    part = path.removeprefix("/v1/").partition("/")[0]
    return part if path.startswith("/v1/") and part in known else "metrics" if path == "/metrics" else "other"


def _page_json(page: Page) -> bytes:
    return page.model_dump_json(exclude_defaults=True).encode()


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")


def _refusal(status: int, code: str, detail: str) -> Response:
    return Response(orjson.dumps({"error": code, "detail": " ".join(detail.split())[:300]}), status, media_type="application/json")


def _answer_error(request: Request, error: Exception) -> Response:
    """What the client is told of an error: of one of ours its code, of any other nothing."""
    if isinstance(error, Refused):
        return _refusal(error.status, error.code, error.detail)
    if isinstance(error, NoAnswer):
        return _refusal(503, error.code, error.detail)
    if isinstance(error, HTTPException):
        return _refusal(error.status_code, _CODES.get(error.status_code, "error"), str(error.detail))
    return _refusal(500, "server_error", "the agent failed; its log says more")


def _cursor(text: str | None) -> Cursor | None:
    if text is None:
        return None
    parts = _SINCE.fullmatch(text)
    if parts is None:
        raise Refused(400, "bad_request", "since is EPOCH:POSITION")
    return Cursor(parts[1], int(parts[2]))


def _number(text: str | None, name: str, low: float, high: float, default: float) -> float:
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise Refused(400, "bad_request", f"{name} is a number from {low:g} to {high:g}")
    return value


def _version() -> str:
    try:
        return version("ringrift-dagster")
    except PackageNotFoundError:
        return "unknown"
