"""Random access to an open model file, with every read bounded by the file's size."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ringrift_dagster.models.checkpoints.refusals import CheckpointRefused

MAX_FILE_BYTES: Final = 16 << 30
_BLOCK_BYTES: Final = 1 << 20
_FLAGS: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC


class Source:
    """An open regular file. All methods raise CheckpointRefused (`truncated`, `unreadable`); safe to use from several threads."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self.size = size

    def read(self, offset: int, count: int) -> bytes:
        """Exactly `count` bytes at an offset."""
        if offset < 0 or count < 0 or offset + count > self.size:
            raise CheckpointRefused("truncated", f"{count} bytes are expected at {offset} of {self.size}")
        data = self._read(count, offset)
        while len(data) < count:
            more = self._read(count - len(data), offset + len(data))
            if not more:
                raise CheckpointRefused("changed", "the file became shorter while it was read")
            data += more
        return data

    def blocks(self, offset: int, count: int) -> Iterator[bytes]:
        """`count` bytes at an offset, in blocks of at most 1 MiB."""
        for start in range(0, count, _BLOCK_BYTES):
            yield self.read(offset + start, min(_BLOCK_BYTES, count - start))

    def sha256(self) -> str:
        """The SHA-256 of the whole file."""
        digest = hashlib.sha256()
        for block in self.blocks(0, self.size):
            digest.update(block)
        return digest.hexdigest()

    def _read(self, count: int, offset: int) -> bytes:
        try:
            return os.pread(self._descriptor, count, offset)
        except OSError as error:
            raise CheckpointRefused("unreadable", error.strerror or str(error)) from error


@contextmanager
def open_source(path: Path) -> Iterator[Source]:
    """Open a regular file; a pipe or device is refused, and never waited for.

    Raises CheckpointRefused on opening, and with `changed` at the end if the file was changed meanwhile.
    """
    try:
        descriptor = os.open(path, _FLAGS)
    except (OSError, ValueError) as error:
        raise CheckpointRefused("unreadable", f"{path}: {getattr(error, 'strerror', None) or error}") from error
    try:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise CheckpointRefused("unreadable", f"{path}: not a regular file")
        if before.st_size > MAX_FILE_BYTES:
            raise CheckpointRefused("too_large", f"{before.st_size} bytes; at most {MAX_FILE_BYTES} are read")
        yield Source(descriptor, before.st_size)
        after = os.fstat(descriptor)
        if (before.st_size, before.st_mtime_ns, before.st_ctime_ns) != (after.st_size, after.st_mtime_ns, after.st_ctime_ns):
            raise CheckpointRefused("changed", f"{path}: written to while it was read")
    finally:
        os.close(descriptor)


@contextmanager
def hashed(source: Source) -> Iterator[list[str]]:
    """Hash the file in a thread while the block runs; the list has the SHA-256 once the block has ended without an error."""
    result: list[str] = []
    with ThreadPoolExecutor(1, thread_name_prefix="sha256") as pool:
        future = pool.submit(source.sha256)
        yield result
        result.append(future.result())
