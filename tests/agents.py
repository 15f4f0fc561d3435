"""Starting real agents for tests: each a process of its own, on a free port of loopback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ringrift_dagster.manifest.sources.node import NodeSource

_PROGRAM = "from ringrift_dagster.cli.node import node; node()"


@dataclass
class RunningAgent:
    """An agent's process. `url` is where it answers."""

    name: str
    root: Path
    url: str
    process: subprocess.Popen[str]
    token: str | None = None

    def source(self, root: str = "tree", *, location: str | None = None, max_age: float | None = 0) -> NodeSource:
        """It as a source; by default it looks at its files anew for every question."""
        return NodeSource(
            location or (self.name if root == "tree" else root), self.url, self.token, root, self.name, max_age=max_age
        )

    def kill(self) -> None:
        """As a crash does."""
        self.process.kill()
        self.process.wait()


@contextmanager
def running_agent(
    root: Path,
    name: str,
    *options: str,
    token: str | None = None,
    interval: float = 30.0,
    snapshot_interval: float = 0.0,
    port: int = 0,
    within: Sequence[str] = (),
) -> Iterator[RunningAgent]:
    """An agent on `root` with further options of `node serve`, ended with the block. `interval` in seconds; `within`: a command
    that runs it."""
    process = start(
        root, name, *options, token=token, interval=interval, snapshot_interval=snapshot_interval, port=port, within=within
    )
    with process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("listening http"), f"the agent did not start: {line!r}"
            yield RunningAgent(name, root, line.split()[1], process, token)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def start(
    root: Path,
    name: str,
    *options: str,
    token: str | None = None,
    interval: float = 30.0,
    snapshot_interval: float = 0.0,
    port: int = 0,
    host: str = "127.0.0.1",
    within: Sequence[str] = (),
) -> subprocess.Popen[str]:
    """Just the process; its stdout and stderr are pipes."""
    command = [sys.executable, "-c", _PROGRAM, "serve", "--root", str(root), "--name", name, "--host", host, "--port", str(port)]
    command += ["--interval", str(interval), "--snapshot-interval", str(snapshot_interval), "--scrub-rest", "0"]
    command = [*within, *command, *options]
    environment = {key: value for key, value in os.environ.items() if key != "RINGRIFT_NODE_TOKEN"}
    if token is not None:
        environment["RINGRIFT_NODE_TOKEN"] = token
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
