"""Freshness is the age of the newest game."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from ringrift_dagster.datasets.freshness import freshness
from ringrift_dagster.home import Home

from .conftest import checks, materialized

NEWEST = datetime(2026, 11, 23, 21, 17, 11, tzinfo=UTC)
"""When the last game of canonical_square8_4p ended, to the second."""


@pytest.mark.parametrize(("age", "state"), [(1, "fresh"), (23.9, "fresh"), (24.1, "aging"), (47.9, "aging"), (48.1, "stale")])
def test_state_by_age_of_the_newest_game(
    run: Callable[..., dg.ExecuteInProcessResult], give: Callable[..., Path], home: Home, age: float, state: str
) -> None:
    give("db/canonical_square8_4p")
    run("training_data_job", "square8_4p", only=["selfplay_databases", "canonical_games"])

    now = NEWEST + timedelta(hours=age)
    found = {row.config: row for row in freshness(home, now, warn=timedelta(hours=24), fail=timedelta(hours=48))}

    assert found["square8_4p"].state == state
    assert found["hex8_2p"].state == "no data"
    assert len(found) == 12


def test_a_new_export_of_old_games_is_stale(
    run: Callable[..., dg.ExecuteInProcessResult],
    give: Callable[..., Path],
    home: Home,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Later(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return NEWEST + timedelta(days=3)

    monkeypatch.setattr("ringrift_dagster.defs.datasets.freshness_report.datetime", Later)
    give("db/canonical_square8_4p")
    run("training_data_job", "square8_4p")
    os.utime(home.datasets / "square8_4p.npz", (time.time(), time.time()))

    result = run("freshness_job")

    assert result.success, "old games are news, not a broken run"
    check = checks(result)["fresh_square8_4p"]
    assert not check.passed
    assert check.severity == dg.AssetCheckSeverity.ERROR
    assert check.metadata["limits"].value == "warns after 24 h, fails after 48 h"
    assert checks(result)["fresh_hex8_2p"].severity == dg.AssetCheckSeverity.WARN
    assert materialized(result)["freshness_report"].metadata["stale"].value == 1
