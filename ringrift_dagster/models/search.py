"""The policy `mcts` with a model: a tree search by PUCT in which a network gives the moves' priors and the positions' values.

What is backed up is a vector with a value for each player (max^n), so that any number of players is searched alike; forced moves
are played without a node. There is no clock and no noise. The search without a model is `ai.policies.mcts`. Sources: Rosin 2011
(PUCT), Silver et al. 2017 (priors and values by a network), Luckhardt and Irani 1986 (max^n).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ringrift_dagster.ai.policies.heuristic import best_of
from ringrift_dagster.ai.policies.interface import Choice, LegalMoves
from ringrift_dagster.ai.seeds import Generator
from ringrift_dagster.datasets.features import HISTORY_LENGTH
from ringrift_dagster.games import moves as m
from ringrift_dagster.games.config import Config
from ringrift_dagster.games.geometry import topology
from ringrift_dagster.games.moves import MoveType
from ringrift_dagster.games.position import ACTIVE, Position, blank_position
from ringrift_dagster.games.rules.listing import buffers, list_moves
from ringrift_dagster.games.rules.stacks import copy_position
from ringrift_dagster.games.rules.turns import play
from ringrift_dagster.models.judge import Judge, shares

EXPLORATION = 1.25
"""How much a move's prior counts beside its value."""
PRIOR_TEMPERATURE = 2.0
"""Logits count divided by this: what was learnt from other games is too sure of itself where an opponent plays unlike any seen."""


@dataclass
class _Node:
    """A position of the search. `values` has every player's, from player 1 on; without `moves` the game has ended there."""

    values: NDArray[np.float64]
    position: Position = None
    earlier: tuple[Position, ...] = ()
    moves: LegalMoves | None = None
    priors: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    visits: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    totals: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    children: dict[int, _Node] = field(default_factory=dict)


class NetworkSearch:
    """The policy `mcts` with a network: `budget` simulations a decision."""

    history = HISTORY_LENGTH

    def __init__(self, config: Config, judge: Judge, budget: int) -> None:
        self._config, self._judge, self._budget = config, judge, budget
        self._tables = topology(config.board)
        self._rows, self._cells = buffers(config.board)

    def __call__(self, position: Position, moves: LegalMoves, generator: Generator, earlier: Sequence[Position] = ()) -> Choice:
        count = len(moves.rows)
        if count == 1:
            return Choice(0)
        root = self._judged(position, tuple(earlier), moves)
        for _ in range(self._budget):
            self._simulate(root)
        return Choice(int(best_of(root.visits, count, generator)), root.visits)

    def _judged(self, position: Position, earlier: tuple[Position, ...], moves: LegalMoves) -> _Node:
        judgement = self._judge(position, earlier)
        priors = shares(self._config, moves, judgement.logits, PRIOR_TEMPERATURE)
        count, mover = len(moves.rows), int(position.player) - 1
        values = np.roll(judgement.values.astype(np.float64), mover)
        return _Node(values, position, earlier, moves, priors / priors.sum(), np.zeros(count, np.int64), np.zeros(count))

    def _simulate(self, root: _Node) -> None:
        node, path = root, []
        while node.moves is not None:
            slot = _select(node)
            path.append((node, slot))
            if slot not in node.children:
                node.children[slot] = node = self._after(node, node.moves, slot)
                break
            node = node.children[slot]
        values = node.values
        for node, slot in reversed(path):
            assert node.moves is not None
            if node.moves.rows[slot, m.TYPE] == MoveType.SWAP_SIDES:  # players 1 and 2 take over each other's colours (R180)
                values = values[::-1]
            node.visits[slot] += 1
            node.totals[slot] += values[int(node.position.player) - 1]

    def _after(self, node: _Node, moves: LegalMoves, slot: int) -> _Node:
        """The next decision after a move, or the end of the game."""
        earlier, position = (node.position, *node.earlier), blank_position()
        copy_position(node.position, position)
        play(self._tables, position, moves.rows[slot], moves.cells)
        while (count := int(list_moves(self._tables, position, self._rows, self._cells))) == 1:
            before = blank_position()
            copy_position(position, before)
            earlier = (before, *earlier)
            play(self._tables, position, self._rows[0], self._cells)
        if position.status != ACTIVE:
            return _Node(_result(int(position.winner), self._config.players))
        return self._judged(position, earlier[:HISTORY_LENGTH], LegalMoves(self._rows[:count].copy(), self._cells.copy()))


def _select(node: _Node) -> int:
    """The slot with the highest upper confidence bound; a move without visits has the value of its node."""
    own = node.values[int(node.position.player) - 1]
    means = np.where(node.visits > 0, node.totals / np.maximum(node.visits, 1), own)
    scale = EXPLORATION * np.sqrt(node.visits.sum() + 1.0)
    return int(np.argmax(means + scale * node.priors / (node.visits + 1)))


def _result(winner: int, players: int) -> NDArray[np.float64]:
    """The values of a game that has ended: of those who did not win the mean of their ranks' values; 0 for all without a winner."""
    if winner <= 0:
        return np.zeros(players)
    values = np.full(players, -1.0 / (players - 1))
    values[winner - 1] = 1.0
    return values
