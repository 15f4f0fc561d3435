"""A real HTTP server that takes whatever is posted to it, as agents and Slack do."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson


class Hook:
    """`taken` are (path, body) of what was answered with `status`; `refused` counts what was not. `url` is where it listens."""

    def __init__(self) -> None:
        self.status = 200
        self.stalled = threading.Event()
        self.stalled.set()
        self.taken: list[tuple[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.refused = 0
        self.url = ""


@contextmanager
def hook(answer: bytes = b"ok") -> Iterator[Hook]:
    """A server until the block ends, that answers always the same."""
    state = Hook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            state.stalled.wait(20)
            state.headers.append({name.lower(): value for name, value in self.headers.items()})
            if state.status < 300:
                state.taken.append((self.path, orjson.loads(body)))
            else:
                state.refused += 1
            self.send_response(state.status)
            self.send_header("content-length", str(len(answer)))
            self.send_header("location", "/elsewhere")
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield state
    finally:
        state.stalled.set()
        server.shutdown()
        server.server_close()
