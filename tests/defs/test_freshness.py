"""Freshness is the age of the newest game; limits that cannot be widened unseen; exceptions that everybody sees."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from ringrift_dagster.cluster.topology import AgeLimits
from ringrift_dagster.defs.datasets import freshness_report
from ringrift_dagster.defs.resources import FreshnessLimits
from ringrift_dagster.home import Home
from ringrift_dagster.manifest.overrides import grant
from ringrift_dagster.manifest.staleness import of_canonical_games
from ringrift_dagster.manifest.store import Store, default_url

from .conftest import checks, declare, materialized

Run = Callable[..., dg.ExecuteInProcessResult]
NEWEST = datetime(2026, 11, 23, 21, 17, 11, tzinfo=UTC).timestamp()
"""When the last game of canonical_square8_4p ended, to the second."""
HOUR = 3600.0


@pytest.fixture
def three_days_later(monkeypatch: pytest.MonkeyPatch) -> float:
    """Now is three days after the newest game."""
    now = NEWEST + 72 * HOUR

    class Clock:
        time = staticmethod(lambda: now)

    monkeypatch.setattr(freshness_report, "time", Clock)
    return now


@pytest.mark.parametrize(
    ("age", "state", "reason"),
    [(1, "fresh", None), (23.9, "fresh", None), (24.1, "aging", None), (47.9, "aging", None), (48.1, "stale", "too_old"),
     (-0.5, "fresh", None), (-2, "stale", "future")],
)  # fmt: skip
def test_state_by_age_of_the_newest_game(
    run: Run, give: Callable[..., Path], home: Home, age: float, state: str, reason: str | None
) -> None:
    give("db/canonical_square8_4p")
    run("training_data_job", "square8_4p", only=["selfplay_databases", "canonical_games"])

    found = {config: verdict for config, _, verdict in of_canonical_games(home, AgeLimits(), NEWEST + age * HOUR)}

    assert (found["square8_4p"].state, found["square8_4p"].reason) == (state, reason)
    assert found["hex8_2p"].state == "no data"
    assert len(found) == 12


def test_a_new_export_of_old_games_is_stale(run: Run, give: Callable[..., Path], home: Home, three_days_later: float) -> None:
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


def test_an_override_turns_the_error_into_a_warning_that_names_who_and_why(
    run: Run, give: Callable[..., Path], home: Home, three_days_later: float
) -> None:
    give("db/canonical_square8_4p")
    run("training_data_job", "square8_4p", only=["selfplay_databases", "canonical_games"])
    with Store.open(default_url(home)) as store:
        grant(store, "square8_4p", who="Ada", why="the cluster moves house", hours=3, at=three_days_later - HOUR)

    result = run("freshness_job")

    check = checks(result)["fresh_square8_4p"]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert str(check.description).endswith("overridden by Ada until 2026-11-26 23:17:11 UTC: the cluster moves house")
    assert check.metadata["overridden"].value == "by Ada until 2026-11-26 23:17:11 UTC: the cluster moves house"
    metadata = materialized(result)["freshness_report"].metadata
    assert (metadata["overridden"].value, metadata["stale"].value) == (1, 1)
    assert "the cluster moves house" in str(metadata["overrides"].value)


def test_an_override_that_is_over_excuses_nothing(run: Run, give: Callable[..., Path], home: Home, three_days_later: float) -> None:
    give("db/canonical_square8_4p")
    run("training_data_job", "square8_4p", only=["selfplay_databases", "canonical_games"])
    with Store.open(default_url(home)) as store:
        grant(store, "square8_4p", who="Ada", why="the cluster moves house", hours=3, at=three_days_later - 4 * HOUR)

    check = checks(run("freshness_job"))["fresh_square8_4p"]

    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert "overrid" not in str(check.description)


def test_the_hosts_file_says_what_the_limits_are(run: Run, give: Callable[..., Path], home: Home, three_days_later: float) -> None:
    give("db/canonical_square8_4p")
    run("training_data_job", "square8_4p", only=["selfplay_databases", "canonical_games"])
    path = declare(home)
    path.write_text("freshness: {warn_hours: 80, fail_hours: 90}\nhosts: {}\n")

    check = checks(run("freshness_job"))["fresh_square8_4p"]
    assert (check.passed, check.metadata["limits"].value) == (True, "warns after 80 h, fails after 90 h")

    path.write_text("freshness: {fail_hours: 900}\nhosts: {}\n")
    check = checks(run("freshness_job"))["fresh_square8_4p"]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.ERROR), "without a limit nothing is young enough"
    assert (check.metadata["reason"].value, check.metadata["limits"].value) == (
        "no_limit",
        "warns after an unknown age, fails after an unknown age",
    )


def test_a_resource_that_is_empty_takes_the_hosts_files_limits_and_one_that_is_set_may_only_be_stricter() -> None:
    declared = AgeLimits(warn_hours=10, fail_hours=20)
    assert FreshnessLimits().within(declared) == declared
    assert FreshnessLimits(fail_hours=5).within(declared) == AgeLimits(warn_hours=5, fail_hours=5)
    assert FreshnessLimits(warn_hours=1).within(declared) == AgeLimits(warn_hours=1, fail_hours=20)
    for wider in (FreshnessLimits(fail_hours=20.5), FreshnessLimits(warn_hours=11), FreshnessLimits(fail_hours=1000)):
        with pytest.raises(dg.Failure, match="wider than the"):
            wider.within(declared)
