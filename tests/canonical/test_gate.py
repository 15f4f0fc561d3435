"""The gate on real games, on every kind of damage, and on what is given twice."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from ringrift_dagster.canonical.gate import REASONS, Gate, judged_games, verify
from ringrift_dagster.canonical.verdicts import VerdictStore
from ringrift_dagster.games.database import GameDatabase, RecordedHash

DATA = Path(__file__).parents[1] / "data"
CANONICAL = sorted(path.name.removesuffix(".db.xz") for path in (DATA / "db").glob("*.db.xz"))

# One damaged game each: the reason it has to be rejected for.
ONE_DAMAGED_GAME = {
    "gap_move_number": {"noncontiguous_moves"},
    "gap_renumbered": {"noncontiguous_moves", "illegal_move", "phase_contract", "state_hash_mismatch"},
    "missing_tail": {"result_mismatch", "state_hash_mismatch"},
    "wrong_phase": {"phase_contract"},
    "wrong_phase_column_only": {"phase_contract"},
    "wrong_player": {"illegal_move"},
    "player_out_of_range": {"illegal_move"},
    "illegal_move": {"illegal_move"},
    "bad_move_json": {"unreadable"},
    "winner_flipped": {"result_mismatch"},
    "winner_null": {"result_mismatch"},
    "winner_out_of_range": {"result_mismatch"},
    "total_moves_mismatch": {"result_mismatch"},
    "orphan_no_moves": {"too_few_moves"},
    "missing_initial_state": {"missing_initial_state"},
    "status_active": {"unfinished"},
    "noncanonical_rules": {"wrong_config"},
}

# What an initial state cannot say of a game that begins where canonical games begin, in a form that the rules would act on.
OTHER_BEGINNINGS: dict[str, dict[str, Any]] = {
    "rounds of a last player": {"lpsConsecutiveExclusiveRounds": 2, "lpsConsecutiveExclusivePlayer": 2},
    "a round under way": {"lpsCurrentRoundFirstPlayer": 1, "lpsCurrentRoundActorMask": {"2": True, "1": False}},
    "a stack that must move": {"mustMoveFromStackKey": "0,0"},
    "a chain of captures": {"chainCaptureState": {"currentPosition": {"x": 0, "y": 0}}},
    "a winner": {"winner": 2},
    "a lower territory minimum": {"territoryVictoryMinimum": 17},
}


def with_initial_state(source: Path, target: Path, changes: dict[str, Any]) -> Path:
    """A copy of a database whose initial states say something else."""
    shutil.copy(source, target)
    with closing(sqlite3.connect(target)) as connection, connection:
        connection.create_function("changed", 1, lambda text: orjson.dumps({**orjson.loads(text), **changes}).decode())
        connection.execute("UPDATE game_initial_state SET initial_state_json = changed(initial_state_json) WHERE compressed = 0")
    return target


def newest_games(path: Path) -> list[str]:
    """The ids of all games, in the order in which they are read."""
    with GameDatabase(path) as database:
        return [record.game_id for record in database.games()]


@pytest.mark.parametrize("name", CANONICAL)
def test_recorded_games_are_canonical_with_every_hash_checked(name: str, recorded: Callable[[str], Path]) -> None:
    path = recorded(name)
    (report,) = verify([path])
    assert (report.verdict, report.reasons, report.rejected) == ("canonical", {}, [])
    with sqlite3.connect(path) as connection:
        (snapshots,) = connection.execute("SELECT COUNT(*) FROM game_state_snapshots").fetchone()
        (entries,) = connection.execute(
            "SELECT COUNT(state_hash_before) + COUNT(state_hash_after) FROM game_history_entries"
        ).fetchone()
        (moves,) = connection.execute("SELECT COUNT(*) FROM game_moves").fetchone()
    assert report.hashes_checked == snapshots + entries > 0
    assert report.moves == moves


@pytest.mark.parametrize(("name", "reasons"), ONE_DAMAGED_GAME.items())
def test_one_damaged_game_is_rejected_for_its_reason_and_the_rest_pass(
    name: str, reasons: set[str], damaged: Callable[[str], Path]
) -> None:
    (report,) = verify([damaged(name)])
    assert report.verdict == "mixed"
    assert (report.games["total"], report.games["canonical"]) == (6, 5)
    (entry,) = report.rejected
    assert entry["reason"] in reasons
    assert entry["detail"]
    assert report.reasons == {entry["reason"]: 1}


@pytest.mark.parametrize("name", ["base_ok", "old_schema_v12", "dup_a"])
def test_undamaged_databases_are_canonical(name: str, damaged: Callable[[str], Path]) -> None:
    (report,) = verify([damaged(name)])
    assert report.verdict == "canonical"


def test_an_old_schema_is_read_in_place(damaged: Callable[[str], Path]) -> None:
    path = damaged("old_schema_v12")
    before = path.read_bytes()
    (report,) = verify([path])
    assert report.schema_version == 12
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["truncated_midfile", "truncated_header", "corrupt_page", "not_a_db", "zero_bytes"])
def test_unreadable_files(name: str, damaged: Callable[[str], Path]) -> None:
    (report,) = verify([damaged(name)])
    assert (report.verdict, report.reasons) == ("unreadable", {"unreadable": 1})


def test_an_empty_database_is_empty_and_not_canonical(damaged: Callable[[str], Path]) -> None:
    (report,) = verify([damaged("empty")])
    assert (report.verdict, report.games["total"]) == ("empty", 0)


def test_games_given_twice_count_once_even_when_the_second_record_lies_about_the_winner(
    damaged: Callable[[str], Path],
) -> None:
    first, second = verify([damaged("dup_a"), damaged("dup_b")])
    assert first.reasons == {}
    assert second.reasons == {"duplicate_game": 3}


def test_a_conflicting_copy_alone_is_judged_by_its_own_claims(damaged: Callable[[str], Path]) -> None:
    """One game of dup_b was recorded with another winner than its moves and its own last snapshot have."""
    (report,) = verify([damaged("dup_b")])
    assert report.reasons == {"result_mismatch": 1}


def test_known_games_are_duplicates(recorded: Callable[[str], Path]) -> None:
    with GameDatabase(recorded("canonical_square8_3p")) as database:
        digests = {judged.verdict.digest for judged in judged_games(database, Gate())}
        again = {judged.verdict.reason for judged in judged_games(database, Gate(known={d for d in digests if d}))}
    assert again == {"duplicate_game"}


def test_what_was_judged_is_not_replayed_again_until_its_claims_change(recorded: Callable[[str], Path], tmp_path: Path) -> None:
    path = tmp_path / "grown.db"
    shutil.copy(recorded("canonical_square8_4p"), path)

    def judge() -> list[tuple[str | None, bool]]:
        with VerdictStore(tmp_path / "verdicts.db") as store, GameDatabase(path) as database:
            return [(judged.verdict.reason, judged.verdict.reused) for judged in judged_games(database, Gate(store))]

    assert judge() == [(None, False)] * 5
    assert judge() == [(None, True)] * 5
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE games SET winner = winner % 4 + 1 WHERE rowid = 1")
    assert sorted(judge(), key=str) == sorted([("result_mismatch", False), *[(None, True)] * 4], key=str)


def test_a_bad_database_stops_no_other(damaged: Callable[[str], Path], tmp_path: Path) -> None:
    reports = verify([damaged("not_a_db"), tmp_path / "missing.db", damaged("base_ok")])
    assert [report.verdict for report in reports] == ["unreadable", "unreadable", "canonical"]


@pytest.mark.parametrize("source", ["tournament_elo", "gauntlet", "EVAL", "holdout-2026"])
def test_evaluation_games_are_held_out(source: str, damaged: Callable[[str], Path], tmp_path: Path) -> None:
    path = tmp_path / "held.db"
    shutil.copy(damaged("base_ok"), path)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE games SET source = ?", (source,))
    (report,) = verify([path])
    assert (report.verdict, report.reasons) == ("rejected", {"holdout_source": 6})


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("UPDATE game_initial_state SET initial_state_json = '[' || initial_state_json", "unreadable"),
        ("UPDATE game_initial_state SET initial_state_json = '[]'", "unreadable"),
        ("UPDATE game_initial_state SET initial_state_json = x'ff00'", "unreadable"),
        ("UPDATE game_initial_state SET compressed = 1", "unreadable"),
        ("UPDATE game_initial_state SET initial_state_json = REPLACE(initial_state_json, 'square8', 'hex8')", "wrong_config"),
        ("UPDATE game_initial_state SET initial_state_json = REPLACE(initial_state_json, 'ringsInHand\":18', 'ringsInHand\":17')",
         "wrong_config"),
        ("UPDATE games SET board_type = 'square9'", "wrong_config"),
        ("UPDATE games SET num_players = 'two'", "wrong_config"),
        ("UPDATE games SET num_players = num_players + 0.0", "wrong_config"),
        ("UPDATE game_moves SET move_json = '{}' WHERE move_number = 3", "unreadable"),
        ("UPDATE game_moves SET move_json = '[[' WHERE move_number = 3", "unreadable"),
        ("UPDATE game_moves SET move_json = NULL WHERE move_number = 3", "unreadable"),
        ("UPDATE game_moves SET move_json = zeroblob(2000000) WHERE move_number = 3", "unreadable"),
        ("UPDATE game_moves SET move_type = 'teleport', move_json = REPLACE(move_json, 'move_stack', 'teleport') "
         "WHERE move_number = 1", "phase_contract"),
        ("UPDATE game_state_snapshots SET state_hash = '0123456789abcdef'", "state_hash_mismatch"),
        ("UPDATE game_state_snapshots SET move_number = 100000", "state_hash_mismatch"),
    ],
)  # fmt: skip
def test_hostile_rows_are_rejected_with_a_reason(
    statement: str, reason: str, damaged: Callable[[str], Path], tmp_path: Path
) -> None:
    path = tmp_path / "hostile.db"
    shutil.copy(damaged("base_ok"), path)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_master SET sql = REPLACE(sql, 'move_json TEXT NOT NULL', 'move_json TEXT')")
        connection.execute("UPDATE sqlite_master SET sql = REPLACE(sql, 'num_players INTEGER NOT NULL', 'num_players')")
    with sqlite3.connect(path) as connection:
        connection.execute(statement)
    (report,) = verify([path])
    assert set(report.reasons) == {reason}
    assert reason in REASONS


def test_snapshots_without_a_stored_hash_are_hashed_from_their_state(damaged: Callable[[str], Path], tmp_path: Path) -> None:
    path = tmp_path / "unhashed.db"
    shutil.copy(damaged("base_ok"), path)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE game_state_snapshots SET state_hash = NULL")
    (report,) = verify([path])
    assert (report.verdict, report.hashes_checked) == ("canonical", 6)


def test_compressed_states_are_read(damaged: Callable[[str], Path], tmp_path: Path) -> None:
    import gzip

    path = tmp_path / "compressed.db"
    shutil.copy(damaged("base_ok"), path)
    with sqlite3.connect(path) as connection:
        connection.create_function("gz", 1, lambda text: gzip.compress(text.encode()))
        connection.execute("UPDATE game_initial_state SET initial_state_json = gz(initial_state_json), compressed = 1")
        connection.execute("UPDATE game_state_snapshots SET state_json = gz(state_json), compressed = 1, state_hash = NULL")
    (report,) = verify([path])
    assert report.verdict == "canonical"


@pytest.mark.parametrize("changes", OTHER_BEGINNINGS.values(), ids=OTHER_BEGINNINGS)
@pytest.mark.parametrize("name", ["canonical_square8_2p", "canonical_square8_4p"])
def test_another_beginning_is_rejected_and_leaves_no_verdict_on_the_same_moves(
    name: str, changes: dict[str, Any], recorded: Callable[[str], Path], tmp_path: Path
) -> None:
    genuine = recorded(name)
    altered = with_initial_state(genuine, tmp_path / "altered.db", changes)
    with VerdictStore(tmp_path / "verdicts.db") as store:
        refused, accepted = verify([altered, genuine], store=store)
    assert refused.reasons == {"wrong_config": refused.games["total"]}
    assert (accepted.verdict, accepted.reasons) == ("canonical", {})


@pytest.mark.parametrize(
    "changes", [{"territoryVictoryMinimum": 33}, {"territoryVictoryMinimum": None}, {"lpsCurrentRoundActorMask": {"3": False}}]
)
def test_what_says_the_same_or_decides_nothing_makes_no_other_game(
    changes: dict[str, Any], recorded: Callable[[str], Path], tmp_path: Path
) -> None:
    genuine = recorded("canonical_square8_4p")
    same = with_initial_state(genuine, tmp_path / "same.db", changes)
    first, second = verify([same, genuine])
    assert (first.verdict, second.reasons) == ("canonical", {"duplicate_game": 5})


def test_one_claim_about_a_state_is_not_taken_for_two(damaged: Callable[[str], Path], tmp_path: Path) -> None:
    """A state that goes on as the next claim would is another claim than the state and that next one."""
    state, value = b'{"board":{}}', "0123456789abcdef"
    with GameDatabase(damaged("base_ok")) as database:
        record = next(database.games())
    two = replace(record, hashes=[RecordedHash(5, None, state), RecordedHash(6, value)])
    one = replace(record, hashes=[RecordedHash(5, None, state + repr((6, value)).encode())])
    with VerdictStore(tmp_path / "verdicts.db") as store:
        assert Gate(store).judge(one).verdict.reused is False
        assert Gate(store).judge(two).verdict.reused is False


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE games SET source = CAST(x'736f616bdf' AS TEXT) WHERE game_id = :game",
        "UPDATE games SET board_type = CAST(x'737175df' AS TEXT) WHERE game_id = :game",
        "UPDATE games SET game_status = CAST(x'ff' AS TEXT) WHERE game_id = :game",
        "UPDATE games SET game_id = CAST(x'67ff' AS TEXT) WHERE game_id = :game",
        "UPDATE game_moves SET phase = CAST(x'72696e67df' AS TEXT) WHERE game_id = :game AND move_number = 3",
        "UPDATE game_moves SET move_type = CAST(x'ff' AS TEXT) WHERE game_id = :game AND move_number = 3",
        "UPDATE game_moves SET move_number = CAST(x'ff' AS TEXT) WHERE game_id = :game AND move_number = 3",
        "UPDATE game_moves SET move_json = CAST(x'7b22ff223a317d' AS TEXT) WHERE game_id = :game AND move_number = 3",
        "UPDATE game_state_snapshots SET state_hash = CAST(x'61df' AS TEXT) WHERE game_id = :game",
        "UPDATE game_state_snapshots SET move_number = 'last' WHERE game_id = :game",
        "INSERT INTO game_history_entries SELECT :game, 3, 1, '', '', '', '', '', '', CAST(x'ff' AS TEXT), "
        "NULL, NULL, NULL, NULL, NULL, 0, NULL, 0, NULL, NULL, NULL, NULL",
    ],
)
def test_one_byte_that_is_no_utf8_costs_one_game_and_hides_none(
    statement: str, damaged: Callable[[str], Path], tmp_path: Path
) -> None:
    path = tmp_path / "flipped.db"
    shutil.copy(damaged("base_ok"), path)
    games = newest_games(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute(statement, {"game": games[0]})
    flipped, whole = verify([path, damaged("base_ok")])
    assert (flipped.verdict, flipped.games["canonical"], flipped.reasons) == ("mixed", 5, {"unreadable": 1})
    assert flipped.rejected[0]["game_id"] in (games[0], "g\\xff")
    assert orjson.dumps(flipped.to_dict())
    assert (whole.games["canonical"], whole.reasons) == (1, {"duplicate_game": 5})


def test_what_a_database_had_before_it_could_not_be_read_further_counts_elsewhere(
    recorded: Callable[[str], Path], tmp_path: Path
) -> None:
    path = tmp_path / "rots.db"
    shutil.copy(recorded("canonical_square8_2p"), path)

    def rot(name: str, done: int, total: int) -> None:
        if name == str(path) and done == 3:
            with path.open("r+b") as file:
                size = path.stat().st_size
                file.seek(4096)
                file.write(bytes(size - 4096))

    rotten, whole = verify([path, recorded("canonical_square8_2p")], progress=rot)
    assert (rotten.verdict, rotten.games["total"]) == ("unreadable", 0)
    assert (whole.verdict, whole.reasons) == ("canonical", {})
