"""aria2: one item from many mirrors at once, each piece verified. One `aria2c` a process, driven over JSON-RPC on loopback.

An offer's address is the URL of the item: of an agent, or a plain or presigned one of any other server. Its piece hashes come
from the agents that are offered, or from the one whose URL of the item the option `pieces` gives; without them nothing is fetched,
since aria2 then puts together whatever it is sent. Its own check of a whole file is not used: it leaves the wrong one lying there.

aria2 follows redirects, and repeats its headers wherever they lead. So agents are shown their token as a password within the URL,
which it keeps to the host and port that the URL names.
"""

from __future__ import annotations

import base64
import itertools
import os
import re
import secrets
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote, urlsplit
from xml.sax.saxutils import escape, quoteattr

import orjson
import urllib3
from pydantic import ValidationError

from ringrift_dagster.transfer.model import Offer, OrderedItem, TransportName
from ringrift_dagster.transfer.pieces import PIECE_SIZE, PiecesAnswer
from ringrift_dagster.transfer.transports import asking, programs
from ringrift_dagster.transfer.transports.protocol import Probe, TransportFailure

STALL_SECONDS = 4.0
LOOP_SECONDS = 60.0
"""So long without any more than there was before, and pieces come that are wrong each time."""
LOOK_SECONDS = 0.1
START_SECONDS, FIRST_ANSWER_SECONDS, ANSWER_SECONDS = 10.0, 0.5, 10.0
START_ATTEMPTS = 5
STRANGE_ANSWERS = 3
"""So many answers that are none of aria2's, and it is not aria2 that listens."""
MIN_CONNECTIONS, MAX_CONNECTIONS = 4, 16
"""Of an item. Each is busy with a piece of its own, which is lost when everything ends in the middle."""
MAX_RPC_BYTES = 96 << 20

_OPTIONS = (
    "enable-rpc=true",
    "rpc-listen-all=false",
    f"rpc-max-request-size={MAX_RPC_BYTES}",
    "enable-dht=false",
    "enable-dht6=false",
    "no-netrc=true",
    "follow-torrent=false",
    "follow-metalink=false",
    "check-certificate=true",
    "file-allocation=none",
    "allow-overwrite=true",
    "auto-file-renaming=false",
    "remote-time=false",
    "http-accept-gzip=false",
    "realtime-chunk-checksum=true",
    "auto-save-interval=0",
    "disk-cache=0",
    f"piece-length={PIECE_SIZE}",
    f"min-split-size={PIECE_SIZE}",
    f"max-connection-per-server={MIN_CONNECTIONS}",
    "max-concurrent-downloads=16",
    "connect-timeout=2",
    "timeout=3",
    "max-tries=3",
    "retry-wait=1",
    "max-file-not-found=1",
    "quiet=true",
)
_CODES = {
    "2": "timeout",
    "3": "not_found",
    "4": "not_found",
    "5": "timeout",
    "6": "unreachable",
    "19": "unreachable",
    "22": "server_error",
    "24": "unauthorized",
    "29": "server_error",
    "32": "changed",
}
"""Of aria2's exit codes."""
_NO_ROOM = "9"
_PASSWORD = re.compile(r"//[^/\s]*@")
_OVER = ("complete", "error", "removed")


class Aria2Transport:
    """Fetches with aria2. `folder` is where its configuration lies while it starts; `token` is what agents want to see.

    `overall` bytes a second are fetched at most, everything together. Use as a context manager, or `close` it: aria2 ends then, and
    ends by itself when this process does. Safe to use from several threads.
    """

    name: ClassVar[TransportName] = TransportName.ARIA2

    def __init__(
        self, folder: Path, token: str | None = None, *, overall: float | None = None, stall_seconds: float = STALL_SECONDS
    ) -> None:
        self._token = token
        self._stall_seconds = stall_seconds
        self._daemon = _Daemon(folder, overall)

    def probe(self, offer: Offer, timeout: float) -> Probe:
        """Whether aria2 is there, and the offer gives its first byte."""
        began = time.monotonic()
        try:
            programs.find("aria2c")
            sha256 = offer.address.rpartition("/")[2]
            asking.reach(_checked(offer.address), asking.headers_for(offer.address, sha256, self._token), timeout)
        except TransportFailure as failure:
            return Probe(failure=failure.code, detail=failure.detail)
        return Probe(latency=time.monotonic() - began)

    def fetch_whole(
        self,
        item: OrderedItem,
        offers: Sequence[Offer],
        into: Path,
        *,
        bytes_a_second: float | None,
        cancelled: Callable[[], bool],
        progress: Callable[[int], None],
    ) -> None:
        """See WholeTransport. All offers at once: agents first, and others where these do not bring it."""
        programs.find("aria2c")
        urls = list(dict.fromkeys(_checked(offer.address) for offer in offers))
        agents = [url for url in urls if asking.is_agent(url, item.sha256)]
        told = [offer.options["pieces"] for offer in offers if asking.is_agent(offer.options.get("pieces", ""), item.sha256)]
        pieces = self._pieces(item, list(dict.fromkeys([*agents, *told])), cancelled)
        failure = TransportFailure("not_found", "nothing is offered")
        for group in (agents, [url for url in urls if url not in agents]):
            if not group:
                continue
            options = _download_options(into, len(group), bytes_a_second)
            shown = [_with_password(url, self._token) if self._token and group is agents else url for url in group]
            try:
                self._download(item, _metalink(item, into.name, pieces, shown), options, into, cancelled, progress)
                return
            except TransportFailure as error:
                if error.code == "cancelled":
                    raise
                failure = error
        raise failure

    def close(self) -> None:
        """End aria2, if it runs."""
        self._daemon.close()

    def __enter__(self) -> Aria2Transport:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _headers(self, url: str, item: OrderedItem) -> dict[str, str]:
        return asking.headers_for(url, item.sha256, self._token)

    def _pieces(self, item: OrderedItem, agents: list[str], cancelled: Callable[[], bool]) -> list[str]:
        """The piece hashes, from the first agent that gives them. Raises TransportFailure."""
        failure = TransportFailure("failed", "no agent is offered that knows the hashes of the pieces")
        for url in agents:
            try:
                answer = PiecesAnswer.model_validate_json(
                    asking.ask(f"{url}/pieces", self._headers(url, item), item.size, cancelled)
                )
                if (answer.sha256, answer.size) != (item.sha256, item.size):
                    raise TransportFailure("changed", f"{url} tells of another item")
                return answer.digests()
            except TransportFailure as error:
                if error.code == "cancelled":
                    raise
                failure = error
            except (ValidationError, ValueError):
                failure = TransportFailure("failed", f"{url} gives no piece hashes")
        raise failure

    def _download(
        self,
        item: OrderedItem,
        metalink: bytes,
        options: dict[str, Any],
        into: Path,
        cancelled: Callable[[], bool],
        progress: Callable[[int], None],
    ) -> None:
        control = into.with_name(f"{into.name}.aria2")
        control.unlink(missing_ok=True)  # what is there is looked at, not what was said about it
        self._daemon.start()
        call = self._daemon.call
        (gid,) = call("addMetalink", base64.b64encode(metalink).decode(), options)
        try:
            status = self._follow(gid, cancelled, progress)
        finally:
            with suppress(TransportFailure):
                call("forceRemove", gid)
            self._wait_until_over(gid)
            with suppress(TransportFailure):
                call("removeDownloadResult", gid)
            control.unlink(missing_ok=True)
        if status["status"] == "complete":
            progress(item.size)
            return
        code, detail = status.get("errorCode", ""), _PASSWORD.sub("//", status.get("errorMessage", ""))
        if code == _NO_ROOM:
            raise OSError(28, "No space left on device", os.fspath(into))
        raise TransportFailure(_CODES.get(code, "failed"), detail or f"aria2 ended with {code}")

    def _follow(self, gid: str, cancelled: Callable[[], bool], progress: Callable[[int], None]) -> dict[str, Any]:
        """The last status of a download. Raises TransportFailure: cancelled, timeout, changed."""
        best, before = 0, ("", "")
        moved = grown = time.monotonic()
        while True:
            status = self._daemon.call("tellStatus", gid)
            now, state = time.monotonic(), (status["completedLength"], status.get("verifiedLength", ""))
            if status["status"] in _OVER:
                return status
            if state != before:
                before, moved = state, now
            if (done := int(status["completedLength"])) > best or status.get("verifiedLength"):
                best, grown = max(best, done), now
                progress(best)
            if cancelled():
                raise TransportFailure("cancelled")
            if now - moved > self._stall_seconds:
                raise TransportFailure("timeout", f"nothing came for {self._stall_seconds:g} s")
            if now - grown > LOOP_SECONDS:
                raise TransportFailure("changed", "pieces come that are wrong each time")
            time.sleep(LOOK_SECONDS)

    def _wait_until_over(self, gid: str) -> None:
        """Nothing writes into the file any more; if aria2 cannot be brought to that, it is ended."""
        deadline = time.monotonic() + self._stall_seconds
        try:
            while self._daemon.call("tellStatus", gid, ["status"])["status"] not in _OVER:
                if time.monotonic() > deadline:
                    self.close()
                    return
                time.sleep(0.01)
        except TransportFailure:
            self.close()


class _Daemon:
    """The running aria2c."""

    def __init__(self, folder: Path, overall: float | None) -> None:
        self._folder = folder
        self._overall = overall
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._url = self._secret = ""
        self._numbers = itertools.count(1)
        self._pool = urllib3.PoolManager(maxsize=MAX_CONNECTIONS, retries=False)

    def start(self) -> None:
        """See that it runs. Raises TransportFailure when there is no aria2 to be had."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._start()

    def call(self, method: str, *parameters: Any) -> Any:
        """The result of a method. Raises TransportFailure for an error, and when it does not run."""
        return self._ask(method, parameters, ANSWER_SECONDS)

    def close(self) -> None:
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            programs.end(process)

    def _start(self) -> None:
        """Start it on a free port; another one, if somebody is faster."""
        for _ in range(START_ATTEMPTS):
            port, self._secret = _free_port(), secrets.token_hex(32)
            self._url = f"http://127.0.0.1:{port}/jsonrpc"
            config = self._write_config(port)
            try:
                self._process = programs.start([programs.find("aria2c"), f"--conf-path={config}"], heard=False)
                if self._answers(self._process):
                    return
                programs.end(self._process)
                self._process = None
            finally:
                config.unlink()
        raise TransportFailure("failed", "aria2c does not start")

    def _write_config(self, port: int) -> Path:
        """The configuration, which nobody else can read: a secret on a command line could be seen by all."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        config = self._folder / f"aria2-{os.getpid()}-{secrets.token_hex(4)}.conf"
        lines = [*_OPTIONS, f"rpc-listen-port={port}", f"rpc-secret={self._secret}", f"stop-with-process={os.getpid()}"]
        if self._overall is not None:
            lines.append(f"max-overall-download-limit={max(1, int(self._overall))}")
        descriptor = os.open(config, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write("\n".join([*lines, ""]))
        return config

    def _answers(self, process: subprocess.Popen[bytes]) -> bool:
        """Whether it answers; False when it ended, or somebody else has the port, whom it does not mind: it has IPv6 as well."""
        deadline, strange = time.monotonic() + START_SECONDS, 0
        while process.poll() is None and time.monotonic() < deadline and strange < STRANGE_ANSWERS:
            try:
                self._ask("getVersion", (), FIRST_ANSWER_SECONDS)
                return process.poll() is None
            except TransportFailure as failure:
                strange += failure.code != "refused"
                time.sleep(0.02)
        return False

    def _ask(self, method: str, parameters: Sequence[Any], timeout: float) -> Any:
        body = {
            "jsonrpc": "2.0",
            "id": str(next(self._numbers)),
            "method": f"aria2.{method}",
            "params": [f"token:{self._secret}", *parameters],
        }
        try:
            answer = self._pool.request("POST", self._url, body=orjson.dumps(body), timeout=timeout)
            told = orjson.loads(answer.data)
            if "error" in told:
                raise TransportFailure("failed", f"aria2: {told['error'].get('message', '')}")
            return told["result"]
        except urllib3.exceptions.NewConnectionError:
            raise TransportFailure("refused", "aria2 does not listen") from None
        except (urllib3.exceptions.HTTPError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise TransportFailure("failed", f"aria2 does not answer: {type(error).__name__}") from None


def _checked(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise TransportFailure("failed", f"not a URL: {url}")
    return url


def _with_password(url: str, token: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=f"agent:{quote(token, safe='')}@{parts.netloc.rpartition('@')[2]}").geturl()


def _download_options(into: Path, sources: int, bytes_a_second: float | None) -> dict[str, Any]:
    """What is wanted for one file. What is in it already is hashed and kept; an empty one need not be."""
    options: dict[str, Any] = {
        "dir": os.fspath(into.absolute().parent),
        "split": str(min(MAX_CONNECTIONS, max(MIN_CONNECTIONS, 2 * sources))),
        "check-integrity": "true" if into.exists() and into.stat().st_blocks else "false",
    }
    if bytes_a_second is not None:
        options["max-download-limit"] = str(max(1, int(bytes_a_second)))
    return options


def _metalink(item: OrderedItem, name: str, pieces: list[str], urls: Sequence[str]) -> bytes:
    hashes = "".join(f"<hash>{digest}</hash>" for digest in pieces)
    mirrors = "".join(f'<url priority="1">{escape(url)}</url>' for url in urls)
    return (
        '<?xml version="1.0" encoding="UTF-8"?><metalink xmlns="urn:ietf:params:xml:ns:metalink">'
        f"<file name={quoteattr(name)}><size>{item.size}</size>"
        f'<pieces length="{PIECE_SIZE}" type="sha-256">{hashes}</pieces>{mirrors}</file></metalink>'
    ).encode()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
