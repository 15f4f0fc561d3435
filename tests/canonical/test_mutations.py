"""Real games with one thing changed: the gate catches it, or what it accepts is itself a legal and consistent game.

The proof that an accepted game is one does not ask what the gate asks (is this move legal?) but takes every move from the list of
all legal moves of its position, and compares the position that follows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringrift_dagster.canonical.gate import REASONS, GameVerdict, Gate
from ringrift_dagster.games import moves as m
from ringrift_dagster.games.config import Config
from ringrift_dagster.games.database import GameDatabase, GameRecord, MoveRow
from ringrift_dagster.games.fingerprint import buffer_for, hash_position, hash_text_of
from ringrift_dagster.games.geometry import NO_CELL, coordinates, topology
from ringrift_dagster.games.moves import MOVE_TYPES, PHASES, MoveType, PackedMoves, Phase, pack
from ringrift_dagster.games.position import COMPLETED, RULE, Position, empty_position
from ringrift_dagster.games.rules.legality import ALWAYS_ALLOWED
from ringrift_dagster.games.rules.listing import MoveBuffers, buffers, list_moves
from ringrift_dagster.games.rules.turns import play

EXAMPLES = 500
"""Changed games altogether, evenly of each kind."""

DATABASES = (
    "canonical_square8_2p", "canonical_square8_2p_mixed22", "square8_2p_resign", "square8_2p_swap", "square8_2p_probs",
    "canonical_square8_4p", "square8_3p_1", "hex8_2p_swap", "hex8_3p_0",
)  # fmt: skip
WITHOUT_PLACE = frozenset(
    {MoveType.SWAP_SIDES, MoveType.CHOOSE_TERRITORY_OPTION} | {kind for kind in MoveType if kind.name.startswith(("SKIP_", "NO_"))}
)
"""Types whose `to` decides nothing: it is missing, (0, 0) or some cell of the region."""


@dataclass(frozen=True)
class Mutant:
    """A changed record, and the first move that says something else."""

    record: GameRecord
    first: int | None = None


Change = Callable[[st.DataObject, GameRecord], Mutant]


def with_move(game: GameRecord, index: int, **columns: Any) -> Mutant:
    """The record with other `columns` of one move; `record` among them is the move's JSON."""
    moves = list(game.moves)
    moves[index] = replace(moves[index], **columns)
    return Mutant(replace(game, moves=moves), index)


def with_json(move: MoveRow, **fields: Any) -> dict[str, Any]:
    return {**move.record, **fields}


def other(data: st.DataObject, present: Any, values: st.SearchStrategy[Any]) -> Any:
    """Any of `values` but the present one."""
    return data.draw(values.filter(lambda value: value != present))


def some_index(data: st.DataObject, record: GameRecord) -> int:
    """A move's index; the last ones are likelier, since more of the games changed there end as they did."""
    return len(record.moves) - 1 - data.draw(st.integers(0, len(record.moves) - 1))


def change_move(data: st.DataObject, record: GameRecord) -> Mutant:
    """Another type, place or list of cells in one move."""
    index = some_index(data, record)
    move = record.moves[index]
    names = [name for name in ("to", "from", "captureTarget", *LISTS) if move.record.get(name)]
    field = data.draw(st.sampled_from(["type", *names]))
    if field == "type":
        kind = other(data, move.kind, st.sampled_from([*MOVE_TYPES, "teleport"]))
        return with_move(record, index, kind=kind, record=with_json(move, type=kind))
    value = move.record[field]
    if field in LISTS:
        changed = orjson.loads(orjson.dumps(value))
        cells = LISTS[field](changed)
        del cells[data.draw(st.integers(0, len(cells) - 1))]
        return with_move(record, index, record=with_json(move, **{field: changed}))
    axis = data.draw(st.sampled_from(["x", "y"]))
    cell = {**value, axis: other(data, value[axis], st.integers(-4, 8))}
    return with_move(record, index, record=with_json(move, **{field: cell}))


LISTS: dict[str, Callable[[Any], list[Any]]] = {
    "disconnectedRegions": lambda value: value[0]["spaces"],
    "formedLines": lambda value: value[0]["positions"],
    "collapsedMarkers": lambda value: value,
    "extractionStacks": lambda value: value,
}


def change_player(data: st.DataObject, record: GameRecord) -> Mutant:
    """Another player in one move: in its column, in its JSON, or in both."""
    index = some_index(data, record)
    move = record.moves[index]
    player = other(data, move.player, st.integers(0, 5))
    column, json = {"player": player}, {"record": with_json(move, player=player)}
    return with_move(record, index, **data.draw(st.sampled_from([column, json, {**column, **json}])))


def change_phase(data: st.DataObject, record: GameRecord) -> Mutant:
    """Another phase in one move: in its column, in its JSON, or in both."""
    index = some_index(data, record)
    move = record.moves[index]
    phase = other(data, move.phase, st.sampled_from([*PHASES, "afterwards"]))
    column, json = {"phase": phase}, {"record": with_json(move, phase=phase)}
    return with_move(record, index, **data.draw(st.sampled_from([column, json, {**column, **json}])))


def change_order(data: st.DataObject, record: GameRecord) -> Mutant:
    """One move missing, twice, or in another place, numbered on or not; or another number."""
    moves = list(record.moves)
    change = data.draw(st.sampled_from(["exchange", "removal", "repetition", "number"]))
    index = some_index(data, record)
    if change == "exchange":
        index = min(index, len(moves) - 2)
        moves[index], moves[index + 1] = moves[index + 1], moves[index]
    elif change == "removal":
        del moves[index]
    elif change == "repetition":
        moves.insert(index, moves[index])
    else:
        moves[index] = replace(moves[index], number=other(data, index, st.integers(-1, len(moves))))
    if change != "number" and data.draw(st.booleans()):
        moves = [replace(move, number=number) for number, move in enumerate(moves)]
    return Mutant(replace(record, moves=moves), index)


def change_result(data: st.DataObject, record: GameRecord) -> Mutant:
    """Another winner, number of moves or status."""
    column, values = data.draw(
        st.sampled_from(
            [
                ("winner", st.one_of(st.none(), st.integers(0, 5), st.just("1"))),
                ("total_moves", st.one_of(st.none(), st.integers(0, 400))),
                ("game_status", st.sampled_from(["active", "abandoned", "finished", "", None])),
            ]
        )
    )
    value = other(data, record.row[column], values)
    return Mutant(replace(record, row={**record.row, column: value}))


def change_rings(data: st.DataObject, record: GameRecord) -> Mutant:
    """Another number of rings: placed or eliminated by a move, or at the start."""
    counting = [move for move in record.moves if move.record.get("placementCount") or move.record.get("eliminatedRings")]
    if data.draw(st.booleans()):
        state = orjson.loads(record.initial_state or b"")
        player = data.draw(st.sampled_from(state["players"]))
        field = data.draw(st.sampled_from(["ringsInHand", "eliminatedRings", "territorySpaces"]))
        player[field] = other(data, player[field], st.integers(-1, 40))
        return Mutant(replace(record, initial_state=orjson.dumps(state)))
    move = counting[len(counting) - 1 - data.draw(st.integers(0, len(counting) - 1))]
    if placed := move.record.get("placementCount"):
        count = other(data, placed, st.one_of(st.none(), st.integers(-1, 5)))
        return with_move(record, move.number, record=with_json(move, placementCount=count))
    (eliminated,) = move.record["eliminatedRings"]
    count = other(data, eliminated["count"], st.integers(0, 9))
    return with_move(record, move.number, record=with_json(move, eliminatedRings=[{**eliminated, "count": count}]))


def played(config: Config, position: Position, row: Any, cells: Any) -> Position:
    """A copy of the position after the move, without scratch space and what matters in captures only: where a stack landed."""
    after = position.copy()
    play(topology(config.board), after, row, cells)
    after.out[:] = after.seen[:] = 0
    if after.phase != Phase.CAPTURE:
        after.last_to = NO_CELL
    return after


def is_listed(config: Config, position: Position, after: Position, row: Any, room: MoveBuffers) -> bool:
    """Whether a listed move of the same type and to the same place leads to `after`.

    A line processed as a whole is listed as process_line, and may be recorded as choose_line_option.
    """
    count = list_moves(topology(config.board), position, room.rows, room.cells)
    kind, to = row[m.TYPE], row[m.TO]
    kinds = (kind, MoveType.PROCESS_LINE) if kind == MoveType.CHOOSE_LINE_OPTION else (kind,)
    return any(
        played(config, position, listed, room.cells).tobytes() == after.tobytes()
        for listed in room.rows[:count]
        if listed[m.TYPE] in kinds and (listed[m.TO] == to or kind in WITHOUT_PLACE)
    )


def prove(record: GameRecord, moves: PackedMoves, start: Position, config: Config) -> None:
    """Every move stands in the list of its position, and all that the record claims is what the replay has."""
    tables, room, buffer = topology(config.board), buffers(config.board), buffer_for(topology(config.board))
    claims = {claim.played: claim.value for claim in record.hashes}
    position = start
    for index, (move, row) in enumerate(zip(record.moves, moves.rows, strict=True)):
        phase = Phase(int(position.phase)).name.lower()
        assert move.number == index
        assert move.player == move.record["player"] == position.player
        assert move.kind == move.record["type"]
        assert move.record.get("phase") in (phase, None)
        assert move.phase in (phase, None) or move.record.get("phase") is None, "only where the JSON has no phase"
        assert claims.get(index) in (None, hash_text_of(int(hash_position(tables, position, buffer))))
        after = played(config, position, row, moves.cells)
        resigning = position.status != COMPLETED and row[m.TYPE] in ALWAYS_ALLOWED
        assert resigning or is_listed(config, position, after, row, room), f"move {index} is not in the list"
        position = after
    assert claims.get(len(moves)) in (None, hash_text_of(int(hash_position(tables, position, buffer))))
    assert max(claims, default=0) <= len(moves)
    assert record.finished
    assert position.status == COMPLETED
    assert (int(position.winner) or None) == record.row["winner"]
    assert record.row["total_moves"] in (None, len(moves))


CAUGHT: dict[Change, set[str]] = {
    change_move: {"phase_contract", "illegal_move", "state_hash_mismatch"},
    change_player: {"illegal_move"},
    change_phase: {"phase_contract"},
    change_order: {"noncontiguous_moves", "illegal_move", "state_hash_mismatch", "result_mismatch"},
    change_result: {"unfinished", "result_mismatch"},
    change_rings: {"wrong_config", "illegal_move", "state_hash_mismatch"},
}
"""Kinds of changes, with reasons for which some are rejected."""


@pytest.fixture(scope="module")
def games(recorded: Callable[[str], Path]) -> list[GameRecord]:
    """The shortest game of each database."""
    shortest = []
    for name in DATABASES:
        with GameDatabase(recorded(name)) as database:
            shortest.append(min(database.games(), key=lambda record: len(record.moves)))
    return shortest


def judge_and_prove(record: GameRecord) -> GameVerdict:
    """The verdict on a record; a canonical one is proven."""
    judged = Gate().judge(record)
    if judged.verdict.reason is None:
        assert judged.config is not None
        start = empty_position(judged.config, swap_rule=judged.swap_rule, variant=judged.verdict.variant or RULE)
        moves = pack([move.record for move in record.moves], coordinates(judged.config.board))
        prove(record, moves, start, judged.config)
    return judged.verdict


def test_the_games_themselves_are_proven(games: list[GameRecord]) -> None:
    assert [judge_and_prove(record).reason for record in games] == [None] * len(DATABASES)


@pytest.mark.parametrize("change", CAUGHT, ids=lambda change: change.__name__)
def test_a_changed_game_is_caught_or_is_itself_a_game(change: Change, games: list[GameRecord]) -> None:
    outcomes: Counter[str] = Counter()

    @settings(max_examples=-(-EXAMPLES // len(CAUGHT)), derandomize=True, database=None, deadline=None)
    @given(data=st.data())
    def judge_one_change(data: st.DataObject) -> None:
        record = games[data.draw(st.integers(0, len(games) - 1), label="game")]
        if data.draw(st.booleans(), label="without hashes"):  # then the rules alone have to catch it
            record = replace(record, hashes=[])
        mutant = change(data, record)
        assert mutant.record != record
        verdict = judge_and_prove(mutant.record)
        if mutant.first is not None and verdict.move_number is not None and verdict.reason != "result_mismatch":
            assert verdict.move_number >= mutant.first, "a move before the change is blamed"
        outcomes[verdict.reason or "canonical"] += 1

    judge_one_change()
    assert outcomes.keys() >= CAUGHT[change]
    assert outcomes.keys() <= {"canonical", *REASONS}
