"""The asset `promoted_models`: which candidate the evidence supports, recorded and published; and the jobs of models."""

from collections.abc import Iterable, Iterator, Sequence

import dagster as dg

from ringrift_dagster.datasets.canonical_games import CorruptStore
from ringrift_dagster.defs.models.charts import course_chart
from ringrift_dagster.defs.models.rules import rules_for
from ringrift_dagster.defs.partitions import CONFIGS
from ringrift_dagster.defs.policies import OWNERS, config_check
from ringrift_dagster.defs.presentation import location, moment, table
from ringrift_dagster.defs.resources import HomeResource, PlaneResource
from ringrift_dagster.games.config import parse_config
from ringrift_dagster.home import Home
from ringrift_dagster.models.candidates import candidates
from ringrift_dagster.models.promotion.log import CurrentChanged, DecisionLog, Entry, Pinned
from ringrift_dagster.models.promotion.promoting import (
    Assessment,
    assess,
    contaminated_games,
    log_path,
    publish_current,
    published_path,
    record,
)
from ringrift_dagster.models.publishing.names import SUFFIX, model_names
from ringrift_dagster.models.publishing.published_set import MANIFEST, check_set, signed_manifest
from ringrift_dagster.models.publishing.reasons import PublishingRefused
from ringrift_dagster.models.publishing.signature import configured_verifier

NAME = "promoted_models"
CHECKS = {
    "evidence_sufficient": "The decision that made the model current rests on as many blocks as the rules require.",
    "beats_incumbent": "The sequential test said that it is stronger than the model before it.",
    "floors_held": "It is above the floor against every baseline, in a sample of fixed size.",
    "uncontaminated": "No evaluation game is among the canonical games, from which training sets are made.",
    "file_sound": "The published files have the bytes of the decision's hash, under every name that RingRift's readers look for.",
}


@dg.asset(
    name=NAME,
    deps=["candidate_models", "evaluation_games"],
    partitions_def=CONFIGS,
    group_name="models",
    kinds={"pytorch"},
    owners=OWNERS,
    tags={"ringrift/layer": "models"},
    code_version="1",
    output_required=False,
    check_specs=[config_check(name, NAME, promise, blocking=True) for name, promise in CHECKS.items()],
)
def promoted_models(
    context: dg.AssetExecutionContext, home: HomeResource, plane: PlaneResource
) -> Iterator[dg.MaterializeResult | dg.AssetObservation | dg.AssetCheckResult]:
    """The current model of a config: the candidate that the evidence supports.

    Decides on the candidates that were not decided on, the last registered first, records promotions and refusals, and publishes
    the current model under the names that RingRift's readers look for. Nothing is promoted by name, by time or by hand. While no
    candidate is promoted the run succeeds and says what is missing; the asset is not materialised then.
    """
    config = context.partition_key
    assessments = _decide(context, home.home, plane)
    with DecisionLog(log_path(home.home)) as log:
        current = log.current(config)
        promotion = log.promotion(config, current.sha256) if current else None
        history = log.history(config)
    decided = table(
        ["candidate", "verdict", "reasons"],
        (
            [
                f"`{entry.candidate.sha256[:12]}`",
                entry.decision.verdict,
                _codes(reason.code for reason in entry.decision.reasons),
            ]
            for entry in assessments
        ),
    )
    for entry in assessments:
        context.log.info(f"{entry.candidate.sha256[:12]}: {entry.decision.rationale}")
    if current is None or promotion is None:
        yield dg.AssetObservation(
            NAME,
            partition=config,
            description=f"no model of {config} is promoted",
            metadata={"candidates": decided, "rationale": dg.MetadataValue.md(_rationales(assessments))},
        )
        for name in CHECKS:
            yield dg.AssetCheckResult(
                check_name=name, passed=False, severity=dg.AssetCheckSeverity.WARN, description=f"no model of {config} is promoted"
            )
        return
    try:
        publish_current(home.home)
        stems = (MANIFEST, *(name.removesuffix(SUFFIX) for name in model_names(config)))
        checked = check_set(published_path(home.home), configured_verifier())
        findings = [str(finding) for finding in checked if finding.name.startswith(stems)]
    except PublishingRefused as error:
        raise dg.Failure(f"the decision stands, but is not published: {error}") from error
    context.log.info(_ship(home.home, plane, current))
    yield dg.MaterializeResult(
        data_version=dg.DataVersion(current.sha256),
        metadata={
            "current model": dg.MetadataValue.text(current.sha256),
            "since": dg.MetadataValue.text(moment(current.at)),
            "decided by": dg.MetadataValue.text(current.who),
            "rationale": dg.MetadataValue.md(current.why.replace("\n", "\n\n")),
            **_evidence(promotion),
            "candidates decided on now": decided,
            "decisions": table(
                ["decided", "kind", "model", "by", "why"],
                ([moment(entry.at), entry.kind, f"`{entry.sha256[:12]}`", entry.who, _why(entry)] for entry in history),
            ),
            **location(published_path(home.home)),
        },
        check_results=list(_checks(promotion, contaminated_games(home.home, parse_config(config)), findings)),
    )


def _ship(home: Home, plane: PlaneResource, current: Entry) -> str:
    """Have the current model brought to every host; what was done, in a line."""
    from ringrift_dagster.transfer.promoted import NotAtHome, ship

    manifest = signed_manifest(published_path(home))
    try:
        with plane.open() as opened:
            operations = ship(opened, current.config, current.sha256, current.id, promoted_at=current.at, manifest=manifest)
    except NotAtHome as error:
        raise dg.Failure(str(error)) from error
    return f"{operations} operations bring {current.sha256[:12]} to hosts that lack it"


def _decide(context: dg.AssetExecutionContext, home: Home, plane: PlaneResource) -> list[Assessment]:
    """Decide on the candidates of the config until one is promoted; those that were decided on before are left out."""
    config = context.partition_key
    rules = rules_for(plane, config)
    with DecisionLog(log_path(home)) as log:
        undecided = [entry for entry in candidates(home, config) if log.last_about(config, entry.sha256) is None]
    assessments: list[Assessment] = []
    try:
        for candidate in undecided:
            assessments.append(assessment := assess(home, candidate, rules=rules))
            record(home, assessment, f"run {context.run.run_id}")
            if assessment.decision.verdict == "promote":
                break
    except (CurrentChanged, Pinned) as error:
        context.log.warning(str(error))
    except CorruptStore as error:
        raise dg.Failure(
            f"whether evaluation games are among the canonical games is unknown: {error}", allow_retries=False
        ) from error
    return assessments


def _codes(codes: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(codes))


def _why(entry: Entry) -> str:
    """The reason codes of a decision on evidence; what the operator wrote of any other."""
    if entry.kind in ("promote", "refuse"):
        return _codes(reason["code"] for reason in entry.record["decision"]["reasons"])
    return entry.why


def _rationales(assessments: Sequence[Assessment]) -> str:
    lines = [f"**{entry.candidate.sha256[:12]}** {entry.decision.rationale}" for entry in assessments]
    return "\n\n".join(line.replace("\n", "\n\n") for line in lines) or "no candidate is waiting for a decision"


def _evidence(promotion: Entry) -> dict[str, dg.MetadataValue | float]:
    """What the promotion of the current model rests on."""
    decision, data = promotion.record["decision"], promotion.record["training_set"] or {}
    test = decision["incumbent"]
    shown: dict[str, dg.MetadataValue | float] = {
        "floors": table(
            ["baseline", "blocks", "score", "at least", "floor"],
            (
                [name, floor["blocks"], f"{floor['score']:.3f}", f"{floor['lower_bound']:.3f}", f"{floor['floor']:.3f}"]
                for name, floor in decision["floors"].items()
            ),
        ),
        "training set": dg.MetadataValue.text(str(data.get("sha256"))),
        "games' digest root": dg.MetadataValue.text(str(data.get("game_digests_root"))),
    }
    if test is not None:
        estimate = test["estimate"]
        shown |= {
            "log-likelihood ratio": round(test["llr"], 4),
            "Elo against the model before": dg.MetadataValue.text(
                f"{estimate['elo']:+.0f} (95 %: {estimate['lowest']:+.0f} to {estimate['highest']:+.0f})"
            ),
            "course of the test": course_chart(test["course"], test["lower"], test["upper"]),
        }
    return shown


def _checks(promotion: Entry, contaminated: Sequence[str], findings: Sequence[str]) -> Iterator[dg.AssetCheckResult]:
    decision, rules = promotion.record["decision"], promotion.record["rules"]
    test, floors = decision["incumbent"], decision["floors"]
    first = promotion.record["incumbent"] is None
    tested = test["blocks"] if test else 0
    enough = floors.keys() == rules["floors"].keys() and (first or tested >= rules["min_blocks"])
    short = [name for name, floor in floors.items() if not floor["lower_bound"] > floor["floor"]]
    outcomes: dict[str, tuple[bool, str]] = {
        "evidence_sufficient": (enough, f"{tested} blocks against the model before, {len(floors)} baselines"),
        "beats_incumbent": (True, "the first model of its config")
        if first
        else (bool(test) and test["outcome"] == "accept", f"log-likelihood ratio {test['llr']:.2f}" if test else "not tested"),
        "floors_held": (bool(floors) and not short, f"below the floor: {', '.join(short)}" if short else ", ".join(floors)),
        "uncontaminated": (not contaminated, f"{len(contaminated)} evaluation games are canonical games" if contaminated else ""),
        "file_sound": (not findings, "; ".join(findings[:3])),
    }
    for name, (passed, description) in outcomes.items():
        yield dg.AssetCheckResult(check_name=name, passed=passed, description=description or None)


promotion_job = dg.define_asset_job(
    "promotion_job",
    selection=["candidate_models", "evaluation_games", NAME],
    description="Look at the candidates of one config, play the games that a decision needs, and decide.",
    tags={"ringrift/op_class": "SELFPLAY"},
)
"""One run a config: the games take all cores, like self-play."""
