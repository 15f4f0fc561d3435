"""The network's policy head: every entry of the policy layout is made from the cell that its move begins or ends at."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from ringrift_dagster.ai.playing import Arena
from ringrift_dagster.ai.policies import POLICIES
from ringrift_dagster.ai.policies.interface import Choice, LegalMoves
from ringrift_dagster.ai.seeds import Generator
from ringrift_dagster.datasets.encoders import BOARD_FACTS
from ringrift_dagster.datasets.features import GLOBAL_FEATURES, encoding
from ringrift_dagster.datasets.labels import NO_POLICY, policy_indices
from ringrift_dagster.games import moves as m
from ringrift_dagster.games.config import CONFIG_KEYS, Config, parse_config
from ringrift_dagster.games.geometry import topology
from ringrift_dagster.games.moves import MoveType, PackedMoves
from ringrift_dagster.games.position import Position
from ringrift_dagster.models.training.network import NEVER, ReferenceNetwork, Sizes, fused

ENDS = {MoveType.PLACE_RING: m.TO, MoveType.PROCESS_LINE: m.TO, MoveType.ELIMINATE_RINGS_FROM_STACK: m.TO}
BEGINS = {MoveType.MOVE_STACK: m.ORIGIN, MoveType.OVERTAKING_CAPTURE: m.ORIGIN, MoveType.CONTINUE_CAPTURE_SEGMENT: m.ORIGIN}
ON_SQUARES_ONLY = {MoveType.PROCESS_LINE, MoveType.ELIMINATE_RINGS_FROM_STACK}
"""On hexagonal boards all moves but placements and movements share an entry."""


def logits_of_cell_numbers(config: Config) -> np.ndarray:
    """The logits of a policy head that only passes on the number of the cell, from 1, as the encoders place cells in planes."""
    spec, tables = encoding(config), topology(config.board)
    numbers = torch.zeros(spec.spatial, spec.spatial)
    for cell in range(config.spec.cells):
        x, y = int(tables.x[cell]), int(tables.y[cell])
        numbers[(y, x) if config.spec.hexagonal else (x, y)] = cell + 1
    head = ReferenceNetwork(config, Sizes(1, 1)).policy
    with torch.no_grad():
        for weights in head.parameters():
            weights.zero_()
        head.conv.weight[0, 0, 1, 1] = 1.0
        head.cells.weight[:, 0] = 1.0
        return head(numbers[None, None], torch.zeros(1, GLOBAL_FEATURES))[0].numpy()


@pytest.mark.parametrize("key", ["square8_2p", "hex8_2p"])
def test_moves_are_scored_from_their_cell(key: str) -> None:
    config = parse_config(key)
    logits, checked = logits_of_cell_numbers(config), Counter[MoveType]()
    chooser = POLICIES["random"](config, None)

    def check(position: Position, moves: LegalMoves, generator: Generator) -> Choice:
        indices = policy_indices(config, PackedMoves(moves.rows, moves.cells))
        for row, index in zip(moves.rows, indices.tolist(), strict=True):
            kind = MoveType(int(row[m.TYPE]))
            column = (ENDS | BEGINS).get(kind)
            if index != NO_POLICY and column is not None and not (config.spec.hexagonal and kind in ON_SQUARES_ONLY):
                assert logits[index] == row[column] + 1, kind
                checked[kind] += 1
            elif index != NO_POLICY and kind is not MoveType.CHOOSE_TERRITORY_OPTION and kind is not MoveType.RECOVERY_SLIDE:
                assert logits[index] == 0, kind
        return chooser(position, moves, generator)

    for number in range(4):
        Arena(config).play([check] * config.players, ("tests", number))
    assert set(checked) >= {MoveType.PLACE_RING, *BEGINS}


@pytest.mark.parametrize("key", CONFIG_KEYS)
def test_shapes_are_those_of_the_config(key: str) -> None:
    config = parse_config(key)
    spec, size = encoding(config), BOARD_FACTS[config.board].policy_size
    network = ReferenceNetwork(config, Sizes(2, 1)).eval()
    features = torch.rand(2, spec.in_channels, spec.spatial, spec.spatial)
    logits, values = network(features, torch.rand(2, GLOBAL_FEATURES))
    assert (logits.shape, values.shape) == ((2, size), (2, config.players))
    assert values.abs().max() <= 1
    used = size - int((logits[0] == NEVER).sum())
    assert used == {"square8": 6158, "square19": 66438, "hex8": 4132, "hexagonal": 91876}[config.board]


def test_a_fused_network_computes_the_same() -> None:
    config = parse_config("hex8_3p")
    spec = encoding(config)
    torch.manual_seed(1)
    network = ReferenceNetwork(config, Sizes(4, 2))
    features, vectors = torch.rand(8, spec.in_channels, spec.spatial, spec.spatial), torch.rand(8, GLOBAL_FEATURES)
    network(features, vectors)  # in training mode: the running statistics move
    with torch.no_grad():
        for plain, other in zip(network.eval()(features, vectors), fused(network)(features, vectors), strict=True):
            assert torch.allclose(plain, other, atol=1e-5)
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in fused(network).modules())
