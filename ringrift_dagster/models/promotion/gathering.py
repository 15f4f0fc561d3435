"""Collecting the evidence that a decision needs: which opponents a candidate plays, and how many blocks.

How games are played is in `evaluation.matches`, what follows from them in `decision` and `promoting`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from ringrift_dagster.ai.registry import parse_spec
from ringrift_dagster.games.config import Config, parse_config
from ringrift_dagster.home import Home
from ringrift_dagster.models.candidates import Candidate, UnknownCandidate, directory, find
from ringrift_dagster.models.evaluation.matches import Match, evaluate, registry_participant
from ringrift_dagster.models.evaluation.records import Participant, Series, blocks_of
from ringrift_dagster.models.evaluation.store import EvidenceStore
from ringrift_dagster.models.promotion.decision import INCUMBENT, PromotionRules, default_rules, until_decided
from ringrift_dagster.models.promotion.log import DecisionLog
from ringrift_dagster.models.promotion.promoting import NothingToDo, evidence_path, log_path, model_participant, opponents_of

Progress = Callable[[str, int, int], None]
"""Called with (opponent, blocks that are complete, blocks to complete)."""


def database_path(home: Home, series: Series) -> Path:
    """The database of a series' games."""
    names = (_file_part(series.candidate), "vs", _file_part(series.opponent))
    return home.models / "evaluation" / series.config / f"{'_'.join(names)}.db"


def gather(
    home: Home,
    candidate: Candidate,
    against: Sequence[str],
    *,
    rules: PromotionRules | None = None,
    blocks: int | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> dict[str, int]:
    """Play the candidate against these opponents, as far as the decision needs it or to `blocks`; how many blocks were played.

    Against a baseline the fixed sample is played, against the incumbent until the sequential test decides. Raises NothingToDo,
    UnknownParticipant, RecordingError, WorkerLost and ConflictingEvidence.
    """
    config = parse_config(candidate.config)
    rules = rules or default_rules(config.players)
    with DecisionLog(log_path(home)) as log:
        entry = log.current(config.key)
    opponents = opponents_of(config, entry.sha256 if entry else None, rules)
    played: dict[str, int] = {}
    for name in against:
        opponent = opponents.get(name) or _other(name, config)
        if name == INCUMBENT and opponent.sha256 == candidate.sha256:
            raise NothingToDo(f"{candidate.sha256[:12]} is the current model of {config.key}: it has no incumbent to play")
        series = Series(config.key, model_participant(candidate.sha256, rules), opponent)
        hashes = [player.sha256 for player in (series.candidate, opponent) if player.sha256 is not None]
        match = Match(series, tuple((sha256, _file(home, config, sha256)) for sha256 in hashes))
        most = blocks or (rules.max_blocks if name == INCUMBENT else rules.floor_blocks)
        stop = until_decided(rules) if name == INCUMBENT and blocks is None else None
        with EvidenceStore(evidence_path(home)) as store:
            known = blocks_of(store.games(series), config)
            if known.complete >= most or (stop is not None and stop(known)):
                played[name] = 0
                continue
            played[name] = evaluate(
                match,
                most,
                store,
                database_path(home, series),
                workers=workers,
                progress=None if progress is None else partial(progress, name),
                stop=stop,
            )
    return played


def _other(name: str, config: Config) -> Participant:
    if name == INCUMBENT:
        raise NothingToDo(f"{config.key} has no current model yet: play against the baselines, e.g. --against random,heuristic")
    try:
        return registry_participant(parse_spec(name, config))
    except ValueError as error:
        raise NothingToDo(f"{error}; opponents are incumbent and the AIs that we play") from error


def _file(home: Home, config: Config, sha256: str) -> Path:
    try:
        return directory(home, config.key) / find(home, sha256, config.key).file
    except UnknownCandidate as error:
        raise NothingToDo(f"the file of model {sha256[:12]} is not among the candidates of {config.key}") from error


def _file_part(participant: Participant) -> str:
    return participant.sha256[:16] if participant.sha256 else participant.name.replace(":", "-")
