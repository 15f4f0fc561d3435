"""`selfplay_databases`: consistent, registered snapshots of a config's source databases."""

from collections.abc import Iterator

import dagster as dg

from ringrift_dagster.defs.partitions import CONFIGS
from ringrift_dagster.defs.policies import OWNERS, RETRY, config_check
from ringrift_dagster.defs.presentation import location, table, timestamp
from ringrift_dagster.defs.resources import HomeResource
from ringrift_dagster.games.sources import KNOWN_SCHEMAS, Registration, damaged_snapshots, register

NAME = "selfplay_databases"
CHECKS = {
    "readable": "Every source database could be opened and copied; the others are left out.",
    "integrity": "Every registered snapshot still has the bytes it was registered with.",
    "schema_known": "Every snapshot has a schema version that the reader understands.",
}
BLOCKING = frozenset({"integrity"})


@dg.asset(
    name=NAME,
    deps=["selfplay_games"],
    partitions_def=CONFIGS,
    group_name="selfplay",
    kinds={"sqlite"},
    owners=OWNERS,
    tags={"ringrift/layer": "selfplay"},
    retry_policy=RETRY,
    code_version="1",
    output_required=False,
    check_specs=[config_check(name, NAME, promise, blocking=name in BLOCKING) for name, promise in CHECKS.items()],
)
def selfplay_databases(
    context: dg.AssetExecutionContext, home: HomeResource
) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
    """Snapshots of the live databases that self-play writes for a config.

    Each source is copied with SQLite's online backup, checked, and named by its SHA-256: what is judged later
    cannot change under the judge. A source that cannot be read is reported and left out. A config without
    sources is skipped. Who played is all the same: hosts of the cluster, RingRift on this one, or `selfplay_games`.
    """
    config = context.partition_key
    registered = register(config, home.home)
    if not registered.databases and not registered.problems:
        context.log.info(f"no self-play database of {config} below {home.home.selfplay}")
        yield from (dg.AssetCheckResult(check_name=name, passed=True, description="no database") for name in CHECKS)
        return
    yield dg.MaterializeResult(
        data_version=dg.DataVersion(registered.digest),
        metadata={
            "databases": len(registered.current),
            "games": sum(entry.games for entry in registered.current),
            "bytes": sum(entry.size for entry in registered.current),
            "newest game": timestamp(max((entry.newest_game or "" for entry in registered.current), default=None)),
            "snapshots": table(
                ["source", "games", "bytes", "schema", "newest game", "sha256"],
                (
                    [f"`{e.source}`", e.games, f"{e.size:,}", e.schema_version, e.newest_game, f"`{e.sha256[:12]}`"]
                    for e in registered.current
                ),
            ),
            **location(home.home.snapshots / config),
        },
        check_results=[_readable(registered), _integrity(registered, home), _schema_known(registered)],
    )


def _readable(registered: Registration) -> dg.AssetCheckResult:
    problems = registered.problems
    return dg.AssetCheckResult(
        check_name="readable",
        passed=not problems,
        severity=dg.AssetCheckSeverity.WARN if registered.current else dg.AssetCheckSeverity.ERROR,
        description=f"{len(problems)} left out, {len(registered.current)} registered" if problems else None,
        metadata={"left out": table(["source", "why"], ([f"`{problem.source}`", problem.detail] for problem in problems))}
        if problems
        else {},
    )


def _integrity(registered: Registration, home: HomeResource) -> dg.AssetCheckResult:
    damaged = damaged_snapshots(registered, home.home)
    return dg.AssetCheckResult(
        check_name="integrity",
        passed=not damaged,
        description="; ".join(damaged) or None,
        metadata={"snapshots hashed": len(registered.databases)},
    )


def _schema_known(registered: Registration) -> dg.AssetCheckResult:
    unknown = registered.unknown_schemas
    return dg.AssetCheckResult(
        check_name="schema_known",
        passed=not unknown,
        severity=dg.AssetCheckSeverity.WARN,
        description=", ".join(f"{entry.source}: {entry.schema_version}" for entry in unknown) or None,
        metadata={"understood": f"{KNOWN_SCHEMAS.start}-{KNOWN_SCHEMAS.stop - 1}"},
    )
