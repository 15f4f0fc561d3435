"""The rules by themselves: legal moves listed, random games played from the list, and the same games replayed.

One process, compiled code alone. The bound of a random move (list all moves, draw one, play it) is the replay of the same game
(check one move, play it), as in the gate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ringrift_dagster.ai.seeds import below, generator
from ringrift_dagster.games.config import parse_config
from ringrift_dagster.games.geometry import topology
from ringrift_dagster.games.moves import MoveLog, PackedMoves
from ringrift_dagster.games.position import POSITION, empty_position
from ringrift_dagster.games.replay import positions, replay
from ringrift_dagster.games.rules.compiled import compiled
from ringrift_dagster.games.rules.listing import buffers, list_moves
from ringrift_dagster.games.rules.stacks import copy_position
from ringrift_dagster.games.rules.turns import play

AIMS = {"square8_2p": 200_000, "hex8_2p": None, "square19_2p": None, "hexagonal_2p": 20_000}
"""Random moves a second, by config."""
GAMES = {"square8_2p": 200, "hex8_2p": 200, "square19_2p": 20, "hexagonal_2p": 10}
LISTED_POSITIONS = 200
"""Positions whose moves are listed, spread evenly over the games; one of the largest boards has 200 kB."""


@compiled
def _random_game(tables, position, rows, cells, state):
    moves = 0
    count = list_moves(tables, position, rows, cells)
    while count > 0:
        play(tables, position, rows[below(state, count)], cells)
        moves += 1
        count = list_moves(tables, position, rows, cells)
    return moves


@compiled
def _list_all(tables, sample, rows, cells):
    listed = 0
    for index in range(len(sample)):
        listed += list_moves(tables, sample[index], rows, cells)
    return listed


def _random_games(key: str, games: int) -> Iterator[PackedMoves]:
    """The games that `_random_game` plays, with their moves."""
    config = parse_config(key)
    tables, (rows, cells) = topology(config.board), buffers(config.board)
    for number in range(games):
        position, log, state = empty_position(config), MoveLog(), generator("bench", key, number)
        while count := int(list_moves(tables, position, rows, cells)):
            row = rows[int(below(state, count))].copy()
            log.append(row, cells)
            play(tables, position, row, cells)
        yield log.packed()


def _sample(key: str, games: list[PackedMoves]) -> NDArray[Any]:
    """Positions spread evenly over the games."""
    config = parse_config(key)
    stride = max(1, sum(map(len, games)) // LISTED_POSITIONS)
    sample = np.zeros(LISTED_POSITIONS, dtype=POSITION).view(np.recarray)
    number = taken = 0
    for moves in games:
        for position in positions(config, empty_position(config), moves):
            if number % stride == 0 and taken < LISTED_POSITIONS:
                copy_position(position, sample[taken])
                taken += 1
            number += 1
    return sample[:taken]


def replay_all(key: str, games: Sequence[PackedMoves]) -> int:
    config = parse_config(key)
    for game in games:
        replay(config, empty_position(config), game, np.zeros(len(game) + 1, dtype=np.uint8))
    return sum(map(len, games))


def _play_all(key: str, games: int) -> int:
    config = parse_config(key)
    tables, (rows, cells) = topology(config.board), buffers(config.board)
    states = (generator("bench", key, number) for number in range(games))
    return sum(_random_game(tables, empty_position(config), rows, cells, state) for state in states)


def run(row: Callable[[str, str, str], None], best_rate: Callable[[Callable[[], int]], float]) -> None:
    """Measure, and pass each figure to `row` as (figure, here, beside); `best_rate` measures units a second of a function."""
    for key, number in GAMES.items():
        board = parse_config(key).board
        games = list(_random_games(key, number))
        sample, (rows, cells) = _sample(key, games), buffers(board)
        listed = _list_all(topology(board), sample, rows, cells)
        replayed, played = best_rate(partial(replay_all, key, games)), best_rate(partial(_play_all, key, number))
        lists = best_rate(partial(_list_all, topology(board), sample, rows, cells)) * len(sample) / listed
        aim = f"aim {AIMS[key]:,}; " if AIMS[key] else ""
        row(f"random moves listed and played, {key}, moves/s", f"{played:,.0f}", f"{aim}the same games replayed: {replayed:,.0f}")
        row(f"lists of legal moves, {key}, lists/s", f"{lists:,.0f}", f"{listed / len(sample):.0f} moves a list")
