"""The trainer: it learns, repeats itself from the seed, and writes checkpoints that our reader understands."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from ringrift_dagster.ai.seeds import generator
from ringrift_dagster.datasets.encoders import BOARD_FACTS
from ringrift_dagster.games.config import CONFIG_KEYS, parse_config
from ringrift_dagster.games.database import file_sha256
from ringrift_dagster.models.checkpoints.description import ENCODERS, read_checkpoint
from ringrift_dagster.models.playing import UnplayableModel
from ringrift_dagster.models.training import trainer
from ringrift_dagster.models.training.loader import TrainingDataRefused, TrainingSet
from ringrift_dagster.models.training.network import ReferenceNetwork, Sizes
from ringrift_dagster.models.training.trainer import Options, TrainingFailed, save, train, weights_digest
from tests.models.making import model_file

TINY = Sizes(filters=4, blocks=1)


def trained(data: Path, path: Path, **options: Any) -> list[Mapping[str, Any]]:
    """Train a tiny network; returns the figures of all epochs."""
    figures: list[Mapping[str, Any]] = []
    path.parent.mkdir(exist_ok=True)
    with TrainingSet(data, path.parent, decisions_only=True) as opened:
        train(opened, Options(**{"epochs": 1, "batch_size": 32, "sizes": TINY, **options}), path, figures.append)
    return figures


def weights(path: Path) -> str:
    return weights_digest(torch.load(path, weights_only=True)["model_state_dict"])


def test_the_loss_falls(small: Path, tmp_path: Path) -> None:
    figures = trained(small, tmp_path / "model.pth", epochs=3)
    losses = [epoch["train_loss"] for epoch in figures]
    assert losses[0] > losses[1] > losses[2]
    assert [epoch["epoch"] for epoch in figures] == [1, 2, 3]
    assert all(epoch["samples_per_second"] > 0 and 0 <= epoch["val_policy_accuracy"] <= 1 for epoch in figures)


def test_the_same_seed_gives_the_same_weights(small: Path, tmp_path: Path) -> None:
    for name, seed in (("one", 5), ("again", 5), ("other", 6)):
        trained(small, tmp_path / name / "model.pth", seed=seed)
    assert weights(tmp_path / "one" / "model.pth") == weights(tmp_path / "again" / "model.pth")
    assert weights(tmp_path / "one" / "model.pth") != weights(tmp_path / "other" / "model.pth")


def test_training_continues_from_a_checkpoint_which_is_recorded(small: Path, tmp_path: Path) -> None:
    (first := tmp_path / "first").mkdir()
    losses = [epoch["train_loss"] for epoch in trained(small, first / "model.pth", epochs=2)]
    (again,) = trained(small, tmp_path / "model.pth", initial=first / "model.pth", sizes=Sizes(filters=8, blocks=2))
    assert again["train_loss"] < losses[0]
    assert read_checkpoint(tmp_path / "model.pth").metadata["parent_checkpoint"] == file_sha256(first / "model.pth")
    assert read_checkpoint(tmp_path / "model.pth").filters == TINY.filters


def test_an_initial_checkpoint_of_another_config_is_refused(small: Path, tmp_path: Path) -> None:
    other = model_file(tmp_path / "other.pth", "hex8_2p")
    with pytest.raises(UnplayableModel, match="is a model of hex8_2p, not of square8_2p"):
        trained(small, tmp_path / "model.pth", initial=other)
    assert not (tmp_path / "model.pth").exists()


def test_our_reader_knows_config_encoder_and_training_data(small: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    trained(small, path, seed=3)
    checkpoint = read_checkpoint(path)
    with TrainingSet(small, tmp_path) as data:
        assert checkpoint.training_data_sha256 == data.sha256
    assert (checkpoint.config, checkpoint.encoder, checkpoint.feature_version) == ("square8_2p", "square_v2", 2)
    assert (checkpoint.architecture, checkpoint.architecture_version) == ("ReferenceNetwork", "reference-v1")
    assert checkpoint.created_at is not None
    assert checkpoint.metadata["checksum"] == weights(path)
    info = checkpoint.metadata["training_info"]
    assert datetime.fromisoformat(info["started_at"]) < datetime.fromisoformat(checkpoint.created_at) + timedelta(seconds=1)
    assert (info["seed"], info["epoch"], info["threads"], info["held_out_by"]) == (3, 1, 1, "game")
    assert info["samples"] + info["held_out"] + info["left_out"] == 456
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.pth"]


@pytest.mark.parametrize("key", CONFIG_KEYS)
def test_a_network_of_every_config_is_described_by_its_file(key: str, tmp_path: Path) -> None:
    config = parse_config(key)
    checkpoint = save(ReferenceNetwork(config, TINY), tmp_path / "model.pth", "1" * 64, {})
    facts = BOARD_FACTS[config.board]
    assert checkpoint == read_checkpoint(tmp_path / "model.pth")
    assert (checkpoint.config, checkpoint.players) == (key, config.players)
    assert (checkpoint.in_channels, checkpoint.policy_size) == (facts.channels, facts.policy_size)
    assert (checkpoint.filters, checkpoint.blocks) == (4, 1)
    assert checkpoint.encoder == ENCODERS[config.spec.hexagonal, facts.channels]


def test_a_checkpoint_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(b"another")
    with pytest.raises(TrainingFailed, match="exists meanwhile"):
        save(ReferenceNetwork(parse_config("square8_2p"), TINY), path, "1" * 64, {})
    assert path.read_bytes() == b"another"
    assert list(tmp_path.iterdir()) == [path]


def test_a_loss_that_is_no_number_ends_the_training(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = trainer._losses
    monkeypatch.setattr(trainer, "_losses", lambda *given: tuple(loss * float("nan") for loss in losses(*given)))
    with pytest.raises(TrainingFailed, match=r"no number any more in epoch 1: lower --learning-rate"):
        trained(small, tmp_path / "model.pth", epochs=2)
    assert list(tmp_path.iterdir()) == []


def test_a_set_of_which_all_is_held_out_is_refused(small: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingDataRefused, match="too few games"):
        trained(small, tmp_path / "model.pth", validation=1.0)


def test_moves_of_who_lost_are_not_learnt(small: Path, tmp_path: Path) -> None:
    network = ReferenceNetwork(parse_config("square8_2p"), TINY)
    with TrainingSet(small, tmp_path) as data:
        batch = next(data.batches(data.split(0.5, generator("x"))[0], 64, generator("y")))
    batch.values[:] = -1.0
    policy, _, _ = trainer._losses(network, batch)
    assert policy.item() == 0.0
    batch.values[:] = 1.0
    policy, _, _ = trainer._losses(network, batch)
    assert policy.item() > 1.0


@pytest.mark.parametrize(("filters", "blocks"), [(0, 1), (513, 1), (1, 0), (1, 65)])
def test_sizes_out_of_bounds_are_refused(filters: int, blocks: int) -> None:
    with pytest.raises(ValueError, match="a network has 1 to"):
        Sizes(filters, blocks)
