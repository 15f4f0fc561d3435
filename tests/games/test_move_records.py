"""Move records are written as RingRift writes them, and read back as the moves they were written from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringrift_dagster.games import moves as m
from ringrift_dagster.games.config import BOARDS, Config
from ringrift_dagster.games.database import GameDatabase
from ringrift_dagster.games.geometry import NO_CELL, OFF_BOARD, coordinates
from ringrift_dagster.games.move_records import (
    PLACELESS,
    as_recorded,
    move_key,
    move_probabilities,
    move_record,
    move_records,
)
from ringrift_dagster.games.moves import COLUMNS, EliminationContext, MoveType, PackedMoves, Phase, RecoveryMode
from tests.games.played import RECORDED, played

OWN = {"id", "timestamp", "thinkTime", "placedOnStack"}
"""Fields that decide nothing, or that the moves alone do not tell."""


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(part) for name, part in value.items() if part is not None}
    return [_without_nulls(part) for part in value] if isinstance(value, list) else value


def _deciding(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in OWN}


def _equal(one: PackedMoves, other: PackedMoves) -> bool:
    return np.array_equal(one.rows, other.rows) and np.array_equal(one.cells, other.cells)


@pytest.mark.parametrize("name", RECORDED)
def test_records_equal_those_of_ringrift_and_pack_to_the_same_moves(name: str, recorded: Callable[[str], Path]) -> None:
    with GameDatabase(recorded(name)) as database:
        for record in database.games():
            game = played(record)
            for ours, move in zip(move_records(game.config, game.moves), record.moves, strict=True):
                theirs = _without_nulls(move.record)
                if MoveType[ours["type"].upper()] in PLACELESS:
                    theirs["to"] = ours["to"]  # (0, 0) in both, as packing it shows; RingRift leaves the third axis out
                assert _deciding(ours) == _deciding(theirs)
            assert _equal(as_recorded(game.config, game.moves), game.moves)


def _row(kind: MoveType, **columns: int) -> list[int]:
    row = [int(kind), 1, Phase.MOVEMENT, NO_CELL, NO_CELL, NO_CELL, -1, -1, 0, 0, -1, 0, 0, 0, 0]
    for name, value in columns.items():
        row[COLUMNS.index(name)] = value
    return row


def _packed(rows: list[list[int]], cells: list[int]) -> PackedMoves:
    return PackedMoves(np.array(rows, dtype=np.int64).reshape(-1, len(COLUMNS)), np.array(cells, dtype=np.int64))


def test_moves_that_share_listed_cells_are_read_back_with_lists_of_their_own() -> None:
    config = Config("square8", 2)
    rows = [
        _row(MoveType.CHOOSE_TERRITORY_OPTION, first=1, first_length=2, second=0, region_player=1),
        _row(MoveType.PROCESS_LINE, first=0, first_length=3, second=0),
    ]
    recorded = as_recorded(config, _packed(rows, [5, 6, 7]))
    assert recorded.cells.tolist() == [6, 7, 5, 6, 7]
    assert recorded.rows[:, m.FIRST].tolist() == [0, 2]
    assert _equal(as_recorded(config, recorded), recorded)


@pytest.mark.parametrize("kind", sorted(PLACELESS))
@pytest.mark.parametrize("board", BOARDS)
def test_a_move_that_happens_nowhere_is_recorded_at_the_origin(kind: MoveType, board: str) -> None:
    config = Config(board, 2)
    recorded = as_recorded(config, _packed([_row(kind)], []))
    assert recorded.rows[0, m.TO] == coordinates(board).cell_of[(0, 0)]
    assert move_key(config, _row(kind)) == move_key(config, recorded.rows[0].tolist())


@pytest.mark.parametrize("column", ["origin", "to", "target"])
@pytest.mark.parametrize("cell", [OFF_BOARD, 64])
def test_a_cell_off_the_board_is_not_recorded(column: str, cell: int) -> None:
    with pytest.raises(ValueError, match="off the board"):
        move_record(Config("square8", 2), _row(MoveType.MOVE_STACK, **{column: cell}), [], 1)


def test_a_line_carries_its_length_and_direction_for_ringrifts_readers() -> None:
    at = coordinates("hex8").cell_of
    cells = [at[(x, 1)] for x in (-1, 0, 1)]
    record = move_record(Config("hex8", 3), _row(MoveType.PROCESS_LINE, to=cells[0], first_length=3, second=3), cells, 1)
    assert record["formedLines"][0]["direction"] == {"x": 1, "y": 0, "z": -1}
    assert record["formedLines"][0]["length"] == 3


@st.composite
def _games(draw: st.DrawFn) -> tuple[Config, PackedMoves]:
    config = Config(draw(st.sampled_from(sorted(BOARDS))), draw(st.sampled_from((2, 3, 4))))
    on_board = st.integers(0, config.spec.cells - 1)
    cell = st.one_of(st.just(NO_CELL), on_board)
    cells: list[int] = []
    rows: list[list[int]] = []
    for kind in draw(st.lists(st.sampled_from(MoveType), max_size=12)):
        lists = [draw(st.lists(on_board, max_size=4)) for _ in range(2)]
        detailed = kind in (MoveType.PROCESS_LINE, MoveType.CHOOSE_LINE_OPTION, MoveType.RECOVERY_SLIDE)
        region = kind == MoveType.CHOOSE_TERRITORY_OPTION and draw(st.booleans())
        first, second = lists if detailed else ([lists[0], []] if region else [[], []])
        row = _row(
            kind,
            player=draw(st.integers(1, config.players)),
            phase=draw(st.sampled_from([m.NOT_GIVEN, *Phase])),
            origin=draw(cell),
            to=draw(on_board if kind in PLACELESS else cell),
            target=draw(cell),
            count=draw(st.sampled_from((m.NOT_GIVEN, 0, 1, 2, 3))),
            first=len(cells),
            first_length=len(first),
            second=len(cells) + len(first),
            second_length=len(second),
        )
        if region:
            row[m.REGION_PLAYER] = draw(st.integers(1, config.players))
        if kind == MoveType.RECOVERY_SLIDE:
            row[m.MODE] = draw(st.sampled_from(RecoveryMode))
            row[m.OPTION] = draw(st.sampled_from((m.NOT_GIVEN, 1, 2)))
        if kind == MoveType.ELIMINATE_RINGS_FROM_STACK:
            row[m.CONTEXT] = draw(st.sampled_from(EliminationContext))
        rows.append(row)
        cells += first + second
    return config, _packed(rows, cells)


@given(_games())
def test_any_packed_moves_survive_being_recorded(game: tuple[Config, PackedMoves]) -> None:
    config, moves = game
    assert _equal(as_recorded(config, moves), moves)


def test_probabilities_are_recorded_under_the_keys_that_ringrift_uses(recorded: Callable[[str], Path]) -> None:
    checked = 0
    with GameDatabase(recorded("square8_2p_probs")) as database:
        for record in database.games():
            game = played(record)
            for index, chances in game.probabilities.items():
                checked += move_key(game.config, game.moves.rows[index].tolist()) in chances
    assert checked > 50


def test_moves_that_share_a_key_share_its_probability() -> None:
    config = Config("square8", 2)
    rows = [_row(MoveType.PLACE_RING, to=9, count=count) for count in (1, 2, 3)] + [_row(MoveType.SKIP_PLACEMENT)]
    assert move_probabilities(config, rows, [1, 2, 1, 4]) == {"place_ring_1,1": 0.5, "skip_placement": 0.5}
    assert move_probabilities(config, rows, [0, 2, 0, 0]) == {"place_ring_1,1": 1.0}
    with pytest.raises(ValueError, match="sum to"):
        move_probabilities(config, rows, [0, 0, 0, 0])
