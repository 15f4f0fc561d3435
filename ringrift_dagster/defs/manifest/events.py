"""From changes of the manifest to what Dagster shows: a few events a tick, however much changed. Sensors are not here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import dagster as dg

from ringrift_dagster.defs.manifest.checks import OF_ORPHANS, orphan_verdict
from ringrift_dagster.defs.presentation import moment, table
from ringrift_dagster.manifest.changes import KINDS, Change
from ringrift_dagster.manifest.locations import Location, all_locations
from ringrift_dagster.manifest.orphans import Orphanhood
from ringrift_dagster.manifest.refresh import Refreshed
from ringrift_dagster.manifest.report import Held, holdings_at, orphans_by_kind
from ringrift_dagster.manifest.store import Store

Event = dg.AssetObservation | dg.AssetCheckEvaluation

MANIFEST = dg.AssetKey("data_manifest")
REPLICAS = dg.AssetKey("host_replicas")
MAX_EVENTS = 10
"""Of one tick. Dagster takes about a hundred events a second from everybody together."""
MAX_HOSTS = MAX_EVENTS - 1 - len(OF_ORPHANS)
"""Hosts told of one by one; more of them share the last event."""
URGENT = frozenset(
    {
        "HOST_ONLINE",
        "HOST_OFFLINE",
        "HOST_UNAVAILABLE",
        "LOCATION_ONLINE",
        "LOCATION_OFFLINE",
        "LOCATION_UNAVAILABLE",
        "ORPHAN_DETECTED",
        "ORPHANS_RESOLVED",
        "LOSS_ACCEPTED",
    }
)
"""Kinds of change that an operator must see at once."""
_SERIOUS = ("held", "lost", "damaged", "contradicted")
"""What makes a change of replicas such a change."""


def is_urgent(change: Change) -> bool:
    """Whether `data_manifest` should be made anew because of it: a place came or went, items did, or a brake holds."""
    return change.kind in URGENT or (change.kind == "REPLICAS_CHANGED" and any(change.detail.get(name) for name in _SERIOUS))


def events(store: Store, changes: Sequence[Change], refreshed: Refreshed) -> list[Event]:
    """At most MAX_EVENTS that tell of the changes; none if there are none."""
    if not changes:
        return []
    return [_whole(changes, refreshed), *_orphans(store, changes), *_hosts(store, changes)]


def _whole(changes: Sequence[Change], refreshed: Refreshed) -> dg.AssetObservation:
    kinds = Counter(change.kind for change in changes)
    silent = [[outcome.location, outcome.code, outcome.detail] for outcome in refreshed.silent]
    return dg.AssetObservation(
        MANIFEST,
        description=", ".join(f"{count} {kind}" for kind, count in kinds.most_common()),
        metadata={
            "changes": len(changes),
            "last change": changes[-1].id,
            "answered": sum(outcome.answered for outcome in refreshed.outcomes),
            "silent": len(silent),
            "cycle seconds": round(refreshed.seconds, 3),
            "by kind": table(["change", "times", "means"], ([kind, count, KINDS.get(kind)] for kind, count in kinds.most_common())),
            "what changed": table(["at", "change", "location", "detail"], map(_row, reversed(changes))),
            **({"no answer": table(["location", "why", "detail"], silent)} if silent else {}),
        },
    )


def _orphans(store: Store, changes: Sequence[Change]) -> list[dg.AssetCheckEvaluation]:
    """The checks that fail because of orphans found in these changes, if they still are orphans."""
    told = {change.detail.get("orphans") for change in changes if change.kind == "ORPHAN_DETECTED"}
    if not told:
        return []
    still = orphans_by_kind(store)
    return [_evaluation(orphan_verdict(store, kind)) for kind in Orphanhood if kind.value in told and still[kind]]


def _evaluation(verdict: dg.AssetCheckResult) -> dg.AssetCheckEvaluation:
    return dg.AssetCheckEvaluation(
        MANIFEST,
        verdict.check_name or "",
        passed=verdict.passed,
        metadata=verdict.metadata,
        severity=verdict.severity,
        description=verdict.description,
    )


def _hosts(store: Store, changes: Sequence[Change]) -> list[dg.AssetObservation]:
    """One observation for each host that changed; where they are many, the last tells of all that are left."""
    news: dict[str, list[Change]] = {}
    for change in changes:
        if change.location is not None:
            news.setdefault(change.location, []).append(change)
    hosts = [place for place in all_locations(store) if place.kind == "host" and place.name in news]
    hosts.sort(key=lambda place: not any(map(is_urgent, news[place.name])))
    held = holdings_at(store, {place.name for place in hosts})
    alone = hosts if len(hosts) <= MAX_HOSTS else hosts[: MAX_HOSTS - 1]
    told = [_host(place, held.get(place.name, []), news[place.name]) for place in alone]
    return [*told, _many(hosts[len(alone) :], news)] if len(alone) < len(hosts) else told


def _host(place: Location, held: Sequence[Held], news: Sequence[Change]) -> dg.AssetObservation:
    return dg.AssetObservation(
        REPLICAS,
        partition=place.name,
        description=f"{place.liveness}: {', '.join(dict.fromkeys(change.kind for change in news))}",
        metadata={
            "liveness": str(place.liveness),
            **({"why": place.reason} if place.reason else {}),
            "replicas": place.replicas,
            "bytes": place.bytes,
            "pending": place.pending,
            "held by a brake": place.held,
            **({"disk free": place.disk_free} if place.disk_free is not None else {}),
            **({"last answer": dg.MetadataValue.timestamp(place.answered_at)} if place.answered_at is not None else {}),
            "holds": table(
                ["type", "config", "replicas", "bytes", "newest game"],
                ([row.type, row.config, f"{row.replicas:,}", f"{row.bytes:,}", moment(row.newest_game)] for row in held),
            ),
            "what changed": table(["at", "change", "location", "detail"], map(_row, reversed(news))),
        },
    )


def _many(places: Sequence[Location], news: Mapping[str, Sequence[Change]]) -> dg.AssetObservation:
    rows = (
        [
            place.name,
            place.liveness,
            f"{place.replicas:,}",
            f"{place.bytes:,}",
            ", ".join({change.kind for change in news[place.name]}),
        ]
        for place in places
    )
    return dg.AssetObservation(
        REPLICAS,
        description=f"{len(places)} more hosts changed",
        metadata={"hosts": table(["host", "is", "replicas", "bytes", "changes"], rows)},
    )


def _row(change: Change) -> list[object]:
    told = ", ".join(f"{name} {_short(value)}" for name, value in change.detail.items() if value not in (None, {}, []))
    return [moment(change.at), change.kind, change.location, told]


def _short(value: object) -> str:
    text = ", ".join(f"{name}: {part}" for name, part in value.items()) if isinstance(value, dict) else str(value)
    return text if len(text) <= 200 else f"{text[:199]}…"
