"""What a network is to learn from a sample: policy indices, value targets, quality, victory type.

Policy: RingRift's board-aware layout. Values: `canonical` ranks players by RR-CANON-R175..R178; `ringrift` reproduces its
exporter, which ranks by eliminated rings and ignores who won. Feature planes are in `features`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ringrift_dagster.games import moves as m
from ringrift_dagster.games.config import Config
from ringrift_dagster.games.geometry import topology
from ringrift_dagster.games.moves import MoveType, PackedMoves
from ringrift_dagster.games.position import Position
from ringrift_dagster.games.rules.compiled import compiled

NO_POLICY = -1
"""A move that the policy layout has no place for; it makes no sample."""

MAX_PLAYERS = 4
_TERRITORY_SIZES = 8

# RingRift's order of directions, as (dx, dy), in its two policy layouts.
_SQUARE_DIRECTIONS = ((-1, -1), (0, -1), (1, -1), (-1, 0), (1, 0), (-1, 1), (0, 1), (1, 1))
_HEX_DIRECTIONS = ((1, 0), (0, 1), (-1, 1), (-1, 0), (0, -1), (1, -1))


class ValueTargets(StrEnum):
    """Which value labels a dataset carries."""

    CANONICAL = "canonical"
    RINGRIFT = "ringrift"


def _direction_table(steps: tuple[tuple[int, int], ...]) -> NDArray[np.int64]:
    table = np.full((3, 3), -1, dtype=np.int64)
    for index, (dx, dy) in enumerate(steps):
        table[dx + 1, dy + 1] = index
    return table


_SQUARE_INDEX = _direction_table(_SQUARE_DIRECTIONS)
_HEX_INDEX = _direction_table(_HEX_DIRECTIONS)

# Offsets of the moves without a place of their own, from the special base of the square layout …
_EARLY_SPECIALS = {MoveType.SKIP_PLACEMENT: 0, MoveType.SWAP_SIDES: 1, MoveType.SKIP_RECOVERY: 2}
_LATE_SPECIALS = (
    MoveType.NO_PLACEMENT_ACTION,
    MoveType.NO_MOVEMENT_ACTION,
    MoveType.SKIP_CAPTURE,
    MoveType.NO_LINE_ACTION,
    MoveType.NO_TERRITORY_ACTION,
    MoveType.SKIP_TERRITORY_PROCESSING,
    MoveType.FORCED_ELIMINATION,
)
_EARLY = np.full(len(MoveType), -1, dtype=np.int64)
_EARLY[list(_EARLY_SPECIALS)] = list(_EARLY_SPECIALS.values())
_LATE = np.full(len(MoveType), -1, dtype=np.int64)
_LATE[list(_LATE_SPECIALS)] = range(len(_LATE_SPECIALS))
# … and those that share the one special index of the hexagonal layout.
_HEX_SPECIAL = np.zeros(len(MoveType), dtype=np.bool_)
_HEX_SPECIAL[
    [
        MoveType.SKIP_PLACEMENT,
        MoveType.SKIP_RECOVERY,
        MoveType.ELIMINATE_RINGS_FROM_STACK,
        MoveType.CHOOSE_TERRITORY_OPTION,
        MoveType.PROCESS_LINE,
        MoveType.CHOOSE_LINE_OPTION,
        *_LATE_SPECIALS,
    ]
] = True


@compiled
def _step_index(tables, origin, to, table):
    """Index of the direction from one cell to another, and how far it is."""
    dx = tables.x[to] - tables.x[origin]
    dy = tables.y[to] - tables.y[origin]
    distance = max(abs(dx), abs(dy))
    if distance == 0:
        return -1, 0
    return table[dx // distance + 1, dy // distance + 1], distance


@compiled
def _policy_index(tables, row, cells):
    size = tables.width
    area = size * size
    reach = size - 1
    kind, to = row[m.TYPE], row[m.TO]
    count = max(row[m.COUNT], 1) - 1
    hexagonal = tables.hexagonal != 0
    movement = 3 * area
    special = movement + area * (6 if hexagonal else 8) * reach
    if kind == MoveType.PLACE_RING:
        return (tables.y[to] * size + tables.x[to]) * 3 + count
    if (
        kind == MoveType.MOVE_STACK
        or kind == MoveType.OVERTAKING_CAPTURE
        or kind == MoveType.CONTINUE_CAPTURE_SEGMENT
        or kind == MoveType.RECOVERY_SLIDE
    ):
        origin = row[m.ORIGIN]
        direction, distance = _step_index(tables, origin, to, _HEX_INDEX if hexagonal else _SQUARE_INDEX)
        if direction < 0:
            return NO_POLICY
        ways = 6 if hexagonal else 8
        at = tables.y[origin] * size + tables.x[origin]
        return movement + (at * ways + direction) * reach + distance - 1
    if hexagonal:
        return special if _HEX_SPECIAL[kind] else NO_POLICY
    line_form = special
    claim = line_form + 4 * area
    special = claim + area
    if kind == MoveType.PROCESS_LINE:
        return line_form + (tables.y[to] * size + tables.x[to]) * 4
    if kind == MoveType.ELIMINATE_RINGS_FROM_STACK:
        return claim + tables.y[to] * size + tables.x[to]
    if _EARLY[kind] >= 0:
        return special + _EARLY[kind]
    line_choice = special + 3
    territory = line_choice + 4
    if kind == MoveType.CHOOSE_LINE_OPTION:
        return line_choice + min(3, count)
    if kind == MoveType.CHOOSE_TERRITORY_OPTION:
        at = tables.y[to] * size + tables.x[to]
        spaces = max(row[m.FIRST_LENGTH], 1)
        owner = row[m.PLAYER]
        if row[m.FIRST_LENGTH] > 0:
            owner = row[m.REGION_PLAYER]
            at = area
            for i in range(row[m.FIRST], row[m.FIRST] + row[m.FIRST_LENGTH]):
                at = min(at, tables.y[cells[i]] * size + tables.x[cells[i]])
        bucket = min(spaces, _TERRITORY_SIZES) - 1
        return territory + (at * _TERRITORY_SIZES + bucket) * MAX_PLAYERS + (owner - 1) % MAX_PLAYERS
    if _LATE[kind] >= 0:
        return territory + area * _TERRITORY_SIZES * MAX_PLAYERS + _LATE[kind]
    return NO_POLICY


@compiled
def _policy_indices(tables, rows, cells, out):
    for index in range(len(rows)):
        out[index] = _policy_index(tables, rows[index], cells)


def policy_indices(config: Config, moves: PackedMoves) -> NDArray[np.int32]:
    """Each move's index in the config's policy layout, or NO_POLICY."""
    out = np.empty(len(moves), dtype=np.int32)
    _policy_indices(topology(config.board), moves.rows, moves.cells, out)
    return out


def _ranks(scores: dict[int, tuple[int, ...]]) -> dict[int, int]:
    """Standard competition ranking: equal scores share a rank (R178)."""
    return {player: 1 + sum(other > score for other in scores.values()) for player, score in scores.items()}


def _canonical_ranks(end: Position, last_seen: NDArray[np.int64]) -> dict[int, int]:
    hand_counts = not end.height.any()  # a stalemate without stacks turns rings in hand into eliminated ones (R173)
    scores = {
        player: (
            int(player == end.winner),
            int((end.collapsed == player).sum()),
            int(end.eliminated[player] + (end.hand[player] if hand_counts else 0)),
            int((end.marker == player).sum()),
            int(last_seen[player]),
        )
        for player in range(1, int(end.players) + 1)
    }
    return _ranks(scores)


def _ringrift_ranks(end: Position) -> dict[int, int]:
    """Its order: eliminated rings, then territory; seats break ties."""
    scores = {
        player: (int(end.eliminated[player]), int(end.territory[player]), -player) for player in range(1, int(end.players) + 1)
    }
    return _ranks(scores)


def seat_values(
    end: Position, last_seen: NDArray[np.int64], targets: ValueTargets
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Value targets of a finished game: (for whoever is to move, by seat 1..4; the `values_mp` vector).

    Ranks are spread evenly over [1, -1]: 1 - 2 (rank - 1) / (players - 1); all 0 without a winner. `last_seen[player]` is the last
    move after which the player still had a ring anywhere (the elimination turn of R175).
    """
    players = int(end.players)
    mover = np.zeros(MAX_PLAYERS, dtype=np.float32)
    vector = np.zeros(MAX_PLAYERS, dtype=np.float32)
    if end.winner == 0:
        return mover, vector
    ranks = _ringrift_ranks(end) if targets is ValueTargets.RINGRIFT else _canonical_ranks(end, last_seen)
    for player, rank in ranks.items():
        vector[player - 1] = 1.0 - 2.0 * (rank - 1) / (players - 1)
        mover[player - 1] = vector[player - 1]
        if players == 2:
            mover[player - 1] = 1.0 if player == end.winner else -1.0
    return mover, vector


_VICTORY_WORDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("territory", ("territory",)),
    ("elimination", ("elimination", "ring")),
    ("lps", ("lps", "last_player")),
    ("stalemate", ("stalemate",)),
    ("timeout", ("timeout",)),
)
_ENGINE_WORDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("gumbel_mcts", ("gumbel",)),
    ("mcts", ("mcts",)),
    ("policy_only", ("policy",)),
    ("descent", ("descent",)),
    ("heuristic", ("heuristic", "gpu")),
)
_OPPONENT_WORDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("random", ("random",)),
    ("heuristic", ("heuristic",)),
    ("mcts", ("mcts",)),
    ("gumbel_mcts", ("gumbel",)),
    ("neural", ("neural", "nn")),
)


def _first_match(text: object, table: tuple[tuple[str, tuple[str, ...]], ...], default: str) -> str:
    lowered = str(text).lower()
    return next((name for name, words in table if any(word in lowered for word in words)), default)


def victory_type(row: Mapping[str, Any]) -> str:
    """How the game was won, from the recorded termination reason."""
    return _first_match(row.get("victory_type", row.get("termination_reason", "unknown")), _VICTORY_WORDS, "other")


def engine_mode(row: Mapping[str, Any]) -> str:
    """RingRift derives it from `source` and not from the engine_mode column; kept alike."""
    return _first_match(row.get("source") or "", _ENGINE_WORDS, "unknown")


def opponent_type(row: Mapping[str, Any]) -> str:
    """The recorded opponent, or what the source suggests."""
    return row.get("opponent_type") or _first_match(row.get("source") or "", _OPPONENT_WORDS, "unknown")


def elo(row: Mapping[str, Any], *columns: str) -> float:
    """The first of the columns that holds a number; 1500 stands for unknown."""
    for column in columns:
        value = row.get(column)
        if isinstance(value, int | float):
            return float(value)
    return 1500.0


def quality_score(row: Mapping[str, Any], moves: int) -> float:
    """RingRift's game quality in 0..1: outcome .25, length .25, phase balance .2, diversity .15, source .15."""
    winner = row.get("winner")
    outcome = 1.0 if winner is not None and winner != -1 else 0.3
    if moves < 10:
        length = 0.0
    elif moves > 200:
        length = 0.8
    else:
        length = 1.0 - abs(moves - 80) / 120 * 0.5
    source = 0.8 if row.get("source") else 0.5
    score = 0.25 * outcome + 0.25 * length + 0.2 * 0.7 + 0.15 * 0.7 + 0.15 * source
    return max(0.0, min(1.0, score))
