"""The three assets on recorded games: what they materialise, what their checks say, and what they refuse."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import dagster as dg
import numpy as np
import pytest

from ringrift_dagster.defs.datasets.training_npz import CHECKS
from ringrift_dagster.games.database import DatabaseUnreadable, GameDatabase, file_sha256
from ringrift_dagster.games.sources import registration
from ringrift_dagster.home import Home

from .conftest import checks, failure, materialized

JOB = "training_data_job"
Run = Callable[..., dg.ExecuteInProcessResult]
Give = Callable[..., Path]


def test_recorded_games_become_a_training_set(run: Run, give: Give, home: Home) -> None:
    give("db/canonical_square8_3p")

    result = run(JOB, "square8_3p")

    assert result.success
    made = materialized(result)
    assert list(made) == ["selfplay_databases", "canonical_games", "training_npz"]
    assert {materialization.partition for materialization in made.values()} == {"square8_3p"}
    games, npz = made["canonical_games"].metadata, made["training_npz"].metadata
    assert [games[name].value for name in ("judged", "accepted", "rejected", "dagster/row_count")] == [
        5,
        5,
        0,
        5,
    ]
    assert npz["samples"].value == npz["dagster/row_count"].value == 1218
    assert "ring_placement" in str(games["phases"].value)
    assert all(check.passed for check in checks(result).values())
    manifest = json.loads((home.datasets / "square8_3p.manifest.json").read_bytes())
    assert manifest["sha256"] == npz["sha256"].value
    with np.load(home.datasets / "square8_3p.npz") as arrays:
        assert arrays["features"].shape[0] == 1218


def test_data_versions_are_of_the_content(run: Run, give: Give) -> None:
    give("db/canonical_square8_4p")
    first, second = (materialized(run(JOB, "square8_4p")) for _ in range(2))

    def versions(made: dict[str, dg.AssetMaterialization]) -> list[str]:
        return [(materialization.tags or {})["dagster/data_version"] for materialization in made.values()]

    assert versions(first) == versions(second)
    assert second["canonical_games"].metadata["accepted"].value == 0
    assert second["canonical_games"].metadata["dagster/row_count"].value == 5


def test_a_rejected_game_is_kept_out_and_shown(run: Run, give: Give, home: Home) -> None:
    give("damaged/winner_flipped", "winner_flipped.db")

    result = run(JOB, "square8_2p")

    assert result.success
    found = checks(result)
    assert found["gate"].passed
    assert not found["no_rejections"].passed
    assert found["no_rejections"].severity == dg.AssetCheckSeverity.WARN
    shown = str(found["no_rejections"].metadata["kept out"].value)
    assert "winner_flipped.db" in shown
    assert materialized(result)["canonical_games"].metadata["kept out"].value == shown
    assert "result_mismatch" in shown
    assert materialized(result)["training_npz"].metadata["games"].value == 5
    assert "result_mismatch" in (home.quarantine / "square8_2p.jsonl").read_text()
    assert not checks(run(JOB, "square8_2p"))["no_rejections"].passed, "a second look changes nothing"


def test_a_truncated_database_does_not_stop_the_others(run: Run, give: Give) -> None:
    give("db/canonical_square8_4p")
    give("damaged/truncated_midfile", "broken_square8_4p.db")

    result = run(JOB, "square8_4p")

    assert result.success
    readable = checks(result)["readable"]
    assert not readable.passed
    assert "broken_square8_4p.db" in str(readable.metadata["left out"].value)
    assert materialized(result)["canonical_games"].metadata["accepted"].value == 5


def test_a_config_without_databases_is_skipped(run: Run, home: Home) -> None:
    result = run(JOB, "hex8_4p")
    assert result.success
    assert not materialized(result)


def test_a_config_without_canonical_games_exports_nothing(run: Run, give: Give, home: Home) -> None:
    give("damaged/empty", "empty_square8_2p.db")
    result = run(JOB, "square8_2p")
    assert not result.success
    assert "no game of square8_2p passed the gate" in failure(result)
    assert not (home.datasets / "square8_2p.npz").exists()


def test_a_damaged_snapshot_is_not_judged(run: Run, give: Give, home: Home) -> None:
    give("db/canonical_square8_4p")
    assert run(JOB, "square8_4p").success
    (entry,) = registration("square8_4p", home).databases
    with entry.path("square8_4p", home).open("ab") as snapshot:
        snapshot.write(b"more")

    result = run(JOB, "square8_4p", only=["canonical_games"])

    assert not result.success
    assert "materialise selfplay_databases again" in failure(result)


def test_a_damaged_snapshot_is_mended_by_materialising_again(run: Run, give: Give, home: Home) -> None:
    give("db/canonical_square8_4p")
    assert run(JOB, "square8_4p").success
    (entry,) = registration("square8_4p", home).databases
    path = entry.path("square8_4p", home)
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    assert not run(JOB, "square8_4p", only=["canonical_games"]).success

    assert run(JOB, "square8_4p").success
    assert file_sha256(path) == entry.sha256


def test_a_damaged_source_keeps_its_last_snapshot(run: Run, give: Give, home: Home) -> None:
    source = give("db/canonical_square8_4p")
    assert run(JOB, "square8_4p").success
    source.write_bytes(b"no database")

    result = run(JOB, "square8_4p")

    assert result.success
    assert not checks(result)["readable"].passed
    (entry,) = registration("square8_4p", home).current
    assert entry.path("square8_4p", home).exists()
    assert materialized(result)["canonical_games"].metadata["dagster/row_count"].value == 5


def test_a_superseded_snapshot_that_could_not_be_judged_is_kept(
    run: Run, give: Give, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = give("db/canonical_square8_4p")
    assert run(JOB, "square8_4p").success
    (old,) = registration("square8_4p", home).databases
    with closing(sqlite3.connect(source)) as connection, connection:
        connection.execute("UPDATE games SET quality_score = 0.5")

    def fails_on_the_old(path: Path, **options: bool) -> GameDatabase:
        if path.stem == old.sha256:
            raise DatabaseUnreadable(path, "input/output error")
        return GameDatabase(path, **options)

    with monkeypatch.context() as patched:
        patched.setattr("ringrift_dagster.datasets.canonical_games.GameDatabase", fails_on_the_old)
        assert run(JOB, "square8_4p").success
    assert [entry.current for entry in registration("square8_4p", home).databases] == [True, False]
    assert old.path("square8_4p", home).exists()

    assert run(JOB, "square8_4p").success
    assert [entry.current for entry in registration("square8_4p", home).databases] == [True]
    assert not old.path("square8_4p", home).exists()


def test_a_damaged_store_is_not_exported(run: Run, give: Give, home: Home) -> None:
    give("db/canonical_square8_4p")
    assert run(JOB, "square8_4p").success
    published = (home.datasets / "square8_4p.npz").read_bytes()
    games = next((home.canonical / "square8_4p").glob("moves-*.parquet"))
    games.write_bytes(games.read_bytes() + b"more")

    result = run(JOB, "square8_4p", only=["training_npz"])

    assert not result.success
    assert not materialized(result)
    assert "not sound" in failure(result)
    assert (home.datasets / "square8_4p.npz").read_bytes() == published


def test_a_store_nobody_recorded_is_not_exported(run: Run, give: Give, home: Home, instance: dg.DagsterInstance) -> None:
    give("db/canonical_square8_4p")
    assert run(JOB, "square8_4p").success
    instance.wipe_assets([dg.AssetKey("canonical_games")])

    result = run(JOB, "square8_4p", only=["training_npz"])

    assert not result.success
    assert "canonical_games recorded none" in failure(result)


@pytest.mark.parametrize(
    ("codes", "broken"),
    [
        (["non_finite"], {"finite"}),
        (["value_out_of_range", "policy_not_normalised"], {"value_range", "policy_sums"}),
        (["not_a_zip"], set(CHECKS)),
        (["a_code_of_tomorrow"], set(CHECKS)),
    ],
)
def test_each_error_code_breaks_its_check(
    run: Run, give: Give, home: Home, monkeypatch: pytest.MonkeyPatch, codes: list[str], broken: set[str]
) -> None:
    from ringrift_dagster.datasets.npz_validator import Finding, NpzReport

    give("db/canonical_square8_4p")
    report = NpzReport(home.datasets / "square8_4p.npz", errors=[Finding(code, "found") for code in codes])
    monkeypatch.setattr("ringrift_dagster.defs.datasets.training_npz.inspect_npz", lambda path: report)

    result = run(JOB, "square8_4p")

    assert not result.success, "blocking checks fail the run"
    assert {name for name in CHECKS if not checks(result)[name].passed} == broken


def test_every_validator_code_belongs_to_a_check() -> None:
    from ringrift_dagster.datasets.npz_validator import ERROR_CODES

    assert set(ERROR_CODES) == set().union(*(codes for _, codes in CHECKS.values()))
