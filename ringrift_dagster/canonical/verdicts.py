"""Where the gate's verdicts are kept, so that a database that grew is judged only for what it gained.

A verdict is bound to content: the game's digest (initial state and moves), the claims it was judged against (result and
recorded hashes) and the version of the rules. Never to a file or a game id.
"""

from __future__ import annotations

import sqlite3
import time
from dataclasses import astuple, dataclass
from pathlib import Path

from ringrift_dagster.sqlite_file import open_shared

_PUTS_PER_COMMIT = 300
_SECONDS_PER_COMMIT = 1.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS verdicts (
    digest TEXT NOT NULL,
    claims TEXT NOT NULL,
    rules_version TEXT NOT NULL,
    reason TEXT,
    move_number INTEGER,
    detail TEXT,
    moves INTEGER NOT NULL,
    hashes_checked INTEGER NOT NULL,
    variant TEXT,
    judged_by TEXT,
    judged_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
    PRIMARY KEY (digest, claims, rules_version)
) WITHOUT ROWID
"""
_VALUES = "reason, move_number, detail, moves, hashes_checked, variant, judged_by"
_LATER_COLUMNS = ("variant", "judged_by")
"""Columns that files made by earlier releases lack."""


@dataclass(frozen=True)
class StoredVerdict:
    """What the gate found; `reason` None means canonical.

    `variant` is the variant under which the game is legal (`games.position.VARIANTS`; None for a rejected game), `judged_by` the
    engine that ran the rules (`rules.compiled.engine`).
    """

    reason: str | None
    move_number: int | None
    detail: str | None
    moves: int
    hashes_checked: int
    variant: str | None = None
    judged_by: str | None = None


class VerdictStore:
    """Verdicts in an SQLite file, safe for several processes. Use as a context manager; leaving it commits.

    What is put is held in memory and written every few hundred verdicts or every second, whichever comes first, in a transaction
    that lasts no longer than the writing: all configs share one file, and judging one game may take longer than others wait.
    """

    def __init__(self, path: Path) -> None:
        self._connection = open_shared(path, _SCHEMA)
        try:
            _add_later_columns(self._connection)
        except BaseException:
            self._connection.close()
            raise
        self._pending: dict[tuple[str, str, str], StoredVerdict] = {}
        self._pending_since = 0.0

    def __enter__(self) -> VerdictStore:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.commit()
        finally:
            self._connection.close()

    def get(self, digest: str, claims: str, rules_version: str) -> StoredVerdict | None:
        """The verdict on exactly this content, or None."""
        if pending := self._pending.get((digest, claims, rules_version)):
            return pending
        row = self._connection.execute(
            f"SELECT {_VALUES} FROM verdicts WHERE digest = ? AND claims = ? AND rules_version = ?",
            (digest, claims, rules_version),
        ).fetchone()
        return StoredVerdict(*row) if row else None

    def put(self, digest: str, claims: str, rules_version: str, verdict: StoredVerdict) -> None:
        """Keep a verdict; the first one on a content stays. It is durable after the next `commit` at the latest."""
        now = time.monotonic()
        if not self._pending:
            self._pending_since = now
        self._pending.setdefault((digest, claims, rules_version), verdict)
        if len(self._pending) >= _PUTS_PER_COMMIT or now - self._pending_since >= _SECONDS_PER_COMMIT:
            self.commit()

    def commit(self) -> None:
        """Make what was put so far durable. Nothing is forgotten if that fails."""
        if not self._pending:
            return
        with self._connection:
            self._connection.executemany(
                f"INSERT OR IGNORE INTO verdicts (digest, claims, rules_version, {_VALUES}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [(*key, *astuple(verdict)) for key, verdict in self._pending.items()],
            )
        self._pending.clear()


def _add_later_columns(connection: sqlite3.Connection) -> None:
    """Add the columns that a file of an earlier release lacks; another process may add them at the same time."""
    present = {row[1] for row in connection.execute("PRAGMA table_info(verdicts)")}
    for name in _LATER_COLUMNS:
        if name not in present:
            try:
                connection.execute(f"ALTER TABLE verdicts ADD COLUMN {name} TEXT")
            except sqlite3.OperationalError as error:
                if "duplicate column" not in str(error):
                    raise
