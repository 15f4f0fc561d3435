"""A small SQLite file of an agent that has to outlive it: durable with every transaction, held by one process.

What is in it is its owners' business: `outbox` and `delivered`.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_WAL_BYTES = 64 << 20


class HostFile:
    """The file. Threads may share it. One that is damaged is moved aside, and an empty one begins.

    Raises OSError where it cannot be written, or another process has it.
    """

    def __init__(self, path: Path, tables: str) -> None:
        self._path = path
        self._tables = tables
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._held = path.with_suffix(".lock").open("wb")
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._connection = self._open()
        except OSError:
            self._held.close()
            raise

    def close(self) -> None:
        """End; what was committed is there for the next."""
        with self._lock:
            self._connection.close()
            self._held.close()

    def rows(self, query: str, *values: Any) -> Sequence[tuple[Any, ...]]:
        """What a query finds. Raises OSError."""
        with self._lock, self._as_os_error():
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Cursor]:
        """One transaction, on disk when it is over. Raises OSError."""
        with self._lock, self._as_os_error():
            cursor = self._connection.cursor()
            cursor.execute("BEGIN IMMEDIATE")
            try:
                yield cursor
                cursor.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # a failed COMMIT may have ended it already
                    cursor.execute("ROLLBACK")
                raise

    def _open(self) -> sqlite3.Connection:
        try:
            return self._connect()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise OSError(None, f"events: {error}", str(self._path)) from error
            logging.getLogger(__name__).warning("%s is damaged and moved aside: %s", self._path, error)
        for suffix in ("-wal", "-shm"):
            with suppress(FileNotFoundError):
                os.replace(f"{self._path}{suffix}", f"{self._path}.damaged{suffix}")  # noqa: PTH105
        self._path.replace(f"{self._path}.damaged")
        with self._as_os_error():
            return self._connect()

    def _connect(self) -> sqlite3.Connection:
        self._path.touch(mode=0o600)
        connection = sqlite3.connect(self._path, timeout=30, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")  # a commit is one fsync of the log
            connection.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
            connection.execute("PRAGMA cache_size = -16384")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version == 0:
                connection.executescript(f"BEGIN; {self._tables} PRAGMA user_version = 1; COMMIT;")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    @contextmanager
    def _as_os_error(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise OSError(None, f"events: {error}", str(self._path)) from error
