"""The part of a training job that runs on the training host: the standard library of Python 3.8, Linux.

It is sent over ssh, read from standard input and installed nowhere. It takes one request (JSON, a line) and answers with lines of
JSON; `{"beat": …}` only says that it is at work. A job has a directory `.ringrift-node/training/<job>/` below the host's root:

    lock            held (flock) while a job is started or marked as cancelled
    process.json    pid, start time and boot id of the command; written before the command begins, which makes the job started
    exit.json       its exit status
    cancelled.json  who cancelled it
    stdout, stderr, messages (Dagster Pipes), and the checkpoint

What a job is for, and what follows from its end, is decided by the caller.
"""

from __future__ import annotations

import base64
import errno
import fcntl
import hashlib
import json
import os
import re
import signal
import stat
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Iterator, NoReturn  # noqa: UP035 - Python 3.8

PROC = Path("/proc")
FOLDER = ".ringrift-node/training"
STREAMS = ("stdout", "stderr", "messages")
MARK = "RINGRIFT_TRAINING_JOB"
"""Environment variable of the command and its children, with the job's id."""
BLOCK_BYTES = 1 << 20
CHUNK_BYTES = 64 << 10
BEAT_SECONDS = 5.0
LOOK_SECONDS = 0.05
GONE_SECONDS = 10.0
"""After SIGKILL, until a process that still shows is reported as not gone."""


class Refused(Exception):
    """The request cannot be done. The first argument is a code, the second one line."""


def say(**answer: Any) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


class Beat:
    """Says now and then that work goes on."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def __call__(self) -> None:
        if time.monotonic() - self.last >= BEAT_SECONDS:
            self.last = time.monotonic()
            say(beat=self.last)


def read_json(path: Path) -> dict[str, Any] | None:
    try:
        with path.open("rb") as file:
            value = json.loads(file.read(BLOCK_BYTES))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def write_json(path: Path, value: dict[str, Any]) -> None:
    part = path.with_name(path.name + ".part")
    with part.open("w") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


# --- processes ---


def boot_id() -> str:
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()


def process_stat(pid: int) -> tuple[str, int, int] | None:
    """State, process group and start time (clock ticks since boot) of a process; None if there is none."""
    try:
        fields = (PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
        return fields[0].decode(), int(fields[2]), int(fields[19])
    except (OSError, IndexError, ValueError):
        return None


def identity(pid: int) -> dict[str, Any]:
    """What tells a process from a later one with the same pid."""
    stat = process_stat(pid)
    return {"pid": pid, "start_time": stat[2] if stat else 0, "boot_id": boot_id()}


def alive(recorded: dict[str, Any], *, zombie: bool = False) -> bool:
    """Whether the recorded process is there: the same pid, start time and boot; with `zombie` also one that waits to be reaped."""
    if recorded.get("boot_id") != boot_id():
        return False
    stat = process_stat(recorded["pid"])
    return stat is not None and stat[2] == recorded["start_time"] and (zombie or stat[0] not in ("Z", "X"))


def members(recorded: dict[str, Any], job: str) -> list[int]:
    """Pids of the recorded process's group that are not dead; none if the group is not that job's.

    The group is the job's while the recorded process leads it, or, once that is gone, if a member has the job's mark.
    """
    if recorded.get("boot_id") != boot_id():
        return []
    pids = []
    for entry in PROC.iterdir():
        about = process_stat(int(entry.name)) if entry.name.isdigit() else None
        if about is not None and about[1] == recorded["pid"] and about[0] not in ("Z", "X"):
            pids.append(int(entry.name))
    if pids and (alive(recorded, zombie=True) or any(marked(pid, job) for pid in pids)):
        return pids
    return []


def marked(pid: int, job: str) -> bool:
    try:
        return f"{MARK}={job}".encode() in (PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return False


# --- a job's directory ---


def folder_of(request: dict[str, Any]) -> tuple[Path, Path]:
    if not (PROC / "self").is_dir():
        raise Refused("not_linux", "the host has no /proc: training jobs need Linux")
    if not re.fullmatch(r"[0-9a-f-]{36}", request["job"]):
        raise Refused("bad_request", "not a job's id")
    root = Path(request["root"]).expanduser().resolve()
    if not root.is_dir():
        raise Refused("no_root", f"there is no directory {request['root']}")
    return root, root / FOLDER / request["job"]


@contextmanager
def locked(folder: Path) -> Iterator[IO[bytes]]:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    beat = Beat()
    beat.last = 0  # who waits says so at once
    with (folder / "lock").open("ab") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
            beat()
            time.sleep(LOOK_SECONDS)
        yield lock


def state_of(folder: Path) -> dict[str, Any]:
    """What is known of the job. `state`: absent, running, ended, vanished (no process, no exit status), cancelled (never began)."""
    process = read_json(folder / "process.json")
    cancelled = read_json(folder / "cancelled.json")
    known: dict[str, Any] = {"folder": str(folder), "process": process, "cancelled": cancelled, "exit": None}
    if process is None:
        return dict(known, state="absent" if cancelled is None else "cancelled")
    running = alive(process) or (alive(process, zombie=True) and alive(process["supervisor"]))
    known["exit"] = read_json(folder / "exit.json")  # after the look at the process: it is written before that is gone
    if known["exit"] is not None:
        return dict(known, state="ended")
    return dict(known, state="running" if running else "vanished")


def version_of(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns]


def verified_version(path: Path, sha256: str) -> list[int]:
    """Hash a training set; what changes with its content. Raises Refused."""
    beat, digest = Beat(), hashlib.sha256()
    try:
        before = version_of(path)
        with path.open("rb") as file:
            for block in iter(lambda: file.read(BLOCK_BYTES), b""):
                digest.update(block)
                beat()
        if version_of(path) != before:
            raise Refused("data_mismatch", f"{path} changes while it is read")
    except OSError as error:
        raise Refused("data_unreadable", f"{path}: {error.strerror}") from None
    if digest.hexdigest() != sha256:
        raise Refused("data_mismatch", f"{path} has hash {digest.hexdigest()[:12]}, expected {sha256[:12]}")
    return before


# --- requests ---


def start(request: dict[str, Any]) -> dict[str, Any]:
    """Start the command unless the job was started or cancelled before."""
    root, folder = folder_of(request)
    with locked(folder) as lock:
        known = state_of(folder)
        if known["state"] != "absent":
            return dict(known, started=False)
        data_path = root / Path(request["data_path"]).expanduser()
        version = verified_version(data_path, request["data_sha256"])
        ready, tell = os.pipe()
        first = os.fork()
        if first == 0:
            with suppress(BaseException):
                os.setsid()
                if os.fork() == 0:
                    supervise(request, root, folder, lock.fileno(), tell, data_path, version)
            os._exit(0)
        os.close(tell)
        os.waitpid(first, 0)
        os.read(ready, 1)  # or the end of it, if the supervisor failed
    return dict(state_of(folder), started=True)


def supervise(
    request: dict[str, Any], root: Path, folder: Path, lock: int, tell: int, data_path: Path, version: list[int]
) -> NoReturn:
    """Start the command in a process group of its own, wait for it, and record its exit status. The lock is free once it began."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    passed, gate = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(gate)
        command(request, root, folder, passed)
    os.close(passed)
    with suppress(OSError):
        os.setpgid(pid, pid)
    began = {"supervisor": identity(os.getpid()), "began": time.time(), "data_path": str(data_path)}
    write_json(folder / "process.json", dict(identity(pid), **began))
    with suppress(BrokenPipeError):
        os.write(gate, b"g")
    os.close(gate)
    os.close(lock)
    os.write(tell, b"r")
    os.close(tell)
    end = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # not reaped, so that its group stays its own
    assert end is not None  # only with WNOHANG
    with suppress(OSError):
        os.killpg(pid, signal.SIGKILL)  # what it leaves behind would hold the GPU
    status = end.si_status if end.si_code == os.CLD_EXITED else -end.si_status
    unchanged = False
    with suppress(OSError):
        unchanged = version_of(data_path) == version
    write_json(folder / "exit.json", {"status": status, "ended": time.time(), "data_unchanged": unchanged})
    os.waitpid(pid, 0)
    os._exit(0)


def command(request: dict[str, Any], root: Path, folder: Path, passed: int) -> NoReturn:
    """Become the command, once the supervisor has recorded this process; never, if it died before."""
    try:
        with suppress(OSError):
            os.setpgid(0, 0)
        if os.read(passed, 1) != b"g":
            os._exit(125)
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
        for number in (signal.SIGPIPE, signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        os.chdir(root)
        environment = dict(os.environ, PYTHONUNBUFFERED="1", **request["environment"])
        environment[MARK] = request["job"]
        os.execvpe(request["command"][0], request["command"], environment)
    except OSError as error:
        os.write(2, f"{request['command'][0]}: {error.strerror}\n".encode())
    finally:
        os._exit(127)


def state(request: dict[str, Any]) -> dict[str, Any]:
    return state_of(folder_of(request)[1])


def follow(request: dict[str, Any]) -> dict[str, Any]:
    """What the streams have from the given offsets on, as it comes, until the job is over; of much at once only the end."""
    _, folder = folder_of(request)
    offsets, beat = dict(request["offsets"]), Beat()
    while True:
        known = state_of(folder)  # before reading: what the command wrote is read when this says that it ended
        idle = True
        for name in STREAMS:
            with suppress(FileNotFoundError), (folder / name).open("rb") as file:
                size, skipped = os.fstat(file.fileno()).st_size, 0
                if size - offsets[name] > request["behind_bytes"]:
                    skipped = size - request["behind_bytes"] - offsets[name]
                file.seek(offsets[name] + skipped)
                data = file.read(CHUNK_BYTES)
                if data:
                    idle = False
                    offsets[name] += skipped + len(data)
                    say(stream=name, skipped=skipped, offset=offsets[name], data=base64.b64encode(data).decode())
        if idle:
            if known["state"] != "running":
                return known
            beat()
            time.sleep(LOOK_SECONDS)


def cancel(request: dict[str, Any]) -> dict[str, Any]:
    """End the command's process group: SIGTERM, and SIGKILL after `grace_seconds`. `gone` says whether nothing of it is left."""
    _, folder = folder_of(request)
    with locked(folder):
        known = state_of(folder)
        if known["state"] in ("absent", "running") and known["cancelled"] is None:
            write_json(folder / "cancelled.json", {"who": request["who"], "at": time.time()})
    process = known["process"]
    left = members(process, request["job"]) if process else []
    for number, seconds in ((signal.SIGTERM, request["grace_seconds"]), (signal.SIGKILL, GONE_SECONDS)):
        if not left:
            break
        with suppress(ProcessLookupError):
            os.killpg(process["pid"], number)
        beat, deadline = Beat(), time.monotonic() + seconds
        while left and time.monotonic() < deadline:
            beat()
            time.sleep(LOOK_SECONDS)
            left = members(process, request["job"])
    deadline = time.monotonic() + GONE_SECONDS
    while state_of(folder)["state"] == "running" and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)  # the supervisor records the exit status
    return dict(state_of(folder), gone=not left)


def fetch(request: dict[str, Any]) -> dict[str, Any]:
    """A file of the job: a line with its size, its bytes, a line with their hash."""
    _, folder = folder_of(request)
    path = folder / Path(request["name"]).name
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise Refused("no_checkpoint", f"{path}: {error.strerror}") from None
    with os.fdopen(handle, "rb") as file:
        before = os.fstat(handle)
        if not stat.S_ISREG(before.st_mode):
            raise Refused("no_checkpoint", f"{path} is no regular file")
        if before.st_size > request["max_bytes"]:
            raise Refused("too_large", f"{path} has {before.st_size} bytes, more than {request['max_bytes']}")
        say(size=before.st_size)
        digest, left = hashlib.sha256(), before.st_size
        while left:
            block = file.read(min(left, BLOCK_BYTES))
            if not block:
                break
            digest.update(block)
            sys.stdout.buffer.write(block)
            left -= len(block)
        sys.stdout.buffer.flush()
        after = os.fstat(handle)
    if left:
        sys.exit(1)  # truncated under our hands; the reader sees that bytes are missing
    return {"sha256": digest.hexdigest(), "unchanged": (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)}


REQUESTS = {"start": start, "state": state, "follow": follow, "cancel": cancel, "fetch": fetch}


def main() -> None:
    request = json.loads(sys.stdin.buffer.readline())
    try:
        answer = REQUESTS[request["op"]](request)
    except Refused as refusal:
        answer = {"refused": refusal.args[0], "detail": refusal.args[1]}
    except BrokenPipeError:
        os._exit(1)
    except OSError as error:
        answer = {"refused": "os_error", "detail": str(error)}
    say(done=answer)


if __name__ == "__main__":
    main()
