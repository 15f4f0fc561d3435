"""The validator: the recorded damage gets its code and no other, and every rule has a file that breaks it."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringrift_dagster.datasets import npz_reader, object_arrays
from ringrift_dagster.datasets.npz_reader import NpzArchive
from ringrift_dagster.datasets.npz_validator import (
    BOARD_FACTS,
    ERROR_CODES,
    NpzReport,
    checksum_objects,
    checksum_start,
    inspect_npz,
)
from ringrift_dagster.games.config import BOARDS

DATA = Path(__file__).parents[1] / "data"
DAMAGED = DATA / "damaged"
EXPECTED = {
    "base_ok": set(),
    "not_zip": {"not_a_zip"},
    "truncated": {"not_a_zip"},
    "corrupt_crc": {"crc_mismatch"},
    "missing_keys": {"missing_array"},
    "float64_features": {"wrong_dtype"},
    "wrong_channels": {"channel_mismatch"},
    "wrong_board_type": {"config_mismatch"},
    "mismatched_lengths": {"length_mismatch"},
    "nan_features": {"non_finite"},
    "bad_values": {"non_finite", "value_out_of_range"},
    "policy_out_of_range": {"policy_out_of_range"},
    "policy_not_normalized": {"policy_not_normalised"},
    "stale_checksums": {"checksum_mismatch"},
    "zero_samples": {"empty_dataset"},
}
Arrays = dict[str, Any]


@pytest.fixture(scope="module")
def base() -> Arrays:
    with np.load(DAMAGED / "base_ok.npz", allow_pickle=True) as file:
        return {name: file[name] for name in file.files}


@pytest.fixture
def inspect(base: Arrays, tmp_path: Path) -> Callable[..., NpzReport]:
    """Inspect the valid file with some arrays replaced, or dropped if None."""

    def run(name: str = "training", manifest: bool = True, **changes: Any) -> NpzReport:
        arrays = {key: value for key, value in (base | changes).items() if value is not None}
        path = tmp_path / f"{name}.npz"
        np.savez_compressed(path, **arrays)
        return inspect_npz(path, manifest=manifest)

    return run


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mutated")


def edited(array: Any, at: Any, value: Any) -> Any:
    copy = array.copy()
    copy[at] = value
    return copy


def ragged(rows: list[Any]) -> Any:
    array = np.empty(len(rows), object)
    for at, row in enumerate(rows):
        array[at] = row
    return array


@pytest.mark.parametrize("name", EXPECTED)
def test_recorded_damage(name: str) -> None:
    assert inspect_npz(DAMAGED / f"{name}.npz").codes == EXPECTED[name]


def test_every_damaged_file_is_listed() -> None:
    assert {path.stem for path in DAMAGED.glob("*.npz")} == set(EXPECTED)


def test_the_report_of_a_valid_file() -> None:
    path = DAMAGED / "base_ok.npz"
    report = inspect_npz(path).to_dict()
    arrays = report.pop("arrays")
    warnings = {warning["code"] for warning in report.pop("warnings")}
    assert report == {
        "valid": True,
        "errors": [],
        "config": "square8_3p",
        "samples": 200,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "bytes": path.stat().st_size,
        "encoder": "square_v2",
        "policy_size": 7000,
        "value_targets": None,
        "newest_game_time": "2026-11-23T21:14:45.205103",
        "export_version": "2.1",
        "manifest": False,
    }
    assert arrays["features"] == {"dtype": "float32", "shape": [200, 56, 8, 8]}
    assert warnings == {"sample_count_differs", "no_checksums"}


def test_the_table_covers_the_boards() -> None:
    assert {name: board.size for name, board in BOARDS.items()} == {name: facts.spatial_size for name, facts in BOARD_FACTS.items()}


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("missing_array", lambda b: {"num_players": None}),
        ("missing_array", lambda b: {"board_type": None}),
        ("wrong_dtype", lambda b: {"globals": b["globals"].astype(">f4")}),
        ("wrong_dtype", lambda b: {"num_players": b["num_players"].astype(np.int64)}),
        ("wrong_dtype", lambda b: {"policy_indices": edited(b["policy_indices"], (0, 0), "7")}),
        ("wrong_dtype", lambda b: {"policy_indices": edited(b["policy_indices"], (0, 0), 1.5)}),
        ("wrong_dtype", lambda b: {"phases": edited(b["phases"], 0, 3)}),
        ("wrong_shape", lambda b: {"globals": b["globals"][:, :19]}),
        ("wrong_shape", lambda b: {"features": b["features"].reshape(200, 56, 64)}),
        ("wrong_shape", lambda b: {"features": b["features"][:, :, :7, :7]}),
        ("config_mismatch", lambda b: {"num_players": edited(b["num_players"], 3, 2)}),
        ("unknown_config", lambda b: {"num_players": np.full(200, 5, np.int32)}),
        ("unknown_config", lambda b: {"board_type": np.array("hex11")}),
        ("length_mismatch", lambda b: {"anything_else": np.zeros(199)}),
        (
            "length_mismatch",
            lambda b: {"policy_values": ragged([np.ones(1 + (n == 9)) / 2 for n in range(200)])},
        ),
        ("non_finite", lambda b: {"globals": edited(b["globals"], (7, 3), -np.inf)}),
        ("non_finite", lambda b: {"policy_values": edited(b["policy_values"], (7, 0), float("nan"))}),
        ("value_out_of_range", lambda b: {"values_mp": edited(b["values_mp"], (7, 3), 1.01)}),
        ("policy_out_of_range", lambda b: {"policy_indices": edited(b["policy_indices"], (7, 0), -1)}),
        ("policy_out_of_range", lambda b: {"policy_indices": edited(b["policy_indices"], (7, 0), 7000)}),
        ("policy_not_normalised", lambda b: {"policy_values": edited(b["policy_values"], (7, 0), 0.99)}),
        ("policy_encoding", lambda b: {"policy_encoding": np.array("legacy_max_n")}),
        ("policy_encoding", lambda b: {"policy_encoding": None}),
        ("bad_metadata", lambda b: {"board_size": np.array(19)}),
        ("bad_metadata", lambda b: {"in_channels": np.array(40)}),
        ("bad_metadata", lambda b: {"policy_size": np.array(67000)}),
        ("bad_metadata", lambda b: {"max_policy_index": np.array(5)}),
        ("bad_metadata", lambda b: {"encoder_type": np.array("hex_v3")}),
        ("bad_metadata", lambda b: {"metadata": np.array([1], object).reshape(())}),
        ("bad_metadata", lambda b: {"data_checksums": np.array("{")}),
        ("bad_metadata", lambda b: {"in_channels": ragged([np.array([56, 56])]).reshape(())}),
        ("checksum_mismatch", lambda b: {"data_checksums": np.array('{"values": "00"}')}),
        ("checksum_mismatch", lambda b: {"data_checksums": np.array('{"no_such_array": "00"}')}),
    ],
)
def test_each_rule(code: str, change: Callable[[Arrays], Arrays], base: Arrays, inspect: Callable[..., NpzReport]) -> None:
    report = inspect(**change(base))
    assert code in report.codes
    assert report.codes <= {code, "policy_not_normalised"} if code == "length_mismatch" else report.codes == {code}
    assert report.codes <= set(ERROR_CODES)


def test_a_negative_probability_is_wrong_even_if_the_sum_is_right(base: Arrays, inspect: Callable[..., NpzReport]) -> None:
    indices = np.repeat(base["policy_indices"], 2, axis=1)
    values = np.empty((200, 2), object)
    values[:] = [[1.5, -0.5]] * 200
    assert inspect(policy_indices=indices, policy_values=values).codes == {"policy_not_normalised"}


def test_ragged_policies_are_read(inspect: Callable[..., NpzReport]) -> None:
    sizes = [n % 5 + 1 for n in range(200)]
    indices = ragged([np.arange(size, dtype=np.int32) for size in sizes])
    values = ragged([np.full(size, 1 / size, np.float32) for size in sizes])
    assert inspect(policy_indices=indices, policy_values=values).valid
    worse = ragged([*indices[:199], np.array([7000], np.int32)])
    report = inspect(policy_indices=worse, policy_values=ragged([*values[:199], np.ones(1, np.float32)]))
    assert [(finding.code, "sample 199" in finding.detail) for finding in report.errors] == [("policy_out_of_range", True)]


@pytest.mark.parametrize(("version", "valid"), [("v2", True), ("v3", False)])
def test_the_old_hex_encoder_must_say_so(version: str, valid: bool, inspect: Callable[..., NpzReport]) -> None:
    report = inspect(
        board_type=np.array("hex8"),
        features=np.zeros((200, 40, 9, 9), np.float32),
        board_size=np.array(9),
        spatial_size=np.array(9),
        policy_size=np.array(4500),
        in_channels=np.array(40),
        encoder_type=np.array("hex_v2"),
        encoder_version=np.array(version),
        policy_indices=np.zeros((200, 1), object),
    )
    assert report.codes == (set() if valid else {"channel_mismatch"})
    assert ("legacy_encoder" in {warning.code for warning in report.warnings}) is valid


def checksum(array: Any) -> str:
    if array.dtype == object:
        return checksum_objects(array)
    digest = checksum_start(array.dtype, array.shape)
    digest.update(array.tobytes())
    return digest.hexdigest()


def test_checksums_are_verified_for_every_array(base: Arrays, inspect: Callable[..., NpzReport]) -> None:
    base = base | {"game_names": np.array([f"game {n}" for n in range(200)])}
    inspect = functools.partial(inspect, game_names=base["game_names"])
    sums = {name: checksum(array) for name, array in base.items()}
    assert inspect(data_checksums=np.array(json.dumps(sums))).valid
    stale = dict.fromkeys(sums, "0" * 64)
    found = inspect(data_checksums=np.array(json.dumps(stale)))
    assert found.codes == {"checksum_mismatch"}
    for name in ("features", "game_names", "phases", "board_type", "metadata"):
        one = inspect(data_checksums=np.array(json.dumps(sums | {name: "0" * 64})))
        assert [(finding.code, repr(name) in finding.detail) for finding in one.errors] == [("checksum_mismatch", True)]


@pytest.mark.parametrize("path", sorted((DATA / "reference").glob("*.json")), ids=lambda path: path.stem)
def test_checksums_are_computed_as_ringrift_does(path: Path) -> None:
    recorded = json.loads(path.read_text())
    checksums = json.loads(recorded.pop("data_checksums")["value"])
    assert set(checksums) == set(recorded)
    single = {name: entry for name, entry in recorded.items() if not entry["shape"]}
    assert {"board_type", "board_size", "metadata", "policies_normalized"} <= set(single)
    for name, entry in single.items():
        array = np.empty((), entry["dtype"])
        array[()] = entry["value"]
        assert checksum(array) == checksums[name], name


def test_a_pickled_command_is_found_and_not_run(tmp_path: Path) -> None:
    class Command:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    path = tmp_path / "square8_3p.npz"
    with zipfile.ZipFile(DAMAGED / "base_ok.npz") as source, zipfile.ZipFile(path, "w") as written:
        for info in source.infolist():
            content = source.read(info)
            if info.filename == "phases.npy":
                file = io.BytesIO()
                np.lib.format.write_array(file, ragged([Command()] * 200), allow_pickle=True)
                content = file.getvalue()
            written.writestr(info.filename, content)
    assert inspect_npz(path).codes == {"hostile_pickle"}
    assert not (tmp_path / "ran").exists()


def manifest_for(report: NpzReport, **changes: Any) -> None:
    stated = {"sha256": report.sha256, "samples": 200, "config": "square8_3p", "value_targets": "canonical"}
    report.path.with_suffix(".manifest.json").write_text(json.dumps(stated | changes))


def test_the_manifest_must_agree(inspect: Callable[..., NpzReport]) -> None:
    alone = inspect()
    manifest_for(alone)
    report = inspect_npz(alone.path)
    assert report.valid
    assert (report.manifest, report.value_targets) == (True, "canonical")
    for wrong in ({"sha256": "0" * 64}, {"samples": 199}, {"config": "hex8_2p"}):
        manifest_for(alone, **wrong)
        assert inspect_npz(alone.path).codes == {"manifest_mismatch"}
        assert inspect_npz(alone.path, manifest=False).valid


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null", "\xff"])
def test_a_broken_manifest_vouches_for_nothing(text: str, inspect: Callable[..., NpzReport]) -> None:
    path = inspect().path
    path.with_suffix(".manifest.json").write_text(text, encoding="latin-1")
    assert inspect_npz(path).codes == {"manifest_mismatch"}


def test_a_misleading_name_is_only_a_warning(inspect: Callable[..., NpzReport]) -> None:
    report = inspect(name="canonical_hex8_2p")
    assert report.valid
    assert "name_mismatch" in {warning.code for warning in report.warnings}


@pytest.mark.parametrize("make", [lambda path: None, Path.mkdir, lambda path: path.symlink_to(path)])
def test_unreadable(make: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "square8_3p.npz"
    make(path)
    assert inspect_npz(path).codes == {"unreadable"}


@settings(deadline=None)
@given(data=st.data())
def test_mutated_files_give_a_report(data: st.DataObject, scratch: Path) -> None:
    raw = bytearray((DAMAGED / "base_ok.npz").read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = scratch / "mutated.npz"
    path.write_bytes(raw)
    report = inspect_npz(path)
    assert report.codes <= set(ERROR_CODES)
    json.dumps(report.to_dict(), allow_nan=False)


def columns_in(tmp_path: Path, **columns: tuple[tuple[int, ...], bytes]) -> Path:
    """An archive of object arrays whose pickles are given."""
    path = tmp_path / "square8_3p.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as written:
        for name, (shape, stream) in columns.items():
            header = io.BytesIO()
            np.lib.format.write_array_header_1_0(header, {"descr": "|O", "fortran_order": False, "shape": shape})
            written.writestr(f"{name}.npy", header.getvalue() + stream)
    return path


@pytest.mark.parametrize(
    ("shape", "stream", "code"),
    [
        pytest.param((2000,), b"\x80\x03})" + b"\x85" * 5_000_000 + b"Ns.", "hostile_pickle", id="nested-key"),
        pytest.param((1_000_000_000, 0), b"\x80\x03N.", "corrupt_array", id="no-columns"),
        pytest.param((1281,), b"\x80\x03" + b"}" * (20 << 20) + b".", "hostile_pickle", id="many-containers"),
    ],
)
def test_small_files_that_would_exhaust_memory_are_refused(
    shape: tuple[int, ...], stream: bytes, code: str, tmp_path: Path
) -> None:
    path = columns_in(tmp_path, policy_indices=(shape, stream))
    assert path.stat().st_size < 25_000
    script = (
        "import resource, sys; from pathlib import Path; from ringrift_dagster.datasets.npz_validator import inspect_npz\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "codes = inspect_npz(Path(sys.argv[1])).codes\n"
        "print(*codes)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)"
    )
    ran = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, timeout=60, check=True)
    codes, grown = ran.stdout.splitlines()
    assert code in codes.split()
    assert int(grown) < 200


@pytest.mark.parametrize("error", [MemoryError, RecursionError])
def test_what_cannot_be_held_is_unreadable(
    error: type[Exception], inspect: Callable[..., NpzReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = inspect().path

    def exhausted(*_: Any) -> Any:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(NpzArchive, "object_blocks", exhausted)
        assert inspect_npz(path).codes == {"unreadable"}
    monkeypatch.setattr(NpzArchive, "__enter__", exhausted)
    assert inspect_npz(path).codes == {"unreadable"}


def test_no_column_is_read_whole(inspect: Callable[..., NpzReport], monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [n % 5 + 1 for n in range(200)]
    indices = ragged([np.arange(size, dtype=np.int32) for size in sizes])
    values = ragged([np.full(size, 1 / size, np.float32) for size in sizes])
    monkeypatch.setattr(npz_reader, "MAX_WHOLE_BYTES", 2000)
    assert inspect(policy_indices=indices, policy_values=values).valid


def test_findings_name_the_sample_wherever_blocks_end(
    inspect: Callable[..., NpzReport], base: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_arrays, "BLOCK_ELEMENTS", 7)
    for name, value, code in (("policy_indices", 7000, "policy_out_of_range"), ("policy_values", 0.5, "policy_not_normalised")):
        report = inspect(**{name: edited(edited(base[name], (150, 0), value), (170, 0), value)})
        (finding,) = report.errors
        assert finding.code == code
        assert finding.detail.count("2 ") >= 1
        assert "150" in finding.detail


def test_more_rows_of_numpys_own_form_than_memory_holds_are_oversize(
    inspect: Callable[..., NpzReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_arrays, "WINDOW_BYTES", 1000)
    monkeypatch.setattr(object_arrays, "MAX_MEMO_BYTES", 10_000)
    rows = [np.zeros(n % 2 + 1, np.int32) for n in range(200)]
    values = [np.full(n % 2 + 1, 1 / (n % 2 + 1)) for n in range(200)]
    assert inspect(policy_indices=ragged(rows), policy_values=ragged(values)).codes == {"oversize"}
