"""`ringrift-data events emit|tail|dead`: telling an event here, following all of them, and what nobody could understand."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import orjson

from ringrift_dagster.cli.output import MAX_NUMBER, Exit, Unreadable, as_json, complain, print_json, print_table
from ringrift_dagster.cli.plane import ago, opened, outcome, when, with_hosts_file

if TYPE_CHECKING:
    from ringrift_dagster.events.inbox import Dead, Told
    from ringrift_dagster.events.model import EventType

FOLLOW_SECONDS = 10.0
"""That a look at the inbox may last."""


def _fields(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, Any]:
    """NAME=VALUE options as a mapping; a value that is JSON is what it says."""
    fields: dict[str, Any] = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{value!r} is not NAME=VALUE", ctx, parameter)
        if name in fields:
            raise click.BadParameter(f"{name} is given twice", ctx, parameter)
        try:
            fields[name] = orjson.loads(text)
        except orjson.JSONDecodeError:
            fields[name] = text
    return fields


def _types(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[EventType, ...]:
    """Names of events, also RingRift's."""
    from ringrift_dagster.events.adapters import TYPES

    for value in values:
        if value.upper() not in TYPES:
            raise click.BadParameter(f"no event is called {value!r}", ctx, parameter)
    return tuple(TYPES[value.upper()] for value in values)


@click.group()
def events() -> None:
    """What hosts tell, what the coordinator tells them, and what nobody understood."""


@events.command()
@click.argument("type")
@click.option("--config", help="The config that it is about, e.g. hex8_2p.")
@click.option("--host", help="The host that it is about.  [default: this one]")
@click.option(
    "--field", "fields", multiple=True, callback=_fields, metavar="NAME=VALUE", help="A further field; JSON is read as such."
)
@click.option("--url", help="The agent that is told.  [default: $RINGRIFT_AGENT_URL, else this host's]")
@as_json
def emit(type: str, config: str | None, host: str | None, fields: dict[str, Any], url: str | None, json_output: bool) -> int:
    """Tell the agent on this host that TYPE happened; it is durable there when this returns.

    Types and fields may be RingRift's own. Exits with 1 if the agent does not understand it (it then is a dead letter), with 2 if
    no agent takes it.
    """
    from ringrift_dagster.events.adapters import REASONS
    from ringrift_dagster.events.client import NotEmitted
    from ringrift_dagster.events.client import emit as tell

    named = {name: value for name, value in (("config", config), ("host", host)) if value is not None}
    if twice := sorted(named.keys() & fields.keys()):
        raise click.UsageError(f"{twice[0]} is given twice")
    try:
        id = tell(type, {**named, **fields}, url=url)
    except NotEmitted as error:
        if error.code not in REASONS:
            raise Unreadable(str(error)) from None
        complain(f"not understood: {error}")
        if json_output:
            print_json({"id": error.ids[0], "accepted": False, "reason": error.code, "detail": error.detail})
        return Exit.BAD_NEWS
    print_json({"id": id, "accepted": True}) if json_output else click.echo(id)
    return Exit.GOOD


@events.command()
@click.option("--type", "types", multiple=True, callback=_types, help="Only such events.")
@click.option("--since", type=click.IntRange(0, MAX_NUMBER), metavar="NUMBER", help="Events after it.  [default: the last ones]")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000), help="Events at most, at the beginning.")
@click.option("--follow", is_flag=True, help="Go on until interrupted; with --json, a line each.")
@with_hosts_file
@as_json
def tail(
    types: tuple[EventType, ...], since: int | None, limit: int, follow: bool, hosts_file: Path | None, json_output: bool
) -> int:
    """The events in the coordinator's inbox, in the order in which they came; its own are of the host `home`."""
    from ringrift_dagster.events import inbox

    with opened(hosts_file) as plane:
        kinds = types or None
        first = (
            inbox.latest(plane.store, limit, types=kinds)
            if since is None
            else inbox.read(plane.store, since, types=kinds, limit=limit)
        )
        if not follow:
            _print(first, json_output)
            return Exit.GOOD
        last = first[-1].number if first else since or 0
        _print_lines(first, json_output)
        while True:
            found = inbox.read(plane.store, last, types=kinds, wait=FOLLOW_SECONDS)
            _print_lines(found, json_output)
            last = found[-1].number if found else last


@events.command()
@click.option(
    "--replay",
    "replayed",
    multiple=True,
    type=click.IntRange(1, MAX_NUMBER),
    metavar="ID",
    help="Read it again, as it can be now.",
)
@click.option("--all", "everything", is_flag=True, help="Also those that were understood after all.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 10_000), help="Rows at most.")
@with_hosts_file
@as_json
def dead(replayed: tuple[int, ...], everything: bool, limit: int, hosts_file: Path | None, json_output: bool) -> int:
    """What was told and could not be understood, with the reason and what was told.

    Exits with 1 if there is any, or if one that is read again still is not understood.
    """
    from ringrift_dagster.events import inbox

    with opened(hosts_file) as plane:
        if replayed:
            return _replay(plane.store, replayed, json_output)
        found = inbox.dead(plane.store, limit=limit, replayed=everything)
    if json_output:
        print_json([_dead(letter) for letter in found])
    else:
        print_table(
            "Dead letters",
            ["id", "host", "told", "reason", "detail", "what was told"],
            ([letter.number, letter.host, ago(letter.at), letter.reason, letter.detail, letter.raw[:200]] for letter in found),
            empty="everything that was told was understood",
        )
    return outcome([letter for letter in found if letter.replayed_at is None])


def _replay(store: Any, numbers: tuple[int, ...], json_output: bool) -> int:
    import time

    from ringrift_dagster.events import inbox
    from ringrift_dagster.events.adapters import NotUnderstood

    told, code = [], Exit.GOOD
    for number in numbers:
        try:
            event = inbox.replay(store, number, at=time.time())
        except KeyError:
            raise click.UsageError(f"no dead letter {number}") from None
        except NotUnderstood as error:
            code = Exit.BAD_NEWS
            told.append({"id": number, "understood": False, "reason": error.code, "detail": error.detail})
            complain(f"{number}: {error}")
        else:
            told.append({"id": number, "understood": True, "event": event.number})
            if not json_output:
                click.echo(f"{number} is event {event.number}, {event.event.type}")
    if json_output:
        print_json(told)
    return code


def _print(found: list[Told], json_output: bool) -> None:
    if json_output:
        print_json([_told(each) for each in found])
        return
    print_table("Events", ["number", "at", "host", "event", "config", "about", "what"], map(_row, found), empty="no events")


def _print_lines(found: list[Told], json_output: bool) -> None:
    for each in found:
        line = orjson.dumps(_told(each)).decode() if json_output else "  ".join(str(cell) for cell in _row(each) if cell)
        click.echo(line)
    sys.stdout.flush()


def _told(each: Told) -> dict[str, Any]:
    event = each.event
    payload = event.payload.model_dump(mode="json", exclude_defaults=True)
    told = {"number": each.number, "id": event.id, "type": event.type.value, "host": event.host, "at": event.at}
    return {**told, "received_at": each.received_at, "sequence": event.sequence, "payload": payload}


def _row(each: Told) -> list[object]:
    from ringrift_dagster.events.model import subjects

    config, subject = subjects(each.event.payload)
    payload = each.event.payload.model_dump(mode="json", exclude_defaults=True)
    said = ", ".join(f"{name} {value}" for name, value in payload.items() if name not in ("config", "host", "hosts", "other"))
    return [each.number, when(each.event.at), each.event.host, each.event.type.value, config, subject, said]


def _dead(letter: Dead) -> dict[str, Any]:
    told = {"id": letter.number, "host": letter.host, "reason": letter.reason, "detail": letter.detail, "raw": letter.raw}
    return {**told, "at": letter.at, "received_at": letter.received_at, "replayed_at": letter.replayed_at}
