"""Primitive changes of a position (stacks, markers, collapsed spaces, eliminated rings) and copies of it.

No judgement of legality belongs here.
"""

from __future__ import annotations

import numpy as np

from ringrift_dagster.games.geometry import NO_CELL
from ringrift_dagster.games.rules.compiled import compiled


@compiled
def copy_position(source, target):
    """Make `target` the same position as `source`; what no rule reads (empty places, scratch space) is left as it is."""
    cells = source.cells
    for cell in range(cells):
        height = source.height[cell]
        for i in range(height):
            target.rings[cell, i] = source.rings[cell, i]
        target.height[cell] = height
        target.cap[cell] = source.cap[cell]
        target.owner[cell] = source.owner[cell]
        target.stamp[cell] = source.stamp[cell]
        target.marker[cell] = source.marker[cell]
        target.collapsed[cell] = source.collapsed[cell]
        target.region[cell] = source.region[cell]
    for seat in range(len(source.hand)):
        target.hand[seat] = source.hand[seat]
        target.eliminated[seat] = source.eliminated[seat]
        target.territory[seat] = source.territory[seat]
        target.on_board[seat] = source.on_board[seat]
        target.lps_mask[seat] = source.lps_mask[seat]
    target.cells = source.cells
    target.players = source.players
    target.player = source.player
    target.phase = source.phase
    target.status = source.status
    target.winner = source.winner
    target.pending_line = source.pending_line
    target.must_move = source.must_move
    target.chain = source.chain
    target.lps_first = source.lps_first
    target.lps_rounds = source.lps_rounds
    target.lps_player = source.lps_player
    target.last_player = source.last_player
    target.last_to = source.last_to
    target.region_pending = source.region_pending
    target.acted = source.acted
    target.recovered = source.recovered
    target.first_moved = source.first_moved
    target.second_moved = source.second_moved
    target.swapped = source.swapped
    target.swap_rule = source.swap_rule
    target.next_stamp = source.next_stamp
    target.line_length = source.line_length
    target.rings_per_player = source.rings_per_player
    target.victory_threshold = source.victory_threshold
    target.territory_minimum = source.territory_minimum
    target.lps_required = source.lps_required
    target.loose_placement = source.loose_placement


@compiled
def _settle(position, cell):
    """Recompute owner and cap after a stack's rings changed; an empty stack disappears."""
    height = position.height[cell]
    if height == 0:
        position.owner[cell] = 0
        position.cap[cell] = 0
        return
    owner = np.int64(position.rings[cell, height - 1])
    cap = 1
    while cap < height and position.rings[cell, height - 1 - cap] == owner:
        cap += 1
    position.owner[cell] = owner
    position.cap[cell] = cap


@compiled
def add_rings(position, cell, player, count):
    """Put `count` rings of `player` on top of the stack at `cell`, or start one."""
    height = position.height[cell]
    if height == 0:
        position.stamp[cell] = position.next_stamp
        position.next_stamp += 1
    for i in range(count):
        position.rings[cell, height + i] = player
    position.height[cell] = height + count
    position.on_board[player] += count
    _settle(position, cell)


@compiled
def move_stack(position, origin, to):
    """Lift the stack at `origin` onto the empty cell `to`."""
    height = position.height[origin]
    for i in range(height):
        position.rings[to, i] = position.rings[origin, i]
    position.height[to] = height
    position.height[origin] = 0
    position.stamp[to] = position.next_stamp
    position.next_stamp += 1
    _settle(position, origin)
    _settle(position, to)


@compiled
def take_top_ring(position, cell):
    """Remove the top ring; returns whose it was. The ring is still in play: the caller decides where it goes."""
    height = position.height[cell] - 1
    ring = np.int64(position.rings[cell, height])
    position.height[cell] = height
    _settle(position, cell)
    return ring


@compiled
def slip_under(position, cell, ring):
    """Put a captured ring at the bottom of the stack at `cell` (R102)."""
    for i in range(position.height[cell], 0, -1):
        position.rings[cell, i] = position.rings[cell, i - 1]
    position.rings[cell, 0] = ring
    position.height[cell] += 1
    _settle(position, cell)


@compiled
def _credit(position, player, ring):
    position.on_board[ring] -= 1
    position.eliminated[player] += 1


@compiled
def eliminate_top(position, cell, player, count):
    """Eliminate up to `count` rings from the top, credited to `player` whoever owned them."""
    while count > 0 and position.height[cell] > 0:
        _credit(position, player, take_top_ring(position, cell))
        count -= 1


@compiled
def lowest_ring(position, cell, player):
    """Index of the lowest ring of `player` in the stack at `cell`, or -1."""
    for i in range(position.height[cell]):
        if position.rings[cell, i] == player:
            return i
    return -1


@compiled
def has_buried_ring(position, cell, player):
    """Whether a ring of `player` lies below the top of the stack at `cell`."""
    lowest = lowest_ring(position, cell, player)
    return 0 <= lowest < position.height[cell] - 1


@compiled
def extract_buried(position, cell, player):
    """Eliminate the lowest ring of `player` in the stack at `cell`, credited to its owner (R113)."""
    height = position.height[cell]
    for i in range(lowest_ring(position, cell, player), height - 1):
        position.rings[cell, i] = position.rings[cell, i + 1]
    position.height[cell] = height - 1
    _settle(position, cell)
    _credit(position, player, player)


@compiled
def collapse(position, cell, player):
    """Make `cell` territory of `player`; a marker on it goes."""
    position.marker[cell] = 0
    position.collapsed[cell] = player


@compiled
def return_rings(position, cell):
    """Give every ring of the stack at `cell` back to its owner's hand."""
    while position.height[cell] > 0:
        ring = take_top_ring(position, cell)
        position.on_board[ring] -= 1
        position.hand[ring] += 1


@compiled
def cross_markers(topology, position, origin, to, player):
    """What a move from `origin` to `to` does to the markers it passes: own ones collapse, others change colour (R092)."""
    direction = topology.direction[origin, to]
    cell = topology.ray[origin, direction]
    while cell != to and cell != NO_CELL:
        marker = position.marker[cell]
        if marker == player:
            collapse(position, cell, player)
            position.territory[player] += 1
        elif marker != 0:
            position.marker[cell] = player
        cell = topology.ray[cell, direction]


@compiled
def land(position, cell, player):
    """A stack that lands on a marker removes it and loses its top ring (R091)."""
    if position.marker[cell] != 0:
        position.marker[cell] = 0
        eliminate_top(position, cell, player, 1)


@compiled
def controls_stack(position, player):
    """Whether `player` owns the top ring of any stack."""
    for cell in range(position.cells):
        if position.owner[cell] == player:
            return True
    return False


@compiled
def has_rings(position, player):
    """Whether `player` has a ring in hand or anywhere in a stack (R201)."""
    return position.hand[player] > 0 or position.on_board[player] > 0
