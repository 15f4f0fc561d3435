"""`ringrift-data replication …`: who must hold what, what is missing for it, what must stay, and removing what may go."""

from __future__ import annotations

import getpass
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ringrift_dagster.cli.manifest import TYPES
from ringrift_dagster.cli.output import MAX_ROWS, BadNews, Exit, as_json, complain, print_json, print_table
from ringrift_dagster.cli.plane import ago, known_item, known_location, opened, outcome, when, with_hosts_file
from ringrift_dagster.cli.queue import KINDS, PRIORITIES
from ringrift_dagster.games.config import CONFIG_KEYS

if TYPE_CHECKING:
    from ringrift_dagster.transfer.removal import Cleaned, Removed
    from ringrift_dagster.transfer.rules import Rule

LONGEST = 10 * 365 * 24
"""Hours for which anything can be said to hold."""


def _hours(_: click.Context, __: click.Parameter, value: float | None) -> float | None:
    if value is not None and not 0 < value <= LONGEST:  # what is no number is not within bounds either
        raise click.BadParameter(f"more than 0, and at most {LONGEST}; leave it out for what is to hold until it is given up")
    return value


HOURS = click.option("--hours", type=float, callback=_hours, help="So long it holds.  [default: until it is given up]")
OWNER = click.option("--owner", default=getpass.getuser, show_default="who you are", help="Who says so: a person, a job.")


@click.group()
def replication() -> None:
    """Who must hold what, what is missing for it, and what must stay."""


@replication.command()
@click.option("--submit", is_flag=True, help="Put it into the queue.")
@click.option("--limit", default=1000, show_default=True, type=click.IntRange(1, MAX_ROWS), help="Operations at most.")
@with_hosts_file
@as_json
def plan(submit: bool, limit: int, hosts_file: Path | None, json_output: bool) -> int:
    """What is missing for the rules, and what cannot be brought now. Exits with 1 if there is something of the latter."""
    from ringrift_dagster.transfer import planner

    with opened(hosts_file) as plane:
        found = planner.plan(plane.store, plane.cluster, at=time.time(), limit=limit)
        numbers = planner.submit(plane.store, found, at=time.time()) if submit else []
    if json_output:
        wanted = [{**asdict(each), "priority": each.priority.name} for each in found.wanted]
        unmet = [asdict(each) for each in found.unmet]
        print_json({"wanted": wanted, "unmet": unmet, "lacking": found.lacking, "more": found.more, "operations": numbers})
        return outcome(found.lacking)
    print_table(
        "Put into the queue" if submit else "Missing",
        ["item", "bytes", "to", "kind", "priority", "why"],
        ([each.sha256[:12], each.size, each.target, each.kind, each.priority.name, each.why] for each in found.wanted),
        empty="nothing is missing that could be brought now",
    )
    print_table("Cannot be brought now", ["why", "times"], ([why, count] for why, count in found.lacking.most_common()))
    print_table(
        "Of these",
        ["rule", "item", "to", "why"],
        ([each.rule, each.sha256[:12], each.target or "anywhere", each.why] for each in found.unmet),
    )
    if found.more:
        click.echo("there is more: a plan is bounded, and the next one goes on")
    return outcome(found.lacking)


@replication.command()
@with_hosts_file
@as_json
def rules(hosts_file: Path | None, json_output: bool) -> int:
    """Every rule: those that were set, expired ones for a week, and those that always stand."""
    from ringrift_dagster.transfer.rules import standing_rules, stored

    with opened(hosts_file) as plane:
        found = [*stored(plane.store), *standing_rules(plane.cluster)]
    at = time.time()
    if json_output:
        print_json([{**asdict(rule), "priority": rule.priority.name, "holds": rule.holds(at)} for rule in found])
        return Exit.GOOD
    print_table(
        "Rules",
        ["rule", "kind", "priority", "about", "where", "copies", "lasting", "set", "until"],
        (
            [
                rule.name,
                rule.kind,
                rule.priority.name,
                _about(rule),
                ", ".join((*(rule.hosts or ()), *(rule.roles or ()))) or "anywhere",
                rule.copies,
                rule.lasting or None,
                ago(rule.created_at) if rule.created_at else "always",
                when(rule.expires_at) + ("" if rule.holds(at) else " (over)"),
            ]
            for rule in found
        ),
    )
    return Exit.GOOD


@replication.command()
@click.argument("name")
@click.option("--item", help="This one: its hash, the beginning of it, or a file name.")
@click.option("--type", "kind_of_item", type=click.Choice(TYPES, case_sensitive=False))
@click.option("--config", type=click.Choice(CONFIG_KEYS), metavar="CONFIG")
@click.option("--host", "hosts", multiple=True, help="A location that is to hold it; repeatable.")
@click.option("--role", "roles", multiple=True, help="Hosts of this role are to hold it; repeatable.")
@click.option("--copies", type=click.IntRange(1, 100), help="So many of every item that fits, wherever there is room.")
@click.option("--lasting", default=0, type=click.IntRange(0, 100), help="So many of them where data does not come and go.")
@click.option("--kind", type=click.Choice(KINDS), default="sync", show_default=True)
@click.option("--priority", type=click.Choice(PRIORITIES, case_sensitive=False), default="NORMAL", show_default=True)
@HOURS
@with_hosts_file
@as_json
def want(
    name: str,
    item: str | None,
    kind_of_item: str | None,
    config: str | None,
    hosts: Sequence[str],
    roles: Sequence[str],
    copies: int | None,
    lasting: int,
    kind: str,
    priority: str,
    hours: float | None,
    hosts_file: Path | None,
    json_output: bool,
) -> int:
    """Set the rule NAME, in the place of one of that name.

    Without --copies, every place that fits is to hold one item: the one of --item, or the newest of the type and config. What it
    names is pinned as long as it holds.
    """
    from ringrift_dagster.manifest.inventory import ItemType
    from ringrift_dagster.transfer.model import Priority
    from ringrift_dagster.transfer.operations import Kind
    from ringrift_dagster.transfer.rules import BadRule, Rule, put

    at = time.time()
    with opened(hosts_file) as plane:
        for host in hosts:
            known_location(plane, host)
        rule = Rule(
            name,
            Kind(kind),
            Priority[priority.upper()],
            ItemType(kind_of_item.upper()) if kind_of_item else None,
            config,
            known_item(plane, item) if item else None,
            copies,
            lasting,
            tuple(hosts) or None,
            tuple(roles) or None,
            at,
            None if hours is None else at + hours * 3600,
        )
        try:
            put(plane.store, rule)
        except BadRule as error:
            raise click.UsageError(str(error)) from error
    if json_output:
        print_json({**asdict(rule), "priority": rule.priority.name})
    else:
        click.echo(f"rule {name} is set: {_about(rule)}")
    return Exit.GOOD


@replication.command()
@click.argument("name")
@with_hosts_file
@as_json
def unwant(name: str, hosts_file: Path | None, json_output: bool) -> int:
    """Give the rule NAME up. Copies stay where they are. Exits with 1 if there is none of that name."""
    from ringrift_dagster.transfer.rules import remove

    with opened(hosts_file) as plane:
        if not remove(plane.store, name):
            raise BadNews(f"there is no rule {name!r} that somebody set; see `ringrift-data replication rules`")
    _say_or_print({"rule": name}, f"rule {name} is given up", json_output)
    return Exit.GOOD


@replication.command()
@click.argument("item")
@click.option("--reason", required=True)
@OWNER
@HOURS
@with_hosts_file
@as_json
def pin(item: str, reason: str, owner: str, hours: float | None, hosts_file: Path | None, json_output: bool) -> int:
    """No copy of ITEM is removed any more."""
    from ringrift_dagster.transfer.pins import pin as keep

    at = time.time()
    with opened(hosts_file) as plane:
        sha256 = known_item(plane, item)
        kept = keep(plane.store, sha256, owner, reason, at=at, until=None if hours is None else at + hours * 3600)
    _say_or_print(asdict(kept), f"{sha256[:12]} is pinned by {owner}", json_output)
    return Exit.GOOD


@replication.command()
@click.argument("item")
@OWNER
@with_hosts_file
@as_json
def unpin(item: str, owner: str, hosts_file: Path | None, json_output: bool) -> int:
    """Give a pin of ITEM up. Exits with 1 if the owner has none."""
    from ringrift_dagster.transfer.pins import unpin as release

    with opened(hosts_file) as plane:
        sha256 = known_item(plane, item)
        if not release(plane.store, sha256, owner):
            raise BadNews(f"{owner} has not pinned {sha256[:12]}; see `ringrift-data replication pins`")
    _say_or_print({"sha256": sha256, "owner": owner}, f"{sha256[:12]} is not pinned by {owner} any more", json_output)
    return Exit.GOOD


@replication.command()
@with_hosts_file
@as_json
def pins(hosts_file: Path | None, json_output: bool) -> int:
    """What somebody pinned. Candidates, and what rules name, stay without a pin."""
    from ringrift_dagster.transfer.pins import all_pins

    with opened(hosts_file) as plane:
        found = all_pins(plane.store, at=time.time())
    if json_output:
        print_json([asdict(each) for each in found])
    else:
        print_table(
            "Pins",
            ["item", "by", "because", "since", "until"],
            ([each.sha256[:12], each.owner, each.reason, ago(each.created_at), when(each.expires_at)] for each in found),
            empty="nothing is pinned by hand",
        )
    return Exit.GOOD


@replication.command()
@click.argument("item")
@click.option("--at", "location", required=True, metavar="LOCATION")
@click.option("--why", default="removed by hand", show_default=True)
@click.option("--yes", is_flag=True, help="Do not ask.")
@with_hosts_file
@as_json
def drop(item: str, location: str, why: str, yes: bool, hosts_file: Path | None, json_output: bool) -> int:
    """Remove the copy of ITEM at a location, once two others have proved theirs.

    Asks first; exits with 1, and the copy stays, if the answer is no or it may not go.
    """
    from ringrift_dagster.transfer.removal import NotRemoved
    from ringrift_dagster.transfer.removal import drop as remove

    with opened(hosts_file) as plane:
        known_location(plane, location)
        sha256 = known_item(plane, item)
        if not yes and not click.confirm(f"the copy of {sha256[:12]} at {location} is removed; go on?", err=True):
            complain(f"{sha256[:12]} stays at {location}")
            if json_output:
                print_json({"removed": None, "code": "declined", "detail": "the answer was no"})
            return Exit.BAD_NEWS
        try:
            removed = remove(plane, sha256, location, why=why)
        except NotRemoved as error:
            complain(f"{sha256[:12]} stays at {location}: {error.code}: {error.detail}")
            if json_output:
                print_json({"removed": None, "code": error.code, "detail": error.detail})
            return Exit.BAD_NEWS
    if json_output:
        print_json({"removed": asdict(removed), "code": None, "detail": None})
    else:
        click.echo(f"{sha256[:12]} is removed from {location}; {_provers(removed)} proved theirs")
    return Exit.GOOD


@replication.command()
@click.option("--location", "only", multiple=True, help="Only here; repeatable.  [default: wherever it is too full]")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, MAX_ROWS), help="Copies at most, at each location.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@with_hosts_file
@as_json
def clean(only: Sequence[str], limit: int, yes: bool, hosts_file: Path | None, json_output: bool) -> int:
    """Make room at locations that are fuller than the hosts file allows, as far as that is safe: the oldest copies first.

    Asks first. Exits with 1 if a location stays too full.
    """
    from ringrift_dagster.transfer.removal import overfull, retention

    with opened(hosts_file) as plane:
        for name in only:
            known_location(plane, name)
        full = [(place.name, wanted) for place, wanted in overfull(plane.store, plane.cluster) if not only or place.name in only]
        for name, wanted in full:
            complain(f"{name} is too full by {wanted:,} bytes")
        if full and not yes and not click.confirm("copies that others prove are removed there; go on?", err=True):
            if json_output:
                print_json([])
            return Exit.BAD_NEWS
        done = retention(plane, only=[name for name, _ in full], limit=limit) if full else []
    _print_cleaned(done, json_output)
    return outcome([each for each in done if each.freed < each.wanted])


def _print_cleaned(done: Sequence[Cleaned], json_output: bool) -> None:
    if json_output:
        print_json([{**asdict(each), "kept": dict(each.kept), "freed": each.freed} for each in done])
        return
    print_table(
        "Removed",
        ["location", "item", "path", "bytes", "proved by"],
        (
            [each.location, removed.sha256[:12], ", ".join(removed.paths), removed.bytes, _provers(removed)]
            for each in done
            for removed in each.removed
        ),
        empty="nothing was removed",
    )
    print_table(
        "Stayed", ["location", "why", "copies"], ([each.location, why, count] for each in done for why, count in each.kept.items())
    )


def _provers(removed: Removed) -> str:
    return ", ".join(proof.location for proof in removed.proofs)


def _about(rule: Rule) -> str:
    """What a rule is about, in short."""
    if rule.sha256 is not None:
        return rule.sha256[:12]
    named = " ".join(part for part in (rule.config, rule.type) if part) or "everything"
    return named if rule.copies is not None or rule.kind == "backup" else f"the newest of {named}"


def _say_or_print(value: dict[str, Any], line: str, json_output: bool) -> None:
    if json_output:
        print_json(value)
    else:
        click.echo(line)
