"""One HTTP client for ranges and bundles: connections kept alive, big reads, short patience. What is asked, `http` and `s3` decide.

No redirect is followed. Nothing waits longer than its seconds say, not even for a name to be resolved.
"""

from __future__ import annotations

import http.client
import io
import json
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any
from urllib.parse import SplitResult, urlsplit

from ringrift_dagster.transfer.transports.protocol import TransportFailure

CONNECT_SECONDS = 2.0
STALL_SECONDS = 3.0
"""So long without a byte, and the source is given up."""
LOOK_SECONDS = 0.5
"""Between two looks whether it was cancelled."""
READ_BYTES = 1 << 20
SMALLEST_READ = 16 << 10
SLOW_SECONDS, FAST_SECONDS = 0.02, 0.005
"""Pieces whose taking takes longer become smaller, so that bytes flow evenly at a limit; those taken faster become larger."""
IDLE_SECONDS = 20.0
"""A connection that rested longer is not used again: agents close theirs after 30 s."""
MAX_IDLE = 16
MAX_HEAD_BYTES = 16 << 10
SLOWEST = 1024.0
"""Bytes a second: who brings less over STALL_SECONDS has stalled, as if nothing had come."""
_HEAD_REST = 0.005
_STATUS_CODES = {401: "unauthorized", 403: "unauthorized", 404: "not_found", 410: "changed", 412: "changed", 416: "changed"}
_MAX_REFUSAL = 16 << 10

Cancelled = Callable[[], bool]
Write = Callable[[memoryview], None]


def never() -> bool:
    """Nothing cancels it."""
    return False


@dataclass
class Answer:
    """An answer whose head has come. `kept`: set once its body was read to the end, and its connection may serve again."""

    connection: http.client.HTTPConnection
    response: http.client.HTTPResponse
    kept: bool = field(default=False)

    @property
    def status(self) -> int:
        return self.response.status

    @property
    def length(self) -> int | None:
        """Bytes of the body, if they were told."""
        return self.response.length

    def header(self, name: str) -> str | None:
        return self.response.headers.get(name)

    def read_into(self, length: int, write: Write, cancelled: Cancelled) -> None:
        """Give the next `length` bytes of the body to `write`. Raises TransportFailure, and what `write` raises."""
        sock = self.connection.sock
        buffer = memoryview(bytearray(min(READ_BYTES, length)))
        reading, done = len(buffer), self._buffered(buffer)
        reusable = self.response.length == length and not self.response.will_close
        self.kept = reusable and done == length  # whatever `write` thinks of the last piece
        if done:
            write(buffer[:done])
        sock.settimeout(LOOK_SECONDS)
        came = time.monotonic()
        while done < length:
            if cancelled():
                raise TransportFailure("cancelled")
            try:
                got = sock.recv_into(buffer, min(reading, length - done))
            except TimeoutError:
                if time.monotonic() - came >= STALL_SECONDS:
                    raise TransportFailure("timeout", f"no byte for {STALL_SECONDS:g} s") from None
                continue
            except OSError as error:
                raise translated(error) from None
            if got == 0:
                raise TransportFailure("short", f"{done} of {length} bytes")
            done += got
            self.kept = reusable and done == length
            taken = time.monotonic()
            write(buffer[:got])
            came = time.monotonic()
            if came - taken > SLOW_SECONDS:
                reading = max(SMALLEST_READ, reading // 2)
            elif came - taken < FAST_SECONDS:
                reading = min(len(buffer), reading * 2)

    def refusal(self) -> TransportFailure:
        """What an answer that is none says, with the agent's own words."""
        try:
            text = self.response.read(_MAX_REFUSAL)
            self.kept = self.response.isclosed() and not self.response.will_close
            told = json.loads(text)
            detail = f"{told['error']}: {told['detail']}"
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
            detail = ""
        code = _STATUS_CODES.get(self.status, "server_error" if self.status >= 500 else "failed")
        return TransportFailure(code, f"HTTP {self.status} {detail}".strip())

    def _buffered(self, buffer: memoryview) -> int:
        """What came together with the head. It is in Python's buffer; all that follows is read around it."""
        self.connection.sock.settimeout(0)
        try:
            there = self.response.fp.peek()[: len(buffer)]
        except OSError:
            return 0
        buffer[: len(there)] = there
        return len(self.response.fp.read(len(there)))


class Stream(io.RawIOBase):
    """The body of an answer of any encoding, to be read in one go. Raises TransportFailure."""

    def __init__(self, answer: Answer) -> None:
        self._response = answer.response
        self._since, self._came = time.monotonic(), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        try:
            piece = self._response.read1(len(view))
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise translated(error) from None
        view[: len(piece)] = piece
        self._check_pace(len(piece))
        return len(piece)

    def restart(self) -> None:
        """Time that passed so far was the reader's."""
        self._since, self._came = time.monotonic(), 0

    def _check_pace(self, n: int) -> None:
        self._came += n
        passed = time.monotonic() - self._since
        if passed > STALL_SECONDS and n:
            if self._came < SLOWEST * passed:
                raise TransportFailure("timeout", f"less than {SLOWEST:g} bytes a second")
            self.restart()


class Client:
    """Asks, and keeps connections by host. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: dict[tuple[str, str], list[tuple[float, http.client.HTTPConnection]]] = {}

    @contextmanager
    def asking(
        self,
        url: str,
        headers: dict[str, str],
        *,
        body: bytes | None = None,
        timeout: float | None = None,
        cancelled: Cancelled = never,
    ) -> Iterator[Answer]:
        """GET, or with a body POST. `timeout`: until the head has come, STALL_SECONDS by default. Raises TransportFailure."""
        place = _place(url)
        seconds = STALL_SECONDS if timeout is None else timeout
        answer = self._ask(place, {"Accept-Encoding": "identity", **headers}, body, seconds, cancelled)
        try:
            yield answer
        finally:
            answer.response.close()
            if answer.kept:
                self._rest(place, answer.connection)
            else:
                answer.connection.close()

    def close(self) -> None:
        """Close what rests."""
        with self._lock:
            idle, self._idle = self._idle, {}
        for connections in idle.values():
            for _, connection in connections:
                connection.close()

    def _ask(self, place: SplitResult, headers: dict[str, str], body: bytes | None, timeout: float, cancelled: Cancelled) -> Answer:
        target = f"{place.path or '/'}?{place.query}" if place.query else place.path or "/"
        while True:
            connection = self._rested(place)
            fresh = connection is None
            try:
                connection = connection or _connected(place, min(timeout, CONNECT_SECONDS))
                connection.request("GET" if body is None else "POST", target, body, headers)
                _wait_for_head(connection.sock, timeout, cancelled)
                connection.sock.settimeout(timeout)
                return Answer(connection, connection.getresponse())
            except (OSError, http.client.HTTPException, ValueError) as error:
                if connection is not None:
                    connection.close()
                if fresh or isinstance(error, TimeoutError):
                    raise translated(error) from None
                # The other side closed it while it rested.
            except TransportFailure:
                if connection is not None:
                    connection.close()
                raise

    def _rested(self, place: SplitResult) -> http.client.HTTPConnection | None:
        oldest = time.monotonic() - IDLE_SECONDS
        with self._lock:
            idle = self._idle.get((place.scheme, place.netloc), [])
            while idle:
                since, connection = idle.pop()
                if since >= oldest:
                    return connection
                connection.close()
        return None

    def _rest(self, place: SplitResult, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            idle = self._idle.setdefault((place.scheme, place.netloc), [])
            if len(idle) < MAX_IDLE:
                idle.append((time.monotonic(), connection))
                return
        connection.close()


def translated(error: Exception) -> TransportFailure:
    """What went wrong on the way, as a code."""
    if isinstance(error, http.client.InvalidURL | UnicodeError):
        return TransportFailure("failed", "not an address of HTTP")  # what they say has the address in it, which may be signed
    said = f"{type(error).__name__}: {error}"
    if isinstance(error, ConnectionRefusedError):
        return TransportFailure("refused", said)
    if isinstance(error, TimeoutError):
        return TransportFailure("timeout", said)
    if isinstance(error, ConnectionError | http.client.IncompleteRead | http.client.RemoteDisconnected):
        return TransportFailure("short", said)
    if isinstance(error, ssl.SSLError | socket.gaierror):
        return TransportFailure("unreachable", said)
    if isinstance(error, http.client.HTTPException | ValueError):
        return TransportFailure("failed", said)
    return TransportFailure("unreachable", said)


def _place(url: str) -> SplitResult:
    try:
        place = urlsplit(url)
        if place.scheme in ("http", "https") and place.hostname and (place.port is None or place.port > 0):
            return place
    except ValueError:
        pass
    raise TransportFailure("unreachable", "not an address of HTTP")


def _wait_for_head(sock: socket.socket, timeout: float, cancelled: Cancelled) -> None:
    """Until the whole head of an answer has come, so that reading it cannot wait. Raises OSError and TransportFailure.

    Of an encrypted one only the first byte is waited for; the socket's own time limit has to do for the rest.
    """
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    until = time.monotonic() + timeout
    while True:
        if poll.poll(max(1, int(1000 * min(LOOK_SECONDS, until - time.monotonic())))):
            if isinstance(sock, ssl.SSLSocket):
                return
            there = sock.recv(MAX_HEAD_BYTES, socket.MSG_PEEK)
            if not there or b"\r\n\r\n" in there or b"\n\n" in there:
                return
            if len(there) == MAX_HEAD_BYTES:
                raise TransportFailure("failed", f"an answer's head of more than {MAX_HEAD_BYTES} bytes")
            time.sleep(_HEAD_REST)
        if cancelled():
            raise TransportFailure("cancelled")
        if time.monotonic() >= until:
            raise TransportFailure("timeout", f"no answer within {timeout:g} s")


def _connected(place: SplitResult, timeout: float) -> http.client.HTTPConnection:
    """A connection. Raises OSError and TransportFailure."""
    host = place.hostname or ""
    port = place.port or (443 if place.scheme == "https" else 80)
    sock = _socket(host, port, timeout)
    if place.scheme == "https":
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(host, port)
        try:
            sock = ssl.create_default_context().wrap_socket(sock, server_hostname=host)
        except OSError:
            sock.close()
            raise
    else:
        connection = http.client.HTTPConnection(host, port)
    connection.sock = sock
    return connection


def _socket(host: str, port: int, timeout: float) -> socket.socket:
    until = time.monotonic() + timeout
    failure: OSError = socket.gaierror(f"{host} has no address")
    for family, address in _resolve(host, port, timeout):
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.settimeout(max(0.05, until - time.monotonic()))
            sock.connect(address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
        except OSError as error:
            sock.close()
            failure = error
    raise failure


def _resolve(host: str, port: int, timeout: float) -> list[tuple[socket.AddressFamily, tuple]]:
    """Addresses of a host. The system's resolver knows no time limit, so it runs in a thread that is left alone when it is late."""
    try:
        version = ip_address(host).version
        return [(socket.AF_INET6 if version == 6 else socket.AF_INET, (host, port))]
    except ValueError:
        pass
    found: list[tuple[socket.AddressFamily, tuple]] = []
    failed: list[OSError] = []

    def ask() -> None:
        try:
            found.extend((family, address) for family, *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except OSError as error:
            failed.append(error)

    asking = threading.Thread(target=ask, name=f"resolve {host}", daemon=True)
    asking.start()
    asking.join(timeout)
    if failed:
        raise failed[0]
    if not found:
        raise TransportFailure("unreachable", f"{host} is not resolved within {timeout:g} s")
    return found
