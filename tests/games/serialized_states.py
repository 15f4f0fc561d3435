"""States as RingRift's TypeScript engine serialises them: the form of its contract vectors, which no recorded game has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ringrift_dagster.games import moves as m
from ringrift_dagster.games.config import Config
from ringrift_dagster.games.geometry import coordinates
from ringrift_dagster.games.moves import MoveType, PackedMoves, pack
from ringrift_dagster.games.position import Position, UnreadableState, read_position


def read_serialized_state(state: Mapping[str, Any]) -> tuple[Config, Position]:
    """A position from a state as RingRift's TypeScript engine serialises it (`serializeGameState`), in mid-turn too.

    Differs from the recorded form in that the board names the board type, rings are listed top first, and a chain of captures is
    `chainCapturePosition`; and `moveHistory` is read for what the rules remember of the moves before. Raises UnreadableState.
    """
    try:
        board = state["board"]
        stacks = {key: {"rings": stack["rings"][::-1]} for key, stack in board["stacks"].items()}
        config, position = read_position({**state, "boardType": board["type"], "board": {**board, "stacks": stacks}})
        at = coordinates(config.board)
        if (standing := state.get("chainCapturePosition")) is not None:
            position.chain = at.cell_of[(standing["x"], standing["y"])]
        _remember_moves(position, pack(state["moveHistory"], at), config)
    except UnreadableState:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UnreadableState(f"{type(error).__name__}: {error}"[:200]) from error
    return config, position


_NO_ACTION = frozenset(
    {
        MoveType.NO_PLACEMENT_ACTION,
        MoveType.NO_MOVEMENT_ACTION,
        MoveType.NO_LINE_ACTION,
        MoveType.NO_TERRITORY_ACTION,
        MoveType.SKIP_PLACEMENT,
        MoveType.SKIP_TERRITORY_PROCESSING,
        MoveType.SKIP_CAPTURE,
        MoveType.SKIP_RECOVERY,
    }
)


def _remember_moves(position: Position, moves: PackedMoves, config: Config) -> None:
    """Set what `rules.turns.play` would have kept of `moves`, except the stack that must move: states name that one."""
    for row in moves.rows.tolist():
        kind, player = row[m.TYPE], row[m.PLAYER]
        if not 1 <= player <= config.players:
            raise ValueError(f"no such player: {player}")
        if player != position.last_player:
            position.acted = position.recovered = 0
        position.last_player, position.last_to = player, row[m.TO]
        position.acted |= kind not in _NO_ACTION
        position.recovered |= kind == MoveType.RECOVERY_SLIDE
        position.swapped |= kind == MoveType.SWAP_SIDES
        position.first_moved |= kind != MoveType.SWAP_SIDES and player == 1
        position.second_moved |= kind != MoveType.SWAP_SIDES and player == 2
    if len(moves) and moves.rows[-1, m.TYPE] == MoveType.CHOOSE_TERRITORY_OPTION:
        start, length = moves.rows[-1, [m.FIRST, m.FIRST_LENGTH]]
        region = moves.cells[start : start + length]
        if (region < 0).any():
            raise ValueError("a region that is off the board")
        position.region_pending = 1
        position.region[region] = 1
