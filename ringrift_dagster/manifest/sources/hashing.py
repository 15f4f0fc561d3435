"""One read of a file: its SHA-256 and its chunk table, and whether it held still meanwhile. Knows nothing of what is in it."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from dataclasses import dataclass

from blake3 import blake3

from ringrift_dagster.manifest.inventory import CHUNK_SIZE

OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""No link is followed, and a pipe never blocks."""


class InFlux(Exception):
    """The file changed while it was read."""


@dataclass(frozen=True)
class Hashed:
    """What one pass found. `chunks`: BLAKE3 digests of CHUNK_SIZE chunks, concatenated."""

    sha256: str
    chunks: bytes
    size: int
    mtime_ns: int
    inode: int


def hash_file(path: str, *, from_disk: bool = False) -> Hashed:
    """Read a regular file once. `from_disk`: what the system has cached does not count.

    Raises InFlux, and OSError for what cannot be read or is no regular file.
    """
    descriptor = os.open(path, OPEN_FLAGS)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise OSError(None, "not a regular file", path)
        if from_disk and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        sha256, chunks, size = _digests(file, before.st_size)
        if (
            size != before.st_size
            or identity(before) != identity(os.fstat(descriptor))
            or identity(before) != identity(_stat(path))
        ):
            raise InFlux(path)
    return Hashed(sha256, chunks, size, before.st_mtime_ns, before.st_ino)


def identity(status: os.stat_result) -> tuple[int, int, int]:
    """Size, time and inode: while they stand, so does what is known of the content."""
    return status.st_size, status.st_mtime_ns, status.st_ino


def _stat(path: str) -> os.stat_result:
    try:
        return os.stat(path, follow_symlinks=False)  # noqa: PTH116
    except FileNotFoundError:
        raise InFlux(path) from None


def _digests(file: io.FileIO, expected: int) -> tuple[str, bytes, int]:
    """SHA-256, chunk table and size. Raises InFlux if there is more than expected."""
    sha256, chunks, size = hashlib.sha256(), bytearray(), 0
    buffer = memoryview(bytearray(min(CHUNK_SIZE, max(expected, 1))))
    while filled := _fill(file, buffer):
        size += filled
        if size > expected:
            raise InFlux(file.name)
        block = buffer[:filled]
        sha256.update(block)
        chunks += blake3(block).digest()
    return sha256.hexdigest(), bytes(chunks), size


def _fill(file: io.FileIO, buffer: memoryview) -> int:
    filled = 0
    while filled < len(buffer) and (got := file.readinto(buffer[filled:])):
        filled += got
    return filled
