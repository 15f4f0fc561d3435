"""The legal moves of a position, listed: one packed row for each distinct decision.

`list_moves` and `legality.fault` build on the same predicates, and a test asks both about every move that the board's geometry
allows. `fault` also accepts other spellings of a listed move (a longer line processed whole by `process_line`, its cells listed
backwards, a recovery that names another stack to take its ring from) and resignations; these are not listed.
docs/rules.md compares the list with those of RingRift's two engines.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringrift_dagster.games import moves as m
from ringrift_dagster.games.config import BOARDS
from ringrift_dagster.games.geometry import NO_CELL, topology
from ringrift_dagster.games.moves import EliminationContext, MoveType, Phase, RecoveryMode
from ringrift_dagster.games.position import ACTIVE
from ringrift_dagster.games.rules.compiled import compiled
from ringrift_dagster.games.rules.legality import (
    may_skip_placement,
    may_swap,
    pays_now,
    recovered_this_turn,
    region_is_unpaid,
)
from ringrift_dagster.games.rules.lines import contains, line_at
from ringrift_dagster.games.rules.reach import can_place, is_free, placement_limit
from ringrift_dagster.games.rules.recovery import (
    any_line_recovery,
    can_slide,
    can_strike,
    first_extraction,
    line_after_slide,
    may_recover,
)
from ringrift_dagster.games.rules.territory import next_region, region_owner


class MoveBuffers(NamedTuple):
    """Room for the legal moves of any position of a board: `rows` as in `PackedMoves`, `cells` for the lists they point into."""

    rows: NDArray[np.int64]
    cells: NDArray[np.int64]


def buffers(board: str) -> MoveBuffers:
    """Buffers for `list_moves` on this board, to be allocated once.

    Bounds: two cells in line have at most one move or capture between them; a marker slides to an empty neighbour, and the line
    that this completes has fewer runs than the board is wide; regions of one border colour and lines of one direction are disjoint.
    """
    spec = BOARDS[board]
    tables = topology(board)
    pairs = int((tables["direction"][: spec.cells, : spec.cells] >= 0).sum())
    slides = (spec.cells // 2 + 1) * tables["ray"].shape[1]
    return MoveBuffers(
        np.zeros((max(pairs, slides * spec.size) + 8, len(m.COLUMNS)), dtype=np.int64),
        np.zeros(slides * spec.size + 8, dtype=np.int64),
    )


@compiled
def _add(position, rows, count, kind, origin, target, to):
    """Write row `count` with all optional fields unset; returns the number of rows."""
    row = rows[count]
    row[m.TYPE] = kind
    row[m.PLAYER] = position.player
    row[m.PHASE] = position.phase
    row[m.ORIGIN] = origin
    row[m.TO] = to
    row[m.TARGET] = target
    row[m.COUNT] = m.NOT_GIVEN
    row[m.OPTION] = m.NOT_GIVEN
    row[m.MODE] = 0
    row[m.CONTEXT] = 0
    row[m.REGION_PLAYER] = m.NOT_GIVEN
    row[m.FIRST] = 0
    row[m.FIRST_LENGTH] = 0
    row[m.SECOND] = 0
    row[m.SECOND_LENGTH] = 0
    return count + 1


@compiled
def _add_bare(topology, position, rows, count, kind):
    """A move without a place; RingRift records cell (0, 0) for it."""
    return _add(position, rows, count, kind, NO_CELL, NO_CELL, topology.zero)


@compiled
def _list_placements(topology, position, rows):
    player = position.player
    count = 0
    for cell in range(position.cells):
        for rings in range(1, placement_limit(position, player, cell) + 1):
            if can_place(topology, position, player, cell, rings):
                count = _add(position, rows, count, MoveType.PLACE_RING, NO_CELL, NO_CELL, cell)
                rows[count - 1, m.COUNT] = rings
    if may_skip_placement(topology, position, player):
        count = _add_bare(topology, position, rows, count, MoveType.SKIP_PLACEMENT)
    if count == 0:
        count = _add_bare(topology, position, rows, count, MoveType.NO_PLACEMENT_ACTION)
    if may_swap(position):
        count = _add_bare(topology, position, rows, count, MoveType.SWAP_SIDES)
    return count


@compiled
def _list_reach(topology, position, origin, movements, capture, rows, count):
    """Moves of the stack at `origin`: non-capturing ones if `movements`, and captures as moves of type `capture`."""
    height = position.height[origin]
    for direction in range(topology.ray.shape[1]):
        cell = topology.ray[origin, direction]
        distance = 1
        while cell != NO_CELL and is_free(position, cell):
            if movements and distance >= height:
                count = _add(position, rows, count, MoveType.MOVE_STACK, origin, NO_CELL, cell)
            cell = topology.ray[cell, direction]
            distance += 1
        if cell == NO_CELL or position.collapsed[cell] != 0 or position.cap[cell] > position.cap[origin]:
            continue
        target = cell
        cell = topology.ray[cell, direction]
        distance += 1
        while cell != NO_CELL and is_free(position, cell):
            if distance >= height:
                count = _add(position, rows, count, capture, origin, target, cell)
            cell = topology.ray[cell, direction]
            distance += 1
    return count


@compiled
def _list_recoveries(topology, position, rows, cells, count):
    """List recovery slides: those that complete a line, or, where none does, plain slides and strikes (R112).

    The stack that the ring is taken from is named, since RingRift's engines differ where it is not: `first_extraction`. Of a
    longer line, any run of the required length that contains the destination may collapse at no cost.
    """
    player = position.player
    lines_only = any_line_recovery(topology, position, player)
    cells[0] = first_extraction(position, player)
    used = 1
    for origin in range(position.cells):
        if position.marker[origin] != player:
            continue
        for direction in range(topology.ray.shape[1]):
            to = topology.ray[origin, direction]
            if to == NO_CELL:
                continue
            if not lines_only:
                striking = can_strike(topology, position, origin, to)
                if striking or can_slide(topology, position, origin, to):
                    count = _add(position, rows, count, MoveType.RECOVERY_SLIDE, origin, NO_CELL, to)
                    rows[count - 1, m.MODE] = RecoveryMode.STACK_STRIKE if striking else RecoveryMode.FALLBACK
                    rows[count - 1, m.SECOND_LENGTH] = 1
            elif can_slide(topology, position, origin, to):
                line = cells[used:]
                length = line_after_slide(topology, position, player, origin, to, line)
                if length == 0:
                    continue
                count = _add(position, rows, count, MoveType.RECOVERY_SLIDE, origin, NO_CELL, to)
                rows[count - 1, m.OPTION] = 1
                rows[count - 1, m.SECOND_LENGTH] = 1
                if length > position.line_length:
                    for start in range(length - position.line_length + 1):
                        if not contains(line[start : start + position.line_length], to):
                            continue
                        count = _add(position, rows, count, MoveType.RECOVERY_SLIDE, origin, NO_CELL, to)
                        rows[count - 1, m.OPTION] = 2
                        rows[count - 1, m.FIRST] = used + start
                        rows[count - 1, m.FIRST_LENGTH] = position.line_length
                used += length
    return count


@compiled
def _list_movements(topology, position, rows, cells):
    player = position.player
    count = 0
    for cell in range(position.cells):
        if position.owner[cell] == player and (position.must_move == NO_CELL or cell == position.must_move):
            count = _list_reach(topology, position, cell, True, MoveType.OVERTAKING_CAPTURE, rows, count)
    if may_recover(position, player):
        count = _list_recoveries(topology, position, rows, cells, count)
        count = _add_bare(topology, position, rows, count, MoveType.SKIP_RECOVERY)
    if count == 0:
        count = _add_bare(topology, position, rows, count, MoveType.NO_MOVEMENT_ACTION)
    return count


@compiled
def _list_own_stacks(position, rows, kind, context):
    count = 0
    for cell in range(position.cells):
        if position.owner[cell] == position.player:
            count = _add(position, rows, count, kind, NO_CELL, NO_CELL, cell)
            rows[count - 1, m.CONTEXT] = context
    return count


@compiled
def _add_line(position, rows, count, exact, to, first, first_length, second, second_length):
    kind = MoveType.PROCESS_LINE if exact else MoveType.CHOOSE_LINE_OPTION
    count = _add(position, rows, count, kind, NO_CELL, NO_CELL, to)
    row = rows[count - 1]
    row[m.FIRST] = first
    row[m.FIRST_LENGTH] = first_length
    row[m.SECOND] = second
    row[m.SECOND_LENGTH] = second_length
    return count


@compiled
def _list_lines(topology, position, rows, cells):
    """List lines: one of the required length as `process_line`, a longer one as `choose_line_option`.

    A longer line may collapse whole, which costs a ring, or in any run of the required length, which costs none (R122).
    """
    if position.pending_line != 0:
        return _list_own_stacks(position, rows, MoveType.ELIMINATE_RINGS_FROM_STACK, EliminationContext.LINE)
    count = 0
    used = 0
    for cell in range(position.cells):
        for index in range(topology.lines):
            direction = topology.line_directions[index]
            length = line_at(topology, position, cell, direction, position.player, cells[used:])
            if length < position.line_length:
                continue
            exact = length == position.line_length
            count = _add_line(position, rows, count, exact, cell, used, length, used, 0 if exact else length)
            if not exact:
                for start in range(length - position.line_length + 1):
                    count = _add_line(position, rows, count, False, cell, used, length, used + start, position.line_length)
            used += length
    if count == 0:
        count = _add_bare(topology, position, rows, count, MoveType.NO_LINE_ACTION)
    return count


@compiled
def _is_listed(rows, count, cells, used, length):
    """Whether the region just written at `cells[used:]` is one that an earlier row lists; equal regions are flooded alike."""
    for index in range(count):
        first = rows[index, m.FIRST]
        same = rows[index, m.FIRST_LENGTH] == length
        for i in range(length):
            if not same:
                break
            same = cells[first + i] == cells[used + i]
        if same:
            return True
    return False


@compiled
def _list_territory(topology, position, rows, cells):
    player = position.player
    recovered = recovered_this_turn(position, player)
    count = 0
    if region_is_unpaid(position, player):
        context = EliminationContext.RECOVERY if recovered else EliminationContext.TERRITORY
        for cell in range(position.cells):
            if pays_now(position, cell, player):
                count = _add(position, rows, count, MoveType.ELIMINATE_RINGS_FROM_STACK, NO_CELL, NO_CELL, cell)
                rows[count - 1, m.CONTEXT] = context
    else:
        used = 0
        length, cursor = next_region(topology, position, player, recovered, 0)
        while length > 0:
            for i in range(length):
                cells[used + i] = position.out[i]
            if not _is_listed(rows, count, cells, used, length):
                count = _add(position, rows, count, MoveType.CHOOSE_TERRITORY_OPTION, NO_CELL, NO_CELL, cells[used])
                rows[count - 1, m.FIRST] = used
                rows[count - 1, m.FIRST_LENGTH] = length
                colour = (cursor - 1) // position.cells
                rows[count - 1, m.REGION_PLAYER] = region_owner(position, colour, cells[used : used + length])
                used += length
            length, cursor = next_region(topology, position, player, recovered, cursor)
        if count > 0:
            count = _add_bare(topology, position, rows, count, MoveType.SKIP_TERRITORY_PROCESSING)
    if count == 0:
        count = _add_bare(topology, position, rows, count, MoveType.NO_TERRITORY_ACTION)
    return count


@compiled
def list_moves(topology, position, rows, cells):
    """Write every legal move of `position` into `rows` and its lists into `cells` (see `buffers`); returns how many there are.

    The result is 0 only when the game is over. `no_*_action`, which records that nothing can be done, is listed exactly where
    there is no other move but a swap of sides.
    """
    if position.status != ACTIVE:
        return 0
    phase = position.phase
    if phase == Phase.RING_PLACEMENT:
        return _list_placements(topology, position, rows)
    if phase == Phase.MOVEMENT:
        return _list_movements(topology, position, rows, cells)
    if phase == Phase.CAPTURE:
        count = 0
        if position.last_to != NO_CELL and position.owner[position.last_to] == position.player:
            count = _list_reach(topology, position, position.last_to, False, MoveType.OVERTAKING_CAPTURE, rows, 0)
        return _add_bare(topology, position, rows, count, MoveType.SKIP_CAPTURE)
    if phase == Phase.CHAIN_CAPTURE:
        return _list_reach(topology, position, position.chain, False, MoveType.CONTINUE_CAPTURE_SEGMENT, rows, 0)
    if phase == Phase.LINE_PROCESSING:
        return _list_lines(topology, position, rows, cells)
    if phase == Phase.TERRITORY_PROCESSING:
        return _list_territory(topology, position, rows, cells)
    return _list_own_stacks(position, rows, MoveType.FORCED_ELIMINATION, EliminationContext.UNSTATED)
