"""Where stacks can go: movement, capture and placement (RR-CANON-R080..R103).

Existence and validity of single moves belong here; which of them a phase offers is in `legality`.
"""

from __future__ import annotations

from ringrift_dagster.games.geometry import NO_CELL
from ringrift_dagster.games.rules.compiled import compiled


@compiled
def path_is_open(topology, position, origin, to):
    """No stack and no collapsed space strictly between two cells in line."""
    direction = topology.direction[origin, to]
    cell = topology.ray[origin, direction]
    while cell != to:
        if position.height[cell] > 0 or position.collapsed[cell] != 0:
            return False
        cell = topology.ray[cell, direction]
    return True


@compiled
def is_free(position, cell):
    """A stack may come to stand here; markers do not hinder."""
    return position.height[cell] == 0 and position.collapsed[cell] == 0


@compiled
def can_move(topology, position, origin, to):
    """A stack moves in a straight line at least as far as it is high, over open ground, to a free cell (R090, R091)."""
    return (
        topology.direction[origin, to] >= 0
        and topology.distance[origin, to] >= position.height[origin]
        and is_free(position, to)
        and path_is_open(topology, position, origin, to)
    )


@compiled
def can_capture(topology, position, origin, target, to):
    """Jump over one stack whose cap is no higher, landing beyond it at least as far as the capturing stack is high (R101)."""
    direction = topology.direction[origin, target]
    return (
        direction >= 0
        and topology.direction[origin, to] == direction
        and topology.distance[origin, to] > topology.distance[origin, target]
        and topology.distance[origin, to] >= position.height[origin]
        and position.height[target] > 0
        and position.cap[origin] >= position.cap[target]
        and is_free(position, to)
        and path_is_open(topology, position, origin, target)
        and path_is_open(topology, position, target, to)
    )


@compiled
def _moves_somewhere(topology, position, origin, height, merge):
    """A stack of `height` at `origin` could move; with `merge`, ending on a stack counts."""
    for direction in range(topology.ray.shape[1]):
        cell = origin
        for step in range(1, height + 1):
            cell = topology.ray[cell, direction]
            if cell == NO_CELL or position.collapsed[cell] != 0:
                break
            if position.height[cell] > 0:
                if merge and step == height:
                    return True
                break
            if step == height:
                return True
    return False


@compiled
def _captures_somewhere(topology, position, origin, height, cap, landing_limit):
    for direction in range(topology.ray.shape[1]):
        cell = topology.ray[origin, direction]
        distance = 1
        while cell != NO_CELL and is_free(position, cell):
            cell = topology.ray[cell, direction]
            distance += 1
        if cell == NO_CELL or position.collapsed[cell] != 0 or position.cap[cell] > cap:
            continue
        for _ in range(landing_limit):
            cell = topology.ray[cell, direction]
            distance += 1
            if cell == NO_CELL or not is_free(position, cell):
                break
            if distance >= height:
                return True
    return False


@compiled
def captures_from(topology, position, origin):
    """Whether the stack at `origin` has any capture."""
    return _captures_somewhere(topology, position, origin, position.height[origin], position.cap[origin], topology.width)


@compiled
def moves_from(topology, position, origin):
    """Whether the stack at `origin` has any non-capturing move."""
    return _moves_somewhere(topology, position, origin, position.height[origin], False)


@compiled
def could_act_after_skipping(topology, position, origin):
    """Whether the stack at `origin` can move or capture, so that placement may be skipped (R080)."""
    if position.loose_placement != 0:
        height = position.height[origin]
        return _moves_somewhere(topology, position, origin, height, True) or _captures_somewhere(
            topology, position, origin, height, position.cap[origin], height + 5
        )
    return moves_from(topology, position, origin) or captures_from(topology, position, origin)


@compiled
def any_movement(topology, position, player, must_move):
    """Whether `player` can move or capture with any stack, or with the one that `must_move` names."""
    for cell in range(position.cells):
        if position.owner[cell] == player and (must_move == NO_CELL or cell == must_move):
            if moves_from(topology, position, cell) or captures_from(topology, position, cell):
                return True
    return False


@compiled
def placeable_rings(position, player):
    """How many rings `player` may still place: in hand, and not beyond the supply that may stand on the board (R082)."""
    supply = position.rings_per_player - position.on_board[player]
    return min(supply, position.hand[player])


@compiled
def placement_limit(position, player, cell):
    """The most rings that the supply and the cell allow at once: 3 on an empty space, 1 on a stack, else none (R080, R081)."""
    if position.collapsed[cell] != 0 or position.marker[cell] != 0:
        return 0
    return min(placeable_rings(position, player), 1 if position.height[cell] > 0 else 3)


@compiled
def acts_after_placing(topology, position, player, cell, count):
    """Whether the stack that `count` rings of `player` make at `cell` could move or capture; else it is a dead placement (R082)."""
    height = position.height[cell] + count
    cap = count + (position.cap[cell] if position.owner[cell] == player else 0)
    return _moves_somewhere(topology, position, cell, height, False) or _captures_somewhere(
        topology, position, cell, height, cap, topology.width
    )


@compiled
def most_rings_at(topology, position, player, cell):
    """The most rings that may be placed at `cell` at once; 0 = no placement (R080..R083)."""
    count = placement_limit(position, player, cell)
    while count > 0 and not acts_after_placing(topology, position, player, cell, count):
        count -= 1
    return count


@compiled
def can_place(topology, position, player, cell, count):
    """Whether `count` rings may be placed at `cell` (R080..R083)."""
    if count < 1 or count > placement_limit(position, player, cell):
        return False
    if position.loose_placement != 0:
        return count <= most_rings_at(topology, position, player, cell)
    return acts_after_placing(topology, position, player, cell, count)


@compiled
def any_placement(topology, position, player):
    """Whether `player` has a legal placement anywhere."""
    if placeable_rings(position, player) <= 0:
        return False
    for cell in range(position.cells):
        if most_rings_at(topology, position, player, cell) > 0:
            return True
    return False


@compiled
def has_real_action(topology, position, player):
    """Placement, movement or capture: what counts for last-player-standing. Recovery does not (R172)."""
    return any_placement(topology, position, player) or any_movement(topology, position, player, NO_CELL)
