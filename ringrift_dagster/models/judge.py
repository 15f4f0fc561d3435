"""What a network says of positions: the policy of their legal moves, and a value for every player. Judges need torch.

Loading networks from files is for `playing`, choosing moves for `playing` and `search`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ringrift_dagster.ai.policies.interface import LegalMoves
from ringrift_dagster.datasets.features import GLOBAL_FEATURES, PositionEncoder, encoding
from ringrift_dagster.datasets.labels import NO_POLICY, policy_indices
from ringrift_dagster.games.config import Config
from ringrift_dagster.games.moves import PackedMoves
from ringrift_dagster.games.position import Position

if TYPE_CHECKING:
    from ringrift_dagster.models.training.network import ReferenceNetwork


@dataclass(frozen=True)
class Judgement:
    """What a network says of a position: logits of the moves of the policy layout, and values for the mover and who follow."""

    logits: NDArray[np.float32]
    values: NDArray[np.float32]


class Judge:
    """Asks a network about positions of its config; buffers are made once, so it is used by one thread at a time."""

    def __init__(self, config: Config, network: ReferenceNetwork) -> None:
        import torch  # pyright: ignore[reportMissingImports]

        spec = encoding(config)
        self._torch = torch
        self._network = network
        self._encoder = PositionEncoder(config)
        self._features = np.zeros((1, spec.in_channels, spec.spatial, spec.spatial), np.float32)
        self._globals = np.zeros((1, GLOBAL_FEATURES), np.float32)
        self._inputs = torch.from_numpy(self._features), torch.from_numpy(self._globals)

    def __call__(self, position: Position, earlier: Sequence[Position]) -> Judgement:
        self._encoder.encode_into(position, earlier, self._features.reshape(-1), self._globals[0])
        with self._torch.inference_mode():
            logits, values = self._network(*self._inputs)
        return Judgement(logits[0].numpy(), values[0].numpy())


def shares(config: Config, moves: LegalMoves, logits: NDArray[np.float32], temperature: float) -> NDArray[np.float64]:
    """How much each legal move is worth to the policy, relative to the likeliest entry of the layout.

    Moves that share an entry share what it is worth. A move without an entry is worth nothing, unless none has one.
    """
    indices = policy_indices(config, PackedMoves(moves.rows, moves.cells))
    placed = indices != NO_POLICY
    if not placed.any():
        return np.ones(len(indices))
    scaled = logits[indices].astype(np.float64) / temperature
    _, entry, sharing = np.unique(indices, return_inverse=True, return_counts=True)
    return np.where(placed, np.exp(scaled - scaled[placed].max()), 0.0) / sharing[entry]
