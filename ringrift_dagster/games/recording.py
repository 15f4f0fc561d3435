"""Writing finished games into game databases that RingRift's own tools open, verify, replay and export.

`game_rows` turns a played game into the rows of RingRift's schema 18, replaying it with the compiled rules, and can run in any
process; a `GameRecorder` is the one writer of a database and commits whole games only. Playing games is not done here, and
reading them is `database`'s. Source: RingRift's `GameReplayDB.store_game` (`app/db/game_replay.py`).
"""

from __future__ import annotations

import fcntl
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from ringrift_dagster.games import moves as m
from ringrift_dagster.games.config import Config
from ringrift_dagster.games.database import MIN_MOVES
from ringrift_dagster.games.digest import game_digest
from ringrift_dagster.games.fingerprint import buffer_for, hash_position, hash_text_of
from ringrift_dagster.games.geometry import NO_CELL, topology
from ringrift_dagster.games.move_records import as_recorded, move_record
from ringrift_dagster.games.moves import PHASE_NAMES, TYPE_NAMES, MoveType, PackedMoves
from ringrift_dagster.games.position import COMPLETED, RULE, STATUSES, Position, empty_position
from ringrift_dagster.games.replay import positions
from ringrift_dagster.games.rules.turns import Ending, ending_of
from ringrift_dagster.games.schema18 import SCHEMA, SCHEMA_VERSION
from ringrift_dagster.games.states import Capture, state_json

SOURCE = "ringrift_dagster_selfplay"
SNAPSHOT_INTERVAL = 20
"""Moves between two stored states, as in RingRift's recorder."""

LOCK_TIMEOUT_SECONDS = 10.0
"""How long a commit waits for a program that holds SQLite's own lock, as RingRift's tools do."""

_METADATA_PREFIX = "ringrift_dagster_"
_ENDINGS = {
    Ending.ELIMINATION: "elimination",
    Ending.TERRITORY: "territory",
    Ending.LAST_PLAYER_STANDING: "lps",
    Ending.STALEMATE: "stalemate",
    Ending.RESIGNATION: "resign",
    Ending.TIMEOUT: "timeout",
}
_MAX_SQLITE_INTEGER = 2**63 - 1


class RecordingError(Exception):
    """A game or database could not be written; `detail` says why in one line. What was committed before stays."""

    def __init__(self, path: Path, detail: str) -> None:
        super().__init__(f"{path}: {detail}")
        self.path = path
        self.detail = detail


class RecordingRefused(RecordingError):
    """The database may not be written to: it is in use, was made by another program or run, or has the game with other moves."""


class UnrecordableGame(ValueError):
    """The moves are no finished, legal game; nothing was written."""


@dataclass(frozen=True)
class Seat:
    """Who played a seat: an AI type, with difficulty, profile and seed as far as there are any."""

    ai_type: str
    difficulty: int | None = None
    profile: str | None = None
    seed: int | None = None


@dataclass(frozen=True)
class PlayedGame:
    """A finished game from the canonical starting position.

    `players` are in the order of the seats at the start, which `swap_sides` does not change. `probabilities` (see
    `move_records.move_probabilities`) and `search_stats` (any JSON) are by index of the move. `think_ms`, if given, has an entry
    for every move, in milliseconds. Times are UTC; naive ones are taken as UTC. `variant` is one of `games.position.VARIANTS`.
    `metadata` is stored unchanged, but for keys that the recorder writes itself.
    """

    game_id: str
    config: Config
    swap_rule: bool
    moves: PackedMoves
    players: tuple[Seat, ...]
    started: datetime
    finished: datetime
    seed: int | None = None
    probabilities: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    search_stats: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    think_ms: Sequence[int] | None = None
    source: str = SOURCE
    variant: str = RULE
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class GameRows:
    """A game as rows of the database, in plain values that can be sent between processes. The rows have no `game_id`.

    `digest` is the one that the gate computes when it reads the game back.
    """

    game_id: str
    config: str
    digest: str
    game: Mapping[str, Any]
    players: list[tuple[Any, ...]]
    initial_state: str
    moves: list[tuple[Any, ...]]
    history: list[tuple[Any, ...]]
    snapshots: list[tuple[Any, ...]]


def game_rows(game: PlayedGame) -> GameRows:
    """Everything that is stored of a game. Raises UnrecordableGame for moves that are no finished, legal game."""
    config = game.config
    if len(game.players) != config.players:
        raise UnrecordableGame(f"game {game.game_id}: {len(game.players)} seats, {config.key} has {config.players}")
    if len(game.moves) < MIN_MOVES:
        raise UnrecordableGame(f"game {game.game_id}: {len(game.moves)} moves, a game has at least {MIN_MOVES}")
    try:
        moves = as_recorded(config, game.moves)
        start = empty_position(config, swap_rule=game.swap_rule, variant=game.variant)
        digest = game_digest(config, start, moves)
        return _replayed(game, moves, start, digest)
    except ValueError as error:
        raise UnrecordableGame(f"game {game.game_id}: {error}") from error


def _replayed(game: PlayedGame, moves: PackedMoves, position: Position, digest: str) -> GameRows:
    """Replay the game and build its rows; `position` is the starting position and is changed to the last one."""
    config, tables = game.config, topology(game.config.board)
    buffer = buffer_for(tables)
    clock = _clock(game, len(moves))
    difficulties = [seat.difficulty for seat in game.players]

    captures: list[Capture] = []

    def state(at: str) -> str:
        state = state_json(config, position, created=clock[0], last_move=at, difficulties=difficulties, captures=captures)
        return orjson.dumps(state).decode()

    def situation() -> tuple[str, str, str, str]:
        hashed = hash_text_of(int(hash_position(tables, position, buffer)))
        return PHASE_NAMES[position.phase], STATUSES[position.status], _progress(config, position), hashed

    rows, cells = moves.rows.tolist(), moves.cells.tolist()
    initial_state = state(clock[0])
    move_rows: list[tuple[Any, ...]] = []
    history: list[tuple[Any, ...]] = []
    snapshots: list[tuple[Any, ...]] = []
    turn, mover = 0, int(position.player)
    replay = positions(config, position, moves)
    next(replay)
    before = situation()
    for index, row in enumerate(rows):
        kind, player, to = row[m.TYPE], row[m.PLAYER], row[m.TO]
        on_stack = bool(kind == MoveType.PLACE_RING and to >= 0 and position.height[to] > 0)
        next(replay)
        after = situation()
        captures = [*captures, (row[m.ORIGIN], row[m.TARGET], to)] if position.chain != NO_CELL else []
        if player != mover:
            turn, mover = turn + 1, player
        think = int(game.think_ms[index]) if game.think_ms is not None else 0
        time = clock[index + 1]
        record = move_record(config, row, cells, index + 1, timestamp=time, think_ms=think, on_stack=on_stack)
        search = _json(game.probabilities.get(index)), _json(game.search_stats.get(index))
        move_rows.append((index, turn, player, before[0], TYPE_NAMES[kind], _json(record), time, think, *search))
        history.append((index, player, before[0], after[0], before[1], after[1], before[2], after[2], before[3], after[3]))
        if (index + 1) % SNAPSHOT_INTERVAL == 0 or index == len(rows) - 1:
            snapshots.append((index, state(time), after[3]))
        before = after
    if position.status != COMPLETED:
        raise ValueError(f"not finished after {len(rows)} moves")
    ending = _ENDINGS[Ending(ending_of(tables, position, rows[-1][m.TYPE]))]
    return GameRows(
        game.game_id,
        config.key,
        digest,
        _game_row(game, position, digest, f"status:completed:{ending}", len(rows), turn + 1, clock),
        _player_rows(game, position),
        initial_state,
        move_rows,
        history,
        snapshots,
    )


def _game_row(
    game: PlayedGame, end: Position, digest: str, reason: str, moves: int, turns: int, clock: Sequence[str]
) -> dict[str, Any]:
    kinds = sorted({seat.ai_type for seat in game.players})
    swaps = int(game.moves.rows[:, m.TYPE].tolist().count(MoveType.SWAP_SIDES))
    metadata: dict[str, Any] = {
        "engine_mode": f"{kinds[0]}-only" if len(kinds) == 1 else "mixed",
        "game_digest": digest,
        "rng_seed": game.seed,
        "source": game.source,
        "swap_sides_moves": swaps,
        "termination_reason": reason,
        "used_pie_rule": bool(swaps),
    }
    for number, seat in enumerate(game.players, start=1):
        values = {"ai_type": seat.ai_type, "difficulty": seat.difficulty, "profile_id": seat.profile, "rng_seed": seat.seed}
        metadata.update({f"player_{number}_{name}": value for name, value in values.items() if value is not None})
    metadata = {**game.metadata, **metadata}
    seed = game.seed if game.seed is not None and abs(game.seed) <= _MAX_SQLITE_INTEGER else None
    return {
        "board_type": game.config.board,
        "num_players": game.config.players,
        "rng_seed": seed,
        "created_at": clock[0],
        "completed_at": _iso(game.finished),
        "winner": int(end.winner) or None,
        "termination_reason": reason,
        "total_moves": moves,
        "total_turns": turns,
        "duration_ms": round((_utc(game.finished) - _utc(game.started)) / timedelta(milliseconds=1)),
        "source": game.source,
        "schema_version": SCHEMA_VERSION,
        "metadata_json": orjson.dumps(metadata, option=orjson.OPT_SORT_KEYS).decode(),
        "engine_mode": metadata["engine_mode"],
    }


def _player_rows(game: PlayedGame, end: Position) -> list[tuple[Any, ...]]:
    counts = (end.eliminated, end.territory, end.hand)
    return [
        (number, "ai", seat.ai_type, seat.difficulty, seat.profile, *(int(of_seat[number]) for of_seat in counts))
        for number, seat in enumerate(game.players, start=1)
    ]


def _progress(config: Config, position: Position) -> str:
    counts = zip(position["eliminated"].tolist(), position["territory"].tolist(), position["hand"].tolist(), strict=True)
    players = [
        {"playerNumber": seat, "eliminatedRings": eliminated, "territorySpaces": territory, "ringsInHand": hand}
        for seat, (eliminated, territory, hand) in enumerate(counts)
    ]
    return orjson.dumps({"players": players[1 : config.players + 1]}).decode()


def _json(value: object) -> str | None:
    return orjson.dumps(value).decode() if value else None


def _clock(game: PlayedGame, moves: int) -> list[str]:
    """The start of the game and the time of each move, as ISO texts; without thinking times all are the start."""
    began = _utc(game.started)
    if game.think_ms is None:
        return [_iso(began)] * (moves + 1)
    if len(game.think_ms) != moves:
        raise ValueError(f"{len(game.think_ms)} thinking times for {moves} moves")
    clock, spent = [_iso(began)], 0
    for think in game.think_ms:
        spent += int(think)
        clock.append(_iso(began + timedelta(milliseconds=spent)))
    return clock


def _utc(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def _iso(time: datetime) -> str:
    return _utc(time).replace(tzinfo=None).isoformat(timespec="microseconds")


class GameRecorder:
    """The only writer of a game database made by this project. Use as a context manager.

    `about` identifies the run (root seed, AIs, version of the engine, …); it is stored in a new file, and an existing file is
    continued only if it has the same values. Other programs may read the database while it is written. With `durable` a game that
    was written survives a power failure too, at the price of waiting for the disk once a game. Raises
    RecordingRefused when another writer has the file, or it is not a database of `config` with the values of `about`, and
    RecordingError when it cannot be written.
    """

    def __init__(self, path: Path, config: Config, about: Mapping[str, str], *, durable: bool = False) -> None:
        self.path = path
        self._durable = durable
        self.config = config
        self._about = {f"{_METADATA_PREFIX}{name}": value for name, value in {**about, "config": config.key}.items()}
        if path.exists() and not path.is_file():
            raise RecordingRefused(path, "is no regular file: write to another path")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            actual = path.resolve()  # two links to one file are one database
            self._lock = (actual.parent / f".{actual.name}.lock").open("a")  # whatever it is, nothing in it is lost
        except OSError as error:
            raise RecordingError(path, f"cannot be written: {error.strerror}") from error
        try:
            self._hold()
            self._connection = self._open()
            self._file = self._identity()
        except BaseException:
            self._lock.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the database and release the lock."""
        with suppress(sqlite3.Error):
            self._connection.close()
        self._lock.close()

    def digests(self) -> dict[str, str]:
        """Ids of the games that the database has, and their digests. Raises RecordingRefused for a game that is no longer whole."""
        statement = (
            "SELECT game_id, metadata_json, game_status = 'completed' AND total_moves = "
            "(SELECT COUNT(*) FROM game_moves WHERE game_moves.game_id = games.game_id) FROM games"
        )
        digests: dict[str, str] = {}
        with self._translated():
            for game_id, metadata, whole in self._connection.execute(statement):
                digest = _digest_in(metadata)
                if not whole or digest is None:
                    raise RecordingRefused(self.path, f"game {str(game_id)[:60]} in it is damaged: write to another file")
                digests[game_id] = digest
        return digests

    def write(self, game: PlayedGame | GameRows) -> bool:
        """Commit one game in one transaction; False if the database has it already.

        Raises UnrecordableGame for moves that are no finished, legal game, RecordingRefused for a game of another config or an
        id that another game has, and RecordingError when the database cannot be written or its file is no longer there. Then the
        database is as it was.
        """
        rows = game_rows(game) if isinstance(game, PlayedGame) else game
        if rows.config != self.config.key:
            raise RecordingRefused(self.path, f"holds {self.config.key} games, game {rows.game_id} is {rows.config}")
        if self._identity() != self._file:  # what SQLite still has open would be lost with the last process that has it
            raise RecordingError(self.path, "was removed or replaced while games were written to it: run this again")
        with self._translated(), self._transaction():
            known = self._connection.execute("SELECT metadata_json FROM games WHERE game_id = ?", (rows.game_id,)).fetchone()
            if known is None:
                self._insert(rows)
        if known is not None and (digest := _digest_in(known[0])) != rows.digest:
            raise RecordingRefused(
                self.path,
                f"has another game {rows.game_id} (digest {str(digest)[:12]}, not {rows.digest[:12]}): write to another file",
            )
        return known is None

    def _insert(self, rows: GameRows) -> None:
        """The order that the schema's triggers demand: an unfinished game, its moves, then its end."""
        run, many = self._connection.execute, self._connection.executemany
        game = {**rows.game, "game_id": rows.game_id, "game_status": "in_progress", "total_moves": 0}
        run(f"INSERT INTO games ({', '.join(game)}) VALUES ({', '.join('?' * len(game))})", tuple(game.values()))
        run("INSERT INTO game_initial_state VALUES (?, ?, 0)", (rows.game_id, rows.initial_state))
        for table, columns, values in (
            (
                "game_moves",
                "move_number, turn_number, player, phase, move_type, move_json, timestamp, think_time_ms, move_probs, "
                "search_stats_json",
                rows.moves,
            ),
            (
                "game_history_entries",
                "move_number, player, phase_before, phase_after, status_before, status_after, progress_before_json, "
                "progress_after_json, state_hash_before, state_hash_after",
                rows.history,
            ),
            ("game_state_snapshots", "move_number, state_json, state_hash", rows.snapshots),
            (
                "game_players",
                "player_number, player_type, ai_type, ai_difficulty, ai_profile_id, final_eliminated_rings, "
                "final_territory_spaces, final_rings_in_hand",
                rows.players,
            ),
        ):
            places = ", ".join("?" * (columns.count(",") + 2))
            many(f"INSERT INTO {table} (game_id, {columns}) VALUES ({places})", ((rows.game_id, *row) for row in values))
        run(
            "UPDATE games SET game_status = 'completed', total_moves = ? WHERE game_id = ?",
            (rows.game["total_moves"], rows.game_id),
        )

    def _hold(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RecordingRefused(self.path, "another process is writing games to it: wait for it, or write elsewhere") from error

    def _identity(self) -> tuple[int, int] | None:
        """Device and inode of the file; None where there is none."""
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _open(self) -> sqlite3.Connection:
        with self._translated():
            # An absolute path is always the name of a file; `:memory:` and, in some builds of SQLite, `file:…` are not.
            connection = sqlite3.connect(self.path.absolute(), timeout=LOCK_TIMEOUT_SECONDS, isolation_level=None)
        self._connection = connection
        try:
            with self._translated():
                if connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone() == (0,):
                    self._create()
                self._check()
                connection.execute("PRAGMA foreign_keys = ON")
                connection.execute(f"PRAGMA synchronous = {'FULL' if self._durable else 'NORMAL'}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _create(self) -> None:
        """All tables in one transaction, so that a file that a kill left behind has all of them or none."""
        self._connection.execute("PRAGMA journal_mode = WAL")
        facts = {"schema_version": str(SCHEMA_VERSION), **self._about}
        with self._transaction():
            for statement in _statements(SCHEMA):
                self._connection.execute(statement)
            self._connection.executemany("INSERT INTO schema_metadata VALUES (?, ?)", facts.items())

    def _check(self) -> None:
        """Refuse a file that this project did not make, or that was made with other values of `about`."""
        try:
            facts = dict(self._connection.execute("SELECT key, value FROM schema_metadata"))
        except sqlite3.OperationalError as error:
            if "no such table" not in str(error):
                raise
            raise RecordingRefused(self.path, "is another kind of database: write to another file") from error
        if facts.get("schema_version") != str(SCHEMA_VERSION):
            version = str(facts.get("schema_version"))[:20]
            raise RecordingRefused(self.path, f"has schema version {version}, not {SCHEMA_VERSION}: write to another file")
        ours = {name: value for name, value in facts.items() if str(name).startswith(_METADATA_PREFIX)}
        if not ours:
            raise RecordingRefused(self.path, "was not made by ringrift_dagster: write to another file")
        for name in sorted(ours.keys() | self._about.keys()):
            if ours.get(name) != self._about.get(name):
                what = name.removeprefix(_METADATA_PREFIX).replace("_", " ")
                raise RecordingRefused(
                    self.path,
                    f"was made with {what} {str(ours.get(name))[:60]}, not {str(self._about.get(name))[:60]}: "
                    "write to another file",
                )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):  # SQLite rolls back by itself where the disk is full
                self._connection.execute("ROLLBACK")
            raise

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn SQLite's errors into RecordingError or RecordingRefused, with one line that says what to do."""
        try:
            yield
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", "")
            if name == "SQLITE_NOTADB":
                raise RecordingRefused(self.path, "is no SQLite database: write to another file") from error
            if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
                detail = f"another program has locked it for more than {LOCK_TIMEOUT_SECONDS:.0f} s: end it and resume"
            elif name == "SQLITE_FULL":
                detail = "the disk is full: make room and resume"
            elif name.startswith("SQLITE_IOERR"):
                detail = f"the disk does not take it ({error}): make room or look at the disk, and resume"
            else:
                detail = f"cannot be written: {error}"
            raise RecordingError(self.path, detail) from error


def _statements(script: str) -> Iterator[str]:
    """The statements of an SQL script one by one: `executescript` would commit before it begins."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _digest_in(metadata: str | None) -> str | None:
    try:
        digest = orjson.loads(metadata or "")["game_digest"]
    except (ValueError, KeyError, TypeError):
        return None
    return digest if isinstance(digest, str) else None
