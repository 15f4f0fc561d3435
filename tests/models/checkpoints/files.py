"""Model files for tests: those that torch wrote, and ones made byte by byte, which torch would never write."""

from __future__ import annotations

import lzma
import struct
import zipfile
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path

DATA = Path(__file__).parents[2] / "data" / "models"
GOOD = tuple(sorted(path.name.removesuffix(".pth.xz") for path in DATA.glob("*.pth.xz")))
"""Files that torch 2.13 wrote; see the README beside them."""


def good(name: str) -> bytes:
    """The content of one of GOOD."""
    return lzma.decompress((DATA / f"{name}.pth.xz").read_bytes())


def text(value: str) -> bytes:
    """A string as a pickle writes it."""
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    """An integer as a pickle writes it."""
    return b"J" + struct.pack("<i", value)


def shape(*sizes: int) -> bytes:
    """A tuple of integers as a pickle writes it."""
    return b"(" + b"".join(map(number, sizes)) + b"t"


def storage(key: str = "0", elements: int = 4, kind: str = "FloatStorage", device: str = "cpu") -> bytes:
    """A reference to a storage."""
    return b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text(device) + number(elements) + b"tQ"


def tensor(stored: bytes, sizes: tuple[int, ...] = (4,), strides: tuple[int, ...] = (1,), offset: int = 0) -> bytes:
    """A tensor in a storage."""
    arguments = stored + number(offset) + shape(*sizes) + shape(*strides) + b"\x89ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"


def weights(value: bytes | None = None, extra: bytes = b"") -> bytes:
    """A pickle of a dictionary with one tensor among its weights, and with `extra` as its last entry."""
    entry = text("model_state_dict") + b"}" + text("a.weight") + (value or tensor(storage())) + b"s" + b"s"
    return b"\x80\x02}" + entry + (text("extra") + extra + b"s" if extra else b"") + b"."


def archive(
    pickled: bytes | None = None,
    *,
    storages: Mapping[str, bytes] | None = None,
    others: Mapping[str, bytes] | None = None,
    method: int = zipfile.ZIP_STORED,
    change: Callable[[zipfile.ZipInfo], None] | None = None,
) -> bytes:
    """A zip archive as torch writes it, but for what the arguments say. `change` alters the directory's lines."""
    entries = {"data.pkl": weights() if pickled is None else pickled, "byteorder": b"little", "version": b"3\n"}
    entries |= {f"data/{key}": value for key, value in ({"0": bytes(16)} if storages is None else storages).items()}
    file = BytesIO()
    with zipfile.ZipFile(file, "w", method) as writer:
        for name, content in {**{f"archive/{name}": content for name, content in entries.items()}, **(others or {})}.items():
            writer.writestr(zipfile.ZipInfo(name), content, method)  # without the time, so that equal content is an equal file
        if change is not None:
            for info in writer.filelist:
                change(info)
    return file.getvalue()
