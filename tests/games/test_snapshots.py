"""Snapshots of live databases: complete to a commit whatever writers do; no bad file stops the others."""

from __future__ import annotations

import lzma
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from ringrift_dagster.games import snapshots
from ringrift_dagster.games.database import DatabaseUnreadable
from ringrift_dagster.games.snapshots import Snapshot, discover, snapshot

DATA = Path(__file__).parents[1] / "data"
WRITER = """
import sqlite3, sys
path, mode = sys.argv[1:]
connection = sqlite3.connect(path, timeout=60, isolation_level=None)
connection.execute(f"PRAGMA journal_mode={mode}")
connection.execute("PRAGMA synchronous=OFF")
connection.execute("CREATE TABLE IF NOT EXISTS pairs (n INTEGER PRIMARY KEY, side TEXT, filler TEXT)")
number = 0
while True:
    connection.execute("BEGIN IMMEDIATE")
    for side in ("left", "right"):
        connection.execute("INSERT INTO pairs (side, filler) VALUES (?, ?)", (side, "x" * 2000))
    connection.execute("COMMIT")
    number += 1
    if number == 20:
        print("running", flush=True)
"""


def unpack(name: str, target: Path) -> Path:
    folder = "db" if (DATA / "db" / f"{name}.db.xz").exists() else "damaged"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(lzma.decompress((DATA / folder / f"{name}.db.xz").read_bytes()))
    return target


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        return connection.execute(query).fetchall()


@contextmanager
def writer(path: Path, mode: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that commits pairs of rows to the database as fast as it can."""
    command = [sys.executable, "-c", WRITER, str(path), mode]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "running\n"
            yield process
        finally:
            process.kill()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return unpack("square8_2p_full", tmp_path / "live" / "games.db")


def test_a_snapshot_holds_what_the_source_holds(source: Path, tmp_path: Path) -> None:
    before = source.read_bytes()
    taken = snapshot(source, tmp_path / "into")
    assert taken.path == tmp_path / "into" / f"{taken.sha256}.db"
    assert taken.config_counts == {"square8_2p": 1}
    assert taken.newest_game == "2026-11-23T21:05:07.560090"
    assert taken.size == taken.path.stat().st_size
    assert taken.path.stat().st_mode & 0o777 == 0o666 & ~umask()
    for table in ("games", "game_moves", "game_history_entries", "game_state_snapshots"):
        assert rows(taken.path, f"SELECT * FROM {table}") == rows(source, f"SELECT * FROM {table}")
    assert source.read_bytes() == before
    assert [path.name for path in (tmp_path / "into").iterdir()] == [taken.path.name]


def umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def test_equal_content_is_one_file_and_is_not_rewritten(source: Path, tmp_path: Path) -> None:
    first = snapshot(source, tmp_path / "into")
    written = first.path.stat()
    again = snapshot(source, tmp_path / "into")
    assert again == first
    assert (again.path.stat().st_ino, again.path.stat().st_mtime_ns) == (written.st_ino, written.st_mtime_ns)


def test_a_rotten_snapshot_gives_way_to_the_good_copy(source: Path, tmp_path: Path) -> None:
    first = snapshot(source, tmp_path / "into")
    good = first.path.read_bytes()
    first.path.write_bytes(good[:-100] + bytes([good[-100] ^ 255]) + good[-99:])
    assert snapshot(source, tmp_path / "into") == first
    assert first.path.read_bytes() == good
    assert [path.name for path in (tmp_path / "into").iterdir()] == [first.path.name]


def test_growth_is_another_file(source: Path, tmp_path: Path) -> None:
    first = snapshot(source, tmp_path / "into")
    with closing(sqlite3.connect(source)) as connection, connection:
        connection.execute("INSERT INTO schema_metadata VALUES ('note', 'grown')")
    assert snapshot(source, tmp_path / "into").sha256 != first.sha256
    assert len(list((tmp_path / "into").iterdir())) == 2


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_snapshots_during_writes_are_complete_to_a_commit(mode: str, source: Path, tmp_path: Path) -> None:
    taken: list[Snapshot] = []
    with writer(source, mode) as process:
        for _ in range(4):
            taken.append(snapshot(source, tmp_path / "into"))
        assert process.poll() is None
    counts = []
    for one in taken:
        assert rows(one.path, "PRAGMA integrity_check") == [("ok",)]
        sides = dict(rows(one.path, "SELECT side, COUNT(*) FROM pairs GROUP BY side"))
        assert sides["left"] == sides["right"] >= 20
        counts.append(sides["left"])
    assert counts == sorted(counts)


def test_a_killed_writer_loses_no_commit(source: Path, tmp_path: Path) -> None:
    """Its WAL and SHM stay behind; what they hold belongs to the snapshot, and they stay as they were."""
    with writer(source, "WAL"):
        pass
    wal = source.with_name("games.db-wal")
    left = wal.read_bytes()
    assert left
    taken = snapshot(source, tmp_path / "into")
    assert wal.read_bytes() == left
    sides = dict(rows(taken.path, "SELECT side, COUNT(*) FROM pairs GROUP BY side"))
    assert sides["left"] == sides["right"] >= 20
    assert dict(rows(source, "SELECT side, COUNT(*) FROM pairs GROUP BY side")) == sides


def test_a_foreign_wal_beside_a_replaced_database_does_no_harm(source: Path, tmp_path: Path) -> None:
    """A database put in the place of another, whose SHM and damaged WAL were left behind."""
    expected = snapshot(source, tmp_path / "into")
    source.with_name("games.db-wal").write_bytes(os.urandom(64 << 10))
    source.with_name("games.db-shm").write_bytes(os.urandom(32 << 10))
    assert snapshot(source, tmp_path / "into").sha256 == expected.sha256


@pytest.mark.parametrize("name", ["truncated_midfile", "truncated_header", "corrupt_page", "not_a_db", "zero_bytes"])
def test_damaged_sources_are_unreadable_and_leave_nothing(name: str, tmp_path: Path) -> None:
    source = unpack(name, tmp_path / "live" / f"{name}.db")
    with pytest.raises(DatabaseUnreadable) as raised:
        snapshot(source, tmp_path / "into")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "into").exists() or not list((tmp_path / "into").iterdir())


def test_other_things_than_files_are_unreadable(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.db")
    (tmp_path / "loop.db").symlink_to("loop.db")
    for name in ("missing.db", "pipe.db", "loop.db", "."):
        with pytest.raises(DatabaseUnreadable):
            snapshot(tmp_path / name, tmp_path / "into")


def test_one_bad_database_stops_no_other(source: Path, tmp_path: Path) -> None:
    for name in ("corrupt_page", "not_a_db", "zero_bytes", "truncated_midfile"):
        unpack(name, source.parent / f"a_{name}.db")
    good = []
    for path in discover(source.parent):
        try:
            good.append(snapshot(path, tmp_path / "into").source)
        except DatabaseUnreadable:
            continue
    assert good == [source]


def test_a_source_that_stays_locked_is_given_up(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "BACKUP_TIMEOUT_SECONDS", 0.5)
    with closing(sqlite3.connect(source, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
        connection.execute("BEGIN EXCLUSIVE")
        with pytest.raises(DatabaseUnreadable, match="not copied within"):
            snapshot(source, tmp_path / "into")


def test_names_that_are_hard_to_quote(source: Path, tmp_path: Path) -> None:
    odd = source.rename(source.with_name("50% off?mode=rw#é.db"))
    assert snapshot(odd, tmp_path / "into").config_counts == {"square8_2p": 1}


def test_discovery_finds_databases_and_no_others(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    for path in ("b.db", "a/x.db", "a/deep/er/y.db", "stored/data.bin"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")
    for path in ("b.db-wal", "b.db-shm", "b.db-journal", "notes.txt", ".hidden.db", ".staging/z.db"):
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_bytes(b"x")
    (root / "directory.db").mkdir()
    outside.mkdir()
    (outside / "secret.db").write_bytes(b"x")
    (root / "dangling.db").symlink_to("nothing.db")
    (root / "loop.db").symlink_to("loop.db")
    (root / "a" / "up").symlink_to("..")
    (root / "escape.db").symlink_to(outside / "secret.db")
    (root / "escape").symlink_to(outside)
    (root / "again.db").symlink_to("b.db")
    (root / "only-link.db").symlink_to("stored/data.bin")
    names = [str(path.relative_to(root)) for path in discover(root)]
    assert names == ["a/deep/er/y.db", "a/x.db", "b.db", "only-link.db"]
    assert discover(tmp_path / "nowhere") == []


def test_discovery_through_a_linked_root(tmp_path: Path) -> None:
    (tmp_path / "drive").mkdir()
    (tmp_path / "drive" / "games.db").write_bytes(b"x")
    (tmp_path / "mounted").symlink_to("drive")
    assert discover(tmp_path / "mounted") == [tmp_path / "mounted" / "games.db"]
