"""RingRift's state JSON from positions: the inverse of `position.read_position`.

Sources: RingRift's `GameState` model (`app/models/core.py`) and `create_initial_state` (`app/training/initial_state.py`), whose
constants (time control, names of players) the states carry because its readers require them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ringrift_dagster.games.config import Config
from ringrift_dagster.games.geometry import NO_CELL, coordinates
from ringrift_dagster.games.move_records import points
from ringrift_dagster.games.moves import PHASE_NAMES
from ringrift_dagster.games.position import STATUSES, Position

Capture = tuple[int, int, int]
"""Origin, target and landing cell."""

_SECONDS_TO_THINK = 600


def state_json(
    config: Config,
    position: Position,
    *,
    created: str,
    last_move: str,
    difficulties: Sequence[int | None] | None = None,
    captures: Sequence[Capture] = (),
) -> dict[str, Any]:
    """A position as RingRift's GameState; `read_position` gives it back with the same fingerprint.

    `created` and `last_move` are ISO times, `difficulties` those of the players in order, `captures` the ones that the chain
    under way consists of so far. The move history stays empty: no reader of stored states needs it, and with it states grow
    with the length of the game.
    """
    seats = range(1, config.players + 1)
    eliminated = {str(seat): int(position.eliminated[seat]) for seat in seats if position.eliminated[seat]}
    keys = coordinates(config.board).key_of
    # Swapping sides swaps who the players are, not what they have (R180).
    names = {1: 2, 2: 1} if position.swapped else {}
    return {
        "id": "self-play",
        "boardType": config.board,
        "rngSeed": None,
        "board": _board(config, position, eliminated),
        "players": [
            {
                "id": f"p{names.get(seat, seat)}",
                "username": f"AI {names.get(seat, seat)}",
                "type": "ai",
                "playerNumber": seat,
                "isReady": True,
                "timeRemaining": _SECONDS_TO_THINK,
                "aiDifficulty": difficulties[seat - 1] if difficulties else None,
                "ringsInHand": int(position.hand[seat]),
                "eliminatedRings": int(position.eliminated[seat]),
                "territorySpaces": int(position.territory[seat]),
            }
            for seat in seats
        ],
        "currentPhase": PHASE_NAMES[position.phase],
        "currentPlayer": int(position.player),
        "moveHistory": [],
        "timeControl": {"initialTime": _SECONDS_TO_THINK, "increment": 0, "type": "blitz"},
        "spectators": [],
        "gameStatus": STATUSES[position.status],
        "winner": int(position.winner) or None,
        "createdAt": created,
        "lastMoveAt": last_move,
        "isRated": False,
        "maxPlayers": config.players,
        "totalRingsInPlay": config.spec.rings_per_player * config.players,
        "totalRingsEliminated": sum(eliminated.values()),
        "victoryThreshold": int(position.victory_threshold),
        "territoryVictoryThreshold": int(position.territory_minimum),
        "territoryVictoryMinimum": None,
        "chainCaptureState": None if position.chain == NO_CELL else _chain(config, position, captures),
        "mustMoveFromStackKey": None if position.must_move == NO_CELL else keys[position.must_move],
        "zobristHash": None,
        "lpsRoundIndex": 0,
        "lpsCurrentRoundActorMask": {str(seat): bool(position.lps_mask[seat] == 2) for seat in seats if position.lps_mask[seat]},
        "lpsExclusivePlayerForCompletedRound": int(position.lps_player) or None,
        "lpsCurrentRoundFirstPlayer": int(position.lps_first) or None,
        "lpsConsecutiveExclusiveRounds": int(position.lps_rounds),
        "lpsRoundsRequired": int(position.lps_required),
        "lpsConsecutiveExclusivePlayer": int(position.lps_player) or None,
        "rulesOptions": {"swapRuleEnabled": bool(position.swap_rule)} if config.players == 2 else None,
        "pendingLineRewardElimination": bool(position.pending_line),
    }


def _board(config: Config, position: Position, eliminated: dict[str, int]) -> dict[str, Any]:
    where, keys = points(config.board), coordinates(config.board).key_of
    standing = np.flatnonzero(position.height)
    stacks = standing[np.argsort(position.stamp[standing], kind="stable")].tolist()
    return {
        "type": config.board,
        "size": config.spec.size,
        "stacks": {
            keys[cell]: {
                "position": where[cell],
                "rings": position.rings[cell, : position.height[cell]].tolist(),
                "stackHeight": int(position.height[cell]),
                "capHeight": int(position.cap[cell]),
                "controllingPlayer": int(position.owner[cell]),
            }
            for cell in stacks
        },
        "markers": {
            keys[cell]: {"player": int(position.marker[cell]), "position": where[cell], "type": "regular"}
            for cell in np.flatnonzero(position.marker).tolist()
        },
        "collapsedSpaces": {keys[cell]: int(position.collapsed[cell]) for cell in np.flatnonzero(position.collapsed).tolist()},
        "eliminatedRings": eliminated,
        "formedLines": [],
        "territories": {},
    }


def _chain(config: Config, position: Position, captures: Sequence[Capture]) -> dict[str, Any]:
    where, keys = points(config.board), coordinates(config.board).key_of
    return {
        "playerNumber": int(position.player),
        "startPosition": where[captures[0][0] if captures else position.chain],
        "currentPosition": where[position.chain],
        "segments": [
            {"from": where[origin], "target": where[target], "landing": where[landing], "capturedCapHeight": 0}
            for origin, target, landing in captures
        ],
        "availableMoves": [],
        "visitedPositions": [keys[origin] for origin, _, _ in captures],
    }
