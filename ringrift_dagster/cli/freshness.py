"""`ringrift-data freshness`: what every host would train on, and why it is stale."""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from ringrift_dagster.cli.output import as_json, print_json, print_table
from ringrift_dagster.cli.plane import ago, known_location, opened, outcome, span, when, with_hosts_file
from ringrift_dagster.games.config import CONFIG_KEYS

_EQUAL = {True: "yes", False: "no", None: ""}


@click.command()
@click.option("--max-age", default=48.0, show_default=True, type=click.FloatRange(min=0, min_open=True), help="Hours.")
@click.option("--location", "place", help="Only this host.")
@click.option("--config", type=click.Choice(CONFIG_KEYS), metavar="CONFIG", help="Only this config.")
@click.option("--all", "everything", is_flag=True, help="Also configs of which no host has a training set.")
@with_hosts_file
@as_json
def freshness(
    max_age: float, place: str | None, config: str | None, everything: bool, hosts_file: Path | None, json_output: bool
) -> int:
    """For each host and config: the newest game, its age, and whether the host holds the reference copy.

    The age of an export or of a copy is no evidence; what is not known is stale. Exits with 1 if anything shown is stale, or
    there are hosts and none has a training set.
    """
    from ringrift_dagster.datasets.freshness import freshness as of_games
    from ringrift_dagster.manifest.freshness import host_freshness

    limit, now = timedelta(hours=max_age), time.time()
    with opened(hosts_file) as plane:
        if place:
            known_location(plane, place)
        rows = host_freshness(plane.store, now, limit=limit)
        games = list(of_games(plane.home, datetime.fromtimestamp(now, UTC), warn=limit, fail=limit))
    held = {row.config for row in rows if row.training_sets}
    nobody_has_any = bool(rows) and not held
    shown = {config} if config else set(CONFIG_KEYS) if everything else held
    rows = [row for row in rows if place in (None, row.location) and row.config in shown]
    games = [state for state in games if config in (None, state.config) and (state.games or state.state == "damaged")]
    stale = [*(row for row in rows if not row.fresh), *(state for state in games if state.state != "fresh")]
    if json_output:
        canonical = [
            {"config": state.config, "games": state.games, "newest_game": state.newest_game, "state": state.state}
            for state in games
        ]
        print_json({"hosts": [{**asdict(row), "fresh": row.fresh} for row in rows], "canonical_games": canonical})
        return outcome(nobody_has_any or stale)
    print_table(
        "Canonical games here",
        ["config", "state", "games", "newest game", "age"],
        (
            [
                state.config,
                state.state,
                state.games,
                when(state.newest_game.timestamp() if state.newest_game else None),
                span(state.age.total_seconds() if state.age else None),
            ]
            for state in games
        ),
    )
    print_table(
        "Training sets on hosts",
        ["host", "config", "sets", "newest game", "age", "newest export", "reference", "verified", "stale because"],
        (
            [
                row.location,
                row.config,
                row.training_sets,
                when(row.newest_game),
                span(row.age),
                when(row.newest_export),
                _EQUAL[row.is_reference],
                ago(row.verified_at),
                row.why,
            ]
            for row in rows
        ),
    )
    if not rows:
        click.echo("no host has a training set" if not held else "nothing to show")
    return outcome(nobody_has_any or stale)
