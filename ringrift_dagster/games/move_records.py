"""RingRift's move records from packed moves: the inverse of `moves.pack`.

Writing one move or all moves of a game as RingRift's JSON belongs here, and the keys under which a search's probabilities are
recorded. Whether a move is legal, and what it does, is in `rules`. Source: RingRift's `Move` model (`app/models/core.py`) and
`build_move_key` (`app/training/mcts_labeling.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from ringrift_dagster.games import moves as m
from ringrift_dagster.games.config import Config
from ringrift_dagster.games.geometry import NO_CELL, coordinates
from ringrift_dagster.games.moves import (
    PHASE_NAMES,
    TYPE_NAMES,
    EliminationContext,
    MoveType,
    PackedMoves,
    Phase,
    RecoveryMode,
    pack,
)

Record = dict[str, Any]
"""One move as RingRift's JSON has it, in camelCase; fields that say nothing are left out."""

PLACELESS = frozenset(
    {
        MoveType.NO_PLACEMENT_ACTION,
        MoveType.NO_MOVEMENT_ACTION,
        MoveType.NO_LINE_ACTION,
        MoveType.NO_TERRITORY_ACTION,
        MoveType.SKIP_CAPTURE,
        MoveType.SKIP_TERRITORY_PROCESSING,
        MoveType.SWAP_SIDES,
    }
)
"""Moves without a place on the board, for which RingRift records (0, 0) as the destination."""

_CONTEXT_NAMES = tuple(context.name.lower() for context in EliminationContext)
_MODE_NAMES = tuple(mode.name.lower() for mode in RecoveryMode)
_LINE_MOVES = (MoveType.PROCESS_LINE, MoveType.CHOOSE_LINE_OPTION)


@cache
def points(board: str) -> tuple[dict[str, int], ...]:
    """Every cell's position as RingRift writes it: `x` and `y`, and on hexagonal boards `z`."""
    hexagonal = Config(board, 2).spec.hexagonal
    return tuple({"x": x, "y": y, "z": -x - y} if hexagonal else {"x": x, "y": y} for x, y in coordinates(board).cell_of)


def move_record(
    config: Config,
    row: Sequence[int],
    cells: Sequence[int],
    number: int,
    *,
    timestamp: str | None = None,
    think_ms: int = 0,
    on_stack: bool | None = None,
) -> Record:
    """The record of one packed move.

    `row` has the columns of `moves.COLUMNS` and points into `cells`; `number` counts from 1; `timestamp` is ISO, `on_stack`
    says for a placement whether there is a stack on the cell. Raises ValueError for an unknown type or phase and for a cell off
    the board.
    """
    kind, player, number = MoveType(row[m.TYPE]), int(row[m.PLAYER]), int(number)
    record: Record = {"id": f"{TYPE_NAMES[kind].replace('_', '-')}-{number}", "type": TYPE_NAMES[kind], "player": player}
    where = points(config.board)
    for name, cell in (("from", row[m.ORIGIN]), ("to", row[m.TO]), ("captureTarget", row[m.TARGET])):
        if cell != NO_CELL:
            record[name] = _point(where, cell)
    if kind in PLACELESS and "to" not in record:
        record["to"] = {"x": 0, "y": 0}
    if row[m.COUNT] != m.NOT_GIVEN:
        record["placementCount"] = int(row[m.COUNT])
    if kind == MoveType.PLACE_RING and on_stack is not None:
        record["placedOnStack"] = on_stack
    first, second = (
        [int(cell) for cell in cells[row[at] : row[at] + row[length]]]
        for at, length in ((m.FIRST, m.FIRST_LENGTH), (m.SECOND, m.SECOND_LENGTH))
    )
    if kind in _LINE_MOVES:
        if first:
            record["formedLines"] = [_line([_point(where, cell) for cell in first], player)]
        if second:
            record["collapsedMarkers"] = [_point(where, cell) for cell in second]
    elif kind == MoveType.CHOOSE_TERRITORY_OPTION:
        if row[m.REGION_PLAYER] != m.NOT_GIVEN:
            spaces = [_point(where, cell) for cell in first]
            record["disconnectedRegions"] = [
                {"spaces": spaces, "controllingPlayer": int(row[m.REGION_PLAYER]), "isDisconnected": True}
            ]
    elif kind == MoveType.RECOVERY_SLIDE:
        record["recoveryMode"] = _MODE_NAMES[row[m.MODE]]
        if row[m.OPTION] != m.NOT_GIVEN:
            record["recoveryOption"] = int(row[m.OPTION])
        if first:
            record["collapsePositions"] = [_point(where, cell) for cell in first]
        if second:
            keys = coordinates(config.board).key_of
            record["extractionStacks"] = [keys[_on_board(where, cell)] for cell in second]
    elif kind == MoveType.ELIMINATE_RINGS_FROM_STACK and row[m.CONTEXT] != EliminationContext.UNSTATED:
        record["eliminationContext"] = _CONTEXT_NAMES[row[m.CONTEXT]]
        if row[m.CONTEXT] == EliminationContext.LINE:
            record["eliminatedRings"] = [{"player": player, "count": 1}]
    if row[m.PHASE] != m.NOT_GIVEN:
        record["phase"] = PHASE_NAMES[Phase(row[m.PHASE])]
    if timestamp is not None:
        record["timestamp"] = timestamp
    record["thinkTime"] = think_ms
    record["moveNumber"] = number
    return record


def move_records(config: Config, moves: PackedMoves) -> list[Record]:
    """The records of a game's moves, without times. Raises ValueError as `move_record` does."""
    cells = moves.cells.tolist()
    return [move_record(config, row, cells, number) for number, row in enumerate(moves.rows.tolist(), start=1)]


def move_text(config: Config, row: Sequence[int], cells: Sequence[int]) -> str:
    """A packed move as one line of text, e.g. `overtaking_capture from 0,4 over 0,6 to 0,7`.

    Cells are written by their keys, lists of cells in board order. Raises ValueError as `move_record` does.
    """
    kind, keys = MoveType(row[m.TYPE]), coordinates(config.board).key_of
    words = [TYPE_NAMES[kind]]

    def place(preposition: str, *numbers: int) -> None:
        words.extend([preposition, *(keys[_on_board(keys, cell)] for cell in sorted(map(int, numbers)))])

    first, second = (
        cells[row[at] : row[at] + row[length]] for at, length in ((m.FIRST, m.FIRST_LENGTH), (m.SECOND, m.SECOND_LENGTH))
    )
    if kind == MoveType.RECOVERY_SLIDE and row[m.MODE] != RecoveryMode.LINE:
        words.append(_MODE_NAMES[row[m.MODE]])
    for preposition, cell in (("from", row[m.ORIGIN]), ("over", row[m.TARGET])):
        if cell != NO_CELL:
            place(preposition, cell)
    if kind in _LINE_MOVES or kind == MoveType.CHOOSE_TERRITORY_OPTION:
        place("of", *first)
    elif row[m.TO] != NO_CELL and kind not in PLACELESS and kind not in (MoveType.SKIP_PLACEMENT, MoveType.SKIP_RECOVERY):
        place("to" if row[m.ORIGIN] != NO_CELL else "at", row[m.TO])
    if kind == MoveType.PLACE_RING and row[m.COUNT] != m.NOT_GIVEN:
        words.append(f"rings {row[m.COUNT]}")
    if kind == MoveType.ELIMINATE_RINGS_FROM_STACK and row[m.CONTEXT] != EliminationContext.UNSTATED:
        words.append(f"context {_CONTEXT_NAMES[row[m.CONTEXT]]}")
    if kind == MoveType.CHOOSE_LINE_OPTION:
        place("collapsing", *second)
    elif kind == MoveType.RECOVERY_SLIDE:
        if row[m.OPTION] == 2:
            place("collapsing", *first)
        elif len(second):
            place("taking a ring from", *second)
    return " ".join(words)


def as_recorded(config: Config, moves: PackedMoves) -> PackedMoves:
    """The form in which these moves are read back from a database, which is the form that digests are made of.

    Lists of cells stand in the order of the moves, and moves without a place name (0, 0). Legal moves keep their meaning;
    moves that were read from a database stay as they are.
    """
    return pack(move_records(config, moves), coordinates(config.board))


def move_key(config: Config, row: Sequence[int]) -> str:
    """The name of a move among a search's probabilities: its type, origin and destination, e.g. `move_stack_0,4_7,4`.

    Moves that differ in nothing else (placements of one, two or three rings) share a key.
    """
    kind = MoveType(row[m.TYPE])
    where = points(config.board)
    places = [_point(where, cell) for cell in (row[m.ORIGIN], row[m.TO]) if cell != NO_CELL]
    if kind in PLACELESS and not places:
        places = [{"x": 0, "y": 0}]
    return "_".join([TYPE_NAMES[kind], *(f"{place['x']},{place['y']}" for place in places)])


def move_probabilities(config: Config, rows: Iterable[Sequence[int]], weights: Iterable[float]) -> dict[str, float]:
    """A search's weights of the packed moves `rows` as RingRift records them: by move key, summing to 1, positive ones only.

    Moves that share a key add up. Raises ValueError when no weight is positive or one is not finite.
    """
    by_key: dict[str, float] = {}
    for row, weight in zip(rows, weights, strict=True):
        if weight > 0:
            key = move_key(config, row)
            by_key[key] = by_key.get(key, 0.0) + float(weight)
    total = sum(by_key.values())
    if not 0 < total < float("inf"):
        raise ValueError(f"the weights of {len(by_key)} moves sum to {total}")
    return {key: weight / total for key, weight in by_key.items()}


def _line(positions: list[dict[str, int]], player: int) -> Record:
    direction = {axis: positions[1][axis] - start if len(positions) > 1 else 0 for axis, start in positions[0].items()}
    return {"positions": positions, "player": player, "length": len(positions), "direction": direction}


def _point(where: Sequence[dict[str, int]], cell: int) -> dict[str, int]:
    return where[_on_board(where, cell)]


def _on_board(where: Sequence[object], cell: int) -> int:
    if not 0 <= cell < len(where):
        raise ValueError(f"cell {cell} is off the board")
    return cell
