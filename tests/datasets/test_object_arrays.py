"""Object arrays: everything numpy writes is read, nothing else is, and no stream ever runs anything."""

from __future__ import annotations

import contextlib
import os
import pickle
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringrift_dagster.datasets.object_arrays import (
    CorruptPickle,
    HostilePickle,
    ObjectArray,
    ObjectArrayError,
    load_object_array,
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
