"""Exports against RingRift's own: the same arrays, bit by bit, for every board and number of players."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ringrift_dagster.datasets.npz_export import ExportError, export_databases, manifest_path_of
from ringrift_dagster.datasets.npz_validator import inspect_npz
from ringrift_dagster.games.config import parse_config

REFERENCE = Path(__file__).parents[1] / "data" / "reference"
NAMES = sorted(path.stem for path in REFERENCE.glob("*.json"))
PER_RUN = {"metadata", "data_checksums"}  # they hold the time of the export
VALUES = {"values", "values_mp"}


def config_of(name: str) -> str:
    board, players = name.removeprefix("canonical_").split("_")[:2]
    return parse_config(f"{board}_{players}").key


def load_like_the_trainer(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=True) as arrays:  # the exporter's own fresh file
        return {name: arrays[name] for name in arrays.files}


def digest(array: np.ndarray) -> dict[str, Any]:
    entry: dict[str, Any] = {"dtype": str(array.dtype), "shape": list(array.shape)}
    if array.ndim == 0:
        return {**entry, "value": array.item()}
    if array.dtype != object:
        return {**entry, "sha256": hashlib.sha256(array.tobytes()).hexdigest()}
    plain = [item.tolist() if isinstance(item, np.ndarray) else item for item in array.ravel().tolist()]
    return {**entry, "sha256": hashlib.sha256(json.dumps(plain, separators=(",", ":")).encode()).hexdigest()}


@pytest.mark.parametrize("name", NAMES)
def test_arrays_equal_the_reference(name: str, recorded: Callable[[str], Path], tmp_path: Path) -> None:
    reference = json.loads((REFERENCE / f"{name}.json").read_text())
    out = tmp_path / f"{name}.npz"
    result = export_databases(config_of(name), [recorded(name)], out, value_targets="ringrift")
    arrays = load_like_the_trainer(out)
    assert set(arrays) == set(reference)
    different = {key for key in reference if key not in PER_RUN and digest(arrays[key]) != reference[key]}
    assert different == set()
    assert result.samples == reference["features"]["shape"][0]


@pytest.mark.parametrize("name", ["canonical_square8_3p", "hex8_4p_0"])
def test_the_default_differs_from_the_reference_in_values_only(name: str, recorded: Callable[[str], Path], tmp_path: Path) -> None:
    reference = json.loads((REFERENCE / f"{name}.json").read_text())
    out = tmp_path / "default.npz"
    export_databases(config_of(name), [recorded(name)], out)
    arrays = load_like_the_trainer(out)
    different = {key for key in reference if key not in PER_RUN and digest(arrays[key]) != reference[key]}
    assert different == VALUES


def _by_game(path: Path, arrays: dict[str, np.ndarray]) -> list[tuple[int, slice]]:
    """(recorded winner, the game's samples) in the order of the export."""
    with sqlite3.connect(path) as connection:
        games = connection.execute("SELECT winner, total_moves FROM games ORDER BY created_at DESC").fetchall()
    starts = np.flatnonzero(arrays["move_numbers"] == 0).tolist()
    ends = [*starts[1:], len(arrays["move_numbers"])]
    return [(winner, slice(a, b)) for (winner, _), a, b in zip(games, starts, ends, strict=True)]


def test_ringrift_labels_real_winners_as_losers_and_the_default_does_not(recorded: Callable[[str], Path], tmp_path: Path) -> None:
    """RR-CANON-R175..R178: whoever met the victory condition ranks first."""
    path = recorded("canonical_square8_3p")
    mislabelled = 0
    for targets in ("ringrift", "canonical"):
        out = tmp_path / f"{targets}.npz"
        export_databases("square8_3p", [path], out, value_targets=targets)
        arrays = load_like_the_trainer(out)
        for winner, samples in _by_game(path, arrays):
            label = arrays["values_mp"][samples][0, winner - 1]
            if targets == "canonical":
                assert label == 1.0
            else:
                mislabelled += label < 1.0
    assert mislabelled > 0


def test_searched_moves_have_soft_targets_except_in_capture_chains(recorded: Callable[[str], Path], tmp_path: Path) -> None:
    """RingRift lists a chain's legal moves after it has moved on, so its targets there are hard; we stay compatible."""
    path = recorded("square8_2p_probs")
    out = tmp_path / "soft.npz"
    export_databases("square8_2p", [path], out)
    arrays = load_like_the_trainer(out)
    widths = {}
    for phase, indices in zip(arrays["phases"], arrays["policy_indices"], strict=True):
        widths.setdefault(phase, set()).add(len(indices))
    assert widths["chain_capture"] == {1}
    assert max(widths["movement"]) > 1
    assert all(abs(weights.sum() - 1.0) < 1e-5 for weights in arrays["policy_values"])
    assert inspect_npz(out).to_dict()["valid"]


def test_manifest_tells_what_was_exported(recorded: Callable[[str], Path], tmp_path: Path) -> None:
    path = recorded("canonical_hex8_2p")
    result = export_databases("hex8_2p", [path], tmp_path / "hex8_2p.npz")
    manifest = json.loads(manifest_path_of(result.path).read_text())
    assert manifest["sha256"] == result.sha256 == hashlib.sha256(result.path.read_bytes()).hexdigest()
    assert manifest["samples"] == 3213
    assert manifest["games"] == 20
    assert manifest["newest_game_time"] == "2026-11-23T21:12:53.490728"
    assert manifest["source_databases"] == [
        {"name": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "games": 20}
    ]
    assert inspect_npz(result.path).to_dict()["valid"]


def test_the_same_games_give_the_same_content_digest(recorded: Callable[[str], Path], tmp_path: Path) -> None:
    first = export_databases("square8_4p", [recorded("canonical_square8_4p")], tmp_path / "a.npz")
    again = export_databases("square8_4p", [recorded("canonical_square8_4p")], tmp_path / "b.npz")
    assert (first.content_digest, first.digest_root) == (again.content_digest, again.digest_root)


def test_rejected_games_stay_out(damaged: Callable[[str], Path], tmp_path: Path) -> None:
    result = export_databases("square8_2p", [damaged("winner_flipped")], tmp_path / "x.npz")
    assert (result.games, result.rejected) == (5, {"result_mismatch": 1})


@pytest.mark.parametrize(
    ("config", "name", "code"),
    [("hex8_2p", "base_ok", "no_games"), ("square8_2p", "empty", "no_games"), ("square8_2p", "not_a_db", "unreadable"),
     ("square8_2p", "corrupt_page", "unreadable")],
)  # fmt: skip
def test_nothing_is_published_without_games(
    config: str, name: str, code: str, damaged: Callable[[str], Path], tmp_path: Path
) -> None:
    out = tmp_path / "x.npz"
    out.write_bytes(b"what stood here before")
    with pytest.raises(ExportError) as error:
        export_databases(config, [damaged(name)], out)
    assert error.value.code == code
    assert "\n" not in str(error.value)
    assert out.read_bytes() == b"what stood here before"
    assert {path.name for path in tmp_path.iterdir()} <= {"x.npz", ".x.npz.lock"}
