"""Small files that ask for much time or memory: refused, or read in proportion to their length."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ringrift_dagster.models.checkpoints import inert_pickle, onnx_file
from ringrift_dagster.models.checkpoints.description import Checkpoint, read_checkpoint
from ringrift_dagster.models.checkpoints.refusals import CheckpointRefused
from tests.models.checkpoints.files import archive, number, shape, storage, tensor, text, weights

MAX_MEMORY = 64 << 20


def get(index: int) -> bytes:
    return b"h" + bytes([index])


def calls(name: bytes, argument: bytes, count: int) -> bytes:
    """A constructor, a tuple of arguments, and a list of the results of `count` calls with it."""
    return b"c" + name + b"\nq\x01" + argument + b"q\x02](" + (get(1) + get(2) + b"R") * count + b"e\x87"


def names(count: int) -> bytes:
    """A list of pairs, each with a name of its own, as the only argument."""
    return b"](" + b"".join(text(str(index)) + b"N\x86" for index in range(count)) + b"e\x85"


def colliding(count: int) -> bytes:
    """A dictionary whose keys, multiples of Python's modulus of hashes, have one hash."""
    keys = (index * ((1 << 61) - 1) for index in range(1, count + 1))
    return b"}(" + b"".join(b"\x8a\x10" + key.to_bytes(16, "little") + b"N" for key in keys) + b"u"


BOMBS: dict[str, Callable[[], bytes]] = {
    "one long text, encoded again and again": lambda: calls(
        b"_codecs\nencode", text("a" * 200_000) + text("latin1") + b"\x86", 2_000
    ),
    "one list, made a dictionary again and again": lambda: calls(b"collections\nOrderedDict", names(5_000), 2_000),
    "one pair, in a long list": lambda: calls(
        b"collections\nOrderedDict", b"](" + text("k") + b"N\x86q\x03" + get(3) * 20_000 + b"e\x85", 2_000
    ),
    "one shape, of a tensor made again and again": lambda: calls(
        b"torch._utils\n_rebuild_tensor_v2",
        b"(" + storage() + number(0) + shape(*[1] * 16) + shape(*[1] * 16) + b"\x89Nt",
        20_000,
    ),
    "integers of one hash as keys": lambda: colliding(20_000),
    "a long key, set again and again": lambda: (
        b"}" + text("k" * 100_000) + b"Ns(" + text("k" * 100_000) + b"q\x01N" + (get(1) + b"N") * 50_000 + b"u"
    ),
    "a storage with a long key": lambda: tensor(storage("0" * 100_000)),
}


def read(content: bytes, tmp_path: Path) -> Checkpoint:
    path = tmp_path / "model"
    path.write_bytes(content)
    return read_checkpoint(path)


def varint(value: int) -> bytes:
    head = b""
    while value > 127:
        head, value = head + bytes([value & 127 | 128]), value >> 7
    return head + bytes([value])


def message(number: int, content: bytes) -> bytes:
    """A protobuf field with bytes."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def initializer(name: bytes = b"a.weight", sizes: tuple[int, ...] = (1,)) -> bytes:
    """A TensorProto of float32 without values."""
    return b"".join(b"\x08" + varint(size) for size in sizes) + b"\x10\x01" + message(8, name)


def onnx_bytes(*initializers: bytes, extra: bytes = b"") -> bytes:
    """An ONNX model of initializers alone, with `extra` fields."""
    return b"\x08\x07" + extra + message(7, b"".join(message(5, tensor) for tensor in initializers))


LONG = b"v" * 65_000
FIELDS = 2_000
"""How many fields of an ONNX file are read in these tests: reading as many as usual takes half a second."""
ONNX_BOMBS: dict[str, Callable[[], bytes]] = {
    "many metadata": lambda: onnx_bytes(
        initializer(), extra=b"".join(message(14, message(1, str(index).encode()) + message(2, LONG)) for index in range(300))
    ),
    "one entry of metadata, again and again": lambda: onnx_bytes(
        initializer(), extra=message(14, message(1, b"k") + message(2, LONG)) * 300
    ),
    "long names": lambda: onnx_bytes(*(initializer(str(index).encode() + LONG[:60_000]) for index in range(300))),
    "many fields": lambda: onnx_bytes(initializer(), extra=b"\x10\x01" * FIELDS),
    "many tensors": lambda: onnx_bytes(*(initializer(str(index).encode()) for index in range(FIELDS // 4))),
    "a tensor of very many elements": lambda: onnx_bytes(initializer(sizes=(1 << 47,) * 16)),
    "tensors of very many elements": lambda: onnx_bytes(*(initializer(name, (1 << 30, 1 << 23)) for name in (b"a", b"b"))),
    "many dimensions": lambda: onnx_bytes(initializer(sizes=(1,) * 17)),
}


@contextmanager
def bounded_memory(most: int = MAX_MEMORY) -> Iterator[None]:
    tracemalloc.start(1)
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < most


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_in_a_pickle_is_refused_as_too_large(name: str, tmp_path: Path) -> None:
    content = archive(weights(extra=BOMBS[name]()))
    with bounded_memory(), pytest.raises(CheckpointRefused, match=r"^too_large: "):
        read(content, tmp_path)


@pytest.mark.parametrize("name", ONNX_BOMBS)
def test_a_large_onnx_file_is_refused_as_too_large(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "MAX_FIELDS", FIELDS)
    with pytest.raises(CheckpointRefused, match=r"^too_large: "):
        read(ONNX_BOMBS[name](), tmp_path)


def test_a_tensor_of_most_elements_is_counted(tmp_path: Path) -> None:
    assert read(onnx_bytes(initializer(sizes=(1 << 30, 1 << 23))), tmp_path).parameters == 1 << 53


def test_a_numpy_type_takes_few_arguments(tmp_path: Path) -> None:
    code = calls(b"numpy\ndtype", b"(" + text("f8") + b"\x89" * 1_000 + b"t", 1)
    with pytest.raises(CheckpointRefused, match=r"^forbidden_call: "):
        read(archive(weights(extra=code)), tmp_path)


def test_a_list_that_is_shared_is_visited_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    visits: list[int] = []
    actual = inert_pickle._children

    def counted(value: Any) -> Iterable[Any]:
        visits.append(id(value))
        return actual(value)

    monkeypatch.setattr(inert_pickle, "_children", counted)
    shared = b"](" + b"N" * 1_000 + b"eq\x01](" + get(1) * 10_000 + b"e\x86"
    assert read(archive(weights(extra=shared)), tmp_path).tensors == 1
    assert len(visits) < 20


def test_a_memo_index_beyond_the_stream_takes_no_memory(tmp_path: Path) -> None:
    content = archive(weights(extra=b"Nr" + struct.pack("<I", 0xFFFFFFF0)))
    with bounded_memory(1 << 22), pytest.raises(CheckpointRefused, match=r"^corrupt_pickle: "):
        read(content, tmp_path)


@pytest.mark.parametrize("index", [0, 5])
def test_a_memo_may_have_gaps_and_counts_what_it_has(index: int) -> None:
    """As in `pickle`: MEMOIZE puts a value at the number of those that are there."""
    stream = b"\x80\x04K\x07r" + struct.pack("<I", index) + b"K\x08\x94" + get(1) + b"\x87."
    assert inert_pickle.read_pickle(stream)[0] == (7, 8, 8)


def test_work_in_proportion_to_the_stream_is_done(tmp_path: Path) -> None:
    """Many entries, OrderedDicts of pairs, and bytes of protocol 2, none of them shared."""
    numbered = b"}(" + b"".join(number(index) + b"](" + number(0) * 60 + b"e" for index in range(2_000)) + b"u"
    pairs = b"ccollections\nOrderedDict\n" + names(30_000) + b"R"
    encoded = b"](" + b"".join(b"c_codecs\nencode\n" + text("12345678") + text("latin1") + b"\x86R" for _ in range(8_000)) + b"e"
    for code in (numbered, pairs, encoded):
        assert read(archive(weights(extra=code)), tmp_path).tensors == 1
