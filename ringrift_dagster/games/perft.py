"""Perft: counting the positions that legal moves lead to, by depth.

Counts of two engines that agree to some depth show that both list and play the same moves. Only counting belongs here; what is
legal is in `rules`. A position that two sequences of moves reach counts twice; a game that ended has no moves to count.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringrift_dagster.games.config import Config
from ringrift_dagster.games.geometry import Topology, topology
from ringrift_dagster.games.position import POSITION, Position, blank_position
from ringrift_dagster.games.rules.compiled import compiled
from ringrift_dagster.games.rules.listing import buffers, list_moves
from ringrift_dagster.games.rules.stacks import copy_position
from ringrift_dagster.games.rules.turns import play

MAX_DEPTH = 12
_AT_ONCE = 20_000
"""Positions that are listed before compiled code returns, so that a walk can be interrupted."""


class _Walk(NamedTuple):
    """A depth-first walk under way, by depth: the position, its moves, how many they are and which is next; and the counts."""

    positions: NDArray[np.void]
    rows: NDArray[np.int64]
    cells: NDArray[np.int64]
    sizes: NDArray[np.int64]
    cursors: NDArray[np.int64]
    counts: NDArray[np.int64]


def _begin(config: Config, position: Position, depth: int) -> _Walk:
    rows, cells = buffers(config.board)
    walk = _Walk(
        np.zeros(depth, dtype=POSITION).view(np.recarray),
        np.zeros((depth, *rows.shape), dtype=np.int64),
        np.zeros((depth, *cells.shape), dtype=np.int64),
        np.zeros(depth, dtype=np.int64),
        np.zeros(depth, dtype=np.int64),
        np.zeros(depth, dtype=np.int64),
    )
    tables = topology(config.board)
    copy_position(position, walk.positions[0])
    walk.sizes[0] = walk.counts[0] = list_moves(tables, walk.positions[0], walk.rows[0], walk.cells[0])
    return walk


@compiled
def _continue_walk(topology, walk, depth, level, budget):
    """Continue the walk from `level` until `budget` positions are listed; returns the level, -1 at the end. Allocates nothing."""
    while level >= 0 and budget > 0:
        cursor = walk.cursors[level]
        if level == depth - 1 or cursor == walk.sizes[level]:
            level -= 1
            continue
        walk.cursors[level] = cursor + 1
        below = level + 1
        copy_position(walk.positions[level], walk.positions[below])
        play(topology, walk.positions[below], walk.rows[level, cursor], walk.cells[level])
        size = list_moves(topology, walk.positions[below], walk.rows[below], walk.cells[below])
        walk.sizes[below] = size
        walk.cursors[below] = 0
        walk.counts[below] += size
        budget -= 1
        level = below
    return level


def perft(config: Config, position: Position, depth: int) -> tuple[int, ...]:
    """How many positions 1, 2, … `depth` legal moves from `position` lead to. Raises ValueError unless depth is 1 to MAX_DEPTH.

    The position stays as it is (but for its scratch space).
    """
    if not 1 <= depth <= MAX_DEPTH:
        raise ValueError(f"the depth must be 1 to {MAX_DEPTH}, not {depth}")
    walk, tables, level = _begin(config, position, depth), topology(config.board), 0
    while level >= 0:
        level = int(_continue_walk(tables, walk, depth, level, _AT_ONCE))
    return tuple(walk.counts.tolist())


def divide(config: Config, position: Position, depth: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], int]]:
    """For every legal move its row, the cells it points into, and how many positions `depth` moves, it included, lead to.

    Raises ValueError as `perft` does.
    """
    if not 1 <= depth <= MAX_DEPTH:
        raise ValueError(f"the depth must be 1 to {MAX_DEPTH}, not {depth}")
    tables: Topology = topology(config.board)
    rows, cells = buffers(config.board)
    after = blank_position()
    for row in rows[: list_moves(tables, position, rows, cells)]:
        leaves = 1
        if depth > 1:
            copy_position(position, after)
            play(tables, after, row, cells)
            leaves = perft(config, after, depth - 1)[-1]
        yield row, cells, leaves
