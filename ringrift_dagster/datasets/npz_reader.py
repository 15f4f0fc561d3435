"""Reading an NPZ archive that may be damaged or hostile, in bounded memory.

Here: the zip container, the `.npy` headers, and the arrays as blocks. Every member is bounded before a byte
of it is inflated, arrays stream in blocks of at most `BLOCK_BYTES`, and object arrays go through
`object_arrays`; nothing is ever unpickled. What a training set must contain is not known here (see
`npz_validator`).
"""

from __future__ import annotations

import ast
import hashlib
import io
import re
import stat
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any, ClassVar, Final, Self

import numpy as np
import numpy.typing as npt
from zlib_ng import zlib_ng

from ringrift_dagster.datasets.object_arrays import ObjectArray, ObjectArrayError, load_object_array, object_blocks

BLOCK_BYTES: Final = 16 << 20
MAX_HEADER_BYTES: Final = 10_000
MAX_CENTRAL_DIRECTORY_BYTES: Final = 1 << 20
MAX_DIMENSIONS: Final = 8
MAX_WHOLE_BYTES: Final = 256 << 20
"""The largest payload of an object array that is read whole."""

_MEMBER_NAME: Final = re.compile(r"[A-Za-z0-9_]+\.npy")
_DTYPE: Final = re.compile(r"[<>|]?(?:b1|i[1248]|u[1248]|f[248]|O|[US]\d{1,7})")
_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_END_RECORD: Final = struct.Struct("<4s4H2LH")
_END_LOCATOR_64: Final = struct.Struct("<4sLQL")
_END_RECORD_64: Final = struct.Struct("<4sQ2H2L4Q")


class NpzError(Exception):
    """An archive or array that cannot be read; `code` is the reason, the message one line."""

    code: ClassVar[str]


class Unreadable(NpzError):
    """There is no such file, it is not a regular file, or it may not be read."""

    code = "unreadable"


class NotAZip(NpzError):
    """The file is not a zip archive, or its central directory is cut off."""

    code = "not_a_zip"


class HostileArchive(NpzError):
    """The archive has a structure numpy never writes: odd names, duplicates, overlaps, a compression bomb."""

    code = "hostile_archive"


class Oversize(NpzError):
    """The archive declares more data than is read."""

    code = "oversize"


class CrcMismatch(NpzError):
    """A member's bytes are damaged."""

    code = "crc_mismatch"


class CorruptArray(NpzError):
    """A member is not a plain `.npy` array, or its size contradicts its header."""

    code = "corrupt_array"


class UnsupportedLayout(NpzError):
    """An array cannot be streamed by sample: Fortran order, or samples larger than a block."""

    code = "wrong_shape"


@dataclass(frozen=True)
class Limits:
    """What an archive may declare before it is refused."""

    members: int = 128
    total_bytes: int = 1 << 40
    bomb_bytes: int = 64 << 20
    """Members at least this large must not inflate more than `bomb_ratio` fold; features reach about 100."""
    bomb_ratio: int = 500


DEFAULT_LIMITS: Final = Limits()


@dataclass(frozen=True)
class ArrayHeader:
    """The header of one member. `offset` is where its data starts, `size` how many bytes of data it has."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    offset: int
    size: int

    @property
    def is_object(self) -> bool:
        """Whether the data is a pickle rather than plain bytes."""
        return self.dtype.hasobject


class NpzArchive:
    """An NPZ archive over an open file, which stays the caller's to close.

    Raises a subclass of `NpzError` on opening and reading; use as a context manager.
    """

    def __init__(self, file: IO[bytes], limits: Limits = DEFAULT_LIMITS) -> None:
        size = file.seek(0, io.SEEK_END)
        _check_central_directory_size(file, size)
        self._zip = _open_zip(file)
        _check_members(self._zip.infolist(), size, limits)
        self._members = {info.filename.removesuffix(".npy"): info for info in self._zip.infolist()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    @property
    def names(self) -> tuple[str, ...]:
        """Array names, without `.npy`, in archive order."""
        return tuple(self._members)

    def header(self, name: str) -> ArrayHeader:
        """The header of one array, checked against the size of its member."""
        info = self._members[name]
        with _Member(self._zip, info) as member:
            header = _read_header(name, member, info.file_size)
        if not header.is_object and header.size != prod(header.shape) * header.dtype.itemsize:
            raise CorruptArray(f"{name} declares {header.dtype} {header.shape}, but holds {header.size} bytes of data")
        return header

    def blocks(self, header: ArrayHeader) -> Iterator[npt.NDArray[Any]]:
        """A numeric or string array as read-only blocks of whole rows; a 0-d array is one 0-d block.

        Each block has at most `BLOCK_BYTES`. The member's CRC is verified once the last block is taken.
        """
        if header.fortran and len(header.shape) > 1:
            raise UnsupportedLayout(f"{header.name} is stored in Fortran order")
        row_shape = header.shape[1:]
        row_bytes = header.dtype.itemsize * prod(row_shape)
        rows = header.shape[0] if header.shape else 1
        if min(row_bytes, header.size) > BLOCK_BYTES:
            raise UnsupportedLayout(f"one row of {header.name} has {row_bytes} bytes")
        with _Member(self._zip, self._members[header.name]) as member:
            member.read(header.offset)
            if not header.shape:
                yield _as_array(member.read(header.size), header.dtype, ())
            elif row_bytes:
                step = BLOCK_BYTES // row_bytes
                for start in range(0, rows, step):
                    count = min(step, rows - start)
                    yield _as_array(member.read(count * row_bytes), header.dtype, (count, *row_shape))

    def object_array(self, header: ArrayHeader) -> ObjectArray:
        """An object array, whole. Raises `object_arrays.ObjectArrayError` besides `NpzError`."""
        if header.size > MAX_WHOLE_BYTES:
            raise Oversize(f"{header.name} holds {header.size} bytes of objects; at most {MAX_WHOLE_BYTES} are read whole")
        with _Member(self._zip, self._members[header.name]) as member:
            member.read(header.offset)
            payload = member.read(header.size)
        return load_object_array(payload, header.shape)

    def object_blocks(self, header: ArrayHeader) -> Iterator[list[Any]]:
        """The elements of an object array, in blocks of whole rows, which count for nothing until the last one is taken.

        Raises `object_arrays.ObjectArrayError` besides `NpzError`; of damaged bytes it says so, whatever they seem to mean.
        """
        with _Member(self._zip, self._members[header.name]) as member:
            member.read(header.offset)
            try:
                yield from object_blocks(member.read, header.size, header.shape)
            except ObjectArrayError:
                member.skip()
                raise


def open_regular(path: Path) -> IO[bytes]:
    """Open a regular file for reading; raises `Unreadable` for anything else and never blocks on a pipe."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise Unreadable(f"{path} is not a regular file")
        return path.open("rb")
    except (OSError, ValueError) as error:
        raise Unreadable(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def file_digest(file: IO[bytes]) -> tuple[int, str]:
    """Size and SHA-256 of an open file."""
    file.seek(0)
    digest, size = hashlib.sha256(), 0
    while block := file.read(1 << 20):
        digest.update(block)
        size += len(block)
    return size, digest.hexdigest()


def _check_central_directory_size(file: IO[bytes], size: int) -> None:
    """Bound what `zipfile` is about to hold in memory: it reads the whole central directory at once."""
    tail_size = min(size, _END_RECORD.size + 0xFFFF + _END_LOCATOR_64.size)
    file.seek(size - tail_size)
    tail = file.read(tail_size)
    at = tail.rfind(b"PK\5\6")
    if at < 0 or at + _END_RECORD.size > len(tail):
        raise NotAZip("no zip directory at the end of the file (not an archive, or cut off)")
    declared = _END_RECORD.unpack_from(tail, at)[5]
    if at >= _END_LOCATOR_64.size:
        signature, _, offset, _ = _END_LOCATOR_64.unpack_from(tail, at - _END_LOCATOR_64.size)
        if signature == b"PK\6\7" and offset + _END_RECORD_64.size <= size:
            file.seek(offset)
            declared = _END_RECORD_64.unpack(file.read(_END_RECORD_64.size))[8]
    if declared > MAX_CENTRAL_DIRECTORY_BYTES:
        raise HostileArchive(f"the zip directory has {declared} bytes")


def _open_zip(file: IO[bytes]) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except (zipfile.BadZipFile, struct.error, EOFError, OSError) as error:
        raise NotAZip(f"the zip directory is damaged: {error}") from None
    except (ValueError, NotImplementedError, OverflowError) as error:
        raise HostileArchive(f"the zip directory is not what numpy writes: {error}") from None


def _check_members(members: list[zipfile.ZipInfo], archive_bytes: int, limits: Limits) -> None:
    if len(members) > limits.members:
        raise HostileArchive(f"{len(members)} members; at most {limits.members} are read")
    seen: set[str] = set()
    for info in members:
        shown = repr(info.filename[:60])
        if not _MEMBER_NAME.fullmatch(info.filename):
            raise HostileArchive(f"member {shown} is not a plain array name")
        if info.filename in seen:
            raise HostileArchive(f"member {shown} occurs twice")
        seen.add(info.filename)
        if info.compress_type not in _METHODS or info.flag_bits & 0x1:
            raise HostileArchive(f"member {shown} is encrypted or compressed in a way numpy never uses")
        if info.file_size >= limits.bomb_bytes and info.file_size > limits.bomb_ratio * info.compress_size:
            raise HostileArchive(f"member {shown} inflates {info.compress_size} bytes to {info.file_size}")
    end = 0
    for info in sorted(members, key=lambda each: each.header_offset):
        if info.header_offset < end:
            raise HostileArchive(f"member {info.filename!r} overlaps another")
        end = info.header_offset + info.compress_size
    if end > archive_bytes:
        raise HostileArchive("members reach past the end of the file")
    total = sum(info.file_size for info in members)
    if total > limits.total_bytes:
        raise Oversize(f"{total} bytes of arrays; at most {limits.total_bytes} are read")


class _Member:
    """One member, inflated; every way its bytes can be damaged is a `CrcMismatch`."""

    def __init__(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
        self._name = info.filename
        self._left, self._crc, self._expected = info.file_size, 0, info.CRC
        try:
            self._stream = archive.open(info)
            self._stream._expected_crc = None  # type: ignore[attr-defined] - it is checked here, with a faster CRC
            if info.compress_type == zipfile.ZIP_DEFLATED:
                # The same inflation as zlib's, three times as fast.
                self._stream._decompressor = zlib_ng.decompressobj(-15)  # type: ignore[attr-defined]
        except (
            zipfile.BadZipFile,
            struct.error,
            EOFError,
            NotImplementedError,
            RuntimeError,
            ValueError,
        ) as error:
            raise CrcMismatch(f"{self._name}: {error}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def read(self, count: int) -> bytes:
        """Exactly `count` bytes."""
        try:
            data = self._stream.read(count) if count else b""
        except (zipfile.BadZipFile, zlib_ng.error, EOFError, OSError) as error:  # type: ignore[misc]
            raise CrcMismatch(f"{self._name}: {error}") from None
        if len(data) != count:
            raise CrcMismatch(f"{self._name} ends {count - len(data)} bytes early")
        self._left -= count
        self._crc = zlib_ng.crc32(data, self._crc)
        if self._left <= 0 and self._crc != self._expected:
            raise CrcMismatch(f"{self._name}: its bytes are not those that its CRC was made of")
        return data

    def skip(self) -> None:
        """Read what is left, to know whether it is damaged."""
        while self._left > 0:
            self.read(min(self._left, BLOCK_BYTES))


def _read_header(name: str, member: _Member, member_bytes: int) -> ArrayHeader:
    if member_bytes < 10:
        raise CorruptArray(f"{name} is too short for a .npy header")
    prefix = member.read(10)
    version = tuple(prefix[6:8])
    if prefix[:6] != b"\x93NUMPY" or version not in ((1, 0), (2, 0)):
        raise CorruptArray(f"{name} is not a .npy array of a known version")
    if version == (2, 0):
        prefix += member.read(min(2, member_bytes - 10))
    length = int.from_bytes(prefix[8:], "little")
    offset = len(prefix) + length
    if length > MAX_HEADER_BYTES or offset > member_bytes:
        raise CorruptArray(f"{name} declares a header of {length} bytes")
    try:
        fields = ast.literal_eval(member.read(length).decode("latin-1").strip())
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise CorruptArray(f"{name} has a malformed header ({type(error).__name__})") from None
    match fields:
        case {"descr": str(code), "fortran_order": bool(fortran), "shape": tuple(shape)} if len(fields) == 3:
            pass
        case _:
            raise CorruptArray(f"{name} has a header that describes no plain array")
    if not _DTYPE.fullmatch(code):
        raise CorruptArray(f"{name} has dtype {code[:40]!r}, which no training array has")
    if len(shape) > MAX_DIMENSIONS or any(type(size) is not int or size < 0 for size in shape):
        raise CorruptArray(f"{name} declares an impossible shape")
    return ArrayHeader(name, np.dtype(code), shape, fortran, offset, member_bytes - offset)


def _as_array(data: bytes, dtype: np.dtype[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    if not data:
        return np.empty(shape, dtype)
    return np.frombuffer(data, dtype).reshape(shape)
