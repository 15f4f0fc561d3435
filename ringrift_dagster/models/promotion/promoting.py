"""Deciding on candidates and recording it, what operators decide themselves (rollback and pin), and publishing what is current.

The rules of a decision are in `decision`, how evidence comes about in `gathering`, the entries in `log`, the files that readers see
in `models.publishing`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ringrift_dagster.ai.registry import parse_spec
from ringrift_dagster.datasets.canonical_games import stored_digests
from ringrift_dagster.games.config import CONFIG_KEYS, Config, parse_config
from ringrift_dagster.home import Home
from ringrift_dagster.models.candidates import (
    Candidate,
    Qualification,
    directory,
    find,
    qualify,
)
from ringrift_dagster.models.evaluation.matches import HARNESS_VERSION, registry_participant
from ringrift_dagster.models.evaluation.records import Blocks, Participant, Series, blocks_of, exhausted_block
from ringrift_dagster.models.evaluation.store import EvidenceStore
from ringrift_dagster.models.manifest import Current
from ringrift_dagster.models.promotion.decision import INCUMBENT, Decision, PromotionRules, Reason, decide, default_rules
from ringrift_dagster.models.promotion.log import DecisionLog, Entry
from ringrift_dagster.models.publishing.published_set import ModelFile, Publication, publish
from ringrift_dagster.models.publishing.reasons import PublishingRefused
from ringrift_dagster.models.publishing.signature import configured_signer


class NothingToDo(ValueError):
    """A command that cannot be carried out; the message is one line that says why."""


@dataclass(frozen=True)
class Assessment:
    """A candidate, everything known about it, and the decision that follows; `current` is the model that was current then."""

    qualification: Qualification
    current: str | None
    opponents: Mapping[str, Participant]
    evidence: Mapping[str, Blocks]
    decision: Decision
    rules: PromotionRules
    at: float

    @property
    def candidate(self) -> Candidate:
        return self.qualification.candidate

    def to_dict(self) -> dict[str, Any]:
        """Everything that the decision rests on, as JSON values."""
        data = self.qualification.training_set
        return {
            "candidate": self.candidate.model_dump(),
            "incumbent": self.current,
            "training_set": None
            if data is None
            else {**asdict(data), "newest_game": data.newest_game and data.newest_game.isoformat()},
            "problems": [asdict(problem) for problem in self.qualification.problems],
            "opponents": {name: participant.key for name, participant in self.opponents.items()},
            "hosts": {name: dict(blocks.hosts) for name, blocks in self.evidence.items()},
            "rules": asdict(self.rules),
            "decision": self.decision.to_dict(),
            "decided_at": self.at,
        }


def evidence_path(home: Home) -> Path:
    """The file of the evaluation games' records."""
    return home.models / "evidence.db"


def log_path(home: Home) -> Path:
    """The file of the decisions."""
    return home.models / "decisions.db"


def model_participant(sha256: str, rules: PromotionRules) -> Participant:
    """A model, played by the AI that the rules name, as a participant."""
    return Participant(rules.player, HARNESS_VERSION, sha256)


def opponents_of(config: Config, current: str | None, rules: PromotionRules) -> dict[str, Participant]:
    """Who a candidate has to be compared with, by name: the baselines, and the incumbent if there is one."""
    opponents = {name: registry_participant(parse_spec(name, config)) for name in rules.floors}
    return opponents if current is None else {**opponents, INCUMBENT: model_participant(current, rules)}


def assess(
    home: Home,
    candidate: Candidate,
    *,
    rules: PromotionRules | None = None,
    now: float | None = None,
) -> Assessment:
    """Decide on a candidate with the evidence that there is. Nothing is recorded. Raises sqlite3.Error and OSError."""
    config = parse_config(candidate.config)
    rules = rules or default_rules(config.players)
    now = time.time() if now is None else now
    qualification = qualify(home, candidate, max_data_age=rules.max_data_age)
    with DecisionLog(log_path(home)) as log:
        entry = log.current(config.key)
        rolled_back = log.is_rolled_back(config.key, candidate.sha256)
    current = entry.sha256 if entry else None
    objections = [Reason("unfit", problem.text) for problem in qualification.problems]
    if rolled_back:
        objections.append(Reason("rolled_back", "`ringrift-data models rollback --to` makes it current again"))
    if current == candidate.sha256:
        objections.append(Reason("already_current", f"{candidate.sha256[:12]} has been current since its promotion"))
        current = None
    opponents = opponents_of(config, current, rules)
    evidence: dict[str, Blocks] = {}
    exhausted: list[str] = []
    with EvidenceStore(evidence_path(home)) as store:
        for name, opponent in opponents.items():
            series = Series(config.key, model_participant(candidate.sha256, rules), opponent)
            games = store.games(series)
            evidence[name] = blocks_of(games, config)
            if exhausted_block(games, store.attempts(series), config) is not None:
                exhausted.append(name)
    if contaminated := contaminated_games(home, config):
        objections.append(Reason("contaminated", f"{len(contaminated)} evaluation games, {contaminated[0][:12]} first"))
    has_incumbent = current is not None
    decision = decide(evidence, rules, now, has_incumbent=has_incumbent, exhausted=exhausted, objections=objections)
    return Assessment(qualification, entry and entry.sha256, opponents, evidence, decision, rules, now)


def contaminated_games(home: Home, config: Config) -> list[str]:
    """The digests of evaluation games that are among the canonical games of their config. Raises CorruptStore and sqlite3.Error."""
    with EvidenceStore(evidence_path(home)) as store:
        return sorted(store.digests(config.key) & stored_digests(config, home))


def record(home: Home, assessment: Assessment, who: str) -> Entry | None:
    """Record a promotion or a refusal; None where more games are needed, or where the same refusal is the last word already.

    Raises CurrentChanged, Pinned and sqlite3.Error.
    """
    decision, candidate = assessment.decision, assessment.candidate
    if decision.verdict == "continue":
        return None
    with DecisionLog(log_path(home)) as log:
        last = log.last_about(candidate.config, candidate.sha256)
        if decision.verdict == "refuse" and last is not None and last.why == decision.rationale:
            return None
        if any(reason.code == "already_current" for reason in decision.reasons):
            return None
        return log.append(
            candidate.config,
            decision.verdict,
            candidate.sha256,
            who=who,
            why=decision.rationale,
            record=assessment.to_dict(),
            expected=assessment.current,
        )


def rollback(home: Home, config: Config, prefix: str | None, *, who: str, why: str) -> Entry:
    """Make a model current again that was current before: the one whose hash begins with `prefix`, or the previous one.

    Raises NothingToDo, UnknownCandidate, Pinned and CurrentChanged.
    """
    with DecisionLog(log_path(home)) as log:
        current = log.current(config.key)
        if current is None:
            raise NothingToDo(f"no model of {config.key} was ever promoted: there is nothing to roll back")
        if prefix is None:
            predecessors = log.predecessors(config.key)
            if not predecessors:
                raise NothingToDo(f"{current.sha256[:12]} is the first model of {config.key}: there is none to go back to")
            prefix = predecessors[0]
        candidate = find(home, prefix, config.key)
        if candidate.sha256 == current.sha256:
            raise NothingToDo(f"{candidate.sha256[:12]} is the current model of {config.key} already")
        try:
            log.promotion(config.key, candidate.sha256)
        except LookupError as error:
            raise NothingToDo(f"{error}: only evidence promotes, see `ringrift-data models decide`") from error
        if damage := [problem for problem in qualify(home, candidate).problems if problem.code == "file_damaged"]:
            raise NothingToDo(f"{candidate.sha256[:12]} cannot be made current: {damage[0].text}")
        return log.append(
            config.key, "rollback", candidate.sha256, who=who, why=why, record={"from": current.sha256}, expected=current.sha256
        )


def pin(home: Home, config: Config, *, who: str, why: str, release: bool = False) -> Entry:
    """Keep the current model of a config whatever the evidence says, or let it be replaced again. Raises NothingToDo."""
    with DecisionLog(log_path(home)) as log:
        current, standing = log.current(config.key), log.pin(config.key)
        if current is None:
            raise NothingToDo(f"no model of {config.key} was ever promoted: there is none to pin")
        if release == (standing is None):
            state = f"is pinned to {standing.sha256[:12]} already" if standing else "is not pinned"
            raise NothingToDo(f"{config.key} {state}")
        return log.append(config.key, "unpin" if release else "pin", current.sha256, who=who, why=why, expected=current.sha256)


def published_path(home: Home) -> Path:
    """The published set: the current model of every config, under the names that RingRift's readers look for."""
    return home.models / "published"


def publish_current(home: Home) -> Publication:
    """Make the published set what the log says; changes nothing if it is.

    One config that cannot be published keeps no other from it. Raises PublishingRefused and sqlite3.Error.
    """
    models: dict[str, ModelFile] = {}
    damaged: list[str] = []
    with DecisionLog(log_path(home)) as log:
        for config in CONFIG_KEYS:
            if (entry := log.current(config)) is not None:
                try:
                    models[config] = _model_file(home, log, entry)
                except (LookupError, ValidationError):
                    damaged.append(f"the promotion of {entry.sha256[:12]} for {config} is not on record")
    publication = publish(published_path(home), models, sign=configured_signer())
    if damaged:
        raise PublishingRefused("no_content", damaged[0])
    return publication


def _model_file(home: Home, log: DecisionLog, entry: Entry) -> ModelFile:
    promotion = log.promotion(entry.config, entry.sha256)
    candidate = Candidate.model_validate(promotion.record["candidate"])
    facts = candidate.facts
    current = Current(
        sha256=entry.sha256,
        promoted_at=entry.at,
        bytes=candidate.bytes,
        architecture=facts.architecture,
        architecture_version=facts.architecture_version,
        encoder=facts.encoder,
        in_channels=facts.in_channels,
        policy_size=facts.policy_size,
        training_data_sha256=candidate.training_data_sha256,
        decision=str(entry.id),
        model=f"{entry.config}_{entry.sha256[:12]}",
    )
    return ModelFile(current, directory(home, entry.config) / candidate.file)
