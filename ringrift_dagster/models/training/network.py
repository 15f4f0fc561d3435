"""A compact residual network with a policy and a value head, for every board. Needs torch.

Names of its weights are those by which `models.checkpoints` reads sizes from shapes: the first convolution, `res_blocks.N`,
`value_fcN`. The policy head is convolutional, for moves are learnt much faster if all cells share weights; so the size of the
policy is in the metadata alone. What the numbers mean on input and output is in `datasets.features` and `datasets.labels`; how
weights become a file is for `trainer`.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Final

import torch  # pyright: ignore[reportMissingImports]
from torch import Tensor, nn  # pyright: ignore[reportMissingImports]
from torch.nn.utils.fusion import fuse_conv_bn_eval  # pyright: ignore[reportMissingImports]

from ringrift_dagster.datasets.encoders import BOARD_FACTS
from ringrift_dagster.datasets.features import GLOBAL_FEATURES, encoding
from ringrift_dagster.games.config import Config

MODEL_CLASS: Final = "ReferenceNetwork"
ARCHITECTURE_VERSION: Final = "reference-v1"
"""Changes whenever weights of before mean something else."""
POLICY_PLANES: Final = 64
VALUE_HIDDEN: Final = 64
NEVER: Final = -30.0
"""The logit of entries of the policy layout that no move has."""
MAX_FILTERS: Final = 512
MAX_BLOCKS: Final = 64


@dataclass(frozen=True)
class Sizes:
    """The sizes of a network: filters of every convolution, and residual blocks. Raises ValueError out of bounds."""

    filters: int = 32
    blocks: int = 3

    def __post_init__(self) -> None:
        if not 1 <= self.filters <= MAX_FILTERS:
            raise ValueError(f"a network has 1 to {MAX_FILTERS} filters, not {self.filters}")
        if not 1 <= self.blocks <= MAX_BLOCKS:
            raise ValueError(f"a network has 1 to {MAX_BLOCKS} residual blocks, not {self.blocks}")


class _Block(nn.Module):
    """Two convolutions beside the identity (He et al. 2016)."""

    def __init__(self, filters: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(filters, filters, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters)

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(x + self.bn2(self.conv2(inner)))


def _layout(hexagonal: bool, reach: int) -> tuple[tuple[int, bool], ...]:
    """The policy layout in order: how many entries, and whether for every cell or once for the board."""
    if hexagonal:
        return (3, True), (6 * reach, True), (1, False)  # placements, movements, everything else
    return (
        (3, True),  # placements
        (8 * reach, True),  # movements
        (4, True),  # lines
        (1, True),  # eliminations
        (3 + 4, False),  # skips and the swap of sides, choices of a line's reward
        (8 * 4, True),  # territory
        (7, False),  # moves without an alternative, skips, forced eliminations
    )


class _PolicyHead(nn.Module):
    """Logits in the policy layout of `datasets.labels`: some for every cell, which a convolution makes, and some for the board."""

    def __init__(self, config: Config, filters: int) -> None:
        super().__init__()
        spec, reach = encoding(config), encoding(config).spatial - 1
        self.layout = _layout(config.spec.hexagonal, reach)
        self.transposed = not config.spec.hexagonal  # planes of square boards are indexed [x, y], cells of the layout y * size + x
        self.by_cell = [width for width, cells in self.layout if cells]
        self.by_board = [width for width, cells in self.layout if not cells]
        used = sum(width * (spec.spatial**2 if cells else 1) for width, cells in self.layout)
        self.unused = BOARD_FACTS[config.board].policy_size - used
        self.conv = nn.Conv2d(filters, POLICY_PLANES, 3, padding=1)
        self.globals = nn.Linear(GLOBAL_FEATURES, POLICY_PLANES)
        self.cells = nn.Conv2d(POLICY_PLANES, sum(self.by_cell), 1)
        self.board = nn.Linear(POLICY_PLANES, sum(self.by_board))

    def forward(self, x: Tensor, global_vectors: Tensor) -> Tensor:
        planes = torch.relu(self.conv(x) + self.globals(global_vectors)[:, :, None, None])
        cells = self.cells(planes)
        cells = cells.permute(0, 3, 2, 1) if self.transposed else cells.permute(0, 2, 3, 1)
        by_cell = iter(cells.split(self.by_cell, dim=3))
        by_board = iter(self.board(planes.mean(dim=(2, 3))).split(self.by_board, dim=1))
        parts = [(next(by_cell) if cells else next(by_board)).flatten(1) for _, cells in self.layout]
        return torch.cat([*parts, x.new_full((x.shape[0], self.unused), NEVER)], dim=1)


class ReferenceNetwork(nn.Module):
    """From positions to logits of all moves of the policy layout, and to a value, -1 to 1, for every player.

    Values are from the side of whoever is to move, as the features are: the first is the mover's, the next that of the player
    who follows, and so on round the table.
    """

    def __init__(self, config: Config, sizes: Sizes) -> None:
        super().__init__()
        self.config, self.sizes = config, sizes
        spec, filters = encoding(config), sizes.filters
        self.conv1 = nn.Conv2d(spec.in_channels, filters, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(filters)
        self.res_blocks = nn.ModuleList(_Block(filters) for _ in range(sizes.blocks))
        self.policy = _PolicyHead(config, filters)
        self.value_fc1 = nn.Linear(filters + GLOBAL_FEATURES, VALUE_HIDDEN)
        self.value_fc2 = nn.Linear(VALUE_HIDDEN, config.players)

    def forward(self, features: Tensor, global_vectors: Tensor) -> tuple[Tensor, Tensor]:
        """(n, channels, size, size) and (n, 20) give logits (n, policy size) and values (n, players)."""
        x = torch.relu(self.bn1(self.conv1(features)))
        for block in self.res_blocks:
            x = block(x)
        value = torch.relu(self.value_fc1(torch.cat([x.mean(dim=(2, 3)), global_vectors], dim=1)))
        return self.policy(x, global_vectors), torch.tanh(self.value_fc2(value))


def fused(network: ReferenceNetwork) -> ReferenceNetwork:
    """A network for playing that computes the same, up to rounding, in half the time: normalisation is part of the convolutions."""
    network = copy.deepcopy(network).eval()
    for part in (network, *network.res_blocks):
        for number in (1, 2):
            if hasattr(part, f"bn{number}"):
                convolution = fuse_conv_bn_eval(getattr(part, f"conv{number}"), getattr(part, f"bn{number}"))
                setattr(part, f"conv{number}", convolution)
                setattr(part, f"bn{number}", nn.Identity())
    return network


def description(network: ReferenceNetwork) -> dict[str, Any]:
    """What a checkpoint says of the network, under RingRift's names: enough to make it again."""
    config, spec = network.config, encoding(network.config)
    return {
        "board_type": config.board,
        "board_size": spec.spatial,
        "num_players": config.players,
        "policy_size": BOARD_FACTS[config.board].policy_size,
        "total_in_channels": spec.in_channels,
        "global_features": GLOBAL_FEATURES,
        "num_filters": network.sizes.filters,
        "num_res_blocks": network.sizes.blocks,
    }
