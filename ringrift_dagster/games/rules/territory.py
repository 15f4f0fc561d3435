"""Disconnected regions and what claiming one takes (RR-CANON-R140..R145)."""

from __future__ import annotations

from ringrift_dagster.games.geometry import NO_CELL
from ringrift_dagster.games.rules.compiled import compiled
from ringrift_dagster.games.rules.stacks import has_buried_ring

ANY_MARKER = 0
"""Border colour that stands for regions closed off by collapsed spaces and edges alone."""


@compiled
def _is_border(position, cell, colour):
    if position.collapsed[cell] != 0:
        return True
    marker = position.marker[cell]
    return marker != 0 and (colour == ANY_MARKER or marker == colour)


@compiled
def flood(topology, position, start, colour, seen, out):
    """Collect the open cells connected with `start` into `out`, marking them in `seen`; returns (count, met a marker)."""
    count = 1
    done = 0
    met_marker = False
    out[0] = start
    seen[start] = 1
    while done < count:
        cell = out[done]
        done += 1
        for side in range(topology.touching.shape[1]):
            beside = topology.touching[cell, side]
            if beside == NO_CELL:
                continue
            if _is_border(position, beside, colour):
                if position.marker[beside] != 0:
                    met_marker = True
            elif seen[beside] == 0:
                seen[beside] = 1
                out[count] = beside
                count += 1
    return count, met_marker


@compiled
def pays_for_region(position, cell, player, recovered):
    """Whether the stack at `cell` can pay for a claimed region: a controlled stack; after a recovery, one with a buried ring."""
    if recovered:
        return has_buried_ring(position, cell, player)
    return position.owner[cell] == player


@compiled
def _is_claimable(position, colour, met_marker, cells, player, recovered):
    """Whether the region `cells` is disconnected (R142) and `player` can pay for it from outside (R143, R144)."""
    inside = 0
    for i in range(len(cells)):
        if position.owner[cells[i]] != 0:
            inside |= 1 << position.owner[cells[i]]
    everyone = 0
    for player_number in range(1, position.players + 1):
        if position.on_board[player_number] > 0:
            everyone |= 1 << player_number
    if inside == everyone:
        return False
    if colour == ANY_MARKER and (met_marker or inside == 0 or inside & (inside - 1) != 0):
        return False
    if inside == 0 and not position.marker.any():
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
    """Bit set of the colours to look for: those of markers on the board, and always ANY_MARKER."""
    colours = 1
    for cell in range(position.cells):
        colours |= 1 << position.marker[cell]
    return colours


@compiled
def has_claimable_region(topology, position, player, recovered):
    """Whether `player` has any region to claim."""
    if not position.on_board.any():
        return False
    colours = _border_colours(position)
    out = position.out
    seen = position.seen
    for colour in range(position.players + 1):
        if colours >> colour & 1 == 0:
            continue
        seen[:] = 0
        for start in range(position.cells):
            if seen[start] != 0 or _is_border(position, start, colour):
                continue
            count, met_marker = flood(topology, position, start, colour, seen, out)
            if _is_claimable(position, colour, met_marker, out[:count], player, recovered):
                return True
    return False


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
        count, met_marker = flood(topology, position, cells[0], colour, seen, out)
        if count != len(cells):
            continue
        matched = 0
        for i in range(count):
            matched += seen[cells[i]]
            seen[cells[i]] = 0  # a cell listed twice does not count twice
        if matched == count and _is_claimable(position, colour, met_marker, out[:count], player, recovered):
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
        colour = (step + 1) % (position.players + 1)  # by markers first, ANY_MARKER last
        if colours >> colour & 1 == 0 or _is_border(position, cell, colour):
            continue
        position.seen[:] = 0
        count, met_marker = flood(topology, position, cell, colour, position.seen, position.out)
        if _is_claimable(position, colour, met_marker, position.out[:count], player, recovered):
            out[:count] = position.out[:count]
            found = count
    return found
