"""Merging games: always the union, never a game less or another, whatever comes and whoever else is writing."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringrift_dagster.transfer import merging
from ringrift_dagster.transfer.merging import Merged, MergeFailed, add_games, foreign_triggers, merge
from tests.transfer import databases
from tests.transfer.databases import contents, game_ids, make, record, rows

Pair = tuple[Path, Path]


@pytest.fixture(scope="session")
def like(recorded: Callable[[str], Path]) -> Path:
    """A database of the newest schema, whose tables others are made like."""
    return recorded("square8_2p_full")


@pytest.fixture
def copied(tmp_path: Path, sample: Callable[[str], Path]) -> Callable[[str, str], Pair]:
    """Copies of two recorded databases: one to merge into, one to be merged."""

    def copy(live: str, incoming: str) -> Pair:
        return (
            Path(shutil.copy(sample(live), tmp_path / "live.db")),
            Path(shutil.copy(sample(incoming), tmp_path / "incoming.db")),
        )

    return copy


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def test_every_row_of_every_game_arrives_and_nothing_that_was_there_changes(copied: Callable[[str, str], Pair]) -> None:
    live, incoming = copied("db/canonical_square8_2p", "db/square8_2p_full")
    before, coming = rows(live), rows(incoming)
    assert merge(live, incoming) == Merged(added=1)
    assert rows(live, sorted(game_ids(incoming))) == coming
    now = rows(live)
    assert all(row in now[table] for table, there in before.items() for row in there)
    assert merge(live, incoming) == Merged(alike=1)
    assert rows(live) == now
    assert sorted(path.name for path in incoming.parent.iterdir()) == ["incoming.db", "live.db"]


def test_the_same_game_with_another_content_is_left_as_it_is(copied: Callable[[str, str], Pair]) -> None:
    live, incoming = copied("damaged/dup_a", "damaged/dup_b")
    theirs, common = game_ids(incoming), sorted(game_ids(live) & game_ids(incoming))
    before = rows(live)
    assert merge(live, incoming) == Merged(added=3, alike=2, conflicts=1)
    assert rows(live, common) == {table: [row for row in there if row["game_id"] in common] for table, there in before.items()}
    assert theirs <= game_ids(live)


@pytest.mark.parametrize("other", ["winner_flipped", "illegal_move", "missing_tail", "gap_renumbered", "wrong_player"])
def test_any_difference_in_moves_or_result_is_a_conflict(other: str, copied: Callable[[str, str], Pair]) -> None:
    live, incoming = copied("damaged/base_ok", f"damaged/{other}")
    before = rows(live)
    assert merge(live, incoming) == Merged(alike=5, conflicts=1)
    assert rows(live) == before


@pytest.mark.parametrize(("live", "incoming"), [("old_schema_v12", "dup_b"), ("dup_b", "old_schema_v12")])
def test_schemas_of_different_versions(live: str, incoming: str, copied: Callable[[str, str], Pair]) -> None:
    there, coming = copied(f"damaged/{live}", f"damaged/{incoming}")
    both = game_ids(there) | game_ids(coming)
    added = sorted(game_ids(coming) - game_ids(there))
    assert merge(there, coming) == Merged(added=3, alike=2, conflicts=1)
    assert game_ids(there) == both
    arrived, sent = rows(there, added), rows(coming, added)
    for table in databases.TABLES:
        assert len(arrived[table]) == len(sent[table])
        for row, original in zip(arrived[table], sent[table], strict=True):
            assert {name: row[name] for name in row.keys() & original.keys()} == {
                name: original[name] for name in row.keys() & original.keys()
            }


def test_columns_that_did_not_come_have_their_defaults(copied: Callable[[str, str], Pair]) -> None:
    live, incoming = copied("damaged/dup_b", "damaged/old_schema_v12")
    added = sorted(game_ids(incoming) - game_ids(live))
    merge(live, incoming)
    assert {row["parity_status"] for row in rows(live, added)["games"]} == {"pending"}


def test_games_without_moves_or_end_are_no_games(tmp_path: Path, like: Path) -> None:
    live = make(tmp_path / "live.db", like, [("a", "1")])
    incoming = make(tmp_path / "incoming.db", like, [("b", "2")])
    with closing(sqlite3.connect(incoming)) as connection, connection:
        record(connection, "unfinished", "3", finished=False)
        connection.execute("DROP TRIGGER enforce_moves_on_complete")
        record(connection, "short", "4", moves=4)
        connection.execute("UPDATE games SET game_status = 'abandoned' WHERE game_id = 'unfinished'")
    assert merge(live, incoming) == Merged(added=1)
    assert contents(live) == {"a": "1", "b": "2"}


def test_a_game_that_the_database_refuses_keeps_no_other_away(tmp_path: Path, like: Path) -> None:
    live = make(tmp_path / "live.db", like, [("a", "1")])
    incoming = make(tmp_path / "incoming.db", like, [(f"g{number}", "2") for number in range(30)])
    change(live, "CREATE TRIGGER no BEFORE INSERT ON games WHEN NEW.game_id = 'g7' BEGIN SELECT RAISE(ABORT, 'no'); END")
    with closing(sqlite3.connect(live)) as connection, connection:  # left behind by somebody: moves of no game
        connection.execute(
            "INSERT INTO game_moves (game_id, move_number, turn_number, player, phase, move_type, move_json) "
            "VALUES ('g9', 3, 3, 1, 'placement', 'place_ring', '{}')"
        )
    assert merge(live, incoming) == Merged(added=28, refused=2)
    assert game_ids(live) == {"a"} | game_ids(incoming) - {"g7", "g9"}
    assert rows(live, ["g7"])["game_moves"] == []
    assert len(rows(live, ["g9"])["game_moves"]) == 1


def test_rows_of_any_size_are_refused_beyond_a_bound(tmp_path: Path, like: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    live = make(tmp_path / "live.db", like)
    incoming = make(tmp_path / "incoming.db", like, [("small", "1"), ("huge", "2")])
    change(incoming, "UPDATE game_initial_state SET initial_state_json = zeroblob(3000000) WHERE game_id = 'huge'")
    monkeypatch.setattr(merging, "MAX_ROW_BYTES", 1 << 20)
    assert add_games(live, incoming) == Merged(added=1, refused=1)
    assert contents(live) == {"small": "1"}


def test_nothing_of_a_hostile_database_runs(tmp_path: Path, like: Path) -> None:
    live = make(tmp_path / "live.db", like, [("a", "1")])
    incoming = make(tmp_path / "incoming.db", like, [("b", "2")])
    change(
        incoming,
        "CREATE TRIGGER t1 AFTER INSERT ON games BEGIN DELETE FROM games; END",
        "CREATE TRIGGER t2 AFTER INSERT ON game_moves BEGIN DELETE FROM game_moves; END",
        "CREATE VIEW step AS SELECT 'a' AS game_id",
        "CREATE VIEW arriving AS SELECT 'a' AS game_id",
        "CREATE TABLE schema_surprise (x TEXT DEFAULT (randomblob(1000000000)))",
        "ALTER TABLE games ADD COLUMN bomb TEXT GENERATED ALWAYS AS (hex(zeroblob(900000000))) VIRTUAL",
        "CREATE INDEX slow ON games (hex(zeroblob(length(game_id))))",
    )
    content = incoming.read_bytes()
    assert merge(live, incoming) == Merged(added=1)
    assert contents(live) == {"a": "1", "b": "2"}
    assert incoming.read_bytes() == content
    with closing(sqlite3.connect(live)) as connection:
        assert not connection.execute("SELECT 1 FROM sqlite_master WHERE name IN ('t1', 't2', 'bomb', 'step')").fetchall()


@pytest.mark.parametrize("kind", ["TEXT COLLATE NOCASE", "INTEGER", "BLOB", ""])
def test_ids_that_compare_oddly_touch_no_other_game(kind: str, tmp_path: Path, like: Path) -> None:
    live = make(tmp_path / "live.db", like, [("ABC", "mine"), ("7", "mine")])
    incoming = make(tmp_path / "incoming.db", like, [("abc", "1"), ("x", "2")])
    change(
        incoming,
        "DROP TRIGGER enforce_moves_on_insert",
        "CREATE TABLE odd AS SELECT * FROM game_moves",
        "DROP TABLE game_moves",
        f"CREATE TABLE game_moves (game_id {kind}, move_number INT, turn_number INT, player INT, phase, move_type, move_json)",
        "INSERT INTO game_moves SELECT game_id, move_number, turn_number, player, phase, move_type, move_json FROM odd",
        "INSERT INTO game_moves SELECT 'ABC', 100 + move_number, 0, 1, '', '', '{}' FROM odd",
        "INSERT INTO game_moves SELECT 7, 200 + rowid, 0, 1, '', '', '{}' FROM odd",
        "CREATE TABLE more AS SELECT * FROM games WHERE game_id = 'x'",
        "UPDATE more SET game_id = '07'",
        "INSERT INTO games SELECT * FROM more",
    )
    before = rows(live, ["ABC", "7"])
    merge(live, incoming)
    assert rows(live, ["ABC", "7"]) == before
    assert {"abc", "x"} <= game_ids(live)
    assert len(rows(live, ["x"])["game_moves"]) == 6


@pytest.mark.parametrize(
    ("statement", "cause"),
    [
        ("ALTER TABLE game_moves DROP COLUMN move_json", "not_sound"),
        ("ALTER TABLE games RENAME TO other", "not_sound"),
        ("DROP TABLE game_moves", "not_sound"),
        ("DROP TABLE games; CREATE VIEW games AS SELECT 'b' AS game_id, 'completed' AS game_status", "not_sound"),
        ("DROP TABLE games; CREATE VIRTUAL TABLE games USING fts5(game_id, game_status)", "not_sound"),
    ],
)
def test_what_cannot_be_merged(statement: str, cause: str, tmp_path: Path, like: Path) -> None:
    live = make(tmp_path / "live.db", like, [("a", "1")])
    incoming = make(tmp_path / "incoming.db", like, [("b", "2")], log=False)
    with closing(sqlite3.connect(incoming)) as connection:
        connection.executescript(f"PRAGMA foreign_keys = OFF; {statement}")
    with pytest.raises(MergeFailed) as failed:
        merge(live, incoming)
    assert failed.value.cause == cause
    assert contents(live) == {"a": "1"}


def test_moves_that_the_database_there_cannot_hold_are_not_lost_in_silence(tmp_path: Path, like: Path) -> None:
    """The older form of moves has no place for the newer form's records."""
    incoming = make(tmp_path / "incoming.db", like, [("b", "2")])
    live = make(tmp_path / "live.db", like)
    change(live, "ALTER TABLE game_moves DROP COLUMN move_json", "ALTER TABLE game_moves ADD COLUMN position_q INTEGER")
    with pytest.raises(MergeFailed, match="move_json") as failed:
        merge(live, incoming)
    assert failed.value.cause == "not_sound"
    assert game_ids(live) == set()


@pytest.mark.parametrize("name", ["not_a_db", "zero_bytes", "truncated_header", "truncated_midfile", "corrupt_page"])
def test_a_damaged_database_adds_nothing(name: str, copied: Callable[[str, str], Pair]) -> None:
    live, incoming = copied("damaged/base_ok", f"damaged/{name}")
    before = live.read_bytes()
    with pytest.raises(MergeFailed) as failed:
        merge(live, incoming)
    assert failed.value.cause == "not_sound"
    assert live.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "cause"), [("not_a_db", "occupied"), ("zero_bytes", "occupied"), ("truncated_midfile", "disk_error")]
)
def test_what_stands_there_is_no_database_to_merge_into(name: str, cause: str, copied: Callable[[str, str], Pair]) -> None:
    live, incoming = copied(f"damaged/{name}", "damaged/dup_b")
    before = live.read_bytes()
    with pytest.raises(MergeFailed) as failed:
        merge(live, incoming)
    assert failed.value.cause == cause
    assert live.read_bytes() == before


def test_a_database_that_is_not_there_is_not_made(tmp_path: Path, recorded: Callable[[str], Path]) -> None:
    with pytest.raises(MergeFailed):
        merge(tmp_path / "missing.db", recorded("canonical_square8_2p"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("held", [1.0, 0.0])
def test_a_process_that_records_games_meanwhile_loses_none(
    held: float, tmp_path: Path, like: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = make(tmp_path / "live.db", like, [("a", "1")])
    incoming = make(tmp_path / "incoming.db", like, [(f"g{number}", f"came {number}") for number in range(400)])
    monkeypatch.setattr(merging, "HOLD_SECONDS", held)
    monkeypatch.setattr(merging, "PAUSE_SECONDS", 0.01)
    writer = subprocess.Popen(
        [sys.executable, databases.__file__, str(live), "w"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "w-0\n"
        added = add_games(live, incoming) if held == 0.0 else merge(live, incoming)
        told = ["w-0", *writer.communicate("stop", timeout=60)[0].split()]
    assert writer.returncode == 0
    assert added == Merged(added=400)
    assert contents(live) == {
        "a": "1",
        **contents(incoming),
        **{game: f"written {number}" for number, game in enumerate(told)},
    }


def test_merges_at_once_add_every_game_once(tmp_path: Path, like: Path) -> None:
    live = make(tmp_path / "live.db", like, [("a", "1")])
    coming = [
        make(tmp_path / f"{start}.db", like, [(f"g{number}", f"{number}") for number in range(start, start + 60)])
        for start in (0, 30, 60)
    ]
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda path: merge(live, path), [*coming, coming[0]]))
    assert sum(each.added for each in done) == 120
    assert sum(each.conflicts + each.refused for each in done) == 0
    assert contents(live) == {"a": "1"} | {f"g{number}": f"{number}" for number in range(120)}


def test_a_database_that_stays_locked_is_left_for_another_time(tmp_path: Path, like: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    live = make(tmp_path / "live.db", like, [("a", "1")])
    incoming = make(tmp_path / "incoming.db", like, [("b", "2")])
    monkeypatch.setattr(merging, "BUSY_SECONDS", 0.05)
    monkeypatch.setattr(merging, "MERGE_TIMEOUT_SECONDS", 0.3)
    with closing(sqlite3.connect(live, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for attempt in (add_games, merge):
            with pytest.raises(MergeFailed) as failed:
                attempt(live, incoming)
            assert failed.value.cause == "timeout"
        other.execute("ROLLBACK")
    assert contents(live) == {"a": "1"}
    assert add_games(live, incoming) == Merged(added=1)


def test_triggers_that_are_none_of_ringrifts(tmp_path: Path, like: Path) -> None:
    path = make(tmp_path / "x.db", like)
    assert foreign_triggers(path) == []
    change(
        path,
        "CREATE TRIGGER other AFTER INSERT ON games BEGIN SELECT 1; END",
        "DROP TRIGGER enforce_moves_on_complete",
        "CREATE TRIGGER enforce_moves_on_complete AFTER UPDATE ON games BEGIN DELETE/**/FROM games; END",
        "DROP TRIGGER enforce_moves_on_insert",
        "CREATE TRIGGER enforce_moves_on_insert BEFORE INSERT ON games BEGIN SELECT RAISE(IGNORE); END",
    )
    assert foreign_triggers(path) == ["enforce_moves_on_complete", "enforce_moves_on_insert", "other"]


@pytest.mark.parametrize(
    "hidden", ["/* ' */ {} /* ' */", "-- '\n {} -- '\n", 'SELECT "\'"; {} SELECT "\'";', "SELECT `'`; {} SELECT `'`;"]
)
def test_a_trigger_hides_nothing_between_quotes_that_are_none(hidden: str, tmp_path: Path, like: Path) -> None:
    path = make(tmp_path / "x.db", like)
    program = hidden.format("DELETE FROM games WHERE game_id <> NEW.game_id;")
    change(
        path,
        "DROP TRIGGER enforce_moves_on_insert",
        f"CREATE TRIGGER enforce_moves_on_insert AFTER INSERT ON games BEGIN SELECT 1; {program} END",
    )
    assert foreign_triggers(path) == ["enforce_moves_on_insert"]


def test_triggers_of_every_version_of_ringrift_are_its_own(tmp_path: Path, like: Path, recorded: Callable[[str], Path]) -> None:
    for name in ("canonical_square8_2p", "canonical_hex8_2p", "canonical_hexagonal_2p"):
        assert foreign_triggers(recorded(name)) == []
    path = make(tmp_path / "x.db", like)
    change(
        path,
        "DROP TRIGGER enforce_moves_on_complete",
        "CREATE TRIGGER enforce_moves_on_complete BEFORE UPDATE ON games WHEN NEW.total_moves = 0 "
        "BEGIN SELECT RAISE(ABORT, 'Cannot complete a game without moves -- it''s useless'); END",
    )
    assert foreign_triggers(path) == []


@settings(max_examples=40, deadline=None)
@given(
    sides=st.tuples(*[st.dictionaries(st.sampled_from([*"abcdefgh", "é", "'; --", "A"]), st.sampled_from("123"), max_size=8)] * 3),
    step=st.integers(1, 4),
    held=st.sampled_from([0.0, 1.0]),
    log=st.booleans(),
)
def test_merging_is_the_union(
    sides: tuple[dict[str, str], ...],
    step: int,
    held: float,
    log: bool,
    like: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Whatever is merged in whatever order: what is there first stays, what is lacking comes, and the counts say so."""
    folder = tmp_path_factory.mktemp("union")
    live, *coming = (make(folder / f"{index}.db", like, side.items(), log=log) for index, side in enumerate(sides))
    expected = dict(sides[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merging, "STEP_GAMES", step)
        patch.setattr(merging, "HOLD_SECONDS", held)
        patch.setattr(merging, "PAUSE_SECONDS", 0.0)
        for path, side in zip(coming, sides[1:], strict=True):
            same = {game for game, content in side.items() if expected.get(game) == content}
            other = expected.keys() & side.keys() - same
            assert add_games(live, path) == Merged(len(side.keys() - expected.keys()), len(same), len(other))
            expected = {**side, **expected}
            assert contents(live) == expected
