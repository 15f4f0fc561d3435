"""Findings: what is said of a game's AIs, and that no verdict depends on it."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringrift_dagster.ai.findings import MAX_LISTED, MEANINGS, FindingCode, FindingsReport, findings
from ringrift_dagster.canonical.gate import verify
from ringrift_dagster.games.database import GameDatabase, GameRecord, PlayerRow


def record(
    *ais: str | None, columns: tuple[str | None, ...] | None = None, board: str = "square8", players: int | None = None, **row: Any
) -> GameRecord:
    """A game whose metadata names `ais`; its players' rows say the same unless `columns` are given."""
    metadata = {f"player_{number}_ai_type": ai for number, ai in enumerate(ais, 1) if ai is not None}
    rows = ais if columns is None else columns
    count = players or max(2, len(ais))
    return GameRecord(
        "g",
        {"board_type": board, "num_players": count, "metadata_json": json.dumps(metadata), **row},
        players=[PlayerRow(number, "ai", ai) for number, ai in enumerate(rows, 1)],
    )


def codes(game: GameRecord) -> list[tuple[int, str]]:
    return [(finding.player, finding.code.value) for finding in findings(game)]


def test_recorded_ais_within_their_capabilities_give_no_finding() -> None:
    assert codes(record("random", "mcts")) == []
    assert codes(record("minimax", "descent_heuristic")) == []
    assert codes(record("maxn", "brs", "random", board="square19")) == []


def test_heuristic_in_the_column_alone_is_not_recorded() -> None:
    game = record(None, None, columns=("heuristic", "heuristic"), engine_mode="random-only")
    assert codes(game) == [(1, "ai_not_recorded"), (2, "ai_not_recorded")]
    assert findings(game)[0].detail == (
        "game_players says heuristic, which RingRift writes when it knows none; engine mode random-only plays random"
    )


def test_heuristic_in_the_metadata_is_recorded() -> None:
    assert codes(record("heuristic", "heuristic")) == []


def test_another_name_in_the_column_alone_is_recorded() -> None:
    assert codes(record(None, None, columns=("mcts", "random"))) == []


def test_without_players_rows_the_metadata_counts() -> None:
    assert codes(record("random", None, columns=())) == [(2, "ai_not_recorded")]


def test_people_are_no_ais() -> None:
    game = record(None, "random")
    game.players[0] = PlayerRow(1, "human", None)
    assert codes(game) == []


def test_an_unknown_name_differs_from_none() -> None:
    assert codes(record("random", "alphazero")) == [(2, "unknown_ai")]
    assert codes(record("random", None, columns=("random", "alphazero"))) == [(2, "unknown_ai")]


@pytest.mark.parametrize(
    ("ai", "board", "players", "expected"),
    [
        ("minimax", "hex8", 2, ["ai_outside_capabilities"]),
        ("minimax", "square8", 3, ["ai_outside_capabilities"]),
        ("maxn", "hexagonal", 4, ["ai_outside_capabilities"]),
        ("descent_nn", "hexagonal", 4, []),
        ("gmo", "hex8", 2, ["ai_outside_capabilities", "deprecated_ai"]),
        ("cage", "hex8", 2, ["deprecated_ai"]),
    ],
)
def test_capabilities_and_deprecation(ai: str, board: str, players: int, expected: list[str]) -> None:
    found = findings(record(*[ai] * players, board=board))
    assert [finding.code.value for finding in found if finding.player == 1] == expected
    assert {finding.player for finding in found} == (set(range(1, players + 1)) if expected else set())


def test_columns_that_disagree_name_both() -> None:
    (found,) = findings(record("mcts", "random", columns=("descent", "random")))
    assert (found.code, found.player, found.detail) == (FindingCode.COLUMNS_DISAGREE, 1, "metadata mcts, game_players descent")


def test_spelling_is_no_disagreement() -> None:
    assert codes(record("gumbel_mcts", "random", columns=("Gumbel-MCTS", "random"))) == []


def test_what_the_soak_replaces_is_named() -> None:
    assert codes(record("policy_only", "mcts", source="soak_test")) == [(1, "ai_replaced")]
    assert codes(record("policy_only", "mcts", source="training_data_generation")) == []


def test_a_number_of_players_that_is_no_integer_is_no_reason_to_fail() -> None:
    game = record("minimax", "random")
    assert codes(replace(game, row={**game.row, "num_players": 2.0})) == []


def test_a_damaged_game_has_no_findings() -> None:
    assert findings(GameRecord("g", {"num_players": 2}, damage="unreadable")) == []


def test_every_code_has_a_meaning() -> None:
    assert set(MEANINGS) == set(FindingCode)


@given(
    metadata=st.none() | st.text(max_size=30) | st.binary(max_size=10) | st.dictionaries(st.text(), st.integers()).map(json.dumps),
    players=st.none() | st.integers() | st.text(max_size=3),
    rows=st.lists(
        st.builds(PlayerRow, st.integers(-3, 9), st.sampled_from([None, "ai", "human", ""]), st.none() | st.text(max_size=20))
    ),
    mode=st.none() | st.text(max_size=20) | st.integers(),
)
def test_whatever_is_recorded_gives_findings_that_are_json(
    metadata: object, players: object, rows: list[PlayerRow], mode: object
) -> None:
    game = GameRecord(
        "g", {"board_type": "hex8", "num_players": players, "metadata_json": metadata, "engine_mode": mode}, players=rows
    )
    report = FindingsReport()
    report.add(game)
    assert orjson.loads(orjson.dumps(report.to_dict()))["not_listed"] == 0


def test_a_report_counts_all_and_lists_some() -> None:
    report = FindingsReport()
    for _ in range(MAX_LISTED):
        report.add(record(None, None))
    shown = report.to_dict()
    assert shown["counts"] == {"ai_not_recorded": 2 * MAX_LISTED}
    assert (len(shown["findings"]), shown["not_listed"], shown["games"]) == (MAX_LISTED, MAX_LISTED, MAX_LISTED)


def test_real_databases(recorded: Callable[[str], Path]) -> None:
    def counts(name: str) -> dict[str, int]:
        report = FindingsReport()
        with GameDatabase(recorded(name)) as database:
            for game in database.games():
                report.add(game)
        return report.to_dict()["counts"]

    assert counts("canonical_square8_2p") == {}
    assert counts("canonical_square19_2p") == {"ai_not_recorded": 2}
    assert counts("canonical_hex8_2p") == {"ai_outside_capabilities": 11}


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE game_players",
        "DELETE FROM game_players",
        "UPDATE game_players SET ai_type = x'ff'",
        "UPDATE game_players SET ai_type = CAST(x'ff' AS TEXT), player_type = CAST(x'fe' AS TEXT)",
        "UPDATE game_players SET ai_type = 'alphazero'",
        "UPDATE games SET metadata_json = '[1]'",
        "ALTER TABLE game_players DROP COLUMN ai_type",
    ],
)
def test_no_verdict_depends_on_the_players_rows(statement: str, damaged: Callable[[str], Path], tmp_path: Path) -> None:
    path = Path(shutil.copy(damaged("base_ok"), tmp_path / "changed.db"))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)
    reports: list[FindingsReport] = []

    def observer(_: Path) -> Callable[[Any], None]:
        reports.append(report := FindingsReport())
        return lambda judged: report.add(judged.record)

    (verdict,) = verify([path], observer=observer)
    assert (verdict.verdict, verdict.games["canonical"]) == ("canonical", 6)
    assert orjson.dumps(reports[0].to_dict())
