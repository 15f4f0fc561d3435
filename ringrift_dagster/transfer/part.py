"""A file on its way: what is in it, chunk by chunk, durably. Where the bytes come from is `fetch`'s business, where they go `publish`'s."""

from __future__ import annotations

from pathlib import Path


class Held(Exception):
    """Somebody else is filling this part now."""


def disk_cause(error: OSError) -> str:
    """The cause, one of CAUSES, of a failure to write: no_room, read_only or disk_error."""
    raise NotImplementedError(error)


class ChunkWriter:
    """One chunk being written: hashed on the way, and marked once it is whole and right."""

    def write(self, piece: memoryview | bytes) -> None:
        raise NotImplementedError

    def commit(self) -> bool:
        raise NotImplementedError


class PartFile:
    """A file being filled beside its destination, and the durable map of which chunks are in it."""

    path: Path
    size: int
    chunk_count: int

    @classmethod
    def open(cls, folder: Path, name: str, sha256: str, size: int, chunks: bytes | None) -> PartFile:
        raise NotImplementedError

    @property
    def bytes_done(self) -> int:
        raise NotImplementedError

    def missing(self) -> list[int]:
        raise NotImplementedError

    def put(self, index: int, data: memoryview | bytes) -> bool:
        raise NotImplementedError

    def writer(self, index: int) -> ChunkWriter:
        raise NotImplementedError

    def adopt(self) -> int:
        raise NotImplementedError

    def forget(self) -> None:
        raise NotImplementedError

    def digest(self) -> str:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def discard(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> PartFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
