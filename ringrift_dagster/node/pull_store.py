"""What an agent remembers of the orders it was given: one SQLite file, so that they outlive it. Knows nothing about how items come.

An order is on disk before it is answered. Of an open order only what is final is written down: how far an item is, its part file
knows. Items keep their chunk tables as long as their order is open.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict

from ringrift_dagster.manifest.inventory import Bytes, Name
from ringrift_dagster.transfer.model import ItemProgress, OperationId, Order, OrderedItem, Priority, Progress, PullState, Rate

KEEP_SECONDS = 7 * 86400.0
KEEP_ORDERS = 10_000
"""Orders that have ended are remembered for that long, and at most so many."""
VERSIONS_A_START = 1 << 20
"""Versions are told without being written down; after a restart they begin beyond all that could have been told."""

BUSY_SECONDS = 5.0
"""Only somebody who looks into the file ever has it locked."""

_TABLES = """
CREATE TABLE orders (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    digest BLOB NOT NULL,
    head TEXT NOT NULL,
    priority INTEGER NOT NULL,
    state TEXT NOT NULL,
    version INTEGER NOT NULL,
    received_at REAL NOT NULL,
    finished_at REAL
);
CREATE INDEX orders_finished ON orders (finished_at);
CREATE TABLE items (
    number INTEGER NOT NULL REFERENCES orders (number) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    item TEXT NOT NULL,
    chunks BLOB,
    state TEXT NOT NULL,
    progress TEXT NOT NULL,
    PRIMARY KEY (number, position)
) WITHOUT ROWID;
PRAGMA user_version = 1;
"""
_CHANGES = "UPDATE items SET state = ?, progress = ? WHERE number = ? AND position = ?"


class Conflict(Exception):
    """The id is known, with another body."""


class Head(BaseModel):
    """An order without its items."""

    model_config = ConfigDict(frozen=True)

    id: OperationId
    priority: Priority
    root: Name
    keep_free: Bytes
    inbound: Rate | None
    outbound: dict[Name, Rate]


@dataclass(frozen=True)
class OpenOrder:
    """An order that has not ended, and how its items stand, in their order."""

    number: int
    head: Head
    version: int
    received_at: float
    progress: tuple[ItemProgress, ...]


class PullStore:
    """The file. Safe to use from many threads; one process at a time has it.

    A file that turns out damaged is moved aside, and a new one begins: whoever gave the orders gives them again. Raises OSError
    where it cannot be written, or another process has it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
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
        with self._lock:
            self._connection.close()
            self._held.close()

    def add(self, order: Order, *, at: float) -> int | None:
        """Remember an order durably, and give it its number; None if it is known already. Raises Conflict when it is known with
        another body."""
        digest = _digest(order)
        head = order.model_dump_json(exclude={"items"})
        with self._transaction() as connection:
            known = connection.execute("SELECT digest FROM orders WHERE id = ?", (order.id,)).fetchone()
            if known is not None:
                if known[0] != digest:
                    raise Conflict(order.id)
                return None
            number = connection.execute(
                "INSERT INTO orders (id, digest, head, priority, state, version, received_at) VALUES (?, ?, ?, ?, ?, 1, ?)",
                (order.id, digest, head, int(order.priority), PullState.WAITING.value, at),
            ).lastrowid
            connection.executemany(
                "INSERT INTO items VALUES (?, ?, ?, ?, ?, ?)",
                (
                    (
                        number,
                        position,
                        item.model_dump_json(exclude={"chunks"}),
                        None if item.chunks is None else item.chunks.encode(),
                        PullState.WAITING.value,
                        waiting(item).model_dump_json(exclude_defaults=True),
                    )
                    for position, item in enumerate(order.items)
                ),
            )
        return number

    def knows(self, order: Order) -> bool:
        """Whether an order is known. Raises Conflict when its id is known with another body."""
        rows = self._rows("SELECT digest FROM orders WHERE id = ?", order.id)
        if rows and rows[0][0] != _digest(order):
            raise Conflict(order.id)
        return bool(rows)

    def open_orders(self) -> Iterator[OpenOrder]:
        """The orders that have not ended, the oldest first."""
        rows = self._rows("SELECT number, head, version, received_at FROM orders WHERE finished_at IS NULL ORDER BY number")
        for number, head, version, received_at in rows:
            yield OpenOrder(number, Head.model_validate_json(head), version, received_at, self._items(number))

    def items(self, number: int, positions: Sequence[int]) -> list[OrderedItem]:
        """Items of an order, each with its chunk table as long as its order is open."""
        query = "SELECT item, chunks FROM items WHERE number = ? AND position = ?"
        with self._lock, _as_os_error(self._path):
            rows = [self._connection.execute(query, (number, position)).fetchone() for position in positions]
        return [_ordered(item, chunks) for item, chunks in rows]

    def record(self, changes: Iterable[tuple[int, int, ItemProgress]], orders: Iterable[tuple[int, Progress]] = ()) -> None:
        """Write down in one transaction how items (order's number, position) stand, and orders that ended by that."""
        with self._transaction() as connection:
            connection.executemany(
                _CHANGES,
                (
                    (progress.state.value, progress.model_dump_json(exclude_defaults=True), number, position)
                    for number, position, progress in changes
                ),
            )
            for number, progress in orders:
                connection.execute(
                    "UPDATE orders SET state = ?, version = ?, finished_at = ? WHERE number = ?",
                    (progress.state.value, progress.version, progress.finished_at, number),
                )
                if progress.finished_at is not None:
                    connection.execute("UPDATE items SET chunks = NULL WHERE number = ?", (number,))

    def progress(self, id: str) -> Progress | None:
        """How an order stands, as far as it was written down."""
        rows = self._rows("SELECT number, priority, state, version, received_at, finished_at FROM orders WHERE id = ?", id)
        if not rows:
            return None
        number, priority, state, version, received_at, finished_at = rows[0]
        return Progress(
            id=id,
            version=version,
            priority=Priority(priority),
            state=PullState(state),
            items=self._items(number),
            received_at=received_at,
            finished_at=finished_at,
        )

    def ended(self, limit: int) -> list[dict[str, Any]]:
        """The orders that ended, the last first, without their items."""
        rows = self._rows(
            "SELECT id, priority, state, version, received_at, finished_at,"
            " (SELECT COUNT(*) FROM items WHERE items.number = orders.number),"
            " (SELECT COUNT(*) FROM items WHERE items.number = orders.number AND items.state = 'DONE')"
            " FROM orders WHERE finished_at IS NOT NULL ORDER BY finished_at DESC, number DESC LIMIT ?",
            limit,
        )
        names = ("id", "priority", "state", "version", "received_at", "finished_at", "items", "done")
        return [dict(zip(names, row, strict=True)) for row in rows]

    def prune(self, *, at: float, keep: int = KEEP_ORDERS) -> list[tuple[str, OrderedItem]]:
        """Forget orders that ended long ago; returns (root, item) of those items that did not come."""
        old = (
            "SELECT number FROM orders WHERE finished_at IS NOT NULL AND (finished_at < ? OR number NOT IN"
            " (SELECT number FROM orders WHERE finished_at IS NOT NULL ORDER BY finished_at DESC, number DESC LIMIT ?))"
        )
        with self._transaction() as connection:
            numbers = connection.execute(old, (at - KEEP_SECONDS, keep)).fetchall()
            left = []
            for (number,) in numbers:
                left += connection.execute(
                    "SELECT head, item FROM items JOIN orders USING (number) WHERE number = ? AND items.state != 'DONE'", (number,)
                ).fetchall()
            connection.executemany("DELETE FROM items WHERE number = ?", numbers)
            connection.executemany("DELETE FROM orders WHERE number = ?", numbers)
        return [(Head.model_validate_json(head).root, OrderedItem.model_validate_json(item)) for head, item in left]

    def _items(self, number: int) -> tuple[ItemProgress, ...]:
        rows = self._rows("SELECT progress FROM items WHERE number = ? ORDER BY position", number)
        return tuple(ItemProgress.model_validate_json(progress) for (progress,) in rows)

    def _rows(self, query: str, *values: Any) -> list[Any]:
        with self._lock, _as_os_error(self._path):
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, _as_os_error(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def _open(self) -> sqlite3.Connection:
        try:
            return self._connect()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise OSError(None, f"pulls: {error}", str(self._path)) from error
            logging.getLogger(__name__).warning("%s is damaged and moved aside: %s", self._path, error)
        for suffix in ("-wal", "-shm"):
            with suppress(FileNotFoundError):
                os.unlink(f"{self._path}{suffix}")  # noqa: PTH108
        self._path.replace(f"{self._path}.damaged")
        with _as_os_error(self._path):
            return self._connect()

    def _connect(self) -> sqlite3.Connection:
        self._path.touch(mode=0o600)
        connection = sqlite3.connect(self._path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version == 0:
                connection.executescript(f"BEGIN; {_TABLES} COMMIT;")
            connection.execute("UPDATE orders SET version = version + ? WHERE finished_at IS NULL", (VERSIONS_A_START,))
        except sqlite3.Error:
            connection.close()
            raise
        return connection


def waiting(item: OrderedItem | ItemProgress) -> ItemProgress:
    """How an item stands before anything was done about it."""
    return ItemProgress(sha256=item.sha256, size=item.size, state=PullState.WAITING)


def _ordered(item: str, chunks: bytes | None) -> OrderedItem:
    whole = OrderedItem.model_validate_json(item)
    return whole if chunks is None else whole.model_copy(update={"chunks": chunks.decode()})


def _digest(order: Order) -> bytes:
    """The same for the same order, however it was spelt."""
    return hashlib.sha256(orjson.dumps(order.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS)).digest()


@contextmanager
def _as_os_error(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise OSError(None, f"pulls: {error}", str(path)) from error
