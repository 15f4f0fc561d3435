"""The audit of a database of our self-play: what the gate says of its games, what is missing, what comes out of the seed again."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from ringrift_dagster.ai.audit import audit, reproduce
from ringrift_dagster.ai.registry import parse_spec
from ringrift_dagster.ai.selfplay import SelfPlay, Written, record
from ringrift_dagster.canonical.verdicts import VerdictStore
from ringrift_dagster.games.config import parse_config
from ringrift_dagster.games.database import DatabaseUnreadable

RUN = SelfPlay(parse_config("square8_3p"), 11, (parse_spec("random"),))


@pytest.fixture
def written(tmp_path: Path) -> Written:
    return record(RUN, 3, tmp_path / "games.db")


def change(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)


def test_every_game_is_counted_with_its_end_and_its_winner(written: Written) -> None:
    found = audit(written.path)
    assert tuple(found.digests[RUN.game_id(index)] for index in range(3)) == written.digests
    assert (found.rejected, found.moves, found.results.total()) == ([], written.moves, 3)
    with closing(sqlite3.connect(written.path)) as connection:
        ends = connection.execute("SELECT termination_reason, COALESCE(winner, 0) FROM games").fetchall()
    assert sorted(found.results.elements()) == sorted((reason.rpartition(":")[2], winner) for reason, winner in ends)
    assert (found.missing(RUN, written.digests), found.missing(RUN, (*written.digests, "3", "4"))) == ([], [3, 4])
    assert found.missing(replace(RUN, root=12), written.digests[:2]) == [0, 1]


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("UPDATE games SET winner = winner % 3 + 1 WHERE game_id = '{}'", "result_mismatch"),
        ("UPDATE games SET source = 'tournament' WHERE game_id = '{}'", "holdout_source"),
        ("UPDATE game_initial_state SET initial_state_json = 'no JSON' WHERE game_id = '{}'", "unreadable"),
    ],
)
def test_a_game_that_the_gate_rejects_is_missing(written: Written, statement: str, reason: str) -> None:
    change(written.path, statement.format(RUN.game_id(1)))
    found = audit(written.path)
    assert [(entry["game_id"], entry["reason"]) for entry in found.rejected] == [(RUN.game_id(1), reason)]
    assert found.missing(RUN, written.digests) == [1]


def test_a_game_in_the_place_of_another_is_missing(written: Written) -> None:
    first, second = RUN.game_id(0), RUN.game_id(1)
    with closing(sqlite3.connect(written.path)) as connection, connection:
        for table in ("game_moves", "game_initial_state", "game_history_entries", "game_state_snapshots"):
            columns = [name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})") if name not in ("game_id", "id")]
            names = ", ".join(columns)
            connection.execute(f"DELETE FROM {table} WHERE game_id = ?", (second,))
            statement = f"INSERT INTO {table} (game_id, {names}) SELECT ?, {names} FROM {table} WHERE game_id = ?"
            connection.execute(statement, (second, first))
        values = connection.execute("SELECT winner, total_moves FROM games WHERE game_id = ?", (first,)).fetchone()
        connection.execute("UPDATE games SET winner = ?, total_moves = ? WHERE game_id = ?", (*values, second))
    audited = audit(written.path)
    assert audited.rejected == []
    assert audited.missing(RUN, written.digests) == [1]


def test_verdicts_of_a_store_are_the_same(written: Written, tmp_path: Path) -> None:
    for _ in range(2):
        with VerdictStore(tmp_path / "verdicts.db") as store:
            assert audit(written.path, store) == audit(written.path)


def test_no_database_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "games.db").write_bytes(b"no database")
    with pytest.raises(DatabaseUnreadable):
        audit(tmp_path / "games.db")


def test_games_come_out_of_the_seed_again(written: Written) -> None:
    assert [(game.index, game.same) for game in reproduce(RUN, written, [0, 2])] == [(0, True), (2, True)]
    (other,) = reproduce(replace(RUN, root=12), written, [0])
    assert not other.same
    assert other.recorded == written.digests[0]
