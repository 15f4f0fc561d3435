"""Whether a move is in the legal set of the position it is played in.

`fault` asks it for one move, exactly, without listing the others. Which phases allow which types is `CONTRACT`
(RR-CANON-R070..R075, the history contract of both engines).
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from ringrift_dagster.games import moves as m
from ringrift_dagster.games.geometry import NO_CELL
from ringrift_dagster.games.moves import EliminationContext, MoveType, Phase, RecoveryMode
from ringrift_dagster.games.position import ACTIVE
from ringrift_dagster.games.rules.compiled import compiled
from ringrift_dagster.games.rules.lines import contains, find_line_from, has_line, is_line, is_run_of
from ringrift_dagster.games.rules.reach import (
    any_movement,
    any_placement,
    can_capture,
    can_move,
    can_place,
    could_act_after_skipping,
)
from ringrift_dagster.games.rules.recovery import (
    any_line_recovery,
    can_slide,
    can_strike,
    line_after_slide,
    may_recover,
)
from ringrift_dagster.games.rules.stacks import controls_stack, has_buried_ring
from ringrift_dagster.games.rules.territory import has_claimable_region, is_claimable, pays_for_region

_ALLOWED: dict[Phase, tuple[MoveType, ...]] = {
    Phase.RING_PLACEMENT: (
        MoveType.PLACE_RING,
        MoveType.SKIP_PLACEMENT,
        MoveType.NO_PLACEMENT_ACTION,
        MoveType.SWAP_SIDES,
    ),
    Phase.MOVEMENT: (
        MoveType.MOVE_STACK,
        MoveType.OVERTAKING_CAPTURE,
        MoveType.RECOVERY_SLIDE,
        MoveType.SKIP_RECOVERY,
        MoveType.NO_MOVEMENT_ACTION,
    ),
    Phase.CAPTURE: (MoveType.OVERTAKING_CAPTURE, MoveType.SKIP_CAPTURE),
    Phase.CHAIN_CAPTURE: (MoveType.CONTINUE_CAPTURE_SEGMENT,),
    Phase.LINE_PROCESSING: (
        MoveType.PROCESS_LINE,
        MoveType.CHOOSE_LINE_OPTION,
        MoveType.NO_LINE_ACTION,
        MoveType.ELIMINATE_RINGS_FROM_STACK,
    ),
    Phase.TERRITORY_PROCESSING: (
        MoveType.CHOOSE_TERRITORY_OPTION,
        MoveType.ELIMINATE_RINGS_FROM_STACK,
        MoveType.SKIP_TERRITORY_PROCESSING,
        MoveType.NO_TERRITORY_ACTION,
    ),
    Phase.FORCED_ELIMINATION: (MoveType.FORCED_ELIMINATION,),
}
ALWAYS_ALLOWED = (MoveType.RESIGN, MoveType.TIMEOUT)

CONTRACT = np.zeros((len(Phase), len(MoveType)), dtype=np.bool_)
"""CONTRACT[phase, move type]: the pairs that a canonical record may contain."""
for _phase, _types in _ALLOWED.items():
    CONTRACT[_phase, list(_types + ALWAYS_ALLOWED)] = True


class Fault(IntEnum):
    """Why a move is not legal."""

    NONE = 0
    GAME_IS_OVER = 1
    WRONG_PLAYER = 2
    WRONG_PHASE = 3
    NOT_IN_PHASE = 4
    OFF_BOARD = 5
    NOT_PLACEABLE = 6
    NOT_OWN_STACK = 7
    OBLIGED_STACK = 8
    UNREACHABLE = 9
    NO_CAPTURE = 10
    CANNOT_SKIP = 11
    ACTION_AVAILABLE = 12
    NOT_A_LINE = 13
    LINE_UNPAID = 14
    NOTHING_TO_PAY = 15
    NOT_A_REGION = 16
    REGION_UNPAID = 17
    NO_RECOVERY = 18
    NO_SWAP = 19


FAULT_TEXT: dict[Fault, str] = {
    Fault.GAME_IS_OVER: "the game is over",
    Fault.WRONG_PLAYER: "it is another player's turn",
    Fault.WRONG_PHASE: "the position is in another phase",
    Fault.NOT_IN_PHASE: "this phase does not allow the move type",
    Fault.OFF_BOARD: "a cell is missing or off the board",
    Fault.NOT_PLACEABLE: "rings cannot be placed there in that number",
    Fault.NOT_OWN_STACK: "the player does not control a stack there",
    Fault.OBLIGED_STACK: "another stack has to move",
    Fault.UNREACHABLE: "the stack cannot move there",
    Fault.NO_CAPTURE: "not a capture from there",
    Fault.CANNOT_SKIP: "there is nothing to skip to",
    Fault.ACTION_AVAILABLE: "the player has an action",
    Fault.NOT_A_LINE: "not a line of the player",
    Fault.LINE_UNPAID: "a line reward has to be paid for first",
    Fault.NOTHING_TO_PAY: "no ring has to be eliminated there",
    Fault.NOT_A_REGION: "not a region that the player may claim",
    Fault.REGION_UNPAID: "a claimed region has to be paid for first",
    Fault.NO_RECOVERY: "not a recovery that the player has",
    Fault.NO_SWAP: "sides cannot be swapped now",
}


@compiled
def recovered_this_turn(position, player):
    """Whether the run of moves that `player` is making began with a recovery slide."""
    return position.last_player == player and position.recovered != 0


@compiled
def region_is_unpaid(position, player):
    """Whether the last move claimed a region, so that `player` has to pay for it (R145)."""
    return position.region_pending != 0 and position.last_player == player


@compiled
def pays_now(position, cell, player):
    """Whether the stack at `cell` may pay for the region just claimed."""
    return (
        position.height[cell] > 0
        and position.region[cell] == 0
        and pays_for_region(position, cell, player, recovered_this_turn(position, player))
    )


@compiled
def has_territory_move(topology, position, player):
    """Whether territory processing offers `player` anything but its bookkeeping move."""
    if region_is_unpaid(position, player):
        for cell in range(position.cells):
            if pays_now(position, cell, player):
                return True
        return False
    return has_claimable_region(topology, position, player, recovered_this_turn(position, player))


@compiled
def has_line_move(topology, position, player):
    """Whether line processing offers `player` anything but its bookkeeping move."""
    if position.pending_line != 0:
        return controls_stack(position, player)
    return has_line(topology, position, player)


@compiled
def may_swap(position):
    """Whether player 2 may take over the first player's side instead of placing (the pie rule, R180)."""
    return (
        position.swap_rule != 0
        and position.players == 2
        and position.player == 2
        and position.phase <= Phase.CHAIN_CAPTURE
        and position.first_moved != 0
        and position.second_moved == 0
        and position.swapped == 0
    )


@compiled
def may_skip_placement(topology, position, player):
    """Whether `player` has rings to place but may go on to movement without (R081, R110)."""
    if position.hand[player] <= 0:
        return False
    if not controls_stack(position, player):
        return may_recover(position, player)
    for cell in range(position.cells):
        if position.owner[cell] == player and could_act_after_skipping(topology, position, cell):
            return True
    return False


@compiled
def _stack_fault(position, player, cell):
    if cell < 0:
        return Fault.OFF_BOARD
    if position.owner[cell] != player:
        return Fault.NOT_OWN_STACK
    return Fault.NONE


@compiled
def _capture_fault(topology, position, row):
    player, origin, target, to = row[m.PLAYER], row[m.ORIGIN], row[m.TARGET], row[m.TO]
    if origin < 0 or target < 0 or to < 0:
        return Fault.OFF_BOARD
    if position.owner[origin] != player:
        return Fault.NOT_OWN_STACK
    if position.phase == Phase.MOVEMENT:
        obliged = position.must_move
    elif position.phase == Phase.CAPTURE:
        obliged = position.last_to
    else:
        obliged = position.chain
    if obliged != NO_CELL and origin != obliged:
        return Fault.OBLIGED_STACK
    if not can_capture(topology, position, origin, target, to):
        return Fault.NO_CAPTURE
    return Fault.NONE


@compiled
def _line_fault(topology, position, row, cells):
    player = row[m.PLAYER]
    if position.pending_line != 0:
        return Fault.LINE_UNPAID
    line = cells[row[m.FIRST] : row[m.FIRST] + row[m.FIRST_LENGTH]]
    if len(line) == 0:
        out = position.out
        line = out[: find_line_from(topology, position, player, row[m.TO], out)].copy()
        if len(line) == 0:
            return Fault.NOT_A_LINE
    elif not is_line(topology, position, player, line):
        return Fault.NOT_A_LINE
    if row[m.TO] != line[0]:
        return Fault.NOT_A_LINE
    collapsing = cells[row[m.SECOND] : row[m.SECOND] + row[m.SECOND_LENGTH]]
    if row[m.TYPE] == MoveType.CHOOSE_LINE_OPTION and len(collapsing) > 0:
        if not is_run_of(line, collapsing, position.line_length):
            return Fault.NOT_A_LINE
    return Fault.NONE


@compiled
def _elimination_fault(position, row):
    player, to = row[m.PLAYER], row[m.TO]
    if to < 0:
        return Fault.OFF_BOARD
    if position.phase == Phase.LINE_PROCESSING:
        if position.pending_line == 0 or row[m.CONTEXT] != EliminationContext.LINE:
            return Fault.NOTHING_TO_PAY
        return _stack_fault(position, player, to)
    if not region_is_unpaid(position, player):
        return Fault.NOTHING_TO_PAY
    context = EliminationContext.RECOVERY if recovered_this_turn(position, player) else EliminationContext.TERRITORY
    stated = EliminationContext.TERRITORY if row[m.CONTEXT] == EliminationContext.UNSTATED else row[m.CONTEXT]
    if stated != context or not pays_now(position, to, player):
        return Fault.NOTHING_TO_PAY
    return Fault.NONE


@compiled
def _recovery_fault(topology, position, row, cells):
    player, origin, to = row[m.PLAYER], row[m.ORIGIN], row[m.TO]
    if origin < 0 or to < 0:
        return Fault.OFF_BOARD
    if position.marker[origin] != player or not may_recover(position, player):
        return Fault.NO_RECOVERY
    if row[m.SECOND_LENGTH] > 1:
        return Fault.NO_RECOVERY
    if row[m.SECOND_LENGTH] == 1:
        extraction = cells[row[m.SECOND]]
        if extraction < 0 or not has_buried_ring(position, extraction, player):
            return Fault.NO_RECOVERY
    mode = row[m.MODE]
    striking = mode == RecoveryMode.STACK_STRIKE
    if not (can_strike(topology, position, origin, to) if striking else can_slide(topology, position, origin, to)):
        return Fault.NO_RECOVERY
    if mode != RecoveryMode.LINE:
        return Fault.NO_RECOVERY if any_line_recovery(topology, position, player) else Fault.NONE
    line = position.out
    length = line_after_slide(topology, position, player, origin, to, line)
    if length == 0:
        return Fault.NO_RECOVERY
    if row[m.OPTION] == 2:
        required = position.line_length
        kept = cells[row[m.FIRST] : row[m.FIRST] + row[m.FIRST_LENGTH]]
        if length <= required or len(kept) != required or not is_run_of(line[:length], kept, required):
            return Fault.NO_RECOVERY
        if not contains(kept, to):
            return Fault.NO_RECOVERY
    elif row[m.OPTION] != 1 and row[m.OPTION] != m.NOT_GIVEN:
        return Fault.NO_RECOVERY
    return Fault.NONE


@compiled
def fault(topology, position, row, cells):
    """Why the packed move `row` may not be played in `position`, or Fault.NONE."""
    kind, player, to = row[m.TYPE], row[m.PLAYER], row[m.TO]
    if position.status != ACTIVE:
        return Fault.GAME_IS_OVER
    if player != position.player:
        return Fault.WRONG_PLAYER
    if row[m.PHASE] != m.NOT_GIVEN and row[m.PHASE] != position.phase:
        return Fault.WRONG_PHASE
    if kind < 0 or not CONTRACT[position.phase, kind]:
        return Fault.NOT_IN_PHASE

    if kind == MoveType.PLACE_RING:
        if to < 0:
            return Fault.OFF_BOARD
        count = 1 if row[m.COUNT] == m.NOT_GIVEN else row[m.COUNT]
        if not can_place(topology, position, player, to, count):
            return Fault.NOT_PLACEABLE
    elif kind == MoveType.SKIP_PLACEMENT:
        if not may_skip_placement(topology, position, player):
            return Fault.CANNOT_SKIP
    elif kind == MoveType.NO_PLACEMENT_ACTION:
        if any_placement(topology, position, player) or may_skip_placement(topology, position, player):
            return Fault.ACTION_AVAILABLE
    elif kind == MoveType.SWAP_SIDES:
        if not may_swap(position):
            return Fault.NO_SWAP
    elif kind == MoveType.MOVE_STACK:
        origin = row[m.ORIGIN]
        if origin < 0 or to < 0:
            return Fault.OFF_BOARD
        if position.owner[origin] != player:
            return Fault.NOT_OWN_STACK
        if position.must_move != NO_CELL and origin != position.must_move:
            return Fault.OBLIGED_STACK
        if not can_move(topology, position, origin, to):
            return Fault.UNREACHABLE
    elif kind == MoveType.OVERTAKING_CAPTURE or kind == MoveType.CONTINUE_CAPTURE_SEGMENT:
        return _capture_fault(topology, position, row)
    elif kind == MoveType.NO_MOVEMENT_ACTION:
        if any_movement(topology, position, player, position.must_move) or may_recover(position, player):
            return Fault.ACTION_AVAILABLE
    elif kind == MoveType.RECOVERY_SLIDE:
        return _recovery_fault(topology, position, row, cells)
    elif kind == MoveType.SKIP_RECOVERY:
        if not may_recover(position, player):
            return Fault.CANNOT_SKIP
    elif kind == MoveType.PROCESS_LINE or kind == MoveType.CHOOSE_LINE_OPTION:
        return _line_fault(topology, position, row, cells)
    elif kind == MoveType.NO_LINE_ACTION:
        if has_line_move(topology, position, player):
            return Fault.ACTION_AVAILABLE
    elif kind == MoveType.ELIMINATE_RINGS_FROM_STACK:
        return _elimination_fault(position, row)
    elif kind == MoveType.CHOOSE_TERRITORY_OPTION:
        if region_is_unpaid(position, player):
            return Fault.REGION_UNPAID
        region = cells[row[m.FIRST] : row[m.FIRST] + row[m.FIRST_LENGTH]]
        if not is_claimable(topology, position, region, player, recovered_this_turn(position, player)):
            return Fault.NOT_A_REGION
    elif kind == MoveType.SKIP_TERRITORY_PROCESSING:
        if region_is_unpaid(position, player):
            return Fault.REGION_UNPAID
        if not has_territory_move(topology, position, player):
            return Fault.CANNOT_SKIP
    elif kind == MoveType.NO_TERRITORY_ACTION:
        if has_territory_move(topology, position, player):
            return Fault.ACTION_AVAILABLE
    elif kind == MoveType.FORCED_ELIMINATION:
        return _stack_fault(position, player, to)
    return Fault.NONE
