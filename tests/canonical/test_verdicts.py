"""The store of verdicts: shared by processes that judge for minutes, and never locked for longer than a write takes."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from ringrift_dagster import sqlite_file
from ringrift_dagster.canonical.verdicts import StoredVerdict, VerdictStore

CANONICAL = StoredVerdict(None, None, None, 40, 9)
REJECTED = StoredVerdict("illegal_move", 7, "no such move", 40, 0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "verdicts.db"


def _durable(path: Path) -> int:
    with closing(sqlite3.connect(path, timeout=0)) as other:
        return other.execute("SELECT COUNT(*) FROM verdicts").fetchone()[0]


def test_another_process_writes_between_two_verdicts(path: Path) -> None:
    with VerdictStore(path) as store:
        for number in range(1000):
            store.put(f"game {number}", "claims", "rules", CANONICAL)
            with closing(sqlite3.connect(path, timeout=0)) as other:
                other.execute("BEGIN IMMEDIATE")
    assert _durable(path) == 1000


def test_verdicts_become_durable_while_a_database_is_judged(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(sqlite_file.time, "monotonic", lambda: now)
    with VerdictStore(path) as store:
        for number in range(500):
            store.put(f"game {number}", "claims", "rules", CANONICAL)
        assert _durable(path) == 300
        now += 1.5
        store.put("a long game", "claims", "rules", CANONICAL)
        assert _durable(path) == 501


def test_a_verdict_counts_at_once_and_the_first_one_stays(path: Path) -> None:
    with VerdictStore(path) as store:
        store.put("game", "claims", "rules", REJECTED)
        store.put("game", "claims", "rules", CANONICAL)
        assert store.get("game", "claims", "rules") == REJECTED
        assert store.get("game", "other claims", "rules") is None
        store.commit()
        store.put("game", "claims", "rules", CANONICAL)
    with VerdictStore(path) as store:
        assert store.get("game", "claims", "rules") == REJECTED


def test_what_could_not_be_written_is_written_later(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_file, "WAIT_SECONDS", 0.0)
    with VerdictStore(path) as store, closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        store.put("game", "claims", "rules", REJECTED)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            store.commit()
        other.rollback()
        store.commit()
        assert _durable(path) == 1


def test_a_store_that_another_process_is_just_making_is_waited_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The switch to WAL fails at once when two want it; SQLite's timeout is 0 here to have that every time."""
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE something (column)")
        other.execute("BEGIN")
        other.execute("SELECT * FROM something").fetchall()
        connect = sqlite3.connect
        monkeypatch.setattr(sqlite_file.sqlite3, "connect", lambda at, timeout: connect(at, timeout=0))
        monkeypatch.setattr(sqlite_file.time, "sleep", lambda seconds: other.rollback())
        with VerdictStore(path) as store:
            store.put("game", "claims", "rules", CANONICAL)
    monkeypatch.undo()
    assert _durable(path) == 1


def test_a_path_that_cannot_be_opened_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    with pytest.raises(sqlite3.OperationalError, match="unable to open"):
        VerdictStore(tmp_path / "directory")


def test_a_file_that_cannot_be_used_does_not_stay_open(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE VIEW verdicts AS SELECT 1 AS digest")
    with pytest.raises(sqlite3.OperationalError) as refusal:
        VerdictStore(path)
    assert refusal.traceback, "which holds what was made"
    assert path.resolve() not in [descriptor.resolve() for descriptor in Path("/dev/fd").iterdir()]
