"""Random games of legal moves, for tests of the rules: played from the list, with a generator of their own."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ringrift_dagster.games import moves as m
from ringrift_dagster.games.config import Config
from ringrift_dagster.games.geometry import Topology, topology
from ringrift_dagster.games.moves import MoveType
from ringrift_dagster.games.position import RULE, Position, empty_position
from ringrift_dagster.games.rules.compiled import compiled
from ringrift_dagster.games.rules.listing import MoveBuffers, buffers, list_moves
from ringrift_dagster.games.rules.turns import play

GUESSES = 40_000


@compiled
def draw(state, bound):
    """A number below `bound` from a xorshift generator: good enough for tests, and the same everywhere."""
    value = state[0]
    value ^= value << np.uint64(13)
    value ^= value >> np.uint64(7)
    value ^= value << np.uint64(17)
    state[0] = value
    return np.int64(value % np.uint64(bound))


def playout(
    config: Config, seed: int, *, swap_rule: bool = False, variant: str = RULE, favour: tuple[MoveType, ...] = ()
) -> Iterator[tuple[Topology, Position, MoveBuffers, int, int]]:
    """(topology, position, its listed moves, their number, the one that is played next) of every position of a random game.

    Buffers and position are the same objects each time. Moves of the types `favour` are played where there are any, three times
    in four.
    """
    tables, listed = topology(config.board), buffers(config.board)
    position = empty_position(config, swap_rule=swap_rule, variant=variant)
    state = np.array([seed * 2_654_435_761 + 88_172_645_463_325_252], dtype=np.uint64)
    while count := int(list_moves(tables, position, listed.rows, listed.cells)):
        candidates = np.arange(count)
        favoured = np.flatnonzero(np.isin(listed.rows[:count, m.TYPE], favour))
        if len(favoured) and draw(state, 4) > 0:
            candidates = favoured
        chosen = int(candidates[draw(state, len(candidates))])
        yield tables, position, listed, count, chosen
        play(tables, position, listed.rows[chosen].copy(), listed.cells)
    yield tables, position, listed, 0, -1


def new_row(position: Position, kind: int) -> NDArray[np.int64]:
    """A move with nothing given but type, player and phase."""
    row = np.full(len(m.COLUMNS), m.NOT_GIVEN, dtype=np.int64)
    row[m.TYPE], row[m.PLAYER], row[m.PHASE] = kind, position.player, position.phase
    row[m.MODE] = row[m.CONTEXT] = 0
    row[m.FIRST :] = 0
    return row
