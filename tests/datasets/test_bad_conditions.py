"""Exports and verdicts while the world misbehaves: a full disk, no permission, a database that is being written."""

from __future__ import annotations

import resource
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ringrift_dagster.canonical.gate import Gate, judged_games
from ringrift_dagster.datasets.canonical_games import (
    CorruptStore,
    append_canonical,
    check_store,
    stored_games,
)
from ringrift_dagster.datasets.npz_export import ExportError, export_databases
from ringrift_dagster.games.config import Config
from ringrift_dagster.games.database import GameDatabase
from ringrift_dagster.home import Home

EXPORT = """
import sys
from pathlib import Path
from ringrift_dagster.datasets.npz_export import ExportError, export_databases
try:
    export_databases("square8_2p", [Path(sys.argv[1])], Path(sys.argv[2]))
except ExportError as error:
    print(error.code)
"""


def test_no_room_for_the_export(recorded: Callable[[str], Path], tmp_path: Path) -> None:
    """The kernel refuses to let files grow: what a full disk looks like to the writer."""
    out = tmp_path / "out" / "x.npz"
    out.parent.mkdir()
    out.write_bytes(b"what stood here before")
    ended = subprocess.run(
        [sys.executable, "-c", EXPORT, str(recorded("canonical_square8_2p")), str(out)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000)),
    )
    assert (ended.stdout, ended.returncode) == ("disk_full\n", 0), ended.stderr
    assert out.read_bytes() == b"what stood here before"
    assert {path.name for path in out.parent.iterdir()} == {"x.npz", ".x.npz.lock"}
    assert export_databases("square8_2p", [recorded("canonical_square8_2p")], out).samples == 3683


def test_an_output_that_is_a_directory(recorded: Callable[[str], Path], tmp_path: Path) -> None:
    out = tmp_path / "x.npz"
    out.mkdir()
    with pytest.raises(ExportError) as error:
        export_databases("square8_4p", [recorded("canonical_square8_4p")], out)
    assert error.value.code == "unwritable"


def test_a_reader_sees_the_database_as_it_stood_when_it_was_opened(recorded: Callable[[str], Path], tmp_path: Path) -> None:
    path = tmp_path / "live.db"
    shutil.copy(recorded("canonical_square8_4p"), path)
    writer = sqlite3.connect(path)
    writer.execute("PRAGMA journal_mode = WAL")
    with GameDatabase(path) as database:
        games = judged_games(database, Gate())
        first = next(games)
        writer.execute("DELETE FROM game_moves WHERE move_number > 7")
        writer.execute("UPDATE games SET winner = 9")
        writer.commit()
        verdicts = [first.verdict, *(judged.verdict for judged in games)]
    writer.close()
    assert [verdict.reason for verdict in verdicts] == [None] * 5


def test_a_store_that_was_tampered_with_is_not_exported(home: Home, recorded: Callable[[str], Path]) -> None:
    append_canonical("square8_4p", [recorded("canonical_square8_4p")], home)
    append_canonical("square8_3p", [recorded("canonical_square8_3p")], home)
    assert check_store("square8_4p", home) == []
    (moves,) = (home.canonical / "square8_4p").glob("moves-*.parquet")
    (others,) = (home.canonical / "square8_3p").glob("moves-*.parquet")
    shutil.copy(others, moves)
    assert check_store("square8_4p", home) != []
    with pytest.raises(CorruptStore):
        list(stored_games(Config("square8", 4), home))


def test_appending_twice_changes_nothing(home: Home, recorded: Callable[[str], Path]) -> None:
    first = append_canonical("hex8_3p", [recorded("hex8_3p_0")], home)
    again = append_canonical("hex8_3p", [recorded("hex8_3p_0")], home)
    assert (first.accepted, again.accepted, again.already) == (3, 0, 3)
    assert (again.digest_root, again.games_total, again.files) == (first.digest_root, 3, [])
