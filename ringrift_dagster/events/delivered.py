"""What the coordinator told this host, kept for whoever reads it here: one SQLite file, the latest events only."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import orjson
from pydantic import BaseModel, ConfigDict, Field

from ringrift_dagster.events.host_file import HostFile
from ringrift_dagster.events.ids import is_id
from ringrift_dagster.manifest.inventory import Name

KEEP = 10_000
"""Events that are remembered."""
MAX_BYTES = 256 << 10
"""Of one event."""
MAX_DELIVERY = 500
"""Events of one delivery."""

_TABLES = """
CREATE TABLE delivered (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    body BLOB NOT NULL,
    received_at REAL NOT NULL
);
"""


class Delivery(BaseModel):
    """Events for a host, in order, as JSON; the host does not judge them."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    host: Name
    events: Annotated[tuple[dict[str, Any], ...], Field(max_length=MAX_DELIVERY)]


class Delivered:
    """The file. Threads may share it; one process at a time has it. Raises OSError where it cannot be written."""

    def __init__(self, path: Path, *, keep: int = KEEP) -> None:
        self._file = HostFile(path, _TABLES)
        self._keep = keep
        self._changed = threading.Condition()
        ((last,),) = self._file.rows("SELECT coalesce(max(seq), 0) FROM sqlite_sequence")
        self._last: int = last
        self._closed = False

    def close(self) -> None:
        """End it, and all waiting."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._file.close()

    def take(self, delivery: Delivery, *, at: float) -> int:
        """Take in what is new of a delivery, durably; returns how many that were. Raises ValueError for what is no event at all."""
        rows = [(event.get("id"), orjson.dumps(event), at) for event in delivery.events]
        for id, body, _ in rows:
            if not is_id(id) or len(body) > MAX_BYTES:
                raise ValueError("an event has an id that is a UUID, and at most 256 KiB")
        with self._changed:
            new = 0
            with self._file.writing() as cursor:
                for row in rows:
                    cursor.execute("SELECT 1 FROM delivered WHERE id = ?", row[:1])
                    if cursor.fetchone() is None:
                        cursor.execute("INSERT INTO delivered (id, body, received_at) VALUES (?, ?, ?)", row)
                        self._last, new = cursor.lastrowid or self._last, new + 1
                cursor.execute("DELETE FROM delivered WHERE number <= ?", (self._last - self._keep,))
            self._changed.notify_all()
        return new

    def after(self, number: int, *, limit: int, wait: float = 0.0) -> tuple[Sequence[dict[str, Any]], int]:
        """Events after a place, in order, and the place to go on from; waits up to `wait` seconds for the first."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._last > number, wait)
            if self._closed:
                return [], number
        rows = self._file.rows("SELECT number, body FROM delivered WHERE number > ? ORDER BY number LIMIT ?", number, limit)
        told = [{"number": place, "event": orjson.loads(body)} for place, body in rows]
        return told, told[-1]["number"] if told else number
