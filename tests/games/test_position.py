"""Positions read from RingRift's states, in the form of records and in that of its TypeScript engine."""

from __future__ import annotations

import itertools
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from ringrift_dagster.games.config import Config
from ringrift_dagster.games.database import GameDatabase, GameRecord
from ringrift_dagster.games.fingerprint import fingerprint
from ringrift_dagster.games.geometry import coordinates, topology
from ringrift_dagster.games.moves import PackedMoves, pack
from ringrift_dagster.games.position import Position, UnreadableState, read_position
from ringrift_dagster.games.replay import positions
from tests.games.serialized_states import read_serialized_state

REMEMBERED = (
    "last_player", "last_to", "region_pending", "acted", "recovered", "first_moved", "second_moved", "swapped",
)  # fmt: skip


def serialized(state: dict[str, Any]) -> dict[str, Any]:
    """A recorded state in the form in which RingRift's TypeScript engine writes it."""
    board = state["board"]
    stacks = {key: {**stack, "rings": stack["rings"][::-1]} for key, stack in board["stacks"].items()}
    chain = state["chainCaptureState"]
    return {
        **{key: value for key, value in state.items() if key not in ("boardType", "chainCaptureState")},
        "board": {**board, "stacks": stacks},
        **({"chainCapturePosition": chain["currentPosition"]} if chain else {}),
    }


def prepared(record: GameRecord) -> tuple[Config, Position, PackedMoves]:
    config, start = read_position(orjson.loads(record.initial_state or b""))
    start.loose_placement = 1  # one of the games needs it
    return config, start, pack([move.record for move in record.moves], coordinates(config.board))


def recorded_states(path: Path) -> dict[str, dict[int, dict[str, Any]]]:
    """Game id to number of moves played to the state recorded then."""
    states: dict[str, dict[int, dict[str, Any]]] = {}
    with closing(sqlite3.connect(path)) as connection:
        for game, number, text in connection.execute(
            "SELECT game_id, move_number, CAST(state_json AS BLOB) FROM game_state_snapshots WHERE compressed = 0"
        ):
            states.setdefault(game, {})[number + 1] = orjson.loads(text)
    return states


@pytest.mark.parametrize("name", ["canonical_square8_2p", "canonical_hex8_2p", "canonical_square8_4p"])
def test_both_forms_of_a_state_are_the_position_that_the_replay_reaches(name: str, recorded: Callable[[str], Path]) -> None:
    states = recorded_states(recorded(name))
    compared = 0
    with GameDatabase(recorded(name)) as database:
        for record in database.games():
            config, start, moves = prepared(record)
            tables = topology(config.board)
            for played, position in enumerate(positions(config, start, moves)):
                if (state := states.get(record.game_id, {}).get(played)) is None:
                    continue
                for found, read in (read_position(state), read_serialized_state(serialized(state))):
                    assert found == config
                    assert fingerprint(tables, read) == fingerprint(tables, position)
                    assert (read.must_move, read.chain) == (position.must_move, position.chain)
                compared += 1
    assert compared > 20


@pytest.mark.parametrize("name", ["canonical_square8_2p", "square8_2p_swap", "square8_4p_1", "hex8_3p_0"])
def test_a_move_history_tells_what_the_rules_remember_of_the_moves(name: str, recorded: Callable[[str], Path]) -> None:
    seen: Counter[str] = Counter()
    with GameDatabase(recorded(name)) as database:
        for record in itertools.islice(database.games(), 1):
            state = orjson.loads(record.initial_state or b"")
            for played, position in enumerate(positions(*prepared(record))):
                history = [move.record for move in record.moves[:played]]
                _, read = read_serialized_state({**state, "moveHistory": history})
                remembered = {field: int(read[field]) for field in REMEMBERED}
                assert remembered == {field: int(position[field]) for field in REMEMBERED}, (record.game_id, played)
                assert np.array_equal(read.region, position.region)
                seen.update(field for field in REMEMBERED if remembered[field])
    assert seen.keys() >= {"last_player", "last_to", "region_pending", "acted", "first_moved", "second_moved"}
    assert ("swapped" in seen) == (name == "square8_2p_swap")


MALFORMED: dict[str, dict[str, Any]] = {
    "a chain off the board": {"chainCapturePosition": {"x": 8, "y": 0}},
    "a chain that is no cell": {"chainCapturePosition": [0, 0]},
    "no history": {"moveHistory": None},
    "a history of something else": {"moveHistory": [{"type": "place_ring"}]},
    "a history of a third player": {"moveHistory": [{"type": "place_ring", "player": 3, "to": {"x": 0, "y": 0}}]},
    "a region off the board": {
        "moveHistory": [
            {"type": "choose_territory_option", "player": 1, "disconnectedRegions": [{"spaces": [{"x": 0, "y": 8}]}]},
        ]
    },
    "no board": {"board": None},
    "an unknown board": {"board": {"type": "square9", "stacks": {}, "markers": {}, "collapsedSpaces": {}}},
    "rings that are no list": {"board": {"type": "square8", "stacks": {"0,0": {"rings": 1}}, "markers": {}, "collapsedSpaces": {}}},
    "rings of nobody": {"board": {"type": "square8", "stacks": {"0,0": {"rings": "12"}}, "markers": {}, "collapsedSpaces": {}}},
}


@pytest.mark.parametrize("changes", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_state_is_unreadable(changes: dict[str, Any], one_game: GameRecord) -> None:
    state = orjson.loads(one_game.initial_state or b"")
    assert read_serialized_state(state)[0].key == "square8_2p"
    with pytest.raises(UnreadableState):
        read_serialized_state({**state, **changes})


@pytest.mark.parametrize("seat", [-1, 3, 10**12, 1.5, True, "1", [1]], ids=str)
@pytest.mark.parametrize("name", ["winner", "lpsCurrentRoundFirstPlayer", "lpsConsecutiveExclusivePlayer"])
def test_a_seat_that_does_not_exist_is_unreadable(name: str, seat: Any, one_game: GameRecord) -> None:
    """Compiled rules use seats as indices and check no bounds."""
    state = orjson.loads(one_game.initial_state or b"")
    for absent in (None, 0):
        assert read_position({**state, name: absent})[0].key == "square8_2p"
    with pytest.raises(UnreadableState):
        read_position({**state, name: seat})


@pytest.mark.parametrize("in_hand", [-1, 10**6, 2**62])
def test_more_rings_than_any_game_has_are_unreadable(in_hand: int, one_game: GameRecord) -> None:
    """A stack of them all would not fit into a position."""
    state = orjson.loads(one_game.initial_state or b"")
    first, second = state["players"]
    with pytest.raises(UnreadableState):
        read_position({**state, "players": [{**first, "ringsInHand": in_hand}, second]})
    full = {"rings": [1] * 288, "stackHeight": 288, "capHeight": 288, "controllingPlayer": 1, "position": {"x": 0, "y": 0}}
    with pytest.raises(UnreadableState):
        read_position({**state, "board": {**state["board"], "stacks": {"0,0": full, "1,1": full}}})


def test_the_recorded_form_reads_no_history(one_game: GameRecord) -> None:
    """The gate starts replays from this form, and what a start has of a history decides nothing."""
    state = orjson.loads(one_game.initial_state or b"")
    _, start = read_position(state)
    _, with_history = read_position({**state, "moveHistory": [move.record for move in one_game.moves]})
    assert with_history.tobytes() == start.tobytes()
