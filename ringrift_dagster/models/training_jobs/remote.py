"""Requests to `host_side` on a training host over ssh, one connection each. What the requests mean is not known here."""

from __future__ import annotations

import json
import os
import select
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ringrift_dagster.cluster.host import Host
from ringrift_dagster.cluster.ssh import ssh_words
from ringrift_dagster.home import Home

CONNECT_SECONDS: Final = 10.0
QUIET_SECONDS: Final = 60.0
"""Without a byte from `host_side`, which says every five seconds that it is at work."""
MAX_LINE_BYTES: Final = 1 << 20
MAX_ERROR_CHARACTERS: Final = 300
_HOST_SIDE: Final = Path(__file__).with_name("host_side.py")
_READ_PROGRAM: Final = (
    "import sys; size = int(sys.stdin.buffer.readline()); "
    "exec(compile(sys.stdin.buffer.read(size), 'host_side', 'exec'), {'__name__': '__main__'})"
)
_KEPT_VARIABLES: Final = ("PATH", "HOME", "USER", "LOGNAME", "TMPDIR")


class TrainingHostError(Exception):
    """A training host that cannot do what is asked; the message is one line."""


class HostUnreachable(TrainingHostError):
    """The connection could not be made, or broke. What runs on the host goes on."""


class RequestRefused(TrainingHostError):
    """The host answers that it cannot be done. `code` is that of `host_side.Refused`."""

    def __init__(self, host: str, code: str, detail: str) -> None:
        super().__init__(f"{host}: {detail}")
        self.code = code


@dataclass(frozen=True)
class TrainingHost:
    """A host that can be logged in to. `root` is RingRift's tree there, `python` its interpreter for `host_side`.

    `words` are those of the ssh command, the host included.
    """

    name: str
    words: tuple[str, ...]
    root: str
    python: str = "python3"

    def ask(self, **request: Any) -> dict[str, Any]:
        """The answer to a request. Raises TrainingHostError."""
        with self.asked(**request) as connection:
            for _ in connection.lines():
                pass
            return connection.answer

    @contextmanager
    def asked(self, **request: Any) -> Iterator[Connection]:
        """A request that is being answered. The connection ends with the block."""
        program = _HOST_SIDE.read_bytes()
        sent = b"%d\n%b%b\n" % (len(program), program, json.dumps({"root": self.root, **request}).encode())
        remote = f"exec {shlex.quote(self.python)} -c {shlex.quote(_READ_PROGRAM)}"
        environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
        with tempfile.TemporaryFile() as errors:
            try:
                process = subprocess.Popen(
                    [*self.words, remote],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    bufsize=0,
                    env={**environment, "LC_ALL": "C"},
                    start_new_session=True,  # a signal to this process's group does not break the connection
                )
            except OSError as error:
                raise TrainingHostError(f"{self.words[0]} cannot be started: {error.strerror}") from None
            try:
                assert process.stdin is not None
                with suppress(BrokenPipeError):
                    process.stdin.write(sent)
                yield Connection(self.name, process, errors)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                for pipe in (process.stdin, process.stdout):
                    if pipe is not None:
                        with suppress(OSError):
                            pipe.close()


class Connection:
    """What comes back. `answer` is the request's, once `lines` are through."""

    def __init__(self, host: str, process: subprocess.Popen[bytes], errors: Any) -> None:
        self._host = host
        self._process = process
        self._errors = errors
        self._buffer = b""
        self.answer: dict[str, Any] = {}

    def lines(self) -> Iterator[dict[str, Any]]:
        """What the host says until the answer; that is not among them. Raises TrainingHostError."""
        while (said := self.line()) is not None:
            yield said

    def line(self) -> dict[str, Any] | None:
        """The next that the host says; None if it was the answer."""
        while True:
            said = self._line()
            if "beat" in said:
                continue
            if "done" not in said:
                return said
            answer = said["done"]
            if "refused" in answer:
                raise RequestRefused(self._host, str(answer["refused"]), _one_line(str(answer.get("detail"))))
            self.answer = answer
            return None

    def read(self, limit: int) -> bytes:
        """The next bytes, at least one and at most `limit`."""
        if not self._buffer:
            self._more()
        taken, self._buffer = self._buffer[:limit], self._buffer[limit:]
        return taken

    def _line(self) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            if len(self._buffer) > MAX_LINE_BYTES:
                raise TrainingHostError(f"{self._host}: what answers is not the launcher of training jobs")
            self._more()
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            said = json.loads(line)
        except ValueError:
            said = None
        if not isinstance(said, dict):
            raise TrainingHostError(f"{self._host}: its login shell prints {_one_line(line.decode(errors='replace'))[:80]!r}")
        return said

    def _more(self) -> None:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], QUIET_SECONDS)
        if not ready:
            raise HostUnreachable(f"{self._host} cannot be reached: nothing came for {QUIET_SECONDS:g} s")
        block = os.read(self._process.stdout.fileno(), 64 << 10)
        if not block:
            raise self._failure()
        self._buffer += block

    def _failure(self) -> TrainingHostError:
        """What it means that the connection ended before the answer."""
        code = self._process.wait()
        self._errors.seek(0)
        complaints = self._errors.read(64 << 10).decode(errors="replace").strip().splitlines()
        detail = _one_line(complaints[-1]) if complaints else f"the connection ended ({code})"
        if code == 255:
            return HostUnreachable(f"{self._host} cannot be reached: {detail}")
        if code == 127:
            return TrainingHostError(f"{self._host} has no Python 3 on its path: {detail}")
        return HostUnreachable(f"{self._host} broke off: {detail}")


def training_host(host: Host, home: Home, *, python: str = "python3") -> TrainingHost:
    """A host of the hosts file. Raises TrainingHostError for one that cannot be logged in to, or has no RingRift tree."""
    login = host.ssh
    if login.host is None or host.root is None:
        raise TrainingHostError(f"the hosts file gives {host.name} no {'ssh_host' if login.host is None else 'ringrift_path'}")
    key = Path(login.key).expanduser() if login.key else None
    if key is None or not key.is_file():
        raise TrainingHostError(
            f"ssh_key of {host.name}: {f'there is no {key} on this machine' if key else 'the hosts file has none'}"
        )
    program = shutil.which("ssh")
    if program is None:
        raise TrainingHostError("there is no ssh on this machine")
    words = ssh_words(
        program,
        port=login.port,
        key=key,
        known_hosts=None,
        remembered_hosts=home.root / "known_hosts",
        connect_seconds=CONNECT_SECONDS,
    )
    return TrainingHost(host.name, (*words, "--", f"{login.user}@{login.host}"), host.root, python)


def _one_line(text: str) -> str:
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())[:MAX_ERROR_CHARACTERS]
