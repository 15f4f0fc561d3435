"""The archive reader: bounded, a typed error for every kind of damage, arrays exactly as numpy reads them."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringrift_dagster.datasets import object_arrays
from ringrift_dagster.datasets.npz_reader import (
    BLOCK_BYTES,
    CorruptArray,
    CrcMismatch,
    HostileArchive,
    Limits,
    NotAZip,
    NpzArchive,
    NpzError,
    Oversize,
    Unreadable,
    UnsupportedLayout,
    open_regular,
)
from ringrift_dagster.datasets.object_arrays import ObjectArrayError

DAMAGED = Path(__file__).parents[1] / "data" / "damaged"
BASE = (DAMAGED / "base_ok.npz").read_bytes()


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array)
    return file.getvalue()


def archive_of(**members: bytes) -> io.BytesIO:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as written:
        for name, content in members.items():
            written.writestr(f"{name}.npy", content)
    return file


def read_all(file: io.BytesIO) -> dict[str, np.ndarray]:
    with NpzArchive(file) as archive:
        arrays: dict[str, np.ndarray] = {}
        for name in archive.names:
            header = archive.header(name)
            if header.is_object:
                arrays[name] = archive.object_array(header)
            else:
                blocks = list(archive.blocks(header))
                arrays[name] = np.concatenate(blocks) if header.shape and blocks else np.array(blocks).reshape(header.shape)
        return arrays


def test_arrays_are_what_numpy_reads() -> None:
    with np.load(DAMAGED / "base_ok.npz", allow_pickle=True) as expected:
        read = read_all(io.BytesIO(BASE))
        assert list(read) == expected.files
        for name, array in read.items():
            assert array.dtype == expected[name].dtype
            assert np.array_equal(array, expected[name]), name


def test_blocks_are_bounded_and_memory_with_them() -> None:
    rows = np.zeros((5000, 64, 9, 9), np.float32)
    rows[:, ::16] = np.random.default_rng(1).random((5000, 4, 9, 9), np.float32)
    rows[:, 0, 0, 0] = np.arange(5000)
    file = archive_of(features=npy(rows))
    total, shape = rows.nbytes, rows.shape
    del rows
    tracemalloc.start()
    with NpzArchive(file) as archive:
        seen = 0
        for block in archive.blocks(archive.header("features")):
            assert block.nbytes <= BLOCK_BYTES
            assert block[0, 0, 0, 0] == seen
            seen += len(block)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (seen, total) == (5000, 5000 * 64 * 81 * 4)
    assert shape[0] == seen
    assert peak < 4 * BLOCK_BYTES


@pytest.mark.parametrize("content", [b"", b"PK", b"not a zip", BASE[: len(BASE) // 2], BASE[:-30]])
def test_not_an_archive(content: bytes) -> None:
    with pytest.raises(NotAZip):
        NpzArchive(io.BytesIO(content))


@pytest.mark.parametrize("name", ["../features.npy", "a/features.npy", "/features.npy", "features.txt", "a b.npy", ".npy"])
def test_member_names_are_plain(name: str) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        written.writestr(name, npy(np.arange(3)))
    with pytest.raises(HostileArchive, match="plain"):
        NpzArchive(file)


def test_duplicate_members_are_refused() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written, pytest.warns(UserWarning, match="Duplicate"):
        for _ in range(2):
            written.writestr("values.npy", npy(np.arange(3)))
    with pytest.raises(HostileArchive, match="twice"):
        NpzArchive(file)


def test_overlapping_members_are_refused() -> None:
    file = archive_of(a=npy(np.arange(3)), b=npy(np.arange(3)))
    raw = bytearray(file.getvalue())
    second = raw.rfind(b"PK\1\2")
    raw[second + 42 : second + 46] = struct.pack("<I", 0)
    with pytest.raises(HostileArchive, match="overlaps"):
        NpzArchive(io.BytesIO(raw))


def test_odd_compression_is_refused() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_LZMA) as written:
        written.writestr("values.npy", npy(np.arange(3)))
    with pytest.raises(HostileArchive):
        NpzArchive(file)


def test_bombs_and_excess_are_refused() -> None:
    file = archive_of(features=npy(np.zeros((200, 56, 8, 8), np.float32)))
    with pytest.raises(HostileArchive, match="inflates"):
        NpzArchive(file, Limits(bomb_bytes=1 << 20, bomb_ratio=100))
    with pytest.raises(Oversize):
        NpzArchive(file, Limits(total_bytes=1 << 20))
    with pytest.raises(HostileArchive, match="members"):
        NpzArchive(file, Limits(members=0))


def test_a_huge_directory_is_refused_before_it_is_read() -> None:
    raw = bytearray(BASE)
    end = raw.rfind(b"PK\5\6")
    raw[end + 12 : end + 16] = struct.pack("<I", 1 << 30)
    with pytest.raises(HostileArchive, match="directory"):
        NpzArchive(io.BytesIO(raw))


def test_a_declared_shape_must_fit_the_data() -> None:
    content = npy(np.zeros((4, 3), np.float32))
    huge = content.replace(b"(4, 3), }" + b" " * 10, b"(22000000000, 3), }")
    assert len(huge) == len(content)
    with NpzArchive(archive_of(features=huge)) as archive, pytest.raises(CorruptArray, match="declares"):
        archive.header("features")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY\x01\x00",
        b"\x93NUMPY\x09\x00\x10\x00" + bytes(16),
        b"\x93NUMPY\x01\x00\xff\xff" + bytes(16),
        b"\x93NUMPY\x01\x00\x10\x00" + b"(" * 16,
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(64),
        npy(np.zeros(3, [("a", "i4"), ("b", "f8")])),
        npy(np.zeros(3, "datetime64[s]")),
        npy(np.zeros(3, complex)),
    ],
)
def test_malformed_members_are_corrupt(content: bytes) -> None:
    with NpzArchive(archive_of(values=content)) as archive, pytest.raises(CorruptArray):
        archive.header("values")


def test_damaged_bytes_are_a_crc_mismatch() -> None:
    file = io.BytesIO((DAMAGED / "corrupt_crc.npz").read_bytes())
    with pytest.raises(CrcMismatch, match="features"):
        read_all(file)


def test_fortran_order_cannot_be_streamed() -> None:
    file = archive_of(features=npy(np.asfortranarray(np.arange(6.0).reshape(2, 3))))
    with pytest.raises(UnsupportedLayout):
        read_all(file)


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "loop.npz").symlink_to("loop.npz")
    for path in (
        tmp_path,
        tmp_path / "missing.npz",
        tmp_path / "pipe.npz",
        tmp_path / "loop.npz",
        Path("nul\0.npz"),
    ):
        with pytest.raises(Unreadable):
            open_regular(path)


@given(st.binary(max_size=300))
def test_random_bytes_only_ever_raise(content: bytes) -> None:
    with pytest.raises(NpzError):
        NpzArchive(io.BytesIO(content))


@settings(deadline=None)
@given(st.data())
def test_damaged_archives_read_or_raise(data: st.DataObject) -> None:
    raw = bytearray(BASE)
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.one_of(st.integers(0, len(raw) - 1), st.integers(len(raw) - 2500, len(raw) - 1)))
        raw[at] = data.draw(st.integers(0, 255))
    with contextlib.suppress(NpzError, ObjectArrayError):
        read_all(io.BytesIO(raw))


def test_damaged_objects_are_a_crc_mismatch_whatever_they_seem_to_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_arrays, "WINDOW_BYTES", 16)
    content = npy(np.array([{"a": 1}, "text", None] * 50, object))
    at = content.index(b"text")
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        written.writestr("metadata.npy", content)
    raw = bytearray(file.getvalue())
    start = raw.index(content)
    for damaged in (start + at - 20, start + len(content) - 2):
        raw[damaged] ^= 0xFF
        with NpzArchive(io.BytesIO(raw)) as archive, pytest.raises(CrcMismatch):
            list(archive.object_blocks(archive.header("metadata")))
        raw[damaged] ^= 0xFF
