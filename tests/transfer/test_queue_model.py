"""The queue against a simple model of it: whatever is done in whatever order, rows are what the model says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from ringrift_dagster.manifest.schema import changes, link_limits, operations
from ringrift_dagster.manifest.store import Store
from ringrift_dagster.transfer import queue, turns
from ringrift_dagster.transfer.limits import SMALL_BYTES, SMALL_IN_A_LANE
from ringrift_dagster.transfer.model import Priority
from ringrift_dagster.transfer.operations import AGED, COLUMNS, RANKS, Operation, State, operation
from tests.transfer.asking import LARGE, bears, completes, fails, wanted

CONTENTS = ("a", "b", "c", "d")
TARGETS = ("gpu-1", "gpu-2")
OWNERS = ("run-1", "run-2")
AT_ONCE = 2
CLASSES = (tuple(Priority), (Priority.CRITICAL,), (Priority.LOW,), (Priority.CRITICAL, Priority.COLD_STORAGE))
SIZES = {"a": LARGE, "b": LARGE, "c": 1000, "d": None}


@dataclass
class Row:
    """What the model knows of an operation."""

    id: int
    content: str
    target: str
    priority: Priority
    rank: int
    submitted_at: float
    state: State = State.QUEUED
    attempts: int = 0
    silent_seconds: float = 0.0
    leases: int = 0
    owner: str | None = None
    leased_until: float | None = None
    due_at: float | None = None
    order_id: str | None = None
    cause: str | None = None

    @property
    def open(self) -> bool:
        return self.state in (State.QUEUED, State.WAITING, State.LEASED)

    def free(self) -> None:
        self.owner = self.leased_until = self.due_at = None


def places(rows: list[Row]) -> int:
    """What they take of a link."""
    small = sum((SIZES[row.content] or LARGE) < SMALL_BYTES for row in rows)
    return len(rows) - small + -(-small // SMALL_IN_A_LANE)


class Queue(RuleBasedStateMachine):
    """Clients that do anything; `held` is what each of them believes to have leased, however long ago."""

    store: Store

    @initialize()
    def empty(self) -> None:
        with self.store.writing() as writer:
            for table in (operations, link_limits, changes):
                writer.connection.execute(sa.delete(table))
        for target in TARGETS:
            bears(self.store, target, AT_ONCE)
        self.now = 0.0
        self.rows: dict[int, Row] = {}
        self.held: list[tuple[str, Operation]] = []

    @rule(seconds=st.sampled_from((0.5, 7.0, 61.0, 4000.0, 86_400.0)))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(content=st.sampled_from(CONTENTS), place=st.sampled_from(TARGETS), priority=st.sampled_from(Priority))
    def submit(self, content: str, place: str, priority: Priority) -> None:
        got = queue.submit(self.store, wanted(content, place, priority, size=SIZES[content]), at=self.now)
        known = next((row for row in self.rows.values() if row.open and (row.content, row.target) == (content, place)), None)
        if known is None:
            known = self.rows[got.id] = Row(max(self.rows, default=0) + 1, content, place, priority, RANKS[priority], self.now)
        elif priority < known.priority:
            self._raise(known, priority)
        assert got.id == known.id

    def _raise(self, row: Row, priority: Priority) -> None:
        row.priority = priority
        row.rank = AGED if row.rank == AGED and priority else RANKS[priority]
        if row.state == State.WAITING or (row.state == State.LEASED and row.order_id is not None):
            row.state = State.QUEUED
            row.free()
        row.order_id = None

    @rule(
        owner=st.sampled_from(OWNERS), place=st.sampled_from(TARGETS), priorities=st.sampled_from(CLASSES), limit=st.integers(1, 4)
    )
    def lease(self, owner: str, place: str, priorities: tuple[Priority, ...], limit: int) -> None:
        got = queue.lease(self.store, owner, place, at=self.now, limit=limit, priorities=priorities)
        self._make_ready(place)
        ranks = {RANKS[priority] for priority in priorities} | ({AGED} if set(priorities) - {Priority.CRITICAL} else set())
        taken: list[Row] = []
        for row in sorted(self._at(place, State.QUEUED), key=lambda row: (row.rank, row.id)):
            if row.rank in ranks and len(taken) < limit:
                extra = turns.CRITICAL_EXTRA if row.rank == 0 else 0
                if places([*self._at(place, State.LEASED), row]) > AT_ONCE + extra:
                    break
                row.state, row.owner, row.leased_until, row.leases = State.LEASED, owner, self.now + 60.0, row.leases + 1
                taken.append(row)
        assert [each.id for each in got] == [row.id for row in taken]
        self.held += [(owner, each) for each in got]

    def _at(self, target: str, state: State) -> list[Row]:
        return [row for row in self.rows.values() if (row.target, row.state) == (target, state)]

    def _make_ready(self, target: str) -> None:
        for row in self.rows.values():
            if row.state == State.WAITING and (row.due_at or 0) <= self.now:
                row.state, row.due_at = State.QUEUED, None
        for row in self._at(target, State.LEASED):
            if (row.leased_until or 0) <= self.now:
                row.state = State.QUEUED
                row.free()
        aged = [row for row in [*self._at(target, State.QUEUED), *self._at(target, State.LEASED)] if row.rank == AGED]
        for row in sorted(self._at(target, State.QUEUED), key=lambda row: row.id):
            if row.rank > RANKS[Priority.HIGH] and row.submitted_at <= self.now - turns.AGING_SECONDS:
                if places([*aged, row]) > AT_ONCE // turns.AGED_SHARE:
                    break
                row.rank = AGED
                aged.append(row)

    def _still_held(self, owner: str, believed: Operation) -> Row | None:
        row = self.rows[believed.id]
        return row if (row.state, row.owner, row.leases) == (State.LEASED, owner, believed.leases) else None

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 50), data=st.sampled_from(("heartbeat", "post", "complete", "give back", "give back later")))
    def says(self, which: int, data: str) -> None:
        owner, believed = self.held[which % len(self.held)]
        row = self._still_held(owner, believed)
        expected = {row.id} if row else set()
        if data == "heartbeat":
            assert queue.heartbeat(self.store, owner, [believed], at=self.now) == expected
            if row:
                row.leased_until = self.now + 60.0
        elif data == "post":
            raised = row is not None and row.priority < believed.priority
            posted = queue.post(self.store, owner, {believed.id: f"order-{which}"}, [believed])
            assert posted == (set() if raised else expected)
            if row and raised:
                row.free()
                row.state, row.cause = State.QUEUED, None
            elif row:
                row.order_id = f"order-{which}"
        elif data == "complete":
            assert completes(self.store, believed, at=self.now) == bool(row)
            if row:
                row.state, row.cause = State.DONE, None
                row.free()
        else:
            again_in = 9.0 if data == "give back later" else 0.0
            assert queue.give_back(self.store, owner, [believed], at=self.now, again_in=again_in) == len(expected)
            if row:
                row.free()
                row.state = State.WAITING if again_in else State.QUEUED
                row.due_at = self.now + again_in if again_in else None
                row.cause = None

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 50), cause=st.sampled_from(("timeout", "occupied")))
    def fail(self, which: int, cause: str) -> None:
        owner, believed = self.held[which % len(self.held)]
        row = self._still_held(owner, believed)
        got = fails(self.store, believed, cause, at=self.now)
        if row is None:
            assert got is None
            return
        row.free()
        row.attempts, row.order_id, row.cause = row.attempts + 1, None, cause
        if cause in queue.FINAL_CAUSES or row.attempts >= queue.ATTEMPTS:
            row.state = State.FAILED
        else:
            row.state = State.WAITING
            row.due_at = self.now + queue.back_off(believed.priority, row.attempts, lambda: 0.5)
        assert got == row.state

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 50), cause=st.sampled_from(("agent_silent", "no_source")))
    def put_off(self, which: int, cause: str) -> None:
        owner, believed = self.held[which % len(self.held)]
        row = self._still_held(owner, believed)
        with self.store.writing() as writer:
            got = queue.put_off(writer, believed, cause, "told by a test", at=self.now)
        assert got == (row and State.WAITING)
        if row is not None:
            critical = believed.priority == Priority.CRITICAL
            pause = min(max(row.silent_seconds, 5.0), 15.0 if critical else 120.0)
            self._wait(row, cause, pause)

    def _wait(self, row: Row, cause: str, pause: float) -> None:
        row.free()
        row.state, row.cause, row.due_at = State.WAITING, cause, self.now + pause
        row.silent_seconds += pause
        row.order_id = row.order_id if cause == "agent_silent" else None

    @rule(place=st.sampled_from(TARGETS), priorities=st.sampled_from(CLASSES))
    def put_off_all(self, place: str, priorities: tuple[Priority, ...]) -> None:
        ranks = turns.ranks(priorities)
        waiting = [row for row in self._at(place, State.QUEUED) if row.rank in ranks]
        assert queue.put_off_all(self.store, place, priorities, "told by a test", at=self.now) == len(waiting)
        for row in waiting:
            self._wait(row, "agent_silent", 120.0 if row.rank else 15.0)

    @rule(place=st.sampled_from(TARGETS))
    def wake(self, place: str) -> None:
        woken = [row for row in self._at(place, State.WAITING) if row.cause == "agent_silent"]
        assert queue.wake(self.store, place) == len(woken)
        for row in woken:
            row.state, row.due_at = State.QUEUED, None

    @precondition(lambda self: self.rows)
    @rule(which=st.integers(0, 50))
    def cancel(self, which: int) -> None:
        row = self.rows[1 + which % len(self.rows)]
        if row.open:
            row.state, row.cause = State.CANCELLED, "cancelled"
            row.free()
        assert queue.cancel(self.store, row.id, at=self.now).state == row.state

    @precondition(lambda self: self.rows)
    @rule(which=st.integers(0, 50))
    def retry(self, which: int) -> None:
        old = self.rows[1 + which % len(self.rows)]
        got = queue.retry(self.store, old.id, at=self.now)
        known = next(
            (row for row in self.rows.values() if row.open and (row.content, row.target) == (old.content, old.target)), None
        )
        if known is None:
            number = max(self.rows) + 1
            known = self.rows[number] = Row(number, old.content, old.target, old.priority, RANKS[old.priority], self.now)
        else:
            if old.priority < known.priority:
                self._raise(known, old.priority)
            if known.state == State.WAITING:
                known.state, known.due_at = State.QUEUED, None
        assert got.id == known.id

    @invariant()
    def rows_are_what_the_model_says(self) -> None:
        with self.store.reading() as connection:
            found = {row.id: operation(row) for row in connection.execute(sa.select(*COLUMNS))}
        assert {number: _told(each) for number, each in found.items()} == {number: _told(row) for number, row in self.rows.items()}
        for each in found.values():
            assert (each.finished_at is None) == (each.state in (State.QUEUED, State.WAITING, State.LEASED))
            assert each.state != State.FAILED or (each.cause and each.next_action)


_COMPARED = (
    "state", "priority", "rank", "attempts", "silent_seconds", "leases", "owner", "leased_until", "due_at", "order_id", "cause",
    "submitted_at",
)  # fmt: skip


def _told(row: Any) -> dict[str, Any]:
    return {name: getattr(row, name) for name in _COMPARED}


def test_the_queue_is_what_its_model_is(store: Store) -> None:
    machine = type("QueueOfOneStore", (Queue,), {"store": store})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=40, stateful_step_count=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
        ),
    )
