"""Playing a move: its effect, the phase and player that follow, and how games end.

`play` does not ask whether the move is legal; `legality.fault` does. Sources: RR-CANON-R070..R075 (phases), R100 (forced
elimination), R170..R173 (victory), R172 (last player standing).
"""

from __future__ import annotations

from enum import IntEnum

from ringrift_dagster.games import moves as m
from ringrift_dagster.games.geometry import NO_CELL
from ringrift_dagster.games.moves import EliminationContext, MoveType, Phase, RecoveryMode
from ringrift_dagster.games.position import ACTIVE, COMPLETED
from ringrift_dagster.games.rules.compiled import compiled
from ringrift_dagster.games.rules.legality import has_line_move, has_territory_move
from ringrift_dagster.games.rules.lines import find_line_from
from ringrift_dagster.games.rules.reach import captures_from, has_real_action
from ringrift_dagster.games.rules.recovery import first_extraction, line_after_slide
from ringrift_dagster.games.rules.stacks import (
    add_rings,
    collapse,
    controls_stack,
    cross_markers,
    eliminate_top,
    extract_buried,
    has_rings,
    land,
    move_stack,
    return_rings,
    slip_under,
    take_top_ring,
)
from ringrift_dagster.games.rules.territory import find_border


class Ending(IntEnum):
    """What ended a game (R170..R173)."""

    NONE = 0
    ELIMINATION = 1
    TERRITORY = 2
    LAST_PLAYER_STANDING = 3
    STALEMATE = 4
    RESIGNATION = 5
    TIMEOUT = 6


@compiled
def _capture(topology, position, row):
    player, origin, target, to = row[m.PLAYER], row[m.ORIGIN], row[m.TARGET], row[m.TO]
    cross_markers(topology, position, origin, target, player)
    cross_markers(topology, position, target, to, player)
    position.marker[origin] = player
    captured = take_top_ring(position, target)
    move_stack(position, origin, to)
    slip_under(position, to, captured)
    land(position, to, player)
    position.chain = to


@compiled
def _process_line(topology, position, row, cells):
    player = row[m.PLAYER]
    line = cells[row[m.FIRST] : row[m.FIRST] + row[m.FIRST_LENGTH]]
    if len(line) == 0:
        out = position.out
        line = out[: find_line_from(topology, position, player, row[m.TO], out)].copy()
    collapsing = line
    if row[m.TYPE] == MoveType.CHOOSE_LINE_OPTION:
        if row[m.SECOND_LENGTH] > 0:
            collapsing = cells[row[m.SECOND] : row[m.SECOND] + row[m.SECOND_LENGTH]]
        elif row[m.COUNT] == 1 or row[m.COUNT] == m.NOT_GIVEN or row[m.COUNT] == 0:
            collapsing = line[: position.line_length]
    for i in range(len(collapsing)):
        return_rings(position, collapsing[i])
        collapse(position, collapsing[i], player)
        position.territory[player] += 1
    if len(collapsing) >= len(line) and controls_stack(position, player):
        position.pending_line = 1


@compiled
def _claim_region(topology, position, row, cells):
    player = row[m.PLAYER]
    region = cells[row[m.FIRST] : row[m.FIRST] + row[m.FIRST_LENGTH]]
    border = position.out
    around = find_border(topology, position, region, border)
    for i in range(len(region)):
        eliminate_top(position, region[i], player, position.height[region[i]])
        collapse(position, region[i], player)
    for i in range(around):
        collapse(position, border[i], player)
    position.territory[player] += len(region) + around


@compiled
def _recover(topology, position, row, cells):
    player, origin, to, mode = row[m.PLAYER], row[m.ORIGIN], row[m.TO], row[m.MODE]
    costs = True
    if mode == RecoveryMode.STACK_STRIKE:
        position.marker[origin] = 0
        eliminate_top(position, to, player, 1)
    elif mode == RecoveryMode.FALLBACK:
        position.marker[origin] = 0
        position.marker[to] = player
    else:
        line = position.out
        length = line_after_slide(topology, position, player, origin, to, line)
        collapsing = line[:length]
        if row[m.OPTION] == 2:
            costs = False
            collapsing = cells[row[m.FIRST] : row[m.FIRST] + row[m.FIRST_LENGTH]]
        position.marker[origin] = 0
        position.marker[to] = player
        for i in range(len(collapsing)):
            collapse(position, collapsing[i], player)
        position.territory[player] += len(collapsing)
    if costs:
        source = cells[row[m.SECOND]] if row[m.SECOND_LENGTH] > 0 else first_extraction(position, player)
        if source >= 0 and position.height[source] > 0:
            extract_buried(position, source, player)


@compiled
def _eliminate(position, row):
    player, to, context = row[m.PLAYER], row[m.TO], row[m.CONTEXT]
    if context == EliminationContext.RECOVERY:
        extract_buried(position, to, player)
    elif context == EliminationContext.LINE:
        eliminate_top(position, to, player, 1)
        position.pending_line = 0
    else:
        eliminate_top(position, to, player, position.cap[to])


@compiled
def _apply(topology, position, row, cells):
    """The move's effect on the board and the players' counts."""
    kind, player = row[m.TYPE], row[m.PLAYER]
    if kind == MoveType.PLACE_RING:
        count = 1 if row[m.COUNT] == m.NOT_GIVEN else row[m.COUNT]
        add_rings(position, row[m.TO], player, count)
        position.hand[player] -= count
    elif kind == MoveType.MOVE_STACK:
        cross_markers(topology, position, row[m.ORIGIN], row[m.TO], player)
        position.marker[row[m.ORIGIN]] = player
        move_stack(position, row[m.ORIGIN], row[m.TO])
        land(position, row[m.TO], player)
    elif kind == MoveType.OVERTAKING_CAPTURE or kind == MoveType.CONTINUE_CAPTURE_SEGMENT:
        _capture(topology, position, row)
    elif kind == MoveType.PROCESS_LINE or kind == MoveType.CHOOSE_LINE_OPTION:
        _process_line(topology, position, row, cells)
    elif kind == MoveType.CHOOSE_TERRITORY_OPTION:
        _claim_region(topology, position, row, cells)
    elif kind == MoveType.RECOVERY_SLIDE:
        _recover(topology, position, row, cells)
    elif kind == MoveType.ELIMINATE_RINGS_FROM_STACK or kind == MoveType.FORCED_ELIMINATION:
        _eliminate(position, row)


@compiled
def _changes_board(kind):
    """Moves that count as an action, so that no forced elimination follows (R072, R100)."""
    return not (
        kind == MoveType.NO_PLACEMENT_ACTION
        or kind == MoveType.NO_MOVEMENT_ACTION
        or kind == MoveType.NO_LINE_ACTION
        or kind == MoveType.NO_TERRITORY_ACTION
        or kind == MoveType.SKIP_PLACEMENT
        or kind == MoveType.SKIP_TERRITORY_PROCESSING
        or kind == MoveType.SKIP_CAPTURE
        or kind == MoveType.SKIP_RECOVERY
    )


@compiled
def _remember(position, row, cells):
    """What later moves need to know of this one."""
    kind, player = row[m.TYPE], row[m.PLAYER]
    if position.last_player != player:
        position.acted = 0
        position.recovered = 0
    position.last_player = player
    position.last_to = row[m.TO]
    if _changes_board(kind):
        position.acted = 1
    if kind == MoveType.RECOVERY_SLIDE:
        position.recovered = 1
    if position.region_pending != 0:
        position.region_pending = 0
        position.region[:] = 0
    if kind == MoveType.CHOOSE_TERRITORY_OPTION:
        position.region_pending = 1
        for i in range(row[m.FIRST], row[m.FIRST] + row[m.FIRST_LENGTH]):
            position.region[cells[i]] = 1
    if kind == MoveType.SWAP_SIDES:
        position.swapped = 1
    elif player == 1:
        position.first_moved = 1
    elif player == 2:
        position.second_moved = 1
    if kind == MoveType.PLACE_RING:
        position.must_move = row[m.TO]
    elif position.must_move != NO_CELL and row[m.ORIGIN] == position.must_move:
        position.must_move = row[m.TO]


@compiled
def _finish(position, winner):
    position.status = COMPLETED
    position.winner = winner
    if winner > 0:
        position.player = winner
    position.phase = Phase.GAME_OVER


@compiled
def _stalemate_winner(position, hand_counts):
    """Most territory, then eliminated rings, then markers, then whoever moved last (R173)."""
    best = 0
    best_score = (-1, -1, -1, -1)
    for player in range(1, position.players + 1):
        spaces = 0
        markers = 0
        for cell in range(position.cells):
            spaces += 1 if position.collapsed[cell] == player else 0
            markers += 1 if position.marker[cell] == player else 0
        eliminated = position.eliminated[player] + (position.hand[player] if hand_counts else 0)
        score = (spaces, eliminated, markers, 1 if position.last_player == player else 0)
        if score > best_score:
            best = player
            best_score = score
    return best


@compiled
def _any_bare_placement(topology, position):
    """With no stack on the board: whether anyone with rings in hand finds a place that a ring could move from."""
    for player in range(1, position.players + 1):
        if position.hand[player] > 0:
            for cell in range(position.cells):
                if position.collapsed[cell] == 0 and position.marker[cell] == 0:
                    for direction in range(topology.ray.shape[1]):
                        beside = topology.ray[cell, direction]
                        if beside != NO_CELL and position.collapsed[beside] == 0:
                            return True
    return False


@compiled
def _victory(topology, position):
    """(Ending, winner) by eliminated rings, territory, as the only one with rings, or by stalemate score; else NONE."""
    for player in range(1, position.players + 1):
        if position.eliminated[player] >= position.victory_threshold:
            return Ending.ELIMINATION, player
    total = 0
    for cell in range(position.cells):
        total += 1 if position.collapsed[cell] != 0 else 0
    if total >= position.territory_minimum:
        for player in range(1, position.players + 1):
            own = 0
            for cell in range(position.cells):
                own += 1 if position.collapsed[cell] == player else 0
            if own >= position.territory_minimum and own > total - own:
                return Ending.TERRITORY, player
    sole_owner = 0
    stacks = 0
    for cell in range(position.cells):
        owner = position.owner[cell]
        if owner != 0:
            stacks += 1
            if sole_owner == 0:
                sole_owner = owner
            elif sole_owner != owner:
                return Ending.NONE, 0
    if stacks > 0:
        for player in range(1, position.players + 1):
            if player != sole_owner and has_rings(position, player):
                return Ending.NONE, 0
        return Ending.LAST_PLAYER_STANDING, sole_owner
    in_hand = False
    for player in range(1, position.players + 1):
        in_hand = in_hand or position.hand[player] > 0
    if not in_hand:
        return Ending.STALEMATE, _stalemate_winner(position, False)
    if not _any_bare_placement(topology, position):
        return Ending.STALEMATE, _stalemate_winner(position, True)
    return Ending.NONE, 0


@compiled
def check_victory(topology, position):
    """End the game if someone has won: by eliminated rings, territory, as the only one with rings, or by stalemate score."""
    ending, winner = _victory(topology, position)
    if ending != Ending.NONE:
        _finish(position, winner)


@compiled
def ending_of(topology, position, kind):
    """The Ending of a finished game, from its last position and the type of its last move."""
    if position.status == ACTIVE:
        return Ending.NONE
    if kind == MoveType.RESIGN:
        return Ending.RESIGNATION
    if kind == MoveType.TIMEOUT:
        return Ending.TIMEOUT
    ending, _ = _victory(topology, position)
    # What ends a game and cannot be seen on the board is three rounds in which only the winner could act.
    return ending if ending != Ending.NONE else Ending.LAST_PLAYER_STANDING


@compiled
def _count_lps_round(topology, position):
    """Keep the record of rounds in which only one player had a real action; called when a turn starts (R172)."""
    current = position.player
    if position.lps_first == 0 or not has_rings(position, position.lps_first):
        position.lps_first = current
        position.lps_mask[:] = 0
        if position.lps_player == 0 or not has_rings(position, position.lps_player):
            position.lps_rounds = 0
            position.lps_player = 0
    elif current == position.lps_first and position.lps_mask.any():
        acting = 0
        exclusive = 0
        for player in range(1, position.players + 1):
            if has_rings(position, player) and position.lps_mask[player] == 2:
                acting += 1
                exclusive = player
        if acting != 1:
            position.lps_rounds = 0
            position.lps_player = 0
        elif exclusive == position.lps_player:
            position.lps_rounds += 1
        else:
            position.lps_player = exclusive
            position.lps_rounds = 1
        position.lps_mask[:] = 0
    position.lps_mask[current] = 2 if has_real_action(topology, position, current) else 1


@compiled
def _last_player_stands(topology, position):
    if position.lps_rounds < position.lps_required or position.lps_player == 0 or position.player != position.lps_player:
        return False
    if not has_real_action(topology, position, position.player):
        return False
    for player in range(1, position.players + 1):
        if player != position.player and has_rings(position, player) and has_real_action(topology, position, player):
            return False
    return True


@compiled
def _end_turn(topology, position):
    """Pass the turn to the next player who has a ring anywhere, possibly the same one (R201)."""
    position.chain = NO_CELL
    position.must_move = NO_CELL
    position.phase = Phase.RING_PLACEMENT
    for step in range(position.players):
        candidate = (position.player + step) % position.players + 1
        if has_rings(position, candidate):
            position.player = candidate
            _count_lps_round(topology, position)
            if _last_player_stands(topology, position):
                _finish(position, candidate)
            return


@compiled
def _to_line_processing(position):
    position.chain = NO_CELL
    position.must_move = NO_CELL
    position.phase = Phase.LINE_PROCESSING


@compiled
def _must_eliminate(position, player):
    """No action in the whole turn, and a stack to pay with (R100)."""
    return position.acted == 0 and controls_stack(position, player)


@compiled
def _leave_territory_processing(topology, position):
    if _must_eliminate(position, position.player):
        position.phase = Phase.FORCED_ELIMINATION
        return
    check_victory(topology, position)
    if position.status == ACTIVE:
        _end_turn(topology, position)


@compiled
def _leave_line_processing(topology, position):
    if position.pending_line != 0:
        return
    if _must_eliminate(position, position.player) and not has_territory_move(topology, position, position.player):
        position.phase = Phase.FORCED_ELIMINATION
    else:
        position.phase = Phase.TERRITORY_PROCESSING


@compiled
def _advance(topology, position, row):
    """The phase, and if the turn ends the player, that follow the move just applied."""
    kind, to = row[m.TYPE], row[m.TO]
    player = position.player
    if kind == MoveType.PLACE_RING or kind == MoveType.SKIP_PLACEMENT or kind == MoveType.NO_PLACEMENT_ACTION:
        position.phase = Phase.MOVEMENT
    elif kind == MoveType.MOVE_STACK:
        position.chain = NO_CELL
        if position.owner[to] == player and captures_from(topology, position, to):
            position.phase = Phase.CAPTURE
        else:
            _to_line_processing(position)
    elif kind == MoveType.OVERTAKING_CAPTURE or kind == MoveType.CONTINUE_CAPTURE_SEGMENT:
        if position.owner[to] == player and captures_from(topology, position, to):
            position.phase = Phase.CHAIN_CAPTURE
        else:
            _to_line_processing(position)
    elif (
        kind == MoveType.NO_MOVEMENT_ACTION
        or kind == MoveType.SKIP_CAPTURE
        or kind == MoveType.RECOVERY_SLIDE
        or kind == MoveType.SKIP_RECOVERY
    ):
        _to_line_processing(position)
    elif kind == MoveType.PROCESS_LINE or kind == MoveType.CHOOSE_LINE_OPTION:
        if not has_line_move(topology, position, player):
            _leave_line_processing(topology, position)
    elif kind == MoveType.NO_LINE_ACTION:
        _leave_line_processing(topology, position)
    elif kind == MoveType.ELIMINATE_RINGS_FROM_STACK:
        # After a line reward the turn stays here until no_line_action is recorded.
        if position.phase == Phase.TERRITORY_PROCESSING and not has_territory_move(topology, position, player):
            _leave_territory_processing(topology, position)
    elif kind == MoveType.CHOOSE_TERRITORY_OPTION:
        if not has_territory_move(topology, position, player):
            _leave_territory_processing(topology, position)
    elif kind == MoveType.SKIP_TERRITORY_PROCESSING or kind == MoveType.NO_TERRITORY_ACTION:
        _leave_territory_processing(topology, position)
    elif kind == MoveType.FORCED_ELIMINATION:
        _end_turn(topology, position)


@compiled
def play(topology, position, row, cells):
    """Play the packed move `row`: change `position` into the one that follows."""
    kind = row[m.TYPE]
    if kind == MoveType.RESIGN or kind == MoveType.TIMEOUT:
        _remember(position, row, cells)
        _finish(position, 3 - row[m.PLAYER] if position.players == 2 else 0)
        return
    _apply(topology, position, row, cells)
    _remember(position, row, cells)
    _advance(topology, position, row)
    check_victory(topology, position)
