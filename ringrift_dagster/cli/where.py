"""`ringrift-data where ITEM`: every copy of an item, and who could give it to a host best."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from ringrift_dagster.cli.output import Exit, as_json, complain, print_json, print_table
from ringrift_dagster.cli.plane import ago, known_location, opened, outcome, when, with_hosts_file


@click.command()
@click.argument("item")
@click.option("--for", "host", metavar="HOST", help="Rank the copies as sources for this host.")
@with_hosts_file
@as_json
def where(item: str, host: str | None, hosts_file: Path | None, json_output: bool) -> int:
    """Every copy of ITEM: its SHA-256, the beginning of it, or a file name or path.

    Exits with 1 if it is unknown or no copy of it can be read now, with 2 if the name stands for more than one content.
    """
    from ringrift_dagster.manifest.queries import AmbiguousItem, UnknownItem, best_sources, find_item
    from ringrift_dagster.manifest.queries import where as whereabouts

    with opened(hosts_file) as plane:
        if host:
            known_location(plane, host)
        try:
            sha256 = find_item(plane.store, item)
        except UnknownItem:
            complain(f"the manifest has no item {item!r}; `ringrift-data manifest refresh` looks again")
            if json_output:
                print_json({"item": None, "copies": []})
            return Exit.BAD_NEWS
        except AmbiguousItem as error:
            raise click.UsageError(f"{error}; name one by the beginning of its hash") from error
        found = whereabouts(plane.store, sha256)
        sources = best_sources(plane.store, sha256, host) if host else []
    if json_output:
        ranked = {"sources": [asdict(source) for source in sources]} if host else {}
        print_json({"item": asdict(found.item), "copies": [asdict(copy) for copy in found.copies], **ranked})
        return outcome(not found.reachable)
    about = found.item
    print_table(
        about.sha256,
        ["type", "config", "bytes", "games", "samples", "quality", "newest game", "sound"],
        [
            [
                about.type,
                about.config,
                about.size,
                about.games,
                about.samples,
                None if about.quality is None else f"{about.quality:.3f}",
                when(about.newest_game),
                about.soundness,
            ]
        ],
    )
    print_table(
        "Copies",
        ["location", "liveness", "path", "state", "verified", "why"],
        ([copy.location, copy.liveness, copy.path, copy.state, ago(copy.verified_at), copy.reason] for copy in found.copies),
    )
    print_table(
        f"Best sources for {host}",
        ["location", "path", "why", "through"],
        ([source.location, source.path, source.why, source.via] for source in sources),
    )
    return outcome(not found.reachable)
