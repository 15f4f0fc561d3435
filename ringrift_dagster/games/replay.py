"""Replaying a recorded game move by move.

Joins rules and fingerprints: every move is asked for its legality, played, and the position hashed where a record can be
compared. Encoding positions for training is in `datasets`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ringrift_dagster.games.config import Config
from ringrift_dagster.games.fingerprint import buffer_for, hash_position
from ringrift_dagster.games.geometry import topology
from ringrift_dagster.games.moves import PackedMoves
from ringrift_dagster.games.position import Position
from ringrift_dagster.games.rules.compiled import compiled
from ringrift_dagster.games.rules.legality import Fault, fault
from ringrift_dagster.games.rules.turns import play


@dataclass(frozen=True)
class Replay:
    """How far a replay came. `hashes[i]` is that of the position before move i, for the i that were wanted; else 0."""

    played: int
    fault: Fault
    hashes: NDArray[np.uint64]


@compiled
def _replay(tables, position, rows, cells, wanted, hashes, buffer):
    for index in range(len(rows)):
        if wanted[index] != 0:
            hashes[index] = hash_position(tables, position, buffer)
        found = fault(tables, position, rows[index], cells)
        if found != Fault.NONE:
            return index, found
        play(tables, position, rows[index], cells)
    if wanted[len(rows)] != 0:
        hashes[len(rows)] = hash_position(tables, position, buffer)
    return len(rows), Fault.NONE


def replay(config: Config, position: Position, moves: PackedMoves, wanted: NDArray[np.uint8]) -> Replay:
    """Play `moves` from `position`, which ends as the last position reached.

    `wanted` has one entry more than there are moves; where it is 1 the position at that point is hashed. Stops before the
    first illegal move and says why.
    """
    tables = topology(config.board)
    hashes = np.zeros(len(moves) + 1, dtype=np.uint64)
    played, found = _replay(tables, position, moves.rows, moves.cells, wanted, hashes, buffer_for(tables))
    return Replay(played, Fault(found), hashes)


def positions(config: Config, position: Position, moves: PackedMoves) -> Iterator[Position]:
    """The position before each move and the last one; the same object each time, changed in place.

    For inspection and tests: exports replay inside compiled code. Raises ValueError at an illegal move.
    """
    tables = topology(config.board)
    for index, row in enumerate(moves.rows):
        yield position
        if (found := fault(tables, position, row, moves.cells)) != Fault.NONE:
            raise ValueError(f"move {index} is illegal: {Fault(found).name}")
        play(tables, position, row, moves.cells)
    yield position
