"""The zip container of torch files: stored entries only, every field of every header checked, all bytes accounted for.

torch writes entries without compression, one after another from the first byte of the file. Anything else is refused, so two
readers of one archive cannot see different contents. Names are checked by the caller.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Final

from zlib_ng import zlib_ng

from ringrift_dagster.models.checkpoints.refusals import CheckpointRefused
from ringrift_dagster.models.checkpoints.source import Source

MAX_ENTRIES: Final = 20_000
MAX_DIRECTORY_BYTES: Final = 8 << 20
_SIZES_FOLLOW: Final = 0x0008
_UTF8: Final = 0x0800
_FILL_32: Final = 0xFFFFFFFF
_FILL_16: Final = 0xFFFF
_ZIP64_EXTRA: Final = 0x0001
_PADDING_EXTRA: Final = int.from_bytes(b"FB", "little")
"""The field with which torch aligns the data of an entry."""
_PROGRAM: Final = re.compile(rb"[^/]*/(code/|constants(\.pkl$|/)|extra/)")
"""Names of the entries of a TorchScript archive that are its program."""

_LOCAL: Final = struct.Struct("<4s5H3L2H")
_CENTRAL: Final = struct.Struct("<4s6H3L5H2L")
_END: Final = struct.Struct("<4s4H2LH")
_LOCATOR_64: Final = struct.Struct("<4sLQL")
_END_64: Final = struct.Struct("<4sQ2H2L4Q")


@dataclass(frozen=True)
class Entry:
    """One entry: its name, where its data start in the file, how many bytes they are, and their CRC-32."""

    name: str
    offset: int
    size: int
    crc: int


@dataclass(frozen=True)
class _Listed:
    """An entry as the central directory lists it."""

    name: bytes
    flags: int
    crc: int
    size: int
    header: int


def read_entries(source: Source) -> dict[str, Entry]:
    """All entries by name, with every local header compared with the directory. Data are not read: see `check_crc`.

    Raises CheckpointRefused (`hostile_archive`, `torchscript`, `truncated`, `too_large`).
    """
    start, count, size = _directory(source)
    listed = _list(source.read(start, size), count)
    entries: dict[str, Entry] = {}
    position = 0
    for item in sorted(listed, key=lambda item: item.header):
        entry, position = _entry(source, item, position)
        if entry.name in entries:
            raise _hostile(f"entry {entry.name[:60]!r} occurs twice")
        entries[entry.name] = entry
    if position != start:
        raise _hostile(f"{start - position} bytes between the last entry and the directory")
    return entries


def check_crc(source: Source, entry: Entry) -> None:
    """Raises CheckpointRefused with `crc_mismatch` unless the entry's bytes are those that its CRC was made of."""
    crc = 0
    for block in source.blocks(entry.offset, entry.size):
        crc = zlib_ng.crc32(block, crc)
    if crc != entry.crc:
        raise CheckpointRefused("crc_mismatch", f"entry {entry.name[:60]!r} is damaged")


def _hostile(detail: str) -> CheckpointRefused:
    return CheckpointRefused("hostile_archive", detail)


def _directory(source: Source) -> tuple[int, int, int]:
    """Offset, number of entries and size of the central directory, which nothing but its end records may follow."""
    if source.size < _END.size:
        raise CheckpointRefused("truncated", "too short for a zip archive")
    end = source.size - _END.size
    signature, disk, first_disk, here, count, size, start, comment = _END.unpack(source.read(end, _END.size))
    if signature != b"PK\5\6":
        raise CheckpointRefused("truncated", "no zip directory ends the file: cut off, or something was appended")
    if disk or first_disk or here != count or comment:
        raise _hostile("the end record is not what torch writes")
    after = end
    locator = end - _LOCATOR_64.size
    if locator >= _END_64.size and source.read(locator, 4) == b"PK\6\7":
        _, disk, after, disks = _LOCATOR_64.unpack(source.read(locator, _LOCATOR_64.size))
        if disk or disks != 1 or after + _END_64.size != locator:
            raise _hostile("the locator of the zip64 end record is not what torch writes")
        record = _END_64.unpack(source.read(after, _END_64.size))
        signature_64, length, _, _, disk, first_disk, here_64, count_64, size_64, start_64 = record
        if signature_64 != b"PK\6\6" or length != _END_64.size - 12 or disk or first_disk or here_64 != count_64:
            raise _hostile("the zip64 end record is not what torch writes")
        for short, long, fill in ((count, count_64, _FILL_16), (size, size_64, _FILL_32), (start, start_64, _FILL_32)):
            if short not in (long, fill):
                raise _hostile("the two end records contradict each other")
        count, size, start = count_64, size_64, start_64
    elif count == _FILL_16 or _FILL_32 in (size, start):
        raise _hostile("the zip64 end record is missing")
    if count > MAX_ENTRIES or size > MAX_DIRECTORY_BYTES:
        raise CheckpointRefused("too_large", f"a zip directory of {count} entries and {size} bytes")
    if start + size != after:
        raise _hostile("the directory does not end where the end record begins")
    return start, count, size


def _list(directory: bytes, count: int) -> list[_Listed]:
    listed: list[_Listed] = []
    position = 0
    for _ in range(count):
        if position + _CENTRAL.size > len(directory):
            raise _hostile("the directory is shorter than its entries")
        header = _CENTRAL.unpack_from(directory, position)
        (signature, _, _, flags, method, _, _, crc, packed, size, name_bytes, extra_bytes, comment, disk, _, _, offset) = header
        position += _CENTRAL.size
        name = directory[position : position + name_bytes]
        extra = directory[position + name_bytes : position + name_bytes + extra_bytes]
        position += name_bytes + extra_bytes
        if signature != b"PK\1\2" or position > len(directory) or comment or disk:
            raise _hostile("an entry of the directory is not what torch writes")
        if _PROGRAM.match(name):
            raise CheckpointRefused("torchscript", f"entry {name[:60]!r} belongs to a program")
        size, packed, offset = _widened(extra, size, packed, offset)
        if method or packed != size or flags & ~(_SIZES_FOLLOW | _UTF8):
            raise _hostile(f"entry {name[:60]!r} is compressed, encrypted or flagged")
        listed.append(_Listed(name, flags, crc, size, offset))
    if position != len(directory):
        raise _hostile("the directory is longer than its entries")
    return listed


def _widened(extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int, int]:
    """The three numbers, of which those that do not fit into 32 bits are in the zip64 field."""
    wide = _extra_fields(extra).get(_ZIP64_EXTRA, b"")
    missing = [value == _FILL_32 for value in (size, packed, offset)]
    if not any(missing):
        return size, packed, offset
    if len(wide) != 8 * sum(missing):
        raise _hostile("the zip64 field of an entry is not what torch writes")
    numbers = iter(struct.unpack(f"<{sum(missing)}Q", wide))
    size, packed, offset = (
        next(numbers) if absent else value for absent, value in zip(missing, (size, packed, offset), strict=True)
    )
    return size, packed, offset


def _extra_fields(extra: bytes) -> dict[int, bytes]:
    """Extra fields by number, of which torch writes two. Others could give an entry a second name."""
    position, fields = 0, {}
    while position < len(extra):
        if position + 4 > len(extra):
            raise _hostile("the extra fields of an entry are cut off")
        number, length = struct.unpack_from("<2H", extra, position)
        position += 4 + length
        if position > len(extra) or number in fields or number not in (_ZIP64_EXTRA, _PADDING_EXTRA):
            raise _hostile("the extra fields of an entry are cut off, occur twice or are none that torch writes")
        fields[number] = extra[position - length : position]
    return fields


def _entry(source: Source, item: _Listed, position: int) -> tuple[Entry, int]:
    """The entry whose local header begins at `position`, compared with its line of the directory; and where the next begins."""
    if item.header != position:
        raise _hostile(f"entry {item.name[:60]!r} overlaps another or leaves a gap")
    header = _LOCAL.unpack(source.read(position, _LOCAL.size))
    signature, _, flags, method, _, _, crc, packed, size, name_bytes, extra_bytes = header
    names = source.read(position + _LOCAL.size, name_bytes + extra_bytes)
    if signature != b"PK\3\4" or names[:name_bytes] != item.name or flags != item.flags or method:
        raise _hostile(f"the two headers of entry {item.name[:60]!r} contradict each other")
    offset = position + _LOCAL.size + name_bytes + extra_bytes
    end = offset + item.size
    if end > source.size:
        raise CheckpointRefused("truncated", f"entry {item.name[:60]!r} ends beyond the file")
    if flags & _SIZES_FOLLOW:
        _extra_fields(names[name_bytes:])
        agrees = not (crc or packed or size) or (packed, size) == (_FILL_32, _FILL_32)
        end = _after_descriptor(source, item, end)
    else:
        size, packed, _ = _widened(names[name_bytes:], size, packed, 0)
        agrees = (crc, packed, size) == (item.crc, item.size, item.size)
    if not agrees:
        raise _hostile(f"the two headers of entry {item.name[:60]!r} contradict each other")
    try:
        name = item.name.decode("ascii")
    except UnicodeDecodeError as error:
        raise _hostile(f"entry {item.name[:60]!r} has a name that torch never writes") from error
    return Entry(name, offset, item.size, item.crc), end


def _after_descriptor(source: Source, item: _Listed, end: int) -> int:
    """Where the data descriptor at `end` ends, which repeats CRC and sizes with 32 or 64 bits. It has to agree."""
    for form in ("<4s3L", "<4sL2Q"):
        expected = (b"PK\7\10", item.crc, item.size, item.size)
        length = struct.calcsize(form)
        try:
            matches = end + length <= source.size and source.read(end, length) == struct.pack(form, *expected)
        except struct.error:
            continue  # a size of more than 32 bits
        if matches:
            return end + length
    raise _hostile(f"the descriptor after entry {item.name[:60]!r} contradicts the directory")
