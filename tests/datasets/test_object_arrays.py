"""Object arrays: everything numpy writes is read, nothing else is, and no stream ever runs anything."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringrift_dagster.datasets import object_arrays
from ringrift_dagster.datasets.object_arrays import (
    BLOCK_ELEMENTS,
    MAX_NESTED_VALUES,
    WINDOW_BYTES,
    CorruptPickle,
    HostilePickle,
    ObjectArray,
    ObjectArrayError,
    OversizePickle,
    load_object_array,
    object_blocks,
)

PROTOCOLS = (2, 3, 4, 5)
PLAIN = st.one_of(st.integers(), st.floats(allow_nan=False), st.text(), st.booleans(), st.none())


def column(values: list[Any]) -> ObjectArray:
    array = np.empty((len(values), 1), object)
    array[:, 0] = values
    return array


def ragged(rows: list[Any]) -> ObjectArray:
    array = np.empty(len(rows), object)
    for at, row in enumerate(rows):
        array[at] = row
    return array


def same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return type(other) is np.ndarray and one.dtype == other.dtype and np.array_equal(one, other)
    return type(one) is type(other) and one == other


LONG = b"X" + struct.pack("<I", 100_000) + b"a" * 100_000
HEAD = pickle.dumps(np.empty(7000, object), protocol=3).partition(b"]")[0]

ARRAYS = {
    "text": ragged(["ring_placement", "movement", "é", "movement", ""] * 300),
    "integers": column([0, 255, 256, 65535, 65536, -1, -(2**31), 2**31, 2**62] * 200),
    "floats": column([1.0, 0.5, -0.0, float("inf")] * 700),
    "rows": ragged([np.arange(n % 7, dtype=np.int32) for n in range(400)]),
    "probabilities": ragged([np.full(n % 7 + 1, 0.25, np.float32) for n in range(400)]),
    "scalars": ragged([np.float32(0.5), np.int64(7), np.str_("lps"), np.bool_(True)]),
    "mixed": ragged([True, None, b"raw", (1, "two"), [3.0], {"four": 5}]),
    "empty": np.empty((0, 1), object),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", ARRAYS)
def test_reads_what_numpy_writes(name: str, protocol: int) -> None:
    written = ARRAYS[name]
    read = load_object_array(pickle.dumps(written, protocol=protocol), written.shape)
    assert read.shape == written.shape
    assert all(same(*pair) for pair in zip(written.ravel().tolist(), read.ravel().tolist(), strict=True))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_reads_the_names_of_both_numpy_majors(protocol: int) -> None:
    payload = pickle.dumps(ARRAYS["rows"], protocol=2)
    for old, new in ((b"numpy._core.", b"numpy.core."), (b"numpy.core.", b"numpy._core.")):
        renamed = payload.replace(old, new)
        assert np.array_equal(load_object_array(renamed, (400,))[6], np.arange(6))


def test_reads_the_metadata_dictionary() -> None:
    metadata = {
        "export_time": "2026-01-02T03:04:05",
        "game_count": 3,
        "sample_count": 98,
        "extra": [1, (2.5, None)],
    }
    array = np.array(metadata, dtype=object)
    assert load_object_array(pickle.dumps(array, protocol=4), ()).item() == metadata


@settings(deadline=None)
@given(st.lists(PLAIN, max_size=30), st.sampled_from(PROTOCOLS))
def test_plain_values_come_back(values: list[Any], protocol: int) -> None:
    small = [0 if type(value) is int and value.bit_length() > 250 else value for value in values]
    written = ragged(small)
    read = load_object_array(pickle.dumps(written, protocol=protocol), written.shape)
    assert all(same(*pair) for pair in zip(small, read.tolist(), strict=True))


class Command:
    """Pickles to a call of any importable function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_command_raises_and_does_not_run(protocol: int, tmp_path: Any) -> None:
    proof = tmp_path / "ran"
    array = ragged(["fine", Command(os.system, f"touch {proof}")])
    with pytest.raises(HostilePickle, match="system"):
        load_object_array(pickle.dumps(array, protocol=protocol), (2,))
    assert not proof.exists()


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"cos\nsystem\n(S'true'\ntR.", id="protocol-0-command"),
        pytest.param(b"\x80\x02c__builtin__\neval\n.", id="global"),
        pytest.param(b"\x80\x04\x8c\x02os\x8c\x06system\x93.", id="stack-global"),
        pytest.param(b"\x80\x02(cos\nsystem\no.", id="obj"),
        pytest.param(b"\x80\x02(ios\nsystem\n.", id="inst"),
        pytest.param(b"\x80\x02cnumpy\nndarray\n)\x81.", id="newobj"),
        pytest.param(b"\x80\x02\x82\x01.", id="extension"),
        pytest.param(b"\x80\x02U\x01xQ.", id="persistent-id"),
        pytest.param(b"\x80\x02cnumpy.core.multiarray\nscalar\n)R.", id="scalar-of-nothing"),
        pytest.param(b"\x80\x02cnumpy\ndtype\nX\x03\x00\x00\x00V99\x85R.", id="structured-dtype"),
        pytest.param(b"\x80\x02]}b.", id="state-of-a-list"),
        pytest.param(b"\x80\x02K\x01K\x02a.", id="append-to-a-number"),
        pytest.param(b"\x80\x02\x8a\xff" + bytes(255) + b".", id="huge-integer"),
        pytest.param(b"\x80\x09N.", id="unknown-protocol"),
    ],
)
def test_hostile_streams_are_named_so(payload: bytes) -> None:
    with pytest.raises(HostilePickle):
        load_object_array(payload, (1,))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x80\x04",
        b"\x80\x04.",
        b"\x80\x04N.",
        b"\x80\x04h\x07.",
        b"\x80\x04t.",
        b"\x80\x04\x87.",
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b".",
        pickle.dumps(np.arange(3)),
        pickle.dumps({"not": "an array"}),
    ],
)
def test_broken_streams_are_corrupt(payload: bytes) -> None:
    with pytest.raises(CorruptPickle):
        load_object_array(payload, (3,))


def test_the_header_must_agree() -> None:
    with pytest.raises(CorruptPickle, match="shape"):
        load_object_array(pickle.dumps(ARRAYS["text"]), (3,))


def test_an_array_that_contains_itself_is_refused() -> None:
    array = np.empty(1, object)
    array[0] = array
    with pytest.raises(HostilePickle):
        load_object_array(pickle.dumps(array), (1,))


def test_shared_containers_cannot_explode() -> None:
    nested: Any = ["lol"]
    for _ in range(7):
        nested = [nested] * 10
    with pytest.raises(HostilePickle, match="nested"):
        load_object_array(pickle.dumps(ragged([nested])), (1,))


def test_a_payload_out_of_proportion_is_refused() -> None:
    with pytest.raises(HostilePickle, match="at most"):
        load_object_array(b"]" * (1 << 20), (2,))


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_only_ever_raise(payload: bytes) -> None:
    with pytest.raises(ObjectArrayError):
        load_object_array(payload, (3,))


@settings(deadline=None)
@given(st.sampled_from(sorted(ARRAYS)), st.sampled_from(PROTOCOLS), st.data())
def test_damaged_payloads_read_or_raise(name: str, protocol: int, data: st.DataObject) -> None:
    shape = ARRAYS[name].shape
    payload = bytearray(pickle.dumps(ARRAYS[name], protocol=protocol))
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.just(len(payload)), st.integers(0, len(payload))))
    with contextlib.suppress(ObjectArrayError):
        assert load_object_array(bytes(payload[:cut]), shape).shape == shape


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", sorted(set(ARRAYS) - {"empty"}))
def test_where_windows_end_does_not_matter(name: str, protocol: int, monkeypatch: pytest.MonkeyPatch) -> None:
    written = ARRAYS[name]
    payload = pickle.dumps(written, protocol=protocol)
    for size in (1, 7, 64, 1000):
        monkeypatch.setattr(object_arrays, "WINDOW_BYTES", size)
        read = load_object_array(payload, written.shape)
        assert all(same(*pair) for pair in zip(written.ravel().tolist(), read.ravel().tolist(), strict=True))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_rows_far_apart_may_be_the_same_object(protocol: int) -> None:
    rows = [np.arange(n % 9, dtype=np.int32) for n in range(30_000)]
    written = ragged([*rows, *rows[::-1]])
    payload = pickle.dumps(written, protocol=protocol)
    assert len(payload) > WINDOW_BYTES
    read = load_object_array(payload, written.shape).tolist()
    assert all(same(*pair) for pair in zip(written.tolist(), read, strict=True))


def test_elements_come_in_blocks_of_whole_rows() -> None:
    written = np.arange(1, 300_001).astype(object).reshape(-1, 3)
    payload = pickle.dumps(written, protocol=4)
    blocks = list(object_blocks(io.BytesIO(payload).read, len(payload), written.shape))
    assert all(len(block) % 3 == 0 and len(block) <= BLOCK_ELEMENTS for block in blocks)
    assert [element for block in blocks for element in block] == written.ravel().tolist()


def test_memory_is_bounded_however_long_the_array_is() -> None:
    head = HEAD.replace(b"M" + struct.pack("<H", 7000), b"J" + struct.pack("<i", 1_000_000))
    chunks = iter([head + b"](", *[b"J\x01\x02\x03\x00" * 10_000] * 100, b"etb."])
    size = len(head) + 2 + 5_000_000 + 4
    source = _Chunks(chunks)
    tracemalloc.start()
    try:
        count = sum(len(block) for block in object_blocks(source.read, size, (1_000_000,)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 1_000_000
    assert peak < 24 << 20  # the elements alone would take 36 MB


class _Chunks:
    """Reads from pieces that are made as they are needed."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.pieces = pieces
        self.held = b""

    def read(self, count: int) -> bytes:
        while len(self.held) < count:
            self.held += next(self.pieces, b"") or bytes(count)
        taken, self.held = self.held[:count], self.held[count:]
        return taken


def test_a_key_nested_without_bound_is_refused_before_it_is_hashed() -> None:
    payload = b"\x80\x03" + b"}" + b")" + b"\x85" * 5_000_000 + b"Ns" + b"."
    script = (
        "import sys; from ringrift_dagster.datasets.object_arrays import HostilePickle, load_object_array\n"
        "try: load_object_array(sys.stdin.buffer.read(), (2000,))\n"
        "except HostilePickle: print('refused')"
    )
    ran = subprocess.run([sys.executable, "-c", script], input=payload, capture_output=True, timeout=60, check=True)
    assert ran.stdout == b"refused\n"


@pytest.mark.parametrize("key", [b")", b"]", b"}", b"K\x01\x85", b"cnumpy\ndtype\n"])
def test_keys_are_plain(key: bytes) -> None:
    with pytest.raises(HostilePickle, match="key"):
        load_object_array(b"\x80\x03}" + key + b"Ns.", (1,))


@pytest.mark.parametrize("shape", [(1_000_000_000, 0), (1_000_000_000,), (10, 10**9), (3, 0, 5)])
def test_shapes_larger_than_the_payload_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(CorruptPickle, match="cannot hold"):
        load_object_array(pickle.dumps(np.empty((5, 0), object)), shape)


def test_rows_are_bounded() -> None:
    with pytest.raises(OversizePickle, match="row"):
        load_object_array(b"N" * 300_000, (1, 300_000))


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(b"}" * (4 << 20), id="containers"),
        pytest.param(b"(" * (2 << 20), id="marks"),
        pytest.param(b"N" * (4 << 20), id="stack"),
        pytest.param(b")" + b"\x85" * (2 << 20), id="nesting"),
        pytest.param(HEAD + b"](" + b")" + b"\x85" * (2 << 20), id="nesting-in-an-element"),
        pytest.param(HEAD + b"](" + b"]q\x64" + b"h\x64h\x64a" * 300_000, id="itself"),
        pytest.param(
            HEAD + b"](c_codecs\nencode\nq\x64" + LONG + b"q\x65" + b"h\x64h\x65X\x06\0\0\0latin1\x86R" * 7000, id="copies"
        ),
        pytest.param(HEAD + b"](" + LONG + b"q\x64" + b"h\x64" * 6999 + b"etb.", id="references"),
        pytest.param(HEAD + b"](" + b"]" * (MAX_NESTED_VALUES + 1), id="lists"),
    ],
)
def test_a_short_stream_takes_little_memory(stream: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(HostilePickle):
            load_object_array(stream, (7000,))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 128 << 20


def test_what_was_handed_out_cannot_change(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = HEAD + b"](]q\x64" + b"N" * 6998 + b"h\x64" + b"N" + b"a" + b"etb."
    with pytest.raises(ObjectArrayError):
        monkeypatch.setattr(object_arrays, "WINDOW_BYTES", 256)
        load_object_array(stream, (7000,))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_is_memoised_is_bounded_at_about_360_bytes_a_row_of_numpys_own(protocol: int, monkeypatch: pytest.MonkeyPatch) -> None:
    written = ragged([np.arange(20, dtype=np.int32) for _ in range(30_000)])
    payload = pickle.dumps(written, protocol=protocol)
    monkeypatch.setattr(object_arrays, "WINDOW_BYTES", 1 << 16)
    monkeypatch.setattr(object_arrays, "MAX_MEMO_BYTES", 370 * 30_000 if protocol > 2 else 520 * 30_000)
    assert len(load_object_array(payload, written.shape)) == 30_000
    monkeypatch.setattr(object_arrays, "MAX_MEMO_BYTES", 250 * 30_000)
    with pytest.raises(OversizePickle, match="memoised"):
        load_object_array(payload, written.shape)


def test_nothing_may_follow_the_array() -> None:
    payload = pickle.dumps(ARRAYS["text"])
    with pytest.raises(CorruptPickle, match="follow"):
        load_object_array(payload + b"N", ARRAYS["text"].shape)


WHOLE = pickle.dumps(ragged([1, "a", np.arange(3), (1, [2]), {"k": None}, np.arange(2)]), protocol=2)
FRAGMENTS = st.one_of(
    st.sampled_from(
        [b"(", b")", b"]", b"}", b"N", b"\x88", b"\x85", b"\x86", b"\x87", b"t", b"a", b"e", b"s", b"u", b"b", b"R", b"\x94",
         b"K\x01", b"M\x01\x02", b"J\x01\x02\x03\x04", b"G\x40\0\0\0\0\0\0\0", b"C\x02ab", b"C\0", b"\x8c\x02i4", b"X\x02\0\0\0U5",
         b"\x8a\x01\x05", b"cnumpy\ndtype\n", b"cnumpy\nndarray\n", b"cnumpy.core.multiarray\n_reconstruct\n",
         b"cnumpy.core.multiarray\nscalar\n", b"cnumpy.core.numeric\n_frombuffer\n", b"c_codecs\nencode\n", b"\x8c\x06latin1",
         b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85C\x01b\x87R", b"(K\x01K\x01\x85", b"\x89C\x04abcdtb",
         b"\x93", b"\x80\x04", b"."]
    ),
    st.builds(lambda op, at: bytes([op, at]), st.sampled_from(b"hq"), st.integers(0, 40)),
    st.builds(lambda op, at: bytes([op]) + struct.pack("<I", at), st.sampled_from(b"jr"), st.integers(0, 40)),
    st.builds(lambda at, length: WHOLE[at : at + length], st.integers(0, len(WHOLE)), st.integers(0, 60)),
)  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(
    head=st.sampled_from([b"\x80\x02", HEAD + b"](", WHOLE[: WHOLE.index(b"]") + 4]]),
    pieces=st.lists(st.tuples(FRAGMENTS, st.one_of(st.just(1), st.integers(1, 3000))), max_size=15),
    tail=st.sampled_from([b"", b"etb.", b"tb.", WHOLE[-3:]]),
    window=st.sampled_from([16, 5000, WINDOW_BYTES]),
)
def test_random_opcodes_only_ever_raise_or_mean_what_numpy_reads(
    head: bytes, pieces: list[tuple[bytes, int]], tail: bytes, window: int
) -> None:
    stream = head + b"".join(piece * times for piece, times in pieces) + tail
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(object_arrays, "WINDOW_BYTES", window)
        tracemalloc.start()
        try:
            for shape in ((6,), (7000,)):
                with contextlib.suppress(ObjectArrayError):
                    read = load_object_array(stream, shape)
                    assert same_as_numpy(read, stream)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < (16 << 20) + 200 * len(stream)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_spliced_streams_only_ever_raise_or_mean_what_numpy_reads(data: st.DataObject) -> None:
    stream = WHOLE
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(stream)))
        stream = stream[:at] + data.draw(FRAGMENTS) + stream[at + data.draw(st.integers(0, 4)) :]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(object_arrays, "WINDOW_BYTES", data.draw(st.sampled_from([1, 16, WINDOW_BYTES])))
        with contextlib.suppress(ObjectArrayError):
            assert same_as_numpy(load_object_array(stream, (6,)), stream)


def same_as_numpy(read: ObjectArray, accepted: bytes) -> bool:
    """Whether numpy reads the same from a stream that was accepted, and so names nothing but numpy; it may refuse it."""
    try:
        expected = pickle.loads(accepted)
    except Exception:
        return True
    if type(expected) is not np.ndarray or expected.shape != read.shape:
        return False
    return all(type(one) is type(other) and repr(one) == repr(other) for one, other in zip(read.flat, expected.flat, strict=True))
