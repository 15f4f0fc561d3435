"""The database file was copied without its write-ahead log: the newest games were missing."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import urllib3

from ringrift_dagster.manifest.inventory import Cursor
from tests.agents import running_agent

WRITER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
connection.execute("PRAGMA journal_mode=WAL")
connection.execute("PRAGMA synchronous=OFF")
connection.execute("CREATE TABLE pairs (side TEXT, filler TEXT)")
number = 0
while True:
    connection.execute("BEGIN IMMEDIATE")
    for side in ("left", "right"):
        connection.execute("INSERT INTO pairs VALUES (?, ?)", (side, "x" * 2000))
    connection.execute("COMMIT")
    number += 1
    print(number, flush=True)
"""


def test_a_copy_has_all_that_was_committed_before_it_was_asked_for(tmp_path: Path, recorded: Callable[[str], Path]) -> None:
    live = tmp_path / "tree/data/games/selfplay_square8_2p.db"
    live.parent.mkdir(parents=True)
    shutil.copy(recorded("square8_2p_full"), live)
    command = [sys.executable, "-c", WRITER, str(live)]
    with (
        running_agent(tmp_path / "tree", "gpu-1") as agent,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer,
    ):
        assert writer.stdout is not None
        try:
            cursor = None
            for _ in range(3):
                committed = int(writer.stdout.readline())
                told = agent.source().read(cursor, 30)
                cursor = Cursor(told.epoch, told.cursor)
                copy = tmp_path / "fetched.db"
                copy.write_bytes(urllib3.request("GET", f"{agent.url}/v1/objects/{told.databases[0].snapshot}").data)
                with closing(sqlite3.connect(copy)) as connection:
                    sides = dict(connection.execute("SELECT side, COUNT(*) FROM pairs GROUP BY side"))
                    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
                assert sides["left"] == sides["right"] >= committed
            assert writer.poll() is None
        finally:
            writer.kill()
