"""`ringrift-data manifest …`: refreshing the manifest and asking it."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ringrift_dagster.cli.output import MAX_NUMBER, MAX_ROWS, Exit, Unreadable, as_json, complain, print_json, print_table
from ringrift_dagster.cli.plane import ago, known_location, opened, outcome, span, when, with_hosts_file
from ringrift_dagster.games.config import CONFIG_KEYS

if TYPE_CHECKING:
    from ringrift_dagster.manifest.locations import Location

LIMIT = click.option("--limit", default=100, show_default=True, type=click.IntRange(1, MAX_ROWS), help="Rows at most.")
_PLACE = (
    "location", "kind", "provider", "rack", "liveness", "replicas", "held", "bytes", "disk free", "answered", "latency",
    "clock off", "why",
)  # fmt: skip
POSITIVE = click.FloatRange(min=0, min_open=True)
TYPES = ("GAME_DB", "CANONICAL_GAMES", "NPZ", "CHECKPOINT", "MODEL")


@click.group()
def manifest() -> None:
    """What exists, where, and whether it is good."""


@manifest.command()
@with_hosts_file
@as_json
def refresh(hosts_file: Path | None, json_output: bool) -> int:
    """Ask every location what it holds, once.

    Exits with 1 if one did not answer, or has copies missing that a brake holds.
    """
    from ringrift_dagster.manifest.locations import all_locations

    with opened(hosts_file) as plane:
        result = plane.refresh()
        places = {place.name: place for place in all_locations(plane.store)}
    rows = []
    for told in result.outcomes:
        merged, place = told.merged, places[told.location]
        changed = merged.detail() if merged else {}
        changed.pop("examples", None)
        rows.append(
            {
                "location": told.location,
                "answered": told.answered,
                "code": told.code,
                "detail": told.detail,
                "seconds": round(told.seconds, 3),
                "liveness": place.liveness,
                "replicas": place.replicas,
                "pending": place.pending,
                "held": place.held,
                "changed": changed,
            }
        )
    if json_output:
        print_json({"seconds": round(result.seconds, 3), "locations": rows})
    else:
        print_table(
            f"Asked {len(rows)} locations in {result.seconds:.1f} s",
            ["location", "liveness", "seconds", "replicas", "to be hashed", "held", "changed", "no answer because"],
            (
                [
                    row["location"],
                    row["liveness"],
                    f"{row['seconds']:.2f}",
                    row["replicas"],
                    row["pending"] or None,
                    row["held"] or None,
                    _counts(row["changed"]),
                    f"{row['code']}: {row['detail']}" if row["code"] else None,
                ]
                for row in rows
            ),
        )
    return outcome([row for row in rows if not row["answered"] or row["held"]])


@manifest.command()
@with_hosts_file
@as_json
def locations(hosts_file: Path | None, json_output: bool) -> int:
    """Every location: whether it answers, what it holds, its disk and its clock; and hosts that nobody declared.

    Exits with 1 if one that the hosts file names is not ONLINE.
    """
    from ringrift_dagster.manifest.locations import all_locations
    from ringrift_dagster.manifest.queries import unknown_hosts

    with opened(hosts_file) as plane:
        places = all_locations(plane.store)
        strangers = unknown_hosts(plane.store)
    bad = [place for place in places if place.active and place.liveness != "ONLINE"]
    if json_output:
        print_json({"locations": [asdict(place) for place in places], "unknown_hosts": strangers})
        return outcome(bad)
    print_table("Locations", _PLACE, map(_place, places))
    print_table(
        "Not in the hosts file",
        ["host", "seen at", "first", "last"],
        ([host["name"], host["seen_at_location"], when(host["first_seen"]), ago(host["last_seen"])] for host in strangers),
    )
    return outcome(bad)


@manifest.command()
@click.option("--config", type=click.Choice(CONFIG_KEYS), metavar="CONFIG", required=True)
@click.option("--type", "kind", type=click.Choice(TYPES, case_sensitive=False), default="NPZ", show_default=True)
@click.option("--min-quality", type=click.FloatRange(0, 1), help="What nobody scored has no quality.")
@click.option("--min-samples", type=click.IntRange(0, MAX_NUMBER))
@click.option("--max-age", type=POSITIVE, help="Hours since the newest game.")
@click.option("--all", "everything", is_flag=True, help="Also what is unsound or was not checked.")
@LIMIT
@with_hosts_file
@as_json
def query(
    config: str,
    kind: str,
    min_quality: float | None,
    min_samples: int | None,
    max_age: float | None,
    everything: bool,
    limit: int,
    hosts_file: Path | None,
    json_output: bool,
) -> int:
    """Items of a config and type, the best quality first, then the newest game. Exits with 1 if there is none."""
    from ringrift_dagster.manifest.inventory import ItemType
    from ringrift_dagster.manifest.queries import items_by_quality

    newer_than = None if max_age is None else time.time() - max_age * 3600
    with opened(hosts_file) as plane:
        found = items_by_quality(
            plane.store, config, ItemType(kind.upper()), min_quality=min_quality, min_samples=min_samples, newer_than=newer_than,
            sound_only=not everything, limit=limit,
        )  # fmt: skip
    if json_output:
        print_json([asdict(item) for item in found])
    else:
        print_table(
            f"{config} {kind.upper()}",
            ["item", "bytes", "games", "samples", "quality", "newest game", "sound", "why"],
            (
                [
                    item.sha256[:16],
                    item.size,
                    item.games,
                    item.samples,
                    None if item.quality is None else f"{item.quality:.3f}",
                    when(item.newest_game),
                    item.soundness,
                    item.reason,
                ]
                for item in found
            ),
            empty="no such item",
        )
    return outcome(not found)


@manifest.command()
@click.option("--target", type=click.IntRange(1, MAX_NUMBER), help="Copies wanted.  [default: the hosts file's replication_target]")
@LIMIT
@with_hosts_file
@as_json
def danger(target: int | None, limit: int, hosts_file: Path | None, json_output: bool) -> int:
    """Items with too few copies that can be reached, the fewest first. Exits with 1 if there is one."""
    from ringrift_dagster.manifest.queries import under_replicated

    with opened(hosts_file) as plane:
        found = under_replicated(plane.store, target or plane.cluster.thresholds.replication_target, limit=limit)
    if json_output:
        print_json([asdict(item) for item in found])
    else:
        print_table(
            "Too few copies",
            ["item", "type", "config", "bytes", "copies", "lasting", "only at"],
            ([row.sha256[:16], row.type, row.config, row.size, row.copies, row.durable, row.location] for row in found),
            empty="every item has its copies",
        )
    return outcome(found)


@manifest.command()
@click.option("--location", "place", help="Only at this location.")
@LIMIT
@with_hosts_file
@as_json
def untracked(place: str | None, limit: int, hosts_file: Path | None, json_output: bool) -> int:
    """Files that are on disk and are no items, with why."""
    from ringrift_dagster.manifest.queries import untracked_files

    with opened(hosts_file) as plane:
        found = untracked_files(plane.store, location=known_location(plane, place) if place else None, limit=limit)
    if json_output:
        print_json(found)
    else:
        print_table(
            "Untracked",
            ["location", "path", "bytes", "why", "detail", "since"],
            ([f["location"], f["path"], f["size"], f["reason"], f["detail"], ago(f["first_seen"])] for f in found),
            empty="every file that was found is an item",
        )
    return Exit.GOOD


@manifest.command()
@click.option("--at", "place", required=True, metavar="LOCATION", help="A bucket, say.")
@LIMIT
@with_hosts_file
@as_json
def missing(place: str, limit: int, hosts_file: Path | None, json_output: bool) -> int:
    """Sound items that a location lacks although a copy can be read elsewhere. Exits with 1 if there is one."""
    from ringrift_dagster.manifest.queries import missing_at

    with opened(hosts_file) as plane:
        found = missing_at(plane.store, known_location(plane, place), limit=limit)
    if json_output:
        print_json([asdict(item) for item in found])
    else:
        print_table(
            f"{place} lacks",
            ["item", "type", "config", "bytes", "copies elsewhere"],
            ([row.sha256[:16], row.type, row.config, row.size, row.copies] for row in found),
            empty=f"{place} has everything",
        )
    return outcome(found)


@manifest.command()
@click.option("--since", default=0, show_default=True, type=click.IntRange(0, MAX_NUMBER), help="The last change already seen.")
@LIMIT
@with_hosts_file
@as_json
def changes(since: int, limit: int, hosts_file: Path | None, json_output: bool) -> int:
    """What happened, in order."""
    from ringrift_dagster.manifest.changes import changes_since

    with opened(hosts_file) as plane:
        found = changes_since(plane.store, since, limit=limit)
    if json_output:
        print_json([asdict(change) for change in found])
    else:
        print_table(
            "Changes",
            ["id", "at", "kind", "location", "detail"],
            ([change.id, when(change.at), change.kind, change.location, _counts(change.detail)] for change in found),
            empty="nothing changed",
        )
    return Exit.GOOD


@manifest.command()
@click.argument("place", metavar="LOCATION")
@click.option("--yes", is_flag=True, help="Do not ask.")
@with_hosts_file
@as_json
def accept(place: str, yes: bool, hosts_file: Path | None, json_output: bool) -> int:
    """Say that the copies which are missing at LOCATION, and which a brake holds, are lost.

    Asks first; exits with 1, and nothing changes, if the answer is no.
    """
    from ringrift_dagster.manifest.locations import location
    from ringrift_dagster.manifest.orphans import accept_loss

    with opened(hosts_file) as plane:
        found = location(plane.store, known_location(plane, place))
        held = found.held if found else 0
        if held and not yes and not click.confirm(f"{held} copies at {place} count as LOST from now on; go on?", err=True):
            complain(f"{held} copies at {place} stay held")
            if json_output:
                print_json({"location": place, "lost": 0})
            return Exit.BAD_NEWS
        lost = accept_loss(plane.store, place, at=time.time()) if held else 0
    if json_output:
        print_json({"location": place, "lost": lost})
    else:
        click.echo(f"{lost} copies at {place} are LOST" if lost else f"nothing is held at {place}")
    return Exit.GOOD


@manifest.command()
@click.option(
    "--daily-gib", default=50.0, show_default=True, type=click.FloatRange(min=0, min_open=True), help="Budget of a location."
)
@click.option("--seconds", default=3600.0, show_default=True, type=click.FloatRange(min=0, min_open=True), help="Time to spend.")
@with_hosts_file
@as_json
def scrub(daily_gib: float, seconds: float, hosts_file: Path | None, json_output: bool) -> int:
    """Read again what was verified longest ago and compare it with its hash, within a budget a day. Exits with 1 on damage."""
    from ringrift_dagster.manifest.scrub import scrub as run

    with opened(hosts_file) as plane:
        reports = run(plane.store, plane.sources, daily_bytes=int(daily_gib * (1 << 30)), seconds=seconds)
    if json_output:
        print_json([asdict(report) for report in reports])
    else:
        print_table(
            "Scrubbed today",
            ["location", "files", "bytes", "damaged", "still to read", "stopped because"],
            ([r.location, r.files, r.bytes, ", ".join(r.damaged), r.remaining, r.problem] for r in reports),
        )
    return outcome([report for report in reports if report.damaged])


@manifest.command()
@with_hosts_file
@as_json
def publish(hosts_file: Path | None, json_output: bool) -> int:
    """Write our consolidated manifest into the bucket: what is there, with hashes.

    Exits with 1 if the bucket lacks something that the manifest says is there.
    """
    from ringrift_dagster.manifest.inventory import NoAnswer
    from ringrift_dagster.manifest.plane import bucket_client, publish_bucket_manifest

    with opened(hosts_file) as plane:
        if plane.cluster.s3 is None:
            raise Unreadable("the hosts file names no bucket (sync_routing.s3)")
        try:
            done = publish_bucket_manifest(plane, bucket_client(plane.cluster))
        except NoAnswer as silence:
            raise Unreadable(str(silence)) from silence
    if json_output:
        print_json(asdict(done))
    else:
        click.echo(f"{done.written} objects named" + ("" if done.changed else " (nothing new)"))
        print_table("Not there, so not named", ["key"], ([key] for key in done.dangling))
    return outcome(done.dangling)


def _place(place: Location) -> list[object]:
    latency = "" if place.latency is None else f"{1000 * place.latency:.0f} ms"
    liveness = str(place.liveness) if place.active else "removed"
    told = [place.name, place.kind, place.provider, place.rack, liveness, place.replicas, place.held or None, place.bytes]
    return [*told, _share(place.disk_free, place.disk_total), ago(place.answered_at), latency, span(place.clock_skew), place.reason]


def _counts(detail: dict[str, object]) -> str:
    return ", ".join(
        f"{name} {_plain(value)}" for name, value in detail.items() if name != "examples" and value not in (None, {}, [])
    )


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{name}: {count}" for name, count in value.items()) + ")"
    if isinstance(value, list):
        return f"{len(value)}"
    return str(value)


def _share(part: int | None, whole: int | None) -> str:
    return "" if not whole or part is None else f"{100 * part / whole:.0f} %"
