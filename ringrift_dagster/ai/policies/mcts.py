"""The policy `mcts`: a tree search by PUCT with a fixed number of simulations, in which the evaluation takes the place of playouts.

Every node keeps, for the player to move there, the values of its moves; what is backed up is a vector with a value for each player
(max^n), so that any number of players is searched alike. A node keeps its WIDTH best moves. There is no clock, and floating
point is used for +, -, *, / and square roots alone, in a fixed order: the same seed gives the same move on every platform. Sources:
Rosin 2011 (PUCT), Luckhardt and Irani 1986 (max^n).
"""

from __future__ import annotations

from math import sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringrift_dagster.ai.policies.evaluation import WEIGHTS, WON
from ringrift_dagster.ai.policies.heuristic import best_of, exchange_sides, score_moves, scratch
from ringrift_dagster.ai.policies.interface import Choice, LegalMoves, Policy
from ringrift_dagster.ai.registry import BUDGETS
from ringrift_dagster.ai.seeds import Generator, fraction
from ringrift_dagster.games import moves as m
from ringrift_dagster.games.config import Config
from ringrift_dagster.games.geometry import topology
from ringrift_dagster.games.moves import MoveType
from ringrift_dagster.games.position import ACTIVE, SEATS, Position, blank_position
from ringrift_dagster.games.rules.compiled import compiled
from ringrift_dagster.games.rules.listing import buffers, list_moves
from ringrift_dagster.games.rules.stacks import copy_position
from ringrift_dagster.games.rules.turns import play

WIDTH = 24
"""Moves that a node keeps."""
EXPLORATION = 0.3
PRIOR_SCALE = 400.0
"""The difference from the best score at which a move has a quarter of the best move's prior."""
VALUE_SCALE = 1500.0
"""The score that stands for a value of 3/4."""
NOISE = 0.25
"""The random share of the root's priors."""
NO_NODE = -1


class Tree(NamedTuple):
    """The nodes of one search and what a simulation needs, allocated once for a budget. Node 0 is the root."""

    moves: NDArray[np.int64]  # [node, slot]: index into the node's list of legal moves
    priors: NDArray[np.float64]
    first: NDArray[np.float64]  # value of the position that the move leads to, by evaluation
    visits: NDArray[np.int64]
    totals: NDArray[np.float64]  # sum of the values that were backed up, for the player to move at the node
    nodes: NDArray[np.int64]  # the node that the move leads to, or NO_NODE
    widths: NDArray[np.int64]  # [node]: moves kept
    players: NDArray[np.int64]  # [node]: whose move it is
    path: NDArray[np.int64]  # [depth, (node, slot, move type)]
    values: NDArray[np.float64]  # [player]: what is backed up
    scores: NDArray[np.int64]  # [move, player]: of the list being expanded
    position: Position
    rows: NDArray[np.int64]
    cells: NDArray[np.int64]


def tree(board: str, budget: int) -> Tree:
    """A tree with room for a search of `budget` simulations on a board."""
    rows, cells = buffers(board)
    shape = (budget + 1, WIDTH)
    return Tree(
        moves=np.zeros(shape, dtype=np.int64),
        priors=np.zeros(shape),
        first=np.zeros(shape),
        visits=np.zeros(shape, dtype=np.int64),
        totals=np.zeros(shape),
        nodes=np.zeros(shape, dtype=np.int64),
        widths=np.zeros(budget + 1, dtype=np.int64),
        players=np.zeros(budget + 1, dtype=np.int64),
        path=np.zeros((budget + 1, 3), dtype=np.int64),
        values=np.zeros(SEATS),
        scores=np.zeros((len(rows), SEATS), dtype=np.int64),
        position=blank_position(),
        rows=rows,
        cells=cells,
    )


@compiled
def _value(score):
    """A score as a value from 0 (lost) to 1 (won)."""
    if score >= WON:
        return 1.0
    if score <= -WON:
        return 0.0
    return 0.5 + 0.5 * score / (abs(score) + VALUE_SCALE)


@compiled
def _expand(topology, position, rows, cells, count, weights, tree, room, node):
    """Fill a node with the best of `count` legal moves; the best one's value for every player goes into `tree.values`."""
    player = position.player
    scores = tree.scores
    score_moves(topology, position, rows, cells, count, weights, room, scores)
    width = min(count, WIDTH)
    moves = tree.moves[node]
    kept = 0
    for move in range(count):
        score = scores[move, player]
        if kept == width and score <= scores[moves[kept - 1], player]:
            continue
        if kept < width:
            kept += 1
        slot = kept - 1
        while slot > 0 and scores[moves[slot - 1], player] < score:
            moves[slot] = moves[slot - 1]
            slot -= 1
        moves[slot] = move
    best = scores[moves[0], player]
    total = 0.0
    for slot in range(width):
        score = scores[moves[slot], player]
        share = PRIOR_SCALE / (PRIOR_SCALE + (best - score))
        tree.priors[node, slot] = share * share
        total += share * share
        tree.first[node, slot] = _value(score)
        tree.visits[node, slot] = 0
        tree.totals[node, slot] = 0.0
        tree.nodes[node, slot] = NO_NODE
    for slot in range(width):
        tree.priors[node, slot] /= total
    tree.widths[node] = width
    tree.players[node] = player
    for seat in range(1, position.players + 1):
        tree.values[seat] = _value(scores[moves[0], seat])


@compiled
def _select(tree, node, visited):
    """The slot with the highest upper confidence bound; `visited` is the number of visits of the node."""
    scale = EXPLORATION * sqrt(visited + 1.0)
    chosen = 0
    highest = -1.0
    for slot in range(tree.widths[node]):
        visits = tree.visits[node, slot]
        mean = (tree.totals[node, slot] + tree.first[node, slot]) / (visits + 1)
        bound = mean + scale * tree.priors[node, slot] / (visits + 1)
        if bound > highest:
            highest = bound
            chosen = slot
    return chosen


@compiled
def _simulate(topology, root, rows, cells, weights, tree, room, used):
    """Run one simulation; returns the number of nodes in use after it."""
    position = tree.position
    copy_position(root, position)
    node = 0
    depth = 0
    while True:
        visited = 0
        for slot in range(tree.widths[node]):
            visited += tree.visits[node, slot]
        slot = _select(tree, node, visited)
        tree.path[depth, 0] = node
        tree.path[depth, 1] = slot
        move = tree.moves[node, slot]
        if node == 0:
            tree.path[depth, 2] = rows[move, m.TYPE]
            play(topology, position, rows[move], cells)
        else:
            tree.path[depth, 2] = tree.rows[move, m.TYPE]
            play(topology, position, tree.rows[move], tree.cells)
        depth += 1
        count = list_moves(topology, position, tree.rows, tree.cells)
        while count == 1:
            play(topology, position, tree.rows[0], tree.cells)
            count = list_moves(topology, position, tree.rows, tree.cells)
        if position.status != ACTIVE:
            for seat in range(1, position.players + 1):
                tree.values[seat] = 0.5 if position.winner <= 0 else 1.0 if position.winner == seat else 0.0
            break
        if tree.nodes[node, slot] == NO_NODE:
            _expand(topology, position, tree.rows, tree.cells, count, weights, tree, room, used)
            tree.nodes[node, slot] = used
            used += 1
            break
        node = tree.nodes[node, slot]
    for step in range(depth - 1, -1, -1):
        node, slot = tree.path[step, 0], tree.path[step, 1]
        if tree.path[step, 2] == MoveType.SWAP_SIDES:
            exchange_sides(tree.values)
        tree.visits[node, slot] += 1
        tree.totals[node, slot] += tree.values[tree.players[node]]
    return used


@compiled
def search(topology, position, rows, cells, count, budget, weights, tree, room, state, visits):
    """Search from `position`, whose `count` legal moves are given, and write the visits of each into `visits`.

    The visits sum to `budget`. Returns the index of the most visited move; ties are broken by a draw from `state`.
    """
    _expand(topology, position, rows, cells, count, weights, tree, room, 0)
    total = 0.0
    for slot in range(tree.widths[0]):
        noise = fraction(state)
        tree.totals[0, slot] = noise
        total += noise
    for slot in range(tree.widths[0]):
        tree.priors[0, slot] += NOISE * (tree.totals[0, slot] / total - tree.priors[0, slot])
        tree.totals[0, slot] = 0.0
    used = 1
    for _ in range(budget):
        used = _simulate(topology, position, rows, cells, weights, tree, room, used)
    visits[:count] = 0
    for slot in range(tree.widths[0]):
        visits[tree.moves[0, slot]] = tree.visits[0, slot]
    return best_of(visits, count, state)


def mcts_policy(config: Config, budget: int | None = None) -> Policy:
    """The policy `mcts` for games of `config`: `budget` simulations a decision, within the registry's bounds (ValueError)."""
    bounds = BUDGETS["mcts"]
    simulations = bounds.default if budget is None else budget
    if not bounds.least <= simulations <= bounds.most:
        raise ValueError(f"the budget of mcts is {bounds.least} to {bounds.most:,} simulations, not {simulations}")
    tables, room, nodes = topology(config.board), scratch(config.board), tree(config.board, simulations)

    def choose(position: Position, moves: LegalMoves, generator: Generator) -> Choice:
        count = len(moves.rows)
        if count == 1:
            return Choice(0)
        visits = np.zeros(count, dtype=np.int64)
        rows, cells = moves
        index = search(tables, position, rows, cells, count, simulations, WEIGHTS, nodes, room, generator, visits)
        return Choice(int(index), visits)

    return choose
