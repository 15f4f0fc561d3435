"""`ringrift-data orphans`: what cannot be reached, and what would bring it back."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from ringrift_dagster.cli.output import MAX_ROWS, as_json, print_json, print_table
from ringrift_dagster.cli.plane import ago, opened, outcome, with_hosts_file


@click.command()
@click.option("--limit", default=200, show_default=True, type=click.IntRange(1, MAX_ROWS), help="Rows at most.")
@with_hosts_file
@as_json
def orphans(limit: int, hosts_file: Path | None, json_output: bool) -> int:
    """Items whose copies are all at places that are not there (stranded), or gone (lost), with a way back for each.

    Below them, copies that a brake holds, and items with a single copy left and where to replicate it from. Exits with 1 if there
    is an orphan, or a copy is held: what is held is missing, and nobody has said yet that it is lost.
    """
    from ringrift_dagster.manifest.locations import all_locations
    from ringrift_dagster.manifest.orphans import open_orphans
    from ringrift_dagster.manifest.rescue import rescues

    with opened(hosts_file) as plane:
        found = open_orphans(plane.store, limit=limit)
        proposed = rescues(plane.store, plane.cluster, limit=limit)
        held = {place.name: place.held for place in all_locations(plane.store) if place.held}
    if json_output:
        told = {"orphans": [asdict(orphan) for orphan in found], "replicate": [asdict(rescue) for rescue in proposed]}
        print_json({**told, "held": held})
        return outcome(found or held)
    print_table(
        "Orphans",
        ["item", "type", "config", "bytes", "state", "was at", "path", "since", "what to do"],
        (
            [
                orphan.sha256[:12],
                orphan.type,
                orphan.config,
                orphan.size,
                orphan.kind,
                orphan.location,
                orphan.path,
                ago(orphan.detected_at),
                orphan.proposal,
            ]
            for orphan in found
        ),
    )
    print_table(
        "Held: so much is missing at once that it does not count as lost yet",
        ["location", "copies", "what to do"],
        ([name, count, f"look at it; `ringrift-data manifest accept {name}` if they are lost"] for name, count in held.items()),
    )
    print_table(
        "Sole copies",
        ["item", "type", "config", "bytes", "only at", "replicate to"],
        (
            [rescue.sha256[:12], rescue.type, rescue.config, rescue.size, rescue.source, rescue.target or "no host with room"]
            for rescue in proposed
        ),
    )
    if not found and not held and not proposed:
        click.echo("every item can be reached, and none has a single copy")
    return outcome(found or held)
