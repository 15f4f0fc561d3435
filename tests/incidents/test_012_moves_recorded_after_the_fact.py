"""1,185 hex8_4p games had PLACE_RING to nowhere, and phases taken after the move: the gate looked at totals, not at content."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

from ringrift_dagster.canonical.gate import verify


def _rewrite(path: Path, change: Callable[[dict[str, object]], None], phase: str | None) -> None:
    with sqlite3.connect(path) as connection:
        for rowid, text in connection.execute("SELECT rowid, move_json FROM game_moves WHERE move_type = 'place_ring'").fetchall():
            move = json.loads(text)
            change(move)
            connection.execute("UPDATE game_moves SET move_json = ? WHERE rowid = ?", (json.dumps(move), rowid))
            if phase:
                connection.execute("UPDATE game_moves SET phase = ? WHERE rowid = ?", (phase, rowid))


def test_a_placement_to_nowhere_is_illegal(recorded: Callable[[str], Path], tmp_path: Path) -> None:
    path = tmp_path / "nowhere.db"
    shutil.copy(recorded("hex8_4p_0"), path)
    _rewrite(path, lambda move: move.update(to=None), None)
    (report,) = verify([path])
    assert (report.verdict, report.reasons) == ("rejected", {"illegal_move": 3})


def test_a_phase_taken_after_the_move_breaks_the_contract(recorded: Callable[[str], Path], tmp_path: Path) -> None:
    path = tmp_path / "late.db"
    shutil.copy(recorded("hex8_4p_0"), path)
    _rewrite(path, lambda move: move.update(phase="movement"), "movement")
    (report,) = verify([path])
    assert (report.verdict, report.reasons) == ("rejected", {"phase_contract": 3})
