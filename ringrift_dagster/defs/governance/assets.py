"""The asset `ai_registry`: the table of AI types, and the contradictions between RingRift's own tables."""

import hashlib
from dataclasses import asdict

import dagster as dg
import orjson

from ringrift_dagster.ai.ladders import (
    REGISTERED,
    RUNGS,
    Contradiction,
    contradictions,
    difficulties_text,
    problems,
    unacknowledged,
)
from ringrift_dagster.ai.registry import AI_TYPES, ALIASES, FLAGS, AIType
from ringrift_dagster.defs.policies import OWNERS
from ringrift_dagster.defs.presentation import mix, table

NAME = "ai_registry"


@dg.asset(
    name=NAME,
    group_name="governance",
    kinds={"report"},
    owners=OWNERS,
    tags={"ringrift/layer": "governance"},
    code_version="1",
    check_specs=[
        dg.AssetCheckSpec(
            "registry_consistent",
            asset=NAME,
            description="Names stand for AI types, flags and rungs are in range, and RingRift's contradictions are the known ones.",
            blocking=True,
        ),
        dg.AssetCheckSpec(
            "ladder_contradictions",
            asset=NAME,
            description="RingRift's difficulty ladders, its registry and its code agree. Names every contradiction.",
        ),
    ],
)
def ai_registry() -> dg.MaterializeResult:
    """Every AI type of RingRift: status, capabilities, difficulties on four ladders, and the names that stand for one.

    Self-play, AI replay and findings on games read this table. It is part of this package, so
    materialising it publishes what the installed version says.
    """
    faults = [*problems(), *unacknowledged()]
    known = contradictions()
    return dg.MaterializeResult(
        data_version=dg.DataVersion(_digest()),
        metadata={
            "dagster/row_count": len(AI_TYPES),
            "aliases": len(ALIASES),
            "rungs": len(RUNGS),
            "contradictions": len(known),
            "types": table(
                [
                    "name",
                    "version",
                    "status",
                    "played by us",
                    *(flag.replace("_", " ") for flag in FLAGS),
                    "boards",
                    "difficulties",
                ],
                map(_row, AI_TYPES.values()),
            ),
            "names that are no types": table(
                ["name", "stands for", "meaning"], ([alias.name, alias.ai, alias.meaning] for alias in ALIASES.values())
            ),
            "statuses": mix("status", {status: _count(status) for status in {ai.status for ai in AI_TYPES.values()}}),
        },
        check_results=[_consistent(faults), _ladder_contradictions(known)],
    )


def _row(ai: AIType) -> list[object]:
    marks = ("✓" if getattr(ai, flag) else "" for flag in FLAGS)
    return [
        ai.name,
        ai.version or "none",
        ai.status,
        "✓" if ai.playable else "",
        *marks,
        ", ".join(ai.boards),
        difficulties_text(ai.name),
    ]


def _count(status: str) -> int:
    return sum(ai.status == status for ai in AI_TYPES.values())


def _digest() -> str:
    """SHA-256 of the registry's tables."""
    tables = [[asdict(entry) for entry in entries] for entries in (AI_TYPES.values(), ALIASES.values(), RUNGS, REGISTERED.values())]
    return hashlib.sha256(orjson.dumps(tables)).hexdigest()


def _consistent(faults: list[str]) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name="registry_consistent",
        passed=not faults,
        description="; ".join(faults[:3]) or f"{len(AI_TYPES)} AI types, consistent",
        metadata={"problems": table(["problem"], ([line] for line in faults))} if faults else {},
    )


def _ladder_contradictions(known: list[Contradiction]) -> dg.AssetCheckResult:
    """A warning, not an error: the contradictions are RingRift's and can only be resolved there."""
    codes = {entry.code.value: sum(other.code == entry.code for other in known) for entry in known}
    counts = ", ".join(f"{count} {code}" for code, count in codes.items())
    rows = [[entry.code, entry.subject, entry.detail] for entry in known]
    return dg.AssetCheckResult(
        check_name="ladder_contradictions",
        passed=not known,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{len(known)} contradictions in RingRift: {counts}" if known else "no contradictions",
        metadata={code: table(["code", "about", "detail"], [row for row in rows if row[0] == code]) for code in codes},
    )
