"""The coordinator's inbox: what hosts told, once each and in their order; who has handled it; what nobody could understand.

A batch is on disk before it is acknowledged. Writers of events are alone among themselves, so a reader that goes on from the last
number it saw misses nothing. What is done about an event is its consumers' business; what the coordinator tells is `outgoing`'s.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import orjson
import sqlalchemy as sa
from pydantic import ValidationError
from sqlalchemy.engine import Connection

from ringrift_dagster.events.adapters import NotUnderstood, adapt, parse, raw_text
from ringrift_dagster.events.ids import is_id, new_id
from ringrift_dagster.events.model import Event, EventType, dump_payload, load_payload, subjects
from ringrift_dagster.events.outbox import Batch, DeadLetter, Entry
from ringrift_dagster.manifest.schema import dead_letters, deliveries, event_hosts, events, handled_events
from ringrift_dagster.manifest.store import Store, Writer, in_batches, upsert

KEEP_SECONDS = 30 * 86_400.0
KEEP_DEAD_SECONDS = 90 * 86_400.0
_LOOK_SECONDS = 0.05
"""Between two looks of a reader that waits."""
_LOCK = 0x4556454E


class OutOfOrder(Exception):
    """A batch that begins behind what is missing: nothing of it was taken. `expected` is the place that comes next."""

    def __init__(self, expected: int) -> None:
        super().__init__(f"the next place is {expected}")
        self.expected = expected


@dataclass(frozen=True)
class Receipt:
    """What became of a batch: everything up to `acknowledged` is here; so many entries were new, of them so many dead letters."""

    epoch: str
    acknowledged: int
    taken: int
    dead: int


@dataclass(frozen=True)
class Told:
    """An event in the inbox. `number` is what readers remember."""

    number: int
    received_at: float
    event: Event


@dataclass(frozen=True)
class Dead:
    """A dead letter in the inbox; `reason` is one of `adapters.REASONS`, times are seconds since 1970."""

    number: int
    host: str
    reason: str
    detail: str
    raw: str
    at: float
    received_at: float
    replayed_at: float | None


def receive(store: Store, batch: Batch, *, at: float) -> Receipt:
    """Take in what is new of a batch; it is on disk when this returns. The same again, or an older one, changes nothing.

    What is no event, for whatever reason, becomes a dead letter and keeps nobody back. Raises OutOfOrder, and ValueError for a
    batch whose entries are not in order.
    """
    places = [entry.sequence for entry in batch.entries]
    if places != list(range(places[0], places[0] + len(places)) if places else []):
        raise ValueError("the entries of a batch are numbered without a gap")
    with _durably(store) as connection:
        writer = Writer(connection, 0)
        last = _last_place(connection, batch)
        lost = [_lost(batch, last, at)] if batch.floor > last else []
        last = max(last, batch.floor)
        if places and places[0] > last + 1:
            raise OutOfOrder(last + 1)
        new = [_taken(batch, entry, at) for entry in batch.entries if entry.sequence > last]
        dead = [*lost, *(row for row in new if "reason" in row)]
        writer.many(upsert(connection, events).on_conflict_do_nothing(), [row for row in new if "reason" not in row])
        writer.many(upsert(connection, dead_letters).on_conflict_do_nothing(), dead)
        last = max([last, *places])
        place = {"host": batch.host, "epoch": batch.epoch, "sequence": last, "received_at": at}
        known = ["host", "epoch"]
        writer.many(upsert(connection, event_hosts).on_conflict_do_nothing(index_elements=known), [place])
        connection.execute(
            sa.update(event_hosts)
            .where(event_hosts.c.host == batch.host, event_hosts.c.epoch == batch.epoch)
            .values(sequence=last, received_at=at)
        )
    return Receipt(batch.epoch, last, len(new), len(dead))


def last_number(store: Store) -> int:
    """The number of the latest event; 0 if there is none."""
    return store.prepared("last event", _last_number).rows({})[0][0]


def read(
    store: Store,
    after: int,
    *,
    types: Collection[EventType] | None = None,
    limit: int = 1000,
    wait: float = 0.0,
    stopped: Callable[[], bool] = lambda: False,
) -> list[Told]:
    """Events after a number, in order; waits up to `wait` seconds for the first of them."""
    query = sa.select(events).where(events.c.id > after).order_by(events.c.id).limit(limit)
    if types is not None:
        query = query.where(events.c.type.in_([kind.value for kind in types]))
    until, seen = time.monotonic() + wait, after
    while True:
        now = last_number(store)
        if now > seen and (found := _fetch(store, query)):
            return found
        seen = max(seen, now)
        if time.monotonic() >= until or stopped():
            return []
        time.sleep(_LOOK_SECONDS)


def latest(store: Store, count: int, *, types: Collection[EventType] | None = None) -> list[Told]:
    """The last so many events, in order."""
    query = sa.select(events).order_by(events.c.id.desc()).limit(count)
    if types is not None:
        query = query.where(events.c.type.in_([kind.value for kind in types]))
    return _fetch(store, query)[::-1]


def unhandled(
    store: Store,
    consumer: str,
    types: Collection[EventType],
    *,
    after: int = 0,
    limit: int = 1000,
    not_of: Collection[str] = (),
) -> list[Told]:
    """Events of certain types after a number that a consumer has not handled yet, in order; none that was told `not_of` hosts."""
    done = sa.exists().where(handled_events.c.event == events.c.id, handled_events.c.consumer == consumer)
    query = sa.select(events).where(events.c.id > after, events.c.type.in_([kind.value for kind in types]), ~done)
    if not_of:
        query = query.where(events.c.host.not_in(not_of))
    return _fetch(store, query.order_by(events.c.id).limit(limit))


def mark_handled(writer: Writer, consumer: str, number: int, *, at: float, outcome: str | None = None) -> bool:
    """Say, in the transaction that does it, that a consumer has done what there was to do about an event.

    False if that was said before: then nothing must be done again.
    """
    values = {"event": number, "consumer": consumer, "at": at, "outcome": outcome}
    insert = upsert(writer.connection, handled_events).values(values).on_conflict_do_nothing()
    return writer.connection.execute(insert.returning(handled_events.c.event)).first() is not None


def bury(store: Store, event: Told, why: str, *, at: float) -> None:
    """Make an event a dead letter, because what follows from it failed again and again. Replayed, it is a new event."""
    with _durably(store) as connection:
        row = connection.execute(sa.select(events).where(events.c.id == event.number)).one_or_none()
        if row is None:
            return
        refusal = NotUnderstood("not_done", why)
        again = upsert(connection, dead_letters).values(_letter_of(row, refusal) | {"received_at": at})
        told = {name: again.excluded[name] for name in ("reason", "detail", "raw", "received_at", "replayed_at")}
        connection.execute(again.on_conflict_do_update(index_elements=["event_id"], set_=told))
        connection.execute(sa.delete(events).where(events.c.id == event.number))


def handled(store: Store, number: int) -> dict[str, tuple[float, str | None]]:
    """Who has handled an event: consumer to when, and with which outcome."""
    with store.reading() as connection:
        rows = connection.execute(sa.select(handled_events).where(handled_events.c.event == number)).all()
    return {row.consumer: (row.at, row.outcome) for row in rows}


def hosts(store: Store) -> dict[str, float]:
    """When each host was last heard of by its events."""
    query = sa.select(event_hosts.c.host, sa.func.max(event_hosts.c.received_at)).group_by(event_hosts.c.host)
    with store.reading() as connection:
        return {row[0]: row[1] for row in connection.execute(query)}


def dead(store: Store, *, limit: int = 100, replayed: bool = False) -> list[Dead]:
    """Dead letters, the latest first; those that were understood after all only if asked for."""
    query = sa.select(dead_letters).order_by(dead_letters.c.id.desc()).limit(limit)
    if not replayed:
        query = query.where(dead_letters.c.replayed_at.is_(None))
    with store.reading() as connection:
        return [_dead(row) for row in connection.execute(query)]


def dead_count(store: Store) -> int:
    """How many dead letters are open."""
    query = sa.select(sa.func.count()).select_from(dead_letters).where(dead_letters.c.replayed_at.is_(None))
    with store.reading() as connection:
        return connection.execute(query).scalar_one()


def replay(store: Store, number: int, *, at: float) -> Told:
    """Read a dead letter again, after whatever kept it from being understood was mended. It becomes one event, however often.

    Raises KeyError, and NotUnderstood.
    """
    with _durably(store) as connection:
        row = connection.execute(sa.select(dead_letters).where(dead_letters.c.id == number).with_for_update()).one_or_none()
        if row is None:
            raise KeyError(number)
        event = adapt(parse(row.raw.encode()), host=row.host, at=row.at).model_copy(update={"id": row.event_id})
        values = event_row(event, received_at=at) | {"epoch": row.epoch, "sequence": row.sequence}
        connection.execute(upsert(connection, events).values(values).on_conflict_do_nothing())
        found = connection.execute(sa.select(events).where(events.c.event_id == row.event_id)).one()
        again = sa.update(dead_letters).where(dead_letters.c.id == number, dead_letters.c.replayed_at.is_(None))
        connection.execute(again.values(replayed_at=at))
        return Told(found.id, found.received_at, event)


def prune(store: Store, *, at: float) -> int:
    """Forget events that are old and were delivered to whom they concern, and very old dead letters; returns how many events."""
    waiting = sa.exists().where(deliveries.c.event == events.c.id, deliveries.c.ended_at.is_(None))
    old = sa.delete(events).where(events.c.received_at < at - KEEP_SECONDS, ~waiting)
    with _durably(store) as connection:
        connection.execute(sa.delete(dead_letters).where(dead_letters.c.received_at < at - KEEP_DEAD_SECONDS))
        return connection.execute(old).rowcount


def event_row(event: Event, *, received_at: float) -> dict[str, Any]:
    """An event as a row, without its place in a host's order."""
    config, subject = subjects(event.payload)
    return {
        "event_id": event.id, "type": event.type.value, "host": event.host, "epoch": None, "sequence": None, "at": event.at,
        "received_at": received_at, "config": config, "subject": subject, "payload": dump_payload(event.payload).decode(),
    }  # fmt: skip


def alone(connection: Connection) -> None:
    """Wait until nobody else writes events, and keep it so until the transaction ends: numbers are then in the order of commits."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))


@contextmanager
def _durably(store: Store) -> Iterator[Connection]:
    """A transaction that writes events, and is on disk once it is over, whatever becomes of the machine."""
    with store.engine.connect().execution_options(ringrift_writes=True) as connection:
        driver: Any = connection.connection.dbapi_connection
        sqlite = connection.dialect.name == "sqlite"
        if sqlite:
            driver.execute("PRAGMA synchronous = FULL").close()
        try:
            with connection.begin():
                alone(connection)
                yield connection
        finally:
            if sqlite:
                driver.execute("PRAGMA synchronous = NORMAL").close()


def _last_place(connection: Connection, batch: Batch) -> int:
    query = sa.select(event_hosts.c.sequence).where(event_hosts.c.host == batch.host, event_hosts.c.epoch == batch.epoch)
    return connection.execute(query).scalar_one_or_none() or 0


def _taken(batch: Batch, entry: Entry, at: float) -> dict[str, Any]:
    """The row that an entry becomes: of an event, or of a dead letter (which has a `reason`)."""
    place = {"epoch": batch.epoch, "sequence": entry.sequence}
    if entry.dead is not None:
        return _dead_row(batch.host, entry.dead, at) | place
    try:
        event = Event.model_validate(entry.event)
    except (ValidationError, RecursionError) as error:
        return _dead_row(batch.host, _not_typed(entry.event, error, at), at) | place
    return event_row(event, received_at=at) | {"host": batch.host} | place


def _not_typed(raw: Any, error: Exception, at: float) -> DeadLetter:
    refusal = NotUnderstood("not_typed", str(error))
    letter = DeadLetter.of(refusal, raw_text(raw), at=at)
    own = raw.get("id") if isinstance(raw, dict) else None
    return letter.model_copy(update={"id": own}) if is_id(own) else letter


def _lost(batch: Batch, last: int, at: float) -> dict[str, Any]:
    """What is known of events that the host believes to be here: a former manifest had them, or this one was set back."""
    detail = f"places {last + 1} to {batch.floor} were acknowledged by a manifest that is no more"
    place = {"epoch": batch.epoch, "sequence": batch.floor}
    return _dead_row(batch.host, DeadLetter(id=new_id(), reason="lost", detail=detail, raw="", at=at), at) | place


def _dead_row(host: str, letter: DeadLetter, at: float) -> dict[str, Any]:
    return {
        "event_id": letter.id, "host": host, "reason": letter.reason, "detail": letter.detail,
        "raw": letter.raw.replace("\x00", "\N{REPLACEMENT CHARACTER}"), "at": letter.at, "received_at": at,
    }  # fmt: skip


def _fetch(store: Store, query: sa.Select[Any]) -> list[Told]:
    """The events of a query. One that this version does not understand becomes a dead letter: it must not stop the others."""
    with store.reading() as connection:
        rows = connection.execute(query).all()
    found: list[Told] = []
    strange: list[sa.Row[Any]] = []
    for row in rows:
        try:
            found.append(Told(row.id, row.received_at, _event(row)))
        except (ValidationError, ValueError):
            strange.append(row)
    if strange:
        _set_aside(store, strange)
    return found


def _event(row: Any) -> Event:
    kind = EventType(row.type)
    return Event.model_construct(
        id=row.event_id, type=kind, host=row.host, at=row.at, payload=load_payload(kind, row.payload), sequence=row.sequence
    )


def _set_aside(store: Store, rows: Sequence[sa.Row[Any]]) -> None:
    with _durably(store) as connection:
        letters = [_letter_of(row, NotUnderstood("not_typed", "stored by another version")) for row in rows]
        Writer(connection, 0).many(upsert(connection, dead_letters).on_conflict_do_nothing(), letters)
        for batch in in_batches([row.id for row in rows]):
            connection.execute(sa.delete(events).where(events.c.id.in_(batch)))


def _letter_of(row: sa.Row[Any], refusal: NotUnderstood) -> dict[str, Any]:
    """A stored event as the row of a dead letter that can be replayed."""
    try:
        payload: Any = orjson.loads(row.payload)
    except ValueError:
        payload = row.payload
    if isinstance(payload, dict) and isinstance(payload.get("other"), dict):
        payload = payload.pop("other") | payload
    raw = raw_text({"type": row.type, "id": row.event_id, "at": row.at, "payload": payload})
    letter = DeadLetter.of(refusal, raw, at=row.at).model_copy(update={"id": row.event_id})
    return _dead_row(row.host, letter, row.received_at) | {"epoch": row.epoch, "sequence": row.sequence}


def _dead(row: Any) -> Dead:
    return Dead(row.id, row.host, row.reason, row.detail, row.raw, row.at, row.received_at, row.replayed_at)


def _last_number() -> sa.Select[Any]:
    return sa.select(sa.func.coalesce(sa.func.max(events.c.id), 0))
