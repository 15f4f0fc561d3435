"""RingRift's game databases: reading them, and nothing else.

Understands schema versions 12 to 18, plain and gzip states, `move_json` and the older column form. Opens read-only and within
one read transaction, so a database that is being written reads as it stood at one commit, and never migrates anything. One bad
game never fails the rest: its record carries what is wrong with it (`GameRecord.damage`). So texts are read whatever their
bytes: those that are no UTF-8 become surrogates, which are looked for and never leave this module.
"""

from __future__ import annotations

import hashlib
import operator
import os
import re
import sqlite3
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson

from ringrift_dagster.games.config import CONFIG_KEYS, Config

FINISHED = ("completed", "finished")
MIN_MOVES = 5
"""A finished game with fewer moves is no game (RingRift's own triggers say the same)."""

MAX_STATE_BYTES = 32 << 20
MAX_MOVE_BYTES = 1 << 20
MAX_PLAYER_ROWS = 16
"""Rows of `game_players` that are read for one game; RingRift has at most four players."""
_GAMES = "games"
_READ_BLOCK = 4 << 20
_NO_UTF8 = re.compile("[\udc80-\udcff]")
_decode = operator.methodcaller("decode", "utf-8", "surrogateescape")


class DatabaseUnreadable(Exception):
    """The file is no readable game database; `detail` says why in one line."""

    def __init__(self, path: Path, detail: str) -> None:
        super().__init__(f"{path}: {detail}")
        self.path = path
        self.detail = detail


@dataclass(frozen=True)
class MoveRow:
    """A move as its columns tell it; `record` is its parsed JSON, or what the columns amount to in the older form."""

    number: int
    player: int | None
    phase: str | None
    kind: str | None
    record: Mapping[str, Any]


@dataclass(frozen=True)
class RecordedHash:
    """A claim about a position: after `played` moves its hash is `value`, or, where none was stored, `state` hashes to it."""

    played: int
    value: str | None
    state: bytes | None = None


@dataclass(frozen=True)
class PlayerRow:
    """A row of `game_players`: who played as `number`; `kind` is `ai` or `human`, `ai_type` the name that was written for it."""

    number: int
    kind: str | None
    ai_type: str | None


def recorded_metadata(row: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The metadata of a row of `games`, empty where there are none; None when they are no JSON object."""
    try:
        parsed = orjson.loads(row.get("metadata_json") or "{}")
    except (ValueError, TypeError):
        return None
    return parsed if isinstance(parsed, dict) else None


@dataclass(frozen=True)
class GameRecord:
    """One game as recorded. `damage` is set when its rows could not be read; then the rest may be missing."""

    game_id: str
    row: Mapping[str, Any]
    initial_state: bytes | None = None
    moves: list[MoveRow] = field(default_factory=list)
    move_json: list[bytes] = field(default_factory=list)
    hashes: list[RecordedHash] = field(default_factory=list)
    probabilities: dict[int, bytes] = field(default_factory=dict)
    players: list[PlayerRow] = field(default_factory=list)
    damage: str | None = None
    damaged_move: int | None = None

    @property
    def finished(self) -> bool:
        return self.row.get("game_status") in FINISHED

    @property
    def config_key(self) -> str:
        """The config that the row claims; not necessarily one of the twelve."""
        return f"{self.row.get('board_type')}_{self.row.get('num_players')}p"

    @property
    def time(self) -> str | None:
        """When the game ended, or else began, as recorded (ISO, usually naive)."""
        return self.row.get("completed_at") or self.row.get("created_at")


@dataclass(frozen=True)
class DatabaseSummary:
    """What a database holds, by the counting rule: finished games that have at least MIN_MOVES moves."""

    path: Path
    size: int
    schema_version: int | None
    games: int
    finished: int
    configs: dict[str, int]
    moves: int
    newest_game: str | None
    engine_modes: dict[str, int]


class GameDatabase:
    """A game database, open for reading. Use as a context manager.

    Raises DatabaseUnreadable on opening a file that is missing, empty, damaged or no game database.
    """

    def __init__(self, path: Path, *, check: bool = True) -> None:
        self.path = path
        self._connection = _open(path)
        try:
            if check:
                problem = self._connection.execute("PRAGMA quick_check(1)").fetchone()[0]
                if problem != "ok":
                    raise DatabaseUnreadable(path, f"damaged: {_shown(str(problem)).splitlines()[-1][:160]}")
            self._tables = {
                name: _columns(self._connection, name)
                for (name,) in self._connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
                if not _foreign(name)
            }
            missing = {"game_id", "board_type", "num_players", "game_status"} - self._tables.get(_GAMES, set())
            if missing:
                raise DatabaseUnreadable(path, f"no game database: games lacks {', '.join(sorted(missing))}")
            self.schema_version = self._schema_version()
        except sqlite3.Error as error:
            self.close()
            raise DatabaseUnreadable(path, str(error)) from error
        except DatabaseUnreadable:
            self.close()
            raise

    def __enter__(self) -> GameDatabase:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def _schema_version(self) -> int | None:
        if "schema_metadata" not in self._tables:
            return None
        row = self._connection.execute("SELECT value FROM schema_metadata WHERE key = 'schema_version'").fetchone()
        return int(row[0]) if row and str(row[0]).isdigit() else None

    def count(self) -> int:
        """All rows of `games`, whatever their state."""
        return int(self._connection.execute("SELECT COUNT(*) FROM games").fetchone()[0])

    def summary(self) -> DatabaseSummary:
        """Counts by the rule that a move-less or unfinished game is no game.

        Raises DatabaseUnreadable when the file turns out to be damaged.
        """
        try:
            configs: dict[str, int] = {}
            modes: dict[str, int] = {}
            newest: str | None = None
            columns = self._tables[_GAMES]
            mode = "engine_mode" if "engine_mode" in columns else "NULL"
            times = ", ".join(sorted(columns & {"completed_at", "created_at"}) or ["NULL"])
            if "game_moves" in self._tables:
                for board, players, engine, games, time in self._connection.execute(
                    f"SELECT board_type, num_players, {mode}, COUNT(*), MAX(COALESCE({times}, NULL)) FROM games g "
                    "WHERE game_status IN ('completed', 'finished') AND ("
                    "SELECT COUNT(*) FROM (SELECT 1 FROM game_moves m WHERE m.game_id = g.game_id LIMIT ?)) = ? "
                    "GROUP BY 1, 2, 3",
                    (MIN_MOVES, MIN_MOVES),
                ):
                    key, engine = _shown(f"{board}_{players}p"), _shown(str(engine or "unknown"))
                    configs[key] = configs.get(key, 0) + games
                    modes[engine] = modes.get(engine, 0) + games
                    newest = max(newest or "", _shown(str(time or ""))) or None
                moves = int(self._connection.execute("SELECT COUNT(*) FROM game_moves").fetchone()[0])
            else:
                moves = 0
            return DatabaseSummary(
                path=self.path,
                size=self.path.stat().st_size,
                schema_version=self.schema_version,
                games=self.count(),
                finished=sum(configs.values()),
                configs=configs,
                moves=moves,
                newest_game=newest,
                engine_modes=modes,
            )
        except (sqlite3.Error, OSError) as error:
            raise DatabaseUnreadable(self.path, str(error)) from error

    def parity_statuses(self) -> dict[str, int]:
        """RingRift's own parity column: status to number of games."""
        if "parity_status" not in self._tables[_GAMES]:
            return {}
        return dict(self._connection.execute("SELECT COALESCE(parity_status, 'NULL'), COUNT(*) FROM games GROUP BY 1"))

    def games(self, config: Config | None = None) -> Iterator[GameRecord]:
        """The games, newest first as RingRift enumerates them; only those whose row claims `config`, if given.

        Raises DatabaseUnreadable when the file turns out to be damaged on the way.
        """
        # The same shape as RingRift's query, so that SQLite picks the same plan and breaks ties alike.
        where: str = "1=1"
        values: tuple[object, ...] = ()
        if config is not None:
            where = "board_type = ? AND num_players = ?"
            values = (config.board, config.players)
            if "game_moves" in self._tables:
                where += " AND EXISTS (SELECT 1 FROM game_moves m WHERE m.game_id = games.game_id)"
        order = "ORDER BY created_at DESC" if "created_at" in self._tables[_GAMES] else ""
        yield from self._selected(f"{where} {order}", values)

    def game(self, game_id: str) -> GameRecord | None:
        """The game of this id, None if there is none. Raises DatabaseUnreadable when the file turns out to be damaged."""
        return next(self._selected("game_id = ?", (game_id,)), None)

    def _selected(self, condition: str, values: Sequence[object]) -> Iterator[GameRecord]:
        try:
            with closing(self._connection.execute(f"SELECT * FROM games WHERE {condition}", values)) as rows:
                names = [column[0] for column in rows.description]
                for values_of_row in rows:
                    yield self._record(dict(zip(names, values_of_row, strict=True)))
        except (sqlite3.Error, UnicodeError) as error:  # names of columns are decoded strictly
            raise DatabaseUnreadable(self.path, str(error)) from error

    def _record(self, row: dict[str, Any]) -> GameRecord:
        game_id = row["game_id"]
        if foreign := [name for name, value in row.items() if _foreign(value)]:
            shown = {name: _shown(value) if type(value) is str else value for name, value in row.items()}
            return GameRecord(str(shown["game_id"])[:200], shown, damage=f"{foreign[0]} is no UTF-8 text")
        if not isinstance(game_id, str) or len(game_id) > 200:
            return GameRecord(str(game_id)[:200], row, damage="the game id is no short text")
        try:
            moves, move_json = self._moves(game_id)
            return GameRecord(
                game_id=game_id,
                row=row,
                initial_state=self._initial_state(game_id),
                moves=moves,
                move_json=move_json,
                hashes=self._hashes(game_id),
                probabilities=self._probabilities(game_id),
                players=self._players(game_id),
            )
        except _Damaged as damage:
            return GameRecord(game_id, row, damage=damage.detail, damaged_move=damage.move)

    def _moves(self, game_id: str) -> tuple[list[MoveRow], list[bytes]]:
        columns = self._tables.get("game_moves", set())
        if "move_json" in columns:
            rows = self._connection.execute(
                "SELECT move_number, player, phase, move_type, CAST(move_json AS BLOB) FROM game_moves "
                "WHERE game_id = ? ORDER BY move_number",
                (game_id,),
            ).fetchall()
            _refuse_foreign("move", [row[:4] for row in rows])
            texts = [row[4] for row in rows]
            return [
                MoveRow(number, player, phase, kind, record)
                for (number, player, phase, kind, _), record in zip(rows, _parse_all(texts), strict=True)
            ], texts
        if {"position_q", "position_r"} <= columns:
            return self._moves_from_columns(game_id, "phase" in columns)
        return [], []

    def _moves_from_columns(self, game_id: str, with_phase: bool) -> tuple[list[MoveRow], list[bytes]]:
        """The older form, which kept a move's type and target only."""
        phase = "phase" if with_phase else "NULL"
        moves: list[MoveRow] = []
        texts: list[bytes] = []
        rows = self._connection.execute(
            f"SELECT move_number, player, move_type, position_q, position_r, {phase} FROM game_moves "
            "WHERE game_id = ? ORDER BY move_number",
            (game_id,),
        ).fetchall()
        _refuse_foreign("move", rows)
        for index, (number, player, kind, q, r, in_phase) in enumerate(rows):
            record: dict[str, Any] = {"type": kind, "player": player}
            if in_phase is not None:
                record["phase"] = in_phase
            if q is not None and r is not None:
                record["to"] = {"x": q, "y": r}
            moves.append(MoveRow(number, player, in_phase, kind, record))
            try:
                texts.append(orjson.dumps(record))
            except TypeError as error:
                raise _Damaged(f"move {index} is of no type that JSON has", index) from error
        return moves, texts

    def _initial_state(self, game_id: str) -> bytes | None:
        if "game_initial_state" not in self._tables:
            return None
        compressed = "compressed" if "compressed" in self._tables["game_initial_state"] else "0"
        row = self._connection.execute(
            f"SELECT CAST(initial_state_json AS BLOB), {compressed} FROM game_initial_state WHERE game_id = ?",
            (game_id,),
        ).fetchone()
        return _state_bytes(row[0], row[1]) if row and row[0] else None

    def _hashes(self, game_id: str) -> list[RecordedHash]:
        snapshots: list[tuple[Any, ...]] = []
        entries: list[tuple[Any, ...]] = []
        if "game_state_snapshots" in self._tables:
            has_hash = "state_hash" in self._tables["game_state_snapshots"]
            compressed = "compressed" if "compressed" in self._tables["game_state_snapshots"] else "0"
            stored = "state_hash" if has_hash else "NULL"
            snapshots = self._connection.execute(
                f"SELECT move_number, {stored}, CASE WHEN {stored} IS NULL THEN CAST(state_json AS BLOB) END, {compressed} "
                "FROM game_state_snapshots WHERE game_id = ?",
                (game_id,),
            ).fetchall()
        if {"state_hash_before", "state_hash_after"} <= self._tables.get("game_history_entries", set()):
            entries = self._connection.execute(
                "SELECT move_number, state_hash_before, state_hash_after FROM game_history_entries WHERE game_id = ?",
                (game_id,),
            ).fetchall()
        for what, rows in (("snapshot", snapshots), ("history entry", entries)):
            _refuse_foreign(what, [row[:3] for row in rows])
            if not all(type(row[0]) is int for row in rows):
                raise _Damaged(f"a {what}'s move number is no number")
        found = [
            RecordedHash(number + 1, value, None if state is None else _state_bytes(state, packed))
            for number, value, state, packed in snapshots
        ]
        for number, before, after in entries:
            found.extend(RecordedHash(played, value) for played, value in ((number, before), (number + 1, after)) if value)
        return found

    def _probabilities(self, game_id: str) -> dict[int, bytes]:
        if "move_probs" not in self._tables.get("game_moves", set()):
            return {}
        return dict(
            self._connection.execute(
                "SELECT move_number, CAST(move_probs AS BLOB) FROM game_moves WHERE game_id = ? AND move_probs IS NOT NULL",
                (game_id,),
            )
        )

    def _players(self, game_id: str) -> list[PlayerRow]:
        """Who played, as far as it was recorded. No part of the game: rows that cannot be read are left out and damage nothing."""
        columns = self._tables.get("game_players", set())
        if not {"game_id", "player_number"} <= columns:
            return []
        kind, ai_type = (name if name in columns else "NULL" for name in ("player_type", "ai_type"))
        try:
            rows = self._connection.execute(
                f"SELECT player_number, {kind}, {ai_type} FROM game_players WHERE game_id = ? ORDER BY player_number LIMIT ?",
                (game_id, MAX_PLAYER_ROWS),
            ).fetchall()
        except sqlite3.Error:
            return []
        return [PlayerRow(row[0], _short_text(row[1]), _short_text(row[2])) for row in rows if type(row[0]) is int]


def describe(path: Path) -> DatabaseSummary:
    """What a database holds, without reading its games. Raises DatabaseUnreadable."""
    with GameDatabase(path, check=False) as database:
        return database.summary()


def configs_in(summary: DatabaseSummary) -> list[str]:
    """The configs of the twelve that a database has finished games of."""
    return [key for key in CONFIG_KEYS if summary.configs.get(key)]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_READ_BLOCK):
            digest.update(block)
    return digest.hexdigest()


class _Damaged(Exception):
    def __init__(self, detail: str, move: int | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.move = move


def _open(path: Path) -> sqlite3.Connection:
    try:
        if not path.is_file():
            raise DatabaseUnreadable(path, "no such file" if not path.exists() else "not a file")
        if path.stat().st_size == 0:
            raise DatabaseUnreadable(path, "the file is empty")
        name = quote(os.fsencode(path.absolute()))
        log = path.with_name(path.name + "-wal")
        # A directory that may not be written to has no room for the shared-memory file; without a log none is needed.
        still = not os.access(path.parent, os.W_OK) and not (log.exists() and log.stat().st_size)
        connection = sqlite3.connect(
            f"file:{name}?mode=ro" + ("&immutable=1" if still else ""),
            uri=True,
            timeout=30,
            isolation_level=None,
        )
    except (OSError, sqlite3.Error) as error:
        raise DatabaseUnreadable(path, str(error)) from error
    try:
        connection.text_factory = _decode
        connection.execute("PRAGMA query_only = ON")
        connection.execute("PRAGMA mmap_size = 268435456")
        connection.execute("BEGIN")
        connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
    except sqlite3.Error as error:
        connection.close()
        raise DatabaseUnreadable(path, str(error)) from error
    return connection


def _columns(connection: sqlite3.Connection, table: str) -> set[str]:
    return {row[0] for row in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))}


def _foreign(value: object) -> bool:
    """Whether a value is a text that is no UTF-8 in the file."""
    return type(value) is str and not value.isascii() and _NO_UTF8.search(value) is not None


def _shown(text: str) -> str:
    r"""A text that can be printed: bytes that are no UTF-8 stand in it as `\xff`."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") if _foreign(text) else text


def _short_text(value: object) -> str | None:
    """A value that was written for a short text, so that it can be printed; None where there is none."""
    return None if value is None else _shown(str(value)[:100])


def _refuse_foreign(what: str, rows: Sequence[Sequence[object]]) -> None:
    """Raise _Damaged for the first row that holds a text that is no UTF-8."""
    if any(map(_foreign, {value for row in rows for value in row})):
        index = next(index for index, row in enumerate(rows) if any(map(_foreign, row)))
        raise _Damaged(f"{what} {index} holds a text that is no UTF-8", index if what == "move" else None)


def _parse_all(texts: list[bytes | None]) -> list[dict[str, Any]]:
    """Parse a game's move records; one call for all, and one by one only to name the bad one."""
    if any(text is None or len(text) > MAX_MOVE_BYTES for text in texts):
        raise _Damaged("a move record is missing or too large")
    try:
        records = orjson.loads(b"[" + b",".join(texts) + b"]")  # type: ignore[arg-type]
    except (ValueError, RecursionError):
        records = []
    if len(records) != len(texts) or not all(type(record) is dict for record in records):
        for index, text in enumerate(texts):
            try:
                if type(orjson.loads(text)) is not dict:  # type: ignore[arg-type]
                    raise ValueError("not an object")
            except (ValueError, RecursionError) as error:
                raise _Damaged(f"move {index} is no JSON object: {str(error)[:120]}", index) from error
    return records


def _state_bytes(value: bytes, compressed: Any) -> bytes:
    """The JSON of a stored state, decompressed with a bound on what comes out."""
    if not compressed:
        if len(value) > MAX_STATE_BYTES:
            raise _Damaged("a state is too large")
        return value
    try:
        inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        state = inflater.decompress(value, MAX_STATE_BYTES)
        if not inflater.eof:
            raise _Damaged("a compressed state is truncated or too large")
        return state
    except zlib.error as error:
        raise _Damaged(f"a compressed state does not decompress: {error}") from error
