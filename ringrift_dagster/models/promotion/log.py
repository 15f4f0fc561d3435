"""The log of decisions: which model is current for each config, since when, by whose decision and why.

An SQLite file to which is only added; nothing in it is changed or deleted, not by SQL either. The current model of a config follows
from its last entry, so that a rollback is a new entry. How a decision comes about is in `decision`, what follows from it in
`promoting`.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self

import orjson

from ringrift_dagster.sqlite_file import name_file, open_shared

Kind = Literal["promote", "refuse", "rollback", "pin", "unpin"]
_MAKE_CURRENT: Final = ("promote", "rollback")
_STEP: Final = 0.001
"""Seconds between two decisions on a config, at least."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS decisions (
    id INTEGER PRIMARY KEY,
    config TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('promote', 'refuse', 'rollback', 'pin', 'unpin')),
    sha256 TEXT NOT NULL, at REAL NOT NULL, who TEXT NOT NULL, why TEXT NOT NULL, record BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS decisions_by_config ON decisions (config, id);
CREATE TRIGGER IF NOT EXISTS decisions_replace BEFORE INSERT ON decisions
WHEN EXISTS (SELECT 1 FROM decisions WHERE id = NEW.id) BEGIN SELECT RAISE(ABORT, 'decisions are only added'); END;
CREATE TRIGGER IF NOT EXISTS decisions_update BEFORE UPDATE ON decisions BEGIN SELECT RAISE(ABORT, 'decisions are only added'); END;
CREATE TRIGGER IF NOT EXISTS decisions_delete BEFORE DELETE ON decisions BEGIN SELECT RAISE(ABORT, 'decisions are only added'); END;
"""
_COLUMNS: Final = "id, config, kind, sha256, at, who, why, record"


class CurrentChanged(Exception):
    """Another decision has changed the current model since this one was made; the message is one line."""


class Pinned(Exception):
    """The current model is pinned, so that no other takes its place; the message is one line."""


@dataclass(frozen=True)
class Entry:
    """One decision. `at` is in seconds since 1970; `record` is everything that it rests on, as JSON values.

    `sha256` is the model that is promoted or refused, made current again by a rollback, or pinned.
    """

    id: int
    config: str
    kind: Kind
    sha256: str
    at: float
    who: str
    why: str
    record: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class DecisionLog:
    """The log, safe for several processes. Use as a context manager. Methods raise sqlite3.Error."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = open_shared(path, _SCHEMA)
        self._connection.isolation_level = None  # transactions are begun below, where they are needed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._connection.close()
        for error in raised[1:2]:
            name_file(error, self._path)

    def append(
        self,
        config: str,
        kind: Kind,
        sha256: str,
        *,
        who: str,
        why: str,
        record: Mapping[str, Any] | None = None,
        expected: str | None,
    ) -> Entry:
        """Add a decision that was made while `expected` was the current model (None: none was).

        A config's times always go on, whatever the clock does, so that readers who go by time see the last decision. Raises
        CurrentChanged, and Pinned for what would replace a pinned model.
        """
        with self._transaction():
            entry = self.current(config)
            current = entry.sha256 if entry else None
            if current != expected:
                was = f"the decision was made when it was {_short(expected)}"
                raise CurrentChanged(f"the current model of {config} is {_short(current)}, {was}: decide again")
            if kind in _MAKE_CURRENT and (pin := self.pin(config)) is not None:
                pinned = f"{config} is pinned to {pin.sha256[:12]} by {pin.who} ({pin.why})"
                raise Pinned(f"{pinned}: release it with `ringrift-data models pin --config {config} --release`")
            last = self._connection.execute("SELECT MAX(at) FROM decisions WHERE config = ?", (config,)).fetchone()[0]
            values = (config, kind, sha256, max(time.time(), (last or 0.0) + _STEP), who, why, orjson.dumps(dict(record or {})))
            cursor = self._connection.execute(
                "INSERT INTO decisions (config, kind, sha256, at, who, why, record) VALUES (?, ?, ?, ?, ?, ?, ?)", values
            )
            return self._select("id = ?", cursor.lastrowid)[0]

    def current(self, config: str, at: float | None = None) -> Entry | None:
        """The decision by which a model is current, or was at a time; None if there was none."""
        entries = self._select(f"config = ? AND at <= ? AND kind IN {_MAKE_CURRENT} ORDER BY id DESC LIMIT 1", config, _until(at))
        return entries[0] if entries else None

    def predecessors(self, config: str) -> list[str]:
        """The models to which the current one can be rolled back, the last first; a rollback leaves what came after its model."""
        stack: list[str] = []
        for entry in self._select(f"config = ? AND kind IN {_MAKE_CURRENT} ORDER BY id", config):
            if entry.kind == "rollback" and entry.sha256 in stack:
                while stack[-1] != entry.sha256:
                    stack.pop()
            elif not stack or stack[-1] != entry.sha256:
                stack.append(entry.sha256)
        return stack[-2::-1]

    def is_rolled_back(self, config: str, sha256: str) -> bool:
        """Whether a model was current until a rollback, and was not made current again since."""
        entries = self._select(f"config = ? AND kind IN {_MAKE_CURRENT} ORDER BY id", config)
        last = max((number for number, entry in enumerate(entries) if entry.sha256 == sha256), default=None)
        return last is not None and last + 1 < len(entries) and entries[last + 1].kind == "rollback"

    def promotion(self, config: str, sha256: str) -> Entry:
        """The last promotion of a model by evidence. Raises LookupError if there is none."""
        entries = self._select("config = ? AND sha256 = ? AND kind = 'promote' ORDER BY id DESC LIMIT 1", config, sha256)
        if not entries:
            raise LookupError(f"{sha256[:12]} was never promoted for {config}")
        return entries[0]

    def pin(self, config: str) -> Entry | None:
        """The pin of a config's current model, unless it was released."""
        entries = self._select("config = ? AND kind IN ('pin', 'unpin') ORDER BY id DESC LIMIT 1", config)
        return entries[0] if entries and entries[0].kind == "pin" else None

    def last_about(self, config: str, sha256: str) -> Entry | None:
        """The last decision on a model."""
        entries = self._select("config = ? AND sha256 = ? ORDER BY id DESC LIMIT 1", config, sha256)
        return entries[0] if entries else None

    def models(self, config: str) -> set[str]:
        """The hashes of all models that were decided on."""
        rows = self._connection.execute("SELECT DISTINCT sha256 FROM decisions WHERE config = ?", (config,))
        return {sha256 for (sha256,) in rows}

    def history(self, config: str, at: float | None = None) -> list[Entry]:
        """All decisions on a config, or those until a time; the last first."""
        return self._select("config = ? AND at <= ? ORDER BY id DESC", config, _until(at))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def _select(self, condition: str, *values: object) -> list[Entry]:
        rows = self._connection.execute(f"SELECT {_COLUMNS} FROM decisions WHERE {condition}", values)
        return [Entry(*row[:-1], record=_record(row)) for row in rows]


def _record(row: Sequence[Any]) -> Mapping[str, Any]:
    try:
        record = orjson.loads(row[-1])
    except ValueError as error:
        raise sqlite3.DatabaseError(f"decision {row[0]} cannot be read") from error
    if not isinstance(record, dict):
        raise sqlite3.DatabaseError(f"decision {row[0]} is no record")
    return record


def _until(at: float | None) -> float:
    return 1e18 if at is None else at


def _short(sha256: str | None) -> str:
    return sha256[:12] if sha256 else "none"
