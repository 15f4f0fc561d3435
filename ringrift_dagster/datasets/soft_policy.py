"""Soft policy targets: a search's move probabilities as indices in the policy layout.

RingRift records them as `{move key: probability}`; a key counts when it names a legal move of the position, otherwise it is
dropped, as in RingRift's exporter. Hard targets (the move played) are in `labels`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import numpy as np
import orjson
from numpy.typing import NDArray

from ringrift_dagster.datasets.labels import NO_POLICY, policy_indices
from ringrift_dagster.games import moves as m
from ringrift_dagster.games.config import Config
from ringrift_dagster.games.geometry import NO_CELL, Topology, coordinates, topology
from ringrift_dagster.games.moves import (
    COLUMNS,
    MOVE_TYPES,
    EliminationContext,
    MoveType,
    PackedMoves,
    Phase,
    RecoveryMode,
)
from ringrift_dagster.games.position import Position
from ringrift_dagster.games.replay import positions
from ringrift_dagster.games.rules.legality import Fault, fault, recovered_this_turn
from ringrift_dagster.games.rules.lines import find_line_from
from ringrift_dagster.games.rules.reach import most_rings_at
from ringrift_dagster.games.rules.recovery import first_extraction, line_after_slide
from ringrift_dagster.games.rules.territory import claimable_region_at

Target = tuple[NDArray[np.int32], NDArray[np.float32]]
"""Policy indices and their probabilities, which sum to 1."""

_KEY = re.compile(r"([a-z_]+?)(?:_(-?\d+),(-?\d+))?(?:_(-?\d+),(-?\d+))?")
_VERBOSE_TYPE = re.compile(r"type=<MoveType\.\w+: *'(\w+)'>")
_VERBOSE_FROM = re.compile(r"from_pos=Position\(x=(-?\d+), *y=(-?\d+)")
_VERBOSE_TO = re.compile(r"\bto=Position\(x=(-?\d+), *y=(-?\d+)")

MAX_ENTRIES = 20_000


def soft_targets(
    config: Config, start: Position, moves: PackedMoves, probabilities: Mapping[int, bytes]
) -> Iterator[tuple[int, Target]]:
    """(move index, target) for every position whose recorded probabilities name at least one legal move."""
    if not probabilities:
        return
    for index, position in enumerate(positions(config, start, moves)):
        # RingRift lists the legal moves of a capture chain after the chain has moved on, finds none and falls back to the move
        # played. Its targets in this phase are therefore always hard; kept alike.
        recorded = None if position.phase == Phase.CHAIN_CAPTURE else probabilities.get(index)
        if recorded and (target := _target(config, position, recorded)) is not None:
            yield index, target


def _target(config: Config, position: Position, recorded: bytes) -> Target | None:
    try:
        entries = orjson.loads(recorded)
    except ValueError:
        return None
    if not isinstance(entries, dict) or len(entries) > MAX_ENTRIES:
        return None
    indices: list[int] = []
    weights: list[float] = []
    for key, weight in entries.items():
        if isinstance(weight, int | float) and 0 < weight < float("inf"):
            index = _index_of(config, position, key)
            if index != NO_POLICY:
                indices.append(index)
                weights.append(float(weight))
    total = sum(weights)
    if not indices or not 0 < total < float("inf"):
        return None
    return np.array(indices, dtype=np.int32), np.array([w / total for w in weights], dtype=np.float32)


def _index_of(config: Config, position: Position, key: str) -> int:
    """The policy index of the legal move that a key names, or NO_POLICY."""
    kind, origin, to = _parse(key, config)
    if kind is None:
        return NO_POLICY
    tables = topology(config.board)
    row = np.zeros(len(COLUMNS), dtype=np.int64)
    row[m.TYPE], row[m.PLAYER], row[m.PHASE] = kind, position.player, m.NOT_GIVEN
    row[m.ORIGIN], row[m.TO], row[m.TARGET] = origin, to, NO_CELL
    row[m.COUNT] = row[m.OPTION] = row[m.REGION_PLAYER] = m.NOT_GIVEN
    cells = _complete(tables, position, row)
    if fault(tables, position, row, cells) != Fault.NONE:
        return NO_POLICY
    return int(policy_indices(config, PackedMoves(row.reshape(1, -1), cells))[0])


def _parse(key: str, config: Config) -> tuple[MoveType | None, int, int]:
    if key.startswith("id="):
        found = _VERBOSE_TYPE.search(key)
        name = found.group(1) if found else ""
        places = [pattern.search(key) for pattern in (_VERBOSE_FROM, _VERBOSE_TO)]
        points = [(int(place[1]), int(place[2])) if place else None for place in places]
    else:
        found = _KEY.fullmatch(key)
        name = found.group(1) if found else ""
        numbers = [(int(found[i]), int(found[i + 1])) for i in (2, 4) if found[i]] if found else []
        points = [None, None, *numbers][-2:]
    cell_of = coordinates(config.board).cell_of
    origin, to = (NO_CELL if point is None else cell_of.get(point, NO_CELL) for point in points)
    return MOVE_TYPES.get(name), origin, to


def _complete(tables: Topology, position: Position, row: NDArray[np.int64]) -> NDArray[np.int64]:
    """Fill in what a key leaves open, the way the last move with this key in RingRift's list has it; returns listed cells."""
    kind, player, origin, to = MoveType(int(row[m.TYPE])), row[m.PLAYER], row[m.ORIGIN], row[m.TO]
    out = np.zeros(tables.cells, dtype=np.int64)
    listed = 0
    if kind == MoveType.PLACE_RING and to >= 0:
        row[m.COUNT] = most_rings_at(tables, position, player, to)
    elif kind in (MoveType.OVERTAKING_CAPTURE, MoveType.CONTINUE_CAPTURE_SEGMENT) and origin >= 0 and to >= 0:
        row[m.TARGET] = _first_stack(tables, position, origin, to)
    elif kind in (MoveType.PROCESS_LINE, MoveType.CHOOSE_LINE_OPTION):
        listed = find_line_from(tables, position, player, to, out)
    elif kind == MoveType.CHOOSE_TERRITORY_OPTION and to >= 0:
        listed = claimable_region_at(tables, position, to, player, recovered_this_turn(position, player), out)
        row[m.REGION_PLAYER] = player
    elif kind == MoveType.ELIMINATE_RINGS_FROM_STACK:
        recovered = recovered_this_turn(position, player)
        paying = EliminationContext.RECOVERY if recovered else EliminationContext.TERRITORY
        row[m.CONTEXT] = EliminationContext.LINE if position.pending_line else paying
    elif kind == MoveType.RECOVERY_SLIDE and origin >= 0 and to >= 0:
        if position.height[to] > 0:
            row[m.MODE] = RecoveryMode.STACK_STRIKE
        elif line_after_slide(tables, position, player, origin, to, out) == 0:
            row[m.MODE] = RecoveryMode.FALLBACK
        if row[m.MODE] != RecoveryMode.LINE and first_extraction(position, player) == NO_CELL:
            row[m.ORIGIN] = NO_CELL
    row[m.FIRST_LENGTH] = row[m.SECOND] = listed
    return out[:listed]


def _first_stack(tables: Topology, position: Position, origin: int, to: int) -> int:
    direction = tables.direction[origin, to]
    cell = tables.ray[origin, direction] if direction >= 0 else NO_CELL
    while cell not in (NO_CELL, to) and position.height[cell] == 0:
        cell = tables.ray[cell, direction]
    return int(cell) if cell != to else NO_CELL
