"""Trained models for tests: small torch files, made without torch, whose shapes and metadata are those of a config."""

from __future__ import annotations

import pickle
from math import prod
from pathlib import Path
from typing import Any

from ringrift_dagster.datasets.encoders import BOARD_FACTS
from ringrift_dagster.games.config import parse_config
from tests.models.checkpoints.files import archive, storage, tensor, text


def plain(value: Any) -> bytes:
    """A plain value as part of a larger pickle."""
    return pickle.dumps(value, protocol=2)[2:-1]


def model_file(path: Path, config: str = "square8_2p", seed: int = 0, /, **metadata: Any) -> Path:
    """Write a model of a config; another seed gives other weights. `metadata` go into its versioning metadata."""
    parsed = parse_config(config)
    facts = BOARD_FACTS[parsed.board]
    shapes = {
        "conv1.weight": (2, facts.channels, 1, 1),
        "res_blocks.0.conv1.weight": (2, 2, 1, 1),
        "policy_fc1.weight": (facts.policy_size, 1),
        "value_fc1.weight": (parsed.players, 1),
    }
    entries, storages = b"", {}
    for key, (name, shape) in enumerate(shapes.items()):
        strides = tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))
        entries += text(name) + tensor(storage(str(key), prod(shape)), shape, strides) + b"s"
        storages[str(key)] = (seed + key).to_bytes(4, "little") * prod(shape)
    about = {
        "architecture_version": "v1.0.0",
        "model_class": "TestNet",
        "board_type": parsed.board,
        "num_players": parsed.players,
        **metadata,
    }
    pickled = b"\x80\x02}" + text("model_state_dict") + b"}" + entries + b"s" + text("_versioning_metadata") + plain(about) + b"s."
    path.write_bytes(archive(pickled, storages=storages))
    return path
