"""The asset `selfplay_games`: complete games of a config, played on this machine; and the job that plays them.

No automation starts it: playing takes every core, and clusters have hosts for it.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import dagster as dg
from pydantic import Field

from ringrift_dagster.ai.audit import Audit, Reproduction, audit, reproduce
from ringrift_dagster.ai.registry import parse_specs
from ringrift_dagster.ai.selfplay import (
    ENGINE_VERSION,
    MAX_GAMES,
    SelfPlay,
    Written,
    database_name,
    record,
)
from ringrift_dagster.ai.workers import MAX_WORKERS, WorkerLost, default_workers
from ringrift_dagster.canonical.verdicts import VerdictStore
from ringrift_dagster.cluster.hosts import HostsFileError
from ringrift_dagster.datasets.npz_export import digest_root
from ringrift_dagster.defs.partitions import CONFIGS
from ringrift_dagster.defs.policies import OWNERS, RETRY, config_check
from ringrift_dagster.defs.presentation import location, table
from ringrift_dagster.defs.resources import HomeResource, PlaneResource
from ringrift_dagster.games.config import Config, parse_config
from ringrift_dagster.games.database import DatabaseUnreadable
from ringrift_dagster.games.recording import RecordingError, RecordingRefused

NAME = "selfplay_games"
FIRST_GAMES = {"square8": 20, "hex8": 20, "square19": 4, "hexagonal": 4}
"""Default number of games by board: small, so that the first result takes seconds."""
LOG_SECONDS = 10.0
"""Seconds between two lines of progress in the run's log."""


class SelfplayGames(dg.Config):
    """Configuration of a run of `selfplay_games`. Games that the database has already are not played again."""

    games: int | None = Field(
        default=None,
        ge=1,
        le=MAX_GAMES,
        description="Games in the database at the end. Empty: 20 on square8 and hex8, 4 on square19 and hexagonal.",
    )
    ais: str = Field(
        default="heuristic",
        description="Who plays: random, heuristic, mcts:SIMULATIONS. Several, with commas between, take the seats in turn.",
    )
    seed: int = Field(default=1, ge=0, description="The same seed gives the same games. Each seed has a database of its own.")
    workers: int | None = Field(default=None, ge=1, le=MAX_WORKERS, description="Processes that play. Empty: one a core.")
    swap_rule: bool = Field(default=False, description="Player 2 may take over the first player's side (two players only).")
    also_with_selfplay_hosts: bool = Field(
        default=False, description="Play here although the hosts file names hosts that play; otherwise the run fails."
    )


@dg.asset(
    name=NAME,
    partitions_def=CONFIGS,
    group_name="selfplay",
    kinds={"sqlite"},
    owners=OWNERS,
    tags={"ringrift/layer": "selfplay"},
    retry_policy=RETRY,
    pool="selfplay",
    code_version=ENGINE_VERSION,
    check_specs=[
        config_check(
            "complete",
            NAME,
            "The database has all requested games, and the gate judges every game in it finished and canonical.",
            blocking=True,
        ),
        config_check(
            "same_seed_same_digests",
            NAME,
            "The first and the last game, played again from the seed, have the digests that are recorded.",
            blocking=True,
        ),
    ],
)
def selfplay_games(
    context: dg.AssetExecutionContext, config: SelfplayGames, home: HomeResource, plane: PlaneResource
) -> dg.MaterializeResult:
    """Complete games of a config, played on this machine under the canonical rules.

    The first step where no game exists yet: materialise it, and `new_selfplay_sensor` makes a training set of the games. They
    depend on seed, config and AIs alone. A database is continued, never overwritten: a second run with the same configuration plays
    nothing, and a run after an interruption plays what is missing. It is started by hand only.
    """
    parsed = parse_config(context.partition_key)
    if not config.also_with_selfplay_hosts:
        _refuse_beside_selfplay_hosts(plane)
    games = config.games or FIRST_GAMES[parsed.board]
    path = home.home.selfplay / database_name(parsed, config.seed)
    try:
        run = SelfPlay(parsed, config.seed, parse_specs(config.ais, parsed), config.swap_rule)
        workers = config.workers or default_workers()
        written = record(run, games, path, workers=workers, resume=True, progress=_log_progress(context, path))
        reproduced = list(reproduce(run, written, sorted({0, games - 1})))
        with VerdictStore(home.home.verdicts) as store:
            audited = audit(path, store)
    except RecordingRefused as error:
        raise dg.Failure(f"{error} (each seed has a database of its own)", allow_retries=False) from error
    except ValueError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    except (RecordingError, WorkerLost, DatabaseUnreadable) as error:
        raise dg.Failure(str(error)) from error
    root = digest_root(audited.digests.values())
    return dg.MaterializeResult(
        data_version=dg.DataVersion(root),
        metadata=_metadata(run, written, audited, root),
        check_results=[_complete(audited, run, written.digests), _same_digests(reproduced)],
    )


def _refuse_beside_selfplay_hosts(plane: PlaneResource) -> None:
    try:
        names = [host.name for host in plane.cluster().selfplay_hosts]
    except HostsFileError as error:
        raise dg.Failure(f"the hosts file cannot be used: {error.problems[0]}", allow_retries=False) from error
    if names:
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        raise dg.Failure(
            f"the hosts file has hosts that play ({shown}), and their games come here by themselves; "
            "to play on this machine too, set also_with_selfplay_hosts: true",
            allow_retries=False,
        )


def _log_progress(context: dg.AssetExecutionContext, path: Path) -> Callable[[int, int], None]:
    """Progress for the run's log: at the beginning, every few seconds, and at the end."""
    last = float("-inf")

    def progress(done: int, total: int) -> None:
        nonlocal last
        if done == total or time.monotonic() - last >= LOG_SECONDS:
            last = time.monotonic()
            context.log.info(f"{done} of {total} games are in {path}")

    return progress


def _metadata(run: SelfPlay, written: Written, audited: Audit, root: str) -> dict[str, dg.MetadataValue | int | float]:
    played = written.games - written.resumed
    games = len(audited.digests)
    return {
        "dagster/row_count": games,
        "games": games,
        "moves": audited.moves,
        "games played now": played,
        "games/s": round(played / max(written.seconds, 1e-9), 2),
        "AIs": dg.MetadataValue.text(run.about["ais"]),
        "seed": run.root,
        "swap rule": run.swap_rule,
        "results": _results(run.config, audited),
        "digest root": dg.MetadataValue.text(root),
        "database": dg.MetadataValue.path(written.path),
        **location(written.path),
    }


def _results(config: Config, audited: Audit) -> dg.MarkdownMetadataValue:
    """How games ended, and who won them: a row an ending, a column a seat."""
    seats = range(1, config.players + 1)
    endings = sorted({ending for ending, _ in audited.results})
    rows = [(ending, [audited.results[ending, seat] for seat in seats]) for ending in endings]
    total = [sum(wins) for wins in zip(*(wins for _, wins in rows), strict=True)]
    return table(
        ["ending", *(f"won by seat {seat}" for seat in seats), "games"],
        ([ending, *wins, sum(wins)] for ending, wins in [*rows, ("all", total)]),
    )


def _complete(audited: Audit, run: SelfPlay, recorded: Sequence[str]) -> dg.AssetCheckResult:
    games, missing, rejected = len(recorded), audited.missing(run, recorded), audited.rejected
    return dg.AssetCheckResult(
        check_name="complete",
        passed=not missing and not rejected,
        description=f"{len(missing)} of {games} games are missing or changed, {len(rejected)} were rejected by the gate"
        if missing or rejected
        else f"{games} games, all finished and canonical",
        metadata={
            "missing": dg.MetadataValue.text(", ".join(map(str, missing[:50])) or "none"),
            "rejected": table(["game", "reason", "move", "detail"], (list(entry.values()) for entry in rejected)),
        }
        if missing or rejected
        else {},
    )


def _same_digests(reproduced: list[Reproduction]) -> dg.AssetCheckResult:
    different = ", ".join(str(game.index) for game in reproduced if not game.same)
    same = ", ".join(str(game.index) for game in reproduced if game.same)
    return dg.AssetCheckResult(
        check_name="same_seed_same_digests",
        passed=not different,
        description=f"played differently: game {different}" if different else f"digests reproduced: game {same}",
        metadata={
            "played again": table(
                ["game", "digest recorded", "digest now"],
                ([game.index, f"`{game.recorded[:16]}`", f"`{game.digest[:16]}`"] for game in reproduced),
            )
        },
    )


selfplay_job = dg.define_asset_job(
    "selfplay_job",
    selection=[NAME],
    description="Play games of one config on this machine.",
    tags={"ringrift/op_class": "SELFPLAY"},
)
