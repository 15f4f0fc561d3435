"""Running a script that reads a file nobody vouches for: in a process of its own, with limits, without network or environment.

The process may use so much memory and time, writes no files, and is ended with all that it started. Where the kernel lets everybody
make namespaces (Linux, mostly) it has no network either; where not, the outcome says so. What runs there is the caller's.

Run as a script, this module is that process, `python -I confinement.py LIMITS SCRIPT ARGUMENTS...`: so it imports nothing but the
standard library.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import runpy
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Final

_CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEWNET: Final = 0x40000000
_READ_BYTES: Final = 64 << 10


@dataclass(frozen=True)
class Limits:
    """What a confined process may use. Sizes in bytes, times in seconds.

    `data` is memory of its own; `address_space` counts the libraries that it maps as well. `seconds` are of the clock, and
    `cpu_seconds` of the processor.
    """

    data: int
    address_space: int
    cpu_seconds: int = 300
    seconds: float = 300.0
    open_files: int = 64
    output: int = 32 << 20


@dataclass(frozen=True)
class Outcome:
    """What a confined process printed, and how it ended.

    `ending` is None if it exited with 0, else `timeout`, `output` (it printed too much), a signal's name or `exit status N`.
    `network` is None if it had none, else why it could not be without.
    """

    output: bytes
    ending: str | None
    network: str | None


def run_confined(
    script: Path,
    arguments: Sequence[str],
    *,
    limits: Limits,
    descriptors: Sequence[int] = (),
    environment: Mapping[str, str] | None = None,
) -> Outcome:
    """Run a Python script confined; nothing of it runs any more when this returns.

    The script finds this package in `sys.path` and inherits `descriptors`; its environment is `environment`, by default empty.
    Raises OSError if no process can be made.
    """
    command = [sys.executable, "-I", "-B", __file__, json.dumps(asdict(limits)), str(script), *arguments]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env=dict(environment or {}),
        pass_fds=descriptors,
        start_new_session=True,
    )
    assert process.stdout is not None
    with process.stdout as pipe:
        try:
            output, ending = _read(pipe, limits.output, time.monotonic() + limits.seconds)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # a status that the process has exited with stays
            status = process.wait()
    first, _, rest = output.partition(b"\n")
    try:
        network = json.loads(first)["network"]
    except (ValueError, TypeError, KeyError):
        network = "the process ended before it gave up the network"
    return Outcome(rest, ending or _ending(status), network)


def _read(pipe: IO[bytes], most: int, deadline: float) -> tuple[bytes, str | None]:
    """What comes out of a pipe until all its writers have ended, and why it was not read to there."""
    output = bytearray()
    while (left := deadline - time.monotonic()) > 0:
        if select.select([pipe], [], [], left)[0]:
            block = os.read(pipe.fileno(), _READ_BYTES)
            output += block
            if not block:
                return bytes(output), None
            if len(output) > most:
                return bytes(output[:most]), "output"
    return bytes(output), "timeout"


def _ending(status: int) -> str | None:
    if status < 0:
        return signal.Signals(-status).name
    return f"exit status {status}" if status else None


def _confine(limits: Limits) -> str | None:
    """Limit this process for good, and give up the network; returns why the latter was not possible, None if it was."""
    for kind, value in (
        (resource.RLIMIT_DATA, limits.data),
        (resource.RLIMIT_AS, limits.address_space),
        (resource.RLIMIT_NOFILE, limits.open_files),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        _limit(kind, value, value)
    _limit(resource.RLIMIT_CPU, limits.cpu_seconds, limits.cpu_seconds + 1)  # SIGXCPU says why, SIGKILL would not
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "unshare"):
        return "this system has no network namespaces"
    # the namespace of users comes first: in it nobody needs a privilege, and root loses the privileges that it has outside
    if library.unshare(_CLONE_NEWUSER | _CLONE_NEWNET):
        return os.strerror(ctypes.get_errno())
    return None


def _limit(kind: int, soft: int, hard: int) -> None:
    """Lower a limit. One that is lower already stays."""
    _, present = resource.getrlimit(kind)
    if present != resource.RLIM_INFINITY:
        soft, hard = min(soft, present), min(hard, present)
    resource.setrlimit(kind, (soft, hard))


def _main() -> None:
    limits, script, *arguments = sys.argv[1:]
    print(json.dumps({"network": _confine(Limits(**json.loads(limits)))}), flush=True)
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
    sys.argv[:] = [script, *arguments]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    _main()
