"""What runs on this machine now: for tests that leave nothing behind."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path


def running(words: str) -> list[int]:
    """The ids of the processes with these words on their command line."""
    found = []
    for folder in Path("/proc").iterdir():
        with suppress(OSError):
            if folder.name.isdecimal() and words.encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


def children(pid: int) -> Iterator[int]:
    """The ids of what a process started, and of what that started."""
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, thread.read_text().split()):
                yield child
                yield from children(child)


def wait_until(true: Callable[[], object], seconds: float = 20.0) -> bool:
    """Whether something came true within so many seconds."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
