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
    """How far a replay came. `hashes[i]` is that of the position before move i, for the i that were hashed; else 0."""

    played: int
    fault: Fault
    hashes: NDArray[np.uint64]


@compiled
def _replay(tables, position, rows, cells, hashed, hashes, buffer):
    for index in range(len(rows)):
        if hashed[index] != 0:
            hashes[index] = hash_position(tables, position, buffer)
        reason = fault(tables, position, rows[index], cells)
        if reason != Fault.NONE:
            return index, reason
        play(tables, position, rows[index], cells)
    if hashed[len(rows)] != 0:
        hashes[len(rows)] = hash_position(tables, position, buffer)
    return len(rows), Fault.NONE


def replay(config: Config, position: Position, moves: PackedMoves, hashed: NDArray[np.uint8]) -> Replay:
    """Play `moves` from `position`, which ends as the last position reached.

    `hashed` has one entry more than there are moves; where it is 1 the position at that point is hashed. Stops before the
    first illegal move and says why.
    """
    tables = topology(config.board)
    hashes = np.zeros(len(moves) + 1, dtype=np.uint64)
    played, reason = _replay(tables, position, moves.rows, moves.cells, hashed, hashes, buffer_for(tables))
    return Replay(played, Fault(reason), hashes)


def positions(config: Config, position: Position, moves: PackedMoves) -> Iterator[Position]:
    """The position before each move and the last one; the same object each time, changed in place.

    For inspection and tests: exports replay inside compiled code. Raises ValueError at an illegal move.
    """
    tables = topology(config.board)
    for index, row in enumerate(moves.rows):
        yield position
        if (reason := fault(tables, position, row, moves.cells)) != Fault.NONE:
            raise ValueError(f"move {index} is illegal: {Fault(reason).name}")
        play(tables, position, row, moves.cells)
    yield position
