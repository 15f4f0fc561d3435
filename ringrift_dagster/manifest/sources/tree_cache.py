"""What is remembered about a directory tree: one SQLite file with a row a path, and the order in which rows changed.

A cache can be lost or damaged at any moment: then a new one begins, under a new epoch. It knows rows and sequence numbers, and
nothing about files.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ringrift_dagster.manifest.inventory import Gone

VERSION = "1"
"""Raised whenever what is remembered changes its meaning: older caches then begin anew."""
MAX_TOMBSTONES = 200_000
"""Paths remembered as gone; whoever last asked before the oldest of them is told everything."""

_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
CREATE TABLE entries (
    path TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    inode INTEGER NOT NULL,
    stamp TEXT NOT NULL,
    type TEXT,
    sha256 TEXT,
    facts TEXT NOT NULL,
    chunks BLOB,
    verified_at REAL,
    settled INTEGER NOT NULL,
    damaged INTEGER NOT NULL,
    reason TEXT,
    detail TEXT,
    gone TEXT,
    source TEXT,
    at REAL
);
CREATE UNIQUE INDEX entries_sequence ON entries (sequence);
CREATE INDEX entries_sha256 ON entries (sha256);
CREATE INDEX entries_verified ON entries (verified_at) WHERE kind = 'found';
"""


@dataclass(slots=True)
class Entry:
    """One remembered path. `kind`: found (an item), untracked, database (live), gone.

    `gone` says why the path no longer holds what it once did; `settled` is False when the file was so young that a later write may
    not show in its time. `source` is, of a snapshot, the database it was taken of; `at` when that happened, or, of a retired one,
    when it was retired. `facts` is JSON, `sequence` the order of changes.
    """

    path: str
    kind: str
    size: int = 0
    mtime_ns: int = 0
    inode: int = 0
    stamp: str = ""
    type: str | None = None
    sha256: str | None = None
    facts: str = "{}"
    chunks: bytes | None = None
    verified_at: float | None = None
    settled: bool = True
    damaged: bool = False
    reason: str | None = None
    detail: str | None = None
    gone: str | None = None
    source: str | None = None
    at: float | None = None
    sequence: int = 0


def tombstone(entry: Entry, reason: Gone) -> Entry:
    """What stays of an entry that is gone."""
    return Entry(entry.path, "gone", entry.size, entry.mtime_ns, entry.inode, gone=reason, source=entry.source)


def gone_before(known: Entry | None) -> str | None:
    """What to say of a path's past when it holds no item now."""
    if known is None:
        return None
    return known.gone or (Gone.REPLACED if known.kind in ("found", "database") else None)


_COLUMNS = tuple(column.name for column in fields(Entry))
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM entries"
_SHORT = _SELECT.replace("facts", "CASE kind WHEN 'database' THEN facts ELSE '{}' END").replace("chunks", "NULL")
"""Without what is long and only of use when an item is told of."""
_REPLACE = f"INSERT OR REPLACE INTO entries ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"


class CacheDamaged(OSError):
    """The cache could not be read; it was discarded, and the next session begins a new epoch."""


class TreeCache:
    """The cache file of one tree. Readers may be many; writers take turns by the caller's lock.

    `identity` says what it is a cache of: one of something else begins anew. Raises OSError where the file cannot be written.
    """

    def __init__(self, path: Path, identity: str) -> None:
        self.path = path
        self._identity = f"{VERSION} {identity}"
        self._lock = threading.Lock()
        self._begin_if_needed()

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A connection for one piece of work. Raises CacheDamaged, and OSError for what the file system refuses."""
        try:
            self._begin_if_needed()
            with closing(self._connect()) as connection:
                yield Session(connection)
        except sqlite3.Error as error:
            if not _is_damage(error):
                raise OSError(None, f"cache: {error}", str(self.path)) from error
            with self._alone():
                self._discard()
            raise CacheDamaged(None, f"the cache was damaged and begins anew: {error}", str(self.path)) from error

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=30, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _begin_if_needed(self) -> None:
        if self._has_begun():
            return
        with self._alone():
            if self._has_begun():
                return
            self._discard()
            try:
                with closing(self._connect()) as connection:
                    connection.executescript(f"BEGIN IMMEDIATE; {_TABLES}")
                    first = {"identity": self._identity, "epoch": secrets.token_hex(8), "sequence": 0, "horizon": 0, "complete": 0}
                    connection.executemany("INSERT INTO meta VALUES (?, ?)", first.items())
                    connection.execute("COMMIT")
            except sqlite3.Error as error:
                raise OSError(None, f"no cache can be written: {error}", str(self.path)) from error

    def _has_begun(self) -> bool:
        if not self.path.exists():
            return False
        try:
            with closing(self._connect()) as connection:
                row = connection.execute("SELECT value FROM meta WHERE key = 'identity'").fetchone()
        except sqlite3.Error as error:
            if _is_damage(error):
                return False
            raise OSError(None, f"cache: {error}", str(self.path)) from error
        return row is not None and row[0] == self._identity

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else begins or discards meanwhile, in this process or another."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock, self.path.with_suffix(".lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _discard(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                os.unlink(f"{self.path}{suffix}")  # noqa: PTH108


class Session:
    """Reads and writes of one connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def meta(self, key: str) -> Any:
        """A remembered value, or None."""
        row = self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    def set_meta(self, key: str, value: str | float) -> None:
        self._connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    @contextmanager
    def transaction(self, *, write: bool = True) -> Iterator[None]:
        """All of it or none."""
        self._connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def write(self, entries: Sequence[Entry]) -> None:
        """Put entries in, each under a new sequence number. Within a transaction."""
        if not entries:
            return
        sequence = int(self.meta("sequence"))
        for number, entry in enumerate(entries, sequence + 1):
            entry.sequence = number
        self._connection.executemany(_REPLACE, [[getattr(entry, name) for name in _COLUMNS] for entry in entries])
        self.set_meta("sequence", sequence + len(entries))

    def settle(self, path: str, verified_at: float) -> None:
        """Note that a file was looked at again and is what it was: no change."""
        self._connection.execute("UPDATE entries SET settled = 1, verified_at = ? WHERE path = ?", (verified_at, path))

    def forget_oldest_gone(self) -> None:
        """Keep the number of tombstones bounded."""
        count = self._connection.execute("SELECT COUNT(*) FROM entries WHERE kind = 'gone'").fetchone()[0]
        if count <= MAX_TOMBSTONES:
            return
        (horizon,) = self._connection.execute(
            "SELECT sequence FROM entries WHERE kind = 'gone' ORDER BY sequence LIMIT 1 OFFSET ?", (count - MAX_TOMBSTONES // 2,)
        ).fetchone()
        self._connection.execute("DELETE FROM entries WHERE kind = 'gone' AND sequence < ?", (horizon,))
        self.set_meta("horizon", horizon)

    def all(self) -> dict[str, Entry]:
        """Every entry by path, short: no chunk tables, and no facts but those of databases."""
        return {row[0]: _entry(row) for row in self._connection.execute(_SHORT)}

    def get(self, path: str) -> Entry | None:
        """One entry, whole."""
        return self._one("WHERE path = ?", path)

    def by_hash(self, sha256: str) -> list[Entry]:
        """What has, or until lately had, this content; short."""
        return list(self._many(f"{_SHORT} WHERE sha256 = ?", sha256))

    def since(self, sequence: int, limit: int) -> Iterator[Entry]:
        """Entries that changed after `sequence`, in order."""
        return self._many(f"{_SELECT} WHERE sequence > ? ORDER BY sequence LIMIT ?", sequence, limit)

    def least_verified(self, before: float) -> Iterator[Entry]:
        """Items that were last verified before a time, the longest ago first; short. Read to the end before writing."""
        condition = "kind = 'found' AND COALESCE(verified_at, 0) < ?"
        return self._many(f"{_SHORT} WHERE {condition} ORDER BY COALESCE(verified_at, 0), path", before)

    def counts(self) -> dict[str, int]:
        """Entries by kind, and `damaged` ones among the items."""
        counts = dict(self._connection.execute("SELECT kind, COUNT(*) FROM entries GROUP BY kind"))
        counts["damaged"] = self._connection.execute("SELECT COUNT(*) FROM entries WHERE kind = 'found' AND damaged").fetchone()[0]
        return counts

    def _one(self, where: str, *values: Any) -> Entry | None:
        return next(self._many(f"{_SELECT} {where}", *values), None)

    def _many(self, query: str, *values: Any) -> Iterator[Entry]:
        return (_entry(row) for row in self._connection.execute(query, values))


def _is_damage(error: sqlite3.Error) -> bool:
    """Whether the file is broken or is none of ours, rather than busy or out of reach."""
    codes = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_SCHEMA)
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF in codes


def _entry(row: Iterable[Any]) -> Entry:
    entry = Entry(*row)
    entry.settled, entry.damaged = bool(entry.settled), bool(entry.damaged)
    return entry
