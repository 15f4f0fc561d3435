"""The loader: what it gives equals NumPy's arrays, every sample comes once, games are not split, bad files are refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ringrift_dagster.ai.registry import parse_spec
from ringrift_dagster.ai.seeds import generator
from ringrift_dagster.ai.selfplay import SelfPlay, record
from ringrift_dagster.datasets.npz_export import export_databases
from ringrift_dagster.games.config import parse_config
from ringrift_dagster.models.training.loader import FORCED_MOVES, Batch, TrainingDataRefused, TrainingSet
from tests.models.training.sets import DATA, RINGRIFT, arrays, write


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set with search probabilities: policy rows of different lengths."""
    directory = tmp_path_factory.mktemp("searched")
    config = parse_config("hex8_2p")
    record(SelfPlay(config, 1, (parse_spec("mcts:2", config),)), 2, directory / "games.db")
    return export_databases("hex8_2p", [directory / "games.db"], directory / "hex8_2p.npz").path


@pytest.fixture
def opened(small: Path, tmp_path: Path) -> Iterator[TrainingSet]:
    with TrainingSet(small, tmp_path) as data:
        yield data


def rows_of(batch: Batch, sample: int) -> tuple[list[int], list[float]]:
    chosen = batch.owners == sample
    return batch.moves[chosen].tolist(), batch.probabilities[chosen].tolist()


@pytest.mark.parametrize("which", ["ours", "ringrift", "searched"])
def test_samples_equal_the_arrays_of_numpy(which: str, small: Path, searched: Path, tmp_path: Path) -> None:
    path = {"ours": small, "ringrift": RINGRIFT, "searched": searched}[which]
    expected = arrays(path)
    with TrainingSet(path, tmp_path) as data:
        order = np.arange(data.samples)[::-1].copy()
        batch = data.batch(order)
    assert np.array_equal(batch.features, expected["features"][order])
    assert np.array_equal(batch.global_vectors, expected["globals"][order])
    assert np.array_equal(batch.values, expected["values"][order])
    assert batch.seat_values is not None
    assert np.array_equal(batch.seat_values, expected["values_mp"][order])
    for place, sample in enumerate(order.tolist()):
        moves, probabilities = rows_of(batch, place)
        assert moves == np.atleast_1d(expected["policy_indices"][sample]).tolist()
        assert probabilities == np.atleast_1d(expected["policy_values"][sample]).astype(np.float32).tolist()


def test_the_set_with_searches_has_rows_of_different_lengths(searched: Path) -> None:
    assert len({len(row) for row in arrays(searched)["policy_indices"]}) > 1


def test_shuffled_batches_have_every_sample_once(opened: TrainingSet) -> None:
    samples = np.arange(0, opened.samples, 3)
    batches = list(opened.batches(samples, 50, generator("order")))
    assert {len(batch) for batch in batches[:-1]} == {50}
    seen = np.concatenate([batch.features.reshape(len(batch), -1) for batch in batches])
    given = opened.batch(samples).features.reshape(len(samples), -1)
    assert not np.array_equal(seen, given)
    assert sorted(map(bytes, seen)) == sorted(map(bytes, given))


def test_the_order_depends_on_the_seed_alone(small: Path, opened: TrainingSet, tmp_path: Path) -> None:
    def order(data: TrainingSet, seed: str) -> list[bytes]:
        return [batch.features.tobytes() for batch in data.batches(np.arange(data.samples), 64, generator(seed))]

    with TrainingSet(small, tmp_path) as again:
        assert order(opened, "a") == order(again, "a")
    assert order(opened, "a") != order(opened, "b")


def test_forced_moves_are_left_out(small: Path, tmp_path: Path) -> None:
    expected = arrays(small)
    decisions = np.array([name not in FORCED_MOVES for name in expected["move_types"]])
    with TrainingSet(small, tmp_path, decisions_only=True) as data:
        batch = data.batch(np.arange(data.samples))
        assert (data.samples, data.left_out) == (decisions.sum(), (~decisions).sum())
    assert 0 < decisions.sum() < len(decisions)
    assert np.array_equal(batch.features, expected["features"][decisions])
    assert batch.moves.tolist() == [int(row[0]) for row in expected["policy_indices"][decisions]]


def test_whole_games_are_held_out(opened: TrainingSet) -> None:
    training, held_out = opened.split(0.34, generator("split"))
    assert opened.games is not None
    assert opened.games.max() + 1 == 6
    assert len(set(opened.games[held_out])) == 2
    assert set(opened.games[training]).isdisjoint(opened.games[held_out])
    assert sorted([*training, *held_out]) == list(range(opened.samples))


def test_samples_are_held_out_where_games_are_not_known(small: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "set.npz", {name: array for name, array in arrays(small).items() if name != "move_numbers"})
    with TrainingSet(path, tmp_path) as data:
        training, held_out = data.split(0.25, generator("split"))
        assert data.games is None
    assert (len(training), len(held_out)) == (342, 114)


def test_nothing_is_held_out_if_no_share_is(opened: TrainingSet) -> None:
    training, held_out = opened.split(0.0, generator("split"))
    assert (len(training), len(held_out)) == (opened.samples, 0)


def test_temporary_files_have_no_names(small: Path, tmp_path: Path) -> None:
    with TrainingSet(small, tmp_path) as data:
        assert list(tmp_path.iterdir()) == []
        assert data.batch(np.arange(3)).features.shape == (3, 56, 8, 8)


def test_the_digest_is_that_of_the_file(small: Path, opened: TrainingSet) -> None:
    assert opened.sha256 == hashlib.sha256(small.read_bytes()).hexdigest()
    assert opened.config.key == "square8_2p"
    assert opened.feature_shape == (56, 8, 8)


@pytest.mark.parametrize("path", sorted((DATA / "damaged").glob("*.npz")), ids=lambda path: path.stem)
def test_what_the_validator_refuses_is_refused(path: Path, tmp_path: Path) -> None:
    if path == RINGRIFT:
        TrainingSet(path, tmp_path).close()
        return
    with pytest.raises(TrainingDataRefused, match=r"is no training set \([a-z_]+: ") as refused:
        TrainingSet(path, tmp_path)
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["missing.npz", "."])
def test_what_is_no_file_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingDataRefused, match="unreadable"):
        TrainingSet(tmp_path / name, tmp_path)


def test_a_manifest_of_another_file_refuses_the_set(small: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(small, tmp_path / "square8_2p.npz"))
    manifest = {"sha256": "0" * 64, "samples": 456, "config": "square8_2p"}
    path.with_suffix(".manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(TrainingDataRefused, match=r"manifest_mismatch: sha256"):
        TrainingSet(path, tmp_path)


def test_a_set_that_the_disk_has_no_room_for_is_refused(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1 << 40, 1 << 40, 1 << 20))  # type: ignore[attr-defined]
    with pytest.raises(TrainingDataRefused, match=r"6 MB uncompressed, .* has 1 MB free: say where .* --work-dir"):
        TrainingSet(small, tmp_path)


def values_of(values: list[float], by_seat: list[list[float]] | None) -> Batch:
    nothing = np.zeros(0, np.int64)
    seats = None if by_seat is None else np.array(by_seat, np.float32)
    count = len(values)
    return Batch(
        np.zeros((count, 1, 1, 1), np.float32),
        np.zeros((count, 20), np.float32),
        np.array(values, np.float32),
        seats,
        nothing,
        nothing,
        np.zeros(0, np.float32),
    )


def test_moves_count_by_the_result_unless_a_search_found_them() -> None:
    batch = values_of([1.0, -1.0, 0.0, -1.0], None)
    batch = replace(batch, owners=np.array([0, 1, 2, 3, 3]), moves=np.arange(5), probabilities=np.ones(5, np.float32))
    assert batch.policy_weights().tolist() == [1.0, 0.0, 0.5, 1.0]


def test_values_of_two_players_are_opposite() -> None:
    targets, known = values_of([1.0, -1.0, 0.0], None).value_targets(2)
    assert targets.tolist() == [[1, -1], [-1, 1], [0, 0]]
    assert known.all()


def test_values_of_three_players_begin_with_the_mover() -> None:
    targets, known = values_of([0.0, -1.0], [[1, 0, -1, 0], [0, 1, -1, 0]]).value_targets(3)
    assert targets.tolist() == [[0, -1, 1], [-1, 0, 1]]
    assert known.all()


def test_only_the_movers_value_is_known_where_several_have_it() -> None:
    targets, known = values_of([0.5, 1.0], [[1, 0.5, 0.5, -1], [1, 0.5, 0.5, -1]]).value_targets(4)
    assert targets.tolist() == [[0.5, 0, 0, 0], [1, 0.5, 0.5, -1]]
    assert known.tolist() == [[1, 0, 0, 0], [1, 1, 1, 1]]


def test_only_the_movers_value_is_known_where_none_is_by_seat() -> None:
    _, known = values_of([0.5], None).value_targets(3)
    assert known.tolist() == [[1, 0, 0]]
