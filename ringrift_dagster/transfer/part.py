"""A file on its way: what is in it, chunk by chunk, durably. Where bytes come from is for `fetch`, where they go for `publish`.

What is on the disk decides, not what is said about it: with a chunk table every chunk is hashed when it comes and again when the
part is opened later. The map only says what nobody has to look at, which without a table is all there is.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
import threading
from pathlib import Path

from blake3 import blake3

from ringrift_dagster.manifest.inventory import CHUNK_DIGEST_BYTES, CHUNK_SIZE, chunk_count

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_READ_BYTES = 1 << 20
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
_READ_ONLY = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


class Held(Exception):
    """Somebody else is filling this part now."""


class Revoked(Exception):
    """The chunk is somebody else's to write by now, or the part is closed."""


def disk_cause(error: OSError) -> str:
    """The cause, one of CAUSES, of a failure to write: no_room, read_only or disk_error."""
    if error.errno in _NO_ROOM:
        return "no_room"
    return "read_only" if error.errno in _READ_ONLY else "disk_error"


class ChunkWriter:
    """One chunk being written: hashed on the way, marked once it is whole and right. Made by `PartFile.writer`.

    For one thread at a time. Once another writer was made for the chunk nothing is written any more, not even by a call under way.
    """

    def __init__(self, part: PartFile, index: int) -> None:
        self.index = index
        self.length = part.length(index)
        self.written = 0
        self._part = part
        self._start = index * CHUNK_SIZE
        self._blake3 = blake3() if part.has_table else None
        self._sha256 = hashlib.sha256() if part.chunk_count == 1 else None
        self._lock = threading.Lock()
        self._revoked = False

    def write(self, piece: memoryview | bytes) -> None:
        """The chunk's next bytes. Raises Revoked, OSError, and ValueError for more than the chunk has."""
        with self._lock:
            if self._revoked:
                raise Revoked
            if self.written + len(piece) > self.length:
                raise ValueError("more bytes than the chunk has")
            if self._blake3 is not None:
                self._blake3.update(piece)
            if self._sha256 is not None:
                self._sha256.update(piece)
            self._part.write_at(self._start + self.written, piece)
            self.written += len(piece)

    def commit(self) -> bool:
        """Whether the chunk is whole and right; it is marked then. Raises Revoked and OSError."""
        with self._lock:
            if self._revoked:
                raise Revoked
            self._revoked = True
            if self.written != self.length:
                return False
            if self._blake3 is not None and not self._part.is_right(self.index, self._blake3.digest()):
                return False
            self._part.mark(self.index, self._sha256)
            return True

    def revoke(self) -> None:
        """Nothing is written any more when this returns."""
        with self._lock:
            self._revoked = True


class PartFile:
    """A file being filled beside its destination, and the durable map of which chunks are in it.

    The map is one byte a chunk, in `….part.map`; an item of one chunk has none. Safe to use from several threads. `close` leaves
    everything for the next `open`.
    """

    def __init__(self, path: Path, sha256: str, size: int, chunks: bytes | None) -> None:
        if chunks is not None and len(chunks) != CHUNK_DIGEST_BYTES * chunk_count(size):
            raise ValueError("the chunk table does not fit the size")
        self.path = path
        self.sha256 = sha256
        self.size = size
        self.chunk_count = chunk_count(size)
        self._map_path = path.with_name(f"{path.name}.map")
        self._chunks = chunks
        self._marks = bytearray(self.chunk_count)
        self._bytes_done = 0
        self._writers: dict[int, ChunkWriter] = {}
        self._changed = threading.Condition()
        self._file = self._map = -1
        self._trail: threading.Thread | None = None
        self._trailing = False
        self._sha256 = hashlib.sha256()
        self._hashed = 0

    @classmethod
    def open(cls, folder: Path, name: str, sha256: str, size: int, chunks: bytes | None) -> PartFile:
        """Open the part of the item in `folder`, with what is in it already.

        `chunks` is the chunk table; every chunk that is there is hashed then, and only what is right counts. Without one the map is
        believed, and the whole SHA-256 decides in the end. Raises Held, ValueError for a table of another size, and OSError.
        """
        part = cls(folder / f".{name}.{sha256[:12]}.part", sha256, size, chunks)
        try:
            part._open()
        except BaseException:
            part.close()
            raise
        return part

    @property
    def has_table(self) -> bool:
        """Whether single chunks can be told right from wrong."""
        return self._chunks is not None

    @property
    def bytes_done(self) -> int:
        """Bytes of the chunks that are in it."""
        return self._bytes_done

    def length(self, index: int) -> int:
        """Bytes of a chunk."""
        return min(CHUNK_SIZE, self.size - index * CHUNK_SIZE)

    def missing(self) -> list[int]:
        """The chunks that are not in it yet, in order."""
        with self._changed:
            return [index for index, mark in enumerate(self._marks) if not mark]

    def put(self, index: int, data: memoryview | bytes, sha256: hashlib._Hash | None = None) -> bool:
        """Write a whole chunk; False when it is wrong, and then nothing was written. Raises OSError.

        `sha256`: of the whole item, if it was hashed already and this is its only chunk.
        """
        if len(data) != self.length(index):
            return False
        if self._chunks is not None and not self.is_right(index, blake3(data).digest()):
            return False
        if not self._marks[index]:
            self.write_at(index * CHUNK_SIZE, data)
            self.mark(index, (sha256 or hashlib.sha256(data)) if self.chunk_count == 1 else None)
        return True

    def writer(self, index: int) -> ChunkWriter:
        """Write a chunk piece by piece. Whoever was writing it no longer does."""
        writer = ChunkWriter(self, index)
        with self._changed:
            before = self._writers.get(index)
            self._writers[index] = writer
        if before is not None:
            before.revoke()
        return writer

    def stamp(self) -> tuple[int, ...]:
        """Another one after anybody wrote to `path`, or put another file there. Raises OSError."""
        status = os.lstat(self.path)
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns

    def adopt(self, *, whole: bool = True, since: tuple[int, ...] | None = None) -> int:
        """Look at the whole file again, after something wrote to `path`: marks what is right, returns how many chunks are not.

        The file may be another one by now. Without a chunk table only the right size counts, and only if whoever wrote says that it
        is `whole`: else it may have been anywhere, and nothing counts unless the stamp is still that of `since`. Raises OSError.
        """
        self._stop_trail()
        self._revoke_all()
        untouched = since is not None and self.path.exists() and self.stamp() == since
        self._reopen()
        self._restart_hash()  # what was hashed may have been overwritten, before or after it was read
        right = whole and os.fstat(self._file).st_size == self.size
        self._look(bytearray(self._marks) if untouched and not right else bytearray([right]) * self.chunk_count)
        return len(self.missing())

    def forget(self) -> None:
        """Unmark everything: what is there was wrong. Raises OSError."""
        self._stop_trail()
        self._revoke_all()
        self._set_marks(bytearray(self.chunk_count))
        self._restart_hash()

    def digest(self) -> str:
        """The SHA-256 of the whole, of which only what was not yet hashed is read. Raises ValueError while chunks are missing."""
        if self._bytes_done != self.size:
            raise ValueError("chunks are missing")
        self._stop_trail()
        buffer = memoryview(bytearray(_READ_BYTES if self._hashed < self.chunk_count else 0))
        while self._hashed < self.chunk_count:
            self._hash_chunk(self._hashed, buffer)
        sha256 = self._sha256.hexdigest()
        if sha256 != self.sha256:
            self._restart_hash()
        return sha256

    def close(self) -> None:
        """Let go of the part; what is in it stays. Again is no error."""
        self._stop_trail()
        self._revoke_all()
        for descriptor in (self._file, self._map):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._map = -1

    def discard(self) -> None:
        """Remove part and map, as far as they are there, and close."""
        self.path.unlink(missing_ok=True)
        if self.chunk_count > 1:
            self._map_path.unlink(missing_ok=True)
        self.close()

    def __enter__(self) -> PartFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def is_right(self, index: int, digest: bytes) -> bool:
        """Whether the chunk table has this BLAKE3 digest there."""
        return self._chunks is None or self._chunks[index * CHUNK_DIGEST_BYTES : (index + 1) * CHUNK_DIGEST_BYTES] == digest

    def write_at(self, offset: int, data: memoryview | bytes) -> None:
        """For writers: the bytes at an offset. Raises OSError."""
        view = memoryview(data)
        while view:
            done = os.pwrite(self._file, view, offset)
            offset, view = offset + done, view[done:]

    def mark(self, index: int, sha256: hashlib._Hash | None = None) -> None:
        """For writers: the chunk is in the file. `sha256`: of the whole item, where this is its only chunk."""
        with self._changed:
            if self._marks[index]:
                return
            if self._map >= 0:
                os.pwrite(self._map, b"\1", index)
            self._marks[index] = 1
            self._bytes_done += self.length(index)
            self._writers.pop(index, None)
            if sha256 is not None:
                self._sha256, self._hashed = sha256, 1
            elif self._trail is None and self._is_marked(self._hashed):
                self._start_trail()
            else:
                self._changed.notify_all()

    def _open(self) -> None:
        if self.chunk_count > 1:
            self._map = _open_locked(self._map_path)
            self._file = _open(self.path)
            told = os.pread(self._map, self.chunk_count + 1, 0)
        else:
            self._file = _open_locked(self.path)
            told = b""
        there = os.fstat(self._file).st_size
        believed = len(told) == self.chunk_count
        self._look(bytearray(believed and told[index] == 1 and self._end(index) <= there for index in range(self.chunk_count)))

    def _reopen(self) -> None:
        """Another file may stand at `path`, which another hand brought there."""
        try:
            there = os.lstat(self.path)
            if os.path.samestat(there, os.fstat(self._file)):
                return
        except FileNotFoundError:
            pass
        os.close(self._file)
        self._file = -1
        self._file = _open(self.path) if self.chunk_count > 1 else _open_locked(self.path)

    def _look(self, believed: bytearray) -> None:
        """Mark what of the file is right; without a chunk table what is `believed`."""
        status = os.fstat(self._file)
        marks = believed if self._chunks is None else self._right_chunks(status.st_size)
        self._set_marks(marks)
        if all(marks) and status.st_size == self.size:
            return
        if status.st_nlink > 1:
            # Another name of the same file: writing would change what stands there. What is right is lost to us.
            self.path.unlink()
            self._reopen()
            self._set_marks(bytearray(self.chunk_count))
        elif status.st_size > self.size:
            os.ftruncate(self._file, self.size)

    def _right_chunks(self, there: int) -> bytearray:
        buffer, marks = memoryview(bytearray(min(_READ_BYTES, there))), bytearray(self.chunk_count)
        for index in range(self.chunk_count):
            if self._end(index) > there:
                break
            hasher, offset = blake3(), index * CHUNK_SIZE
            while offset < self._end(index):
                piece = self._read(offset, self._end(index), buffer)
                hasher.update(piece)
                offset += len(piece)
            marks[index] = self.is_right(index, hasher.digest())
        return marks

    def _set_marks(self, marks: bytearray) -> None:
        with self._changed:
            if self._map >= 0:
                os.pwrite(self._map, marks, 0)
                os.ftruncate(self._map, len(marks))
            self._marks = marks
            self._bytes_done = sum(self.length(index) for index, mark in enumerate(marks) if mark)

    def _end(self, index: int) -> int:
        return index * CHUNK_SIZE + self.length(index)

    def _read(self, offset: int, end: int, buffer: memoryview) -> memoryview:
        got = os.preadv(self._file, [buffer[: min(len(buffer), end - offset)]], offset)
        if got == 0:
            raise OSError(errno.EIO, "the part is shorter than it was", str(self.path))
        return buffer[:got]

    def _revoke_all(self) -> None:
        with self._changed:
            writers, self._writers = self._writers, {}
        for writer in writers.values():
            writer.revoke()

    # The SHA-256 of the whole follows what is marked in order, in a thread of its own: it is the slowest part of all.

    def _start_trail(self) -> None:
        self._trailing = True
        self._trail = threading.Thread(target=self._follow, name=f"hash {self.sha256[:12]}", daemon=True)
        self._trail.start()

    def _follow(self) -> None:
        buffer = memoryview(bytearray(_READ_BYTES))
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._trailing or self._is_marked(self._hashed))
                if not self._trailing or self._hashed >= self.chunk_count:
                    return
            try:
                self._hash_chunk(self._hashed, buffer)
            except OSError:
                return  # `digest` meets it again, and says so

    def _is_marked(self, index: int) -> bool:
        return index >= self.chunk_count or self._marks[index] == 1

    def _stop_trail(self) -> None:
        """The thread is gone when this returns; what it hashed, whole chunks, counts."""
        with self._changed:
            trail, self._trail, self._trailing = self._trail, None, False
            self._changed.notify_all()
        if trail is not None:
            trail.join()

    def _hash_chunk(self, index: int, buffer: memoryview) -> None:
        # A copy, so that a failure in the middle leaves the state at the end of a chunk.
        sha256, offset = self._sha256.copy(), index * CHUNK_SIZE
        while offset < self._end(index):
            piece = self._read(offset, self._end(index), buffer)
            sha256.update(piece)
            offset += len(piece)
        self._sha256, self._hashed = sha256, index + 1

    def _restart_hash(self) -> None:
        self._sha256, self._hashed = hashlib.sha256(), 0


def _open(path: Path) -> int:
    """The regular file at a path, made if need be. Raises OSError."""
    try:
        descriptor = os.open(path, _FLAGS, 0o600)
    except PermissionError:
        if not path.is_file() or path.is_symlink():
            raise
        path.unlink()  # ours, with the mode that it was to be published with
        descriptor = os.open(path, _FLAGS, 0o600)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return descriptor


def _open_locked(path: Path) -> int:
    """As `_open`, and nobody else has it. Raises Held and OSError."""
    while True:
        descriptor = _open(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.lstat(path), os.fstat(descriptor)):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise Held(path.name) from None
        except OSError as error:
            os.close(descriptor)
            if not isinstance(error, FileNotFoundError):
                raise
        else:
            os.close(descriptor)  # whoever had it removed it meanwhile
