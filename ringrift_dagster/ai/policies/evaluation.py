"""Evaluation of a position for each player, in integers: the features, their weights, and what is played before they are counted.

Comparing positions belongs here; choosing a move does not. Nothing is floating point, so that scores are equal on all platforms.
Sources: RULES_CANONICAL_SPEC RR-CANON-R061, R062, R170..R173 (what wins a game).
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from ringrift_dagster.games import moves as m
from ringrift_dagster.games.geometry import NO_CELL
from ringrift_dagster.games.moves import MoveType, Phase
from ringrift_dagster.games.position import ACTIVE
from ringrift_dagster.games.rules.compiled import compiled
from ringrift_dagster.games.rules.listing import list_moves
from ringrift_dagster.games.rules.reach import is_free
from ringrift_dagster.games.rules.turns import play


class Feature(IntEnum):
    """Features of a position, counted for each player."""

    ELIMINATED = 0  # rings credited to the player (R061)
    ELIMINATION_PROGRESS = 1  # 1,024 times the square of their share of the victory threshold
    TERRITORY_PROGRESS = 2  # 1,024 times the square of the player's share of the territory that wins (R062)
    STACKS = 3  # stacks controlled
    BURIED = 4  # own rings that are in no cap of the player's
    HAND = 5  # rings in hand
    MOBILITY = 6  # (stack, direction) pairs with a move
    CAPTURES = 7  # (stack, direction) pairs with a capture
    THREATENED = 8  # captures that others have of the player's stacks
    MARKERS = 9  # markers on the board
    STUCK = 10  # 1 = no rings in hand and no stack that moves or captures: the way to losing to the last player standing (R172)
    TO_MOVE = 11  # 1 = the player's turn


WEIGHTS = np.array([90, 6, 6, 360, 40, 90, -20, 10, -15, 45, -7000, 60], dtype=np.int64)
"""By feature. Fitted to games between versions of the policy on square8 and hex8 (2 and 3 players): a regression on who won,
then mutations, kept where they won clearly more of some hundred games. Rows of markers short of a line, spaces and cap heights
as such were tried as features and changed nothing: lines and regions that a move makes are counted after `settle`."""
WON = 1 << 30
"""The score of a won game; a lost one has its negative."""


@compiled
def _count_stack(topology, position, cell, features):
    """Add the moves and captures of the stack at `cell` to `features`."""
    owner, height, cap = position.owner[cell], position.height[cell], position.cap[cell]
    for direction in range(topology.ray.shape[1]):
        ahead = topology.ray[cell, direction]
        distance = 1
        while ahead != NO_CELL and is_free(position, ahead):
            ahead = topology.ray[ahead, direction]
            distance += 1
        if distance > height:
            features[owner, Feature.MOBILITY] += 1
        if ahead == NO_CELL or position.collapsed[ahead] != 0 or position.cap[ahead] > cap:
            continue
        target = position.owner[ahead]
        ahead = topology.ray[ahead, direction]
        distance += 1
        while ahead != NO_CELL and is_free(position, ahead):
            if distance >= height:
                features[owner, Feature.CAPTURES] += 1
                if target != owner:
                    features[target, Feature.THREATENED] += 1
                break
            ahead = topology.ray[ahead, direction]
            distance += 1


@compiled
def count_features(topology, position, features):
    """Fill `features`, int64[SEATS, len(Feature)], with the features of all players."""
    features[:] = 0
    for cell in range(position.cells):
        if position.height[cell] > 0:
            owner = position.owner[cell]
            features[owner, Feature.STACKS] += 1
            features[owner, Feature.BURIED] -= position.cap[cell]
            _count_stack(topology, position, cell, features)
        elif position.marker[cell] != 0:
            features[position.marker[cell], Feature.MARKERS] += 1
    for player in range(1, position.players + 1):
        seat = features[player]
        eliminated, territory = position.eliminated[player], position.territory[player]
        seat[Feature.ELIMINATED] = eliminated
        seat[Feature.ELIMINATION_PROGRESS] = 1024 * eliminated * eliminated // position.victory_threshold**2
        seat[Feature.TERRITORY_PROGRESS] = 1024 * territory * territory // position.territory_minimum**2
        seat[Feature.BURIED] += position.on_board[player]
        seat[Feature.HAND] = position.hand[player]
        if position.hand[player] == 0 and seat[Feature.MOBILITY] + seat[Feature.CAPTURES] == 0:
            seat[Feature.STUCK] = 1
    features[position.player, Feature.TO_MOVE] = 1


@compiled
def evaluate(topology, position, weights, features, scores):
    """Fill `scores`, int64[SEATS]: for each player the weighted sum of the features, less the best of the others' sums.

    In a finished game the winner has WON and everybody else its negative; with no winner all have 0. `features` is scratch space.
    """
    scores[:] = 0
    if position.status != ACTIVE:
        if position.winner > 0:
            scores[1 : position.players + 1] = -WON
            scores[position.winner] = WON
        return
    count_features(topology, position, features)
    best = second = -WON
    leader = 0
    for player in range(1, position.players + 1):
        total = 0
        for feature in range(len(weights)):
            total += weights[feature] * features[player, feature]
        scores[player] = total
        if total > best:
            best, second, leader = total, best, player
        elif total > second:
            second = total
    for player in range(1, position.players + 1):
        scores[player] -= second if player == leader else best


@compiled
def _best_processing_move(position, rows, count):
    """The index of the move of line or territory processing to play: the most spaces, or else the smallest cap as payment."""
    chosen = 0
    best = -WON
    for i in range(count):
        kind = rows[i, m.TYPE]
        if kind == MoveType.CHOOSE_TERRITORY_OPTION or kind == MoveType.PROCESS_LINE:
            worth = rows[i, m.FIRST_LENGTH]
        elif kind == MoveType.CHOOSE_LINE_OPTION:
            worth = rows[i, m.SECOND_LENGTH]
        elif kind == MoveType.ELIMINATE_RINGS_FROM_STACK:
            worth = -position.cap[rows[i, m.TO]]
        else:
            worth = -WON + 1
        if worth > best:
            best = worth
            chosen = i
    return chosen


@compiled
def settle(topology, position, rows, cells):
    """Play line and territory processing to their end, by `_best_processing_move`.

    The score of a move thereby includes the lines and regions that it makes, and a victory by them. `rows` and `cells` are
    scratch buffers for lists of moves.
    """
    while position.status == ACTIVE and (position.phase == Phase.LINE_PROCESSING or position.phase == Phase.TERRITORY_PROCESSING):
        count = list_moves(topology, position, rows, cells)
        play(topology, position, rows[_best_processing_move(position, rows, count)], cells)
