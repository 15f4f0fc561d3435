"""Recorded games as games that were just played: what a recorder is given."""

from __future__ import annotations

from datetime import datetime

import orjson

from ringrift_dagster.games.database import GameRecord
from ringrift_dagster.games.geometry import coordinates
from ringrift_dagster.games.moves import pack
from ringrift_dagster.games.position import LOOSE_PLACEMENT, read_position
from ringrift_dagster.games.recording import PlayedGame, Seat

RECORDED = (
    "canonical_square8_2p", "canonical_square8_2p_mixed22", "canonical_square8_3p", "canonical_square8_4p",
    "canonical_hex8_2p", "canonical_square19_2p", "canonical_hexagonal_2p", "square8_2p_full", "square8_2p_swap",
    "square8_2p_probs", "square8_2p_resign", "square8_3p_1", "square8_4p_1", "hex8_2p_swap", "hex8_3p_0", "hex8_4p_0",
    "square19_3p_0", "square19_4p_0", "hexagonal_3p_0", "hexagonal_4p_0",
)  # fmt: skip
"""The databases of `tests/data/db`."""


def played(record: GameRecord) -> PlayedGame:
    """The game as its generator would hand it over; seats and times as they were recorded."""
    state = orjson.loads(record.initial_state or b"")
    config, start = read_position(state)
    metadata = orjson.loads(record.row["metadata_json"])
    return PlayedGame(
        game_id=record.game_id,
        config=config,
        swap_rule=bool(start.swap_rule),
        moves=pack([move.record for move in record.moves], coordinates(config.board)),
        players=tuple(
            Seat(metadata.get(f"player_{seat}_ai_type", "random"), metadata.get(f"player_{seat}_difficulty"), seed=seat)
            for seat in range(1, config.players + 1)
        ),
        started=datetime.fromisoformat(record.row["created_at"]),
        finished=datetime.fromisoformat(record.row["completed_at"]),
        seed=7,
        variant=LOOSE_PLACEMENT,  # two of the games need it, and it allows what the rule does
        probabilities={move: orjson.loads(value) for move, value in record.probabilities.items()},
        metadata={"engine_version": "test"},
    )
