"""RingRift's own results are shown with what they lack."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

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
    with pytest.raises(ImportRefused, match="No such file"):
        read_evidence(tmp_path / "nothing")


@pytest.mark.parametrize("ids", [None, "", "net", "[", "3", '["one"]', '["a", "b", "c"]', "[[[]]]", b"\x00"])
def test_participants_of_other_kinds_are_no_pair(ids: object, tmp_path: Path) -> None:
    assert read_evidence(elo_database(tmp_path, FORM_A.format(CONFIG), [(1, ids, None, 5.0, "g", "hex8", 2)])) == []


def test_every_code_is_explained() -> None:
    assert {"no_hash", "no_config", "no_seats", "no_games", "no_time", "draws_as_defeats"} == LACKS.keys()
