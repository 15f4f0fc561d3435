"""Positions: everything that the rules need to know about a game at one moment, as one record.

Reading RingRift's state JSON into a position belongs here. What moves do to positions is in `rules`, the text that identifies
a position in `fingerprint`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from ringrift_dagster.games.config import BOARDS, LPS_ROUNDS_REQUIRED, PLAYER_COUNTS, Config
from ringrift_dagster.games.geometry import NO_CELL, coordinates
from ringrift_dagster.games.moves import PHASES, Phase

SEATS = 5
"""Arrays by player have this length; players count from 1 and entry 0 stays unused."""

STATUSES = ("active", "completed", "abandoned")
ACTIVE, COMPLETED, ABANDONED = range(3)

RULE, LOOSE_PLACEMENT = "rule", "loose_placement"
VARIANTS = (RULE, LOOSE_PLACEMENT)
"""Rule variants, in the order in which the gate tries them. Games were recorded under both (docs/decisions/0018).

RULE is what the specification says. LOOSE_PLACEMENT has the shortcuts of RingRift's Python engine in ring placement: fewer rings
than the highest legal number may be placed, and placement may be skipped for a stack that could only land on another stack.
"""

_CELLS = max(board.cells for board in BOARDS.values())
_TALLEST = max(board.rings_per_player for board in BOARDS.values()) * max(PLAYER_COUNTS)
_BY_CELL = (_CELLS,)
_BY_SEAT = (SEATS,)

POSITION = np.dtype(
    [
        ("rings", np.uint8, (_CELLS, _TALLEST)),  # ring owners, bottom first
        ("height", np.int64, _BY_CELL),
        ("cap", np.int64, _BY_CELL),  # rings of the owner's colour on top
        ("owner", np.int64, _BY_CELL),  # who controls the stack; 0 = no stack
        ("stamp", np.int64, _BY_CELL),  # order in which the stacks came to stand where they are
        ("marker", np.int64, _BY_CELL),  # owner of the marker; 0 = none
        ("collapsed", np.int64, _BY_CELL),  # owner of the collapsed space; 0 = none
        ("region", np.int64, _BY_CELL),  # 1 = in the region that the last move processed
        ("out", np.int64, _BY_CELL),  # scratch space
        ("seen", np.int64, _BY_CELL),  # scratch space
        ("hand", np.int64, _BY_SEAT),  # rings not yet placed
        ("eliminated", np.int64, _BY_SEAT),  # rings credited to the player
        ("territory", np.int64, _BY_SEAT),
        ("on_board", np.int64, _BY_SEAT),  # rings in stacks, buried ones included
        ("lps_mask", np.int64, _BY_SEAT),  # 0 = not seen this round, 1 = had no real action, 2 = had one
    ]
    + [
        (name, np.int64)
        for name in (
            "cells",
            "players",
            "player",
            "phase",
            "status",
            "winner",  # 0 = none
            "pending_line",  # a line reward still has to be paid for with a ring (R123)
            "must_move",  # the stack that a placement obliges to move, or NO_CELL
            "chain",  # where a capture chain stands, or NO_CELL
            "lps_first",  # last-player-standing bookkeeping (R172)
            "lps_rounds",
            "lps_player",
            "last_player",  # of the last move; 0 = no move yet
            "last_to",
            "region_pending",  # the last move processed a region, which has to be paid for (R145)
            "acted",  # the last mover changed the board in the present run of moves
            "recovered",  # … and did so by a recovery slide
            "first_moved",  # player 1 has moved; with the two below: may player 2 still swap sides? (R180)
            "second_moved",
            "swapped",
            "swap_rule",
            "next_stamp",
            "line_length",
            "rings_per_player",
            "victory_threshold",
            "territory_minimum",
            "lps_required",
            "loose_placement",  # 1 = the variant is LOOSE_PLACEMENT
        )
    ],
    align=True,
)
"""A position is one record of this type, the same for every board, and (but for the rings) all integers of one width: so the
rules compile once. Rules change it in place."""

Position: TypeAlias = Any
"""A record of POSITION."""


class UnreadableState(ValueError):
    """A state that is not of RingRift's shape."""


def blank_position() -> Position:
    """A position record of zeros, to be filled in or used as scratch space."""
    return np.zeros(1, dtype=POSITION).view(np.recarray)[0]


def empty_position(config: Config, *, swap_rule: bool = False, variant: str = RULE) -> Position:
    """The position in which a canonical game of `config` starts; `variant` is one of VARIANTS."""
    spec = config.spec
    position = blank_position()
    position.hand[1 : config.players + 1] = spec.rings_per_player
    position.cells = spec.cells
    position.players = config.players
    position.player = 1
    position.phase = Phase.RING_PLACEMENT
    position.must_move = position.chain = position.last_to = NO_CELL
    position.line_length = config.line_length
    position.rings_per_player = spec.rings_per_player
    position.victory_threshold = config.victory_threshold
    position.territory_minimum = config.territory_threshold
    position.lps_required = LPS_ROUNDS_REQUIRED
    position.swap_rule = swap_rule
    position.loose_placement = variant == LOOSE_PLACEMENT
    return position


def canonical_start(config: Config, recorded: Position) -> Position | None:
    """The canonical starting position with the swap rule of `recorded`; None unless `recorded` is equal to it.

    `lps_mask`, which is cleared in `recorded`, does not count: recorded games begin with a leftover there, and with no round under
    way it decides nothing.
    """
    start = empty_position(config, swap_rule=bool(recorded.swap_rule))
    recorded.lps_mask[:] = 0
    return start if recorded.tobytes() == start.tobytes() else None


def read_position(state: Mapping[str, Any]) -> tuple[Config, Position]:
    """A position from RingRift's state JSON.

    Raises UnreadableState when the state is malformed or no position of its board. The move history inside the state is
    not read: the position is where a replay may start (the initial state, or one between two turns).
    """
    try:
        board = state["board"]
        config = Config(_one_of(state["boardType"], BOARDS), len(state["players"]))
        if board["type"] != config.board or config.players not in PLAYER_COUNTS:
            raise ValueError("board and players fit no config")
        position = empty_position(config)
        at = coordinates(config.board)
        for key, stack in board["stacks"].items():
            _put_stack(position, at.cell_of_key[key], stack["rings"], config)
        for key, marker in board["markers"].items():
            position.marker[at.cell_of_key[key]] = _seat(marker["player"], config)
        for key, owner in board["collapsedSpaces"].items():
            position.collapsed[at.cell_of_key[key]] = _seat(owner, config)
        for seat, player in enumerate(state["players"], start=1):
            if player["playerNumber"] != seat:
                raise ValueError("players are not numbered in order")
            position.hand[seat] = player["ringsInHand"]
            position.eliminated[seat] = player["eliminatedRings"]
            position.territory[seat] = player["territorySpaces"]
        if position.hand.min() < 0 or sum(position.hand.tolist()) + int(position.height.sum()) > _TALLEST:
            raise ValueError("an impossible number of rings")
        position.player = _seat(state["currentPlayer"], config)
        position.phase = PHASES[state["currentPhase"]]
        position.status = STATUSES.index(state["gameStatus"])
        position.winner = _seat_or_none(state.get("winner"), config)
        position.pending_line = bool(state.get("pendingLineRewardElimination"))
        position.victory_threshold = state["victoryThreshold"]
        minimum = state.get("territoryVictoryMinimum")
        position.territory_minimum = state["territoryVictoryThreshold"] if minimum is None else minimum
        position.lps_required = state.get("lpsRoundsRequired", LPS_ROUNDS_REQUIRED)
        position.lps_first = _seat_or_none(state.get("lpsCurrentRoundFirstPlayer"), config)
        position.lps_rounds = state.get("lpsConsecutiveExclusiveRounds") or 0
        position.lps_player = _seat_or_none(state.get("lpsConsecutiveExclusivePlayer"), config)
        for seat, real in (state.get("lpsCurrentRoundActorMask") or {}).items():
            position.lps_mask[_seat(int(seat), config)] = 2 if real else 1
        if (key := state.get("mustMoveFromStackKey")) is not None:
            position.must_move = at.cell_of_key[key]
        if (chain := state.get("chainCaptureState")) is not None:
            standing = chain["currentPosition"]
            position.chain = at.cell_of[(standing["x"], standing["y"])]
        position.swap_rule = bool((state.get("rulesOptions") or {}).get("swapRuleEnabled"))
    except (KeyError, TypeError, AttributeError, ValueError, IndexError, OverflowError) as error:
        raise UnreadableState(f"{type(error).__name__}: {error}"[:200]) from error
    return config, position


def _put_stack(position: Position, cell: int, rings: list[int], config: Config) -> None:
    if not 0 < len(rings) <= _TALLEST:
        raise ValueError("a stack of impossible height")
    owners = [_seat(ring, config) for ring in rings]
    position.rings[cell, : len(owners)] = owners
    position.height[cell] = len(owners)
    position.owner[cell] = owners[-1]
    position.cap[cell] = next((i for i, ring in enumerate(reversed(owners)) if ring != owners[-1]), len(owners))
    position.stamp[cell] = position.next_stamp
    position.next_stamp += 1
    for ring in owners:
        position.on_board[ring] += 1


def _seat(player: object, config: Config) -> int:
    if type(player) is not int or not 1 <= player <= config.players:
        raise ValueError(f"no such player: {str(player)[:20]!r}")
    return player


def _seat_or_none(player: object, config: Config) -> int:
    return _seat(player, config) if player else 0


def _one_of(value: str, known: Mapping[str, Any]) -> str:
    if value not in known:
        raise ValueError(f"unknown board: {str(value)[:40]!r}")
    return value
