"""The coordinator: leases what one target is to have, has it carried there, and records what came of it.

Killed at any moment it loses nothing and does nothing twice: an order's id stands in the queue before the agent is posted it, the
agent does the same order once, and an operation's end, its copy and what was learnt on the way are one transaction. Who carries is
in `carriers`, what is recorded in `endings`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from queue import Empty
from typing import Any

import sqlalchemy as sa

from ringrift_dagster.manifest.locations import all_locations
from ringrift_dagster.manifest.plane import TOKEN_VARIABLE, Plane
from ringrift_dagster.manifest.schema import operations
from ringrift_dagster.manifest.states import Liveness
from ringrift_dagster.manifest.store import Store
from ringrift_dagster.transfer import queue
from ringrift_dagster.transfer.agents import Agents, AgentSilent
from ringrift_dagster.transfer.carriers import Begun, BucketCarrier, Carrier, News
from ringrift_dagster.transfer.deferral import deferred
from ringrift_dagster.transfer.endings import Ended, Row, record
from ringrift_dagster.transfer.model import Priority
from ringrift_dagster.transfer.operations import RANKS, Operation, State, in_state
from ringrift_dagster.transfer.pulling import AgentCarrier
from ringrift_dagster.transfer.targets import place_of

LEASED_AT_ONCE = 500
SILENT_AT_ONCE = 10
"""Operations for a target that does not answer that are told of, the most urgent; the others only wait until it does."""
LOOK_SECONDS = 0.1
"""Between two looks at the queue."""
FULL_SECONDS = 1.0
"""A link that bore no more is asked again after so long, or when something on it ends."""
SILENT_SECONDS = 2.0
"""Between two looks whether a target that was silent answers."""
HEARTBEATS = 6
"""In the time of a lease."""


@dataclass
class Report:
    """What a run did for a target: a row for each attempt at an operation that ended, well or not, in that order.

    `left` operations were under way when the run ended, and are in the queue again. `lost` leases were somebody else's in the end,
    or cancelled. `silent` says why nothing can be carried to the target, if that was so when the run ended.
    """

    target: str
    rows: list[Row] = field(default_factory=list)
    left: int = 0
    lost: int = 0
    silent: str | None = None

    @property
    def done(self) -> list[Row]:
        return [row for row in self.rows if row.state == State.DONE]

    @property
    def failed(self) -> list[Row]:
        return [row for row in self.rows if row.state == State.FAILED]

    @property
    def waiting(self) -> list[Row]:
        """Attempts that failed and are made again later."""
        return [row for row in self.rows if row.state == State.WAITING]

    @property
    def bytes(self) -> int:
        """Bytes that were moved."""
        return sum(row.bytes for row in self.rows)


class Coordinator:
    """Carries out operations under the name `owner`, which nobody else uses. `lease_seconds` after its death another takes over."""

    def __init__(
        self,
        plane: Plane,
        owner: str,
        *,
        clock: Callable[[], float] = time.time,
        lease_seconds: float = queue.LEASE_SECONDS,
    ) -> None:
        self._plane = plane
        self._owner = owner
        self._clock = clock
        self._lease_seconds = lease_seconds

    def run(
        self,
        target: str,
        priorities: Collection[Priority] = tuple(Priority),
        *,
        seconds: float,
        idle: float | None = 0.0,
        stop: Callable[[], bool] = lambda: False,
        told: Callable[[Row], None] = lambda row: None,
    ) -> Report:
        """Carry out what the queue has for a target, for up to `seconds`.

        Returns earlier when `stop` says so, or when there was nothing to do for `idle` seconds (None: never). What is under way
        then goes on at the agent, and back to the queue: the next run finds it there. `told` hears of each row as it comes about.
        """
        agents = Agents(self._plane.cluster, os.environ.get(TOKEN_VARIABLE))
        news = News()
        carrier = self._carrier(target, agents, news)
        run = _Run(self._plane.store, self._owner, target, priorities, carrier, news, self._clock, self._lease_seconds, told)
        try:
            return run.until(time.monotonic() + seconds, idle, stop)
        finally:
            agents.close()

    def _carrier(self, target: str, agents: Agents, news: News) -> Carrier | None:
        """Who carries to the target; None if the hosts file names no such place, or it has no agent."""
        cluster = self._plane.cluster
        place = place_of(cluster, target)
        if place is None:
            return None
        if place.kind == "s3":
            return BucketCarrier(self._plane, agents, self._owner, cluster.s3, news) if cluster.s3 else None
        online = {each.name for each in all_locations(self._plane.store) if each.liveness == Liveness.ONLINE}
        for host in sorted(place.hosts, key=lambda host: host not in online):
            try:
                client = agents.client(host)
            except AgentSilent:
                continue
            if client is not None:
                return AgentCarrier(self._plane, agents, self._owner, place, host, client, news)
        return None


class _Run:
    """One run for one target: what is leased, and what is heard of it."""

    def __init__(
        self,
        store: Store,
        owner: str,
        target: str,
        priorities: Collection[Priority],
        carrier: Carrier | None,
        news: News,
        clock: Callable[[], float],
        lease_seconds: float,
        told: Callable[[Row], None],
    ) -> None:
        self._store = store
        self._owner = owner
        self._target = target
        self._priorities = tuple(sorted(priorities))
        self._carrier = carrier
        self._news = news
        self._clock = clock
        self._lease_seconds = lease_seconds
        self._told = told
        self._held: dict[int, Operation] = {}
        self._report = Report(target)
        self._beat_at = 0.0
        self._full_until = 0.0
        self._critical_full_until = 0.0
        self._looked_at = float("-inf")
        self._warned = False

    def until(self, deadline: float, idle: float | None, stop: Callable[[], bool]) -> Report:
        busy_at = time.monotonic()
        try:
            while time.monotonic() < deadline and not stop():
                began = self._begin_more()
                heard = self._hear(LOOK_SECONDS)
                self._beat()
                if began or heard or self._held:
                    busy_at = time.monotonic()
                elif idle is not None and time.monotonic() - busy_at >= idle:
                    break
        finally:
            self._leave()
        return self._report

    def _begin_more(self) -> bool:
        """Lease what may be leased and get it under way; returns whether there was anything."""
        due = self._due()
        if not self._may_lease(due):
            return False
        at = self._clock()
        if self._carrier is None:
            leased = self._lease(due, LEASED_AT_ONCE, at)
            why = "the hosts file names no such place, or none that has an agent or is a bucket"
            self._record([Ended(each, cause="no_such_target", detail=why) for each in leased])
            return bool(leased)
        if not self._answers(due):
            return False
        critical_only = time.monotonic() < self._full_until
        priorities = (Priority.CRITICAL,) if critical_only else due
        leased = self._lease(priorities, LEASED_AT_ONCE, at)
        begun = self._carrier.begin(leased, at=at) if leased else Begun()
        self._held.update((each.id, each) for each in begun.under_way)
        self._record(begun.ended)
        self._note_full(critical_only, due)
        return bool(leased)

    def _note_full(self, critical_only: bool, due: Sequence[Priority]) -> None:
        """What is still queued after a lease the link does not bear now."""
        until = time.monotonic() + FULL_SECONDS
        if critical_only:
            self._critical_full_until = until if self._is_queued(RANKS[Priority.CRITICAL]) else 0.0
        elif self._is_queued(RANKS[due[-1]]):
            self._full_until = until

    def _due(self) -> tuple[Priority, ...]:
        """The classes that may be leased now: under pressure the less urgent ones wait, also for a run that is under way."""
        put_off = deferred(self._store, self._clock())
        return tuple(priority for priority in self._priorities if priority not in put_off)

    def _may_lease(self, due: Sequence[Priority]) -> bool:
        """Whether the queue has something that a link may bear, without asking for the right to write."""
        if not due:
            return False
        now = time.monotonic()
        if now < self._full_until:
            if now < self._critical_full_until or Priority.CRITICAL not in due:
                return False
            return self._is_queued(RANKS[Priority.CRITICAL])
        return self._is_queued(RANKS[due[-1]])

    def _is_queued(self, rank: int) -> bool:
        at = {"at_target": self._target, "at_most": rank, "now": self._clock()}
        return any(self._store.prepared("something to do", _something).rows(at)[0])

    def _lease(self, priorities: Sequence[Priority], limit: int, at: float) -> list[Operation]:
        return queue.lease(
            self._store, self._owner, self._target, at=at, limit=limit, priorities=priorities, seconds=self._lease_seconds
        )

    def _answers(self, due: Sequence[Priority]) -> bool:
        """Whether the carrier can work. While it cannot, all that may be leased waits; as soon as it can, all that waits is due."""
        if self._report.silent is not None and time.monotonic() - self._looked_at < SILENT_SECONDS:
            return False
        if self._report.silent is None and self._looked_at > float("-inf"):
            return True  # what cannot be posted says so itself
        self._looked_at = time.monotonic()
        self._report.silent = self._carrier.silent() if self._carrier else None
        if self._report.silent is not None and not self._warned:
            self._warned = True
            leased = self._lease(due, SILENT_AT_ONCE, self._clock())
            self._record([Ended(each, cause="agent_silent", detail=self._report.silent, silent=True) for each in leased])
            queue.put_off_all(self._store, self._target, due, self._report.silent, at=self._clock())
        elif self._report.silent is None:
            queue.wake(self._store, self._target)
        return self._report.silent is None

    def _hear(self, seconds: float) -> bool:
        """Record what has ended, waiting for it up to `seconds`."""
        ended: list[Ended] = []
        try:
            ended += self._news.get(timeout=seconds)
            while True:
                ended += self._news.get_nowait()
        except Empty:
            pass
        # What was ordered once more, as it became more urgent, is told of twice: the first time counts, whichever order it was of,
        # and at the same time the one that moved it.
        ended.sort(key=lambda each: -each.brought.bytes)
        mine = [replace(each, operation=held) for each in ended if (held := self._held.pop(each.operation.id, None)) is not None]
        self._record(mine)
        return bool(mine)

    def _record(self, ended: Sequence[Ended]) -> None:
        if not ended:
            return
        silent = next((each.detail for each in ended if each.cause == "agent_silent"), None)
        if silent is not None:
            self._report.silent, self._looked_at = silent, time.monotonic()
        rows = record(self._store, self._target, ended, at=self._clock())
        self._full_until = self._critical_full_until = 0.0
        self._report.lost += len(ended) - len(rows)
        self._report.rows += rows
        for row in rows:
            self._told(row)

    def _beat(self) -> None:
        """Say that what is held is still needed; learn what is not held any more."""
        if not self._held or time.monotonic() < self._beat_at:
            return
        self._beat_at = time.monotonic() + self._lease_seconds / HEARTBEATS
        held = list(self._held.values())
        mine = queue.heartbeat(self._store, self._owner, held, at=self._clock(), seconds=self._lease_seconds)
        for each in held:
            if each.id not in mine:
                del self._held[each.id]
                self._report.lost += 1
                if self._carrier is not None:
                    self._carrier.forget(each, cancelled=queue.get(self._store, each.id).state == State.CANCELLED)

    def _leave(self) -> None:
        """What is under way is the next run's."""
        if self._carrier is not None:
            self._carrier.close()
        while self._hear(0.0):
            continue
        if self._held:
            self._report.left += queue.give_back(self._store, self._owner, self._held.values(), at=self._clock())


def _something() -> Any:
    """Whether anything can be leased at a target: queued up to a rank, due again, or left by its holder."""
    here = operations.c.target == sa.bindparam("at_target")
    one = sa.select(sa.literal(1))
    queued = one.where(in_state(State.QUEUED), here, operations.c.rank <= sa.bindparam("at_most"))
    due = one.where(in_state(State.WAITING), operations.c.due_at <= sa.bindparam("now"))
    left = one.where(in_state(State.LEASED), here, operations.c.leased_until <= sa.bindparam("now"))
    return sa.select(queued.exists(), due.exists(), left.exists())
