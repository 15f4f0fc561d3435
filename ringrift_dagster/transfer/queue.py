"""The queue of operations: submitting, leasing, ending them. Durable rows of the manifest's database; many processes may use it.

Every function is one transaction, or part of its caller's. Whose turn it is `turns` knows; what is done about an operation is the
coordinator's business, how many a link bears `limits`'. Who holds a lease says so again before it runs out, or loses it: whoever
leases next then finds the operation as it was, and the order that its agent was given. An end is accepted only from who holds the
lease.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice, takewhile
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ringrift_dagster.events.model import DataTransferFailed, EventType
from ringrift_dagster.events.outgoing import publish
from ringrift_dagster.manifest.schema import items, locations, operations, replicas
from ringrift_dagster.manifest.states import ReplicaState
from ringrift_dagster.manifest.store import Store, Writer, in_batches
from ringrift_dagster.transfer import turns
from ringrift_dagster.transfer.limits import coming_from
from ringrift_dagster.transfer.model import Priority
from ringrift_dagster.transfer.operations import (
    AGED,
    CAUSES_HERE,
    COLUMNS,
    RANKS,
    Brought,
    Operation,
    State,
    Wanted,
    in_state,
    operation,
)

LEASE_SECONDS = 60.0
KEEP_SECONDS = 30 * 86_400.0
"""What ended so long ago is of no use any more."""
ATTEMPTS = 6
BACK_OFF = (5.0, 3600.0)
"""Seconds before the second attempt, doubled with each, and at most."""
CRITICAL_BACK_OFF = 60.0
SILENT_PAUSE = (5.0, 120.0)
"""Seconds until who did not answer is asked again, doubled each time, and at most: who is back is not waited for much longer."""
CRITICAL_SILENT_PAUSE = 15.0
SILENT_SECONDS = 86_400.0
"""An operation that waited in all for so long for who does not answer counts that as a failure."""
FINAL_CAUSES = frozenset({"not_sound", "would_lose_games", "occupied", "read_only", "unknown_item", "no_such_target"})
"""Trying again changes nothing: somebody has to do something first."""
NEXT_ACTIONS = {
    "no_source": "bring a location that holds it back",
    "wrong_bytes": "look at its copies: `ringrift-data where`",
    "no_room": "make room at the target",
    "read_only": "make the target's directory writable, then retry",
    "disk_error": "look at the target's disk",
    "not_sound": "make the item again: its own content is broken",
    "would_lose_games": "merge the databases, or move the one that stands there away",
    "occupied": "move away what stands at its path, then retry",
    "timeout": "look at the link",
    "agent_silent": "start the target's agent",
    "agent_refused": "look at the target's agent: it does not take the order",
    "no_such_target": "name the target in the hosts file, with an address",
    "unknown_item": "refresh the manifest; it knows no such item",
    "upload_failed": "look at the bucket and its keys",
}
"""What a person has to do when the last attempt failed."""
_OPEN = operations.c.finished_at.is_(None)
_SILENT = "agent_silent"
_SUBMIT_LOCK = 0x51554555
_Key = tuple[str, bytes, str]
"""What is asked for once at a time: kind, item, target."""


def submit(store: Store, wanted: Wanted, *, at: float) -> Operation:
    """Ask for an item at a target. If that is asked for already, the open operation is returned, raised in priority if need be."""
    number = submit_all(store, [wanted], at=at)[0]
    return get(store, number)


def submit_all(store: Store, wanted: Sequence[Wanted], *, at: float) -> list[int]:
    """As `submit`, for many at once and in their order; returns the operations' ids, in the same order."""
    with _transaction(store) as connection:
        return _submit(connection, wanted, at)


def submit_missing(store: Store, wanted: Sequence[Wanted], *, at: float) -> list[int]:
    """As `submit_all`, but for what stands at its target by now; returns the ids of the others, in order.

    Whoever found an item missing may have looked just before the operation ended that brought it.
    """
    with _transaction(store) as connection:
        return _submit(connection, wanted, at, missing=True)


def lease(
    store: Store,
    owner: str,
    target: str,
    *,
    at: float,
    limit: int = 1,
    priorities: Collection[Priority] = tuple(Priority),
    seconds: float = LEASE_SECONDS,
) -> list[Operation]:
    """Up to `limit` operations for a target, the most urgent first, as far as its link bears more: `owner`'s for `seconds`.

    What has aged is leased with any priority but CRITICAL alone.
    """
    with _transaction(store) as connection:
        borne = turns.ready(connection, target, at)
        lanes = turns.lanes(connection, operations.c.target == target)
        following = islice(turns.following(connection, target, priorities, limit), limit)
        chosen = list(takewhile(lambda row: lanes.take(row.size, turns.room(borne, row.rank)), following))
        for batch in in_batches([row.id for row in chosen]):
            connection.execute(turns.TAKE, {"holder": owner, "until": at + seconds, "ids": list(batch)})
    return [
        replace(taken, state=State.LEASED, owner=owner, leased_until=at + seconds, leases=taken.leases + 1)
        for taken in map(operation, chosen)
    ]


def heartbeat(store: Store, owner: str, held: Iterable[Operation], *, at: float, seconds: float = LEASE_SECONDS) -> set[int]:
    """Say that the leases are still needed. Returns the ids of those that are still held: the others are somebody else's, or
    cancelled."""
    with _transaction(store) as connection:
        mine = _held(connection, owner, held)
        for batch in in_batches(sorted(mine)):
            connection.execute(sa.update(operations).where(operations.c.id.in_(batch)).values(leased_until=at + seconds))
    return mine


def post(store: Store, owner: str, orders: Mapping[int, str], held: Sequence[Operation]) -> set[int]:
    """Record which order each operation is about to be part of; returns the ids of those that are still held.

    What has become more urgent since it was leased goes back: its order would be of the former priority.
    """
    with _transaction(store) as connection:
        mine = _held(connection, owner, held)
        raised = _raised_since(connection, [each for each in held if each.id in mine])
        _set_free(connection, sorted(raised), at=0.0, again_in=0.0, cause=None, detail=None)
        mine -= raised
        rows = [{"i": number, "o": order} for number, order in sorted(orders.items()) if number in mine]
        if rows:
            connection.execute(
                sa.update(operations).where(operations.c.id == sa.bindparam("i")).values(order_id=sa.bindparam("o")), rows
            )
    return mine


def draw(store: Store, owner: str, sources: Mapping[int, str], held: Sequence[Operation], *, at: float) -> set[int]:
    """Count each operation on its source's link; returns the ids that the links bear. The others are given back for a moment."""
    with _transaction(store) as connection:
        mine = _held(connection, owner, held)
        drawing = sorted((each for each in held if each.id in mine and each.id in sources), key=lambda each: (each.rank, each.id))
        borne: set[int] = set()
        for source in sorted(set(sources.values())):
            at_once = turns.at_once(connection, coming_from(source))
            lanes = turns.lanes(connection, operations.c.source == source)
            here = {each.id: each for each in drawing if sources[each.id] == source}
            drawn = sa.select(operations.c.id).where(operations.c.source == source, operations.c.id.in_(here))
            counted = set(connection.execute(drawn).scalars())
            borne |= counted | {
                each.id
                for each in here.values()
                if each.id not in counted and lanes.take(each.size, turns.room(at_once, each.rank))
            }
        for source in sorted({sources[number] for number in borne}):
            for batch in in_batches(sorted(number for number in borne if sources[number] == source)):
                connection.execute(sa.update(operations).where(operations.c.id.in_(batch)).values(source=source))
        _set_free(connection, sorted(set(sources) & mine - borne), at=at, again_in=1.0, cause="link_busy", detail=None)
    return borne


def complete(writer: Writer, held: Operation, brought: Brought, *, at: float) -> bool:
    """End an operation that was done, in the transaction that records what came of it. False if its lease is not held any more."""
    return held.id in complete_all(writer, [(held, brought)], at=at)


def complete_all(writer: Writer, ended: Sequence[tuple[Operation, Brought]], *, at: float) -> set[int]:
    """As `complete`, for many of one owner at once; returns the ids of those whose leases were still held."""
    if not ended:
        return set()
    mine = _held(writer.connection, ended[0][0].owner or "", [held for held, _ in ended])
    counted = [(held, brought) for held, brought in ended if held.id in mine]
    rows = [{"ended": held.id} | {f"by_{name}": getattr(brought, name) for name in _BROUGHT} for held, brought in counted]
    if rows:
        writer.connection.execute(_DONE.values(finished_at=at), rows)
    writer.note_all(
        at,
        "OPERATION_DONE",
        [
            (
                held.target,
                {
                    "operation": held.id, "what": held.kind.value, "item": held.sha256, "priority": held.priority.name,
                    "transport": brought.transport, "source": brought.source, "bytes": brought.bytes,
                    "bytes_a_second": round(brought.bytes / brought.seconds) if brought.seconds else None,
                },
            )
            for held, brought in counted
        ],
    )  # fmt: skip
    return mine


def fail(
    writer: Writer,
    held: Operation,
    cause: str,
    detail: str,
    *,
    at: float,
    next_action: str | None = None,
    retries: int = 0,
    jitter: Callable[[], float] = random.random,
) -> State | None:
    """Record that an attempt failed: it is tried again later, or that was the last. None if the lease is not held any more."""
    if cause not in CAUSES_HERE:
        raise ValueError(f"{cause!r} is no cause of a failure")
    if not _held(writer.connection, held.owner or "", [held]):
        return None
    attempts = held.attempts + 1
    told: dict[str, Any] = {"attempts": attempts, "cause": cause, "detail": detail[:2000], "order_id": None, "retries": retries}
    if cause in FINAL_CAUSES or attempts >= ATTEMPTS:
        told["next_action"] = next_action or NEXT_ACTIONS.get(cause, "look at it, then retry")
        _end(writer.connection, held.id, State.FAILED, at, told)
        writer.note(
            at, "OPERATION_FAILED", held.target, operation=held.id, what=held.kind.value, item=held.sha256,
            priority=held.priority.name, cause=cause, detail=detail[:300], attempts=attempts, next_action=told["next_action"],
        )  # fmt: skip
        return State.FAILED
    pause = back_off(held.priority, attempts, jitter)
    told |= {"state": State.WAITING, "due_at": at + pause, "owner": None, "leased_until": None, "source": None}
    told["next_action"] = f"attempt {attempts + 1} of {ATTEMPTS} in {pause:.0f} s"
    writer.connection.execute(sa.update(operations).where(operations.c.id == held.id).values(told))
    return State.WAITING


def put_off(writer: Writer, held: Operation, cause: str, detail: str, *, at: float) -> State | None:
    """Record that nobody answered who is needed for it: it waits, and no attempt is counted. After a day of that, as `fail`."""
    if held.silent_seconds >= SILENT_SECONDS:
        return fail(writer, held, cause, detail, at=at)
    if cause not in CAUSES_HERE:
        raise ValueError(f"{cause!r} is no cause of a failure")
    if not _held(writer.connection, held.owner or "", [held]):
        return None
    pause = _silent_pause(held)
    told = _silent(cause, detail, at, pause)
    if cause != _SILENT:  # what a silent agent was ordered it goes on with
        told["order_id"] = None
    writer.connection.execute(sa.update(operations).where(operations.c.id == held.id).values(told))
    return State.WAITING


def put_off_all(store: Store, target: str, priorities: Collection[Priority], detail: str, *, at: float) -> int:
    """Let what is queued at a target that does not answer wait until it does, see `wake`; returns how many.

    Nobody then starts a run for each of them only to hear the same.
    """
    put_off = 0
    with _transaction(store) as connection:
        for rank in turns.ranks(priorities):
            pause = CRITICAL_SILENT_PAUSE if rank == RANKS[Priority.CRITICAL] else SILENT_PAUSE[1]
            queued = turns.skipping_locked(in_state(State.QUEUED), operations.c.target == target, operations.c.rank == rank)
            waits = sa.update(operations).where(operations.c.id.in_(queued)).values(_silent(_SILENT, detail, at, pause))
            put_off += connection.execute(waits).rowcount
    return put_off


def wake(store: Store, target: str) -> int:
    """A target answers: what waits for that is due. Returns how many."""
    with _transaction(store) as connection:
        waiting = turns.skipping_locked(in_state(State.WAITING), operations.c.target == target, operations.c.cause == _SILENT)
        due = {"state": State.QUEUED.value, "due_at": None}
        return connection.execute(sa.update(operations).where(operations.c.id.in_(waiting)).values(due)).rowcount


def back_off(priority: Priority, attempts: int, jitter: Callable[[], float] = random.random) -> float:
    """Seconds until the next attempt after so many failed ones; `jitter` gives 0 to 1."""
    first, longest = BACK_OFF
    pause = min(first * 2 ** (attempts - 1), CRITICAL_BACK_OFF if priority == Priority.CRITICAL else longest)
    return pause * (0.5 + jitter())


def give_back(
    store: Store,
    owner: str,
    held: Iterable[Operation],
    *,
    at: float,
    again_in: float = 0.0,
    cause: str | None = None,
    detail: str | None = None,
    silent: bool = False,
) -> int:
    """Return leases without an attempt being counted; they can be had again in so many seconds. Returns how many.

    `silent`: because somebody does not answer, which is borne for so long as `put_off` bears it.
    """
    with _transaction(store) as connection:
        mine = sorted(_held(connection, owner, held))
        _set_free(connection, mine, at=at, again_in=again_in, cause=cause, detail=detail, silent=silent)
    return len(mine)


def release(store: Store, target: str, *, at: float) -> int:
    """Return every lease at a target, where nothing is carried now; whoever leases next asks for the orders. Returns how many."""
    with _transaction(store) as connection:
        leased = sa.select(operations.c.id).where(in_state(State.LEASED), operations.c.target == target)
        numbers = connection.execute(leased.order_by(operations.c.id).with_for_update()).scalars().all()
        _set_free(connection, numbers, at=at, again_in=0.0, cause=None, detail=None)
    return len(numbers)


def cancel(store: Store, number: int, *, at: float) -> Operation:
    """End an operation that is open; one that has ended stays as it is. Whoever works on it learns so. Raises KeyError."""
    with store.writing() as writer:
        query = sa.select(*COLUMNS).where(operations.c.id == number).with_for_update()
        row = writer.connection.execute(query).one_or_none()
        if row is None:
            raise KeyError(number)
        if row.finished_at is None:
            _end(writer.connection, number, State.CANCELLED, at, {"cause": "cancelled", "next_action": None})
            writer.note(at, "OPERATION_FAILED", row.target, operation=number, item=row.sha256.hex(), cause="cancelled")
            _tell_failed(writer, row, "cancelled", None, None, at)
    return get(store, number)


def abandon(store: Store, numbers: Sequence[int], cause: str, detail: str, *, at: float) -> int:
    """End, as FAILED, operations that are open and that nobody works on. Returns how many were. Raises ValueError for no cause."""
    if cause not in CAUSES_HERE:
        raise ValueError(f"{cause!r} is no cause of a failure")
    told = {"cause": cause, "detail": detail[:2000], "next_action": NEXT_ACTIONS.get(cause, "look at it, then retry")}
    ended = 0
    with store.writing() as writer:
        for batch in in_batches(sorted(numbers)):
            idle = sa.select(*COLUMNS).where(operations.c.id.in_(batch), _OPEN, is_idle(at))
            for row in writer.connection.execute(idle.order_by(operations.c.id).with_for_update()).all():
                _end(writer.connection, row.id, State.FAILED, at, told)
                writer.note(
                    at, "OPERATION_FAILED", row.target, operation=row.id, what=row.kind, item=row.sha256.hex(),
                    priority=Priority(row.priority).name, attempts=row.attempts, **told,
                )  # fmt: skip
                _tell_failed(writer, row, cause, detail, told["next_action"], at)
                ended += 1
    return ended


def is_idle(at: float) -> sa.ColumnElement[bool]:
    """Of operations that nobody works on: those that are not leased, or whose lease has run out."""
    return sa.or_(operations.c.state != State.LEASED.value, operations.c.leased_until <= at)


def prune(store: Store, *, at: float, kept_seconds: float = KEEP_SECONDS, kept_targets: Collection[str] = ()) -> int:
    """Forget what ended long ago, but for what was brought to some targets; returns how many."""
    with _transaction(store) as connection:
        old = (operations.c.finished_at < at - kept_seconds, operations.c.target.not_in(kept_targets))
        return connection.execute(sa.delete(operations).where(*old)).rowcount


def retry(store: Store, number: int, *, at: float, priority: Priority | None = None) -> Operation:
    """Ask once more for what failed or was cancelled: a new operation, or the equal one that is open. Raises KeyError.

    One that still waits for its next attempt is due at once.
    """
    old = get(store, number)
    wanted = Wanted(old.kind, old.sha256, old.target, old.priority if priority is None else priority, old.size, old.why)
    again = submit(store, wanted, at=at)
    if again.state == State.WAITING:
        with _transaction(store) as connection:
            due = {"state": State.QUEUED, "due_at": None}
            connection.execute(sa.update(operations).where(operations.c.id == again.id, in_state(State.WAITING)).values(due))
    return get(store, again.id)


def get(store: Store, number: int) -> Operation:
    """One operation. Raises KeyError."""
    with store.reading() as connection:
        row = connection.execute(sa.select(*COLUMNS).where(operations.c.id == number)).one_or_none()
    if row is None:
        raise KeyError(number)
    return operation(row)


def listed(
    store: Store,
    *,
    states: Collection[State] = (State.QUEUED, State.WAITING, State.LEASED),
    target: str | None = None,
    limit: int = 100,
) -> list[Operation]:
    """Operations in some states: open ones in the order in which they are leased, ended ones the latest first."""
    query = sa.select(*COLUMNS).where(operations.c.state.in_(states)).limit(limit)
    if target is not None:
        query = query.where(operations.c.target == target)
    ended = not {State.QUEUED, State.WAITING, State.LEASED} & set(states)
    order = (operations.c.finished_at.desc(), operations.c.id.desc()) if ended else (operations.c.rank, operations.c.id)
    with store.reading() as connection:
        return [operation(row) for row in connection.execute(query.order_by(*order))]


def pending(store: Store, *, at: float) -> dict[tuple[str, Priority], int]:
    """How many operations could be leased now, by target and priority; aged ones count as HIGH."""
    due = sa.or_(
        in_state(State.QUEUED),
        sa.and_(in_state(State.WAITING), operations.c.due_at <= at),
        sa.and_(in_state(State.LEASED), operations.c.leased_until <= at),
    )
    query = sa.select(operations.c.target, operations.c.rank, sa.func.count()).where(due)
    by_rank = {rank: priority for priority, rank in RANKS.items()} | {AGED: Priority.HIGH}
    found: dict[tuple[str, Priority], int] = {}
    with store.reading() as connection:
        for target, rank, count in connection.execute(query.group_by(operations.c.target, operations.c.rank)):
            found[target, by_rank[rank]] = found.get((target, by_rank[rank]), 0) + count
    return found


def counts(store: Store) -> dict[tuple[Priority, State], int]:
    """Open operations by priority and state, for metrics."""
    query = sa.select(operations.c.priority, operations.c.state, sa.func.count()).where(_OPEN)
    with store.reading() as connection:
        rows = connection.execute(query.group_by(operations.c.priority, operations.c.state)).all()
    return {(Priority(priority), State(state)): count for priority, state, count in rows}


_BROUGHT = tuple(Brought.__dataclass_fields__)
_NO_LEASE = {"owner": None, "leased_until": None, "due_at": None}
_DONE = (
    sa.update(operations)
    .where(operations.c.id == sa.bindparam("ended"))
    .values(
        {name: sa.bindparam(f"by_{name}") for name in _BROUGHT}
        | {"state": State.DONE.value, "cause": None, "detail": None, "next_action": None, **_NO_LEASE}
    )
)


@contextmanager
def _transaction(store: Store) -> Iterator[Connection]:
    """One that writes, without waiting for whoever writes the manifest where the database can do so."""
    with store.engine.connect().execution_options(ringrift_writes=True) as connection, connection.begin():
        yield connection


def _held(connection: Connection, owner: str, held: Iterable[Operation]) -> set[int]:
    """Which leases are still as they were given; nobody else touches those until the transaction ends."""
    fences = {each.id: each.leases for each in held}
    mine: set[int] = set()
    for batch in in_batches(sorted(fences)):
        query = sa.select(operations.c.id, operations.c.leases).where(
            operations.c.id.in_(batch), in_state(State.LEASED), operations.c.owner == owner
        )
        rows = connection.execute(query.order_by(operations.c.id).with_for_update()).all()
        mine |= {row.id for row in rows if fences[row.id] == row.leases}
    return mine


def _end(connection: Connection, number: int, state: State, at: float, values: Mapping[str, Any]) -> None:
    ended = {"state": state.value, "finished_at": at, **_NO_LEASE}
    connection.execute(sa.update(operations).where(operations.c.id == number).values({**ended, **values}))


def _tell_failed(writer: Writer, row: Any, cause: str, detail: str | None, next_action: str | None, at: float) -> None:
    """The event of an end that no run came to."""
    failed = DataTransferFailed(
        operation=row.id, host=row.target, sha256=row.sha256.hex(), cause=cause, kind=row.kind, detail=detail,
        attempts=row.attempts, next_action=next_action, urgency=Priority(row.priority).name,
    )  # fmt: skip
    publish(writer, EventType.DATA_TRANSFER_FAILED, failed, at=at)


def _silent_pause(held: Operation) -> float:
    first, longest = SILENT_PAUSE
    most = CRITICAL_SILENT_PAUSE if held.priority == Priority.CRITICAL else longest
    return min(max(held.silent_seconds, first), most)


def _silent(cause: str, detail: str, at: float, pause: float) -> dict[str, Any]:
    """What an operation is told that waits for somebody to answer."""
    return {
        "state": State.WAITING.value, "due_at": at + pause, "owner": None, "leased_until": None, "source": None,
        "silent_seconds": operations.c.silent_seconds + pause, "cause": cause, "detail": detail[:2000],
        "next_action": f"{NEXT_ACTIONS[cause]}: it is asked again within {pause:.0f} s",
    }  # fmt: skip


def _set_free(
    connection: Connection,
    numbers: Sequence[int],
    *,
    at: float,
    again_in: float,
    cause: str | None,
    detail: str | None,
    silent: bool = False,
) -> None:
    free: dict[str, Any] = {"state": State.QUEUED.value, "owner": None, "leased_until": None, "source": None}
    free |= {"cause": cause, "detail": detail}
    if again_in > 0:
        free |= {"state": State.WAITING.value, "due_at": at + again_in, "next_action": f"again in {again_in:.0f} s"}
    if silent:
        free["silent_seconds"] = operations.c.silent_seconds + again_in
    for batch in in_batches(numbers):
        connection.execute(sa.update(operations).where(operations.c.id.in_(batch)).values(free))


def _submit(connection: Connection, wanted: Sequence[Wanted], at: float, *, missing: bool = False) -> list[int]:
    """Of those whose item is `missing` at the target, or of all."""
    urgent: dict[_Key, Priority] = {}
    keys = [(each.kind.value, bytes.fromhex(each.sha256), each.target) for each in wanted]
    for key, each in zip(keys, wanted, strict=True):
        urgent[key] = min(each.priority, urgent.get(key, each.priority))
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_SUBMIT_LOCK)))
    known = _open_operations(connection, urgent)
    # Only after that: of an operation that ended in between, the copy is found.
    there = _standing(connection, keys) if missing else frozenset()
    # Whoever submits is alone, so numbers can be given here: they are the order of submission.
    following = connection.execute(sa.select(sa.func.coalesce(sa.func.max(operations.c.id), 0))).scalar_one() + 1
    new: dict[_Key, dict[str, Any]] = {}
    for key, each in zip(keys, wanted, strict=True):
        if key not in known and key not in new and key[1:] not in there:
            priority = urgent[key]
            new[key] = {
                "id": following + len(new), "kind": key[0], "sha256": key[1], "target": key[2], "size": each.size,
                "priority": int(priority), "rank": RANKS[priority], "why": each.why, "submitted_at": at,
            }  # fmt: skip
    Writer(connection, 0).many(sa.insert(operations), list(new.values()))
    _raise(connection, {known[key][0]: urgent[key] for key in known if urgent[key] < known[key][1]})
    return [known[key][0] if key in known else new[key]["id"] for key in keys if key in known or key in new]


def _standing(connection: Connection, keys: Collection[_Key]) -> set[tuple[bytes, str]]:
    """Items and targets at which a copy stands."""
    asked = {key[1:] for key in keys}
    query = sa.select(items.c.sha256, locations.c.name).select_from(items).join(replicas).join(locations)
    query = query.where(replicas.c.state == ReplicaState.AVAILABLE)
    found: set[tuple[bytes, str]] = set()
    for batch in in_batches(sorted({sha256 for sha256, _ in asked})):
        found |= {(bytes(row[0]), row[1]) for row in connection.execute(query.where(items.c.sha256.in_(batch)))}
    return found & asked


def _open_operations(connection: Connection, keys: Collection[_Key]) -> dict[_Key, tuple[int, Priority]]:
    """The open operations of certain keys: id and priority."""
    columns = (operations.c.kind, operations.c.sha256, operations.c.target, operations.c.id, operations.c.priority)
    found = {}
    writer = Writer(connection, 0)
    for kind in sorted({key[0] for key in keys}):
        hashes = sorted({key[1] for key in keys if key[0] == kind})
        for batch in in_batches(hashes):
            query = sa.select(*columns).where(_OPEN, operations.c.kind == kind, operations.c.sha256.in_(batch))
            for row in writer.rows(query):
                key = (row[0], bytes(row[1]), row[2])
                if key in keys:
                    found[key] = row[3], Priority(row[4])
    return found


def _raised_since(connection: Connection, held: Sequence[Operation]) -> set[int]:
    """Which operations are more urgent than they were when they were leased."""
    then = {each.id: each.priority for each in held}
    raised: set[int] = set()
    for batch in in_batches(sorted(then)):
        query = sa.select(operations.c.id, operations.c.priority).where(operations.c.id.in_(batch))
        raised |= {row.id for row in connection.execute(query) if row.priority < then[row.id]}
    return raised


def _raise(connection: Connection, raised: Mapping[int, Priority]) -> None:
    """Make operations more urgent; one that waits for its next attempt is due at once.

    What an agent was ordered it does at the order's priority. So the lease is returned, and whoever leases next gives a new order:
    the agent goes on with what it has of the item, as urgently as that says.
    """
    for priority in sorted(set(raised.values())):
        for batch in in_batches(sorted(number for number, wanted in raised.items() if wanted == priority)):
            locked = sa.select(operations.c.id).where(operations.c.id.in_(batch), _OPEN).order_by(operations.c.id).with_for_update()
            ids = connection.execute(locked).scalars().all()
            rank = sa.case((operations.c.rank == AGED, AGED), else_=RANKS[priority]) if priority else RANKS[priority]
            these = sa.update(operations).where(operations.c.id.in_(ids))
            returned = {"state": State.QUEUED.value, "owner": None, "leased_until": None, "source": None}
            connection.execute(these.where(in_state(State.LEASED), operations.c.order_id.is_not(None)).values(returned))
            connection.execute(these.where(in_state(State.WAITING)).values(state=State.QUEUED.value, due_at=None))
            connection.execute(these.values(priority=int(priority), rank=rank, order_id=None))
