"""`freshness_report`: the age of every config's newest game, with one check a config."""

from datetime import UTC, datetime, timedelta

import dagster as dg

from ringrift_dagster.datasets.freshness import STATES, Freshness, freshness
from ringrift_dagster.defs.policies import FOLLOW_ANY_CONFIG, OWNERS, ROLL_UP_FRESHNESS
from ringrift_dagster.defs.presentation import table
from ringrift_dagster.defs.resources import FreshnessLimits, HomeResource
from ringrift_dagster.games.config import CONFIG_KEYS

NAME = "freshness_report"
SEVERITY = {"stale": dg.AssetCheckSeverity.ERROR, "damaged": dg.AssetCheckSeverity.ERROR}
"""Of a failed check, by state; what is not here is a warning."""


def check_name(config: str) -> str:
    return f"fresh_{config}"


@dg.asset(
    name=NAME,
    deps=["canonical_games"],
    group_name="training",
    kinds={"report"},
    owners=OWNERS,
    tags={"ringrift/layer": "training"},
    code_version="1",
    freshness_policy=ROLL_UP_FRESHNESS,
    automation_condition=FOLLOW_ANY_CONFIG,
    check_specs=[
        dg.AssetCheckSpec(
            check_name(config),
            asset=NAME,
            description=f"{config} has a canonical game young enough to train on.",
        )
        for config in CONFIG_KEYS
    ],
)
def freshness_report(home: HomeResource, limits: FreshnessLimits) -> dg.MaterializeResult:
    """How old the newest canonical *game* of each config is; a new export of old games stays old."""
    rows = list(freshness(home.home, datetime.now(UTC), warn=limits.warn, fail=limits.fail))
    return dg.MaterializeResult(
        metadata={
            **{state.replace(" ", "_"): sum(row.state == state for row in rows) for state in STATES},
            "configs": table(
                ["config", "state", "age", "newest game", "games"],
                ([row.config, row.state, _age(row.age), row.newest_game, row.games] for row in rows),
            ),
        },
        check_results=[_check(row, limits) for row in rows],
    )


def _check(row: Freshness, limits: FreshnessLimits) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=check_name(row.config),
        passed=row.state == "fresh",
        severity=SEVERITY.get(row.state, dg.AssetCheckSeverity.WARN),
        description=f"{row.state}: newest of {row.games} games is {_age(row.age)} old" if row.age else row.state,
        metadata={
            "games": row.games,
            "limits": f"warns after {limits.warn_hours:g} h, fails after {limits.fail_hours:g} h",
        },
    )


def _age(age: timedelta | None) -> str:
    return "" if age is None else f"{age / timedelta(hours=1):.1f} h"
