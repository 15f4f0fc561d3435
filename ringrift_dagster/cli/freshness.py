"""`ringrift-data freshness …`: what every host would train on, why it is stale, exceptions that people made, and older models."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ringrift_dagster.cli.output import MAX_ROWS, Exit, as_json, print_json, print_table
from ringrift_dagster.cli.plane import ago, known_location, opened, outcome, span, when, with_hosts_file
from ringrift_dagster.games.config import CONFIG_KEYS

if TYPE_CHECKING:
    from ringrift_dagster.manifest.freshness import HostFreshness
    from ringrift_dagster.manifest.overrides import Override
    from ringrift_dagster.manifest.staleness import Staleness

_EQUAL = {True: "yes", False: "no", None: ""}


@click.group(invoke_without_command=True)
@click.option("--location", "place", help="Only this host.")
@click.option("--config", type=click.Choice(CONFIG_KEYS), metavar="CONFIG", help="Only this config.")
@click.option("--all", "everything", is_flag=True, help="Also configs of which no host has a training set.")
@with_hosts_file
@as_json
@click.pass_context
def freshness(
    ctx: click.Context, place: str | None, config: str | None, everything: bool, hosts_file: Path | None, json_output: bool
) -> int:
    """For each host and config: the newest game, its age, whether the host holds the reference copy, and an older model.

    The age of an export or of a copy is no evidence; what is not known is stale. The limit is the hosts file's, section
    `freshness`. Exits with 1 if anything shown is stale and no override excuses it, if a host lacks the current model, or if there
    are hosts and none has a training set.
    """
    if ctx.invoked_subcommand is not None:
        if place or config or everything or hosts_file or json_output:
            raise click.UsageError(f"options stand behind `{ctx.invoked_subcommand}`, not before it")
        return Exit.GOOD
    from ringrift_dagster.manifest.freshness import host_freshness
    from ringrift_dagster.manifest.overrides import standing
    from ringrift_dagster.manifest.staleness import of_canonical_games
    from ringrift_dagster.transfer.promoted import lags

    now = time.time()
    with opened(hosts_file) as plane:
        if place:
            known_location(plane, place)
        limits = plane.cluster.freshness
        rows = host_freshness(plane.store, now, limits=limits)
        excused = standing(plane.store, now)
        games = list(of_canonical_games(plane.home, limits, now, excused))
        behind = [lag for lag in lags(plane) if place in (None, lag.host) and config in (None, lag.config)]
    held = {row.config for row in rows if row.training_sets}
    nobody_has_any = bool(rows) and not held
    shown = {config} if config else set(CONFIG_KEYS) if everything else held
    rows = [row for row in rows if place in (None, row.location) and row.config in shown]
    games = [each for each in games if config in (None, each[0]) and (each[1] or each[2].state == "damaged")]
    excused = {name: each for name, each in excused.items() if config in (None, name)}
    bad = nobody_has_any or bool(behind) or not all(each.may_train for each in (*rows, *(verdict for _, _, verdict in games)))
    if json_output:
        print_json(
            {
                "limits": limits.model_dump(),
                "hosts": [{**asdict(row), "fresh": row.fresh, "may_train": row.may_train} for row in rows],
                "canonical_games": [_canonical(*each) for each in games],
                "overrides": [asdict(each) for each in excused.values()],
                "older_models": [asdict(lag) for lag in behind],
            }
        )
        return outcome(bad)
    _print_games(games)
    _print_hosts(rows)
    _print_overrides("Overridden", excused.values(), now)
    print_table(
        "Hosts without the current model",
        ["host", "config", "current model", "current since (UTC)", "held"],
        (
            [lag.host, lag.config, lag.sha256[:12], when(lag.since), "under another name" if lag.held else ""]
            for lag in behind
        ),
    )  # fmt: skip
    if not rows:
        click.echo("no host has a training set" if not held else "nothing to show")
    click.echo(f"Stale is what has no game of the last {limits.fail_hours:g} h (hosts file, freshness.fail_hours).")
    return outcome(bad)


@freshness.command()
@click.option("--config", required=True, type=click.Choice(CONFIG_KEYS), metavar="CONFIG")
@click.option("--who", required=True, help="Your name: it is shown wherever the override is.")
@click.option("--why", required=True, help="What makes old games good enough, and what is being done about it.")
@click.option("--hours", required=True, type=float, help="At most 24. To go on, make another one.")
@with_hosts_file
@as_json
def override(config: str, who: str, why: str, hours: float, hosts_file: Path | None, json_output: bool) -> int:
    """Let a config train on games that are too old, for some hours.

    The config stays stale and is shown as such, with who, why and until when. Data that is missing, unsound or of unknown age is
    excused by nothing.
    """
    from ringrift_dagster.manifest.overrides import OverrideRefused, grant

    now = time.time()
    with opened(hosts_file) as plane:
        try:
            made = grant(plane.store, config, who=who, why=why, hours=hours, at=now)
        except OverrideRefused as error:
            raise click.UsageError(str(error)) from error
    if json_output:
        print_json(asdict(made))
    else:
        click.echo(f"{config} may train on old games until {when(made.until)} UTC; recorded as {made.who}'s, {made.why!r}")
    return Exit.GOOD


@freshness.command()
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, MAX_ROWS), help="Rows at most.")
@with_hosts_file
@as_json
def overrides(limit: int, hosts_file: Path | None, json_output: bool) -> int:
    """Every override there ever was, the latest first."""
    from ringrift_dagster.manifest.overrides import listed

    now = time.time()
    with opened(hosts_file) as plane:
        found = listed(plane.store, limit=limit)
    in_force = [each for each in found if each.granted_at <= now < each.until]
    if json_output:
        print_json([{**asdict(each), "in_force": each in in_force} for each in found])
    else:
        _print_overrides("Overrides", found, now, empty="nobody ever overrode the age limit")
    return Exit.GOOD


def _canonical(config: str, games: int, verdict: Staleness) -> dict[str, Any]:
    return {"config": config, "games": games, **asdict(verdict), "state": verdict.state, "may_train": verdict.may_train}


def _print_games(games: Iterable[tuple[str, int, Staleness]]) -> None:
    print_table(
        "Canonical games here",
        ["config", "state", "games", "newest game", "age", "overridden"],
        (
            [config, verdict.state, count, when(verdict.newest_game), span(verdict.age), _until(verdict.override)]
            for config, count, verdict in games
        ),
    )


def _print_hosts(rows: Iterable[HostFreshness]) -> None:
    print_table(
        "Training sets on hosts",
        ["host", "config", "sets", "newest game", "age", "newest export", "reference", "verified", "stale because", "overridden"],
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
                _until(row.override),
            ]
            for row in rows
        ),
    )


def _print_overrides(title: str, found: Iterable[Override], now: float, empty: str = "") -> None:
    print_table(
        title,
        ["config", "by", "why", "since", "until (UTC)", "left"],
        (
            [each.config, each.who, each.why, ago(each.granted_at), when(each.until), _left(each, now)]
            for each in found
        ),
        empty,
    )  # fmt: skip


def _until(override: Override | None) -> str:
    return f"by {override.who} until {when(override.until)}" if override else ""


def _left(override: Override, now: float) -> str:
    return "over" if override.until <= now else span(override.until - now)
