"""The twelve configs and the numbers the canonical rules give each of them.

Only constants of the game and the one parser of config keys belong here. Sources: RULES_CANONICAL_SPEC RR-CANON-R020 (ring
supply), R061 and R062 (victory thresholds), R120 (line length).
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Board:
    """One board type: `size` is the edge of its bounding square, `cells` the number of spaces."""

    name: str
    hexagonal: bool
    size: int
    cells: int
    rings_per_player: int


BOARDS: dict[str, Board] = {
    board.name: board
    for board in (
        Board("square8", hexagonal=False, size=8, cells=64, rings_per_player=18),
        Board("square19", hexagonal=False, size=19, cells=361, rings_per_player=72),
        Board("hex8", hexagonal=True, size=9, cells=61, rings_per_player=18),
        Board("hexagonal", hexagonal=True, size=25, cells=469, rings_per_player=96),
    )
}
PLAYER_COUNTS = (2, 3, 4)
LPS_ROUNDS_REQUIRED = 3
"""Consecutive rounds in which only one player has a real action before that player wins (RR-CANON-R172)."""


@dataclass(frozen=True, order=True)
class Config:
    """A board and a number of players; `key` is its name everywhere, e.g. `hex8_2p`."""

    board: str
    players: int

    @property
    def key(self) -> str:
        return f"{self.board}_{self.players}p"

    @property
    def spec(self) -> Board:
        return BOARDS[self.board]

    @property
    def line_length(self) -> int:
        """Markers in a row that make a line: 4, but 3 on the small boards with more than two players (R120)."""
        return 3 if self.spec.cells < 100 and self.players > 2 else 4

    @property
    def victory_threshold(self) -> int:
        """Eliminated rings that win: round(rings * (2/3 + (players - 1) / 3)) (R061)."""
        return round(self.spec.rings_per_player * (self.players + 1) / 3)

    @property
    def territory_threshold(self) -> int:
        """More than half of the board's spaces, as the recorded states carry it (R062)."""
        return self.spec.cells // 2 + 1


CONFIGS: tuple[Config, ...] = tuple(Config(board, players) for board in BOARDS for players in PLAYER_COUNTS)
CONFIG_KEYS: tuple[str, ...] = tuple(config.key for config in CONFIGS)

BOARD_ALIASES = {"sq8": "square8", "sq19": "square19", "hex": "hexagonal"}
"""Short names of boards that RingRift's file names and events use."""

_KEY = re.compile(rf"(?<![A-Za-z0-9])({'|'.join((*BOARDS, *BOARD_ALIASES))})_([234])p(?![A-Za-z0-9])")


class UnknownConfig(ValueError):
    """The text names no config, or more than one."""


def parse_config(text: str) -> Config:
    """The config that `text` (a key, a file name, an event field) names.

    Boards may have their short names (`sq8_2p`). Raises UnknownConfig unless exactly one distinct config stands in it: a wrong
    guess would mix data of two configs.
    """
    found = {Config(BOARD_ALIASES.get(board) or board, int(players)) for board, players in _KEY.findall(text)}
    if len(found) != 1:
        what = "no config key" if not found else f"{len(found)} config keys"
        raise UnknownConfig(f"{what} in {text!r}; expected one of {', '.join(CONFIG_KEYS)}")
    return found.pop()
