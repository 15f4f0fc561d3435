"""How operations ended, recorded: each end, its copy, its event, and what was learnt of links and sources, in one transaction.

Nothing is carried here. That a transfer ended well says its agent, or whoever read a bucket's object back.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ringrift_dagster.events.model import DataAvailable, DataTransferComplete, DataTransferFailed, EventType
from ringrift_dagster.events.outgoing import publish
from ringrift_dagster.manifest import replicas
from ringrift_dagster.manifest.inventory import ItemType
from ringrift_dagster.manifest.queries import Item
from ringrift_dagster.manifest.replicas import Made
from ringrift_dagster.manifest.schema import locations, operations
from ringrift_dagster.manifest.states import Liveness
from ringrift_dagster.manifest.store import Store, Writer
from ringrift_dagster.transfer import breakers, limits, queue
from ringrift_dagster.transfer.model import OfferOutcome, Priority
from ringrift_dagster.transfer.operations import CAUSES_HERE, Brought, Kind, Operation, State, in_state

ODD_CAUSE = "agent_refused"
"""What a cause counts as that only an agent knows."""
OF_THE_LINK = frozenset({"no_source", "timeout"})
"""Failures that say that a link bears less, if somebody answered."""
NOBODY_THERE = frozenset({"refused", "unreachable"})
"""Failures of an offer that say nothing of its link."""
_ASKED_FOR = frozenset({Kind.PRELOAD, Kind.SYNC})
"""What a host wants for itself: it is told how that ended."""
_OVER = frozenset({State.DONE, State.FAILED})
MANY_WAITING = limits.MOST + 1
"""How many wait beyond that does not matter to a link's limit."""


@dataclass(frozen=True)
class Row:
    """What came of one operation within a run. `bytes` that were moved, `seconds` of the transfer; `state` WAITING: tried again."""

    operation: int
    kind: Kind
    priority: Priority
    item: str
    type: str | None
    config: str | None
    state: State
    bytes: int = 0
    seconds: float = 0.0
    transport: str | None = None
    source: str | None = None
    retries: int = 0
    cause: str | None = None
    detail: str | None = None
    next_action: str | None = None

    @property
    def mb_per_second(self) -> float | None:
        """Megabytes (10^6) a second; None if nothing was moved."""
        return self.bytes / self.seconds / 1e6 if self.bytes and self.seconds else None


@dataclass(frozen=True)
class Ended:
    """The end of an attempt at an operation: well, unless there is a `cause`. `made` is the copy that is at the target now.

    `outcomes` say what each offer was good for, `liars` whose copies are not what their hash says. `silent`: nobody answered who is
    needed for it, so it was no attempt.
    """

    operation: Operation
    item: Item | None = None
    brought: Brought = Brought()  # noqa: RUF009
    made: Made | None = None
    cause: str | None = None
    detail: str = ""
    next_action: str | None = None
    outcomes: tuple[OfferOutcome, ...] = ()
    liars: tuple[str, ...] = ()
    silent: bool = False


def record(store: Store, location: str, ended: Sequence[Ended], *, at: float) -> list[Row]:
    """Record ends at a location, all or none; returns a row for each whose lease was still held.

    A verified copy is recorded in any case: it is there, whoever has the operation now.
    """
    with store.writing() as writer:
        made = [each.made for each in ended if each.made is not None]
        if made:
            replicas.record_copies(writer, location, made, at=at)
        done = queue.complete_all(writer, [(each.operation, each.brought) for each in ended if each.cause is None], at=at)
        states: dict[int, State | None] = dict.fromkeys(done, State.DONE)
        for each in ended:
            if each.cause is not None:
                states[each.operation.id] = _fail(writer, each, at)
        for each in ended:
            for liar in each.liars:
                replicas.suspect(writer, liar, each.operation.sha256, "it sent other bytes", at=at)
        _tell(writer, location, [each for each in ended if states.get(each.operation.id) in _OVER], at)
        breakers.observe(writer, (outcome for each in ended for outcome in each.outcomes), at=at)
        _observe_links(writer, location, ended, at)
    causes = _told_causes(store, [number for number, state in states.items() if state in (State.WAITING, State.FAILED)])
    return [_row(each, state, causes) for each in ended if (state := states.get(each.operation.id)) is not None]


def _tell(writer: Writer, location: str, ended: Iterable[Ended], at: float) -> None:
    """An event for every operation that is over, and one more for an item that a host waited for; hosts hear of their own."""
    place = sa.select(locations.c.kind).where(locations.c.name == location)
    hosts = (location,) if writer.connection.execute(place).scalar_one_or_none() == "host" else ()
    for each in ended:
        asked_for = hosts if each.operation.kind in _ASKED_FOR else ()
        told: dict[str, Any] = {
            "operation": each.operation.id, "host": location, "sha256": each.operation.sha256, "kind": each.operation.kind.value,
            "config": each.item.config if each.item else None, "urgency": each.operation.priority.name,
        }  # fmt: skip
        if each.cause is not None:
            attempts = each.operation.attempts + 1
            failed = DataTransferFailed(**told, cause=each.cause, detail=each.detail or None, attempts=attempts)
            publish(writer, EventType.DATA_TRANSFER_FAILED, failed, at=at, hosts=asked_for)
            continue
        brought, path = each.brought, each.made.path if each.made else None
        done = DataTransferComplete(
            **told, path=path, bytes=brought.bytes, seconds=brought.seconds, source=brought.source, transport=brought.transport
        )
        publish(writer, EventType.DATA_TRANSFER_COMPLETE, done, at=at, hosts=asked_for)
        if asked_for and each.item is not None and path is not None:
            there = DataAvailable(
                host=location, sha256=each.item.sha256, type=ItemType(each.item.type), config=each.item.config, path=path,
                bytes=each.item.size, games=each.item.games, samples=each.item.samples, reason=each.operation.why,
            )  # fmt: skip
            publish(writer, EventType.DATA_AVAILABLE, there, at=at, hosts=asked_for)


def _fail(writer: Writer, each: Ended, at: float) -> State | None:
    cause, detail = each.cause or "", each.detail
    if cause not in CAUSES_HERE:
        cause, detail = ODD_CAUSE, f"{cause}: {detail}"
    if each.silent or _none_is_there(writer, each):
        return queue.put_off(writer, each.operation, cause, detail, at=at)
    return queue.fail(writer, each.operation, cause, detail, at=at, next_action=each.next_action, retries=each.brought.retries)


def _none_is_there(writer: Writer, each: Ended) -> bool:
    """Whether an agent got nothing because every place that it asked is one that does not answer us either."""
    if each.cause not in OF_THE_LINK or not each.outcomes or any(outcome.bytes for outcome in each.outcomes):
        return False
    asked = locations.c.name.in_({outcome.location for outcome in each.outcomes})
    there = sa.select(locations.c.id).where(asked, locations.c.liveness == Liveness.ONLINE).limit(1)
    return writer.connection.execute(there).first() is None


def _answered(outcome: OfferOutcome) -> bool:
    return outcome.bytes > 0 or (outcome.failures > 0 and outcome.failure not in NOBODY_THERE)


def _observe_links(writer: Writer, location: str, ended: Iterable[Ended], at: float) -> None:
    seen: dict[str, list[limits.Ended]] = defaultdict(list)
    for each in ended:
        if each.cause is None and each.brought.bytes:
            seen[limits.going_to(location)].append(limits.Ended(True, each.brought.bytes, each.brought.seconds))
        elif each.cause in OF_THE_LINK and any(map(_answered, each.outcomes)):
            seen[limits.going_to(location)].append(limits.Ended(False))
        for outcome in each.outcomes:
            if _answered(outcome):
                good = outcome.bytes > 0 and outcome.failure is None
                seen[limits.coming_from(outcome.location)].append(limits.Ended(good, outcome.bytes, outcome.seconds))
    if seen:
        waiting = _waiting(writer, location)
        for name in sorted(seen):
            limits.observe(writer, name, seen[name], waiting=waiting, at=at)


def _waiting(writer: Writer, location: str) -> int:
    """How many operations wait for the link into a location, up to MANY_WAITING."""
    here = sa.select(operations.c.id).where(in_state(State.QUEUED), operations.c.target == location).limit(MANY_WAITING)
    return writer.connection.execute(sa.select(sa.func.count()).select_from(here.subquery())).scalar_one()


def _told_causes(store: Store, numbers: Sequence[int]) -> Mapping[int, Operation]:
    return {each.id: each for each in (queue.get(store, number) for number in numbers)}


def _row(each: Ended, state: State, told: Mapping[int, Operation]) -> Row:
    operation, item, brought = each.operation, each.item, each.brought
    failed = told.get(operation.id)
    return Row(
        operation.id,
        operation.kind,
        operation.priority,
        operation.sha256,
        item.type if item else None,
        item.config if item else None,
        state,
        brought.bytes,
        brought.seconds,
        brought.transport,
        brought.source,
        brought.retries,
        *((failed.cause, failed.detail, failed.next_action) if failed else (None, None, None)),
    )
