"""What the coordinator tells: recorded in the transaction of what caused it, then delivered at least once and in order.

Every target (`host X`, `webhook X`) has a line of its own: what fails holds back only what comes behind it there. Recording and the
state of deliveries belong here; sending is `delivery`'s business.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import orjson
import sqlalchemy as sa

from ringrift_dagster.events.ids import new_id
from ringrift_dagster.events.inbox import alone, event_row, last_number
from ringrift_dagster.events.model import PAYLOADS, Event, EventType, Payload
from ringrift_dagster.manifest.schema import deliveries, events, webhook_cursors
from ringrift_dagster.manifest.store import Store, Writer, in_batches, upsert

HOME = "home"
"""Whose events the coordinator's own are."""
MAX_AT_ONCE = 200
"""Events of one delivery."""
BACK_OFF = (1.0, 300.0)
"""Seconds before the second attempt, doubled with each, and at most."""
GIVE_UP_SECONDS = 7 * 86_400.0
"""What could not be delivered for so long is not tried any more; its row says so."""


@dataclass(frozen=True)
class Pending:
    """An event that a target has not been told yet. `body` is the event as JSON has it."""

    number: int
    recorded_at: float
    body: dict[str, Any]


@dataclass(frozen=True)
class Line:
    """What a target has to be told now, in order. `attempts` failed so far for the first event."""

    target: str
    attempts: int
    events: tuple[Pending, ...]


def publish(
    writer: Writer, type: EventType, payload: Payload, *, at: float, hosts: Iterable[str] = (), id: str | None = None
) -> int | None:
    """Record an event in the caller's transaction, to be delivered to some hosts. Returns its number.

    It is also in the inbox, for whoever reads there. One whose `id` is there already changes nothing, and gives None. Raises
    ValueError if the payload is not of its type.
    """
    if not isinstance(payload, PAYLOADS[type]):
        raise ValueError(f"{payload.__class__.__name__} is not the payload of {type}")
    alone(writer.connection)
    event = Event.model_construct(id=id or new_id(), type=type, host=HOME, at=at, payload=payload, sequence=None)
    insert = upsert(writer.connection, events).values(event_row(event, received_at=at)).on_conflict_do_nothing()
    number = writer.connection.execute(insert.returning(events.c.id)).scalar_one_or_none()
    if number is None:
        return None
    targets = [{"event": number, "target": f"host {name}", "due_at": at} for name in dict.fromkeys(hosts)]
    writer.many(sa.insert(deliveries), targets)
    return number


def consider(store: Store, webhooks: Mapping[str, Collection[str]], *, at: float) -> None:
    """Put before each webhook (by name, with patterns of event types) what it has to be told since it was last considered.

    One that is new is told what happens from now on.
    """
    known = {row[0]: row[1] for row in store.prepared("webhook cursors", _cursors).rows({})}
    last = last_number(store)
    behind = {name: known.get(name) for name in webhooks if known.get(name, -1) < last}
    if not behind and known.keys() <= webhooks.keys():
        return
    with store.writing() as writer:
        connection = writer.connection
        for name, since in behind.items():
            if since is not None:
                kinds = [kind.value for kind in EventType if any(fnmatchcase(kind.value, each) for each in webhooks[name])]
                query = sa.select(events.c.id).where(events.c.id > since, events.c.id <= last, events.c.type.in_(kinds))
                rows = [
                    {"event": number, "target": f"webhook {name}", "due_at": at} for number in connection.execute(query).scalars()
                ]
                writer.many(upsert(connection, deliveries).on_conflict_do_nothing(), rows)
            place = upsert(connection, webhook_cursors).values(name=name, event=last)
            connection.execute(place.on_conflict_do_update(index_elements=["name"], set_={"event": last}))
        for name in known.keys() - webhooks.keys():
            connection.execute(sa.delete(webhook_cursors).where(webhook_cursors.c.name == name))
            _end(writer, f"webhook {name}", None, at, delivered=False, cause="not configured any more")


def due(store: Store, *, at: float) -> list[Line]:
    """Every target that can be told something now, with what comes first there."""
    waiting = store.prepared("lines of deliveries", _lines).rows({})
    found = []
    for target, first in waiting:
        query = (
            sa.select(events, deliveries.c.attempts, deliveries.c.due_at)
            .join(events, events.c.id == deliveries.c.event)
            .where(deliveries.c.target == target, deliveries.c.ended_at.is_(None), deliveries.c.event >= first)
            .order_by(deliveries.c.event)
            .limit(MAX_AT_ONCE)
        )
        with store.reading() as connection:
            rows = connection.execute(query).all()
        if rows and rows[0].due_at <= at:
            pending = tuple(Pending(row.id, row.received_at, _body(row)) for row in rows)
            found.append(Line(target, rows[0].attempts, pending))
    return found


def delivered(store: Store, line: Line, *, at: float) -> None:
    """Record that a target was told."""
    with store.writing() as writer:
        _end(writer, line.target, [each.number for each in line.events], at, delivered=True)


def failed(store: Store, line: Line, cause: str, *, at: float) -> float:
    """Record that a target could not be told; returns when it is tried again. What is too old is given up."""
    first, longest = BACK_OFF
    again = at + min(first * 2 ** min(line.attempts, 20), longest)
    old = [each.number for each in line.events if each.recorded_at < at - GIVE_UP_SECONDS]
    with store.writing() as writer:
        _end(writer, line.target, old, at, delivered=False, cause=f"given up: {cause}")
        head = sa.update(deliveries).where(deliveries.c.target == line.target, deliveries.c.event == line.events[0].number)
        head = head.where(deliveries.c.ended_at.is_(None))
        writer.connection.execute(head.values(attempts=line.attempts + 1, due_at=again, cause=cause[:200]))
    return again


def outstanding(store: Store) -> dict[str, int]:
    """How many events wait to be delivered, by target."""
    query = sa.select(deliveries.c.target, sa.func.count()).where(deliveries.c.ended_at.is_(None)).group_by(deliveries.c.target)
    with store.reading() as connection:
        return {row[0]: row[1] for row in connection.execute(query)}


def _body(row: Any) -> dict[str, Any]:
    return {"id": row.event_id, "type": row.type, "host": row.host, "at": row.at, "payload": orjson.loads(row.payload)}


def _end(
    writer: Writer, target: str, numbers: Sequence[int] | None, at: float, *, delivered: bool, cause: str | None = None
) -> None:
    open_ones = sa.update(deliveries).where(deliveries.c.target == target, deliveries.c.ended_at.is_(None))
    for batch in in_batches(numbers) if numbers is not None else [None]:
        chosen = open_ones if batch is None else open_ones.where(deliveries.c.event.in_(batch))
        writer.connection.execute(chosen.values(ended_at=at, delivered=delivered, cause=cause))


def _cursors() -> sa.Select[*tuple[Any, ...]]:
    return sa.select(webhook_cursors.c.name, webhook_cursors.c.event)


def _lines() -> sa.Select[*tuple[Any, ...]]:
    first = sa.func.min(deliveries.c.event)
    return sa.select(deliveries.c.target, first).where(deliveries.c.ended_at.is_(None)).group_by(deliveries.c.target)
