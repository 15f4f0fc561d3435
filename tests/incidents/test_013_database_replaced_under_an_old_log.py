"""A database was replaced while the write-ahead log of its predecessor stayed behind: what was served was corrupt."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import urllib3

from ringrift_dagster.games.database import describe
from ringrift_dagster.manifest.inventory import Cursor
from tests.agents import running_agent


def test_what_is_served_is_whole_and_never_the_file_itself(tmp_path: Path, recorded: Callable[[str], Path]) -> None:
    live = tmp_path / "tree/data/games/selfplay_square8_2p.db"
    live.parent.mkdir(parents=True)
    shutil.copy(recorded("square8_2p_full"), live)
    with closing(sqlite3.connect(live, isolation_level=None)) as writer:
        writer.execute("PRAGMA journal_mode=WAL")
        writer.execute("PRAGMA wal_autocheckpoint=0")
        writer.execute("UPDATE games SET quality_score = 0.1")
        left = {suffix: Path(f"{live}{suffix}").read_bytes() for suffix in ("-wal", "-shm")}
    with running_agent(tmp_path / "tree", "gpu-1") as agent:
        source = agent.source()
        cursor = None
        for log in (left, {"-wal": os.urandom(64 << 10), "-shm": os.urandom(32 << 10)}):
            replaced = live.with_name("incoming.part")
            shutil.copy(recorded("canonical_square8_2p"), replaced)
            for suffix, content in log.items():
                Path(f"{live}{suffix}").write_bytes(content)
            replaced.replace(live)
            told = source.read(cursor, 20)
            cursor = Cursor(told.epoch, told.cursor)
            assert all("-wal" not in item.path and item.path != "data/games/selfplay_square8_2p.db" for item in told.found)
        served = source.read(None, 20)
        snapshot = next(each.snapshot for each in served.databases)
        copy = tmp_path / "fetched.db"
        copy.write_bytes(urllib3.request("GET", f"{agent.url}/v1/objects/{snapshot}").data)
    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert describe(copy).configs == describe(recorded("canonical_square8_2p")).configs
