"""Lookup tables against the definitions of the boards."""

from __future__ import annotations

import numpy as np
import pytest

from ringrift_dagster.games.config import BOARDS
from ringrift_dagster.games.geometry import NO_CELL, coordinates, topology


@pytest.mark.parametrize("board", BOARDS)
def test_cells_and_keys(board: str) -> None:
    at = coordinates(board)
    assert len(at.cell_of) == len(set(at.key_of)) == BOARDS[board].cells
    for cell, key in enumerate(at.key_of):
        assert at.cell_of_key[key] == cell


@pytest.mark.parametrize("board", BOARDS)
def test_rays_are_undone_by_their_opposites(board: str) -> None:
    tables = topology(board)
    directions = 6 if BOARDS[board].hexagonal else 8
    for cell in range(tables.cells):
        for direction in range(directions):
            beside = tables.ray[cell, direction]
            if beside != NO_CELL:
                assert tables.ray[beside, tables.opposite[direction]] == cell
                assert tables.distance[cell, beside] == 1


@pytest.mark.parametrize("board", BOARDS)
def test_distance_is_symmetric_and_counts_steps_along_rays(board: str) -> None:
    tables = topology(board)
    n = tables.cells
    distance = tables.distance[:n, :n]
    assert np.array_equal(distance, distance.T)
    for direction in range(6 if BOARDS[board].hexagonal else 8):
        cell, steps = 0, 0
        while cell != NO_CELL:
            assert tables.distance[0, cell] == steps
            cell, steps = tables.ray[cell, direction], steps + 1


@pytest.mark.parametrize("board", BOARDS)
def test_fingerprints_list_cells_in_string_order(board: str) -> None:
    tables = topology(board)
    entries = [coordinates(board).key_of[cell] + ":1" for cell in tables.key_order[: tables.cells]]
    assert entries == sorted(entries)
