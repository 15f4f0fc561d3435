"""RingRift's own results are shown with what they lack."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringrift_dagster.games.config import CONFIG_KEYS
from ringrift_dagster.models.evaluation.imported import LACKS, ImportedEvidence, ImportRefused, read_evidence

GAUNTLET = {
    "total_games": 4,
    "total_draws": 0,
    "win_rate": 0.25,
    "opponent_results": {"random": {"wins": 1, "games": 4, "win_rate": 0.25}},
    "estimated_elo": 209.15149811213502,
    "model_id": "",
}
"""The result of a gauntlet of RingRift's, without the fields that are empty in it."""
FORM_A = (
    "CREATE TABLE match_history (id INTEGER PRIMARY KEY, participant_ids TEXT, winner TEXT, timestamp REAL, game_id TEXT UNIQUE{})"
)
FORM_B = "CREATE TABLE match_history (id TEXT PRIMARY KEY, participant_ids TEXT, winner_id TEXT, timestamp TEXT{})"
CONFIG = ", board_type TEXT, num_players INTEGER"
PAIR = json.dumps(["net:gumbel_mcts:b200", "none:heuristic:d2"])


def gauntlet(tmp_path: Path, name: str, **changes: object) -> Path:
    path = tmp_path / name
    path.write_text(json.dumps(GAUNTLET | changes))
    return path


def elo_database(tmp_path: Path, schema: str, rows: list[tuple[object, ...]], *others: str) -> Path:
    path = tmp_path / "unified_elo.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(schema)
        for statement in others:
            connection.execute(statement)
        for row in rows:
            connection.execute(f"INSERT INTO match_history VALUES ({', '.join('?' * len(row))})", row)
    return path


def test_a_gauntlet(tmp_path: Path) -> None:
    (evidence,) = read_evidence(gauntlet(tmp_path, "tiny_square8_3p.gauntlet.json"))
    assert evidence == ImportedEvidence(
        source="gauntlet",
        model="tiny_square8_3p",
        opponent="random",
        config="square8_3p",
        games=4,
        wins=1,
        defeats=3,
        draws=0,
        lacks=("no_hash", "no_seats", "no_games", "no_time", "draws_as_defeats"),
        elo=209.15149811213502,
    )


def test_a_gauntlet_of_no_config(tmp_path: Path) -> None:
    (evidence,) = read_evidence(gauntlet(tmp_path, "result.json", model_id="net"))
    assert (evidence.model, evidence.config, "no_config" in evidence.lacks) == ("net", None, True)


@pytest.mark.parametrize("form", ["a", "b"])
def test_both_forms_of_an_elo_database(form: str, tmp_path: Path) -> None:
    if form == "a":
        rows: list[tuple[object, ...]] = [
            (1, PAIR, "net:gumbel_mcts:b200", 1000.0, "g1", "hex8", 2),
            (2, PAIR, "none:heuristic:d2", 2000.0, "g2", "hex8", 2),
            (3, PAIR, None, 1500.0, "g3", "hex8", 2),
        ]
        path = elo_database(tmp_path, FORM_A.format(CONFIG), rows)
    else:
        rows = [
            ("a", PAIR, "net:gumbel_mcts:b200", "1970-01-01T00:16:40", "hex8", 2),
            ("b", PAIR, "none:heuristic:d2", "1970-01-01T02:33:20+02:00", "hex8", 2),
            ("c", PAIR, None, "unknown", "hex8", 2),
        ]
        path = elo_database(tmp_path, FORM_B.format(CONFIG), rows)
    model, opponent = read_evidence(path)
    assert (model.model, model.opponent, model.config) == ("net:gumbel_mcts:b200", "none:heuristic:d2", "hex8_2p")
    assert (model.games, model.wins, model.defeats, model.draws, model.at) == (3, 1, 1, 1, 2000.0)
    assert model.lacks == ("no_hash", "no_seats", "no_games")
    assert (opponent.wins, opponent.defeats) == (1, 1)


def test_a_hash_that_the_database_has_is_kept(tmp_path: Path) -> None:
    path = elo_database(
        tmp_path,
        FORM_A.format(CONFIG),
        [(1, json.dumps(["net", "other"]), "net", 1000.0, "g1", "hex8", 2)],
        "CREATE TABLE model_identities (model_path TEXT, content_sha256 TEXT)",
        f"INSERT INTO model_identities VALUES ('models/net.pth', '{'a' * 64}'), ('models/other.pth', 'md5')",
    )
    model, other = read_evidence(path)
    assert (model.sha256, other.sha256) == ("a" * 64, None)
    assert "no_hash" not in model.lacks


def test_matches_of_another_config_are_left_out(tmp_path: Path) -> None:
    """RingRift once counted matches of one config for the models of another."""
    rows: list[tuple[object, ...]] = [
        (1, json.dumps(["canonical_hex8_2p", "none:random:d1"]), "none:random:d1", 1000.0, "g1", "square8", 2),
        (2, json.dumps(["canonical_hex8_2p", "canonical_square8_2p"]), None, 1000.0, "g2", None, None),
        (3, json.dumps(["canonical_hex8_2p", "none:random:d1"]), "canonical_hex8_2p", 1000.0, "g3", None, None),
    ]
    model, _ = read_evidence(elo_database(tmp_path, FORM_A.format(CONFIG), rows))
    assert (model.model, model.config, model.games, model.wins) == ("canonical_hex8_2p", "hex8_2p", 1, 1)


def test_without_columns_for_the_config_it_is_unknown(tmp_path: Path) -> None:
    model, _ = read_evidence(elo_database(tmp_path, FORM_A.format(""), [(1, PAIR, None, 5.0, "g")]))
    assert (model.config, "no_config" in model.lacks) == (None, True)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"opponent_results": 3}',
        b'{"opponent_results": {"random": {"wins": 5, "games": 4}}}',
        b"[" * 100_000,
    ],
    ids=["empty", "cut off", "a list", "nothing", "a number", "more wins than games", "deep"],
)
def test_what_is_no_result_is_refused_in_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_bytes(content)
    with pytest.raises(ImportRefused) as refused:
        read_evidence(path)
    assert len(str(refused.value).splitlines()) == 1


def test_a_database_without_matches_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImportRefused, match="match_history"):
        read_evidence(elo_database(tmp_path, "CREATE TABLE other (id INTEGER)", []))


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, reason in ((tmp_path / "nothing", "no such file"), (tmp_path / "pipe", "no regular file"), (tmp_path, "no regular")):
        with pytest.raises(ImportRefused, match=reason):
            read_evidence(path)


def test_a_view_in_the_place_of_the_matches_is_refused(tmp_path: Path) -> None:
    """It could take any time to read."""
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n) SELECT i participant_ids, i winner, i timestamp FROM n"
    with pytest.raises(ImportRefused, match="match_history"):
        read_evidence(elo_database(tmp_path, f"CREATE VIEW match_history AS {endless}", []))


@pytest.mark.parametrize("ids", [None, "", "net", "[", "3", '["one"]', '["a", "b", "c"]', "[[[]]]", b"\x00"])
def test_participants_of_other_kinds_are_no_pair(ids: object, tmp_path: Path) -> None:
    assert read_evidence(elo_database(tmp_path, FORM_A.format(CONFIG), [(1, ids, None, 5.0, "g", "hex8", 2)])) == []


def test_matches_of_the_oldest_form_name_their_two_participants(tmp_path: Path) -> None:
    schema = (
        "CREATE TABLE match_history (participant_a TEXT, participant_b TEXT, participant_ids TEXT, winner TEXT, winner_id TEXT, "
    )
    rows: list[tuple[object, ...]] = [
        ("net", "other", None, None, "net", 5.0, "hex8", 2),
        ("net", "other", json.dumps(["net", "other"]), "other", "other", 5.0, "hex8", 2),
        ("net", None, None, "net", "net", 5.0, "hex8", 2),
    ]
    model, _ = read_evidence(elo_database(tmp_path, schema + "timestamp REAL, board_type TEXT, num_players INTEGER)", rows))
    assert (model.model, model.opponent, model.games, model.wins, model.defeats) == ("net", "other", 2, 1, 1)


def test_one_name_with_two_hashes_has_none(tmp_path: Path) -> None:
    """Which of two files of one name played is not known."""
    path = elo_database(
        tmp_path,
        FORM_A.format(CONFIG),
        [(1, json.dumps(["net", "other"]), "net", 1000.0, "g1", "hex8", 2)],
        "CREATE TABLE model_identities (model_path TEXT, content_sha256 TEXT)",
        f"INSERT INTO model_identities VALUES ('a/net.pth', '{'a' * 64}'), ('b/net.pth', '{'b' * 64}')",
    )
    model, _ = read_evidence(path)
    assert (model.sha256, "no_hash" in model.lacks) == (None, True)


def test_ratings_of_a_database_are_shown_with_its_matches(tmp_path: Path) -> None:
    path = elo_database(
        tmp_path,
        FORM_A.format(CONFIG),
        [(1, json.dumps(["net", "other"]), "net", 1000.0, "g1", "hex8", 2)],
        "CREATE TABLE elo_ratings (participant_id TEXT, board_type TEXT, num_players INTEGER, rating REAL)",
        "INSERT INTO elo_ratings VALUES ('net', 'hex8', 2, 1650.0), ('other', 'square8', 2, 1400.0)",
    )
    model, other = read_evidence(path)
    assert (model.elo, other.elo) == (1650.0, None)


RATING = {"model_id": "canonical_hex8_2p", "rating": 1633.5, "games_played": 40, "board_type": "hex8", "num_players": 2}
COUNTED = {"wins": 25, "losses": 14, "draws": 1}
LACKING = ("no_hash", "no_opponent", "no_results", "no_seats", "no_games", "no_time")


@pytest.mark.parametrize(
    ("export", "games", "wins", "lacks"),
    [
        ([{"rank": 1, "model_id": "canonical_hex8_2p", "rating": 1633.5, "games": 40}], 40, None, LACKING),
        ([{**RATING, **COUNTED, "last_update": "2026-01-02T03:04:05"}], 40, 25, ("no_hash", "no_opponent", "no_seats", "no_games")),
        ([{**RATING, "wins": 25}], 40, None, LACKING),
        (
            {"timestamp": "2026-01-02", "players": [{"name": "canonical_hex8_2p", "elo": 1633.5, **COUNTED}], "matches": []},
            40,
            25,
            ("no_hash", "no_opponent", "no_seats", "no_games"),
        ),
    ],
    ids=["leaderboard", "tournament", "half of the results", "estimate"],
)
def test_exported_ratings(export: object, games: int, wins: int | None, lacks: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "elo.json"
    path.write_text(json.dumps(export))
    (evidence,) = read_evidence(path)
    assert (evidence.source, evidence.model, evidence.opponent) == ("elo_export", "canonical_hex8_2p", None)
    assert (evidence.config, evidence.elo, evidence.games, evidence.wins) == ("hex8_2p", 1633.5, games, wins)
    assert evidence.lacks == lacks


def test_a_history_of_ratings_counts_with_its_last_line(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    path.write_text(
        "model_id,rating,games_played,timestamp,board_type,num_players\r\n"
        "net,1500.0,10,2026-01-01 00:00:00,hex8,2\r\n"
        '"net",1520.5,20,2026-01-02 00:00:00,hex8,2\r\n'
        "net,1400,5,2026-01-01 00:00:00,square8,2\r\n"
        "old,1400,,,,\r\n"
    )
    hexagonal, square, unknown = read_evidence(path)
    assert (hexagonal.elo, hexagonal.games, hexagonal.config, hexagonal.at) == (1520.5, 20, "hex8_2p", 1767312000.0)
    assert (square.elo, square.config) == (1400, "square8_2p")
    assert (unknown.games, unknown.config, unknown.lacks) == (None, None, ("no_hash", "no_config", *LACKING[1:]))


@pytest.mark.parametrize(
    "content",
    [
        "timestamp,hex8_2p,square8_2p\n2026-01-01,1500,1600\n",
        "model_id,rating\n",
        "model_id,rating\nnet,high\n",
        "model_id,rating\nnet,1500,7\n",
        'model_id,rating\n"net,1500\n',
        "model_id,rating\nnet,nan\n",
        "no results at all\n",
        '[{"rating": 1500}]',
        '[{"model_id": 7, "rating": 1500}]',
        '[{"model_id": "net", "rating": Infinity}]',
        '[["net", 1500]]',
        '{"ratings": {"hex8_2p": {"elo": 1500}}}',
        "[]",
    ],
)
def test_an_export_that_names_no_rated_models_is_refused_in_one_line(content: str, tmp_path: Path) -> None:
    path = tmp_path / "export"
    path.write_text(content)
    with pytest.raises(ImportRefused) as refused:
        read_evidence(path)
    assert len(str(refused.value).splitlines()) == 1


def test_names_are_made_fit_to_be_shown(tmp_path: Path) -> None:
    path = tmp_path / "elo.json"
    path.write_text(json.dumps([{"model_id": "\x1b[2Jnet\n\ud800" + "x" * 1000, "rating": 1}]))
    (evidence,) = read_evidence(path)
    assert evidence.model == "?[2Jnet??" + "x" * 191


def test_the_result_of_a_real_gauntlet() -> None:
    (evidence,) = read_evidence(Path(__file__).parents[2] / "data" / "evidence" / "tiny_square8_3p.gauntlet.json")
    assert (evidence.config, evidence.opponent, evidence.games, evidence.wins) == ("square8_3p", "random", 4, 1)
    assert "draws_as_defeats" in evidence.lacks


def test_every_code_is_explained() -> None:
    assert {*LACKING, "no_config", "draws_as_defeats"} == LACKS.keys()


# Damaged files


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged")


@pytest.fixture(scope="module")
def whole_database(directory: Path) -> bytes:
    path = elo_database(
        directory,
        FORM_A.format(CONFIG),
        [(number, PAIR, "net:gumbel_mcts:b200", 1000.0, f"g{number}", "hex8", 2) for number in range(20)],
        "CREATE TABLE model_identities (model_path TEXT, content_sha256 TEXT)",
        f"INSERT INTO model_identities VALUES ('models/net.pth', '{'a' * 64}')",
        "CREATE TABLE elo_ratings (participant_id TEXT, board_type TEXT, num_players INTEGER, rating REAL)",
        "INSERT INTO elo_ratings VALUES ('net:gumbel_mcts:b200', 'hex8', 2, 1650.0)",
    )
    return path.read_bytes()


def read_or_refused(content: bytes, directory: Path) -> None:
    """Whatever is read can be written as JSON, and fits together; whatever is refused, in one line."""
    path = directory / "evidence"
    path.write_bytes(content)
    try:
        evidence = read_evidence(path)
    except ImportRefused as refused:
        assert len(str(refused).splitlines()) == 1
        return
    for entry in evidence:
        json.dumps(entry.to_dict(), allow_nan=False).encode()
        assert entry.model.isprintable()
        assert entry.config is None or entry.config in CONFIG_KEYS
        assert set(entry.lacks) <= LACKS.keys()
        if entry.wins is not None:
            assert (entry.defeats or 0) >= 0
            assert "no_results" not in entry.lacks


RESULTS = ["opponent_results", "random", "wins", "games", "losses", "draws", "model_id", "config_key", "estimated_elo"]
RATINGS = ["players", "name", "elo", "rating", "board_type", "num_players", "timestamp", "last_update", "ratings", "games_played"]
KEYS = st.sampled_from([*RESULTS, *RATINGS])
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["hex8", "net", "9" * 400])
VALUES = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=6), max_leaves=12)


@settings(max_examples=40)
@given(value=st.dictionaries(KEYS, VALUES) | st.lists(st.dictionaries(KEYS, PLAIN), max_size=3))
def test_any_json_is_read_or_refused(value: object, directory: Path) -> None:
    read_or_refused(json.dumps(value).encode(), directory)


@given(
    content=st.binary(max_size=60) | st.text(max_size=60).map(str.encode), start=st.sampled_from([b"", b"{", b"[", b"model,elo\n"])
)
def test_any_bytes_are_read_or_refused(content: bytes, start: bytes, directory: Path) -> None:
    read_or_refused(start + content, directory)


@given(data=st.data())
def test_a_damaged_database_is_read_or_refused(data: st.DataObject, whole_database: bytes, directory: Path) -> None:
    at = data.draw(st.integers(16, len(whole_database) - 1))
    change = data.draw(st.binary(min_size=1, max_size=12))
    end = data.draw(st.sampled_from([len(whole_database), 4096, at + 20]))
    read_or_refused((whole_database[:at] + change + whole_database[at + len(change) :])[:end], directory)


CELLS = st.none() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(max_size=8) | st.binary(max_size=8)


@settings(max_examples=50)
@given(rows=st.lists(st.tuples(CELLS | st.just(PAIR), CELLS, CELLS, CELLS | st.just("hex8"), CELLS | st.just(2)), max_size=5))
def test_a_database_with_any_values_is_read_or_refused(rows: list[tuple[object, ...]], directory: Path) -> None:
    path = directory / "any.db"
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE match_history (participant_ids, winner, timestamp, board_type, num_players)")
        connection.executemany("INSERT INTO match_history VALUES (?, ?, ?, ?, ?)", rows)
    read_or_refused(path.read_bytes(), directory)
