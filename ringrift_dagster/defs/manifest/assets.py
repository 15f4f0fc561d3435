"""`data_manifest`: what is where, after asking everybody."""

import time
from typing import Any

import dagster as dg

from ringrift_dagster.cluster.hosts import HostsFileError
from ringrift_dagster.defs.manifest.checks import LIMIT, PROMISES, dangers, verdicts
from ringrift_dagster.defs.policies import OWNERS, RETRY, ROLL_UP_FRESHNESS
from ringrift_dagster.defs.presentation import moment, table
from ringrift_dagster.defs.resources import PlaneResource
from ringrift_dagster.manifest import queries, report
from ringrift_dagster.manifest.inventory import NoAnswer
from ringrift_dagster.manifest.liveness import SKEW_SECONDS
from ringrift_dagster.manifest.locations import Location, all_locations
from ringrift_dagster.manifest.orphans import Orphanhood, open_orphans
from ringrift_dagster.manifest.plane import Plane, publish_bucket_manifest
from ringrift_dagster.manifest.refresh import Refreshed
from ringrift_dagster.manifest.store import Store

NAME = "data_manifest"


@dg.asset(
    name=NAME,
    group_name="manifest",
    kinds={"sql"},
    owners=OWNERS,
    tags={"ringrift/layer": "manifest"},
    retry_policy=RETRY,
    code_version="1",
    freshness_policy=ROLL_UP_FRESHNESS,
    check_specs=[dg.AssetCheckSpec(name, asset=NAME, description=promise) for name, promise in PROMISES.items()],
)
def data_manifest(plane: PlaneResource) -> dg.MaterializeResult:
    """Which items there are and where every copy of them is: hosts, drives, shared file systems, buckets.

    Asks every place once, takes in what changed, and reports the whole. `manifest_refresh_sensor` does the same asking every
    30 seconds; a run is made when something happened that an operator must see, and once an hour.
    """
    try:
        with plane.open() as opened:
            refreshed = opened.refresh()
            return dg.MaterializeResult(
                data_version=dg.DataVersion(report.digest(opened.store)),
                metadata={**_metadata(opened, refreshed), **_published(opened, plane)},
                check_results=list(verdicts(opened)),
            )
    except HostsFileError as error:
        raise dg.Failure(
            f"the hosts file cannot be used: {error.problems[0]}",
            metadata={"problems": table(["problem"], ([problem] for problem in error.problems))},
            allow_retries=False,
        ) from error


def _metadata(plane: Plane, refreshed: Refreshed) -> dict[str, dg.MetadataValue | int | float]:
    store = plane.store
    counts = report.items_by_type(store)
    places = all_locations(store)
    return {
        "dagster/row_count": sum(row.items for row in counts),
        "bytes": sum(row.bytes for row in counts),
        "answered": sum(outcome.answered for outcome in refreshed.outcomes),
        "silent": len(refreshed.silent),
        "cycle seconds": round(refreshed.seconds, 3),
        "revision": store.revision(),
        "locations": _locations(places, time.time()),
        "items": table(
            ["type", "config", "items", "reachable", "unsound", "bytes"],
            ([row.type, row.config, f"{row.items:,}", f"{row.reachable:,}", row.unsound, f"{row.bytes:,}"] for row in counts),
        ),
        **_in_danger(plane),
        **_missing_in_buckets(store, places),
        **_unplaced(store),
        "held by brakes": sum(place.held for place in places),
    }


def _published(opened: Plane, plane: PlaneResource) -> dict[str, str]:
    """Bring our own manifest in the bucket up to date: it names what is there, and is written after it."""
    if opened.cluster.s3 is None or not opened.cluster.s3.enabled:
        return {}
    try:
        done = publish_bucket_manifest(opened, plane.s3_client())
    except NoAnswer as silence:
        return {"bucket manifest": f"not written: {silence.code}: {silence.detail}"}
    missing = f"; left out, because they are not there: {', '.join(done.dangling[:LIMIT])}" if done.dangling else ""
    return {"bucket manifest": f"names {done.written:,} objects{missing}"}


def _locations(places: list[Location], now: float) -> dg.MarkdownMetadataValue:
    """One line a place, the undeclared ones last; in full why one does not answer stands in its check."""
    rows = (
        [
            place.name,
            place.kind,
            _state(place),
            "never" if place.answered_at is None else _span(now - place.answered_at),
            f"{place.replicas:,}",
            f"{place.bytes:,}",
            f"{place.pending:,}",
            f"{place.held:,}",
            _share(place.disk_free, place.disk_total),
            None if place.latency is None else f"{place.latency * 1000:.0f}\u00a0ms",
            None if abs(place.clock_skew or 0.0) <= SKEW_SECONDS else f"{place.clock_skew:+.0f}\u00a0s",
        ]
        for place in sorted(places, key=lambda place: (not place.active, place.name))
    )
    columns = ["location", "kind", "is", "silent", "replicas", "bytes", "pending", "held", "disk free", "latency", "clock off"]
    return table(columns, rows)


def _state(place: Location) -> str:
    if not place.active:
        return "no longer declared"
    return f"{place.liveness}: {place.reason.partition(':')[0]}" if place.reason else place.liveness


def _span(seconds: float) -> str:
    """How long, in the unit in which one would say it."""
    size, unit = next(((size, unit) for size, unit in ((86400, "d"), (3600, "h"), (60, "min")) if seconds >= size), (1, "s"))
    return f"{seconds / size:.0f}\u00a0{unit}"


def _in_danger(plane: Plane) -> dict[str, dg.MetadataValue | int]:
    store, target = plane.store, plane.cluster.thresholds.replication_target
    count = report.dangers(store, target)
    orphans = report.orphans_by_kind(store)
    found: dict[str, dg.MetadataValue | int] = {
        "copies wanted": target,
        "under-replicated": count.under,
        "sole copies": count.sole,
        "only on fleeting hosts": count.perishable,
        "stranded": orphans[Orphanhood.STRANDED],
        "lost": orphans[Orphanhood.LOST],
    }
    if count.under:
        found["under-replicated items"] = dangers(queries.under_replicated(store, target, limit=LIMIT))
    if any(orphans.values()):
        columns = ["is", "type", "config", "last at", "path", "since", "what to do"]
        rows = (
            [orphan.kind, orphan.type, orphan.config, orphan.location, orphan.path, moment(orphan.detected_at), orphan.proposal]
            for orphan in open_orphans(store, limit=LIMIT)
        )
        found["out of reach"] = table(columns, rows)
    if doubtful := report.doubtful_copies(store, limit=LIMIT):
        found["copies in doubt"] = table(
            ["location", "path", "is", "why"], ([copy.location, copy.path, copy.state, copy.reason] for copy in doubtful)
        )
    return found


def _missing_in_buckets(store: Store, places: list[Location]) -> dict[str, dg.MetadataValue | int]:
    found: dict[str, dg.MetadataValue | int] = {}
    for place in places:
        if place.kind == "s3" and place.active:
            lacking = queries.missing_at(store, place.name, limit=LIMIT)
            found[f"not in {place.name}"] = len(lacking)
            if lacking:
                found[f"items not in {place.name}"] = dangers(lacking)
    return found


def _unplaced(store: Store) -> dict[str, dg.MetadataValue | int]:
    """What lies about and is no item, and hosts that nobody declared."""
    untracked = report.untracked_by_reason(store)
    strangers = queries.unknown_hosts(store)
    found: dict[str, dg.MetadataValue | int] = {"untracked": sum(row.files for row in untracked), "strangers": len(strangers)}
    if untracked:
        columns = ["location", "reason", "files", "bytes"]
        rows = ([row.location, row.reason, f"{row.files:,}", f"{row.bytes:,}"] for row in untracked)
        found["untracked files"] = table(columns, rows)
    if strangers:
        found["unknown hosts"] = strangers_table(strangers)
    return found


def strangers_table(strangers: list[dict[str, Any]]) -> dg.MarkdownMetadataValue:
    """Hosts that showed up and are not in the hosts file."""
    rows = ([row["name"], row["seen_at_location"], moment(row["first_seen"]), moment(row["last_seen"])] for row in strangers)
    return table(["host", "seen at", "first", "last"], rows)


def _share(part: int | None, whole: int | None) -> str | None:
    return f"{part / whole:.0%}" if part is not None and whole else None
