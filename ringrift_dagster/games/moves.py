"""Moves: their types and phases, and the packed form in which a game's moves are judged, replayed and encoded.

Reading RingRift's move records belongs here (`pack`, `MoveReader`); what a move does to a position does not.
Sources: RingRift's recorded moves (camelCase JSON), RR-CANON-R070..R075 (phases).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ringrift_dagster.games.geometry import NO_CELL, OFF_BOARD, Coordinates


class Phase(IntEnum):
    """Phases of a turn, in the order in which a turn visits them."""

    RING_PLACEMENT = 0
    MOVEMENT = 1
    CAPTURE = 2
    CHAIN_CAPTURE = 3
    LINE_PROCESSING = 4
    TERRITORY_PROCESSING = 5
    FORCED_ELIMINATION = 6
    GAME_OVER = 7


class MoveType(IntEnum):
    """Every move that canonical records contain."""

    PLACE_RING = 0
    SKIP_PLACEMENT = 1
    NO_PLACEMENT_ACTION = 2
    SWAP_SIDES = 3
    MOVE_STACK = 4
    OVERTAKING_CAPTURE = 5
    CONTINUE_CAPTURE_SEGMENT = 6
    SKIP_CAPTURE = 7
    NO_MOVEMENT_ACTION = 8
    RECOVERY_SLIDE = 9
    SKIP_RECOVERY = 10
    PROCESS_LINE = 11
    CHOOSE_LINE_OPTION = 12
    NO_LINE_ACTION = 13
    ELIMINATE_RINGS_FROM_STACK = 14
    CHOOSE_TERRITORY_OPTION = 15
    SKIP_TERRITORY_PROCESSING = 16
    NO_TERRITORY_ACTION = 17
    FORCED_ELIMINATION = 18
    RESIGN = 19
    TIMEOUT = 20


class EliminationContext(IntEnum):
    """What an `eliminate_rings_from_stack` pays for; it decides how many rings go."""

    UNSTATED = 0
    LINE = 1
    TERRITORY = 2
    FORCED = 3
    RECOVERY = 4


class RecoveryMode(IntEnum):
    """The three kinds of recovery slide (RR-CANON-R112): forming a line, a plain slide, striking a stack."""

    LINE = 0
    FALLBACK = 1
    STACK_STRIKE = 2


PHASES: dict[str, Phase] = {phase.name.lower(): phase for phase in Phase}
MOVE_TYPES: dict[str, MoveType] = {kind.name.lower(): kind for kind in MoveType}
PHASE_NAMES, TYPE_NAMES = tuple(PHASES), tuple(MOVE_TYPES)
"""The names in records, by number."""
_CONTEXTS = {context.name.lower(): context for context in EliminationContext if context}
_MODES = {mode.name.lower(): mode for mode in RecoveryMode}

COLUMNS = (
    "type",
    "player",
    "phase",
    "origin",
    "to",
    "target",
    "count",
    "option",
    "mode",
    "context",
    "region_player",
    "first",  # offset and length, in `cells`, of the region, line or collapse positions
    "first_length",
    "second",  # … of the markers that collapse or the stacks that a recovery takes its ring from
    "second_length",
)
TYPE, PLAYER, PHASE, ORIGIN, TO, TARGET, COUNT, OPTION, MODE, CONTEXT, REGION_PLAYER = range(11)
FIRST, FIRST_LENGTH, SECOND, SECOND_LENGTH = range(11, 15)
NOT_GIVEN = -1
UNKNOWN = -9
"""A move type or phase that is not canonical."""

MAX_MOVES = 20_000
MAX_LISTED_CELLS = 4_096
_INT32 = 2**31


class UnreadableMove(ValueError):
    """A move record that is not what RingRift writes; `index` is the move's place in the game."""

    def __init__(self, index: int, detail: str) -> None:
        super().__init__(f"move {index}: {detail}")
        self.index = index
        self.detail = detail


@dataclass(frozen=True)
class PackedMoves:
    """A game's moves as numbers: `rows` is (moves, len(COLUMNS)) int64, `cells` the lists that rows point into."""

    rows: NDArray[np.int64]
    cells: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def digest_into(self, digest: hashlib._Hash) -> None:
        """Feed everything that a move decides into `digest`: not times, ids or who recorded it."""
        digest.update(self.rows.astype("<i4").tobytes())
        digest.update(self.cells.astype("<i2").tobytes())


class MoveLog:
    """The moves of a game that is being played, in the layout of `pack`: the digest is that of the game's records."""

    def __init__(self) -> None:
        self._rows: list[NDArray[np.int64]] = []
        self._cells: list[int] = []

    def __len__(self) -> int:
        return len(self._rows)

    def append(self, row: NDArray[np.int64], cells: NDArray[np.int64]) -> None:
        """Add a packed move whose lists stand in `cells`; both are copied."""
        first = cells[row[FIRST] : row[FIRST] + row[FIRST_LENGTH]].tolist()
        second = cells[row[SECOND] : row[SECOND] + row[SECOND_LENGTH]].tolist()
        copy = row.copy()
        copy[FIRST] = len(self._cells)
        copy[SECOND] = len(self._cells) + len(first)
        self._rows.append(copy)
        self._cells += first + second

    def packed(self) -> PackedMoves:
        """All moves so far."""
        rows = np.array(self._rows, dtype=np.int64).reshape(len(self._rows), len(COLUMNS))
        return PackedMoves(rows, np.array(self._cells, dtype=np.int64))


def pack(records: Sequence[Mapping[str, Any]], at: Coordinates) -> PackedMoves:
    """Turn RingRift's move records into numbers.

    Raises UnreadableMove for a record of the wrong shape. What is well formed but against the rules (a cell off the board, a
    player who does not exist, an unknown type) is packed as such, for the rules to reject.
    """
    if len(records) > MAX_MOVES:
        raise UnreadableMove(MAX_MOVES, f"more than {MAX_MOVES} moves")
    rows: list[tuple[int, ...]] = []
    cells: list[int] = []
    cell_of = at.cell_of
    for index, record in enumerate(records):
        try:
            get = record.get
            kind = MOVE_TYPES.get(record["type"], UNKNOWN)
            to = get("to")
            origin = get("from")
            first = second = len(cells)
            region_player = option = count = NOT_GIVEN
            context = mode = 0
            target = NO_CELL
            if kind >= MoveType.PROCESS_LINE or kind in _DETAILED:
                first, second, region_player, option, mode, context = _details(record, kind, cells, at)
            if (given := get("captureTarget")) is not None:
                target = cell_of.get((given["x"], given["y"]), OFF_BOARD)
            if (given := get("placementCount")) is not None:
                count = _natural(given)
            rows.append(
                (
                    kind,
                    _integer(record["player"]),
                    NOT_GIVEN if (phase := get("phase")) is None else PHASES.get(phase, UNKNOWN),
                    NO_CELL if origin is None else _cell(origin, cell_of),
                    NO_CELL if to is None else _cell(to, cell_of),
                    target,
                    count,
                    option,
                    mode,
                    context,
                    region_player,
                    first,
                    second - first,
                    second,
                    len(cells) - second,
                )
            )
        except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
            raise UnreadableMove(index, f"{type(error).__name__}: {error}"[:200]) from error
        if len(cells) > MAX_LISTED_CELLS * (index + 1):
            raise UnreadableMove(index, "too many listed positions")
    return PackedMoves(np.array(rows, dtype=np.int64).reshape(len(rows), len(COLUMNS)), np.array(cells, dtype=np.int64))


_DETAILED = frozenset({MoveType.RECOVERY_SLIDE})


def _details(record: Mapping[str, Any], kind: int, cells: list[int], at: Coordinates) -> tuple[int, int, int, int, int, int]:
    """Append the lists that the move refers to; (first, second, region player, option, mode, context)."""
    get = record.get
    cell_of = at.cell_of
    region_player = option = NOT_GIVEN
    mode = context = 0
    first = len(cells)
    if kind == MoveType.CHOOSE_TERRITORY_OPTION:
        if regions := get("disconnectedRegions"):
            region = regions[0]
            cells.extend(_cell(space, cell_of) for space in region["spaces"])
            region_player = _natural(region.get("controllingPlayer", record["player"]))
        second = len(cells)
    elif kind in (MoveType.PROCESS_LINE, MoveType.CHOOSE_LINE_OPTION):
        if lines := get("formedLines"):
            cells.extend(_cell(position, cell_of) for position in lines[0]["positions"])
        second = len(cells)
        cells.extend(_cell(position, cell_of) for position in get("collapsedMarkers") or ())
    elif kind == MoveType.RECOVERY_SLIDE:
        cells.extend(_cell(position, cell_of) for position in get("collapsePositions") or ())
        second = len(cells)
        cells.extend(at.cell_of_key.get(key, OFF_BOARD) for key in get("extractionStacks") or ())
        if (given := get("recoveryOption", get("option"))) is not None:  # RingRift's TypeScript engine writes `option`
            option = _natural(given)
        mode = _MODES[get("recoveryMode") or "line"]
    else:
        second = len(cells)
        if kind == MoveType.ELIMINATE_RINGS_FROM_STACK and (given := get("eliminationContext")) is not None:
            context = _CONTEXTS[given]
    return first, second, region_player, option, mode, context


def _cell(position: Mapping[str, Any], cell_of: dict[tuple[int, int], int]) -> int:
    return cell_of.get((position["x"], position["y"]), OFF_BOARD)


def _natural(value: object) -> int:
    """An integer that is not negative: -1 would be taken for NOT_GIVEN."""
    number = _integer(value)
    if number < 0:
        raise ValueError(f"a negative number: {number}")
    return number


def _integer(value: object) -> int:
    if type(value) is not int or not -_INT32 <= value < _INT32:
        raise ValueError(f"not a 32-bit integer: {str(value)[:40]!r}")
    return value
