"""The asset `evaluation_games`: the games by which a candidate is judged, played on this machine."""

import time
from collections.abc import Callable

import dagster as dg
from pydantic import Field

from ringrift_dagster.ai.selfplay import ENGINE_VERSION
from ringrift_dagster.ai.workers import MAX_WORKERS, WorkerLost, default_workers
from ringrift_dagster.defs.models.rules import rules_for
from ringrift_dagster.defs.partitions import CONFIGS
from ringrift_dagster.defs.policies import OWNERS
from ringrift_dagster.defs.presentation import table
from ringrift_dagster.defs.resources import HomeResource, PlaneResource
from ringrift_dagster.games.config import parse_config
from ringrift_dagster.games.database import DatabaseUnreadable
from ringrift_dagster.games.recording import RecordingError
from ringrift_dagster.home import Home
from ringrift_dagster.models.candidates import Candidate, UnknownCandidate, candidates, find, qualify
from ringrift_dagster.models.evaluation.matches import UnknownParticipant
from ringrift_dagster.models.evaluation.store import ConflictingEvidence
from ringrift_dagster.models.promotion.decision import INCUMBENT, PromotionRules
from ringrift_dagster.models.promotion.gathering import gather
from ringrift_dagster.models.promotion.log import DecisionLog
from ringrift_dagster.models.promotion.promoting import NothingToDo, assess, log_path

NAME = "evaluation_games"
LOG_SECONDS = 10.0
"""Seconds between two lines of progress in the run's log."""


class EvaluationGames(dg.Config):
    """Configuration of a run of `evaluation_games`."""

    candidate: str = Field(default="", description="The beginning of a candidate's hash. Empty: the one that was registered last.")
    workers: int | None = Field(default=None, ge=1, le=MAX_WORKERS, description="Processes that play. Empty: one a core.")


@dg.asset(
    name=NAME,
    deps=["candidate_models"],
    partitions_def=CONFIGS,
    group_name="models",
    kinds={"sqlite"},
    owners=OWNERS,
    tags={"ringrift/layer": "models"},
    pool="selfplay",
    code_version=ENGINE_VERSION,
)
def evaluation_games(
    context: dg.AssetExecutionContext, config: EvaluationGames, home: HomeResource, plane: PlaneResource
) -> dg.MaterializeResult:
    """Games of a candidate against the baselines and the current model, as many as the decision needs.

    They are played in blocks: one opening, the candidate once in every seat. Against a baseline the sample is fixed, against the
    current model a sequential test says when to stop. The gate judges every game before it counts, and none enters a training set.
    Blocks that exist are not played again.
    """
    rules = rules_for(plane, context.partition_key)
    chosen, undecided = _chosen(home.home, context.partition_key, config.candidate, rules)
    played: dict[str, int] = {}
    try:
        for opponent in _opponents(home.home, chosen, rules) if undecided else ():
            if opponent == INCUMBENT and _below_floor(home.home, chosen, rules):
                context.log.info("it is below a floor: it does not play the current model")
                break
            workers = config.workers or default_workers()
            played |= gather(home.home, chosen, [opponent], rules=rules, workers=workers, progress=_log_progress(context))
    except (NothingToDo, UnknownParticipant) as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    except (RecordingError, DatabaseUnreadable, WorkerLost, ConflictingEvidence) as error:
        raise dg.Failure(str(error)) from error
    evidence = assess(home.home, chosen, rules=rules).evidence
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": sum(blocks.complete for blocks in evidence.values()) * parse_config(chosen.config).players,
            "candidate": dg.MetadataValue.text(chosen.sha256),
            "blocks": table(
                ["opponent", "blocks", "mean score", "void games", "played now"],
                (
                    [name, blocks.complete, f"{blocks.mean():.3f}" if blocks.complete else "", blocks.void, played.get(name, 0)]
                    for name, blocks in evidence.items()
                ),
            ),
            "hosts": table(
                ["opponent", "host", "games", "residual of the mean score"],
                (
                    [name, host, games, f"{residual:+.3f}"]
                    for name, blocks in evidence.items()
                    for host, (games, residual) in blocks.hosts.items()
                ),
            ),
            "database": dg.MetadataValue.path(home.home.models / "evaluation" / chosen.config),
        },
    )


def _chosen(home: Home, config: str, prefix: str, rules: PromotionRules) -> tuple[Candidate, bool]:
    """The candidate to judge, and whether games can still decide on it: the last that is undecided and qualifies, else the last."""
    try:
        matching = [find(home, prefix, config)] if prefix else candidates(home, config)
    except UnknownCandidate as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    if not matching:
        raise dg.Failure(f"no candidate of {config} is registered", allow_retries=False)
    with DecisionLog(log_path(home)) as log:
        undecided = (entry for entry in matching if log.last_about(config, entry.sha256) is None)
        chosen = next((entry for entry in undecided if not qualify(home, entry, max_data_age=rules.max_data_age).problems), None)
    return chosen or matching[0], chosen is not None


def _opponents(home: Home, candidate: Candidate, rules: PromotionRules) -> list[str]:
    """The baselines, then the current model."""
    return sorted(assess(home, candidate, rules=rules).opponents, key=lambda name: (name == INCUMBENT, name))


def _below_floor(home: Home, candidate: Candidate, rules: PromotionRules) -> bool:
    return any(reason.code == "below_floor" for reason in assess(home, candidate, rules=rules).decision.reasons)


def _log_progress(context: dg.AssetExecutionContext) -> Callable[[str, int, int], None]:
    """Progress for the run's log: at the beginning, every few seconds, and at the end."""
    last = float("-inf")

    def progress(opponent: str, done: int, total: int) -> None:
        nonlocal last
        if done == total or time.monotonic() - last >= LOG_SECONDS:
            last = time.monotonic()
            context.log.info(f"{done} of at most {total} blocks against {opponent} count")

    return progress
