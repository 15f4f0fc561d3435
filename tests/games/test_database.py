"""Reading game databases: what is wrong with one game is told in its record, and the others are read."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import orjson
import pytest

from ringrift_dagster.games.database import DatabaseUnreadable, GameDatabase, GameRecord, describe


@pytest.fixture
def changed(damaged: Callable[[str], Path], tmp_path: Path) -> Callable[..., Path]:
    """A copy of six good games on which statements were carried out."""

    def change(*statements: str) -> Path:
        path = Path(shutil.copy(damaged("base_ok"), tmp_path / "changed.db"))
        with closing(sqlite3.connect(path)) as connection, connection:
            for statement in statements:
                connection.execute(statement)
        return path

    return change


def read(path: Path) -> list[GameRecord]:
    with GameDatabase(path) as database:
        return list(database.games())


ONE = "game_id = (SELECT MIN(game_id) FROM games)"
OLD_FORM = (
    "ALTER TABLE game_moves DROP COLUMN move_json",
    "ALTER TABLE game_moves ADD COLUMN position_q INTEGER",
    "ALTER TABLE game_moves ADD COLUMN position_r INTEGER",
)


def test_all_of_a_good_database_is_read(changed: Callable[..., Path]) -> None:
    assert [record.damage for record in read(changed())] == [None] * 6


def test_texts_that_are_utf8_are_read_as_they_are(changed: Callable[..., Path]) -> None:
    records = read(changed("UPDATE games SET source = 'Zoë \U0001f3b2'"))
    assert {(record.row["source"], record.damage) for record in records} == {("Zoë \U0001f3b2", None)}


def test_a_damaged_row_can_be_printed_and_names_its_column(changed: Callable[..., Path]) -> None:
    (record,) = (
        record
        for record in read(changed(f"UPDATE games SET engine_mode = CAST(x'6dff' AS TEXT) WHERE {ONE}"))
        if record.damage is not None
    )
    assert record.damage == "engine_mode is no UTF-8 text"
    assert orjson.loads(orjson.dumps(record.row))["engine_mode"] == "m\\xff"


@pytest.mark.parametrize("value", ["x'ff'", "CAST(x'ff' AS TEXT)"])
def test_a_bad_move_of_the_older_form_costs_its_game(value: str, changed: Callable[..., Path]) -> None:
    damages = [
        (record.damage is not None, record.damaged_move)
        for record in read(changed(*OLD_FORM, f"UPDATE game_moves SET move_type = {value} WHERE move_number = 3 AND {ONE}"))
    ]
    assert sorted(damages, key=str) == [(False, None)] * 5 + [(True, 3)]


def test_a_database_is_counted_whatever_the_bytes_of_its_texts(changed: Callable[..., Path]) -> None:
    path = changed(f"UPDATE games SET engine_mode = CAST(x'6dff' AS TEXT), board_type = CAST(x'73ff' AS TEXT) WHERE {ONE}")
    summary = describe(path)
    assert summary.configs == {"square8_2p": 5, "s\\xff_2p": 1}
    assert summary.engine_modes["m\\xff"] == 1
    assert orjson.dumps(summary.configs)


def test_a_table_whose_name_is_no_utf8_is_none_of_ours(changed: Callable[..., Path]) -> None:
    path = changed(
        "CREATE TABLE other (x)",
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_master SET name = CAST(x'6fff' AS TEXT), tbl_name = CAST(x'6fff' AS TEXT), "
        "sql = CAST(x'435245415445205441424c4520226fff2220287829' AS TEXT) WHERE name = 'other'",
    )
    assert len(read(path)) == 6


def test_a_column_whose_name_is_no_utf8_makes_the_database_unreadable(changed: Callable[..., Path]) -> None:
    path = changed(
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_master SET sql = CAST(REPLACE(CAST(sql AS BLOB), CAST('metadata_json' AS BLOB), x'6fff') AS TEXT) "
        "WHERE name = 'games'",
    )
    with pytest.raises(DatabaseUnreadable):
        read(path)
