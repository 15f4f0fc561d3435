"""51,000 games were stored without their moves, and counted as games."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

from ringrift_dagster.canonical.gate import verify
from ringrift_dagster.datasets.canonical_games import append_canonical
from ringrift_dagster.games.database import describe
from ringrift_dagster.home import Home


def test_a_game_without_moves_counts_nowhere(home: Home, damaged: Callable[[str], Path], tmp_path: Path) -> None:
    path = tmp_path / "moveless.db"
    shutil.copy(damaged("base_ok"), path)
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TRIGGER enforce_moves_on_complete")
        connection.execute("DELETE FROM game_moves WHERE game_id IN (SELECT game_id FROM games LIMIT 4)")
    summary = describe(path)
    assert (summary.games, summary.finished, summary.configs) == (6, 2, {"square8_2p": 2})
    (report,) = verify([path])
    assert report.reasons == {"too_few_moves": 4}
    assert append_canonical("square8_2p", [path], home).games_total == 2
