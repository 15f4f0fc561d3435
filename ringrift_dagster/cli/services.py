"""Dagster's three processes on this machine: code server, webserver, daemon. They live as long as the block that uses them.

Each leads its own process group, and the group is ended with it: nothing is left behind, run workers
included.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import click
import dagster as dg

HOST = "127.0.0.1"
LOCATION = "ringrift"
"""The name of the code location in Dagster."""
DEFINITIONS = "ringrift_dagster.definitions"
START_SECONDS = 120
STOP_SECONDS = 10
CODE_SERVER_THREADS = 16
"""Sensors that wait for something hold one each."""
POLL_SECONDS = 0.1


@dataclass(frozen=True)
class _Part:
    """One of the processes; what closes `ending` ends it."""

    command: Sequence[str]
    process: subprocess.Popen[bytes]
    ending: ExitStack


class Services:
    """Dagster on one port of this machine; use as a context manager.

    The home has to be initialised and held (see `dagster_home`). The daemon starts runs by itself and is
    started separately.
    """

    def __init__(self, directory: Path, port: int) -> None:
        self.url = f"http://{HOST}:{port}"
        self._workspace = directory / "services" / "workspace.yaml"
        self._parts: dict[str, _Part] = {}
        self._port = port

    def __enter__(self) -> Self:
        """Start code server and webserver; `wait_until_ready` before use."""
        self._workspace.parent.mkdir(exist_ok=True)
        code_port = free_port()
        self._workspace.write_text(f"load_from:\n  - grpc_server: {{host: {HOST}, port: {code_port}, location_name: {LOCATION}}}\n")
        with ExitStack() as stack:
            stack.push(self.__exit__)
            threads = ("--max-workers", str(CODE_SERVER_THREADS))
            self._start("code-server", "dagster", "api", "grpc", "-m", DEFINITIONS, "-h", HOST, "-p", str(code_port), *threads)
            self._wait("the code server", lambda: _accepts(code_port))
            self._start("webserver", "dagster_webserver", "-h", HOST, "-p", str(self._port), "-w", str(self._workspace))
            stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """All are asked to end before the first is waited for: a sensor that waits for events takes its time."""
        for part in self._parts.values():
            _signal_group(part.process, signal.SIGTERM)
        with ExitStack() as stack:
            for part in self._parts.values():
                stack.enter_context(part.ending)
            self._parts.clear()

    def wait_until_ready(self) -> None:
        """Returns when the web interface answers."""
        self._wait("the webserver", lambda: _answers(f"{self.url}/server_info"))

    def launch(self, job: str, run_config: dg.RunConfig) -> str:
        """Start a run of a job as the web interface does; its id."""
        from dagster_graphql import DagsterGraphQLClient, DagsterGraphQLClientError

        try:
            client = DagsterGraphQLClient(HOST, port_number=self._port)
            return client.submit_job_execution(job, repository_location_name=LOCATION, run_config=run_config)
        except DagsterGraphQLClientError as error:
            raise click.ClickException(f"no run of {job} was started: {' '.join(str(error).split())}") from error

    def start_daemon(self) -> None:
        """From now on sensors, schedules and the run queue work."""
        self._start("daemon", "dagster._daemon", "run", "-w", str(self._workspace))

    def check(self) -> None:
        """Raises if a process has died, with where to read why."""
        for name, part in self._parts.items():
            if (status := part.process.poll()) is not None:
                raise click.ClickException(f"{name} ended with status {status}; see {self._log(name)}")

    def pid(self, name: str) -> int:
        """Of `code-server`, `webserver` or `daemon`. Raises KeyError if it was not started."""
        return self._parts[name].process.pid

    def restart(self, name: str) -> None:
        """Start one of them again, as it was; what is left of it and its children is ended first. Its log goes on."""
        part = self._parts[name]
        part.ending.close()
        self._run(name, part.command, append=True)

    def _start(self, name: str, module: str, *arguments: str) -> None:
        self._run(name, [sys.executable, "-m", module, *arguments])

    def _run(self, name: str, command: Sequence[str], *, append: bool = False) -> None:
        ending = ExitStack()
        process = ending.enter_context(started(command, self._log(name), append=append))
        self._parts[name] = _Part(command, process, ending)

    def _wait(self, what: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise click.ClickException(f"{what} did not answer in {START_SECONDS} s; see {self._workspace.parent}")
            time.sleep(POLL_SECONDS)

    def _log(self, name: str) -> Path:
        return self._workspace.with_name(f"{name}.log")


def choose_port(wanted: int) -> int:
    """`wanted`, or a free port if something else listens there."""
    return free_port() if _accepts(wanted) else wanted


def free_port() -> int:
    """A port nothing listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Within the block SIGTERM and SIGHUP unwind the stack as Ctrl-C does, so that what was started is ended.

    SIGINT has its handler too: Dagster gives SIGTERM whatever handler SIGINT has, which in a background job is to ignore it, and
    child processes would inherit that.
    """

    def unwind(*_: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, unwind) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def started(command: Sequence[str], log: Path, *, append: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    """A process with its children, in a group of their own, that is ended with the block; what it says goes to `log`."""
    with log.open("ab" if append else "wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield process
    finally:
        _end_group(process)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Ask the whole group to end, then make it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if not _signal_group(process, number):
            break
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def _signal_group(process: subprocess.Popen[bytes], number: int) -> bool:
    """Whether there was anybody to signal."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return False
    return True


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status == 200
    except (urllib.error.URLError, OSError):
        return False
