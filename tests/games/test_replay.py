"""Recorded games replayed: every hash that RingRift recorded is met, on every board with every number of players.

The databases `*_{swap,probs,resign,0,1}` hold a hash after every single move, made by replaying in RingRift's own engine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringrift_dagster.games import moves as m
from ringrift_dagster.games.config import CONFIG_KEYS, Config
from ringrift_dagster.games.database import GameDatabase, GameRecord
from ringrift_dagster.games.fingerprint import fingerprint, hash_text_of
from ringrift_dagster.games.geometry import coordinates, topology
from ringrift_dagster.games.moves import MoveType, PackedMoves, UnreadableMove, pack
from ringrift_dagster.games.position import Position, UnreadableState, empty_position, read_position
from ringrift_dagster.games.replay import positions, replay
from ringrift_dagster.games.rules.legality import Fault

RECORDED = (
    "canonical_square8_2p", "canonical_square8_2p_mixed22", "canonical_square8_3p", "canonical_square8_4p",
    "canonical_hex8_2p", "canonical_square19_2p", "canonical_hexagonal_2p", "square8_2p_full", "square8_2p_swap",
    "square8_2p_probs", "square8_2p_resign", "square8_3p_1", "square8_4p_1", "hex8_2p_swap", "hex8_3p_0", "hex8_4p_0",
    "square19_3p_0", "square19_4p_0", "hexagonal_3p_0", "hexagonal_4p_0", "square8_2p_collapsed_border",
)  # fmt: skip


def _prepared(record: GameRecord) -> tuple[Config, Position, PackedMoves]:
    config, start = read_position(orjson.loads(record.initial_state or b""))
    start.loose_placement = 1  # one of the games needs it; the others are legal under the rule
    return config, start, pack([move.record for move in record.moves], coordinates(config.board))


@pytest.mark.parametrize("name", RECORDED)
def test_every_recorded_hash_and_result_is_met(name: str, recorded: Callable[[str], Path]) -> None:
    with GameDatabase(recorded(name)) as database:
        for record in database.games():
            config, start, moves = _prepared(record)
            played = replay(config, start, moves, np.ones(len(moves) + 1, dtype=np.uint8))
            assert played.fault is Fault.NONE, (record.game_id, played.played)
            assert record.hashes
            for claim in record.hashes:
                assert hash_text_of(played.hashes[claim.played]) == claim.value, (
                    record.game_id,
                    claim.played,
                )
            assert (int(start.winner) or None) == record.row["winner"]


def test_the_recorded_games_cover_the_configs_and_nearly_every_move(recorded: Callable[[str], Path]) -> None:
    configs: set[str] = set()
    kinds: Counter[str] = Counter()
    modes: set[str] = set()
    for name in RECORDED:
        with GameDatabase(recorded(name)) as database:
            for record in database.games():
                configs.add(record.config_key)
                kinds.update(move.kind or "" for move in record.moves)
                modes.update(move.record["recoveryMode"] for move in record.moves if move.record.get("recoveryMode"))
    assert configs == set(CONFIG_KEYS)
    assert set(kinds) == {kind.name.lower() for kind in MoveType}
    assert modes == {"line", "fallback", "stack_strike"}


def test_a_recorded_state_reads_back_to_the_position_that_the_replay_reaches(
    recorded: Callable[[str], Path],
) -> None:
    import sqlite3

    path = recorded("canonical_hex8_2p")
    states: dict[str, list[tuple[int, bytes]]] = {}
    for game_id, number, state in sqlite3.connect(path).execute(
        "SELECT game_id, move_number, CAST(state_json AS BLOB) FROM game_state_snapshots LIMIT 40"
    ):
        states.setdefault(game_id, []).append((number + 1, state))
    compared = 0
    with GameDatabase(path) as database:
        for record in database.games():
            wanted = dict(states.get(record.game_id, ()))
            for played, position in enumerate(positions(*_prepared(record)) if wanted else ()):
                if played in wanted:
                    config, read = read_position(orjson.loads(wanted[played]))
                    tables = topology(config.board)
                    assert fingerprint(tables, read) == fingerprint(tables, position)
                    compared += 1
    assert compared == 40


def test_rings_are_never_lost(recorded: Callable[[str], Path]) -> None:
    with GameDatabase(recorded("square8_4p_1")) as database:
        for record in database.games():
            config, start, moves = _prepared(record)
            for position in positions(config, start, moves):
                everywhere = position.hand.sum() + position.on_board.sum() + position.eliminated.sum()
                assert everywhere == config.players * config.spec.rings_per_player
                assert position.on_board.sum() == position.height.sum()


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_an_altered_move_is_never_replayed_to_the_recorded_end(data: st.DataObject, one_game: GameRecord) -> None:
    """Change one number of one move: the replay stops there or ends in other hashes, and nothing crashes."""
    config, start, moves = _prepared(one_game)
    rows = moves.rows.copy()
    index = data.draw(st.integers(0, len(rows) - 1))
    column = data.draw(st.sampled_from([m.TYPE, m.PLAYER, m.PHASE, m.ORIGIN, m.TO, m.TARGET, m.COUNT]))
    value = data.draw(st.integers(-9, 70))
    if column == m.TYPE:
        value = min(value, len(MoveType) - 1)
    before = int(rows[index, column])
    rows[index, column] = value
    everywhere = np.ones(len(rows) + 1, dtype=np.uint8)
    honest = replay(config, start, moves, everywhere)
    _, again = read_position(orjson.loads(one_game.initial_state or b""))
    altered = replay(config, again, PackedMoves(rows, moves.cells), everywhere)
    assert np.array_equal(altered.hashes[: index + 1], honest.hashes[: index + 1])
    irrelevant = (
        value == before
        or altered.fault is not Fault.NONE
        or not np.array_equal(altered.hashes, honest.hashes)
        or _decides_nothing(int(rows[index, m.TYPE]), column, before, value)
    )
    assert irrelevant


def _decides_nothing(kind: int, column: int, before: int, value: int) -> bool:
    """Numbers that a move of this type carries without meaning, and a phase that is no longer stated."""
    if column == m.PHASE:
        return value == m.NOT_GIVEN
    carried = {
        MoveType.PLACE_RING: {m.ORIGIN, m.TARGET},
        MoveType.MOVE_STACK: {m.TARGET, m.COUNT},
        MoveType.OVERTAKING_CAPTURE: {m.COUNT},
        MoveType.CONTINUE_CAPTURE_SEGMENT: {m.COUNT},
        MoveType.CHOOSE_TERRITORY_OPTION: {m.ORIGIN, m.TO, m.TARGET, m.COUNT},
        MoveType.RECOVERY_SLIDE: {m.TARGET, m.COUNT},
    }.get(MoveType(kind), {m.ORIGIN, m.TARGET, m.COUNT, m.TO})
    if kind == MoveType.PLACE_RING and column == m.COUNT:
        return {before, value} <= {1, m.NOT_GIVEN}
    return column in carried


def test_resigning_ends_a_two_player_game_for_the_other() -> None:
    config = Config("square8", 2)
    record = {"type": "resign", "player": 1, "phase": "ring_placement"}
    start = empty_position(config)
    played = replay(config, start, pack([record], coordinates("square8")), np.zeros(2, dtype=np.uint8))
    assert (played.fault, int(start.winner)) == (Fault.NONE, 2)


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"type": "place_ring"},
        {"type": "place_ring", "player": "1"},
        {"type": "place_ring", "player": 2**40},
        {"type": "place_ring", "player": 1, "to": 5},
        {"type": "place_ring", "player": 1, "to": {"x": 1}},
        {"type": ["place_ring"], "player": 1},
        {"type": "recovery_slide", "player": 1, "recoveryMode": "other"},
        {"type": "process_line", "player": 1, "formedLines": [{"positions": 7}]},
        {"type": "place_ring", "player": 1, "to": {"x": 1, "y": 1}, "placementCount": -1},
        {"type": "recovery_slide", "player": 1, "recoveryOption": -1},
        {"type": "choose_territory_option", "player": 1, "disconnectedRegions": [{"spaces": [], "controllingPlayer": -1}]},
    ],
)
def test_malformed_records_are_named_by_their_index(record: dict[str, object]) -> None:
    with pytest.raises(UnreadableMove) as error:
        pack([{"type": "resign", "player": 1}, record], coordinates("square8"))
    assert error.value.index == 1


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(record=st.dictionaries(st.sampled_from(["type", "player", "to", "from", "phase", "formedLines"]), _json))
def test_any_json_object_packs_or_is_unreadable(record: dict[str, object]) -> None:
    try:
        assert len(pack([record], coordinates("hex8"))) == 1
    except UnreadableMove as error:
        assert error.index == 0


@given(state=_json)
def test_any_json_is_a_state_or_unreadable(state: object) -> None:
    with pytest.raises(UnreadableState):
        read_position(state)  # type: ignore[arg-type]
