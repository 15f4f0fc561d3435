"""`freshness_report`: the age of every config's newest game, with one check a config; and what every host would train on."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import dagster as dg

from ringrift_dagster.cluster.hosts import HostsFileError
from ringrift_dagster.cluster.topology import AgeLimits
from ringrift_dagster.defs.policies import FOLLOW_ANY_CONFIG, OWNERS, ROLL_UP_FRESHNESS
from ringrift_dagster.defs.presentation import moment, table
from ringrift_dagster.defs.resources import FreshnessLimits, HomeResource, PlaneResource
from ringrift_dagster.games.config import CONFIG_KEYS
from ringrift_dagster.manifest.freshness import HostFreshness, host_freshness
from ringrift_dagster.manifest.overrides import Override, standing
from ringrift_dagster.manifest.staleness import STATES, Reason, Staleness, of_canonical_games
from ringrift_dagster.manifest.store import StoreError

NAME = "freshness_report"
WRONG = frozenset(Reason) - {Reason.NO_DATA}
"""Reasons that fail a config's check with an error. A config without games is a warning, and so is one that somebody overrode."""

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

    With a cluster also what every host would train on, from the manifest: what nobody can prove to be fresh is stale. Whoever let a
    config train on old games is named.
    """
    now = time.time()
    known = _known(plane, limits, now)
    rows = list(of_canonical_games(home.home, known.limits, now, known.overrides))
    return dg.MaterializeResult(
        metadata={
            **{state.replace(" ", "_"): sum(verdict.state == state for _, _, verdict in rows) for state in STATES},
            "overridden": len(known.overrides),
            "configs": table(
                ["config", "state", "age", "newest game", "games", "overridden"],
                (
                    [config, verdict.state, _age(verdict.age), moment(verdict.newest_game), games, _said(verdict.override)]
                    for config, games, verdict in rows
                ),
            ),
            **(_override_metadata(known.overrides.values()) if known.overrides else {}),
            **(_host_metadata(known.hosts) if known.hosts else {}),
        },
        check_results=[*(_check(*row, known.limits) for row in rows), _hosts_fresh(known)],
    )


@dataclass(frozen=True)
class _Known:
    """What hosts file and manifest tell; `problem` says why one of them does not."""

    limits: AgeLimits | None = None
    overrides: dict[str, Override] = field(default_factory=dict)
    hosts: list[HostFreshness] = field(default_factory=list)
    problem: str | None = None


def _known(plane: PlaneResource, limits: FreshnessLimits, now: float) -> _Known:
    try:
        declared = limits.within(plane.cluster().freshness)
    except HostsFileError as error:
        return _Known(problem=f"the hosts file cannot be used: {error.problems[0]}")
    try:
        with plane.open() as opened:
            return _Known(declared, standing(opened.store, now), host_freshness(opened.store, now, limits=declared))
    except StoreError as error:
        return _Known(declared, problem=str(error))


def _override_metadata(overrides: Iterable[Override]) -> dict[str, dg.MetadataValue]:
    columns = ["config", "by", "why", "since", "until"]
    lines = ([each.config, each.who, each.why, moment(each.granted_at), moment(each.until)] for each in overrides)
    return {"overrides": table(columns, lines)}


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


def _hosts_fresh(known: _Known) -> dg.AssetCheckResult:
    """A warning: a host that lags trains on less, the games themselves are judged by the checks of the configs."""
    stale = [row for row in known.hosts if not row.fresh]
    metadata: dict[str, dg.MetadataValue | str] = {"limit": _hours(known.limits.fail_hours if known.limits else None)}
    if stale:
        columns = ["host", "config", "newest game", "newest export", "training sets", "why it is stale", "overridden"]
        lines = (
            [
                row.location,
                row.config,
                moment(row.newest_game),
                moment(row.newest_export),
                row.training_sets,
                row.why,
                _said(row.override),
            ]
            for row in stale
        )
        metadata["stale"] = table(columns, lines)
    count = len(known.hosts)
    told = f"{len(stale)} of {count} are stale" if stale else f"{count} are fresh" if count else "there are no hosts"
    return dg.AssetCheckResult(
        check_name=HOSTS_CHECK,
        passed=not stale and known.problem is None,
        severity=dg.AssetCheckSeverity.WARN,
        description=known.problem or told,
        metadata=metadata,
    )


def _check(config: str, games: int, verdict: Staleness, limits: AgeLimits | None) -> dg.AssetCheckResult:
    """Failed for whatever is not young enough, also while somebody overrides that: then with a warning that says who."""
    wrong = verdict.reason in WRONG and verdict.override is None
    told = f"{verdict.state}: {verdict.detail or f'newest of {games} games is {_age(verdict.age)} old'}"
    metadata: dict[str, str | int] = {
        "games": games,
        "limits": f"warns after {_hours(limits and limits.warn_hours)}, fails after {_hours(limits and limits.fail_hours)}",
    }
    if verdict.reason:
        metadata["reason"] = verdict.reason.value
    if verdict.override:
        metadata["overridden"] = _said(verdict.override)
    return dg.AssetCheckResult(
        check_name=check_name(config),
        passed=verdict.state == "fresh",
        severity=dg.AssetCheckSeverity.ERROR if wrong else dg.AssetCheckSeverity.WARN,
        description=f"{told}; overridden {_said(verdict.override)}" if verdict.override else told,
        metadata=metadata,
    )


def _said(override: Override | None) -> str:
    """Who, until when and why."""
    if override is None:
        return ""
    return f"by {override.who} until {moment(override.until)} UTC: {override.why}"


def _hours(hours: float | None) -> str:
    return "an unknown age" if hours is None else f"{hours:g} h"


def _age(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds / 3600:.1f} h"
