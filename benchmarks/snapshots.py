"""Snapshots of a database that is being written to: how many are whole, and what they cost the writer.

A writer in a process of its own commits as fast as it is let (aim 1,000 transactions a second, as self-play never does), each
transaction one row in each of two tables. A snapshot is whole if SQLite finds no damage and both tables hold the same rows.
"""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from ringrift_dagster.games.online_backup import back_up

SNAPSHOTS = 200
RATE = 1000
QUIET_SECONDS = 5.0

_WRITER = """
import sqlite3, sys, time
path, rate = sys.argv[1], float(sys.argv[2])
connection = sqlite3.connect(path, isolation_level=None, timeout=30)
connection.execute("PRAGMA synchronous=NORMAL")
number, started = connection.execute("SELECT COALESCE(MAX(id), 0) FROM a").fetchone()[0], time.perf_counter()
done = 0
while True:
    number += 1
    done += 1
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT INTO a VALUES (?, ?)", (number, "x" * 200))
    connection.execute("INSERT INTO b VALUES (?, ?)", (number, "y" * 200))
    connection.execute("COMMIT")
    ahead = started + done / rate - time.perf_counter()
    if ahead > 0:
        time.sleep(ahead)
"""


def run(snapshots: int = SNAPSHOTS) -> list[tuple[str, str, str]]:
    """Rows of (figure, here, beside)."""
    with tempfile.TemporaryDirectory() as directory:
        source, copy = Path(directory, "live.db"), Path(directory, "copy.db")
        with closing(sqlite3.connect(source)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("CREATE TABLE a (id INTEGER PRIMARY KEY, text TEXT)")
            connection.execute("CREATE TABLE b (id INTEGER PRIMARY KEY, text TEXT)")
            rows = [(number, "x" * 200) for number in range(60_000)]
            for table in "ab":
                connection.executemany(f"INSERT INTO {table} VALUES (?, ?)", rows)
            connection.commit()
        writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(source), str(RATE)])
        try:
            alone = _rate(source, QUIET_SECONDS)
            first, began = _count(source), time.perf_counter()
            corrupt, spent = 0, 0.0
            for _ in range(snapshots):
                started = time.perf_counter()
                subprocess.run([sys.executable, "-I", back_up.__code__.co_filename, str(source), str(copy)], check=True)
                spent += time.perf_counter() - started
                corrupt += not _whole(copy)
                copy.unlink()
            meanwhile = (_count(source) - first) / (time.perf_counter() - began)
        finally:
            writer.kill()
            writer.wait()
        size = source.stat().st_size / 1e6
    return [
        (f"snapshots of {size:.0f} MB, corrupt of {snapshots}", str(corrupt), "plain copies: 3 of 4"),
        ("one snapshot, checked, ms", f"{1000 * spent / snapshots:,.0f}", ""),
        ("writer, transactions/s meanwhile", f"{meanwhile:,.0f}", f"{alone:,.0f} left alone"),
    ]


def _whole(copy: Path) -> bool:
    with closing(sqlite3.connect(copy)) as connection:
        damage = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        counts = [connection.execute(f"SELECT COUNT(*), MAX(id) FROM {table}").fetchone() for table in "ab"]
    return damage == "ok" and counts[0] == counts[1]


def _count(source: Path) -> int:
    with closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as connection:
        return connection.execute("SELECT MAX(id) FROM a").fetchone()[0]


def _rate(source: Path, seconds: float) -> float:
    before, began = _count(source), time.perf_counter()
    time.sleep(seconds)
    return (_count(source) - before) / (time.perf_counter() - began)
