"""Talking to hosts' agents about pulls: orders, progress, proofs, removals, uploads. One client an agent; threads may share it.

Whatever the other side sends, this bounds it: time, bytes, shape. What is done about silence is the callers' business.
"""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, ClassVar, TypeVar
from urllib.parse import urlencode

import orjson
import urllib3
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util import Timeout, parse_url

from ringrift_dagster.cluster.topology import Cluster
from ringrift_dagster.manifest.inventory import Name, RelativePath, Seconds
from ringrift_dagster.transfer.model import Order, Progress, Text, TransportName

T = TypeVar("T", bound=BaseModel)
CONNECT_SECONDS = 2.0
ANSWER_SECONDS = 10.0
"""For an answer that has nothing to wait for."""
POST_SECONDS = 30.0
"""For an order, which may be long and is made durable before the answer."""
HASHING_SECONDS = 600.0
"""For an answer that needs an item to be read whole."""
LOOK_SECONDS = 2.0
"""For a look whether somebody is there whose help would be welcome."""
HEALTH_SECONDS = 30.0
"""So long what an agent said of itself is believed."""
BUSY = "busy"
"""An agent's word for having more orders than it takes."""
MAX_ANSWER_BYTES = 16 << 20
CONNECTIONS = 64
_READ_BYTES = 1 << 18


class AgentSilent(Exception):
    """No usable answer: nobody there, no time left, a failure, or something that is no agent. What was asked may have happened."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = " ".join(detail.split())[:300]


class AgentRefused(Exception):
    """The agent does not do it; `status` is HTTP's, `code` the agent's own word."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.status = status
        self.code = code
        self.detail = " ".join(detail.split())[:300]


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class BitTorrent(_Answer):
    """Where an agent takes part in swarms."""

    port: int = Field(ge=1, le=65535)


class Health(_Answer):
    """What an agent says of itself. `transports` are those it can pull by; empty if it says nothing."""

    node: Name
    transports: tuple[TransportName, ...] = ()
    bittorrent: BitTorrent | None = None


class Proof(_Answer):
    """Whether an agent holds an item now, its bytes hashed again; `verified_at` in seconds since 1970."""

    held: bool
    verified_at: Seconds | None = None


class Dropped(_Answer):
    """What an agent removed."""

    dropped: bool
    paths: tuple[RelativePath, ...] = ()


class PartSent(_Answer):
    """A range of an item that an agent put to an address."""

    etag: Text = ""


class _Watched:
    """Mixed into connections: notes by thread which one serves its request, so that it can be cut when time is over."""

    serving: ClassVar[dict[int, Any]] = {}

    def request(self, *arguments: Any, **options: Any) -> None:
        self.serving[threading.get_ident()] = self
        super().request(*arguments, **options)  # type: ignore[misc]


class _HTTPConnection(_Watched, HTTPConnection):
    pass


class _HTTPSConnection(_Watched, HTTPSConnection):
    pass


@contextmanager
def _cut_after(seconds: float) -> Iterator[None]:
    """End what this thread asks within the block when its time is over: a byte now and then does not stretch it."""
    asking = threading.get_ident()

    def cut() -> None:
        with suppress(OSError, AttributeError):
            _Watched.serving[asking].sock.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        _Watched.serving.pop(asking, None)


class AgentClient:
    """The agent at `url`, which has to call itself `name`.

    Every call raises AgentSilent when no usable answer came in time, and AgentRefused when the agent does not do it.
    """

    def __init__(self, url: str, token: str | None, name: str) -> None:
        self.url = url.rstrip("/")
        self.name = name
        self._headers = {"accept": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {})
        self._pool, self._prefix = self._connect()

    def health(self, *, timeout: float = ANSWER_SECONDS) -> Health:
        """How it is. Another host that answers there is no answer."""
        told = self._parsed(Health, self._request("GET", "/v1/health", timeout))
        if told.node != self.name:
            raise AgentSilent("wrong_node", f"{told.node!r} answers instead of {self.name!r}")
        return told

    def look(self, root: str, *, wait: float = ANSWER_SECONDS) -> None:
        """Have it look at the files of a root now; returns when it has, or after `wait` seconds."""
        query = {"root": root, "limit": 1, "max_age": 0, "wait": f"{wait:.3f}"}
        self._request("GET", f"/v1/inventory?{urlencode(query)}", ANSWER_SECONDS + wait)

    def post(self, order: Order) -> Progress:
        """Give it an order; the same again changes nothing."""
        return self._parsed(Progress, self._request("POST", "/v1/pulls", POST_SECONDS, order.model_dump_json().encode()))

    def get(self, id: str, *, wait: float = 0.0, version: int | None = None) -> Progress | None:
        """How far an order is, None if it knows none; waits up to `wait` seconds for another version than the given one."""
        query = {"wait": f"{wait:.3f}"} | ({} if version is None else {"version": str(version)})
        return self._pull("GET", f"{id}?{urlencode(query)}", ANSWER_SECONDS + wait)

    def cancel(self, id: str) -> Progress | None:
        """End an order; None if it knows none."""
        return self._pull("DELETE", id, ANSWER_SECONDS)

    def prove(self, sha256: str, root: str | None = None, *, timeout: float = HASHING_SECONDS) -> Proof:
        """Have it hash an item again, now: in any of its roots, or in one."""
        body = orjson.dumps({"sha256": sha256} | ({"root": root} if root else {}))
        return self._parsed(Proof, self._request("POST", "/v1/proofs", timeout, body))

    def drop(self, id: str, sha256: str, root: str) -> Dropped:
        """Have it remove an item from a root; the same id again changes nothing."""
        body = orjson.dumps({"id": id, "sha256": sha256, "root": root})
        return self._parsed(Dropped, self._request("POST", "/v1/drops", HASHING_SECONDS, body))

    def upload(self, sha256: str, url: str, start: int, length: int, headers: Mapping[str, str], *, timeout: float) -> PartSent:
        """Have it put a range of an item to a presigned address."""
        body = orjson.dumps({"sha256": sha256, "url": url, "start": start, "length": length, "headers": dict(headers)})
        return self._parsed(PartSent, self._request("POST", "/v1/uploads", timeout, body))

    def close(self) -> None:
        """Close its connections."""
        self._pool.close()

    def _connect(self) -> tuple[HTTPConnectionPool, str]:
        try:
            place = parse_url(self.url)
            port = place.port
        except (urllib3.exceptions.LocationParseError, ValueError):
            raise AgentSilent("unreachable", f"not an address: {self.url!r}") from None
        if place.scheme not in ("http", "https") or not place.host:
            raise AgentSilent("unreachable", f"not an address: {self.url!r}")
        host = place.host.strip("[]")
        if place.scheme == "https":
            pool: HTTPConnectionPool = HTTPSConnectionPool(host, port, maxsize=CONNECTIONS, retries=False)
            pool.ConnectionCls = _HTTPSConnection  # type: ignore[assignment]
        else:
            pool = HTTPConnectionPool(host, port, maxsize=CONNECTIONS, retries=False)
            pool.ConnectionCls = _HTTPConnection  # type: ignore[assignment]
        return pool, (place.path or "").rstrip("/")

    def _pull(self, method: str, path: str, timeout: float) -> Progress | None:
        try:
            return self._parsed(Progress, self._request(method, f"/v1/pulls/{path}", timeout))
        except AgentRefused as refusal:
            if refusal.status == 404:
                return None
            raise

    def _request(self, method: str, path: str, timeout: float, body: bytes | None = None) -> bytes:
        deadline = time.monotonic() + timeout
        headers = {**self._headers, **({"content-type": "application/json"} if body else {})}
        patience = Timeout(connect=min(CONNECT_SECONDS, timeout), total=timeout)
        try:
            with _cut_after(timeout):
                answer = self._pool.urlopen(
                    method,
                    self._prefix + path,
                    body=body,
                    headers=headers,
                    timeout=patience,
                    redirect=False,
                    retries=False,
                    preload_content=False,
                    decode_content=False,
                )
                text = _body(answer, deadline)
        except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError, ValueError) as error:
            raise (_late() if time.monotonic() >= deadline else _translated(error)) from None
        if time.monotonic() >= deadline:  # it was cut, and looks like an answer that is over
            raise _late()
        if answer.status >= 500:
            code, detail = _told(text)
            raise AgentSilent(BUSY if code == BUSY else "server_error", f"HTTP {answer.status} {detail}".strip())
        if not 200 <= answer.status < 300:
            raise AgentRefused(answer.status, *_told(text))
        return text

    def _parsed(self, model: type[T], text: bytes) -> T:
        try:
            return model.model_validate_json(text)
        except (ValidationError, RecursionError) as error:
            raise AgentSilent("bad_answer", str(error)) from None


def _body(answer: urllib3.BaseHTTPResponse, deadline: float) -> bytes:
    """The whole body. A connection is used again only if all of it was read."""
    text = bytearray()
    try:
        while part := answer.read1(_READ_BYTES, decode_content=False):  # type: ignore[attr-defined]
            text += part
            if len(text) > MAX_ANSWER_BYTES:
                raise AgentSilent("bad_answer", f"an answer of more than {MAX_ANSWER_BYTES} bytes")
            if time.monotonic() > deadline:
                raise _late()
    except BaseException:
        answer.close()
        raise
    answer.release_conn()
    return bytes(text)


def _told(text: bytes) -> tuple[str, str]:
    """The code and the detail of a refusal."""
    try:
        told = orjson.loads(text[:_READ_BYTES])
    except orjson.JSONDecodeError:
        told = None
    if not isinstance(told, dict):
        return "error", ""
    return str(told.get("error") or "error")[:50], str(told.get("detail") or "")[:300]


def _late() -> AgentSilent:
    return AgentSilent("timeout", "no whole answer in time")


def _translated(error: Exception) -> AgentSilent:
    reason = error.__cause__ or error.__context__
    if isinstance(error, urllib3.exceptions.NewConnectionError):  # to urllib3 a kind of timeout
        return AgentSilent("refused" if isinstance(reason, ConnectionRefusedError) else "unreachable", str(reason or error))
    if isinstance(error, urllib3.exceptions.TimeoutError | TimeoutError):
        return _late()
    if isinstance(error, urllib3.exceptions.NameResolutionError | urllib3.exceptions.SSLError | urllib3.exceptions.ProxyError):
        return AgentSilent("unreachable", str(error))
    return AgentSilent("server_error", str(error))


class Agents:
    """Clients of the agents of a cluster's hosts, and what they said of themselves lately. Threads may share it."""

    def __init__(self, cluster: Cluster, token: str | None) -> None:
        self._cluster = cluster
        self._token = token
        self._clients: dict[str, AgentClient] = {}
        self._healths: dict[str, tuple[float, Health | None]] = {}

    def client(self, host: str) -> AgentClient | None:
        """The client of a host's agent; None if the hosts file has no address for it. Raises AgentSilent if that is no address."""
        known = self._cluster.hosts.get(host)
        url = known.agent_url if known is not None and known.active else None
        if url is None:
            return None
        if host not in self._clients:
            self._clients[host] = AgentClient(url, self._token, host)
        return self._clients[host]

    def health(self, host: str, *, max_age: float = HEALTH_SECONDS) -> Health | None:
        """What a host's agent said of itself at most `max_age` seconds ago; None if it says nothing."""
        known = self._healths.get(host)
        if known is None or time.monotonic() - known[0] > max_age:
            try:
                client = self.client(host)
                told = client.health(timeout=LOOK_SECONDS) if client else None
            except (AgentSilent, AgentRefused):
                told = None
            known = self._healths[host] = time.monotonic(), told
        return known[1]

    def close(self) -> None:
        """Close all connections."""
        for client in list(self._clients.values()):
            client.close()
