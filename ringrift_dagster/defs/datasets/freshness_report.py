"""`freshness_report`: the age of every config's newest game, with one check a config; and what every host would train on."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg

from ringrift_dagster.cluster.hosts import HostsFileError
from ringrift_dagster.datasets.freshness import STATES, Freshness, freshness
from ringrift_dagster.defs.policies import FOLLOW_ANY_CONFIG, OWNERS, ROLL_UP_FRESHNESS
from ringrift_dagster.defs.presentation import moment, table
from ringrift_dagster.defs.resources import FreshnessLimits, HomeResource, PlaneResource
from ringrift_dagster.games.config import CONFIG_KEYS
from ringrift_dagster.manifest.freshness import HostFreshness, host_freshness
from ringrift_dagster.manifest.store import StoreError

NAME = "freshness_report"
SEVERITY = {"stale": dg.AssetCheckSeverity.ERROR, "damaged": dg.AssetCheckSeverity.ERROR}
"""Of a failed check, by state; what is not here is a warning."""

HOSTS_CHECK = "hosts_fresh"


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
    ]
    + [
        dg.AssetCheckSpec(
            HOSTS_CHECK,
            asset=NAME,
            description="Every host has, of every config, the training set that it should use, with games young enough.",
        )
    ],
)
def freshness_report(home: HomeResource, limits: FreshnessLimits, plane: PlaneResource) -> dg.MaterializeResult:
    """How old the newest canonical *game* of each config is; a new export of old games stays old.

    With a cluster also what every host would train on, from the manifest: what nobody can prove to be fresh is stale.
    """
    rows = list(freshness(home.home, datetime.now(UTC), warn=limits.warn, fail=limits.fail))
    hosts, problem = _on_hosts(plane, limits)
    return dg.MaterializeResult(
        metadata={
            **{state.replace(" ", "_"): sum(row.state == state for row in rows) for state in STATES},
            "configs": table(
                ["config", "state", "age", "newest game", "games"],
                ([row.config, row.state, _age(row.age), row.newest_game, row.games] for row in rows),
            ),
            **(_host_metadata(hosts) if hosts else {}),
        },
        check_results=[*(_check(row, limits) for row in rows), _hosts_fresh(hosts, problem, limits)],
    )


def _on_hosts(plane: PlaneResource, limits: FreshnessLimits) -> tuple[list[HostFreshness], str | None]:
    """A row for each host and config; or why nobody can tell."""
    try:
        with plane.open() as opened:
            return host_freshness(opened.store, time.time(), limit=limits.warn), None
    except HostsFileError as error:
        return [], f"the hosts file cannot be used: {error.problems[0]}"
    except StoreError as error:
        return [], str(error)


def _host_metadata(rows: Sequence[HostFreshness]) -> dict[str, dg.MetadataValue | int]:
    """One line a host: how many configs are fresh there, and the age of each config's newest game."""
    places: dict[str, dict[str, HostFreshness]] = {}
    for row in rows:
        places.setdefault(row.location, {})[row.config] = row
    lines = (
        [name, f"{sum(row.fresh for row in found.values())}/{len(found)}", *(_cell(found[config]) for config in CONFIG_KEYS)]
        for name, found in places.items()
    )
    return {
        "stale on hosts": sum(not row.fresh for row in rows),
        "hosts": table(["host", "fresh", *CONFIG_KEYS], lines),
    }


def _cell(row: HostFreshness) -> str:
    age = "–" if row.age is None else f"{row.age / 3600:.1f} h"
    return age if row.fresh else f"**{age}**"


def _hosts_fresh(rows: Sequence[HostFreshness], problem: str | None, limits: FreshnessLimits) -> dg.AssetCheckResult:
    """A warning: a host that lags trains on less, the games themselves are judged by the checks of the configs."""
    stale = [row for row in rows if not row.fresh]
    metadata: dict[str, dg.MetadataValue | str] = {"limit": f"{limits.warn_hours:g} h"}
    if stale:
        columns = ["host", "config", "newest game", "newest export", "training sets", "why it is stale"]
        lines = (
            [row.location, row.config, moment(row.newest_game), moment(row.newest_export), row.training_sets, row.why]
            for row in stale
        )
        metadata["stale"] = table(columns, lines)
    return dg.AssetCheckResult(
        check_name=HOSTS_CHECK,
        passed=not stale and problem is None,
        severity=dg.AssetCheckSeverity.WARN,
        description=problem
        or (f"{len(stale)} of {len(rows)} are stale" if stale else f"{len(rows)} are fresh" if rows else "there are no hosts"),
        metadata=metadata,
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
