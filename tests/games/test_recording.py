"""Games that are recorded are whole, read back as they were played, and never overwrite anything."""

from __future__ import annotations

import os
import pickle
import re
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import orjson
import pytest

from ringrift_dagster.canonical.gate import Gate, judged_games
from ringrift_dagster.datasets.soft_policy import soft_targets
from ringrift_dagster.games import moves as m
from ringrift_dagster.games import recording
from ringrift_dagster.games.config import Config
from ringrift_dagster.games.database import GameDatabase, GameRecord
from ringrift_dagster.games.digest import game_digest
from ringrift_dagster.games.moves import MoveType, PackedMoves
from ringrift_dagster.games.position import empty_position
from ringrift_dagster.games.recording import (
    GameRecorder,
    GameRows,
    PlayedGame,
    RecordingError,
    RecordingRefused,
    Seat,
    UnrecordableGame,
    game_rows,
)
from tests.games.played import RECORDED, played

SQUARE8 = Config("square8", 2)
ABOUT = {"seed": "1", "ai": "random"}
PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def square8_games(recorded: Callable[[str], Path]) -> list[PlayedGame]:
    """Five short games."""
    with GameDatabase(recorded("canonical_square8_2p")) as database:
        return [played(record) for record in sorted(database.games(), key=lambda record: len(record.moves))[:5]]


def _digest(game: PlayedGame) -> str:
    start = empty_position(game.config)
    start.swap_rule = game.swap_rule
    return game_digest(game.config, start, game.moves)


def _rows(path: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def _accepted(path: Path) -> dict[str, str | None]:
    """Ids and digests of the games in a database; the gate accepts all of them."""
    with GameDatabase(path) as database:
        verdicts = [judged.verdict for judged in judged_games(database, Gate())]
    assert [verdict for verdict in verdicts if verdict.reason is not None] == []
    assert all(verdict.hashes_checked > 2 * verdict.moves for verdict in verdicts)
    return {verdict.game_id: verdict.digest for verdict in verdicts}


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_game_is_canonical_and_has_the_digest_of_the_game_played(
    name: str, recorded: Callable[[str], Path], tmp_path: Path
) -> None:
    with GameDatabase(recorded(name)) as database:
        records = sorted(database.games(), key=lambda record: len(record.moves))[:2]
    games = [played(record) for record in records]
    with GameRecorder(tmp_path / "games.db", games[0].config, ABOUT) as recorder:
        assert [recorder.write(game) for game in games] == [True] * len(games)
    assert _accepted(tmp_path / "games.db") == {game.game_id: _digest(game) for game in games}
    columns = "winner, total_moves, total_turns, board_type, num_players, game_status, schema_version"
    query = f"SELECT {columns} FROM games WHERE game_id IN ({', '.join(repr(game.game_id) for game in games)}) ORDER BY game_id"
    assert _rows(tmp_path / "games.db", query) == _rows(recorded(name), query)
    counts = "SELECT game_id, player_number, final_eliminated_rings, final_territory_spaces, final_rings_in_hand FROM game_players"
    query = f"{counts} WHERE game_id IN ({', '.join(repr(game.game_id) for game in games)}) ORDER BY 1, 2"
    assert _rows(tmp_path / "games.db", query) == _rows(recorded(name), query)


def test_the_ending_is_that_of_the_rules(recorded: Callable[[str], Path]) -> None:
    """RingRift names the ending by a guess from the last state, which knows no rounds: there some of its names are wrong."""
    found: Counter[tuple[str, str]] = Counter()
    for name in RECORDED:
        with GameDatabase(recorded(name)) as database:
            for record in sorted(database.games(), key=lambda record: len(record.moves))[:5]:
                ours = str(game_rows(played(record)).game["termination_reason"])
                found[record.row["termination_reason"].split(":")[-1], ours.removeprefix("status:completed:")] += 1
    assert {theirs: ours for theirs, ours in found if theirs != ours} == {"stalemate": "lps", "lps": "stalemate"}
    assert {ours for _, ours in found} == {"elimination", "territory", "lps", "stalemate", "resign", "timeout"}
    assert found["lps", "stalemate"] == 1


def test_a_new_database_has_ringrifts_schema(recorded: Callable[[str], Path], tmp_path: Path) -> None:
    def schema(path: Path) -> list[tuple[object, ...]]:
        return [
            (kind, name, re.sub(r"\s+|--[^\n]*", "", str(text)))
            for kind, name, text in _rows(path, "SELECT type, name, sql FROM sqlite_master ORDER BY type, name")
        ]

    GameRecorder(tmp_path / "games.db", SQUARE8, ABOUT).close()
    assert schema(tmp_path / "games.db") == schema(recorded("square8_2p_full"))
    assert _rows(tmp_path / "games.db", "PRAGMA journal_mode") == [("wal",)]
    assert _rows(tmp_path / "games.db", "PRAGMA user_version") == [(0,)]
    assert ("schema_version", "18") in _rows(tmp_path / "games.db", "SELECT key, value FROM schema_metadata")


def test_columns_hold_what_ringrift_holds_in_them(recorded: Callable[[str], Path], tmp_path: Path) -> None:
    """History, snapshots and moves of a game that RingRift recorded in full, column by column."""
    with GameDatabase(recorded("square8_2p_full")) as database:
        game = played(next(database.games()))
    with GameRecorder(tmp_path / "games.db", SQUARE8, ABOUT) as recorder:
        recorder.write(game)
    for query in (
        "SELECT move_number, player, phase_before, phase_after, status_before, status_after, state_hash_before, state_hash_after, "
        "json(progress_before_json), json(progress_after_json) FROM game_history_entries ORDER BY 1",
        "SELECT move_number, turn_number, player, phase, move_type, think_time_ms FROM game_moves ORDER BY 1",
        "SELECT move_number, state_hash, compressed FROM game_state_snapshots ORDER BY 1",
        "SELECT player_number, player_type, ai_type FROM game_players ORDER BY 1",
    ):
        assert _rows(tmp_path / "games.db", query) == _rows(recorded("square8_2p_full"), query)


def test_a_database_says_who_played_and_with_which_seeds(square8_games: list[PlayedGame], tmp_path: Path) -> None:
    players = (Seat("mcts", 5, "sims-64", 11), Seat("heuristic", seed=12))
    began = datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))
    game = replace(
        square8_games[0],
        players=players,
        started=began,
        finished=datetime(2026, 1, 1, 0, 0, 3, tzinfo=UTC),
        seed=2**64 - 1,
        think_ms=[10] * len(square8_games[0].moves),
        search_stats={3: {"root_value": 0.5}},
    )
    with GameRecorder(tmp_path / "games.db", SQUARE8, ABOUT) as recorder:
        recorder.write(game)
        assert recorder.digests() == {game.game_id: _digest(game)}
    columns = "created_at, completed_at, duration_ms, rng_seed, source, engine_mode, metadata_json"
    ((created, completed, duration, seed, source, mode, text),) = _rows(tmp_path / "games.db", f"SELECT {columns} FROM games")
    assert (created, completed, duration) == ("2026-01-01T00:00:00.000000", "2026-01-01T00:00:03.000000", 3000)
    assert (seed, source, mode) == (None, "ringrift_dagster_selfplay", "mixed")
    metadata = orjson.loads(str(text))
    assert metadata["rng_seed"] == 2**64 - 1
    assert metadata["game_digest"] == _digest(game)
    assert metadata["engine_version"] == "test"
    assert (metadata["player_1_ai_type"], metadata["player_1_difficulty"], metadata["player_1_profile_id"]) == (
        "mcts",
        5,
        "sims-64",
    )
    assert metadata["player_2_rng_seed"] == 12
    assert "player_2_difficulty" not in metadata
    assert _rows(
        tmp_path / "games.db", "SELECT ai_type, ai_difficulty, ai_profile_id FROM game_players ORDER BY player_number"
    ) == [
        ("mcts", 5, "sims-64"),
        ("heuristic", None, None),
    ]
    assert _rows(tmp_path / "games.db", "SELECT timestamp, think_time_ms FROM game_moves WHERE move_number = 1") == [
        ("2026-01-01T00:00:00.020000", 10)
    ]
    assert _rows(tmp_path / "games.db", "SELECT search_stats_json FROM game_moves WHERE search_stats_json IS NOT NULL") == [
        ('{"root_value":0.5}',)
    ]
    facts = dict(_rows(tmp_path / "games.db", "SELECT key, value FROM schema_metadata"))
    assert facts == {
        "schema_version": "18",
        "ringrift_dagster_config": "square8_2p",
        "ringrift_dagster_seed": "1",
        "ringrift_dagster_ai": "random",
    }


def test_recorded_probabilities_give_the_same_targets(recorded: Callable[[str], Path], tmp_path: Path) -> None:
    def targets(record: GameRecord) -> list[tuple[int, list[int], list[float]]]:
        game = played(record)
        start = empty_position(game.config)
        return [
            (index, chosen.tolist(), weights.tolist())
            for index, (chosen, weights) in soft_targets(game.config, start, game.moves, record.probabilities)
        ]

    with GameDatabase(recorded("square8_2p_probs")) as database:
        theirs = {record.game_id: record for record in database.games()}
    with GameRecorder(tmp_path / "games.db", SQUARE8, ABOUT) as recorder:
        for record in theirs.values():
            recorder.write(played(record))
    with GameDatabase(tmp_path / "games.db") as database:
        for record in database.games():
            assert targets(record) == targets(theirs[record.game_id])
            assert targets(record)


def test_the_same_game_always_gives_the_same_rows(square8_games: list[PlayedGame]) -> None:
    assert game_rows(square8_games[0]) == game_rows(square8_games[0])


def test_a_game_that_is_there_already_is_left_alone(square8_games: list[PlayedGame], tmp_path: Path) -> None:
    game, other = square8_games[:2]
    with GameRecorder(tmp_path / "games.db", SQUARE8, ABOUT) as recorder:
        assert recorder.write(game)
        assert not recorder.write(replace(game, finished=game.finished + timedelta(seconds=1)))
        with pytest.raises(RecordingRefused, match=f"has another game {game.game_id} .*: write to another file"):
            recorder.write(replace(other, game_id=game.game_id))
    assert _accepted(tmp_path / "games.db") == {game.game_id: _digest(game)}
    assert _rows(tmp_path / "games.db", "SELECT completed_at FROM games") == [(game.finished.isoformat(),)]


def test_a_database_is_continued_by_who_says_the_same_about_it(square8_games: list[PlayedGame], tmp_path: Path) -> None:
    path = tmp_path / "new" / "games.db"
    for game in square8_games[:2]:
        with GameRecorder(path, SQUARE8, ABOUT) as recorder:
            recorder.write(game)
    before = path.read_bytes()
    for config, about, words in (
        (SQUARE8, {**ABOUT, "seed": "2"}, "was made with seed 1, not 2"),
        (SQUARE8, {"seed": "1"}, "was made with ai random, not None"),
        (SQUARE8, {**ABOUT, "rules_version": "3"}, "was made with rules version None, not 3"),
        (Config("hex8", 2), ABOUT, "was made with config square8_2p, not hex8_2p"),
    ):
        with pytest.raises(RecordingRefused, match=words):
            GameRecorder(path, config, about)
    assert path.read_bytes() == before
    assert _accepted(path).keys() == {game.game_id for game in square8_games[:2]}


def test_another_kind_of_file_is_refused_and_left_as_it_is(recorded: Callable[[str], Path], tmp_path: Path) -> None:
    path = tmp_path / "games.db"
    for content, words in (
        (recorded("square8_2p_full").read_bytes(), "was not made by ringrift_dagster"),
        (b"this is a text, and no database at all" * 100, "is no SQLite database"),
    ):
        path.write_bytes(content)
        with pytest.raises(RecordingRefused, match=words) as refused:
            GameRecorder(path, SQUARE8, ABOUT)
        assert "\n" not in str(refused.value)
        assert path.read_bytes() == content
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE other (x)")
    with pytest.raises(RecordingRefused, match="is another kind of database"):
        GameRecorder(path, SQUARE8, ABOUT)
    path.unlink()
    GameRecorder(path, SQUARE8, ABOUT).close()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE schema_metadata SET value = '19' WHERE key = 'schema_version'")
    with pytest.raises(RecordingRefused, match="has schema version 19, not 18"):
        GameRecorder(path, SQUARE8, ABOUT)
    with pytest.raises(RecordingError, match="cannot be written"):
        GameRecorder(tmp_path / "games.db" / "below.db", SQUARE8, ABOUT)


def test_a_file_without_content_is_new(square8_games: list[PlayedGame], tmp_path: Path) -> None:
    (tmp_path / "games.db").touch()
    with GameRecorder(tmp_path / "games.db", SQUARE8, ABOUT) as recorder:
        recorder.write(square8_games[0])
    assert len(_accepted(tmp_path / "games.db")) == 1


def test_a_game_of_another_config_is_refused(square8_games: list[PlayedGame], tmp_path: Path) -> None:
    with (
        GameRecorder(tmp_path / "games.db", Config("hex8", 2), ABOUT) as recorder,
        pytest.raises(RecordingRefused, match=r"holds hex8_2p games, game .* is square8_2p"),
    ):
        recorder.write(square8_games[0])


def _first_moves(game: PlayedGame, count: int) -> PlayedGame:
    return replace(game, moves=PackedMoves(game.moves.rows[:count], game.moves.cells))


def _with_illegal_move(game: PlayedGame) -> PlayedGame:
    rows = game.moves.rows.copy()
    rows[np.flatnonzero(rows[:, m.TYPE] == MoveType.MOVE_STACK)[-1], m.TO] = 0
    return replace(game, moves=PackedMoves(rows, game.moves.cells))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda game: _first_moves(game, len(game.moves) - 1), r"not finished after \d+ moves"),
        (lambda game: _first_moves(game, 4), "4 moves, a game has at least 5"),
        (_with_illegal_move, r"move \d+ is illegal"),
        (lambda game: replace(game, players=game.players * 2), "4 seats, square8_2p has 2"),
        (lambda game: replace(game, think_ms=[1]), "1 thinking times for"),
    ],
)
def test_what_is_no_finished_legal_game_is_not_recorded(
    change: Callable[[PlayedGame], PlayedGame], words: str, square8_games: list[PlayedGame], tmp_path: Path
) -> None:
    with GameRecorder(tmp_path / "games.db", SQUARE8, ABOUT) as recorder:
        with pytest.raises(UnrecordableGame, match=words):
            recorder.write(change(square8_games[0]))
        assert recorder.digests() == {}
        assert recorder.write(square8_games[0])


def test_a_full_disk_costs_the_game_and_nothing_else(square8_games: list[PlayedGame], tmp_path: Path) -> None:
    path = tmp_path / "games.db"
    with GameRecorder(path, SQUARE8, ABOUT) as recorder:
        recorder.write(square8_games[0])
        (pages,) = recorder._connection.execute("PRAGMA page_count").fetchone()
        recorder._connection.execute(f"PRAGMA max_page_count = {pages + 3}")
        with pytest.raises(RecordingError, match="the disk is full: make room and resume"):
            recorder.write(square8_games[1])
        assert recorder.digests().keys() == {square8_games[0].game_id}
        recorder._connection.execute("PRAGMA max_page_count = 1000000")
        assert recorder.write(square8_games[1])
    assert len(_accepted(path)) == 2


def test_a_file_that_may_not_grow_costs_the_game_and_nothing_else(square8_games: list[PlayedGame], tmp_path: Path) -> None:
    path = tmp_path / "games.db"
    ended = _child(
        """
        import resource, signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        recorder.write(rows[0])
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        try:
            recorder.write(rows[1])
        except recording.RecordingError as error:
            print(error)
        """,
        path,
        square8_games,
    )
    words, _ = ended.communicate()
    assert "the disk does not take it" in words or "the disk is full" in words
    assert words.count("\n") == 1
    with GameRecorder(path, SQUARE8, ABOUT) as recorder:
        assert recorder.write(square8_games[1])
    assert len(_accepted(path)) == 2


def test_a_database_that_another_program_has_locked_gives_one_line(
    square8_games: list[PlayedGame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "LOCK_TIMEOUT_SECONDS", 0.0)
    path = tmp_path / "games.db"
    with GameRecorder(path, SQUARE8, ABOUT) as recorder:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(RecordingError, match="another program has locked it"):
                recorder.write(square8_games[0])
        assert recorder.write(square8_games[0])
    assert len(_accepted(path)) == 1


def test_a_database_can_be_read_while_it_is_written(square8_games: list[PlayedGame], tmp_path: Path) -> None:
    path = tmp_path / "games.db"
    with GameRecorder(path, SQUARE8, ABOUT) as recorder:
        for count, game in enumerate(square8_games, start=1):
            recorder.write(game)
            assert len(_accepted(path)) == count


_CHILD = """
import dataclasses, pickle, sys
from pathlib import Path
from ringrift_dagster.games import recording
from ringrift_dagster.games.config import Config

rows = pickle.loads(sys.stdin.buffer.read(int(sys.argv[2])))
recorder = recording.GameRecorder(Path(sys.argv[1]), Config("square8", 2), {about})
"""


def _child(program: str, path: Path, games: list[PlayedGame]) -> subprocess.Popen[str]:
    """A process with a recorder of `path` and the rows of the games, which is what crosses processes."""
    rows = pickle.dumps([game_rows(game) for game in games])
    process = subprocess.Popen(
        [sys.executable, "-c", _CHILD.format(about=ABOUT) + textwrap.dedent(program), str(path), str(len(rows))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        text=True,
    )
    assert process.stdin is not None
    process.stdin.buffer.write(rows)
    process.stdin.buffer.flush()
    return process


def _lines(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stdout is not None
    return iter(process.stdout.readline, "")


def test_a_database_that_was_removed_takes_no_more_games(square8_games: list[PlayedGame], tmp_path: Path) -> None:
    path = tmp_path / "games.db"
    with GameRecorder(path, square8_games[0].config, {}) as recorder:
        recorder.write(square8_games[0])
        for replace in (path.unlink, path.touch):
            replace()
            with pytest.raises(RecordingError, match="was removed or replaced"):
                recorder.write(square8_games[1])


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE games SET metadata_json = NULL",
        "UPDATE games SET metadata_json = json_set(metadata_json, '$.game_digest', 5)",
        "UPDATE games SET game_status = 'in_progress'",
        "DELETE FROM game_moves WHERE move_number > 3",
    ],
)
def test_a_game_that_is_no_longer_whole_is_not_taken_for_written(
    damage: str, square8_games: list[PlayedGame], tmp_path: Path
) -> None:
    path = tmp_path / "games.db"
    with GameRecorder(path, SQUARE8, ABOUT) as recorder:
        recorder.write(square8_games[0])
        recorder._connection.execute(damage)
        with pytest.raises(RecordingRefused, match=r"game \S+ in it is damaged: write to another file$"):
            recorder.digests()


def test_a_key_that_is_no_text_is_none_of_ours(square8_games: list[PlayedGame], tmp_path: Path) -> None:
    path = tmp_path / "games.db"
    with GameRecorder(path, SQUARE8, ABOUT) as recorder:
        recorder._connection.execute("INSERT INTO schema_metadata VALUES (x'00', '1')")
    with GameRecorder(path, SQUARE8, ABOUT) as recorder:
        assert recorder.write(square8_games[0])


def test_two_links_to_one_database_have_one_writer(tmp_path: Path) -> None:
    path, link = tmp_path / "games.db", tmp_path / "link.db"
    link.symlink_to(path)
    with (
        GameRecorder(path, SQUARE8, ABOUT),
        pytest.raises(RecordingRefused, match="another process is writing games to it"),
    ):
        GameRecorder(link, SQUARE8, ABOUT)


def test_of_two_writers_the_second_is_refused(square8_games: list[PlayedGame], tmp_path: Path) -> None:
    path = tmp_path / "games.db"
    first = _child("print('open', flush=True); sys.stdin.read(); recorder.write(rows[0])", path, square8_games)
    try:
        assert next(_lines(first)) == "open\n"
        with pytest.raises(RecordingRefused, match="another process is writing games to it") as refused:
            GameRecorder(path, SQUARE8, ABOUT)
        assert "\n" not in str(refused.value)
    finally:
        first.communicate()
    with GameRecorder(path, SQUARE8, ABOUT) as second:
        assert not second.write(square8_games[0])
        assert second.write(square8_games[1])
    assert len(_accepted(path)) == 2


@pytest.mark.parametrize("table", ["moves", "history", "snapshots", "players"])
def test_a_writer_killed_within_a_game_leaves_whole_games(table: str, square8_games: list[PlayedGame], tmp_path: Path) -> None:
    path = tmp_path / "games.db"
    writer = _child(
        f"""
        def half(values):
            yield from values[: len(values) // 2]
            print("in the middle", flush=True)
            sys.stdin.read()

        class Half(list):
            def __iter__(self):
                return half(self[:])

        recorder.write(rows[0])
        recorder.write(rows[1])
        recorder.write(dataclasses.replace(rows[2], {table}=Half(rows[2].{table})))
        """,
        path,
        square8_games,
    )
    assert next(_lines(writer)) == "in the middle\n"
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    with GameRecorder(path, SQUARE8, ABOUT) as recorder:
        assert recorder.digests() == {game.game_id: _digest(game) for game in square8_games[:2]}
        assert [recorder.write(game) for game in square8_games] == [False, False, True, True, True]
    assert _accepted(path) == {game.game_id: _digest(game) for game in square8_games}
    assert _rows(path, "PRAGMA foreign_key_check") == []


def test_a_writer_killed_between_games_is_continued(square8_games: list[PlayedGame], tmp_path: Path) -> None:
    path = tmp_path / "games.db"
    writer = _child("for row in rows: recorder.write(row); print(row.game_id, flush=True)", path, square8_games)
    lines = _lines(writer)
    written = [next(lines).strip() for _ in range(3)]
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    with GameRecorder(path, SQUARE8, ABOUT) as recorder:
        assert set(written) <= recorder.digests().keys()
        for game in square8_games:
            recorder.write(game)
    assert _accepted(path) == {game.game_id: _digest(game) for game in square8_games}


def test_a_writer_killed_while_it_makes_the_tables_is_begun_anew(square8_games: list[PlayedGame], tmp_path: Path) -> None:
    path = tmp_path / "games.db"
    writer = _child(
        """
        recorder.close()
        Path(sys.argv[1]).unlink()

        def half(script):
            for number, statement in enumerate(statements(script)):
                if number == 20:
                    print("in the middle", flush=True)
                    sys.stdin.read()
                yield statement

        statements, recording._statements = recording._statements, half
        recording.GameRecorder(Path(sys.argv[1]), Config("square8", 2), {})
        """,
        path,
        square8_games,
    )
    assert next(_lines(writer)) == "in the middle\n"
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    with GameRecorder(path, SQUARE8, ABOUT) as recorder:
        assert recorder.write(square8_games[0])
    assert len(_accepted(path)) == 1


def test_rows_made_elsewhere_are_written_as_those_made_here(square8_games: list[PlayedGame], tmp_path: Path) -> None:
    rows: GameRows = game_rows(square8_games[0])
    with GameRecorder(tmp_path / "games.db", SQUARE8, ABOUT) as recorder:
        assert recorder.write(rows)
        assert not recorder.write(square8_games[0])
