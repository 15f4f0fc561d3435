"""Recovery: what a player without stacks can still do with markers and buried rings (RR-CANON-R110..R115)."""

from __future__ import annotations

from ringrift_dagster.games.geometry import NO_CELL
from ringrift_dagster.games.rules.compiled import compiled
from ringrift_dagster.games.rules.lines import find_line
from ringrift_dagster.games.rules.stacks import controls_stack, has_buried_ring


@compiled
def may_recover(position, player):
    """No stack controlled, a marker on the board and a ring buried somewhere (R110)."""
    if controls_stack(position, player):
        return False
    marker = False
    buried = False
    for cell in range(position.cells):
        marker = marker or position.marker[cell] == player
        buried = buried or has_buried_ring(position, cell, player)
    return marker and buried


@compiled
def can_slide(topology, position, origin, to):
    """A marker slides to a neighbouring cell with nothing on it."""
    return (
        topology.direction[origin, to] >= 0
        and topology.distance[origin, to] == 1
        and position.height[to] == 0
        and position.collapsed[to] == 0
        and position.marker[to] == 0
    )


@compiled
def can_strike(topology, position, origin, to):
    """A marker is given up to strike a neighbouring stack (R112b2)."""
    return (
        topology.distance[origin, to] == 1 and position.height[to] > 0 and position.collapsed[to] == 0 and position.marker[to] == 0
    )


@compiled
def line_after_slide(topology, position, player, origin, to, out):
    """The line that sliding a marker would complete, written to `out`; its length or 0."""
    position.marker[origin] = 0
    position.marker[to] = player
    length = find_line(topology, position, to, player, position.line_length, out)
    position.marker[to] = 0
    position.marker[origin] = player
    return length


@compiled
def any_line_recovery(topology, position, player):
    """Whether some slide completes a line; then no other mode is allowed (R112)."""
    out = position.out
    for origin in range(position.cells):
        if position.marker[origin] == player:
            for direction in range(topology.ray.shape[1]):
                to = topology.ray[origin, direction]
                if to != NO_CELL and can_slide(topology, position, origin, to):
                    if line_after_slide(topology, position, player, origin, to, out) > 0:
                        return True
    return False


@compiled
def first_extraction(position, player):
    """The stack that pays for a recovery when the record names none: of those with a buried ring, the one standing longest."""
    chosen = NO_CELL
    for cell in range(position.cells):
        if has_buried_ring(position, cell, player):
            if chosen == NO_CELL or position.stamp[cell] < position.stamp[chosen]:
                chosen = cell
    return chosen
