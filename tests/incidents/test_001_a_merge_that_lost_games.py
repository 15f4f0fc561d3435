"""A consolidation unlinked the canonical database before it had the new one: 235,000 games were lost."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.transfer.arrivals import bring_games
from tests.transfer.databases import contents, make

LIVE = "data/games/canonical_square8_2p.db"
PUBLISH = """
import itertools, sys
from pathlib import Path
from ringrift_dagster.transfer import merging
from tests.transfer.arrivals import bring_games
if sys.argv[3] == "at game":  # as a merge is that takes long: one transaction after the other
    merging.HOLD_SECONDS, merging.PAUSE_SECONDS, merging.merge = 0.0, 0.0, merging.add_games
    is_there, asked = merging._Merge._is_there, itertools.count()
    def stop_there(self, game):
        if next(asked) == int(sys.argv[5]):
            print("stopped", flush=True)
            sys.stdin.read()
        return is_there(self, game)
    merging._Merge._is_there = stop_there
print("started", flush=True)
bring_games(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[4])
print("merged", flush=True)
"""


@pytest.fixture
def databases(tmp_path: Path, recorded: Callable[[str], Path]) -> tuple[Path, Path]:
    """The root of a tree with a live database, and a large one that came, which has some of its games."""
    like = recorded("square8_2p_full")
    root = tmp_path / "tree"
    (root / LIVE).parent.mkdir(parents=True)
    make(root / LIVE, like, [(f"old{number}", "kept") for number in range(300)])
    more = [(f"new{number}", "came") for number in range(2500)] + [(f"old{number}", "another") for number in range(100)]
    incoming = make(tmp_path / "incoming.db", like, more)
    with closing(sqlite3.connect(incoming)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    return root, incoming


def kill_in_the_middle(root: Path, incoming: Path, how: str, moment: float) -> None:
    """Start bringing a database and kill everything: at a game, its own transaction open; at once after so many seconds, or, from 1
    on, as soon as the log has so many bytes, if it is not over by then."""
    log = Path(f"{root / LIVE}-wal")
    process = subprocess.Popen(
        [sys.executable, "-c", PUBLISH, str(root), str(incoming), how, LIVE, str(moment)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # the merge's own process is to die with it
        cwd=Path(__file__).parents[2],
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        if how == "at game":
            assert process.stdout.readline() == "stopped\n"
        elif moment < 1:
            time.sleep(moment)
        else:
            while process.poll() is None and not (log.exists() and log.stat().st_size >= moment):
                time.sleep(0.0005)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def test_a_merge_that_is_killed_anywhere_loses_nothing_and_goes_on(databases: tuple[Path, Path]) -> None:
    root, incoming = databases
    live = root / LIVE
    inode = live.stat().st_ino
    before = contents(live)
    moments = [("at game", game) for game in (0, 700, 701)] + [("at once", moment) for moment in (0.0, 0.2, 1, 1 << 20)]
    counts = []
    for how, moment in moments:
        kill_in_the_middle(root, incoming, how, moment)
        now = contents(live)
        assert live.stat().st_ino == inode
        assert {game: now[game] for game in before} == before, f"killed {how} after {moment}"
        assert {content for game, content in now.items() if game not in before} <= {"came"}
        before = now
        counts.append(len(now))
    assert counts[0] == 300 < counts[1] < counts[2] < 2800, "what was committed stays, and the next one goes on from there"
    assert bring_games(root, incoming, LIVE).merged == 2800 - len(before)
    assert contents(live) == {f"old{number}": "kept" for number in range(300)} | {f"new{number}": "came" for number in range(2500)}
    assert bring_games(root, incoming, LIVE).merged == 0


@pytest.mark.parametrize("name", ["dup_b", "old_schema_v12", "empty", "orphan_no_moves", "status_active", "winner_null"])
def test_no_database_that_comes_reduces_or_changes_what_is_there(name: str, tmp_path: Path, damaged: Callable[[str], Path]) -> None:
    """Smaller, older, damaged in its games, or without any: every row that stood there still does."""
    live = tmp_path / "tree/data/games/canonical_square8_2p.db"
    live.parent.mkdir(parents=True)
    live.write_bytes(damaged("dup_a").read_bytes())
    before = every_row(live)
    try:
        bring_games(tmp_path / "tree", damaged(name), LIVE)
    finally:
        assert before <= every_row(live)


def every_row(path: Path) -> set[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {(table, *row) for table in tables for row in connection.execute(f"SELECT * FROM {table}")}
