"""A compact residual network with a policy and a value head, for every board. Needs torch.

Names of its weights are those by which `models.checkpoints` reads sizes from shapes: the first convolution, `res_blocks.N`,
`policy_fcN`, `value_fcN`. What the numbers mean on input and output is in `datasets.features` and `datasets.labels`; how weights
become a file is for `trainer`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch  # pyright: ignore[reportMissingImports]
from torch import Tensor, nn  # pyright: ignore[reportMissingImports]

from ringrift_dagster.datasets.encoders import BOARD_FACTS
from ringrift_dagster.datasets.features import GLOBAL_FEATURES, encoding
from ringrift_dagster.games.config import Config

MODEL_CLASS: Final = "ReferenceNetwork"
ARCHITECTURE_VERSION: Final = "reference-v1"
"""Changes whenever weights of before mean something else."""
POLICY_PLANES: Final = 8
POLICY_HIDDEN: Final = 256
VALUE_HIDDEN: Final = 64
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
        self.policy_conv = nn.Conv2d(filters, POLICY_PLANES, 1)
        self.policy_fc1 = nn.Linear(POLICY_PLANES * spec.spatial**2 + GLOBAL_FEATURES, POLICY_HIDDEN)
        self.policy_fc2 = nn.Linear(POLICY_HIDDEN, BOARD_FACTS[config.board].policy_size)
        self.value_fc1 = nn.Linear(filters + GLOBAL_FEATURES, VALUE_HIDDEN)
        self.value_fc2 = nn.Linear(VALUE_HIDDEN, config.players)

    def forward(self, features: Tensor, global_vectors: Tensor) -> tuple[Tensor, Tensor]:
        """(n, channels, size, size) and (n, 20) give logits (n, policy size) and values (n, players)."""
        x = torch.relu(self.bn1(self.conv1(features)))
        for block in self.res_blocks:
            x = block(x)
        policy = torch.relu(self.policy_conv(x)).flatten(1)
        policy = torch.relu(self.policy_fc1(torch.cat([policy, global_vectors], dim=1)))
        value = torch.relu(self.value_fc1(torch.cat([x.mean(dim=(2, 3)), global_vectors], dim=1)))
        return self.policy_fc2(policy), torch.tanh(self.value_fc2(value))


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
