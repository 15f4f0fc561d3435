"""A dataset in the `legacy_max_n` encoding trained a 59,000-wide policy head, which won 5 % of its games."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from ringrift_dagster.datasets.npz_validator import inspect_npz

SOUND = Path(__file__).parents[1] / "data" / "damaged" / "base_ok.npz"


def _with(arrays: dict[str, np.ndarray], out: Path) -> set[str]:
    """The error codes of a sound dataset in which some arrays were replaced."""
    with zipfile.ZipFile(SOUND) as source, zipfile.ZipFile(out, "w") as target:
        for member in source.namelist():
            if member.removesuffix(".npy") not in arrays and member != "data_checksums.npy":
                target.writestr(member, source.read(member))
        for name, array in arrays.items():
            with target.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, array)
    return {error["code"] for error in inspect_npz(out).to_dict()["errors"]}


def test_the_control_is_valid(tmp_path: Path) -> None:
    assert _with({}, tmp_path / "x.npz") == set()


def test_the_legacy_encoding_is_refused(tmp_path: Path) -> None:
    assert "policy_encoding" in _with({"policy_encoding": np.asarray("legacy_max_n")}, tmp_path / "x.npz")


def test_indices_beyond_the_policy_of_the_board_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(SOUND) as source, source.open("values.npy") as file:
        samples = len(np.lib.format.read_array(file))
    wide = np.full((samples, 1), 59_000, dtype=object)
    assert "policy_out_of_range" in _with({"policy_indices": wide}, tmp_path / "x.npz")
