"""The policy `heuristic`: one ply. Every legal move is played on a copy, the turn settled, and the best score chosen.

What makes a score is in `evaluation`; the search of `mcts` expands its nodes by the same ply.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringrift_dagster.ai.policies.evaluation import WEIGHTS, WON, Feature, evaluate, settle
from ringrift_dagster.ai.policies.interface import Choice, LegalMoves, Policy, no_budget
from ringrift_dagster.ai.seeds import Generator, below
from ringrift_dagster.games import moves as m
from ringrift_dagster.games.config import Config
from ringrift_dagster.games.geometry import topology
from ringrift_dagster.games.moves import MoveType
from ringrift_dagster.games.position import SEATS, Position, blank_position
from ringrift_dagster.games.rules.compiled import compiled
from ringrift_dagster.games.rules.listing import buffers
from ringrift_dagster.games.rules.stacks import copy_position
from ringrift_dagster.games.rules.turns import play


class Scratch(NamedTuple):
    """Scratch space for evaluating moves, allocated once: a position, a list of moves, and features."""

    position: Position
    rows: NDArray[np.int64]
    cells: NDArray[np.int64]
    features: NDArray[np.int64]


def scratch(board: str) -> Scratch:
    """Scratch space for evaluating moves on a board."""
    return Scratch(blank_position(), *buffers(board), np.zeros((SEATS, len(Feature)), dtype=np.int64))


@compiled
def exchange_sides(by_seat):
    """Exchange the values of players 1 and 2, who take over each other's colours when sides are swapped (R180)."""
    first = by_seat[1]
    by_seat[1] = by_seat[2]
    by_seat[2] = first


@compiled
def score_moves(topology, position, rows, cells, count, weights, room, scores):
    """Write the scores of the positions after the first `count` moves, one for each player, into `scores`, int64[moves, SEATS]."""
    for i in range(count):
        copy_position(position, room.position)
        play(topology, room.position, rows[i], cells)
        settle(topology, room.position, room.rows, room.cells)
        evaluate(topology, room.position, weights, room.features, scores[i])
        if rows[i, m.TYPE] == MoveType.SWAP_SIDES:
            exchange_sides(scores[i])


@compiled
def best_of(scores, count, state):
    """The index of the greatest of the first `count` scores; ties are broken by a draw from `state`."""
    best = -2 * WON
    ties = 0
    chosen = 0
    for i in range(count):
        if scores[i] > best:
            best = scores[i]
            ties = 0
        if scores[i] == best:
            ties += 1
            if ties == 1 or below(state, ties) == 0:
                chosen = i
    return chosen


def heuristic_policy(config: Config, budget: int | None = None) -> Policy:
    """The policy `heuristic` for games of `config`; it has no budget (ValueError)."""
    no_budget("heuristic", budget)
    tables, room = topology(config.board), scratch(config.board)
    scores = np.zeros((len(room.rows), SEATS), dtype=np.int64)

    def choose(position: Position, moves: LegalMoves, generator: Generator) -> Choice:
        count = len(moves.rows)
        if count == 1:
            return Choice(0)
        score_moves(tables, position, moves.rows, moves.cells, count, WEIGHTS, room, scores)
        return Choice(int(best_of(scores[:, position.player], count, generator)))

    return choose
