"""What `data_manifest` promises, and how each promise is judged from the manifest. No assets here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import dagster as dg

from ringrift_dagster.defs.presentation import moment, table
from ringrift_dagster.manifest import consistency, queries, report
from ringrift_dagster.manifest.liveness import SKEW_SECONDS
from ringrift_dagster.manifest.locations import Location, all_locations
from ringrift_dagster.manifest.orphans import Orphanhood, open_orphans
from ringrift_dagster.manifest.plane import Plane
from ringrift_dagster.manifest.states import Liveness
from ringrift_dagster.manifest.store import Store
from ringrift_dagster.transfer.promoted import lags

PROMISES = {
    "counters_agree": "What is counted on the side is what the replicas add up to; no config, size or chunk table is impossible.",
    "nothing_lost": "Every item that was ever safe still has a copy.",
    "nothing_stranded": "Every item has a copy at a place that answers.",
    "replicated": "Every item has as many copies as the hosts file wants, one of them on a host that does not come and go.",
    "every_location_answers": "Every place of the hosts file answered when it was last asked.",
    "no_brake_holds": "At no place so much is missing at once that a person has to say whether it is lost.",
    "current_models_everywhere": "Every host with a RingRift tree has the current model of every config under its name.",
    "clocks_agree": f"No host's clock differs by more than {SKEW_SECONDS:g} s.",
}
OF_ORPHANS = {Orphanhood.LOST: "nothing_lost", Orphanhood.STRANDED: "nothing_stranded"}
"""The check that an open orphan fails."""
LIMIT = 1000
"""Rows asked for; a table shows fewer and says how many more there are."""


def verdicts(plane: Plane) -> Iterator[dg.AssetCheckResult]:
    """A result for each of PROMISES."""
    places = [place for place in all_locations(plane.store) if place.active]
    yield _counters_agree(plane.store)
    yield from (orphan_verdict(plane.store, kind) for kind in OF_ORPHANS)
    yield _replicated(plane, places)
    yield _current_models_everywhere(plane)
    for judge in (_every_location_answers, _no_brake_holds, _clocks_agree):
        yield judge(places)


def orphan_verdict(store: Store, kind: Orphanhood) -> dg.AssetCheckResult:
    """Whether no item is an orphan of a kind now."""
    count = report.orphans_by_kind(store)[kind]
    found = [orphan for orphan in open_orphans(store, limit=LIMIT) if orphan.kind == kind] if count else []
    rows = (
        [orphan.type, orphan.config, f"{orphan.size:,}", orphan.location, orphan.path, moment(orphan.detected_at), orphan.proposal]
        for orphan in found
    )
    return dg.AssetCheckResult(
        check_name=OF_ORPHANS[kind],
        passed=not count,
        description=f"{count:,} items are {kind}" if count else f"no item is {kind}",
        metadata={"items": count, kind.value: table(["type", "config", "bytes", "last at", "path", "since", "what to do"], rows)}
        if count
        else {},
    )


def _counters_agree(store: Store) -> dg.AssetCheckResult:
    found = consistency.disagreements(store)
    rows = ([finding.rule, f"`{finding.where}`", finding.stored, finding.actual] for finding in found)
    broken = sorted({finding.rule for finding in found})
    return dg.AssetCheckResult(
        check_name="counters_agree",
        passed=not found,
        description="; ".join(f"not true: {consistency.RULES[rule]}" for rule in broken) or f"{len(consistency.RULES)} rules hold",
        metadata={"disagreements": table(["rule", "where", "stored", "counted"], rows)} if found else {},
    )


def _replicated(plane: Plane, places: Sequence[Location]) -> dg.AssetCheckResult:
    target = plane.cluster.thresholds.replication_target
    if len(places) < 2:
        return dg.AssetCheckResult(
            check_name="replicated",
            passed=True,
            severity=dg.AssetCheckSeverity.WARN,
            description="there is one place only: nothing to replicate to",
        )
    count = report.dangers(plane.store, target).under
    found = queries.under_replicated(plane.store, target, limit=LIMIT) if count else []
    return dg.AssetCheckResult(
        check_name="replicated",
        passed=not count,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{count:,} items have fewer than {target} copies, or none on a durable host" if count else None,
        metadata={"target": target, **({"under-replicated": dangers(found)} if found else {})},
    )


def _current_models_everywhere(plane: Plane) -> dg.AssetCheckResult:
    lacking = lags(plane)
    rows = (
        [
            lag.host,
            lag.config,
            f"`{lag.sha256[:12]}`",
            moment(lag.since),
            "it holds the model, but not under its name" if lag.held else "",
        ]
        for lag in lacking
    )
    return dg.AssetCheckResult(
        check_name="current_models_everywhere",
        passed=not lacking,
        severity=dg.AssetCheckSeverity.WARN,
        description=", ".join(sorted({f"{lag.host} lacks {lag.config}" for lag in lacking})[:10]) if lacking else None,
        metadata={"hosts with an older model or none": table(["host", "config", "current model", "current since", ""], rows)}
        if lacking
        else {},
    )


def dangers(found: Sequence[queries.Danger]) -> dg.MarkdownMetadataValue:
    """A table of items with too few copies."""
    rows = (
        [item.type, item.config, f"{item.size:,}", item.copies, item.durable, item.location, f"`{item.sha256[:12]}`"]
        for item in found
    )
    return table(["type", "config", "bytes", "copies", "durable", "only at", "sha256"], rows)


def _every_location_answers(places: Sequence[Location]) -> dg.AssetCheckResult:
    return _of_locations(
        "every_location_answers",
        [place for place in places if place.liveness != Liveness.ONLINE],
        f"{len(places)} places, all answer",
        ("is", lambda place: place.liveness),
        ("why", lambda place: place.reason),
        ("last answer", lambda place: moment(place.answered_at) or "never"),
    )


def _no_brake_holds(places: Sequence[Location]) -> dg.AssetCheckResult:
    return _of_locations(
        "no_brake_holds",
        [place for place in places if place.held],
        "no brake holds",
        ("missing at once", lambda place: f"{place.held:,}"),
        ("still there", lambda place: f"{place.replicas:,}"),
        severity=dg.AssetCheckSeverity.ERROR,
    )


def _clocks_agree(places: Sequence[Location]) -> dg.AssetCheckResult:
    return _of_locations(
        "clocks_agree",
        [place for place in places if abs(place.clock_skew or 0.0) > SKEW_SECONDS],
        "no clock is off",
        ("seconds ahead", lambda place: f"{place.clock_skew:+.1f}"),
    )


def _of_locations(
    name: str,
    bad: Sequence[Location],
    good: str,
    *columns: tuple[str, Callable[[Location], object]],
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.WARN,
) -> dg.AssetCheckResult:
    """Passed if no location is bad; else the bad ones with what makes them so."""
    rows = ([place.name, *(value(place) for _, value in columns)] for place in bad)
    return dg.AssetCheckResult(
        check_name=name,
        passed=not bad,
        severity=severity,
        description=", ".join(place.name for place in bad[:10]) + (", …" if len(bad) > 10 else "") if bad else good,
        metadata={"locations": table(["location", *(title for title, _ in columns)], rows)} if bad else {},
    )
