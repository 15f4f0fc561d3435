"""Where the gate's verdicts are kept, so that a database that grew is judged only for what it gained.

A verdict is bound to content: the game's digest (initial state and moves), the claims it was judged against (result and
recorded hashes) and the version of the rules. Never to a file or a game id.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path

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
    judged_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')),
    PRIMARY KEY (digest, claims, rules_version)
) WITHOUT ROWID
"""


@dataclass(frozen=True)
class StoredVerdict:
    """What the gate found; `reason` None means canonical."""

    reason: str | None
    move_number: int | None
    detail: str | None
    moves: int
    hashes_checked: int


class VerdictStore:
    """Verdicts in an SQLite file, safe for several processes. Use as a context manager; leaving it commits."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(path, timeout=60)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute(_SCHEMA)

    def __enter__(self) -> VerdictStore:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.commit()
        self._connection.close()

    def get(self, digest: str, claims: str, rules_version: str) -> StoredVerdict | None:
        """The verdict on exactly this content, or None."""
        row = self._connection.execute(
            "SELECT reason, move_number, detail, moves, hashes_checked FROM verdicts "
            "WHERE digest = ? AND claims = ? AND rules_version = ?",
            (digest, claims, rules_version),
        ).fetchone()
        return StoredVerdict(*row) if row else None

    def put(self, digest: str, claims: str, rules_version: str, verdict: StoredVerdict) -> None:
        """Keep a verdict; the first one on a content stays."""
        self._connection.execute(
            "INSERT OR IGNORE INTO verdicts (digest, claims, rules_version, reason, move_number, detail, moves, "
            "hashes_checked) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                digest,
                claims,
                rules_version,
                verdict.reason,
                verdict.move_number,
                verdict.detail,
                verdict.moves,
                verdict.hashes_checked,
            ),
        )

    def commit(self) -> None:
        """Make what was put so far durable, and let other writers in."""
        self._connection.commit()
