"""Disconnected regions and what claiming one takes (RR-CANON-R140..R145).

A region is closed off by collapsed spaces, edges and the markers of one colour, or by collapsed spaces and edges alone. In the
latter case it may contain markers of any colour (R141; docs/decisions/0018).
"""

from __future__ import annotations

from ringrift_dagster.games.geometry import NO_CELL
from ringrift_dagster.games.rules.compiled import compiled
from ringrift_dagster.games.rules.stacks import has_buried_ring

NO_MARKERS = 0
"""Border colour of regions closed off by collapsed spaces and edges alone."""


@compiled
def _is_border(position, cell, colour):
    return position.collapsed[cell] != 0 or (colour != NO_MARKERS and position.marker[cell] == colour)


@compiled
def _flood(topology, position, start, colour, seen, out):
    """Collect the cells connected with `start` inside a border into `out`, marking them in `seen`; returns the count."""
    count = 1
    done = 0
    out[0] = start
    seen[start] = 1
    while done < count:
        cell = out[done]
        done += 1
        for side in range(topology.touching.shape[1]):
            beside = topology.touching[cell, side]
            if beside != NO_CELL and seen[beside] == 0 and not _is_border(position, beside, colour):
                seen[beside] = 1
                out[count] = beside
                count += 1
    return count


@compiled
def pays_for_region(position, cell, player, recovered):
    """Whether the stack at `cell` can pay for a claimed region: a controlled stack; after a recovery, one with a buried ring."""
    if recovered:
        return has_buried_ring(position, cell, player)
    return position.owner[cell] == player


@compiled
def _controllers(position, cells):
    """Bit set of the players who control a stack in `cells`."""
    players = 0
    for i in range(len(cells)):
        if position.owner[cells[i]] != 0:
            players |= 1 << position.owner[cells[i]]
    return players


@compiled
def _is_claimable(position, colour, cells, player, recovered):
    """Whether the region `cells` is disconnected (R142) and `player` can pay for it from outside (R143, R144)."""
    inside = _controllers(position, cells)
    everyone = 0
    for player_number in range(1, position.players + 1):
        if position.on_board[player_number] > 0:
            everyone |= 1 << player_number
    if inside == everyone:
        return False
    if colour == NO_MARKERS and (inside == 0 or inside & (inside - 1) != 0):
        return False
    payers = 0
    for cell in range(position.cells):
        if position.owner[cell] != 0 and pays_for_region(position, cell, player, recovered):
            payers += 1
    for i in range(len(cells)):
        if position.owner[cells[i]] != 0 and pays_for_region(position, cells[i], player, recovered):
            payers -= 1
    return payers > 0


@compiled
def _border_colours(position):
    """Bit set of the colours to look for: those of markers on the board, and always NO_MARKERS."""
    colours = 1
    for cell in range(position.cells):
        colours |= 1 << position.marker[cell]
    return colours


@compiled
def next_region(topology, position, player, recovered, cursor):
    """The next region that `player` may claim, from `cursor` on (0 at first); returns (number of its cells or 0, next cursor).

    The cells are in `position.out`, the border colour is `(next cursor - 1) // cells`. The same cells are returned once for each
    colour that closes them off. `position.seen` must not be changed between two calls.
    """
    cells = position.cells
    colours = _border_colours(position) if position.on_board.any() else 0
    while cursor < cells * (position.players + 1):
        colour, start = divmod(cursor, cells)
        if colours >> colour & 1 == 0:
            cursor = (colour + 1) * cells
            continue
        if start == 0:
            position.seen[:] = 0
        cursor += 1
        if position.seen[start] != 0 or _is_border(position, start, colour):
            continue
        count = _flood(topology, position, start, colour, position.seen, position.out)
        if _is_claimable(position, colour, position.out[:count], player, recovered):
            return count, cursor
    return 0, cursor


@compiled
def has_claimable_region(topology, position, player, recovered):
    """Whether `player` has any region to claim."""
    return next_region(topology, position, player, recovered, 0)[0] > 0


@compiled
def region_owner(position, colour, cells):
    """The player recorded as controlling a region: the border's colour, or else the one player with stacks inside (R141)."""
    if colour != NO_MARKERS:
        return colour
    owner = 0
    for i in range(len(cells)):
        owner = max(owner, position.owner[cells[i]])
    return owner


@compiled
def is_claimable(topology, position, cells, player, recovered):
    """Whether `cells` are exactly one region that `player` may claim."""
    if len(cells) == 0:
        return False
    for i in range(len(cells)):
        if cells[i] < 0:
            return False
    colours = _border_colours(position)
    out = position.out
    seen = position.seen
    for colour in range(position.players + 1):
        if colours >> colour & 1 == 0 or _is_border(position, cells[0], colour):
            continue
        seen[:] = 0
        count = _flood(topology, position, cells[0], colour, seen, out)
        if count != len(cells):
            continue
        matched = 0
        for i in range(count):
            matched += seen[cells[i]]
            seen[cells[i]] = 0  # a cell listed twice does not count twice
        if matched == count and _is_claimable(position, colour, out[:count], player, recovered):
            return True
    return False


@compiled
def find_border(topology, position, cells, out):
    """Collect the ring of markers around a region into `out`: touching it, or connected with those; returns the count (R141)."""
    seen = position.seen
    seen[:] = 0
    for i in range(len(cells)):
        seen[cells[i]] = 1
    count = 0
    for i in range(len(cells)):
        for side in range(topology.touching.shape[1]):
            beside = topology.touching[cells[i], side]
            if beside != NO_CELL and seen[beside] == 0 and position.marker[beside] != 0:
                seen[beside] = 1
                out[count] = beside
                count += 1
    done = 0
    while done < count:
        cell = out[done]
        done += 1
        for side in range(topology.border.shape[1]):
            beside = topology.border[cell, side]
            if beside != NO_CELL and seen[beside] == 0 and position.marker[beside] != 0:
                seen[beside] = 1
                out[count] = beside
                count += 1
    return count


@compiled
def claimable_region_at(topology, position, cell, player, recovered, out):
    """Collect a region around `cell` that `player` may claim into `out`; the last that a search by colours finds; count or 0."""
    colours = _border_colours(position)
    found = 0
    for step in range(position.players + 1):
        colour = (step + 1) % (position.players + 1)  # by markers first, NO_MARKERS last
        if colours >> colour & 1 == 0 or _is_border(position, cell, colour):
            continue
        position.seen[:] = 0
        count = _flood(topology, position, cell, colour, position.seen, position.out)
        if _is_claimable(position, colour, position.out[:count], player, recovered):
            out[:count] = position.out[:count]
            found = count
    return found
