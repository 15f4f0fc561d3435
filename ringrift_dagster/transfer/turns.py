"""Whose turn it is: what is due, what has aged, what a link bears. Half of leasing; `queue` has the rest, and what is public.

Every function works within a transaction of its caller. On PostgreSQL many lease at once: what another one has locked is passed
over, and whoever has a target's row of limits leases there alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ringrift_dagster.manifest.schema import link_limits, operations
from ringrift_dagster.manifest.store import upsert
from ringrift_dagster.transfer.limits import AT_ONCE, Lanes, going_to
from ringrift_dagster.transfer.model import Priority
from ringrift_dagster.transfer.operations import AGED, COLUMNS, RANKS, State, in_state

AGING_SECONDS = 86_400.0
"""Waiting for so long makes an operation go before all but CRITICAL ones."""
AGED_SHARE = 2
"""What aged may take one of so many parts of what a target bears: in bulk it must not keep HIGH waiting either."""
_AGED_AT_A_TIME = 64
CRITICAL_EXTRA = 4
"""Places on a link that only CRITICAL may take."""
_YOUNG = tuple(rank for priority, rank in RANKS.items() if priority > Priority.HIGH)
_AT_TARGET = operations.c.target == sa.bindparam("at_target")

_NEXT = (
    sa.select(*COLUMNS)
    .where(
        in_state(State.QUEUED),
        _AT_TARGET,
        operations.c.rank >= sa.bindparam("low"),
        operations.c.rank <= sa.bindparam("high"),
    )
    .order_by(operations.c.rank, operations.c.id)
    .limit(sa.bindparam("at_most"))
    .with_for_update(skip_locked=True)
)
TAKE = (
    sa.update(operations)
    .where(operations.c.id.in_(sa.bindparam("ids", expanding=True)))
    .values(
        state=State.LEASED.value, owner=sa.bindparam("holder"), leased_until=sa.bindparam("until"), leases=operations.c.leases + 1
    )
)


def _oldest(rank: int) -> sa.ScalarSelect[Any]:
    """When the first of a rank at the target was submitted."""
    here = (in_state(State.QUEUED), _AT_TARGET, operations.c.rank == rank)
    return sa.select(operations.c.submitted_at).where(*here).order_by(operations.c.id).limit(1).scalar_subquery()


_LOOK = (
    sa.select(
        link_limits.c.at_once,
        sa.select(sa.literal(1)).where(in_state(State.WAITING), operations.c.due_at <= sa.bindparam("now")).exists(),
        sa.select(sa.literal(1))
        .where(in_state(State.LEASED), _AT_TARGET, operations.c.leased_until <= sa.bindparam("now"))
        .exists(),
        *map(_oldest, _YOUNG),
    )
    .where(link_limits.c.name == sa.bindparam("link"))
    .with_for_update(of=link_limits)
)
"""How much a target bears, and whether anything is due there before the next lease. Who has this row leases alone."""


def ready(connection: Connection, target: str, at: float) -> int:
    """Wake what is due, take back what its holder left, let what waited for too long go ahead; returns what the target bears."""
    given = {"at_target": target, "now": at, "link": going_to(target)}
    found = connection.execute(_LOOK, given).all()
    if not found:
        at_once(connection, going_to(target))
        found = connection.execute(_LOOK, given).all()
    borne, due, expired, *oldest = tuple(found[0])
    if due:
        woken = skipping_locked(in_state(State.WAITING), operations.c.due_at <= at)
        connection.execute(sa.update(operations).where(operations.c.id.in_(woken)).values(state=State.QUEUED, due_at=None))
    if expired:
        left = skipping_locked(in_state(State.LEASED), operations.c.target == target, operations.c.leased_until <= at)
        free = {"state": State.QUEUED, "owner": None, "leased_until": None, "source": None}
        connection.execute(sa.update(operations).where(operations.c.id.in_(left)).values(free))
    if any(first is not None and first <= at - AGING_SECONDS for first in oldest):
        _age(connection, target, borne, at)
    return borne


def let_old_go_ahead(connection: Connection, at: float) -> None:
    """At every target, what `ready` does for the one that is leased for: nobody leases where only deferred classes wait."""
    old = (in_state(State.QUEUED), operations.c.rank.in_(_YOUNG), operations.c.submitted_at <= at - AGING_SECONDS)
    targets = connection.execute(sa.select(operations.c.target).where(*old).distinct()).scalars().all()
    for target in sorted(targets):
        _age(connection, target, at_once(connection, going_to(target)), at)


def lanes(connection: Connection, on_link: sa.ColumnElement[bool], state: State = State.LEASED) -> Lanes:
    """What is on a link now."""
    return Lanes(*connection.execute(sa.select(*Lanes.COUNTED).where(in_state(state), on_link)).one())


def at_once(connection: Connection, link: str) -> int:
    """What a link bears; who asks has it for himself until his transaction ends."""
    query = sa.select(link_limits.c.at_once).where(link_limits.c.name == link).with_for_update()
    known = connection.execute(query).scalar_one_or_none()
    if known is None:
        connection.execute(upsert(connection, link_limits).values(name=link, at_once=AT_ONCE).on_conflict_do_nothing())
        known = connection.execute(query).scalar_one()
    return known


def room(borne: int, rank: int) -> int:
    """What a link that bears so much bears for operations of a rank: CRITICAL always finds a place."""
    return borne + (CRITICAL_EXTRA if rank == RANKS[Priority.CRITICAL] else 0)


def following(connection: Connection, target: str, priorities: Collection[Priority], at_most: int) -> Iterator[sa.Row[Any]]:
    """What is queued at a target, the most urgent first, `at_most` of each range of ranks; rows of COLUMNS, locked."""
    for low, high in _ranges(priorities):
        yield from connection.execute(_NEXT, {"at_target": target, "low": low, "high": high, "at_most": at_most})


def ranks(priorities: Collection[Priority]) -> list[int]:
    """The ranks that may be leased, the most urgent first. What has aged goes with all but CRITICAL alone."""
    return sorted({RANKS[priority] for priority in priorities} | ({AGED} if set(priorities) - {Priority.CRITICAL} else set()))


def skipping_locked(*conditions: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """Ids of operations, but for those that somebody else has just now."""
    return sa.select(operations.c.id).where(*conditions).order_by(operations.c.id).with_for_update(skip_locked=True)


def _ranges(priorities: Collection[Priority]) -> list[tuple[int, int]]:
    """The ranks that may be leased, as ranges, the most urgent first."""
    every = [AGED, *RANKS.values()]
    found: list[tuple[int, int]] = []
    for rank in ranks(priorities):
        if found and not any(found[-1][1] < other < rank for other in every):
            found[-1] = found[-1][0], rank
        else:
            found.append((rank, rank))
    return found


def _age(connection: Connection, target: str, borne: int, at: float) -> None:
    """Let the oldest go ahead, as many as fit into the share of what aged, those included that are under way."""
    aged_here = sa.and_(operations.c.target == target, operations.c.rank == AGED)
    waiting, leased = (lanes(connection, aged_here, state) for state in (State.QUEUED, State.LEASED))
    taken = Lanes(waiting.large + leased.large, waiting.small + leased.small)
    share = max(1, borne // AGED_SHARE)
    chosen = []
    for number, size in sorted(_old(connection, target, at)):
        if not taken.take(size, share):
            break
        chosen.append(number)
    if chosen:
        connection.execute(sa.update(operations).where(operations.c.id.in_(chosen)).values(rank=AGED))


def _old(connection: Connection, target: str, at: float) -> list[tuple[int, int | None]]:
    """The first of each rank that waited for too long: ids and sizes."""
    found = []
    for rank in _YOUNG:
        here = (in_state(State.QUEUED), operations.c.target == target, operations.c.rank == rank)
        oldest = (
            sa.select(operations.c.id, operations.c.size, operations.c.submitted_at)
            .where(*here)
            .order_by(operations.c.id)
            .limit(_AGED_AT_A_TIME)
            .with_for_update(skip_locked=True)
        )
        found += [(row.id, row.size) for row in connection.execute(oldest) if row.submitted_at <= at - AGING_SECONDS]
    return found
