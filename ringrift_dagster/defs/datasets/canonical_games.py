"""`canonical_games`: the games of a config that passed the canonical gate, and nothing else."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import dagster as dg

from ringrift_dagster.ai.findings import FindingCode, FindingsReport
from ringrift_dagster.canonical.gate import RULES_VERSION, JudgedGame, Observer
from ringrift_dagster.datasets.canonical_games import (
    AppendResult,
    CanonicalSummary,
    append_canonical,
    check_store,
    summarise,
)
from ringrift_dagster.defs.partitions import CONFIGS
from ringrift_dagster.defs.policies import FOLLOW_UPSTREAM, OWNERS, RETRY, config_check
from ringrift_dagster.defs.presentation import location, mix, table, timestamp
from ringrift_dagster.defs.resources import HomeResource
from ringrift_dagster.games.sources import damaged_snapshots, registration, retire_superseded

NAME = "canonical_games"
NO_FAULT = frozenset({"unfinished", "duplicate_game"})
"""Reasons to keep a game out that say nothing against it: it goes on, or it is in the store already."""
PLAYERS_NOT_KNOWN = (FindingCode.NOT_RECORDED, FindingCode.UNKNOWN, FindingCode.COLUMNS_DISAGREE)
"""Findings after which it is unknown which AI played; the others are about a known AI."""


class KeptOut(NamedTuple):
    """One game (or a whole database) that is not in the store, and why."""

    database: str
    game: str
    reason: str
    move: int | None
    detail: str | None


@dg.asset(
    name=NAME,
    deps=["selfplay_databases"],
    partitions_def=CONFIGS,
    group_name="canonical",
    kinds={"parquet"},
    owners=OWNERS,
    tags={"ringrift/layer": "canonical"},
    retry_policy=RETRY,
    pool="replay",
    code_version=RULES_VERSION,
    automation_condition=FOLLOW_UPSTREAM,
    check_specs=[
        config_check(
            "gate",
            NAME,
            "The store holds each game once, whole, of this config, judged by these rules.",
            blocking=True,
        ),
        config_check(
            "no_rejections",
            NAME,
            "No game was rejected. Rejected games are in quarantine, never in the store.",
        ),
        config_check(
            "ai_recorded",
            NAME,
            "Every canonical game of the registered snapshots records the AIs that played it.",
        ),
    ],
)
def canonical_games(context: dg.AssetExecutionContext, home: HomeResource) -> dg.MaterializeResult:
    """Every game here was replayed move by move under the canonical rules and agreed with every hash it recorded.

    Judges the games of the registered snapshots that were not judged yet, appends those that pass (once each,
    by the digest of initial state and moves), and quarantines the others with a reason. `training_npz` is
    made of nothing else.
    """
    config = context.partition_key
    registered = registration(config, home.home)
    if damaged := damaged_snapshots(registered, home.home):
        raise dg.Failure(
            f"{len(damaged)} registered snapshots are damaged; materialise selfplay_databases again",
            metadata={"damaged": table(["snapshot"], ([line] for line in damaged))},
            allow_retries=False,
        )
    if problems := check_store(config, home.home):
        raise dg.Failure(f"the store is damaged, nothing is added to it: {'; '.join(problems[:3])}", allow_retries=False)
    snapshots = {entry.path(config, home.home): entry.source for entry in registered.databases}
    report = FindingsReport()
    appended = append_canonical(config, list(snapshots), home.home, observe=_canonical_into(report))
    unreadable = {entry["database"] for entry in appended.unreadable}
    retire_superseded(config, home.home, judged={path.stem for path in snapshots if path.name not in unreadable})
    store = summarise(config, home.home)
    kept_out = _kept_out(appended, {path.name: source for path, source in snapshots.items()})
    return dg.MaterializeResult(
        data_version=dg.DataVersion(store.digest_root or "empty"),
        metadata={**_metadata(appended, store, kept_out, home.home.canonical / config), **_ai_findings(report)},
        check_results=[_gate(check_store(config, home.home), store), _no_rejections(kept_out), _ai_recorded(report)],
    )


def _metadata(
    appended: AppendResult, store: CanonicalSummary, kept_out: list[KeptOut], where: Path
) -> dict[str, dg.MetadataValue | int]:
    return {
        "dagster/row_count": store.games,
        "judged": appended.judged,
        "accepted": appended.accepted,
        "rejected": appended.rejected,
        "already judged": appended.already,
        "unfinished": appended.unfinished,
        "rejected by reason": mix("reason", appended.reasons) if appended.reasons else dg.MetadataValue.text("none"),
        **_listed(kept_out),
        "moves": store.moves,
        "bytes": store.bytes,
        "newest game": timestamp(store.newest_game),
        "phases": mix("phase", store.phases),
        "winners": mix("seat", store.outcomes),
        "victory types": mix("victory", store.victory_types),
        "rules version": dg.MetadataValue.text(RULES_VERSION),
        "digest root": dg.MetadataValue.text(store.digest_root),
        **location(where),
    }


def _gate(problems: list[str], store: CanonicalSummary) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name="gate",
        passed=not problems,
        description="; ".join(problems[:3]) or f"{store.games} games, all canonical",
        metadata={"problems": table(["problem"], ([problem] for problem in problems))} if problems else {},
    )


def _no_rejections(kept_out: list[KeptOut]) -> dg.AssetCheckResult:
    """A warning, not an error: what was rejected is kept out, and the rest is good."""
    bad = Counter(entry.reason for entry in kept_out if entry.reason not in NO_FAULT)
    reasons = ", ".join(f"{count} {reason}" for reason, count in bad.items())
    return dg.AssetCheckResult(
        check_name="no_rejections",
        passed=not bad,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"rejected: {reasons}" if bad else "every finished game passed",
        metadata=_listed(kept_out),
    )


def _canonical_into(report: FindingsReport) -> Observer:
    """An observer that adds the findings on canonical games to `report`, each game once."""
    seen: set[str | None] = set()

    def observe(judged: JudgedGame) -> None:
        if judged.verdict.reason in (None, "duplicate_game") and judged.verdict.digest not in seen:
            seen.add(judged.verdict.digest)
            report.add(judged.record)

    return observe


def _ai_findings(report: FindingsReport) -> dict[str, dg.MetadataValue]:
    return {"AI findings": mix("finding", report.counts) if report.counts else dg.MetadataValue.text("none")}


def _ai_recorded(report: FindingsReport) -> dg.AssetCheckResult:
    """A warning, not an error: a game is canonical by its moves, whoever played it."""
    missing = {code.value: report.counts[code.value] for code in PLAYERS_NOT_KNOWN if report.counts[code.value]}
    counts = ", ".join(f"{count} {code}" for code, count in missing.items())
    listed = (
        [finding["game_id"], finding["player"], finding["code"].value, finding["detail"]]
        for finding in report.listed
        if finding["code"] in PLAYERS_NOT_KNOWN
    )
    return dg.AssetCheckResult(
        check_name="ai_recorded",
        passed=not missing,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"players: {counts}" if missing else "every game records its AIs",
        metadata={"findings": table(["game", "player", "finding", "detail"], listed)} if missing else {},
    )


def _kept_out(appended: AppendResult, sources: Mapping[str, str]) -> list[KeptOut]:
    """What the gate did not let in, under the names of the sources (`sources`: by snapshot)."""
    whole = [
        KeptOut(sources.get(entry["database"], entry["database"]), "all", "unreadable", None, entry["detail"])
        for entry in appended.unreadable
    ]
    games = [
        KeptOut(
            sources.get(entry["database"], entry["database"]),
            entry["game_id"],
            entry["reason"],
            entry["move_number"],
            entry["detail"],
        )
        for entry in appended.rejected_games
    ]
    return sorted([*whole, *games], key=lambda entry: entry.reason in NO_FAULT)


def _listed(kept_out: list[KeptOut]) -> dict[str, dg.MetadataValue]:
    """The table of what was kept out, the bad first; nothing if there is nothing."""
    return {"kept out": table([*KeptOut._fields], kept_out)} if kept_out else {}
