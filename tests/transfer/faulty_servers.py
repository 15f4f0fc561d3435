"""A small HTTP server of objects with ranges that does to its bytes what real ones do to theirs: flips, cuts, stalls, resets, lies.

Whoever asks may change `faults` at any time. It counts what it was asked for and what it sent.
"""

from __future__ import annotations

import http.server
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

PIECE = 64 << 10


@dataclass
class Faults:
    """What the server does wrong. Offsets are within the object, counts of bytes within an answer, rates in bytes a second."""

    flip: frozenset[int] = frozenset()
    flip_every: int | None = None
    cut_after: int | None = None
    reset_after: int | None = None
    stall_after: int | None = None
    dead_after_total: int | None = None
    status: int | None = None
    statuses: list[int] = field(default_factory=list)
    extra_size: int = 0
    other_range: bool = False
    etag: str | None = None
    redirect: str | None = None
    rate: float | None = None
    no_ranges: bool = False
    slow_head: float = 0.0
    hang_up: bool = False
    drip: bool = False
    huge_head: bool = False


class FaultyServer:
    """Serves `objects` by the last part of the path. `url(name)` is where."""

    def __init__(self, objects: dict[str, bytes], certificate: Path | None = None) -> None:
        self.objects = objects
        self.faults = Faults()
        self.requests: list[tuple[str, str | None]] = []
        self.headers: list[dict[str, str]] = []
        self.connections = 0
        self.sent = 0
        self.stopped = threading.Event()
        self.lock = threading.Lock()
        outer = self

        class Handler(_Handler):
            server_of_faults = outer

        self._server = _Quiet(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            self._scheme = "https"
        self._thread = threading.Thread(target=lambda: self._server.serve_forever(0.01), daemon=True)

    def url(self, name: str) -> str:
        return f"{self.base}/v1/objects/{name}"

    @property
    def base(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> FaultyServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def faulty(objects: dict[str, bytes], count: int) -> Iterator[list[FaultyServer]]:
    """Several servers of the same objects."""
    servers = [FaultyServer(objects) for _ in range(count)]
    for server in servers:
        server.__enter__()
    try:
        yield servers
    finally:
        for server in servers:
            server.__exit__()


class _Quiet(http.server.ThreadingHTTPServer):
    """Tells nobody of connections that broke."""

    def handle_error(self, request: object, client_address: object) -> None:
        return


class _Handler(http.server.BaseHTTPRequestHandler):
    server_of_faults: FaultyServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        with self.server_of_faults.lock:
            self.server_of_faults.connections += 1

    def log_message(self, format: str, *args: object) -> None:
        return

    def do_GET(self) -> None:
        server, faults = self.server_of_faults, self.server_of_faults.faults
        with server.lock:
            server.requests.append((self.path, self.headers.get("range")))
            server.headers.append(dict(self.headers))
            status = faults.statuses.pop(0) if faults.statuses else faults.status
        if faults.slow_head:
            server.stopped.wait(faults.slow_head)
        if faults.drip:
            self._drip(b"HTTP/1.1 206 Partial Content\r\nContent-Length: 100000000\r\n")
        elif faults.huge_head:
            self.wfile.write(b"HTTP/1.1 206 Partial Content\r\nX-Much: " + bytes(100_000))
        elif faults.redirect:
            self._plain(302, b"", {"Location": faults.redirect})
        elif status is not None:
            self._plain(status, b'{"error": "faulty", "detail": "as asked for"}')
        elif (content := server.objects.get(self.path.rpartition("/")[2].partition("?")[0])) is None:
            self._plain(404, b'{"error": "not_found", "detail": "no item has this hash here"}')
        else:
            self._range(content, faults)

    def do_POST(self) -> None:
        """A bundle, as agents give them."""
        server, faults = self.server_of_faults, self.server_of_faults.faults
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))["sha256"]
        server.requests.append((self.path, None))
        if faults.status is not None:
            self._plain(faults.status, b'{"error": "faulty", "detail": "as asked for"}')
            return
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if faults.drip:
            self._drip(b"1\r\nx\r\n" * 10_000)
            return
        whole = bytearray()
        for name in asked:
            content = server.objects.get(name)
            length = 2**64 - 1 if content is None else len(content) + faults.extra_size
            whole += bytes.fromhex(faults.etag or name) + length.to_bytes(8, "big") + (content or b"")
        for start in range(0, len(whole), PIECE):
            if faults.cut_after is not None and start >= faults.cut_after:
                self.close_connection = True
                return
            if faults.stall_after is not None and start >= faults.stall_after:
                server.stopped.wait(30)
            piece = whole[start : start + PIECE]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")

    def _drip(self, text: bytes) -> None:
        """A byte now and then, to keep whoever waits for the end."""
        self.close_connection = True
        for start in range(len(text)):
            self.wfile.write(text[start : start + 1])
            if self.server_of_faults.stopped.wait(0.05):
                return

    def _plain(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _range(self, content: bytes, faults: Faults) -> None:
        size = len(content) + faults.extra_size
        told = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("range") or "")
        start, end = (int(told[1]), min(int(told[2]) + 1, size)) if told and not faults.no_ranges else (0, size)
        if start >= size:
            self._plain(416, b"{}", {"Content-Range": f"bytes */{size}"})
            return
        if faults.other_range:
            start, end = start + 1, end + 1
        self.send_response(206 if told and not faults.no_ranges else 200)
        self.send_header("Content-Length", str(end - start))
        if told and not faults.no_ranges:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        if faults.etag:
            self.send_header("ETag", f'"{faults.etag}"')
        self.end_headers()
        self._body(content, start, end, faults)
        self.close_connection = self.close_connection or faults.hang_up

    def _body(self, content: bytes, start: int, end: int, faults: Faults) -> None:
        server, sent = self.server_of_faults, 0
        while sent < end - start:
            for limit in (faults.cut_after, faults.reset_after, faults.stall_after):
                if limit is not None and sent >= limit:
                    self._misbehave(faults)
                    return
            with server.lock:
                dead = faults.dead_after_total is not None and server.sent >= faults.dead_after_total
            if dead:
                self._reset()
                return
            at = start + sent
            limits = [limit - sent for limit in (faults.cut_after, faults.reset_after, faults.stall_after) if limit is not None]
            piece = bytearray(content[at : at + min([PIECE, end - at, *limits])])
            piece += bytes(min(PIECE, end - at) - len(piece)) if not limits else b""
            self._flip(piece, at, faults)
            try:
                self.wfile.write(piece)
            except OSError:
                self.close_connection = True
                return
            sent += len(piece)
            with server.lock:
                server.sent += len(piece)
            if faults.rate:
                server.stopped.wait(len(piece) / faults.rate)

    def _flip(self, piece: bytearray, at: int, faults: Faults) -> None:
        wrong = {offset for offset in faults.flip if at <= offset < at + len(piece)}
        if faults.flip_every:
            first = -(-at // faults.flip_every) * faults.flip_every
            wrong |= set(range(first, at + len(piece), faults.flip_every))
        for offset in wrong:
            piece[offset - at] ^= 0xFF

    def _misbehave(self, faults: Faults) -> None:
        self.close_connection = True
        if faults.stall_after is not None:
            self.server_of_faults.stopped.wait(30)
        elif faults.reset_after is not None:
            self._reset()

    def _reset(self) -> None:
        """No orderly end: the other side sees the connection reset."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.wfile.flush()
        time.sleep(0.01)
        self.connection.close()
