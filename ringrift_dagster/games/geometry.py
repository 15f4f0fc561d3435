"""Board geometry as lookup tables: cells, rays, adjacency, coordinates, position keys.

Everything that follows from the board type alone belongs here; nothing that depends on a position does. A *cell* is an index
below `Board.cells`; `OFF_BOARD` marks coordinates that are not on the board and `NO_CELL` a field that was not given.
Sources: RR-CANON-R001..R004 (boards, adjacency), R120 (line directions), R140 (territory adjacency).
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ringrift_dagster.games.config import BOARDS

NO_CELL = -1
OFF_BOARD = -2

_SQUARE_STEPS = ((1, 0), (1, 1), (0, 1), (1, -1), (-1, 0), (-1, -1), (0, -1), (-1, 1))
_SQUARE_LINES = (0, 1, 2, 3)  # E, SE, S, NE
_SQUARE_TOUCHING = (0, 4, 2, 6)
# The order in which neighbours are summed shows in the last bit of two hexagonal feature planes.
_HEX_STEPS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, -1), (-1, 1))
_HEX_LINES = (0, 4, 3)  # E, NE, NW


_CELLS = max(board.cells for board in BOARDS.values())
_DIRECTIONS = 8
_KEY_BYTES = 12

TOPOLOGY = np.dtype(
    [
        ("ray", np.int64, (_CELLS, _DIRECTIONS)),  # next cell in a direction, or NO_CELL
        ("opposite", np.int64, (_DIRECTIONS,)),
        (
            "line_directions",
            np.int64,
            (4,),
        ),  # the first `lines` of them: directions along which lines are looked for
        ("touching", np.int64, (_CELLS, 6)),  # territory adjacency, padded with NO_CELL
        ("border", np.int64, (_CELLS, 8)),  # along which a region's border of markers is followed
        ("direction", np.int64, (_CELLS, _CELLS)),  # from one cell to another, or -1 when not in line
        ("distance", np.int64, (_CELLS, _CELLS)),  # steps between two cells
        ("key_order", np.int64, (_CELLS,)),  # cells in the order in which a fingerprint lists them
        ("key", np.uint8, (_CELLS, _KEY_BYTES)),  # ASCII of the position key, e.g. "3,-1,-2"
        ("key_length", np.int64, (_CELLS,)),
        ("x", np.int64, (_CELLS,)),  # column in the bounding square
        ("y", np.int64, (_CELLS,)),  # row in the bounding square
        ("cells", np.int64),
        ("lines", np.int64),
        ("width", np.int64),  # of the bounding square; not "size", which a record has without it
        ("hexagonal", np.int64),
        ("zero", np.int64),  # the cell (0, 0), which RingRift records for moves without a place
    ],
    align=True,
)
"""A board's tables in the form that the compiled rules read: one record, of the same type for every board."""

Topology: TypeAlias = Any
"""A record of TOPOLOGY."""


class Coordinates(NamedTuple):
    """The same board for code that reads RingRift's JSON: coordinates and keys to cells and back."""

    cell_of: dict[tuple[int, int], int]  # (x, y) as recorded; z follows from them
    key_of: tuple[str, ...]
    cell_of_key: dict[str, int]  # "x,y" and, on hexagonal boards, "x,y,z"


@cache
def coordinates(board: str) -> Coordinates:
    """Coordinate tables of a board type."""
    spec = BOARDS[board]
    if spec.hexagonal:
        radius = (spec.size - 1) // 2
        span = range(-radius, radius + 1)
        points = [(x, y) for x in span for y in span if abs(x + y) <= radius]
        keys = tuple(f"{x},{y},{-x - y}" for x, y in points)
    else:
        points = [(x, y) for x in range(spec.size) for y in range(spec.size)]
        keys = tuple(f"{x},{y}" for x, y in points)
    cell_of = {point: cell for cell, point in enumerate(points)}
    cell_of_key = {key: cell for cell, key in enumerate(keys)}
    cell_of_key.update({f"{x},{y}": cell for (x, y), cell in cell_of.items()})
    return Coordinates(cell_of, keys, cell_of_key)


@cache
def topology(board: str) -> Topology:
    """Lookup tables of a board type; built once a process."""
    spec = BOARDS[board]
    at = coordinates(board)
    points = list(at.cell_of)
    steps = _HEX_STEPS if spec.hexagonal else _SQUARE_STEPS
    touching = steps if spec.hexagonal else tuple(steps[direction] for direction in _SQUARE_TOUCHING)
    lines = _HEX_LINES if spec.hexagonal else _SQUARE_LINES
    cells = spec.cells
    tables = np.zeros(1, dtype=TOPOLOGY).view(np.recarray)[0]
    tables.cells, tables.lines, tables.width, tables.hexagonal = cells, len(lines), spec.size, spec.hexagonal
    tables.zero = at.cell_of[(0, 0)]
    _fill_neighbours(tables.ray, at.cell_of, steps)
    _fill_neighbours(tables.touching, at.cell_of, touching)
    _fill_neighbours(tables.border, at.cell_of, () if board == "hexagonal" else _SQUARE_STEPS)
    tables.opposite[: len(steps)] = [steps.index((-dx, -dy)) for dx, dy in steps]
    tables.line_directions[: len(lines)] = lines
    tables.direction[:] = -1
    for start in range(cells):
        for step in range(len(steps)):
            cell = tables.ray[start, step]
            while cell != NO_CELL:
                tables.direction[start, cell] = step
                cell = tables.ray[cell, step]
    xy = np.array(points, dtype=np.int64)
    delta = xy[:, None, :] - xy[None, :, :]
    if spec.hexagonal:
        tables.distance[:cells, :cells] = (np.abs(delta).sum(axis=2) + np.abs(delta.sum(axis=2))) // 2
    else:
        tables.distance[:cells, :cells] = np.abs(delta).max(axis=2)
    for cell, text in enumerate(at.key_of):
        tables.key[cell, : len(text)] = np.frombuffer(text.encode(), dtype=np.uint8)
        tables.key_length[cell] = len(text)
    # Entries are sorted as whole strings "key:...", so ':' ends a key and "1,10" comes before "1,1".
    tables.key_order[:cells] = sorted(range(cells), key=lambda cell: at.key_of[cell] + ":")
    shift = (spec.size - 1) // 2 if spec.hexagonal else 0
    tables.x[:cells] = xy[:, 0] + shift
    tables.y[:cells] = xy[:, 1] + shift
    return tables


def _fill_neighbours(table: NDArray[np.int64], cell_of: dict[tuple[int, int], int], steps: tuple[tuple[int, int], ...]) -> None:
    table[:] = NO_CELL
    for (x, y), cell in cell_of.items():
        for column, (dx, dy) in enumerate(steps):
            table[cell, column] = cell_of.get((x + dx, y + dy), NO_CELL)
