"""What a host has to tell and its coordinator has not acknowledged yet: one SQLite file, in order.

Entries are events and dead letters, numbered from 1 without a gap; each is on disk before anybody is told that it was accepted. An
outbox that is full refuses: nothing that was accepted makes room for what comes later. Sending is not done here.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import orjson
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from ringrift_dagster.events.adapters import NotUnderstood
from ringrift_dagster.events.host_file import HostFile
from ringrift_dagster.events.ids import new_id
from ringrift_dagster.events.model import MAX_RAW, Event, EventId
from ringrift_dagster.manifest.inventory import Name, Seconds

MAX_BYTES = 256 << 20
"""Of the entries that wait for the coordinator."""
BATCH_ENTRIES = 1000
BATCH_BYTES = 4 << 20

_TABLES = """
CREATE TABLE outbox (
    sequence INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    body BLOB NOT NULL,
    at REAL NOT NULL
);
CREATE TABLE progress (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    epoch TEXT NOT NULL,
    acknowledged INTEGER NOT NULL,
    acknowledged_at REAL
);
"""


class OutboxFull(Exception):
    """There is no room before the coordinator has taken what waits."""


class _Wire(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class DeadLetter(_Wire):
    """What was told to a host and is no event: why (a code of `adapters.REASONS`), and its text, as far as it fits."""

    id: EventId
    reason: Annotated[str, StringConstraints(min_length=1, max_length=32)]
    detail: Annotated[str, StringConstraints(max_length=300)]
    raw: Annotated[str, StringConstraints(max_length=MAX_RAW)]
    at: Seconds

    @classmethod
    def of(cls, refusal: NotUnderstood, raw: str, *, at: float) -> DeadLetter:
        """What becomes of something that was not understood."""
        return cls(id=new_id(), reason=refusal.code, detail=refusal.detail, raw=raw, at=at)


class Entry(_Wire):
    """One place in a host's order: an event as JSON, or a dead letter. The event is not looked at here: that one is bad must not
    keep the others back."""

    sequence: Annotated[int, Field(ge=1, le=1 << 53, strict=True)]
    event: dict[str, Any] | None = None
    dead: DeadLetter | None = None


class Batch(_Wire):
    """Entries of a host, in order and without a gap. `epoch` names the outbox: sequences mean something only within it. Everything
    up to `floor` was acknowledged, as far as the host knows, and cannot be sent again."""

    host: Name
    epoch: EventId
    floor: Annotated[int, Field(ge=0, le=1 << 53, strict=True)]
    entries: Annotated[tuple[Entry, ...], Field(max_length=BATCH_ENTRIES)]


@dataclass(frozen=True)
class Waiting:
    """How an outbox stands. `acknowledged_at` and `oldest` are times, None if there was none."""

    entries: int
    bytes: int
    oldest: float | None
    acknowledged: int
    acknowledged_at: float | None


class Outbox:
    """The file. Threads may share it; one process at a time has it. Raises OSError where it cannot be written."""

    def __init__(self, path: Path, *, max_bytes: int = MAX_BYTES) -> None:
        self._file = HostFile(path, _TABLES)
        self._max_bytes = max_bytes
        self._changed = threading.Condition()
        with self._file.writing() as cursor:
            cursor.execute("INSERT OR IGNORE INTO progress VALUES (1, ?, 0, NULL)", (new_id(),))
        ((self.epoch, self._acknowledged, self._acknowledged_at),) = self._file.rows(
            "SELECT epoch, acknowledged, acknowledged_at FROM progress"
        )
        ((last, self._entries, self._bytes),) = self._file.rows("SELECT max(sequence), count(*), sum(length(body)) FROM outbox")
        self._last: int = last or self._acknowledged
        self._bytes = self._bytes or 0

    def close(self) -> None:
        self._file.close()

    def append(self, entries: Sequence[Event | DeadLetter]) -> list[int | None]:
        """Take in a batch; all of it is on disk, with one fsync, when this returns. Gives the place of each, None for one whose id
        waits here already. Raises OutboxFull, then nothing was taken, and OSError."""
        rows = [(entry.id, _body(entry), entry.at) for entry in entries]
        with self._changed:
            new_bytes = sum(len(body) for _, body, _ in rows)
            if self._bytes + new_bytes > self._max_bytes:
                raise OutboxFull(f"{self._entries} events wait for the coordinator in {self._bytes >> 20} MiB")
            last, taken, places = self._last, 0, []
            with self._file.writing() as cursor:
                for id, body, at in rows:
                    cursor.execute("INSERT OR IGNORE INTO outbox VALUES (?, ?, ?, ?)", (last + 1, id, body, at))
                    if cursor.rowcount:
                        last, taken = last + 1, taken + len(body)
                    places.append(last if cursor.rowcount else None)
            self._entries += last - self._last
            self._last, self._bytes = last, self._bytes + taken
            self._changed.notify_all()
        return places

    def batch(self, host: str) -> bytes | None:
        """The oldest entries that nobody acknowledged, as a Batch in JSON; None if nothing waits. Raises OSError."""
        floor = self._acknowledged
        query = "SELECT sequence, body FROM outbox WHERE sequence > ? ORDER BY sequence LIMIT ?"
        rows = self._file.rows(query, floor, BATCH_ENTRIES)
        parts, size = [], 0
        for sequence, body in rows:
            size += len(body)
            if parts and size > BATCH_BYTES:
                break
            parts.append(b'{"sequence":%d,%b' % (sequence, body))
        if not parts:
            return None
        head = orjson.dumps({"host": host, "epoch": self.epoch, "floor": floor})
        return b'%b,"entries":[%b]}' % (head[:-1], b",".join(parts))

    def acknowledge(self, epoch: str, sequence: int, *, at: float) -> None:
        """Forget everything up to a place: the coordinator has it. What it says of another outbox means nothing here."""
        if epoch != self.epoch:
            return
        with self._changed:
            sequence = min(sequence, self._last)
            if sequence <= self._acknowledged:
                return
            with self._file.writing() as cursor:
                gone = "DELETE FROM outbox WHERE sequence <= ? RETURNING length(body)"
                lengths = [length for (length,) in cursor.execute(gone, (sequence,)).fetchall()]
                cursor.execute("UPDATE progress SET acknowledged = ?, acknowledged_at = ?", (sequence, at))
            self._entries, self._bytes = self._entries - len(lengths), self._bytes - sum(lengths)
            self._acknowledged, self._acknowledged_at = sequence, at

    def wait(self, seconds: float, stopped: threading.Event) -> bool:
        """Whether anything waits, as soon as it does, or after so many seconds; at once when stopped. See `wake`."""
        with self._changed:
            return self._changed.wait_for(lambda: self._entries > 0 or stopped.is_set(), seconds) and not stopped.is_set()

    def wake(self) -> None:
        """Have those who wait look again whether they are stopped."""
        with self._changed:
            self._changed.notify_all()

    def waiting(self) -> Waiting:
        """How much waits, and since when."""
        oldest = self._file.rows("SELECT at FROM outbox ORDER BY sequence LIMIT 1")
        return Waiting(self._entries, self._bytes, oldest[0][0] if oldest else None, self._acknowledged, self._acknowledged_at)


def _body(entry: Event | DeadLetter) -> bytes:
    """An entry as the rest of its JSON object, behind its place."""
    return b'"event":%b}' % entry.dump() if isinstance(entry, Event) else b'"dead":%b}' % entry.model_dump_json().encode()
