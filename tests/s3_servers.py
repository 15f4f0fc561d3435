"""Real S3 servers on loopback, and a proxy that stands before one of them, keeps a record and breaks what it is told to break."""

from __future__ import annotations

import http.client
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ringrift_dagster.manifest.sources.s3_client import make_client

KEY, SECRET = "TESTACCESSKEY", "testsecretkey"
RCLONE = Path(sys.executable).with_name("rclone")
_BUCKETS = count(1)


@dataclass
class S3Server:
    """A bucket of a running server, and a client that may do anything with it."""

    endpoint: str
    bucket: str
    client: Any

    def put(self, key: str, body: bytes = b"content", metadata: Mapping[str, str] | None = None, **options: Any) -> None:
        self.client.put_object(Bucket=self.bucket, Key=key, Body=body, Metadata=dict(metadata or {}), **options)


@cache
def client_of(endpoint: str, *, secret: str = SECRET, **options: Any) -> Any:
    """A client of the project's own making, that gives up quickly."""
    limits = {"connect_seconds": 5.0, "read_seconds": 10.0, "attempts": 1, **options}
    return make_client("us-east-1", endpoint, aws_access_key_id=KEY, aws_secret_access_key=secret, **limits)


def new_bucket(endpoint: str) -> S3Server:
    """An empty bucket of a server."""
    client, bucket = client_of(endpoint, attempts=2), f"ringrift-{next(_BUCKETS)}"
    client.create_bucket(Bucket=bucket)
    return S3Server(endpoint, bucket, client)


@contextmanager
def rclone_server(root: Path) -> Iterator[str]:
    """`rclone serve s3` over a directory; yields its endpoint. Metadata lives as long as the server does."""
    data, log = root / "data", root / "rclone.log"
    data.mkdir(parents=True)
    command = [str(RCLONE), "serve", "s3", "--auth-key", f"{KEY},{SECRET}", "--addr", "127.0.0.1:0", str(data)]
    environment = {"HOME": str(root), "RCLONE_CONFIG": "/dev/null"}
    with log.open("wb") as output, subprocess.Popen(command, env=environment, stdout=output, stderr=output) as process:
        try:
            yield _announced(log, process)
        finally:
            process.terminate()


@contextmanager
def moto_server() -> Iterator[str]:
    """moto's server; yields its endpoint. It asks nobody who they are."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        yield "http://{}:{}".format(*server.get_host_and_port())
    finally:
        server.stop()


@dataclass(frozen=True)
class Request:
    """What came by. `key` is the object's, below its bucket, or empty; `query` as it stands in the URL."""

    method: str
    key: str
    query: str


@dataclass
class Answer:
    """What goes back."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


Fault = Callable[[Request], str | int | None]


@dataclass
class Proxy:
    """A proxy before a server. `fault` says what is done to a request instead of passing it on: a status to answer with, "hang"
    for no answer, "reset" for a connection cut in the middle of the answer, "garbage" for an answer that is no XML. `rewrite`
    changes what goes back."""

    endpoint: str
    requests: list[Request] = field(default_factory=list)
    fault: Fault = lambda request: None
    rewrite: Callable[[Request, Answer], None] = lambda request, answer: None
    released: threading.Event = field(default_factory=threading.Event)

    def seen(self, method: str) -> list[str]:
        """The keys of the requests of a kind, in order."""
        return [request.key for request in self.requests if request.method == method and request.key]


@contextmanager
def proxy_before(endpoint: str) -> Iterator[Proxy]:
    """Put a proxy before a server; signatures stay good, since it passes on the host that they were made for."""
    proxy = Proxy("")
    target = urlsplit(endpoint)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_request(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path, _, query = self.path.partition("?")
            request = Request(self.command, unquote(path.lstrip("/").partition("/")[2]), query)
            proxy.requests.append(request)
            fault = proxy.fault(request)
            if fault == "hang":
                proxy.released.wait(20)
                self.close_connection = True
            elif isinstance(fault, int):
                self.reply(Answer(fault, [], _error_body(fault)))
            elif fault == "garbage":
                self.reply(Answer(200, [("Content-Type", "application/xml")], b"<ListBucketResult><Contents>"))
            else:
                self.reply(self.passed_on(request, body), cut=fault == "reset")

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_request

        def passed_on(self, request: Request, body: bytes) -> Answer:
            connection = http.client.HTTPConnection(target.hostname or "", target.port, timeout=20)
            try:
                connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    if name.lower() not in ("expect", "connection"):
                        connection.putheader(name, value)
                connection.endheaders(body)
                response = connection.getresponse()
                answer = Answer(response.status, response.getheaders(), response.read())
            finally:
                connection.close()
            proxy.rewrite(request, answer)
            return answer

        def reply(self, answer: Answer, *, cut: bool = False) -> None:
            self.send_response_only(answer.status)
            dropped = {"transfer-encoding", "connection"} | (set() if self.command == "HEAD" else {"content-length"})
            for name, value in answer.headers:
                if name.lower() not in dropped:
                    self.send_header(name, value)
            if self.command != "HEAD":
                self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            if self.command == "HEAD":
                return
            self.wfile.write(answer.body[: len(answer.body) // 2] if cut else answer.body)
            if cut:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
                self.close_connection = True

        def log_message(self, *arguments: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *arguments: object) -> None:
            pass  # connections that clients gave up

    with Server(("127.0.0.1", 0), Handler) as server:
        proxy.endpoint = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02), daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            proxy.released.set()
            server.shutdown()
            thread.join()


def closed_port() -> str:
    """An endpoint where nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def _error_body(status: int) -> bytes:
    code = {403: "AccessDenied", 404: "NoSuchBucket", 503: "SlowDown"}.get(status, "InternalError")
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>made by the test</Message></Error>".encode()


def _announced(log: Path, process: subprocess.Popen[bytes]) -> str:
    """The endpoint that rclone says it serves on."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError):
            told = re.search(r"\[(http://127\.0\.0\.1:[1-9]\d*)/\]", log.read_text(errors="replace"))
            if told:
                return told[1]
        time.sleep(0.01)
    raise RuntimeError(f"rclone does not serve: {log.read_text(errors='replace')}")
