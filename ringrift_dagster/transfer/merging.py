"""Adding the games of one database to another that is in use: the games that it lacks, and nothing else.

No game that is there is ever changed or removed. `merge` does the work in a process of its own, because closing any file of a
database drops all locks its process holds on it, and because a merge that hangs can then be killed. That process runs this file as
a script, without the package: only the standard library belongs here.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

MERGE_TIMEOUT_SECONDS = 3600.0
BUSY_SECONDS = 60.0
"""A database that stays locked for so long is left for another time."""
HOLD_SECONDS = 1.0
"""About how long one transaction keeps other writers waiting. A merge that takes longer goes on in the next, game by whole game."""
PAUSE_SECONDS = 0.2
"""Between two transactions: longer than a waiting writer sleeps."""
STEP_GAMES = 20
MIN_MOVES = 5
"""A finished game with fewer moves is no game; RingRift's own triggers refuse it."""
MAX_ROW_BYTES = 256 << 20
EXIT_FAILED = 3

_FINISHED = ("completed", "finished")
_PARTS = (
    "game_players",
    "game_initial_state",
    "game_moves",
    "game_state_snapshots",
    "game_history_entries",
    "game_choices",
    "game_nnue_features",
)
"""What belongs to a game. `games` comes last: RingRift's triggers want the moves to be there first."""
_MOVE = ("player", "move_type", "move_json", "position_q", "position_r")
"""What makes a move, in the newer form or the older."""
_TRIGGERS = ("enforce_moves_on_insert", "enforce_moves_on_complete")
_PLAIN = re.compile(r"[A-Za-z0-9_\s(),.;<>=*']*")
"""A trigger without its texts: no comment, and no other kind of quotes, in which a quote would be none."""
_DOES_MORE = re.compile(r"\b(INSERT|UPDATE|DELETE|REPLACE|IGNORE|ROLLBACK)\b", re.IGNORECASE)
_RESULT = ("board_type", "num_players", "game_status", "winner")


class MergeFailed(Exception):
    """The games could not be added, or not all of them; every game is there whole or not at all.

    `cause` is one of the causes a transfer fails with; `detail` is one line.
    """

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(f"{cause}: {detail}")
        self.cause = cause
        self.detail = " ".join(detail.split())[:300]


@dataclass(frozen=True)
class Merged:
    """Games of the incoming database by what became of them.

    `conflicts` were there already with another content, and are left as they are. `refused` are finished games that the database
    there does not take. Games that are not finished, or have no moves, do not count at all.
    """

    added: int = 0
    alike: int = 0
    conflicts: int = 0
    refused: int = 0


def merge(live: Path, incoming: Path) -> Merged:
    """Add the games that the database `live` lacks from `incoming`, a finished file that nobody writes to.

    Others may read and write `live` meanwhile. Repeating it adds nothing. Raises MergeFailed.
    """
    command = [sys.executable, "-I", __file__, str(live), str(incoming)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=MERGE_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise MergeFailed("timeout", f"not merged within {MERGE_TIMEOUT_SECONDS:.0f} s") from None
    if done.returncode == EXIT_FAILED:
        raise MergeFailed(*json.loads(done.stdout))
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise MergeFailed("disk_error", said[-1] if said else f"the merge ended with status {done.returncode}")
    return Merged(**json.loads(done.stdout))


def add_games(live: Path, incoming: Path) -> Merged:
    """What `merge` does, in this process. Raises MergeFailed."""
    try:
        with closing(sqlite3.connect(_uri(live, "mode=rw"), uri=True, timeout=BUSY_SECONDS, isolation_level=None)) as connection:
            return _Merge(connection, incoming).run()
    except sqlite3.Error as error:
        raise MergeFailed(_cause(error), f"the database there: {error}") from error


def foreign_triggers(path: Path) -> list[str]:
    """Triggers of a finished database that are none of RingRift's: in a database that is in use, they would run.

    RingRift's own, which differ between its versions, only refuse games without moves. What is not written as plainly as they are
    is none of them. Raises sqlite3.Error.
    """
    with closing(sqlite3.connect(_uri(path, "mode=ro&immutable=1"), uri=True)) as connection:
        triggers = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger' ORDER BY name").fetchall()
    return [name for name, sql in triggers if name not in _TRIGGERS or not _only_refuses(sql)]


def _only_refuses(sql: str) -> bool:
    plain = re.sub(r"'[^']*'", "''", sql)
    program = re.split(r"\bBEGIN\b", plain, maxsplit=1, flags=re.IGNORECASE)[-1]
    return _PLAIN.fullmatch(plain) is not None and not _DOES_MORE.search(program)


class _Merge:
    def __init__(self, connection: sqlite3.Connection, incoming: Path) -> None:
        self.connection = connection
        self.incoming = incoming

    def run(self) -> Merged:
        self._prepare()
        there = self._columns("main")
        with self._reading():
            coming = self._columns("incoming")
        for columns, what, cause in ((there, "the database there", "occupied"), (coming, "the incoming database", "not_sound")):
            if "game_id" not in columns.get("games", ()) or not {"game_id", "move_number"} <= set(columns.get("game_moves", ())):
                raise MergeFailed(cause, f"{what} is no game database")
        copies = [
            self._copy(table, there[table], coming[table]) for table in (*_PARTS, "games") if table in there and table in coming
        ]
        with self._reading():
            self._list()
            alike, conflicts = self._compare(there, coming)
            wanted = [
                game for (game,) in self.connection.execute("SELECT game_id FROM temp.arriving WHERE NOT there ORDER BY game_id")
            ]
        added, refused = self._add_all(wanted, copies)
        return Merged(added, alike + len(wanted) - added - refused, conflicts, refused)

    def _prepare(self) -> None:
        """Attach what came so that nothing in it runs: no trigger, no view, no function of its schema."""
        execute = self.connection.execute
        execute("PRAGMA trusted_schema = OFF")
        execute("PRAGMA cell_size_check = ON")
        execute("PRAGMA foreign_keys = OFF")
        execute("PRAGMA synchronous = FULL")
        # Checkpoints are left to the database's own writers: two processes that checkpoint at once can, before SQLite 3.51.3, lose.
        execute("PRAGMA wal_autocheckpoint = 0")
        self.connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_ROW_BYTES)
        with self._reading():
            execute("ATTACH ? AS incoming", (_uri(self.incoming, "mode=ro&immutable=1"),))
        execute("CREATE TABLE temp.arriving (game_id TEXT PRIMARY KEY, there INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID")
        execute("CREATE TABLE temp.step (game_id TEXT PRIMARY KEY) WITHOUT ROWID")

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """What fails here is the fault of what came."""
        try:
            yield
        except sqlite3.Error as error:
            cause = _cause(error)
            raise MergeFailed(
                cause if cause in ("timeout", "no_room") else "not_sound", f"the incoming database: {error}"
            ) from error

    def _columns(self, schema: str) -> dict[str, dict[str, bool]]:
        """The real tables, and their columns by whether a row has to give them a value. Computed columns do not count."""
        query = f"SELECT name FROM {schema}.sqlite_master WHERE type = 'table' AND rootpage > 0"
        return {
            name: {
                column: bool(needed) and default is None
                for _, column, _, needed, default, _ in self.connection.execute(f"PRAGMA {schema}.table_info({name})")
            }
            for (name,) in self.connection.execute(query).fetchall()
            if name in (*_PARTS, "games")
        }

    def _copy(self, table: str, there: dict[str, bool], coming: dict[str, bool]) -> str:
        """The statement that adds a step's rows of one table. Raises MergeFailed where the two forms do not fit."""
        lost = [column for column in _MOVE if column in coming and column not in there] if table == "game_moves" else []
        lacking = [column for column, needed in there.items() if needed and column not in coming]
        if lost or lacking:
            raise MergeFailed("not_sound", f"its {table} are of another form: {', '.join(lost + lacking)}")
        shared = [column for column in there if column in coming and column != "game_id"]
        into = ", ".join(_quoted(column) for column in ("game_id", *shared))
        what = ", ".join(("s.game_id", *(f"i.{_quoted(column)}" for column in shared)))
        # The id is the step's own, which is known to be lacking there: no row of any other game can come along.
        return (
            f"INSERT OR ABORT INTO main.{table} ({into}) "
            f"SELECT {what} FROM temp.step s CROSS JOIN incoming.{table} i ON i.game_id = s.game_id COLLATE BINARY"
        )

    def _list(self) -> None:
        """Which games came, and which of them are there."""
        self.connection.execute(
            "INSERT OR IGNORE INTO temp.arriving (game_id) SELECT game_id FROM incoming.games "
            "WHERE typeof(game_id) = 'text' AND length(game_id) BETWEEN 1 AND 200 AND game_status IN (?, ?) "
            "AND game_id IN (SELECT game_id FROM incoming.game_moves GROUP BY game_id HAVING COUNT(*) >= ?)",
            (*_FINISHED, MIN_MOVES),
        )
        self.connection.execute("UPDATE temp.arriving SET there = 1 WHERE game_id IN (SELECT game_id FROM main.games)")

    def _compare(self, there: dict[str, dict[str, bool]], coming: dict[str, dict[str, bool]]) -> tuple[int, int]:
        """Of the games that are on both sides, how many are alike and how many are not."""
        result = " OR ".join(f"l.{name} IS NOT i.{name}" for name in _RESULT if name in there["games"] and name in coming["games"])
        both = [name for name in _MOVE if name in there["game_moves"] and name in coming["game_moves"]]
        move = " OR ".join(["n.game_id IS NULL", *(f"n.{name} IS NOT m.{name}" for name in both)])
        count = "(SELECT COUNT(*) FROM {}.game_moves c WHERE c.game_id = a.game_id COLLATE BINARY)"
        differs = (
            f"{result or 0} OR {count.format('main')} <> {count.format('incoming')} OR EXISTS ("
            "SELECT 1 FROM incoming.game_moves m LEFT JOIN main.game_moves n "
            "ON n.game_id = a.game_id AND n.move_number = m.move_number "
            f"WHERE m.game_id = a.game_id COLLATE BINARY AND ({move}))"
        )
        total, conflicts = self.connection.execute(
            f"SELECT COUNT(DISTINCT a.game_id), COUNT(DISTINCT CASE WHEN {differs} THEN a.game_id END) FROM temp.arriving a "
            "JOIN main.games l ON l.game_id = a.game_id JOIN incoming.games i ON i.game_id = a.game_id COLLATE BINARY WHERE a.there"
        ).fetchone()
        return total - conflicts, conflicts

    def _add_all(self, wanted: Sequence[str], copies: Sequence[str]) -> tuple[int, int]:
        """Add games in transactions of about HOLD_SECONDS; returns how many were added, and how many refused."""
        added = refused = at = 0
        while at < len(wanted):
            if at:
                time.sleep(PAUSE_SECONDS)
            self.connection.execute("BEGIN IMMEDIATE")
            ends = time.monotonic() + HOLD_SECONDS
            while True:
                lacking = [game for game in wanted[at : at + STEP_GAMES] if not self._is_there(game)]
                taken = self._add(lacking, copies)
                added, refused, at = added + taken, refused + len(lacking) - taken, at + STEP_GAMES
                if at >= len(wanted) or time.monotonic() >= ends:
                    break
            self.connection.execute("COMMIT")
        return added, refused

    def _is_there(self, game: str) -> bool:
        return self.connection.execute("SELECT 1 FROM main.games WHERE game_id = ?", (game,)).fetchone() is not None

    def _add(self, games: Sequence[str], copies: Sequence[str]) -> int:
        """Add some games, each whole or not at all; returns how many. One that is refused keeps no other away."""
        if not games:
            return 0
        execute = self.connection.execute
        execute("SAVEPOINT step")
        try:
            execute("DELETE FROM temp.step")
            self.connection.executemany("INSERT INTO temp.step VALUES (?)", [(game,) for game in games])
            for copy in copies:
                execute(copy)
        except (sqlite3.IntegrityError, sqlite3.DataError):
            execute("ROLLBACK TO step")
            execute("RELEASE step")
            half = len(games) // 2
            return self._add(games[:half], copies) + self._add(games[half:], copies) if half else 0
        execute("RELEASE step")
        return len(games)


def _uri(path: Path, options: str) -> str:
    return f"file:{quote(os.fsencode(path.absolute()))}?{options}"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _cause(error: sqlite3.Error) -> str:
    """An error of the database there, as one of the causes a transfer fails with."""
    return {
        sqlite3.SQLITE_BUSY: "timeout",
        sqlite3.SQLITE_LOCKED: "timeout",
        sqlite3.SQLITE_FULL: "no_room",
        sqlite3.SQLITE_READONLY: "read_only",
        sqlite3.SQLITE_PERM: "read_only",
        sqlite3.SQLITE_NOTADB: "occupied",
    }.get(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF, "disk_error")


def main(live: str, incoming: str) -> int:
    """Tells what came of it as JSON on stdout; exit code 0 or EXIT_FAILED."""
    try:
        print(json.dumps(asdict(add_games(Path(live), Path(incoming)))))
    except MergeFailed as failure:
        print(json.dumps([failure.cause, failure.detail]))
        return EXIT_FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
