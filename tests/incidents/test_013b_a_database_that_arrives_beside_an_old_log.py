"""A database that arrived was corrupt at once: the write-ahead log of one that had stood there before was applied to it."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from ringrift_dagster.games.database import describe
from ringrift_dagster.manifest.inventory import ItemType
from tests.transfer.arrivals import bring, ordered


def logs_of_another(database: Path, folder: Path) -> dict[str, bytes]:
    """What a writer that died left behind."""
    other = Path(shutil.copy(database, folder / "other.db"))
    with closing(sqlite3.connect(other, isolation_level=None)) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("PRAGMA wal_autocheckpoint = 0")
        writer.execute("UPDATE games SET quality_score = 0.1, source = 'somebody else'")
        return {suffix: Path(f"{other}{suffix}").read_bytes() for suffix in ("-wal", "-shm")}


@pytest.mark.parametrize("merge", [True, False], ids=["as the live database", "under its hash"])
def test_old_logs_are_moved_aside_and_kept(merge: bool, tmp_path: Path, recorded: Callable[[str], Path]) -> None:
    content = recorded("canonical_square8_2p").read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    path = "data/games/canonical_square8_2p.db" if merge else f"data/sync_incoming/{sha256}.db"
    logs = logs_of_another(recorded("square8_2p_full"), tmp_path) | {"-journal": os.urandom(4096)}
    root = tmp_path / "tree"
    target = root / path
    target.parent.mkdir(parents=True)
    for suffix, left in logs.items():
        Path(f"{target}{suffix}").write_bytes(left)
    bring(root, content, ordered(content, ItemType.GAME_DB, target.name, merge=merge), path)
    assert target.read_bytes() == content
    for suffix, left in logs.items():
        assert not Path(f"{target}{suffix}").exists()
        (kept,) = target.parent.glob(f"{target.name}{suffix}.stale-*")
        assert kept.read_bytes() == left
    with closing(sqlite3.connect(target)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT COUNT(*) FROM games WHERE source = 'somebody else'").fetchone() == (0,)
    assert describe(target).configs == describe(recorded("canonical_square8_2p")).configs
