"""What the transports that need more than bytes ask a source's agent for: piece hashes, torrents, or just whether it answers."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from contextlib import suppress
from urllib.parse import urlsplit

import orjson
import urllib3
from urllib3.util import Timeout

from ringrift_dagster.transfer.pieces import MAX_ANSWER_BYTES
from ringrift_dagster.transfer.transports.protocol import TransportFailure

CONNECT_SECONDS = 2.0
ANSWER_SECONDS = 10.0
HASHED_A_SECOND = 50e6
"""Bytes that an agent hashes, at the least, before it can answer."""
LOOK_SECONDS = 0.1

_OBJECT = re.compile(r"/v1/objects/([0-9a-f]{64})")
_READ_BYTES = 1 << 18
_STATUS_CODES = {401: "unauthorized", 403: "unauthorized", 404: "not_found", 410: "changed"}


def is_agent(url: str, sha256: str) -> bool:
    """Whether a URL is that of an item at an agent, which alone is shown the token."""
    parts = urlsplit(url)
    found = _OBJECT.fullmatch(parts.path)
    return parts.scheme in ("http", "https") and found is not None and found[1] == sha256 and not parts.query


def headers_for(url: str, sha256: str, token: str | None) -> dict[str, str]:
    """What is to be sent along with a request for an item."""
    return {"Authorization": f"Bearer {token}"} if token and is_agent(url, sha256) else {}


def answer_seconds(size: int) -> float:
    """How long an agent may take for an answer that it has to hash `size` bytes for."""
    return ANSWER_SECONDS + size / HASHED_A_SECOND


def ask(url: str, headers: dict[str, str], size: int, cancelled: Callable[[], bool]) -> bytes:
    """An answer that the agent may first have to hash `size` bytes for. Raises TransportFailure."""
    seconds = answer_seconds(size)
    pool = ThreadPoolExecutor(1, "ask")
    try:
        answer = pool.submit(_request, "GET", url, headers, seconds, MAX_ANSWER_BYTES)
        while True:
            try:
                return answer.result(LOOK_SECONDS)
            except Late:
                if cancelled():
                    raise TransportFailure("cancelled") from None
    finally:
        pool.shutdown(wait=False)


def reach(url: str, headers: dict[str, str], timeout: float) -> None:
    """Ask for the first byte. Raises TransportFailure when it is not to be had."""
    _request("GET", url, {**headers, "Range": "bytes=0-0"}, timeout, None)


def tell(url: str, headers: dict[str, str], value: object, size: int) -> None:
    """Post something to an agent, that it may first have to hash `size` bytes for. Nobody waits for it, or is told of a failure."""

    def post() -> None:
        with suppress(TransportFailure):
            _request("POST", url, headers, answer_seconds(size), None, orjson.dumps(value))

    threading.Thread(target=post, name="tell", daemon=True).start()


def _request(method: str, url: str, headers: dict[str, str], seconds: float, limit: int | None, body: bytes | None = None) -> bytes:
    """The body, which without a `limit` is not read at all. Raises TransportFailure."""
    timeout = Timeout(connect=min(CONNECT_SECONDS, seconds), read=seconds)
    try:
        with urllib3.PoolManager(retries=False, timeout=timeout) as pool:
            response = pool.request(
                method, url, body=body, headers=headers, redirect=False, preload_content=False, decode_content=False
            )
            try:
                return _body(response, limit)
            finally:
                response.close()
    except urllib3.exceptions.NewConnectionError as error:
        refused = isinstance(error.__cause__, ConnectionRefusedError)
        raise TransportFailure("refused" if refused else "unreachable", str(error.__cause__ or error)) from None
    except (TimeoutError, urllib3.exceptions.TimeoutError):
        raise TransportFailure("timeout", f"no answer in {seconds:.3g} s") from None
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise TransportFailure("unreachable", str(error)) from None


def _body(response: urllib3.BaseHTTPResponse, limit: int | None) -> bytes:
    if response.status not in (200, 206) and not (limit is None and response.status == 416):
        code = "server_error" if response.status >= 500 else _STATUS_CODES.get(response.status, "failed")
        raise TransportFailure(code, f"the answer is {response.status}")
    body = bytearray()
    while limit is not None and (part := response.read(_READ_BYTES)):
        body += part
        if len(body) > limit:
            raise TransportFailure("failed", "the answer has no end")
    return bytes(body)
