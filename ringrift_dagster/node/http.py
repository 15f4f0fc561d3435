"""What the agent's endpoints have in common: refusals, JSON answers, bodies with bounds, and opening an object by its hash.

No endpoint is here, and no rule about pulls, pieces or removal.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from ringrift_dagster.manifest.inventory import NoAnswer
from ringrift_dagster.manifest.sources.tree import ContentChanged, Opened
from ringrift_dagster.node.agent import Agent, Root

MAX_BODY_BYTES = 64 << 10
MAX_HEAD_BYTES = 16 << 10
"""Of a request line with its headers."""
MAX_WAIT_SECONDS = 60.0
"""That an answer may be waited for."""
MAX_WAITING = 80
"""Requests of a kind that may wait for an answer at once: two such kinds leave connections for everything else."""
LOOK_SECONDS = 0.05
"""Between two looks whether there is news."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_CODES = {400: "bad_request", 401: "unauthorized", 404: "not_found", 405: "method_not_allowed", 413: "too_large"}
_Model = TypeVar("_Model", bound=BaseModel)


class Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail


def json_answer(value: Any, status: int = 200) -> Response:
    """A value as JSON."""
    return Response(orjson.dumps(value), status, media_type="application/json")


def model_answer(value: BaseModel, status: int = 200) -> Response:
    """A model as JSON, all of its fields."""
    return Response(value.model_dump_json().encode(), status, media_type="application/json")


def refusal(status: int, code: str, detail: str) -> Response:
    """`{"error": code, "detail": one line}`."""
    return Response(orjson.dumps({"error": code, "detail": " ".join(detail.split())[:300]}), status, media_type="application/json")


def answer_error(request: Request, error: Exception) -> Response:
    """What the client is told of an error: of one of ours its code, of any other nothing."""
    if isinstance(error, Refused):
        return refusal(error.status, error.code, error.detail)
    if isinstance(error, NoAnswer):
        return refusal(503, error.code, error.detail)
    if isinstance(error, HTTPException):
        return refusal(error.status_code, _CODES.get(error.status_code, "error"), str(error.detail))
    return refusal(500, "server_error", "the agent failed; its log says more")


async def read_body(request: Request, limit: int = MAX_BODY_BYTES) -> bytes:
    """The body. Raises Refused (413) as soon as more than `limit` bytes came, or were announced."""
    announced = request.headers.get("content-length", "0")
    if not announced.isdecimal() or int(announced) > limit:
        raise Refused(413, "too_large", f"a body has at most {limit} bytes")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > limit:
            raise Refused(413, "too_large", f"a body has at most {limit} bytes")
    return bytes(body)


def parse(model: type[_Model], body: bytes) -> _Model:
    """A body as a model. Raises Refused (400) that names the first field that is wrong."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise Refused(400, "bad_request", f"{'.'.join(map(str, first['loc']))[:100]}: {first['msg']}") from None


def number(text: str | None, name: str, low: float, high: float, default: float) -> float:
    """A number of the query. Raises Refused (400)."""
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise Refused(400, "bad_request", f"{name} is a number from {low:g} to {high:g}")
    return value


@asynccontextmanager
async def room_to_wait(places: asyncio.Semaphore) -> AsyncIterator[None]:
    """One of the places of those that wait. Raises Refused (503) when none is left."""
    if places.locked():
        raise Refused(503, "busy", "as many wait for an answer as may")
    async with places:
        yield


async def news(request: Request, look: Callable[[], object], known: object, until: float) -> bool:
    """Wait until `look` tells something else than `known`; returns False at `until`, or when nobody listens any more.

    No thread waits meanwhile; `look` is called by the event loop, and takes no time.
    """
    while look() == known:
        left = until - time.monotonic()
        if left <= 0 or await request.is_disconnected():
            return False
        await asyncio.sleep(min(LOOK_SECONDS, left))
    return True


def sha256_of(request: Request) -> str:
    """The hash in the path. Raises Refused (400)."""
    sha256 = request.path_params["sha256"]
    if not _SHA256.fullmatch(sha256):
        raise Refused(400, "bad_request", "not a SHA-256 in lower-case hexadecimal")
    return sha256


def root_of(agent: Agent, name: str) -> Root:
    """One of the agent's roots. Raises Refused (404)."""
    if name not in agent.roots:
        raise Refused(404, "unknown_root", "this agent has no such root")
    return agent.roots[name]


def chunk_table_of(agent: Agent, sha256: str) -> bytes | None:
    """The chunk table of an item in any of the agent's roots; None if no root that is there knows it."""
    for root in agent.roots.values():
        try:
            if root.asked and (table := root.tree.chunk_table(sha256)) is not None:
                return table
        except NoAnswer:
            continue
    return None


def open_object(agent: Agent, sha256: str) -> Opened:
    """The file of any root that holds this content; its descriptor is the caller's to close. Blocks.

    Raises Refused: 404 not_found, 410 gone.
    """
    return object_opener(agent, [sha256])(sha256)


def object_opener(agent: Agent, sha256s: Collection[str]) -> Callable[[str], Opened]:
    """`open_object` for these: what is known of them is looked up once, now. Blocks."""
    openers: list[Callable[[str], Opened | None]] = []
    for root in agent.roots.values():
        with suppress(NoAnswer):
            if root.asked:
                openers.append(root.tree.opener(sha256s))

    def open_one(sha256: str) -> Opened:
        changed = False
        for opener in openers:
            try:
                if (opened := opener(sha256)) is not None:
                    return opened
            except ContentChanged:
                changed = True
        if changed:
            raise Refused(410, "gone", "the content changed since it was hashed")
        raise Refused(404, "not_found", "no item has this hash here")

    return open_one
