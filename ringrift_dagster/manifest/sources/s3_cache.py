"""What is remembered about a bucket's objects: one SQLite file with a row a key, good while ETag, size and time stand.

A cache can be lost or damaged at any moment: then a new one begins, under a new epoch. Hashes that were computed here are lost with
it; those that the bucket tells are asked for again.
"""

from __future__ import annotations

import fcntl
import json
import secrets
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ringrift_dagster.manifest.sources.s3_listing import Listed

VERSION = "1"
"""Raised whenever what is remembered changes its meaning: older caches then begin anew."""
BUSY_SECONDS = 15.0
_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
CREATE TABLE objects (
    key TEXT PRIMARY KEY,
    etag TEXT NOT NULL,
    size INTEGER NOT NULL,
    modified REAL NOT NULL,
    readable INTEGER NOT NULL,
    headed_at REAL,
    problem TEXT,
    claimed TEXT,
    origin TEXT,
    facts TEXT NOT NULL DEFAULT '{}',
    computed TEXT,
    verified_at REAL,
    tried_at REAL
) WITHOUT ROWID;
"""


@dataclass
class Known:
    """One object. `claimed` is the hash that its metadata or our manifest (`origin`) tells, `computed` the one that its bytes had.

    `readable`: its bytes can be had, as far as is known. `headed_at`: when its metadata was asked for; `problem`: why in vain.
    `tried_at` is when its bytes were last read or tried to be, `verified_at` when they were read to the end.
    """

    key: str
    etag: str
    size: int
    modified: float
    readable: bool = True
    headed_at: float | None = None
    problem: str | None = None
    claimed: str | None = None
    origin: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    computed: str | None = None
    verified_at: float | None = None
    tried_at: float | None = None

    @property
    def identity(self) -> tuple[str, int, float]:
        return self.etag, self.size, self.modified

    @property
    def sha256(self) -> str | None:
        """What it is said to be, or else what it is."""
        return self.claimed or self.computed

    @property
    def damaged(self) -> bool:
        return self.claimed is not None and self.computed is not None and self.computed != self.claimed


class S3Cache:
    """The cache file of one bucket; `identity` says which. Safe to use from several threads and processes at once."""

    def __init__(self, path: Path, identity: str) -> None:
        self.path = path
        self._identity = f"{VERSION} {identity}"

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A connection for one piece of work, in one transaction. Raises OSError if it cannot be written, or was damaged: then the
        next session begins a new epoch."""
        try:
            with closing(self._open()) as connection:
                connection.execute("BEGIN IMMEDIATE")
                yield Session(connection)
                connection.execute("COMMIT")
        except sqlite3.Error as error:
            if _is_damage(error):
                self.path.unlink(missing_ok=True)  # begun anew by the next session
            raise OSError(None, f"cache: {error}", str(self.path)) from error

    def _open(self) -> sqlite3.Connection:
        if not self._has_begun():
            self._begin()
        return self._connect()

    def _has_begun(self) -> bool:
        try:
            with closing(self._connect()) as connection:
                row = connection.execute("SELECT value FROM meta WHERE key = 'identity'").fetchone()
        except sqlite3.Error as error:
            if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_CANTOPEN or _is_damage(error):
                return False
            raise
        return row is not None and row[0] == self._identity

    def _begin(self) -> None:
        """Start anew, unless another just did: under another name first, so that nobody ever sees half a cache."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._beside(".lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self._has_begun():
                return
            new = self._beside(".new")
            new.unlink(missing_ok=True)
            with closing(sqlite3.connect(new, isolation_level=None)) as connection:
                connection.executescript(f"BEGIN; {_TABLES}")
                first = {"identity": self._identity, "epoch": secrets.token_hex(8)}
                connection.executemany("INSERT INTO meta VALUES (?, ?)", first.items())
                connection.execute("COMMIT")
            self._beside("-journal").unlink(missing_ok=True)
            new.replace(self.path)

    def _connect(self) -> sqlite3.Connection:
        address = f"file:{quote(str(self.path.absolute()))}?mode=rw"
        return sqlite3.connect(address, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)

    def _beside(self, suffix: str) -> Path:
        return self.path.with_name(self.path.name + suffix)


class Session:
    """Reads and writes of one transaction. What is noted about an object that is no longer the same is not written."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @property
    def epoch(self) -> str:
        return self._connection.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()[0]

    def all(self) -> dict[str, Known]:
        """Every object by key."""
        return {row[0]: _known(row) for row in self._connection.execute(f"SELECT {_COLUMNS} FROM objects")}

    def begin(self, objects: Iterable[Listed]) -> None:
        """Remember objects of which nothing is known yet; what was known of another content under the key goes."""
        fresh = ((each.key, *each.identity, not each.archived) for each in objects)
        self._connection.executemany(
            "INSERT OR REPLACE INTO objects (key, etag, size, modified, readable) VALUES (?, ?, ?, ?, ?)", fresh
        )

    def note_readable(self, objects: Iterable[Known]) -> None:
        self._update("readable = ?", ((each, each.readable) for each in objects))

    def note_told(self, objects: Iterable[Known]) -> None:
        """What metadata or our manifest tells."""
        values = ((each, each.headed_at, each.problem, each.claimed, each.origin, json.dumps(each.facts)) for each in objects)
        self._update("headed_at = ?, problem = ?, claimed = ?, origin = ?, facts = ?", values)

    def note_read(self, known: Known) -> None:
        """What reading the bytes told."""
        values = (known, known.computed, known.verified_at, known.tried_at, known.readable)
        self._update("computed = ?, verified_at = ?, tried_at = ?, readable = ?", [values])

    def forget(self, keys: Iterable[str]) -> None:
        self._connection.executemany("DELETE FROM objects WHERE key = ?", ((key,) for key in keys))

    def to_verify(self, before: float) -> list[Known]:
        """Readable objects not verified since a time: first those without any hash, then those that were not tried for longest."""
        condition = "readable AND COALESCE(verified_at, -1) < ?"
        order = "COALESCE(claimed, computed, tried_at) IS NOT NULL, COALESCE(tried_at, 0), key"
        query = f"SELECT {_COLUMNS} FROM objects WHERE {condition} ORDER BY {order}"
        return [_known(row) for row in self._connection.execute(query, (before,))]

    def _update(self, assignments: str, values: Iterable[tuple[Any, ...]]) -> None:
        statement = f"UPDATE objects SET {assignments} WHERE key = ? AND etag = ? AND size = ? AND modified = ?"
        self._connection.executemany(statement, ((*told, each.key, *each.identity) for each, *told in values))


_COLUMNS = "key, etag, size, modified, readable, headed_at, problem, claimed, origin, facts, computed, verified_at, tried_at"


def _known(row: Iterable[Any]) -> Known:
    known = Known(*row)
    known.readable = bool(known.readable)
    known.facts = json.loads(str(known.facts))
    return known


def _is_damage(error: sqlite3.Error) -> bool:
    """Whether the file is broken or is none of ours, rather than busy or out of reach."""
    codes = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_SCHEMA)
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF in codes
