"""`ai_registry`, and what `canonical_games` says of the AIs of its games."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import dagster as dg
import pytest

from .conftest import checks, materialized

Run = Callable[..., dg.ExecuteInProcessResult]
Give = Callable[..., Path]


def registry_run(location: dg.Definitions) -> dg.ExecuteInProcessResult:
    with dg.DagsterInstance.ephemeral() as instance:
        definition = location.resolve_assets_def("ai_registry")
        return dg.materialize([definition], instance=instance, raise_on_error=False)


def test_the_registry_is_materialised_with_its_table_and_contradictions(location: dg.Definitions) -> None:
    result = registry_run(location)

    assert result.success
    metadata = materialized(result)["ai_registry"].metadata
    assert metadata["dagster/row_count"].value == 26
    assert "| ig_gmo | 0.3.0 | archived |" in str(metadata["types"].value)
    found = checks(result)
    assert found["registry_consistent"].passed
    contradicting = found["ladder_contradictions"]
    assert (contradicting.passed, contradicting.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert (contradicting.description or "").startswith("79 contradictions in RingRift: 9 ladders_name_different_types")
    assert "main minimax" in str(contradicting.metadata["ladders_name_different_types"].value)


def test_an_inconsistent_registry_stops_the_run(location: dg.Definitions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringrift_dagster.defs.governance.assets.problems", lambda: ["mcts: no such board: hex9"])

    result = registry_run(location)

    found = checks(result)["registry_consistent"]
    assert not found.passed
    assert found.blocking
    assert "hex9" in (found.description or "")


def test_games_that_do_not_say_who_played_are_a_warning(run: Run, give: Give) -> None:
    with closing(sqlite3.connect(give("db/canonical_square8_4p"))) as connection, connection:
        connection.execute("UPDATE games SET metadata_json = NULL")
        connection.execute("UPDATE game_players SET ai_type = 'heuristic'")

    result = run("training_data_job", "square8_4p")

    assert result.success
    found = checks(result)["ai_recorded"]
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert found.description == "players: 20 ai_not_recorded"
    assert "ai_not_recorded" in str(materialized(result)["canonical_games"].metadata["AI findings"].value)
    assert checks(run("training_data_job", "square8_4p"))["ai_recorded"].description == "players: 20 ai_not_recorded"


def test_an_ai_outside_its_capabilities_is_counted_and_known(run: Run, give: Give) -> None:
    give("db/canonical_square8_3p")

    result = run("training_data_job", "square8_3p")

    assert checks(result)["ai_recorded"].passed
    assert "ai_outside_capabilities" in str(materialized(result)["canonical_games"].metadata["AI findings"].value)
