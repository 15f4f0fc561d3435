"""What RingRift's encoders and policy layouts produce for every board: sizes and names. Encoding is in `features` and `labels`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class BoardFacts:
    """What RingRift's encoders produce for one board."""

    spatial_size: int
    channels: int
    policy_size: int
    encoder: str
    legacy_channels: int | None = None
    """Planes of the hex v2 encoder: still loadable, if the file says that this is what it holds."""
    spatial_policy_size: int | None = None
    """Outputs of networks whose policy has a plane for every kind of move, where `policy_size` is rounded up."""


BOARD_FACTS: Final = {
    "square8": BoardFacts(8, 56, 7000, "square"),
    "square19": BoardFacts(19, 56, 67000, "square"),
    "hex8": BoardFacts(9, 64, 4500, "hex", legacy_channels=40, spatial_policy_size=4132),
    "hexagonal": BoardFacts(25, 64, 91876, "hex", legacy_channels=40),
}
