"""Posting JSON to another machine: bounded in time and size, no redirects, and one kind of failure. Addresses are never told in it:
those of webhooks are secrets."""

from __future__ import annotations

import time
from collections.abc import Mapping

import urllib3
from urllib3.util import Timeout

CONNECT_SECONDS = 2.0
ANSWER_SECONDS = 30.0
MAX_ANSWER_BYTES = 1 << 20
_READ_BYTES = 1 << 16


class PostFailed(Exception):
    """No success: `code` is `refused`, `timeout`, `unreachable`, or `http_NNN`; what was posted may have arrived."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = " ".join(detail.split())[:200]


class Poster:
    """Keeps connections. Threads may share it."""

    def __init__(self) -> None:
        self._pools = urllib3.PoolManager(num_pools=64, maxsize=4, retries=False)

    def close(self) -> None:
        self._pools.clear()

    def post(self, url: str, body: bytes, *, token: str | None = None, timeout: float = ANSWER_SECONDS) -> bytes:
        """The answer of an address that takes the body. Raises PostFailed."""
        headers: Mapping[str, str] = {"content-type": "application/json"}
        if token:
            headers = {**headers, "authorization": f"Bearer {token}"}
        deadline = time.monotonic() + timeout
        try:
            answer = self._pools.request(
                "POST", url, body=body, headers=headers, redirect=False, retries=False, preload_content=False,
                timeout=Timeout(connect=min(CONNECT_SECONDS, timeout), total=timeout),
            )  # fmt: skip
            text = _body(answer, deadline)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise PostFailed(*_translated(error)) from None
        if not 200 <= answer.status < 300:
            raise PostFailed(f"http_{answer.status}", text[:200].decode("utf-8", "replace"))
        return text


def _body(answer: urllib3.BaseHTTPResponse, deadline: float) -> bytes:
    """The whole answer. A connection is used again only if all of it was read."""
    text = bytearray()
    try:
        while part := answer.read(_READ_BYTES, decode_content=False):
            text += part
            if len(text) > MAX_ANSWER_BYTES or time.monotonic() > deadline:
                raise TimeoutError
    except BaseException:
        answer.close()
        raise
    answer.release_conn()
    return bytes(text)


def _translated(error: Exception) -> tuple[str, str]:
    """A code, and words that do not have the address in them."""
    reason = error.__cause__ or error.__context__
    if isinstance(error, urllib3.exceptions.NewConnectionError):  # to urllib3 a kind of timeout
        return ("refused" if isinstance(reason, ConnectionRefusedError) else "unreachable"), type(reason or error).__name__
    if isinstance(error, urllib3.exceptions.TimeoutError | TimeoutError):
        return "timeout", "no whole answer in time"
    return "unreachable", type(error).__name__
