"""The demo's games: played once, and again when they are old; the damaged database lies beside them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from ringrift_dagster.canonical.gate import verify
from ringrift_dagster.cli import demo_games
from ringrift_dagster.cli.demo_games import play_games
from ringrift_dagster.demo_data import DAMAGED_CONFIG, DAMAGED_DATABASE, unpack


@pytest.fixture(autouse=True)
def one_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_games, "PLAYED", ("hex8_2p",))


def played(into: Path) -> str:
    """What is said of the games of hex8_2p."""
    said: dict[str, str] = {}
    play_games(into, said.__setitem__)
    return said["hex8_2p"]


def database(into: Path) -> Path:
    (path,) = into.glob("selfplay_hex8_2p_*.db")
    return path


def test_games_are_played_once_and_canonical(tmp_path: Path) -> None:
    assert played(tmp_path).startswith("6 games, ")
    assert played(tmp_path) == "6 games, since an earlier demo"
    (verdict,) = verify([database(tmp_path)])
    assert (verdict.verdict, verdict.games["canonical"]) == ("canonical", 6)


def test_as_many_again_are_played_when_they_are_old(tmp_path: Path) -> None:
    played(tmp_path)
    with closing(sqlite3.connect(database(tmp_path))) as connection, connection:
        connection.execute("UPDATE games SET created_at = '2025-11-30T00:00:00', completed_at = '2025-11-30T00:01:00'")

    assert " moves in " in played(tmp_path)

    assert played(tmp_path) == "12 games, since an earlier demo"


def test_what_a_killed_demo_left_out_is_played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(demo_games, "GAMES", 2)
        played(tmp_path)
    assert played(tmp_path).startswith("4 games, ")


def test_one_game_of_the_damaged_database_has_the_wrong_winner(tmp_path: Path) -> None:
    path = unpack(tmp_path)
    assert (path.name, unpack(tmp_path)) == (DAMAGED_DATABASE, path)
    (verdict,) = verify([path])
    assert (verdict.config, verdict.reasons) == (DAMAGED_CONFIG, {"result_mismatch": 1})
    assert verdict.games["canonical"] == 5
