"""Files that nobody trained: all are refused with a reason, and nothing in them is executed, imported or followed."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import sqlite3
import struct
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringrift_dagster.models.checkpoints import inert_pickle, onnx_file, safetensors_file, torch_file
from ringrift_dagster.models.checkpoints.description import Checkpoint, read_checkpoint
from ringrift_dagster.models.checkpoints.refusals import REASONS, CheckpointRefused
from ringrift_dagster.models.checkpoints.source import Source
from ringrift_dagster.models.checkpoints.stored_zip import Entry
from tests.models.checkpoints.files import archive, good, number, shape, storage, tensor, text, weights
from tests.models.checkpoints.test_good import onnx_model

CANARY = "RINGRIFT_CANARY"
"""The name of a file that code in a checkpoint would make, in the working directory."""
COMMAND = f"touch {CANARY}"


class Calls:
    """Pickles as a call of something."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self._call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self._call


def calling(function: Callable[..., object], argument: str, protocol: int = 2) -> bytes:
    return pickle.dumps({"model_state_dict": Calls(function, argument)}, protocol)


def inserted(code: bytes) -> bytes:
    """An archive with good weights, and with the value of some opcodes beside them."""
    return archive(weights(extra=code))


def with_metadata(metadata: bytes, value: bytes | None = None) -> bytes:
    """An archive with one tensor, and with metadata from some opcodes."""
    entry = text("model_state_dict") + b"}" + text("conv1.weight") + (value or tensor(storage())) + b"ss"
    return archive(b"\x80\x02}" + entry + text("_versioning_metadata") + metadata + b"s.")


def multiplying() -> bytes:
    """Eight tuples, each with eight references to the one before: sixteen million values when written out."""
    references = (b"(" + (b"h" + bytes([level])) * 8 + b"tq" + bytes([level + 1]) for level in range(8))
    return b"]()q\x00" + b"".join(references) + b"e"


def with_flag(bit: int) -> Callable[[zipfile.ZipInfo], None]:
    """Sets a flag in the directory: 0x1 encrypted, 0x20 patch data, 0x40 strong encryption, 0x2000 masked headers."""

    def change(info: zipfile.ZipInfo) -> None:
        info.flag_bits |= bit

    return change


def with_other_method(info: zipfile.ZipInfo) -> None:
    info.compress_type = zipfile.ZIP_DEFLATED


def with_second_name(info: zipfile.ZipInfo) -> None:
    """The extra field with which some readers replace an entry's name."""
    if info.filename.endswith("data/0"):
        name = b"archive/data.pkl"
        info.extra = struct.pack("<2HBL", 0x7075, 5 + len(name), 1, zlib.crc32(info.filename.encode())) + name


def overlapping() -> bytes:
    """Two storages in one place, as bombs that need no compression have them."""
    offsets: list[int] = []

    def change(info: zipfile.ZipInfo) -> None:
        if "/data/" in info.filename:
            offsets.append(info.header_offset)
            info.header_offset = offsets[0]

    content = text("model_state_dict") + b"}" + b"".join(text(key) + tensor(storage(key)) + b"s" for key in "01") + b"s"
    return archive(b"\x80\x02}" + content + b".", storages={"0": bytes(16), "1": bytes(16)}, change=change)


def compressed_program() -> bytes:
    """An archive as `torch.jit.save` writes it: the program is compressed."""
    file = io.BytesIO(archive())
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as writer:
        writer.writestr("archive/code/__torch__.py", f"import os; os.system({COMMAND!r})")
    return file.getvalue()


def zipped(name: str, content: bytes) -> bytes:
    """A file in a zip archive of its own."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as writer:
        writer.writestr(name, content)
    return file.getvalue()


def training_set() -> bytes:
    """An NPZ, of which somebody thought that it is a model."""
    file = io.BytesIO()
    np.savez(file, features=np.zeros((2, 56, 8, 8), np.float32))
    return file.getvalue()


def database() -> bytes:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE games (game_id TEXT)")
        return connection.serialize()


def of_other_players() -> bytes:
    """A value head for three players, in a model that says that it is for two."""
    value = text("model_state_dict") + b"}" + text("value_fc2.weight") + tensor(storage(), (3, 1), (1, 1)) + b"ss"
    claim = text("_versioning_metadata") + b"}" + text("num_players") + number(2) + b"ss"
    return archive(b"\x80\x02}" + value + claim + b".")


def with_other_size(info: zipfile.ZipInfo) -> None:
    if info.filename.endswith("data.pkl"):
        info.file_size = info.compress_size = info.file_size - 1


def with_other_crc(info: zipfile.ZipInfo) -> None:
    info.CRC ^= 1


def with_other_name(info: zipfile.ZipInfo) -> None:
    info.filename = info.filename.replace("data/0", "data/1")


def twice() -> bytes:
    file = io.BytesIO(archive())
    with zipfile.ZipFile(file, "a") as writer, pytest.warns(UserWarning, match="Duplicate"):
        writer.writestr("archive/data.pkl", weights())
    return file.getvalue()


def tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as writer:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            member = tarfile.TarInfo(name)
            member.size = 4
            writer.addfile(member, io.BytesIO(b"abcd"))
    return file.getvalue()


def header(content: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(content)) + content + data


def changed_onnx(change: Callable[[onnx.ModelProto], None], **changes: str) -> bytes:
    model = onnx_model(**changes)
    change(model)
    return model.SerializeToString()


def outside(model: onnx.ModelProto) -> None:
    initializer = model.graph.initializer[0]
    initializer.ClearField("raw_data")
    initializer.data_location = onnx.TensorProto.EXTERNAL
    initializer.external_data.add(key="location", value="../../etc/passwd")


def with_function(model: onnx.ModelProto) -> None:
    model.functions.add(name="f", domain="")


def keep(model: onnx.ModelProto) -> None:
    pass


GLOBALS = {
    "os.system": b"cos\nsystem\n" + b"(" + text(COMMAND) + b"tR",
    "posix.system": b"cposix\nsystem\n" + b"(" + text(COMMAND) + b"tR",
    "eval": b"cbuiltins\neval\n" + b"(" + text(f"open({CANARY!r}, 'w')") + b"tR",
    "exec by its old module": b"c__builtin__\nexec\n" + b"(" + text(f"open({CANARY!r}, 'w')") + b"tR",
    "getattr": b"cbuiltins\ngetattr\n" + b"(ctorch\nSize\n" + text("mro") + b"tR",
    "a stack global": text("os") + text("system") + b"\x93(" + text(COMMAND) + b"tR",
    "a stack global with a dotted name": text("collections") + text("OrderedDict.fromkeys") + b"\x93",
    "a dotted name": b"ccollections\nOrderedDict.__class__\n",
    "a module of tensors' name": b"ctorch._utils\n_rebuild_tensor_v2.__globals__\n",
    "a look-alike": "ctorch._utіls\n_rebuild_tensor_v2\n".encode(),
    "a name with a space": b"ctorch._utils \n_rebuild_tensor_v2\n",
    "torch.load": b"ctorch\nload\n",
    "torch.hub": b"ctorch.hub\nload\n",
    "torch.jit": b"ctorch.jit\nload\n",
    "numpy.load": b"cnumpy\nload\n",
    "runpy": b"crunpy\nrun_path\n",
    "OBJ": b"(cos\nsystem\n" + text(COMMAND) + b"o",
}
OPCODES = {
    "INST": b"(" + text(COMMAND) + b"ios\nsystem\n",
    "NEWOBJ": b"ccollections\nOrderedDict\n)\x81",
    "NEWOBJ_EX": b"ccollections\nOrderedDict\n)}\x92",
    "EXT1": b"\x82\x01",
    "EXT2": b"\x83\x01\x00",
    "EXT4": b"\x84\x01\x00\x00\x00",
    "PERSID": b"Pstorage\n",
    "NEXT_BUFFER": b"\x97",
    "an unknown opcode": b"\xff",
    "text as Python": b"S'\\x41'\n",
    "a huge protocol": b"\x80\x09",
}
CALLS = {
    "a tensor of a number": b"ctorch._utils\n_rebuild_tensor_v2\n(K\x00K\x00)))\x89NtR",
    "a tensor with hooks": b"ctorch._utils\n_rebuild_tensor_v2\n("
    + storage()
    + b"K\x00"
    + shape(4)
    + shape(1)
    + b"\x89ctorch\nSize\ntR",
    "a storage's class": b"ctorch\nFloatStorage\nK\x04\x85R",
    "a result": b"ccollections\nOrderedDict\n)R)R",
    "arguments that are no tuple": b"ccollections\nOrderedDict\n]R",
    "another encoding": b"c_codecs\nencode\n" + text("a") + text("rot13") + b"\x86R",
    "a type of objects": b"cnumpy\ndtype\n" + text("O8") + b"\x85R",
    "an unhashable key": b"}]K\x01s",
    "a tuple as a key": b"})K\x01s",
    "an attribute": b"ccollections\nOrderedDict\n)R}" + text("__class__") + b"ctorch\nSize\nsb",
    "an attribute of a class": b"ctorch\nSize\n}b",
    "another persistent id": text("storage") + b"\x85Q",
    "a storage at a path": b"(" + text("module") + b"ctorch\nFloatStorage\n" + text("/etc/passwd") + text("cpu") + b"K\x01tQ",
}
BROKEN = {
    "a name without an end": b"c" + b"x" * 1000,
    "a memo that is not there": b"h\x63",
    "a missing mark": b"t",
    "a missing value": b"a",
    "a call without a function": b")R",
    "an append to nothing": b"K\x01K\x02a",
    "half a pair": b"}(K\x01u",
    "bytes that are no text": b"X\x02\x00\x00\x00\xff\xfe",
}
TENSORS = {
    "longer than its storage": tensor(storage(), (5,)),
    "beyond its storage": tensor(storage(), (2,), (1,), 3),
    "far apart": tensor(storage(), (2,), (1000,)),
    "backwards": tensor(storage(), (2,), (-1,), 1),
    "of negative size": tensor(storage(), (-2,), (1,)),
    "repeated without end": tensor(storage(), (100_000, 100_000), (0, 0)),
    "of other strides": tensor(storage(), (4,), (1, 1)),
    "of too many dimensions": tensor(storage(), (1,) * 40, (1,) * 40),
    "of a storage that is not there": tensor(storage("7")),
    "of a storage with a path": tensor(storage("../../../etc/passwd")),
    "of a storage of another length": tensor(storage(elements=5)),
    "of a storage of another type": tensor(storage(kind="DoubleStorage")),
}
HOSTILE: dict[str, tuple[str, Callable[[], bytes]]] = {
    **{f"names {name}": ("forbidden_global", lambda code=code: inserted(code)) for name, code in GLOBALS.items()},
    **{f"opcode {name}": ("forbidden_opcode", lambda code=code: inserted(code)) for name, code in OPCODES.items()},
    **{f"calls {name}": ("forbidden_call", lambda code=code: inserted(code)) for name, code in CALLS.items()},
    **{f"broken: {name}": ("corrupt_pickle", lambda code=code: archive(b"\x80\x02" + code)) for name, code in BROKEN.items()},
    **{f"a tensor {name}": ("corrupt_tensor", lambda code=code: archive(weights(code))) for name, code in TENSORS.items()},
    **{
        f"os.system in protocol {protocol}": ("forbidden", lambda protocol=protocol: archive(calling(os.system, COMMAND, protocol)))
        for protocol in range(6)
    },
    "exec in a plain pickle": ("forbidden_global", lambda: calling(exec, f"open({CANARY!r}, 'w')")),
    "a plain pickle": ("unknown_format", lambda: b"".join(pickle.dumps(value, 2) for value in (1, 2, {}, {}, []))),
    "a pickle behind the pickle": ("corrupt_pickle", lambda: archive(weights() + calling(os.system, COMMAND))),
    "values that are left": ("corrupt_pickle", lambda: archive(b"\x80\x02K\x01" + weights()[2:])),
    "a memo that contains itself": ("too_deep", lambda: inserted(b"]q\x01h\x01a")),
    "a dictionary that contains itself": ("too_deep", lambda: inserted(b"}q\x01" + text("a") + b"h\x01s")),
    "nested lists": ("too_deep", lambda: inserted(b"]" * 100_000 + b"a" * 99_999)),
    "nested tuples": ("too_deep", lambda: inserted(b")" + b"\x85" * 100_000)),
    "a nested key": ("forbidden_call", lambda: inserted(b"})" + b"\x85" * 100_000 + b"Ns")),
    "a nested code": ("forbidden_call", lambda: inserted(b"cnumpy\ndtype\n)" + b"\x85" * 100_000 + b"R")),
    "a long integer": ("too_large", lambda: inserted(b"\x8a\xff" + bytes(255))),
    "a long text": ("too_large", lambda: inserted(b"X\xff\xff\xff\x7f")),
    "a long pickle": ("too_large", lambda: archive(bytes(torch_file.MAX_PICKLE_BYTES + 1))),
    "metadata that multiply": ("too_large", lambda: with_metadata(b"}" + text("x") + multiplying() + b"s")),
    "metadata of another network": (
        "metadata_mismatch",
        lambda: with_metadata(b"}" + text("total_in_channels") + number(56) + b"s", tensor(storage(), (1, 4, 1, 1), (4, 1, 1, 1))),
    ),
    "nothing but an optimizer": ("no_weights", lambda: archive(b"\x80\x02}" + text("optimizer_state_dict") + b"}s.", storages={})),
    "weights that are no tensors": ("no_weights", lambda: archive(weights(number(1)), storages={})),
    "no dictionary": ("no_weights", lambda: archive(b"\x80\x02].", storages={})),
    "no pickle": ("hostile_archive", lambda: archive().replace(b"data.pkl", b"data.pkx")),
    "a storage that nobody uses": ("hostile_archive", lambda: archive(storages={"0": bytes(16), "1": b"payload"})),
    "a file among the storages": ("hostile_archive", lambda: archive(others={"archive/data/run.py": b"import os"})),
    "a path upwards": ("hostile_archive", lambda: archive(others={"archive/../../.bashrc": b"x"})),
    "an absolute path": ("hostile_archive", lambda: archive(others={"/etc/cron.d/x": b"x"})),
    "two folders": ("hostile_archive", lambda: archive(others={"other/data.pkl": weights()})),
    "a nested archive": ("hostile_archive", lambda: archive(others={"archive/inner.pth": archive()})),
    "an archive in a small entry": ("hostile_archive", lambda: archive(others={"archive/.data/serialization_id": archive()})),
    "a program": ("torchscript", lambda: archive(others={"archive/code/__torch__.py": b"import os"})),
    "constants of a program": ("torchscript", lambda: archive(others={"archive/constants.pkl": b"\x80\x02)."})),
    "compression": ("hostile_archive", lambda: archive(method=zipfile.ZIP_DEFLATED)),
    "a bomb": ("hostile_archive", lambda: archive(storages={"0": bytes(50_000_000)}, method=zipfile.ZIP_DEFLATED)),
    "encryption": ("hostile_archive", lambda: archive(change=with_flag(0x1))),
    "patch data": ("hostile_archive", lambda: archive(change=with_flag(0x20))),
    "strong encryption": ("hostile_archive", lambda: archive(change=with_flag(0x40))),
    "masked headers": ("hostile_archive", lambda: archive(change=with_flag(0x2000))),
    "two methods": ("hostile_archive", lambda: archive(change=with_other_method)),
    "a second name in an extra field": ("hostile_archive", lambda: archive(change=with_second_name)),
    "two entries in one place": ("hostile_archive", overlapping),
    "a compressed program": ("torchscript", compressed_program),
    "a model in an archive": ("hostile_archive", lambda: zipped("model.pth", archive())),
    "a model in an archive in a folder": ("hostile_archive", lambda: zipped("archive/data.pkl.zip", archive())),
    "a compressed model": ("unknown_format", lambda: gzip.compress(archive())),
    "a training set": ("hostile_archive", training_set),
    "a database": ("unknown_format", database),
    "a program of the machine": ("unknown_format", lambda: b"\x7fELF" + bytes(1000)),
    "a model for others than it says": ("metadata_mismatch", of_other_players),
    "two sizes": ("hostile_archive", lambda: archive(change=with_other_size)),
    "two checksums": ("hostile_archive", lambda: archive(change=with_other_crc)),
    "two names": ("hostile_archive", lambda: archive(change=with_other_name)),
    "an entry twice": ("hostile_archive", twice),
    "something before the archive": ("hostile_archive", lambda: b"PK\3\4" + bytes(100) + archive()),
    "something behind the archive": ("truncated", lambda: archive() + b"#!/bin/sh"),
    "a comment": ("truncated", lambda: archive()[:-2] + b"\x01\x00x"),
    "damaged weights": ("crc_mismatch", lambda: archive(storages={"0": b"weightsweightsab"}).replace(b"weightsw", b"weightsW", 1)),
    "another byte order": ("hostile_archive", lambda: archive(others={"archive/byteorder": b"big"})),
    "an old tar": ("legacy_tar", tar),
    "an empty file": ("unknown_format", lambda: b""),
    "text": ("unknown_format", lambda: b"weights: none\n" * 100),
    "half a file": ("truncated", lambda: good("cnn_v3_square8_4p")[:100_000]),
    "half a legacy file": ("truncated", lambda: good("legacy_square8_2p")[:-1]),
    "more than a legacy file": ("corrupt_tensor", lambda: good("legacy_square8_2p") + b"x"),
    "a header without an end": ("too_large", lambda: struct.pack("<Q", 3 << 20) + b"{" * (4 << 20)),
    "a header that is no object": ("corrupt_header", lambda: header(b"{]")),
    "a deep header": ("too_deep", lambda: header(b'{"a":' + b"[" * 100_000 + b"}")),
    "a name twice in a header": ("corrupt_header", lambda: header(b'{"a":1,"a":2}')),
    "tensors that overlap": (
        "corrupt_header",
        lambda: header(
            b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}', bytes(6)
        ),
    ),
    "bytes between tensors": (
        "corrupt_header",
        lambda: header(b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}', bytes(6)),
    ),
    "bytes behind tensors": (
        "corrupt_header",
        lambda: header(b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}', bytes(6)),
    ),
    "a tensor of another size": (
        "corrupt_header",
        lambda: header(b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,4]}}', bytes(4)),
    ),
    "tensors that are not there": (
        "truncated",
        lambda: header(b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}', bytes(2)),
    ),
    "no tensors": ("no_weights", lambda: header(b"{}")),
    "tensors in other files": ("external_data", lambda: changed_onnx(outside)),
    "operators of others": ("forbidden_call", lambda: changed_onnx(keep, domain="com.example")),
    "operator sets of others": ("forbidden_call", lambda: changed_onnx(keep, imports="com.example")),
    "functions in a model": ("corrupt_header", lambda: changed_onnx(with_function)),
    "half an ONNX file": ("truncated", lambda: onnx_model().SerializeToString()[:-500]),
}


def read(content: bytes, tmp_path: Path) -> Checkpoint:
    path = tmp_path / "model"
    path.write_bytes(content)
    return read_checkpoint(path)


READERS = (torch_file, safetensors_file, onnx_file)


@pytest.mark.parametrize("name", HOSTILE)
def test_refused_with_a_reason_and_without_effect(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reason, make = HOSTILE[name]
    monkeypatch.chdir(tmp_path)
    content, modules = make(), set(sys.modules)
    assert {reader.__name__ for reader in READERS} <= modules  # they are imported when they are first needed
    with pytest.raises(CheckpointRefused) as refused:
        read(content, tmp_path)
    assert refused.value.reason.startswith(reason)
    assert len(str(refused.value).splitlines()) == 1
    assert sys.modules.keys() == modules
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_the_corpus_is_large() -> None:
    assert len(HOSTILE) >= 140


def test_the_canary_is_there_when_such_a_file_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pickle.loads(calling(os.system, COMMAND))
    assert (tmp_path / CANARY).exists()


def test_every_reason_has_a_file() -> None:
    elsewhere = {"unreadable", "changed"}
    assert {reason for reason, _ in HOSTILE.values()} | elsewhere >= REASONS.keys()


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "nothing", Path("/dev/zero")):
        with pytest.raises(CheckpointRefused, match=r"^unreadable: "):
            read_checkpoint(path)


def test_a_file_that_changes_meanwhile_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model"
    path.write_bytes(good("small_bf16"))
    actual = torch_file.read_entries

    def changed(source: Source) -> dict[str, Entry]:
        with path.open("r+b") as file:
            file.write(b"PK")
        return actual(source)

    monkeypatch.setattr(torch_file, "read_entries", changed)
    with pytest.raises(CheckpointRefused, match=r"^changed: "):
        read_checkpoint(path)


SMALL = good("small_bf16")
LEGACY = good("legacy_square8_2p")


def outcome(content: bytes, directory: Path) -> str:
    """What is read, without the identity, as text; or the reason."""
    try:
        return repr(replace(read(content, directory), sha256="", bytes=0))
    except CheckpointRefused as refused:
        return refused.reason


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("changed")


@given(at=st.integers(0, len(SMALL) - 1), bits=st.integers(1, 255))
def test_a_changed_byte_changes_nothing_or_is_refused(at: int, bits: int, directory: Path) -> None:
    changed = bytearray(SMALL)
    changed[at] ^= bits
    result = outcome(bytes(changed), directory)
    assert result in REASONS or result == outcome(SMALL, directory)


@given(cut=st.integers(0, len(SMALL) - 1))
def test_a_file_that_is_cut_off_is_refused(cut: int, directory: Path) -> None:
    assert outcome(SMALL[:cut], directory) in REASONS


@given(at=st.integers(0, 12_000), changes=st.binary(min_size=1, max_size=8))
def test_a_changed_legacy_file_is_read_or_refused(at: int, changes: bytes, directory: Path) -> None:
    result = outcome(LEGACY[:at] + changes + LEGACY[at + len(changes) :], directory)
    assert result.startswith("Checkpoint(") or result in REASONS


OPCODES_READ = st.sampled_from(sorted(inert_pickle._OPCODES)).map(lambda opcode: bytes([opcode]))
BEGINNINGS = (b"\x08\x09", b"PK\3\4", b"\x80\x02", b"\x1e" + bytes(7) + b"{")


@settings(max_examples=300)
@given(code=st.lists(OPCODES_READ | st.binary(max_size=4), max_size=40))
def test_any_opcodes_are_read_or_refused(code: list[bytes], directory: Path) -> None:
    result = outcome(archive(weights(extra=b"".join(code))), directory)
    assert result.startswith("Checkpoint(") or result in REASONS


@given(content=st.binary(max_size=200), start=st.sampled_from(BEGINNINGS))
def test_any_bytes_are_refused(content: bytes, start: bytes, directory: Path) -> None:
    assert outcome(start + content, directory) in REASONS
