"""Game databases made on the spot, with a recorded one's tables and triggers. As a script: a process that records games until told
to stop, as RingRift does. Only the standard library, so that it starts at once."""

from __future__ import annotations

import select
import sqlite3
import sys
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path

MOVES = 6
TABLES = (
    "games",
    "game_players",
    "game_initial_state",
    "game_moves",
    "game_state_snapshots",
    "game_history_entries",
    "game_choices",
    "game_nnue_features",
)


def make(path: Path, like: Path, games: Iterable[tuple[str, str]] = (), *, log: bool = True) -> Path:
    """A new database with the tables, indexes and triggers of another, and games by id and what tells their content."""
    with closing(sqlite3.connect(like)) as other:
        schema = [sql for (sql,) in other.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY type = 'trigger'")]
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute(f"PRAGMA journal_mode = {'WAL' if log else 'DELETE'}")
        connection.execute("BEGIN")
        for sql in schema:
            connection.execute(sql)
        for game, content in games:
            record(connection, game, content)
        connection.execute("COMMIT")
    return path


def record(connection: sqlite3.Connection, game: str, content: str, *, moves: int = MOVES, finished: bool = True) -> None:
    """Record a game in the order that RingRift's triggers want."""
    connection.execute(
        "INSERT INTO games (game_id, board_type, num_players, created_at, game_status, total_moves, total_turns, schema_version) "
        "VALUES (?, 'square8', 2, '2026-01-01T00:00:00', 'active', 0, 0, 18)",
        (game,),
    )
    connection.executemany(
        "INSERT INTO game_moves (game_id, move_number, turn_number, player, phase, move_type, move_json) "
        "VALUES (?, ?, ?, 1, 'placement', 'place_ring', ?)",
        [(game, number, number, f'{{"content": "{content}", "number": {number}}}') for number in range(moves)],
    )
    connection.execute("INSERT INTO game_initial_state (game_id, initial_state_json) VALUES (?, ?)", (game, f'"{content}"'))
    if finished:
        connection.execute(
            "UPDATE games SET game_status = 'completed', winner = 1, total_moves = ? WHERE game_id = ?", (moves, game)
        )


def contents(path: Path) -> dict[str, str]:
    """The games of a database by id, with what tells their content; every game has to be whole."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        found = dict(connection.execute("SELECT game_id, NULL FROM games"))
        for game, moves, texts, content in connection.execute(
            "SELECT game_id, COUNT(*), COUNT(DISTINCT json_extract(move_json, '$.content')), json_extract(move_json, '$.content') "
            "FROM game_moves GROUP BY game_id"
        ):
            assert (moves, texts) == (MOVES, 1)
            assert game in found, "moves of no game"
            found[game] = content
    return found


def rows(path: Path, games: Sequence[str] | None = None) -> dict[str, list[dict[str, object]]]:
    """Every row of every table by table, of these games only if given; in order."""
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        told = {}
        for table in TABLES:
            found = [dict(row) for row in connection.execute(f"SELECT * FROM {table}")]
            told[table] = sorted((row for row in found if games is None or row["game_id"] in games), key=repr)
        return told


def game_ids(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as connection:
        return {game for (game,) in connection.execute("SELECT game_id FROM games")}


def main(path: str, prefix: str) -> None:
    """Record games until there is something to read; every one that is committed is told on a line of its own."""
    with closing(sqlite3.connect(path, timeout=60)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        number = 0
        while not select.select([sys.stdin], [], [], 0.002)[0]:
            with connection:
                record(connection, f"{prefix}-{number}", f"written {number}")
            print(f"{prefix}-{number}", flush=True)
            number += 1


if __name__ == "__main__":
    main(*sys.argv[1:])
