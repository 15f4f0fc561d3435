"""The database file was copied without its write-ahead log: the newest games were missing."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import threading
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
connection.execute("CREATE TABLE sides (side TEXT PRIMARY KEY, number INTEGER, filler BLOB)")
connection.execute("INSERT INTO sides VALUES ('left', 0, ''), ('right', 0, '')")
number = 0
while True:
    number += 1
    connection.execute("BEGIN IMMEDIATE")
    for side in ("left", "right"):
        connection.execute("UPDATE sides SET number = ?, filler = randomblob(2000) WHERE side = ?", (number, side))
    connection.execute("COMMIT")
    print(number, flush=True)
"""


class _Committed(threading.Thread):
    """Reads what a writer says, so that it never waits for its reader; `last` is the newest commit it told of."""

    def __init__(self, writer: subprocess.Popen[str]) -> None:
        super().__init__(daemon=True)
        self.last = 0
        self._writer = writer
        self._grown = threading.Condition()

    def run(self) -> None:
        assert self._writer.stdout is not None
        for line in self._writer.stdout:
            with self._grown:
                self.last = int(line)
                self._grown.notify_all()

    def wait_beyond(self, number: int) -> int:
        """The newest commit, once it is later than that one."""
        with self._grown:
            assert self._grown.wait_for(lambda: self.last > number, 60)
            return self.last


def test_a_copy_has_all_that_was_committed_before_it_was_asked_for(tmp_path: Path, recorded: Callable[[str], Path]) -> None:
    live = tmp_path / "tree/data/games/selfplay_square8_2p.db"
    live.parent.mkdir(parents=True)
    shutil.copy(recorded("square8_2p_full"), live)
    command = [sys.executable, "-c", WRITER, str(live)]
    with (
        running_agent(tmp_path / "tree", "gpu-1") as agent,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer,
    ):
        told_by_writer = _Committed(writer)
        told_by_writer.start()
        try:
            cursor, copied = None, 0
            for _ in range(3):
                committed = told_by_writer.wait_beyond(copied)
                told = agent.source().read(cursor, 120)
                cursor = Cursor(told.epoch, told.cursor)
                copy = tmp_path / "fetched.db"
                copy.write_bytes(urllib3.request("GET", f"{agent.url}/v1/objects/{told.databases[0].snapshot}").data)
                with closing(sqlite3.connect(copy)) as connection:
                    sides = dict(connection.execute("SELECT side, number FROM sides"))
                    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
                copied = sides["left"]
                assert sides["right"] == copied >= committed
            assert writer.poll() is None
        finally:
            writer.kill()
