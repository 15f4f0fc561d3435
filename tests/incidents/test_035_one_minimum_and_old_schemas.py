"""Three different minimums made 3,347 exports fail in a row, and games in the old move schema counted as none."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from ringrift_dagster.canonical.gate import verify
from ringrift_dagster.games.database import MIN_MOVES, describe


def _legacy_database(path: Path, moves: list[int]) -> None:
    """Finished games of the given lengths, in the form that kept a move's type and target in columns."""
    with sqlite3.connect(path) as connection:
        connection.execute(
            "CREATE TABLE games (game_id TEXT PRIMARY KEY, board_type TEXT, num_players INTEGER, created_at TEXT, "
            "game_status TEXT, winner INTEGER, total_moves INTEGER)"
        )
        connection.execute(
            "CREATE TABLE game_moves (game_id TEXT, move_number INTEGER, player INTEGER, move_type TEXT, "
            "position_q INTEGER, position_r INTEGER)"
        )
        for number, count in enumerate(moves):
            connection.execute(
                "INSERT INTO games VALUES (?, 'square8', 2, '2026-01-01T00:00:00', 'completed', 1, ?)",
                (f"g{number}", count),
            )
            connection.executemany(
                "INSERT INTO game_moves VALUES (?, ?, 1, 'place_ring', 3, 3)",
                [(f"g{number}", i) for i in range(count)],
            )


def test_games_in_the_column_form_count(tmp_path: Path) -> None:
    path = tmp_path / "legacy.db"
    _legacy_database(path, [30, 40, 50])
    assert describe(path).configs == {"square8_2p": 3}


def test_counting_and_judging_draw_the_line_at_the_same_length(tmp_path: Path) -> None:
    path = tmp_path / "short.db"
    _legacy_database(path, [MIN_MOVES - 1, MIN_MOVES])
    assert describe(path).finished == 1
    (report,) = verify([path])
    # Neither has an initial state, but the shorter one is not even asked for more than its moves.
    assert report.games["total"] == 2
    assert set(report.reasons) == {"missing_initial_state"}
