"""The list of legal moves and `fault` agree: both are asked about every move that the board's geometry allows."""

from __future__ import annotations

from collections import Counter
from enum import IntEnum
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from ringrift_dagster.games import moves as m
from ringrift_dagster.games.config import CONFIGS, Config
from ringrift_dagster.games.geometry import NO_CELL, Topology, topology
from ringrift_dagster.games.moves import EliminationContext, MoveType, Phase, RecoveryMode
from ringrift_dagster.games.position import ACTIVE, COMPLETED, LOOSE_PLACEMENT, RULE, Position, empty_position
from ringrift_dagster.games.rules.compiled import compiled
from ringrift_dagster.games.rules.legality import ALWAYS_ALLOWED, Fault, fault
from ringrift_dagster.games.rules.listing import buffers, list_moves
from ringrift_dagster.games.rules.turns import play
from tests.games.rule_playouts import draw, new_row, playout

Key = tuple[object, ...]
RARE = (MoveType.SWAP_SIDES, MoveType.RECOVERY_SLIDE, MoveType.CHOOSE_LINE_OPTION, MoveType.NO_MOVEMENT_ACTION)


def key_of(row: NDArray[np.int64], cells: NDArray[np.int64]) -> Key:
    """What a move decides, however it is spelled."""
    kind = MoveType(int(row[m.TYPE]))
    first = sorted(cells[row[m.FIRST] : row[m.FIRST] + row[m.FIRST_LENGTH]].tolist())
    second = sorted(cells[row[m.SECOND] : row[m.SECOND] + row[m.SECOND_LENGTH]].tolist())
    if kind in (MoveType.PROCESS_LINE, MoveType.CHOOSE_LINE_OPTION):
        return "line", tuple(first), tuple(first if kind == MoveType.PROCESS_LINE else second)
    if kind == MoveType.CHOOSE_TERRITORY_OPTION:
        return kind, tuple(first)
    if kind == MoveType.RECOVERY_SLIDE:
        return kind, int(row[m.MODE]), int(row[m.ORIGIN]), int(row[m.TO]), tuple(first)
    if kind == MoveType.PLACE_RING:
        return kind, int(row[m.TO]), int(row[m.COUNT])
    if kind == MoveType.ELIMINATE_RINGS_FROM_STACK:
        return kind, int(row[m.TO]), int(row[m.CONTEXT]) or int(EliminationContext.TERRITORY)
    if kind == MoveType.FORCED_ELIMINATION:
        return kind, int(row[m.TO])
    if kind in (MoveType.MOVE_STACK, MoveType.OVERTAKING_CAPTURE, MoveType.CONTINUE_CAPTURE_SEGMENT):
        return kind, int(row[m.ORIGIN]), int(row[m.TARGET]), int(row[m.TO])
    return (kind,)


@compiled
def _legal_between_cells(tables, position, row, cells, kind, out):
    """Ask about `kind` from every cell to every cell, over every cell between them or, for moves that take nothing, over none."""
    count = 0
    row[m.TYPE] = kind
    for origin in range(tables.cells):
        for direction in range(tables.ray.shape[1]):
            to = tables.ray[origin, direction]
            while to != NO_CELL:
                target = NO_CELL if kind == MoveType.MOVE_STACK else tables.ray[origin, direction]
                while target != to:
                    row[m.ORIGIN], row[m.TARGET], row[m.TO] = origin, target, to
                    if fault(tables, position, row, cells) == 0:
                        out[count, 0], out[count, 1], out[count, 2] = origin, target, to
                        count += 1
                    target = to if target == NO_CELL else tables.ray[target, direction]
                to = tables.ray[to, direction]
    return count


def accepted(tables: Topology, position: Position) -> set[Key]:
    """Every move that `fault` accepts, of all that geometry allows."""
    board = int(tables.cells)
    nothing = np.zeros(0, dtype=np.int64)
    keys: set[Key] = set()

    def ask(row: NDArray[np.int64], cells: NDArray[np.int64] = nothing) -> None:
        if fault(tables, position, row, cells) == Fault.NONE:
            keys.add(key_of(row, cells))

    for kind in (MoveType.MOVE_STACK, MoveType.OVERTAKING_CAPTURE, MoveType.CONTINUE_CAPTURE_SEGMENT):
        out = np.zeros((40_000, 3), dtype=np.int64)
        count = _legal_between_cells(tables, position, new_row(position, kind), nothing, kind, out)
        keys |= {(kind, *reach) for reach in out[:count].tolist()}
    for kind in MoveType:
        if kind not in ALWAYS_ALLOWED:
            ask(new_row(position, kind))
    place, pay, force = (
        new_row(position, kind) for kind in (MoveType.PLACE_RING, MoveType.ELIMINATE_RINGS_FROM_STACK, MoveType.FORCED_ELIMINATION)
    )
    for cell in range(board):
        place[m.TO] = pay[m.TO] = force[m.TO] = cell
        ask(force)
        for number in range(5):
            place[m.COUNT] = pay[m.CONTEXT] = number  # there are five contexts
            ask(place)
            ask(pay)
    if position.phase == Phase.LINE_PROCESSING:
        keys |= _ask_lines(tables, position)
    elif position.phase == Phase.TERRITORY_PROCESSING:
        _ask_regions(tables, position, ask)
    elif position.phase == Phase.MOVEMENT:
        _ask_slides(tables, position, ask)
    return keys


@compiled
def _legal_lines(tables, position, row, cells, out):
    """Every run of cells as the line, whole, and every run within it as what collapses; (cell, direction, length, start, stop)."""
    count = 0
    for first in range(tables.cells):
        for index in range(tables.lines):
            direction = tables.line_directions[index]
            length = 0
            cell = first
            while cell != NO_CELL:
                cells[length] = cell
                length += 1
                cell = tables.ray[cell, direction]
                row[m.TO], row[m.FIRST_LENGTH], row[m.SECOND] = first, length, length
                for start in range(-1, length - 1):
                    for stop in range(start + 2, length + 1):
                        whole = start < 0
                        row[m.TYPE] = MoveType.PROCESS_LINE if whole else MoveType.CHOOSE_LINE_OPTION
                        row[m.SECOND_LENGTH] = 0 if whole else stop - start
                        for i in range(row[m.SECOND_LENGTH]):
                            cells[length + i] = cells[start + i]
                        if fault(tables, position, row, cells) == 0:
                            out[count, 0], out[count, 1], out[count, 2] = first, direction, length
                            out[count, 3], out[count, 4] = (0, length) if whole else (start, stop)
                            count += 1
                        if whole:
                            break
    return count


def _ask_lines(tables: Topology, position: Position) -> set[Key]:
    out = np.zeros((10_000, 5), dtype=np.int64)
    cells = np.zeros(2 * int(tables.width), dtype=np.int64)
    count = _legal_lines(tables, position, new_row(position, MoveType.PROCESS_LINE), cells, out)
    answers = out[:count].tolist()
    runs = [(_ray(tables, first, direction)[:length], start, stop) for first, direction, length, start, stop in answers]
    return {("line", tuple(sorted(run)), tuple(sorted(run[start:stop]))) for run, start, stop in runs}


def _ask_regions(tables: Topology, position: Position, ask) -> None:  # type: ignore[no-untyped-def]
    """Every set of cells that some players' markers and the collapsed spaces enclose, and each with one cell more or less."""
    board = int(tables.cells)
    for colours in product((False, True), repeat=int(position.players)):
        border = [
            bool(position.collapsed[cell]) or bool(position.marker[cell] and colours[int(position.marker[cell]) - 1])
            for cell in range(board)
        ]
        for region in _components(tables, border):
            beside = [cell for cell in range(board) if cell not in region][:1]
            for cells in (region, region[:-1], region + beside):
                row = new_row(position, MoveType.CHOOSE_TERRITORY_OPTION)
                row[m.FIRST_LENGTH] = row[m.SECOND] = len(cells)
                row[m.TO] = cells[0] if cells else NO_CELL
                ask(row, np.array(cells, dtype=np.int64))


def _ask_slides(tables: Topology, position: Position, ask) -> None:  # type: ignore[no-untyped-def]
    """Every marker to every neighbour in every mode, with every run of cells through it as what collapses."""
    for origin in np.flatnonzero(position.marker[: tables.cells] == position.player).tolist():
        for to in {int(cell) for cell in tables.ray[origin] if cell != NO_CELL}:
            for mode, option in product(RecoveryMode, (1, 2)):
                row = new_row(position, MoveType.RECOVERY_SLIDE)
                row[m.ORIGIN], row[m.TO], row[m.MODE], row[m.OPTION] = origin, to, mode, option
                if mode != RecoveryMode.LINE:
                    row[m.OPTION] = m.NOT_GIVEN
                if mode != RecoveryMode.LINE or option == 1:
                    ask(row)
                    continue
                for index in range(int(tables.lines)):
                    direction = int(tables.line_directions[index])
                    axis = _ray(tables, to, int(tables.opposite[direction]))[:0:-1] + _ray(tables, to, direction)
                    for start in range(len(axis)):
                        kept = axis[start : start + int(position.line_length)]
                        again = row.copy()
                        again[m.FIRST_LENGTH] = again[m.SECOND] = len(kept)
                        ask(again, np.array(kept))


def _ray(tables: Topology, cell: int, direction: int) -> list[int]:
    cells = []
    while cell != NO_CELL:
        cells.append(cell)
        cell = int(tables.ray[cell, direction])
    return cells


def _components(tables: Topology, border: list[bool]) -> list[list[int]]:
    components = []
    seen = list(border)
    for start in range(len(border)):
        if seen[start]:
            continue
        seen[start] = True
        cells = [start]
        for cell in cells:
            for beside in tables.touching[cell].tolist():
                if beside != NO_CELL and not seen[beside]:
                    seen[beside] = True
                    cells.append(beside)
        components.append(cells)
    return components


@pytest.mark.parametrize(
    ("config", "variant"),
    [(config, RULE) for config in CONFIGS] + [(config, LOOSE_PLACEMENT) for config in CONFIGS if config.players == 3],
    ids=lambda value: value.key if isinstance(value, Config) else value,
)
def test_the_list_is_what_fault_accepts(config: Config, variant: str) -> None:
    most = 16 if config.spec.cells < 100 else 6
    compared: Counter[int] = Counter()
    met: Counter[int] = Counter()
    for seed in range(3 if config.spec.cells < 100 else 1):
        favour = (MoveType.RECOVERY_SLIDE, MoveType.FORCED_ELIMINATION, MoveType.OVERTAKING_CAPTURE) if seed % 2 else ()
        for tables, position, listed, count, _ in playout(config, 17 * seed + 3, swap_rule=True, variant=variant, favour=favour):
            phase = int(position.phase)
            met[phase] += 1
            # Positions of one phase resemble each other: the first few, then ever fewer, and all that offer a choice of lists.
            rich = (count > 1 and phase in (Phase.LINE_PROCESSING, Phase.TERRITORY_PROCESSING)) or bool(
                np.isin(RARE, listed.rows[:count, m.TYPE]).any()
            )
            if compared[phase] >= most or not (rich or met[phase] % (1 + compared[phase]) == 0):
                continue
            keys = [key_of(row, listed.cells) for row in listed.rows[:count]]
            assert len(set(keys)) == count, "no move is listed twice"
            assert set(keys) == accepted(tables, position), (met.total() - 1, Phase(phase).name)
            compared[phase] += 1
    assert {Phase.RING_PLACEMENT, Phase.MOVEMENT, Phase.CAPTURE, Phase.LINE_PROCESSING, Phase.TERRITORY_PROCESSING} <= set(compared)


class Broken(IntEnum):
    """Invariants, in the order in which they are looked at."""

    NONE = 0
    RINGS_ARE_CONSERVED = 1
    SOMEBODY_CAN_ACT = 2
    A_SPACE_HOLDS_ONE_THING = 3
    TERRITORY_IS_WHAT_COLLAPSED = 4
    COLLAPSED_SPACES_AND_ELIMINATED_RINGS_STAY = 5
    THE_MEASURE_NEVER_FALLS = 6
    MOVES_AND_ELIMINATIONS_RAISE_THE_MEASURE = 7


@compiled
def _play_out(tables, position, rows, cells, state, rings, most):
    """Play a random game of at most `most` moves; (moves played, what was broken after the last of them)."""
    moves, kind = 0, -1
    markers_before = collapsed_before = eliminated_before = 0
    while True:
        markers = collapsed = in_stacks = 0
        for cell in range(position.cells):
            stack, marker, space = position.height[cell] > 0, position.marker[cell] != 0, position.collapsed[cell] != 0
            if np.int64(stack) + np.int64(marker) + np.int64(space) > 1:
                return moves, Broken.A_SPACE_HOLDS_ONE_THING
            in_stacks += position.height[cell]
            markers += marker
            collapsed += space
        hand = on_board = eliminated = territory = 0
        for seat in range(1, position.players + 1):
            hand += position.hand[seat]
            on_board += position.on_board[seat]
            eliminated += position.eliminated[seat]
            territory += position.territory[seat]
        if on_board != in_stacks or hand + on_board + eliminated != rings:
            return moves, Broken.RINGS_ARE_CONSERVED
        if territory != collapsed:
            return moves, Broken.TERRITORY_IS_WHAT_COLLAPSED
        if collapsed < collapsed_before or eliminated < eliminated_before:
            return moves, Broken.COLLAPSED_SPACES_AND_ELIMINATED_RINGS_STAY
        grown = markers + collapsed + eliminated - markers_before - collapsed_before - eliminated_before
        if grown < 0:
            return moves, Broken.THE_MEASURE_NEVER_FALLS
        if grown == 0 and (
            kind == MoveType.MOVE_STACK
            or kind == MoveType.OVERTAKING_CAPTURE
            or kind == MoveType.CONTINUE_CAPTURE_SEGMENT
            or kind == MoveType.ELIMINATE_RINGS_FROM_STACK
            or kind == MoveType.FORCED_ELIMINATION
        ):
            return moves, Broken.MOVES_AND_ELIMINATIONS_RAISE_THE_MEASURE
        count = list_moves(tables, position, rows, cells)
        if (count > 0) != (position.status == ACTIVE):
            return moves, Broken.SOMEBODY_CAN_ACT
        if count == 0 or moves == most:
            return moves, Broken.NONE
        markers_before, collapsed_before, eliminated_before = markers, collapsed, eliminated
        chosen = draw(state, count)
        kind = rows[chosen, m.TYPE]
        play(tables, position, rows[chosen], cells)
        moves += 1


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.key)
def test_random_games_end_and_break_no_invariant(config: Config) -> None:
    """Rings are conserved, somebody can always act, the progress measure of R191 grows, and games end below RingRift's cap."""
    tables, listed = topology(config.board), buffers(config.board)
    rings, cap = config.players * config.spec.rings_per_player, _theoretical_cap(config)
    for seed in range(200):
        position = empty_position(config, swap_rule=config.players == 2 and seed % 2 == 1)
        state = np.array([seed * 2_654_435_761 + 88_172_645_463_325_252], dtype=np.uint64)
        moves, broken = _play_out(tables, position, listed.rows, listed.cells, state, rings, cap)
        assert Broken(broken) == Broken.NONE, (seed, moves)
        assert position.status == COMPLETED, (seed, moves)
        assert 0 < position.winner <= config.players, seed


def _theoretical_cap(config: Config) -> int:
    """Moves that RingRift takes as the most a game can have, by board and number of players."""
    small, large = {2: 600, 3: 900, 4: 1400}, {2: 3600, 3: 4200, 4: 4800}
    if config.spec.cells < 100:
        return small[config.players]
    return large[config.players] if config.board == "hexagonal" else {2: 2400, 3: 3000, 4: 3600}[config.players]
