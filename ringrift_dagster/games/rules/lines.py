"""Lines of markers (RR-CANON-R120..R123)."""

from __future__ import annotations

from ringrift_dagster.games.geometry import NO_CELL
from ringrift_dagster.games.rules.compiled import compiled


@compiled
def _continues(position, cell, player):
    return cell != NO_CELL and position.marker[cell] == player and position.collapsed[cell] == 0 and position.height[cell] == 0


@compiled
def trace_line(topology, position, through, direction, player, out):
    """Write the longest row of `player`'s markers through a cell into `out`, back to front; returns its length.

    The cell itself counts whatever stands on it: recovery asks about a marker that is not there yet.
    """
    cell = through
    backward = topology.opposite[direction]
    before = topology.ray[cell, backward]
    while _continues(position, before, player):
        cell = before
        before = topology.ray[cell, backward]
    length = 0
    while cell == through or _continues(position, cell, player):
        out[length] = cell
        length += 1
        cell = topology.ray[cell, direction]
        if cell == NO_CELL:
            break
    return length


@compiled
def find_line(topology, position, through, player, shortest, out):
    """The first row of at least `shortest` through a cell, in the order of the line directions; its length or 0."""
    for index in range(topology.lines):
        length = trace_line(topology, position, through, topology.line_directions[index], player, out)
        if length >= shortest:
            return length
    return 0


@compiled
def line_at(topology, position, first, direction, player, out):
    """Write the whole row of `player`'s markers that begins with the cell `first` to `out`; its length, 0 if none begins there."""
    if not _continues(position, first, player):
        return 0
    if _continues(position, topology.ray[first, topology.opposite[direction]], player):
        return 0
    return trace_line(topology, position, first, direction, player, out)


@compiled
def has_line(topology, position, player):
    """Whether `player` has a line to process."""
    for cell in range(position.cells):
        for index in range(topology.lines):
            if line_at(topology, position, cell, topology.line_directions[index], player, position.out) >= position.line_length:
                return True
    return False


@compiled
def is_line(topology, position, player, cells):
    """Whether `cells` are exactly one whole line of `player`."""
    if len(cells) < position.line_length or cells[0] < 0 or not _continues(position, cells[0], player):
        return False
    out = position.out
    for index in range(topology.lines):
        length = trace_line(topology, position, cells[0], topology.line_directions[index], player, out)
        if length == len(cells):
            forward = True
            backward = True
            for i in range(length):
                forward = forward and cells[i] == out[i]
                backward = backward and cells[i] == out[length - 1 - i]
            if forward or backward:
                return True
    return False


@compiled
def find_line_from(topology, position, player, first, out):
    """A whole line of `player` whose first cell, back to front, is `first` (records without positions); its length or 0."""
    if first < 0 or not _continues(position, first, player):
        return 0
    for index in range(topology.lines):
        length = trace_line(topology, position, first, topology.line_directions[index], player, out)
        if length >= position.line_length and out[0] == first:
            return length
    return 0


@compiled
def is_run_of(line, cells, required):
    """Whether `cells` are the whole `line`, or `required` neighbouring cells of it (R122)."""
    if len(cells) != len(line) and len(cells) != required:
        return False
    for start in range(len(line) - len(cells) + 1):
        same = True
        for i in range(len(cells)):
            same = same and line[start + i] == cells[i]
        if same:
            return True
    return False


@compiled
def contains(cells, cell):
    """Whether `cell` is among `cells`."""
    for i in range(len(cells)):
        if cells[i] == cell:
            return True
    return False
