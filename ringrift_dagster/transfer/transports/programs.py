"""Other programs that transports have work for them: found, started, and ended with all that they started themselves."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress

from ringrift_dagster.transfer.transports.protocol import TransportFailure

GONE_SECONDS = 2.0
"""What was killed may be in the middle of a write; longer stays only what nobody reaps, and that is dead."""
LOOK_SECONDS = 0.005

_KEPT_VARIABLES = ("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "SSH_AUTH_SOCK")


def find(program: str) -> str:
    """The path of a program. Raises TransportFailure (not_installed)."""
    path = shutil.which(program)
    if path is None:
        raise TransportFailure("not_installed", f"there is no {program} on this machine")
    return path


def start(command: Sequence[str], *, heard: bool) -> subprocess.Popen[bytes]:
    """Start a program in a process group of its own, without proxies, tokens or a language of the user's.

    `heard`: whether its output comes through pipes, or goes nowhere. Only its user can read what it makes. Raises TransportFailure.
    """
    output = subprocess.PIPE if heard else subprocess.DEVNULL
    environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            env={**environment, "LC_ALL": "C"},
            start_new_session=True,
            stdout=output,
            stderr=output,
            umask=0o077,
        )
    except OSError as error:
        raise TransportFailure("failed", f"{command[0]} cannot be started: {error.strerror}") from None


def end(process: subprocess.Popen[bytes]) -> int:
    """Kill a program and its whole group; returns its exit code when nothing of it is left to do any harm."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    code, deadline = process.wait(), time.monotonic() + GONE_SECONDS
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except (ProcessLookupError, PermissionError):
            break
        time.sleep(LOOK_SECONDS)
    return code
