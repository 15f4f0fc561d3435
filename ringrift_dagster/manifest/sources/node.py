"""A host's agent as a source: asks it over HTTP for one of its roots.

Whatever the other side sends, this bounds it: time, bytes, entries; and nothing of an answer that breaks the contract is used.
"""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode

import orjson
import urllib3
from pydantic import BaseModel, ConfigDict, ValidationError
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util import Timeout, parse_url

from ringrift_dagster.manifest.inventory import (
    CONTACT_CODES,
    NO_ANSWER_CODES,
    Bytes,
    Count,
    Cursor,
    Inventory,
    NoAnswer,
    RelativePath,
    Scrubbed,
)
from ringrift_dagster.manifest.sources.page import MAX_ENTRIES, MAX_PAGE_BYTES, Page
from ringrift_dagster.manifest.sources.tellings import Telling, Tellings

PAGE_ENTRIES = 2000
"""Few enough that some pages come within one answer over a slow line, and that many hosts' pages are not read all at once."""
MAX_CONTROL_BYTES = 1 << 20
"""Of an answer that is no page."""
MIN_SECONDS = 0.05

_TELLINGS = Tellings()
_PASSING = frozenset({"refused", "timeout", "unreachable", "server_error"})
"""Silences after which what was told before still stands."""
_READ_BYTES = 1 << 18
_UNREACHABLE = (
    urllib3.exceptions.NameResolutionError,
    urllib3.exceptions.LocationValueError,
    urllib3.exceptions.ProxyError,
)


class _ScrubAnswer(BaseModel):
    model_config = ConfigDict(extra="ignore")

    files: Count
    bytes: Bytes
    damaged: list[RelativePath]
    remaining: Count


class NodeSource:
    """One root of the agent at `url`, as the location `location`. Safe to use from one thread at a time.

    `node` is the name that the agent has to give; for the root `tree` it is the location's own. With `max_age` the agent looks at
    its files again first, unless it did within so many seconds.
    """

    def __init__(
        self,
        location: str,
        url: str,
        token: str | None = None,
        root: str = "tree",
        node: str | None = None,
        *,
        max_age: float | None = None,
    ) -> None:
        self._location = location
        self._url = url.rstrip("/")
        self._token = token
        self._root = root
        self._node = node or (location if root == "tree" else None)
        self._max_age = max_age

    @property
    def location(self) -> str:
        """The location's name."""
        return self._location

    @property
    def host(self) -> str | None:
        """The name of the host that is asked, if it is known."""
        return self._node

    def read(self, since: Cursor | None, timeout: float) -> Inventory:
        """What the root holds, or what changed since a cursor. Raises NoAnswer within about `timeout` seconds.

        What comes by then is kept: the next question with the same cursor goes on from there, whichever source of this process
        asks it. So it is after a long answer, too: whoever asks as before did not take it in.
        """
        key = (self._location, self._url, self._root, self._node or "")
        telling = _TELLINGS.take(key, since)
        before = telling.pages
        try:
            page, latency = self._go_on(telling, timeout)
        except NoAnswer as silence:
            if silence.code in _PASSING:
                _TELLINGS.keep(key, telling)
            if silence.code == "timeout" and telling.pages > before:
                told = f"{telling.collected.entries:,} entries came so far, and more are to come"
                raise NoAnswer(self._location, "unfinished", told) from None
            raise
        answer = telling.collected.inventory(self._location, page, latency)
        if telling.pages > 1:
            _TELLINGS.keep(key, telling)
        return answer

    def _go_on(self, telling: Telling, timeout: float) -> tuple[Page, float]:
        """Ask for page after page; returns the last, and the latency in seconds. Raises NoAnswer."""
        with _Conversation(self._location, self._url, self._token, timeout) as talk:
            started = time.monotonic()
            self._check_name(talk.get("/v1/health", MAX_CONTROL_BYTES))
            latency = time.monotonic() - started
            first = True
            while True:
                cursor = telling.cursor
                page = self._page(talk, cursor, first)
                if (
                    not page.full
                    and cursor is not None
                    and page.epoch == cursor.epoch
                    and page.cursor < cursor.position + page.more
                ):
                    raise NoAnswer(self._location, "bad_answer", "cursor: does not go on")
                telling.add(page)
                if telling.collected.entries > MAX_ENTRIES:
                    raise NoAnswer(self._location, "bad_answer", f"more than {MAX_ENTRIES} entries")
                first = False
                if not page.more:
                    return page, latency

    def scrub(self, max_bytes: int, timeout: float) -> Scrubbed:
        """Have the agent re-hash up to `max_bytes` of what was verified longest ago. Raises NoAnswer."""
        with _Conversation(self._location, self._url, self._token, timeout) as talk:
            self._check_name(talk.get("/v1/health", MAX_CONTROL_BYTES))
            order = {"root": self._root, "max_bytes": max_bytes, "timeout": max(MIN_SECONDS, min(3600.0, talk.left() * 0.8))}
            with self._contract():
                answer = _ScrubAnswer.model_validate_json(talk.post("/v1/scrub", orjson.dumps(order), MAX_CONTROL_BYTES))
            return Scrubbed(answer.files, answer.bytes, tuple(answer.damaged), answer.remaining)

    def _check_name(self, health: bytes) -> None:
        try:
            told = orjson.loads(health)
        except orjson.JSONDecodeError:
            told = None
        if not isinstance(told, dict) or not isinstance(told.get("node"), str):
            raise NoAnswer(self._location, "bad_answer", "what answers there is no agent")
        if self._node is not None and told["node"] != self._node:
            raise NoAnswer(self._location, "wrong_node", f"{told['node'][:100]!r} answers instead of {self._node!r}")

    def _page(self, talk: _Conversation, cursor: Cursor | None, first: bool) -> Page:
        query: dict[str, Any] = {"root": self._root, "limit": PAGE_ENTRIES}
        if cursor is not None:
            query["since"] = f"{cursor.epoch}:{cursor.position}"
        if first:
            query["wait"] = f"{min(60.0, talk.left() * 0.5):.3f}"
            if self._max_age is not None:
                query["max_age"] = self._max_age
        with self._contract():
            page = Page.model_validate_json(talk.get(f"/v1/inventory?{urlencode(query)}", MAX_PAGE_BYTES))
        if self._node is not None and page.node != self._node:
            raise NoAnswer(self._location, "wrong_node", f"{page.node!r} answers instead of {self._node!r}")
        return page

    @contextmanager
    def _contract(self) -> Iterator[None]:
        """An answer with one bad entry is a bad answer."""
        try:
            yield
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"])) or "the answer"
            raise NoAnswer(self._location, "bad_answer", f"{where}: {first['msg']}") from None
        except (ValueError, RecursionError) as error:
            raise NoAnswer(self._location, "bad_answer", str(error)) from None


class _Watched:
    """Mixed into connections: tells the conversation of each socket."""

    conversation: _Conversation

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        self.conversation.watch(self.sock)  # type: ignore[attr-defined]


class _Conversation:
    """A few requests under one deadline, which even a server that sends a byte now and then cannot stretch."""

    def __init__(self, location: str, url: str, token: str | None, timeout: float) -> None:
        self._location = location
        self._deadline = time.monotonic() + timeout
        self._sockets: list[socket.socket] = []
        self._over = False
        self._headers = {"authorization": f"Bearer {token}"} if token else {}
        self._headers["accept"] = "application/json"
        try:
            place = parse_url(url)
            port = place.port
        except (urllib3.exceptions.LocationParseError, ValueError):
            raise NoAnswer(location, "unreachable", f"not an address: {url!r}") from None
        if place.scheme not in ("http", "https") or not place.host:
            raise NoAnswer(location, "unreachable", f"not an address: {url!r}")
        self._prefix = (place.path or "").rstrip("/")
        pool, base = (HTTPSConnectionPool, HTTPSConnection) if place.scheme == "https" else (HTTPConnectionPool, HTTPConnection)
        self._pool = pool(place.host.strip("[]"), port, maxsize=1, retries=False)
        self._pool.ConnectionCls = type("_WatchedConnection", (_Watched, base), {"conversation": self})  # type: ignore[assignment]
        self._timer = threading.Timer(max(0.0, timeout), self._end)
        self._timer.daemon = True

    def __enter__(self) -> _Conversation:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._pool.close()

    def left(self) -> float:
        """Seconds until the deadline."""
        return self._deadline - time.monotonic()

    def watch(self, sock: socket.socket) -> None:
        """Shut this socket down at the deadline."""
        self._sockets.append(sock)
        if self._over:
            self._end()

    def get(self, path: str, limit: int) -> bytes:
        """The body of an answer of at most `limit` bytes. Raises NoAnswer."""
        return self._request("GET", path, None, limit)

    def post(self, path: str, body: bytes, limit: int) -> bytes:
        """As `get`, with a body of JSON."""
        return self._request("POST", path, body, limit)

    def _request(self, method: str, path: str, body: bytes | None, limit: int) -> bytes:
        left = self.left()
        if left < MIN_SECONDS:
            raise self._no("timeout", "no time is left")
        try:
            answer = self._pool.urlopen(
                method,
                self._prefix + path,
                body=body,
                headers={**self._headers, **({"content-type": "application/json"} if body else {})},
                timeout=Timeout(total=left),
                redirect=False,
                retries=False,
                preload_content=False,
                decode_content=False,
            )
            try:
                text = self._body(answer, limit)
            finally:
                answer.close() if self._over else answer.release_conn()
        except NoAnswer:
            raise
        except Exception as error:
            raise self._translated(error) from None
        if self._over:
            raise self._no("timeout", "no whole answer in time")
        if answer.status != 200:
            raise self._refusal(answer.status, text)
        return text

    def _body(self, answer: urllib3.BaseHTTPResponse, limit: int) -> bytes:
        text = bytearray()
        while part := answer.read1(_READ_BYTES, decode_content=False):  # type: ignore[attr-defined]
            text += part
            if len(text) > limit:
                answer.close()
                raise self._no("bad_answer", f"an answer of more than {limit} bytes")
        announced = answer.headers.get("content-length")
        if announced is not None and announced.isdigit() and len(text) != int(announced) and not self._over:
            raise self._no("server_error", "the answer was cut off")
        return bytes(text)

    def _refusal(self, status: int, text: bytes) -> NoAnswer:
        """A status that is no answer, with the agent's own code where it gave one of ours."""
        try:
            told = orjson.loads(text[:MAX_CONTROL_BYTES])
        except orjson.JSONDecodeError:
            told = None
        code = told.get("error") if isinstance(told, dict) else None
        detail = str(told.get("detail") if isinstance(told, dict) else "")[:200]
        if status in (401, 403):
            return self._no("unauthorized", detail or f"HTTP {status}")
        if status == 404:
            return self._no("not_found", detail or f"HTTP {status}")
        if status >= 500:
            passed_on = code if code in NO_ANSWER_CODES and code not in CONTACT_CODES else "server_error"
            return self._no(passed_on, detail or f"HTTP {status}")
        return self._no("bad_answer", f"HTTP {status} {detail}".strip())

    def _translated(self, error: Exception) -> NoAnswer:
        said = " ".join(str(error).split())
        said = said.partition("_WatchedConnection(")[2].partition("): ")[2] or said
        if self._over:
            return self._no("timeout", "no whole answer in time")
        if isinstance(error, _UNREACHABLE):
            return self._no("unreachable", said)
        reason = error.__cause__ or error.__context__
        if isinstance(error, urllib3.exceptions.NewConnectionError):  # to urllib3 a kind of timeout
            return self._no("refused" if isinstance(reason, ConnectionRefusedError) else "unreachable", said)
        if isinstance(error, urllib3.exceptions.TimeoutError | TimeoutError):
            return self._no("timeout", "no whole answer in time")
        if isinstance(error, urllib3.exceptions.SSLError):
            return self._no("unreachable", said)
        if isinstance(error, urllib3.exceptions.HTTPError | http.client.HTTPException | OSError | ValueError):
            cut_off = isinstance(reason, http.client.RemoteDisconnected | http.client.IncompleteRead)
            broken = isinstance(reason, http.client.HTTPException) and not cut_off
            return self._no("bad_answer" if broken else "server_error", said)
        raise error

    def _no(self, code: str, detail: str) -> NoAnswer:
        return NoAnswer(self._location, code, detail)

    def _end(self) -> None:
        self._over = True
        for sock in self._sockets:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
