"""Writing NPZ files array by array, in bounded memory, in the layout that `numpy.load` and RingRift's trainer read.

Only the container belongs here: members, headers, checksums, atomic publication. What the arrays mean is in `npz_export`.
Object arrays are written as the pickles that NumPy would write, but item by item and without pickling anything.
"""

from __future__ import annotations

import hashlib
import io
import os
import queue
import struct
import threading
import zipfile
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray
from zlib_ng import zlib_ng

COMPRESSION_LEVEL = 6
"""zlib-ng's level 6 makes files as small as zlib's at more than twice the speed."""

_AHEAD = 2
"""Blocks that may wait for a compressor; what is encoded ahead of it is bounded by this."""

_PIECE = 1 << 20
_WORKERS = min(4, os.cpu_count() or 1)


class NpzWriter:
    """A new NPZ file, complete when the `with` block ends. Members are compressed by threads while the caller makes the next block.

    `checksums` has, for every member written, RingRift's digest of it: SHA-256 over shape, dtype and content.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._zip = zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, allowZip64=True)
        self._pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="deflate")
        self.checksums: dict[str, str] = {}

    def __enter__(self) -> NpzWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._pool.shutdown()
        if kind is None:
            self._zip.close()

    def numeric(self, name: str, shape: tuple[int, ...], dtype: np.dtype, blocks: Iterable[NDArray]) -> None:
        """Write a numeric array from blocks along its first axis. Raises ValueError when they do not fill `shape` exactly."""
        digest = _digest_of(shape, dtype)
        expected = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        with _Member(self._zip, self._pool, name, shape, dtype) as member:
            for block in blocks:
                if block.dtype != dtype:
                    raise ValueError(f"{name}: block of {block.dtype}, array of {dtype}")
                member.put(np.ascontiguousarray(block).data.cast("B"), digest)
        if member.written != expected:
            raise ValueError(f"{name}: {member.written} bytes written, shape needs {expected}")
        self.checksums[name] = digest.hexdigest()

    def scalar(self, name: str, value: str | int | bool) -> None:
        """Write a 0-d array."""
        array = np.asarray(value)
        self.numeric(name, (), array.dtype, [array.reshape(1)])

    def objects(self, name: str, shape: tuple[int, ...], items: ObjectItems) -> None:
        """Write an array of Python objects."""
        digest = _digest_of(shape, np.dtype(object))
        with _Member(self._zip, self._pool, name, shape, np.dtype(object)) as member:
            member.put(_pickle_head(shape), None)
            for opcodes, texts in items:
                member.put(opcodes, None)
                digest.update(texts)
            member.put(_PICKLE_TAIL, None)
        self.checksums[name] = digest.hexdigest()


ObjectItems: TypeAlias = Iterable[tuple[bytes, bytes]]
"""The items of an object array, block by block: pickle opcodes, and the text that RingRift's checksum takes of them."""


def repeated(words: tuple[str | float, ...], codes: Iterable[NDArray[np.uint8]]) -> ObjectItems:
    """Items that are few distinct words, given as indices into `words`.

    A word is spelt out where it first occurs; from then on it is a two-byte reference.
    """
    fetch = np.array([list(b"h" + bytes([index])) for index in range(len(words))], dtype=np.uint8).reshape(-1, 2)
    texts = [str(word).encode() for word in words]
    new = set(range(len(words)))
    for block in codes:
        opcodes = fetch[block].tobytes()
        first = {code: int(at[0]) for code in new if len(at := np.flatnonzero(block == code))}
        parts: list[bytes] = []
        done = 0
        for code, at in sorted(first.items(), key=lambda item: item[1]):
            parts += [opcodes[2 * done : 2 * at], _constant(words[code]) + b"q" + bytes([code])]
            done = at + 1
        new.difference_update(first)
        yield b"".join([*parts, opcodes[2 * done :]]), b"".join([texts[code] for code in block.tolist()])


def integers(values: Iterable[NDArray[np.int32]]) -> ObjectItems:
    """Items that are Python integers."""

    for block in values:
        opcodes = np.empty(len(block), dtype=[("code", "S1"), ("value", "<i4")])
        opcodes["code"] = b"J"
        opcodes["value"] = block
        yield opcodes.tobytes(), "".join(map(str, block.tolist())).encode()


def floats(values: Iterable[NDArray[np.float32]]) -> ObjectItems:
    """Items that are Python floats."""
    for block in values:
        opcodes = np.empty(len(block), dtype=[("code", "S1"), ("value", ">f8")])
        opcodes["code"] = b"G"
        opcodes["value"] = block
        yield opcodes.tobytes(), "".join(map(str, block.tolist())).encode()


def small_arrays(values: Iterable[Iterable[NDArray]]) -> ObjectItems:
    """Items that are one-dimensional numeric arrays of different lengths, all of one dtype. Raises ValueError if they are not.

    What they have in common is spelt out in the first one; each costs about 20 bytes more than its content.
    """
    dtype: np.dtype | None = None
    for block in values:
        arrays = list(block)
        opcodes: list[bytes] = []
        for array in arrays:
            if dtype is None:
                dtype = array.dtype
                opcodes.append(
                    _array_opcodes(array, _FIRST_SKELETON, _dtype_opcodes(f"{dtype.kind}{dtype.itemsize}", "<", 0) + _PUT_DTYPE)
                )
            elif array.dtype == dtype:
                opcodes.append(_array_opcodes(array, _NEXT_SKELETON, _GET_DTYPE))
            else:
                raise ValueError(f"an array of {array.dtype} among arrays of {dtype}")
        yield b"".join(opcodes), b"".join([array.tobytes() for array in arrays])


def dictionary(value: dict[str, str | int | None]) -> ObjectItems:
    """The single item of a 0-d array that holds a dictionary."""
    opcodes = b"}(" + b"".join(_constant(key) + _constant(entry) for key, entry in value.items()) + b"u"
    return [(opcodes, str(value).encode())]


def publish(staged: Path, final: Path) -> None:
    """Make a finished file durable and give it its final name in one step, readable like other files of this user."""
    with staged.open("rb") as file:
        os.fsync(file.fileno())
    mask = os.umask(0)
    os.umask(mask)
    staged.chmod(0o666 & ~mask)
    staged.replace(final)
    directory = os.open(final.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _digest_of(shape: tuple[int, ...], dtype: np.dtype) -> hashlib._Hash:
    digest = hashlib.sha256(str(shape).encode())
    digest.update(str(dtype).encode())
    return digest


class _Member:
    """One .npy file inside the archive, written by a thread."""

    def __init__(
        self,
        archive: zipfile.ZipFile,
        pool: ThreadPoolExecutor,
        name: str,
        shape: tuple[int, ...],
        dtype: np.dtype,
    ) -> None:
        info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
        info.compress_type = zipfile.ZIP_DEFLATED
        self._handle = archive.open(info, "w", force_zip64=True)
        self._handle._compressor = _Deflate(pool)  # type: ignore[attr-defined]
        header = io.BytesIO()
        descr = "|O" if dtype.hasobject else np.lib.format.dtype_to_descr(dtype)
        np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": shape})
        self._handle.write(header.getvalue())
        self.written = 0
        self._failure: BaseException | None = None
        self._queue: queue.Queue[tuple[bytes | memoryview, hashlib._Hash | None] | None] = queue.Queue(_AHEAD)
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> _Member:
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._queue.put(None)
        self._thread.join()
        if self._failure is None and kind is None:
            self._handle.close()
        else:
            self._abandon()
        if self._failure is not None:
            raise self._failure

    def put(self, data: bytes | memoryview, digest: hashlib._Hash | None) -> None:
        """Hand a block to the compressor. The caller must not change it afterwards."""
        if self._failure is not None:
            raise self._failure
        self._queue.put((data, digest))

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._failure is not None:
                continue  # keep taking, so that the caller never blocks on a full queue
            data, digest = item
            try:
                if digest is not None:
                    digest.update(data)
                self._handle.write(data)
                self.written += len(data)
            except BaseException as error:  # raised again in the caller's thread
                self._failure = error

    def _abandon(self) -> None:
        """Let the archive go without a directory entry for this member: the staged file is thrown away."""
        with suppress(OSError, ValueError, RuntimeError):
            self._handle.close()


class _Deflate:
    """A deflate stream made of pieces that are compressed in parallel, as pigz does; stands in for zlib's compressor.

    Pieces end at byte boundaries, so that their concatenation is one stream that any reader takes.
    """

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._gathered: list[bytes | memoryview] = []
        self._size = 0
        self._pending: deque[Future[bytes]] = deque()

    def compress(self, data: bytes | memoryview) -> bytes:
        """Take data in; returns what is ready of the stream."""
        self._gathered.append(data)
        self._size += len(data)
        if self._size < _PIECE:
            return b""
        self._submit()
        return self._ready(_WORKERS)

    def flush(self) -> bytes:
        """The rest of the stream."""
        self._submit()
        return self._ready(0) + zlib_ng.compressobj(1, zlib_ng.DEFLATED, -15).flush()

    def _submit(self) -> None:
        if self._gathered:
            self._pending.append(self._pool.submit(_deflate, self._gathered))
            self._gathered, self._size = [], 0

    def _ready(self, leave: int) -> bytes:
        done: list[bytes] = []
        while len(self._pending) > leave:
            done.append(self._pending.popleft().result())
        return b"".join(done)


def _deflate(pieces: list[bytes | memoryview]) -> bytes:
    compressor = zlib_ng.compressobj(COMPRESSION_LEVEL, zlib_ng.DEFLATED, -15)
    return b"".join([*map(compressor.compress, pieces), compressor.flush(zlib_ng.Z_SYNC_FLUSH)])


def _constant(value: str | int | float | None) -> bytes:
    if value is None:
        return b"N"
    if isinstance(value, str):
        encoded = value.encode()
        return b"X" + struct.pack("<I", len(encoded)) + encoded
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    return b"\x8a\x08" + struct.pack("<q", value)


# Opcodes of a pickled ndarray (protocol 3): the array's skeleton, then its state set by BUILD.
_SKELETON = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
_FIRST_SKELETON = b"cnumpy.core.multiarray\n_reconstruct\nq\x00cnumpy\nndarray\nK\x00\x85C\x01b\x87q\x01R"
_NEXT_SKELETON = b"h\x00h\x01R"
_PUT_DTYPE, _GET_DTYPE = b"q\x02", b"h\x02"
_PICKLE_TAIL = b"etb."


def _dtype_opcodes(code: str, order: str, flags: int) -> bytes:
    absent = b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
    state = b"(K\x03" + _constant(order) + absent + b"K" + bytes([flags]) + b"tb"
    return b"cnumpy\ndtype\n" + _constant(code) + b"\x89\x88\x87R" + state


def _shape_opcodes(shape: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(_constant(length) for length in shape) + b"t"


def _pickle_head(shape: tuple[int, ...]) -> bytes:
    """Everything up to the first item."""
    return b"\x80\x03" + _SKELETON + b"(K\x01" + _shape_opcodes(shape) + _dtype_opcodes("O8", "|", 63) + b"\x89]("


def _array_opcodes(array: NDArray, skeleton: bytes, dtype: bytes) -> bytes:
    data = array.tobytes()
    length, size = len(array), len(data)
    count = b"K" + bytes([length]) if length < 256 else b"J" + struct.pack("<i", length)
    content = b"C" + bytes([size]) if size < 256 else b"B" + struct.pack("<I", size)
    return skeleton + b"(K\x01" + count + b"\x85" + dtype + b"\x89" + content + data + b"tb"
