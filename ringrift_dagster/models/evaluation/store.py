"""Evidence on disk: an SQLite file to which is only added. Nothing in it is changed or deleted, not by SQL either.

What is no longer to count gets a tombstone, with who and why. What the records mean is in `records`; decisions have a log of their
own, `models.promotion.log`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import Final, Self

from ringrift_dagster.models.evaluation.records import EvaluationGame, Participant, Series
from ringrift_dagster.sqlite_file import name_file, open_shared

_APPEND_ONLY: Final = "".join(
    f"CREATE TRIGGER IF NOT EXISTS {table}_{verb} BEFORE {verb} ON {table} "
    f"BEGIN SELECT RAISE(ABORT, '{table} is only added to'); END;\n"
    for table in ("evaluation_games", "tombstones")
    for verb in ("UPDATE", "DELETE")
)
_SCHEMA: Final = f"""
CREATE TABLE IF NOT EXISTS evaluation_games (
    id INTEGER PRIMARY KEY,
    config TEXT NOT NULL,
    candidate_name TEXT NOT NULL, candidate_version TEXT NOT NULL, candidate_sha256 TEXT,
    opponent_name TEXT NOT NULL, opponent_version TEXT NOT NULL, opponent_sha256 TEXT,
    candidate TEXT NOT NULL, opponent TEXT NOT NULL,
    block INTEGER NOT NULL CHECK (block >= 0), attempt INTEGER NOT NULL CHECK (attempt >= 0),
    seat INTEGER NOT NULL CHECK (seat BETWEEN 1 AND 4),
    game_id TEXT NOT NULL UNIQUE,
    opening_seed TEXT NOT NULL,
    harness TEXT NOT NULL, host TEXT NOT NULL,
    result TEXT NOT NULL CHECK (result IN ('won', 'lost', 'drawn', 'void')),
    winner_seat INTEGER NOT NULL, moves INTEGER NOT NULL, termination TEXT NOT NULL, digest TEXT,
    started REAL NOT NULL, finished REAL NOT NULL, detail TEXT,
    CHECK ((result = 'won') = (winner_seat = seat)), CHECK ((result IN ('drawn', 'void')) = (winner_seat = 0)),
    UNIQUE (config, candidate, opponent, block, attempt, seat)
);
CREATE TABLE IF NOT EXISTS tombstones (
    id INTEGER PRIMARY KEY,
    game_id TEXT NOT NULL UNIQUE REFERENCES evaluation_games (game_id),
    who TEXT NOT NULL, why TEXT NOT NULL, at REAL NOT NULL
);
CREATE TRIGGER IF NOT EXISTS evaluation_games_replace BEFORE INSERT ON evaluation_games
WHEN EXISTS (SELECT 1 FROM evaluation_games WHERE id = NEW.id OR game_id = NEW.game_id OR (config = NEW.config AND candidate =
    NEW.candidate AND opponent = NEW.opponent AND block = NEW.block AND attempt = NEW.attempt AND seat = NEW.seat))
BEGIN SELECT RAISE(IGNORE); END;
{_APPEND_ONLY}"""
_GAME_COLUMNS: Final = tuple(field.name for field in fields(EvaluationGame) if field.name != "series")
_SERIES_COLUMNS: Final = (
    *("config", "candidate_name", "candidate_version", "candidate_sha256"),
    *("opponent_name", "opponent_version", "opponent_sha256", "candidate", "opponent"),
)


class ConflictingEvidence(ValueError):
    """A game of this series, block, attempt and seat is recorded already, with another outcome."""


class EvidenceStore:
    """The file of evidence, safe for several processes. Use as a context manager. Methods raise sqlite3.Error."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = open_shared(path, _SCHEMA)
        self._connection.execute("PRAGMA foreign_keys = ON")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._connection.close()
        for error in raised[1:2]:
            name_file(error, self._path)

    def add(self, games: Iterable[EvaluationGame]) -> int:
        """Add games, all or none; returns how many were new. Raises ConflictingEvidence."""
        columns = (*_SERIES_COLUMNS, *_GAME_COLUMNS)
        statement = f"INSERT OR IGNORE INTO evaluation_games ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
        added = 0
        with self._connection:
            for game in games:
                added += (new := self._connection.execute(statement, _row(game)).rowcount)
                if not new:
                    self._check_same(game)
        return added

    def games(self, series: Series) -> list[EvaluationGame]:
        """All games of a series that have no tombstone, in the order in which they were added."""
        return self._select(
            "config = ? AND candidate = ? AND opponent = ?", (series.config, series.candidate.key, series.opponent.key)
        )

    def series(self, config: str | None = None, candidate: str | None = None) -> list[Series]:
        """Every series of which there is a game, of one config and of one candidate's SHA-256 if they are given."""
        condition, values = "1 = 1", []
        for column, value in (("config", config), ("candidate_sha256", candidate)):
            if value is not None:
                condition += f" AND {column} = ?"
                values.append(value)
        rows = self._connection.execute(
            f"SELECT {', '.join(_SERIES_COLUMNS[:7])} FROM evaluation_games WHERE {condition} "
            "GROUP BY config, candidate, opponent ORDER BY MIN(id)",
            values,
        )
        return [_series(row) for row in rows]

    def attempts(self, series: Series) -> dict[int, int]:
        """The highest attempt of every block that has games, with tombstones too."""
        rows = self._connection.execute(
            "SELECT block, MAX(attempt) FROM evaluation_games WHERE config = ? AND candidate = ? AND opponent = ? GROUP BY block",
            (series.config, series.candidate.key, series.opponent.key),
        )
        return dict(rows)

    def digests(self, config: str) -> set[str]:
        """The digests of all games that were ever played for evidence about a config, with tombstones too."""
        rows = self._connection.execute("SELECT digest FROM evaluation_games WHERE config = ? AND digest IS NOT NULL", (config,))
        return {digest for (digest,) in rows}

    def retract(self, game_id: str, who: str, why: str, at: float) -> bool:
        """Give a game a tombstone; returns whether there is such a game without one. It stays readable in the file."""
        with self._connection:
            return bool(
                self._connection.execute(
                    "INSERT OR IGNORE INTO tombstones (game_id, who, why, at) "
                    "SELECT game_id, ?, ?, ? FROM evaluation_games WHERE game_id = ?",
                    (who, why, at, game_id),
                ).rowcount
            )

    def _check_same(self, game: EvaluationGame) -> None:
        condition = "config = ? AND candidate = ? AND opponent = ? AND block = ? AND attempt = ? AND seat = ?"
        series = game.series
        key = (series.config, series.candidate.key, series.opponent.key, game.block, game.attempt, game.seat)
        row = self._connection.execute(
            f"SELECT game_id, result, winner_seat, moves, digest FROM evaluation_games WHERE {condition}", key
        ).fetchone()
        if row != (game.game_id, game.result, game.winner_seat, game.moves, game.digest):
            raise ConflictingEvidence(f"game {game.game_id}: block {game.block}, seat {game.seat} is recorded with another outcome")

    def _select(self, condition: str, values: Sequence[object]) -> list[EvaluationGame]:
        columns = ", ".join((*_SERIES_COLUMNS, *_GAME_COLUMNS))
        rows = self._connection.execute(
            f"SELECT {columns} FROM evaluation_games WHERE {condition} "
            "AND game_id NOT IN (SELECT game_id FROM tombstones) ORDER BY id",
            values,
        )
        return [_game(row) for row in rows]


def _row(game: EvaluationGame) -> tuple[object, ...]:
    series = game.series
    values = tuple(
        str(value) if name == "opening_seed" else value for name, value in zip(_GAME_COLUMNS, astuple(game)[1:], strict=True)
    )
    return (
        series.config,
        *astuple(series.candidate),
        *astuple(series.opponent),
        series.candidate.key,
        series.opponent.key,
        *values,
    )


def _series(row: Sequence[str]) -> Series:
    return Series(row[0], Participant(*row[1:4]), Participant(*row[4:7]))


def _game(row: Sequence[object]) -> EvaluationGame:
    values = dict(zip(_GAME_COLUMNS, row[len(_SERIES_COLUMNS) :], strict=True))
    values["opening_seed"] = int(str(values["opening_seed"]))  # 64 bits without a sign do not fit into an SQLite integer
    return EvaluationGame(series=_series(row), **values)  # type: ignore[arg-type]
