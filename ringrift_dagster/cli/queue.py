"""`ringrift-data queue …`: what is to be moved: listing it, asking for more, ending it, carrying it out without Dagster."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import click

from ringrift_dagster.cli.output import MAX_NUMBER, MAX_ROWS, BadNews, Exit, as_json, complain, print_json, print_table
from ringrift_dagster.cli.plane import ago, known_item, known_location, opened, outcome, span, with_hosts_file

if TYPE_CHECKING:
    from ringrift_dagster.manifest.plane import Plane
    from ringrift_dagster.transfer.coordinator import Report, Row
    from ringrift_dagster.transfer.model import Priority
    from ringrift_dagster.transfer.operations import Operation

PRIORITIES = ("CRITICAL", "HIGH", "NORMAL", "LOW", "COLD_STORAGE")
STATES = ("QUEUED", "WAITING", "LEASED", "DONE", "FAILED", "CANCELLED")
KINDS = ("sync", "replicate", "backup", "preload")
TARGETS_AT_ONCE = 16
LOOK_SECONDS = 0.4
NUMBERS = click.argument("numbers", metavar="ID...", type=click.IntRange(1, MAX_NUMBER), nargs=-1, required=True)
_COLUMNS = (
    "id",
    "kind",
    "item",
    "target",
    "bytes",
    "priority",
    "state",
    "since",
    "attempts",
    "who works on it",
    "why",
    "what next",
)


@click.group()
def queue() -> None:
    """What is to be moved, and what became of it."""


@queue.command("list")
@click.option(
    "--state", "states", multiple=True, type=click.Choice(STATES, case_sensitive=False), help="Repeatable.  [default: open]"
)
@click.option("--target", help="Only to this location.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, MAX_ROWS), help="Rows at most.")
@with_hosts_file
@as_json
def listing(states: Sequence[str], target: str | None, limit: int, hosts_file: Path | None, json_output: bool) -> int:
    """Operations: open ones in the order in which they are carried out, ended ones the latest first.

    Exits with 1 if one of them failed.
    """
    from ringrift_dagster.transfer.operations import State
    from ringrift_dagster.transfer.queue import counts, listed

    wanted = [State(state.upper()) for state in states] or [State.QUEUED, State.WAITING, State.LEASED]
    with opened(hosts_file) as plane:
        if target is not None:
            known_location(plane, target)
        found = listed(plane.store, states=wanted, target=target, limit=limit)
        totals = counts(plane.store)
    if json_output:
        open_ones = [
            {"priority": priority.name, "state": state, "count": count} for (priority, state), count in sorted(totals.items())
        ]
        print_json({"operations": [_told(each) for each in found], "open": open_ones})
    else:
        print_table("Operations", _COLUMNS, map(_row, found), empty="nothing is queued" if not states else "no such operation")
    return outcome([each for each in found if each.state == State.FAILED])


@queue.command()
@click.argument("item")
@click.option("--to", "target", required=True, metavar="LOCATION", help="A host, a drive, a shared file system or the bucket.")
@click.option("--priority", type=click.Choice(PRIORITIES, case_sensitive=False), default="NORMAL", show_default=True)
@click.option("--kind", type=click.Choice(KINDS), help="What it is for.  [default: sync; backup to a bucket]")
@click.option("--why", default="asked for by hand", show_default=True)
@with_hosts_file
@as_json
def submit(item: str, target: str, priority: str, kind: str | None, why: str, hosts_file: Path | None, json_output: bool) -> int:
    """Ask for ITEM at a location. What is there already, or asked for, is not asked for again.

    Exits with 1 if the manifest has no such item.
    """
    from ringrift_dagster.manifest.queries import where
    from ringrift_dagster.transfer import queue as operations
    from ringrift_dagster.transfer.operations import Kind, Wanted
    from ringrift_dagster.transfer.targets import place_of

    with opened(hosts_file) as plane:
        place = place_of(plane.cluster, known_location(plane, target))
        if place is None or not (place.hosts or place.kind == "s3"):
            raise click.UsageError(f"nothing is sent to {target}: no host serves {target}, or none that is active")
        sha256 = known_item(plane, item)
        found = where(plane.store, sha256)
        held = next((copy.path for copy in found.reachable if copy.location == target), None)
        asked = None
        if held is None:
            chosen = Kind(kind) if kind else Kind.BACKUP if place.kind == "s3" else Kind.SYNC
            wanted = Wanted(chosen, sha256, target, _priority(priority), found.item.size, why[:200])
            asked = operations.submit(plane.store, wanted, at=time.time())
    if json_output:
        print_json({"sha256": sha256, "held": held, "operation": _told(asked) if asked else None})
    elif asked is None:
        click.echo(f"{target} has it already: {held}")
    else:
        click.echo(f"operation {asked.id}: {sha256[:12]} to {target}, {asked.priority.name}, {asked.state}")
    return Exit.GOOD


@queue.command()
@NUMBERS
@with_hosts_file
@as_json
def cancel(numbers: Sequence[int], hosts_file: Path | None, json_output: bool) -> int:
    """End operations. Exits with 1 if one has ended already, or there is no such."""
    from ringrift_dagster.transfer import queue as operations
    from ringrift_dagster.transfer.operations import State

    with opened(hosts_file) as plane:
        ended = [operations.cancel(plane.store, number, at=time.time()) for number in _known(plane, numbers)]
    _print_all("Cancelled", ended, json_output)
    over = [each for each in ended if each.state != State.CANCELLED]
    for each in over:
        complain(f"operation {each.id} is {each.state} already")
    return outcome(over)


@queue.command()
@click.argument("numbers", metavar="ID...", type=click.IntRange(1, MAX_NUMBER), nargs=-1)
@click.option("--failed", is_flag=True, help="All that failed, the latest 1000.")
@click.option("--priority", type=click.Choice(PRIORITIES, case_sensitive=False), help="[default: as it was]")
@with_hosts_file
@as_json
def retry(numbers: Sequence[int], failed: bool, priority: str | None, hosts_file: Path | None, json_output: bool) -> int:
    """Ask once more for what failed or was cancelled; what waits for its next attempt is due at once.

    Exits with 1 if there is no such operation.
    """
    from ringrift_dagster.transfer import queue as operations
    from ringrift_dagster.transfer.operations import State

    if failed == bool(numbers):
        raise click.UsageError("name operations, or say --failed")
    urgency = _priority(priority) if priority else None
    with opened(hosts_file) as plane:
        if failed:
            numbers = [each.id for each in operations.listed(plane.store, states=[State.FAILED], limit=1000)]
        again = [operations.retry(plane.store, number, at=time.time(), priority=urgency) for number in _known(plane, numbers)]
    _print_all("Asked for again", again, json_output)
    return Exit.GOOD


@queue.command()
@click.option(
    "--target", "targets", multiple=True, help="Only to these locations; repeatable.  [default: wherever something waits]"
)
@click.option(
    "--priority", "priorities", multiple=True, type=click.Choice(PRIORITIES, case_sensitive=False), help="Only these; repeatable."
)
@click.option("--seconds", default=3600.0, show_default=True, type=click.FloatRange(min=0, min_open=True), help="Time to spend.")
@click.option("--keep-going", is_flag=True, help="Also when nothing waits any more.")
@with_hosts_file
@as_json
def work(
    targets: Sequence[str], priorities: Sequence[str], seconds: float, keep_going: bool, hosts_file: Path | None, json_output: bool
) -> int:
    """Carry operations out, without Dagster, until nothing is due any more or the time is over.

    What is under way when it stops goes on at the hosts' agents; whoever works next takes it over. Exits with 1 if an operation
    failed or a location cannot be reached.
    """
    chosen = tuple(_priority(name) for name in priorities) or tuple(map(_priority, PRIORITIES))
    with opened(hosts_file) as plane:
        for target in targets:
            known_location(plane, target)
        reports = _work(plane, frozenset(targets), chosen, seconds, keep_going, told=lambda row: None if json_output else _say(row))
    rows = [(report.target, row) for report in reports for row in report.rows]
    if json_output:
        print_json(
            [
                {
                    "target": report.target,
                    "silent": report.silent,
                    "left": report.left,
                    "lost": report.lost,
                    "bytes": report.bytes,
                    "rows": [{**asdict(row), "priority": row.priority.name} for row in report.rows],
                }
                for report in reports
            ]
        )  # fmt: skip
    else:
        print_table(
            "Carried out",
            [
                "operation",
                "target",
                "item",
                "type",
                "config",
                "bytes",
                "seconds",
                "MB/s",
                "transport",
                "source",
                "retries",
                "state",
                "why",
            ],
            (_carried(target, row) for target, row in rows),
            empty="nothing was due",
        )
        print_table(
            "Cannot be reached", ["target", "why"], ([each.target, each.silent] for each in reports if each.silent is not None)
        )
    return outcome([each for each in reports if each.failed or each.silent])


def _work(
    plane: Plane, targets: frozenset[str], priorities: Sequence[Priority], seconds: float, keep_going: bool, told: Any
) -> list[Report]:
    """A coordinator for every target where something is due, several at once."""
    from ringrift_dagster.transfer.coordinator import Coordinator
    from ringrift_dagster.transfer.queue import pending

    owner = f"queue-work {socket.gethostname()[:40]} {os.getpid()} {time.time_ns()}"
    deadline, stop = time.monotonic() + seconds, Event()
    running: dict[str, Future[Report]] = {}
    reports: list[Report] = []
    with ThreadPoolExecutor(TARGETS_AT_ONCE, thread_name_prefix="work") as pool:
        try:
            while time.monotonic() < deadline:
                reports += _ended(running)
                waiting = {target for target, priority in pending(plane.store, at=time.time()) if priority in priorities}
                given_up = {report.target for report in reports if report.silent is not None}
                for target in sorted(waiting - running.keys() - given_up):
                    if not targets or target in targets:
                        left = deadline - time.monotonic()
                        running[target] = pool.submit(
                            Coordinator(plane, owner).run, target, priorities, seconds=left, stop=stop.is_set, told=told
                        )
                if not running and not keep_going:
                    break
                stop.wait(LOOK_SECONDS)
        finally:
            stop.set()
    return reports + _ended(running)


def _ended(running: dict[str, Future[Report]]) -> list[Report]:
    """The reports of runs that have ended, which are taken from those that run."""
    over = sorted(target for target, run in running.items() if run.done())
    return [running.pop(target).result() for target in over]


def _say(row: Row) -> None:
    """A line of progress for a person."""
    how = f"{row.bytes:,} bytes by {row.transport} from {row.source}" if row.state == "DONE" else f"{row.cause}: {row.next_action}"
    click.echo(f"operation {row.operation} {row.item[:12]} {row.state}: {how}", err=True)


def _priority(name: str) -> Priority:
    from ringrift_dagster.transfer.model import Priority

    return Priority[name.upper()]


def _known(plane: Plane, numbers: Sequence[int]) -> Sequence[int]:
    """The numbers, if there are such operations."""
    from ringrift_dagster.transfer.queue import get

    for number in numbers:
        try:
            get(plane.store, number)
        except KeyError:
            raise BadNews(f"there is no operation {number}") from None
    return numbers


def _told(each: Operation) -> dict[str, Any]:
    """An operation for JSON, its priority by name."""
    return {**asdict(each), "priority": each.priority.name}


def _print_all(title: str, found: Sequence[Operation], json_output: bool) -> None:
    if json_output:
        print_json([_told(each) for each in found])
    else:
        print_table(title, _COLUMNS, map(_row, found), empty="nothing to do")


def _row(each: Operation) -> list[object]:
    said = ": ".join(part for part in (each.cause, each.detail) if part) or each.why
    state = f"{each.state} {span(each.due_at - time.time())}" if each.due_at is not None else each.state
    since = ago(each.submitted_at if each.finished_at is None else each.finished_at)
    priority = f"{each.priority.name} (aged)" if each.aged else each.priority.name
    return [
        each.id, each.kind, each.sha256[:12], each.target, each.size, priority, state, since, each.attempts or None, each.owner,
        said, each.next_action,
    ]  # fmt: skip


def _carried(target: str, row: Row) -> list[object]:
    rate = row.mb_per_second
    return [
        row.operation, target, row.item[:12], row.type, row.config, row.bytes, f"{row.seconds:.2f}",
        None if rate is None else f"{rate:.1f}", row.transport, row.source, row.retries or None, row.state, row.cause,
    ]  # fmt: skip
