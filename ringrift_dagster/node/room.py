"""Whether a disk has room for one more item, with all that is on its way already taken into account."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


class NoRoom(Exception):
    """The disk would fall below what has to stay free. The text says the numbers."""


SMALL_BYTES = 1 << 20
"""Of what is smaller nobody looks how much has come: many of them come together, and all of it counts until they are there."""


@dataclass(frozen=True, eq=False, slots=True)
class _Coming:
    device: int
    part: Path
    size: int

    def missing(self) -> int:
        """Bytes that are not on the disk yet."""
        if self.size < SMALL_BYTES:
            return self.size
        try:
            return max(0, self.size - os.stat(self.part, follow_symlinks=False).st_blocks * 512)  # noqa: PTH116
        except OSError:
            return self.size


class Room:
    """What is promised on all disks of a host. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._coming: set[_Coming] = set()

    @contextmanager
    def taken(self, folder: Path, part: Path, size: int, floor: int) -> Iterator[None]:
        """`size` bytes are promised to `part` within the block, on the disk of `folder`; what of it is there is not counted.

        Raises NoRoom when less than `floor` bytes would stay free, and OSError.
        """
        mine = _Coming(folder.stat().st_dev, part, size)
        with self._lock:
            status = os.statvfs(folder)
            free = status.f_bavail * status.f_frsize
            promised = sum(other.missing() for other in self._coming if other.device == mine.device)
            if free - promised - mine.missing() < floor:
                raise NoRoom(f"{free} bytes are free, {promised} promised, {mine.missing()} needed, and {floor} have to stay")
            self._coming.add(mine)
        try:
            yield
        finally:
            with self._lock:
                self._coming.discard(mine)
