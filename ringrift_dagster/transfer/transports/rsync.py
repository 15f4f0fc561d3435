"""rsync over ssh: for hosts that run no agent. One file at a time, always into the same file, never trusted.

An offer's address is `user@host:/absolute/path`. Its options: `port`; `key`, the path of a private key on this machine; and
`known_hosts`, the path of a file here that has the host's key: without it the first key that a host shows is remembered in a file
of our own. Either way a host with another key than before is refused.
"""

from __future__ import annotations

import errno
import math
import os
import re
import selectors
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ringrift_dagster.cluster.ssh import ssh_words
from ringrift_dagster.manifest.inventory import CHUNK_SIZE
from ringrift_dagster.transfer.model import Offer, OrderedItem, TransportName
from ringrift_dagster.transfer.transports import programs
from ringrift_dagster.transfer.transports.protocol import Probe, TransportFailure

CONNECT_SECONDS = 4.0
STALL_SECONDS = 4.0
COMPARE_SECONDS = 60.0
"""As long nothing may move where both sides first read what is there already."""
LOOK_SECONDS = 0.1
MAX_TOLD = 8 << 10
BLOCK_BYTES = 128 << 10
"""In which both sides compare a file that has gaps; rsync's largest."""

_ADDRESS = re.compile(
    r"(?P<user>[A-Za-z_][A-Za-z0-9_.-]{0,63})@(?P<host>[A-Za-z0-9][A-Za-z0-9.-]{0,252}|\[[0-9A-Fa-f:.]{2,45}\]):(?P<path>/.+)"
)
_PROGRESS = re.compile(rb"(\d+)\s+\d{1,3}%")
_WILDCARD = re.compile(r"([*?\[])")
_SSH_WORDS = (
    ("unauthorized", ("Permission denied (", "Too many authentication failures", "verification failed", "Permissions 0")),
    ("refused", ("Connection refused",)),
    ("timeout", ("timed out", "not responding")),
    ("unreachable", ("No route to host", "Could not resolve", "Network is unreachable", "Name or service not known")),
    ("short", ("Connection reset", "Connection closed", "closed by remote host", "Broken pipe")),
)
_FILE_WORDS = (
    ("not_found", ("No such file or directory", "skipping non-regular", "skipping directory", "vanished", "Not a directory")),
    ("unauthorized", ("Permission denied",)),
    ("not_installed", ("command not found", "rsync: not found", "rsync: No such file")),
)
_CODES = {10: "unreachable", 12: "short", 24: "not_found", 30: "timeout", 35: "timeout", 127: "not_installed"}
"""Of rsync's exit codes; those whose messages tell more are not here."""
_OWN_DISK = (("No space left on device", errno.ENOSPC), ("Read-only file system", errno.EROFS), ("Input/output error", errno.EIO))


@dataclass(frozen=True)
class _Remote:
    """What an offer says."""

    user: str
    host: str
    path: str
    port: int
    key: Path
    known_hosts: Path | None

    @property
    def bare_host(self) -> str:
        return self.host.strip("[]")


class RsyncTransport:
    """Fetches with rsync. `known_hosts`: our own file of host keys. `key`: used where an offer names none; without one nothing is
    tried, since a server closes the door on whoever tries all keys that there are. Times in seconds."""

    name: ClassVar[TransportName] = TransportName.RSYNC

    def __init__(
        self,
        known_hosts: Path,
        *,
        key: Path | None = None,
        connect_seconds: float = CONNECT_SECONDS,
        stall_seconds: float = STALL_SECONDS,
        compare_seconds: float = COMPARE_SECONDS,
    ) -> None:
        self._known_hosts = known_hosts.absolute()
        self._key = key
        self._connect_seconds = connect_seconds
        self._stall_seconds = stall_seconds
        self._compare_seconds = compare_seconds

    def probe(self, offer: Offer, timeout: float) -> Probe:
        """Whether an ssh server greets there. Nobody logs in."""
        try:
            programs.find("rsync")
            programs.find("ssh")
            remote = self._remote(offer)
            began = time.monotonic()
            _greet(remote, timeout)
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
        """See WholeTransport. One offer after another, until one has brought the whole."""
        failure = TransportFailure("not_found", "nothing is offered")
        for offer in offers:
            try:
                self._fetch(item, self._remote(offer), into, bytes_a_second, cancelled, progress)
                return
            except TransportFailure as error:
                if error.code == "cancelled":
                    raise
                failure = error
        raise failure

    def _fetch(
        self,
        item: OrderedItem,
        remote: _Remote,
        into: Path,
        bytes_a_second: float | None,
        cancelled: Callable[[], bool],
        progress: Callable[[int], None],
    ) -> None:
        way = _way(into, item.size)
        stall = self._stall_seconds if "--whole-file" in way else self._compare_seconds
        command = [programs.find("rsync"), *way, *self._options(item, remote, stall, bytes_a_second)]
        wanted = _WILDCARD.sub(_escaped, remote.path)  # which the other side would expand
        command += ["--", f"{remote.user}@{remote.host}:{wanted}", os.fspath(into.absolute())]
        process = programs.start(command, heard=True)
        try:
            told = _follow(process, self._connect_seconds + stall, stall, cancelled, lambda done: progress(min(done, item.size)))
        finally:
            code = programs.end(process)
        if code != 0:
            raise _failure(code, told)
        if not into.exists() or into.stat().st_size != item.size:
            raise _failure(0, told)
        progress(item.size)

    def _options(self, item: OrderedItem, remote: _Remote, stall: float, bytes_a_second: float | None) -> list[str]:
        options = ["--ignore-times", "--copy-links", "--protect-args", "--no-motd", "--info=progress2", "--no-human-readable"]
        options += ["--outbuf=N", f"--timeout={math.ceil(stall)}", f"--rsh={self._ssh(remote)}"]
        # A file of another size is another file: it is not even begun, and can never fill the disk.
        options += [f"--min-size={item.size}b", f"--max-size={item.size}b"]
        if bytes_a_second is not None:
            options.append(f"--bwlimit={max(1, round(bytes_a_second / 1024))}")
        return options

    def _ssh(self, remote: _Remote) -> str:
        words = ssh_words(
            programs.find("ssh"),
            port=remote.port,
            key=remote.key,
            known_hosts=remote.known_hosts,
            remembered_hosts=self._known_hosts,
            connect_seconds=self._connect_seconds,
        )
        return " ".join(map(_rsh_quoted, words))

    def _remote(self, offer: Offer) -> _Remote:
        """What an offer says. Raises TransportFailure for what is not understood, or cannot be used here."""
        parts = _ADDRESS.fullmatch(offer.address)
        port = offer.options.get("port", "22")
        if parts is None or ".." in parts["path"].split("/"):
            raise TransportFailure("failed", f"not user@host:/path: {offer.address}")
        if "\\" in parts["path"] and _WILDCARD.search(parts["path"]):
            raise TransportFailure("failed", f"rsync cannot name a file with a backslash and a wildcard: {parts['path']}")
        if not re.fullmatch(r"[1-9]\d{0,4}", port) or int(port) > 65535:
            raise TransportFailure("failed", f"not a port: {port}")
        key = _file(offer.options.get("key")) or self._key
        if key is None or not key.is_file():
            raise TransportFailure("unauthorized", "there is no such key on this machine" if key else "the offer names no key")
        known_hosts = _file(offer.options.get("known_hosts"))
        if known_hosts is not None and not known_hosts.is_file():
            raise TransportFailure("unauthorized", "there is no such file of host keys on this machine")
        return _Remote(parts["user"], parts["host"], parts["path"], int(port), key, known_hosts)


def _file(told: str | None) -> Path | None:
    if not told:
        return None
    path = Path(told).expanduser()
    if not path.is_absolute():
        raise TransportFailure("failed", f"not an absolute path: {told}")
    return path


def _way(into: Path, size: int) -> list[str]:
    """How rsync is to go on from what is there: it is compared, never believed."""
    try:
        status = into.stat()
    except FileNotFoundError:
        return ["--inplace", "--whole-file"]
    there = min(status.st_size, status.st_blocks * 512)
    if there == 0:
        return ["--inplace", "--whole-file"]
    if status.st_size < size and status.st_size - there < CHUNK_SIZE:
        return ["--append-verify"]
    return ["--inplace", "--no-whole-file", f"--block-size={BLOCK_BYTES}"]


def _follow(
    process: subprocess.Popen[bytes],
    first_seconds: float,
    stall_seconds: float,
    cancelled: Callable[[], bool],
    progress: Callable[[int], None],
) -> str:
    """Wait until the program has said all; returns what it complained of. Raises TransportFailure: cancelled, timeout."""
    complaints, best, patience, moved = b"", -1, first_seconds, time.monotonic()
    with selectors.DefaultSelector() as streams:
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            streams.register(stream, selectors.EVENT_READ)
        while streams.get_map():
            if cancelled():
                raise TransportFailure("cancelled")
            if time.monotonic() - moved > patience:
                raise TransportFailure("timeout", complaints.decode(errors="replace") or f"nothing came for {patience:g} s")
            for key, _ in streams.select(LOOK_SECONDS):
                told = os.read(key.fd, MAX_TOLD)
                if not told:
                    streams.unregister(key.fileobj)
                elif key.fileobj is process.stderr:
                    complaints = (complaints + told)[:MAX_TOLD]
                elif (done := max(map(int, _PROGRESS.findall(told)), default=-1)) > best:
                    best, patience = done, stall_seconds
                    progress(done)
                    moved = time.monotonic()
        try:
            process.wait(first_seconds)
        except subprocess.TimeoutExpired:
            raise TransportFailure("timeout", "rsync does not end") from None
    return complaints.decode(errors="replace")


def _failure(code: int, told: str) -> TransportFailure | OSError:
    """What rsync's end means. What our own disk refused is an OSError."""
    detail = told.strip() or ("the file there has another size" if code == 0 else f"rsync ended with {code}")
    if code == 11:
        for words, number in _OWN_DISK:
            if words in told:
                return OSError(number, words)
    groups = _SSH_WORDS if code in (12, 255) else _FILE_WORDS
    for name, words in groups:
        if any(word in told for word in words):
            return TransportFailure(name, detail)
    return TransportFailure("changed" if code == 0 else _CODES.get(code, "failed"), detail)


def _greet(remote: _Remote, timeout: float) -> None:
    """Raises TransportFailure unless an ssh server says what it is."""
    try:
        with socket.create_connection((remote.bare_host, remote.port), timeout) as connection:
            connection.settimeout(timeout)
            greeting = connection.recv(64)
    except TimeoutError:
        raise TransportFailure("timeout", f"{remote.host} does not answer") from None
    except ConnectionRefusedError:
        raise TransportFailure("refused", f"nobody listens on port {remote.port} of {remote.host}") from None
    except OSError as error:
        raise TransportFailure("unreachable", f"{remote.host}: {error.strerror or error}") from None
    if not greeting.startswith(b"SSH-"):
        raise TransportFailure("failed", f"what answers on port {remote.port} of {remote.host} is no ssh server")


def _escaped(match: re.Match[str]) -> str:
    return f"\\{match[1]}"


def _rsh_quoted(word: str) -> str:
    """A word of the remote shell's command as rsync takes it apart: a doubled quote within quotes is one."""
    return '"' + word.replace('"', '""') + '"'
