"""The endpoint of uploads: this host puts a range of an object to an address that whoever asks has presigned. It needs no keys."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Annotated

import urllib3
from anyio import CapacityLimiter, to_thread
from blake3 import blake3
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NameResolutionError, NewConnectionError, TimeoutError

from ringrift_dagster.manifest.inventory import CHUNK_DIGEST_BYTES, CHUNK_SIZE, Bytes, Sha256
from ringrift_dagster.manifest.sources.tree import Opened
from ringrift_dagster.node.agent import Agent
from ringrift_dagster.node.http import Refused, chunk_table_of, json_answer, open_object, parse, read_body
from ringrift_dagster.transfer.model import Text

UPLOADS_AT_ONCE = 8
MAX_PART_BYTES = 5 << 30
"""What S3 takes at once."""
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 60.0
MAX_ANSWER_BYTES = 64 << 10

_URL = re.compile(r"^https?://[^\s/?#@]+/[^\s#]*\Z")
_REFUSALS = {401: "unauthorized", 403: "unauthorized", 404: "not_found"}

HeaderName = Annotated[
    str, StringConstraints(pattern=re.compile(r"^(?i:content-(type|md5)|cache-control|x-amz-[a-z0-9-]{1,80})\Z"))
]


class UploadOrder(BaseModel):
    """The body of a request to upload `length` bytes from `start` on. `headers` are those that were signed."""

    model_config = ConfigDict(extra="forbid")

    sha256: Sha256
    url: Annotated[str, StringConstraints(max_length=4000, pattern=_URL)]
    start: Bytes = 0
    length: Annotated[int, Field(ge=1, le=MAX_PART_BYTES, strict=True)]
    headers: Annotated[dict[HeaderName, Text], Field(max_length=16)] = {}


class _Changed(Exception):
    """The file is not what was hashed any more."""


def routes(agent: Agent) -> list[Route]:
    """The endpoint."""
    at_once = CapacityLimiter(UPLOADS_AT_ONCE)
    pool = urllib3.PoolManager(num_pools=8, maxsize=UPLOADS_AT_ONCE)

    async def upload(request: Request) -> Response:
        order = parse(UploadOrder, await read_body(request))
        etag = await to_thread.run_sync(_upload, agent, pool, order, limiter=at_once)
        return json_answer({"etag": etag})

    return [Route("/v1/uploads", upload, methods=["POST"])]


def _upload(agent: Agent, pool: urllib3.PoolManager, order: UploadOrder) -> str:
    """Returns the ETag. Raises Refused: 400 for what is not within the object, 404, 410, 502 for what the other side says."""
    opened = open_object(agent, order.sha256)
    try:
        if order.start + order.length > opened.size:
            raise Refused(400, "bad_request", f"the object has {opened.size} bytes")
        table = chunk_table_of(agent, order.sha256)
        if table is None:
            raise _Changed
        body = _verified(agent, opened, table, order.start, order.start + order.length)
        return _put(pool, order, body)
    except _Changed:
        raise Refused(410, "gone", "the content changed since it was hashed") from None
    finally:
        os.close(opened.descriptor)


def _verified(agent: Agent, opened: Opened, table: bytes, start: int, end: int) -> Iterator[bytes]:
    """The bytes of a range, not one of which leaves before its chunk was hashed. Raises _Changed."""
    for index in range(start // CHUNK_SIZE, (end - 1) // CHUNK_SIZE + 1):
        at = index * CHUNK_SIZE
        chunk = memoryview(_read(opened.descriptor, at, min(CHUNK_SIZE, opened.size - at)))
        if blake3(chunk).digest() != table[index * CHUNK_DIGEST_BYTES : (index + 1) * CHUNK_DIGEST_BYTES]:
            raise _Changed
        wanted = chunk[max(0, start - at) : end - at]
        for offset in range(0, len(wanted), agent.uplink.piece):
            piece = wanted[offset : offset + agent.uplink.piece]
            agent.uplink.take_in_thread(len(piece))
            yield bytes(piece)
            agent.metrics.uploaded.inc(len(piece))


def _read(descriptor: int, offset: int, length: int) -> bytearray:
    """As much as there is, up to `length`."""
    data = bytearray(length)
    done = 0
    while done < length and (got := os.preadv(descriptor, [memoryview(data)[done:]], offset + done)):
        done += got
    return data[:done]


def _put(pool: urllib3.PoolManager, order: UploadOrder, body: Iterator[bytes]) -> str:
    try:
        answer = pool.request(
            "PUT",
            order.url,
            body=body,
            headers={**order.headers, "content-length": str(order.length)},
            timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=ANSWER_SECONDS),
            redirect=False,
            retries=False,
            preload_content=False,
        )
    except (NewConnectionError, ConnectTimeoutError, HTTPError) as error:
        raise Refused(502, _code(error), type(error).__name__) from error
    try:
        if answer.status not in (200, 201, 204):
            code = _REFUSALS.get(answer.status, "server_error" if answer.status >= 500 else "failed")
            raise Refused(502, code, f"the address answers {answer.status}")
        answer.read(MAX_ANSWER_BYTES)
        return answer.headers.get("etag", "")[:1000]
    finally:
        answer.release_conn()


def _code(error: HTTPError) -> str:
    """One of the codes of transports' failures."""
    if isinstance(error, NameResolutionError):
        return "unreachable"
    if isinstance(error, NewConnectionError):
        return "refused"
    return "timeout" if isinstance(error, TimeoutError) else "failed"
