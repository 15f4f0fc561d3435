"""The queue: order, dedupe keys, leases, failures, aging, limits; many processes at once; what the databases do for a lease."""

from __future__ import annotations

import time

import pytest
import sqlalchemy as sa

from ringrift_dagster.cluster.topology import Cluster
from ringrift_dagster.manifest.changes import changes_since
from ringrift_dagster.manifest.locations import register
from ringrift_dagster.manifest.schema import operations
from ringrift_dagster.manifest.store import Store
from ringrift_dagster.transfer import planner, queue, turns
from ringrift_dagster.transfer.model import Priority
from ringrift_dagster.transfer.operations import AGED, Brought, Kind, State
from tests.manifest.telling import item, places, tell
from tests.transfer import lessees
from tests.transfer.asking import LARGE, bears, completes, fails, many, noted, plan_of, put_off, wanted

DAY = 86_400.0
SMALL = 1000


def test_the_most_urgent_comes_first_and_inside_a_priority_the_first(store: Store) -> None:
    order = [Priority.LOW, Priority.CRITICAL, Priority.COLD_STORAGE, Priority.HIGH, Priority.NORMAL]
    for turn in range(2):
        for priority in order:
            queue.submit(store, wanted(f"{priority} {turn}", priority=priority), at=float(turn))
    bears(store, "gpu-1", 20)
    leased = queue.lease(store, "run", "gpu-1", at=2.0, limit=20)
    assert [each.priority for each in leased] == sorted([*Priority, *Priority])
    assert [each.submitted_at for each in leased] == [0.0, 1.0] * 5
    assert {each.owner for each in leased} == {"run"}


def test_the_same_thing_asked_twice_is_one_operation_and_newer_data_another(store: Store) -> None:
    first = queue.submit(store, wanted("old", priority=Priority.LOW), at=1.0)
    again = queue.submit(store, wanted("old", priority=Priority.HIGH, why="DATA_NEEDED"), at=2.0)
    assert (again.id, again.priority, again.submitted_at) == (first.id, Priority.HIGH, 1.0)
    assert queue.submit(store, wanted("old", priority=Priority.LOW), at=3.0).priority == Priority.HIGH, "never less urgent"
    newer = queue.submit(store, wanted("new", priority=Priority.LOW), at=4.0)
    elsewhere = queue.submit(store, wanted("old", "gpu-2"), at=4.0)
    backup = queue.submit(store, wanted("old", kind=Kind.BACKUP), at=4.0)
    assert len({first.id, newer.id, elsewhere.id, backup.id}) == 4
    (held, *_) = queue.lease(store, "run", "gpu-1", at=5.0, priorities=[Priority.HIGH])
    assert queue.submit(store, wanted("old"), at=6.0).id == first.id, "also while it is under way"
    assert completes(store, held, at=7.0)
    assert queue.submit(store, wanted("old"), at=8.0).id not in {first.id, newer.id}, "what has ended hides nothing"


def test_many_are_submitted_at_once_in_their_order(store: Store) -> None:
    asked = [wanted("a"), wanted("b"), wanted("a", priority=Priority.CRITICAL), wanted("c")]
    numbers = queue.submit_all(store, asked, at=1.0)
    assert numbers[0] == numbers[2] and sorted({*numbers}) == [numbers[0], numbers[1], numbers[3]]
    assert queue.get(store, numbers[0]).priority == Priority.CRITICAL
    assert queue.submit_all(store, asked, at=2.0) == numbers
    assert queue.submit_all(store, [], at=2.0) == []


def test_what_arrived_before_it_was_asked_for_is_not_asked_for(store: Store) -> None:
    """Whoever saw that it was missing had looked before the operation ended that brought it."""
    register(store, places(), at=0.0)
    tell(store, "vast-1", [item("data/training/a_hex8_2p.npz", "a")], at=1.0)
    asked = [wanted(content, target) for content in "ab" for target in ("vast-1", "vast-2")]
    under_way = queue.submit_all(store, [asked[0]], at=2.0)
    assert queue.submit_missing(store, asked, at=3.0)[0] == under_way[0]
    (held, *_) = queue.lease(store, "run", "vast-1", at=4.0)
    assert completes(store, held, at=5.0)
    rest = queue.submit_missing(store, asked, at=6.0)
    assert [(queue.get(store, each).sha256, queue.get(store, each).target) for each in rest] == [
        (each.sha256, each.target) for each in asked[1:]
    ]


def test_a_link_bears_so_many_and_critical_finds_a_place_nevertheless(store: Store) -> None:
    bears(store, "gpu-1", 2)
    queue.submit_all(store, many(5), at=1.0)
    assert len(queue.lease(store, "run", "gpu-1", at=2.0, limit=10)) == 2
    queue.submit_all(store, many(10, priority=Priority.CRITICAL), at=3.0)
    leased = queue.lease(store, "run", "gpu-1", at=4.0, limit=10)
    assert [each.priority for each in leased] == [Priority.CRITICAL] * turns.CRITICAL_EXTRA
    assert queue.lease(store, "run", "gpu-1", at=4.0, limit=10) == []
    assert len(queue.lease(store, "other", "gpu-2", at=4.0)) == 0


def test_small_items_share_a_place(store: Store) -> None:
    bears(store, "gpu-1", 2)
    queue.submit_all(store, [*many(100, size=SMALL), *many(5, priority=Priority.COLD_STORAGE)], at=1.0)
    assert [each.size for each in queue.lease(store, "run", "gpu-1", at=2.0, limit=100)] == [SMALL] * 64


def test_a_source_bears_so_many_and_the_urgent_ones_first(store: Store) -> None:
    bears(store, "gpu-1", 60)
    with store.writing() as writer:
        turns.at_once(writer.connection, "from vast-1")
        writer.connection.execute(sa.text("UPDATE link_limits SET at_once = 2 WHERE name = 'from vast-1'"))
    queue.submit_all(store, many(4), at=1.0)
    low = queue.lease(store, "run", "gpu-1", at=1.0, limit=4)
    borne = queue.draw(store, "run", {each.id: "vast-1" for each in low}, low, at=2.0)
    assert borne == {each.id for each in low[:2]}
    refused = queue.get(store, low[2].id)
    assert (refused.state, refused.cause, refused.due_at, refused.attempts) == (State.WAITING, "link_busy", 3.0, 0)
    queue.submit_all(store, [*many(1, "gpu-1", Priority.NORMAL), *many(2, "gpu-1", Priority.CRITICAL)], at=2.5)
    more = queue.lease(store, "run", "gpu-1", at=2.5, limit=3)
    borne = queue.draw(store, "run", {each.id: "vast-1" for each in more}, more, at=2.5)
    assert {queue.get(store, number).priority for number in borne} == {Priority.CRITICAL}
    again = queue.draw(store, "run", {each.id: "vast-1" for each in low[:2]}, low[:2], at=2.6)
    assert again == {each.id for each in low[:2]}, "what is counted already is not counted twice"


def test_a_lease_that_runs_out_is_had_by_another_with_the_order_that_was_posted(store: Store) -> None:
    queue.submit(store, wanted("a"), at=1.0)
    (first,) = queue.lease(store, "dead", "gpu-1", at=2.0, seconds=60.0)
    assert queue.post(store, "dead", {first.id: "order-1"}, [first]) == {first.id}
    assert queue.lease(store, "next", "gpu-1", at=61.9) == []
    assert queue.pending(store, at=61.9) == {}
    assert queue.pending(store, at=62.0) == {("gpu-1", Priority.NORMAL): 1}
    (second,) = queue.lease(store, "next", "gpu-1", at=62.0)
    assert (second.id, second.order_id, second.attempts, second.leases) == (first.id, "order-1", 0, 2)
    assert queue.heartbeat(store, "dead", [first], at=63.0) == set()
    assert not completes(store, first, at=63.0), "an end is accepted only from who holds the lease"
    assert fails(store, first, "timeout", at=63.0) is None
    assert queue.give_back(store, "dead", [first], at=63.0) == 0
    assert queue.post(store, "dead", {first.id: "order-2"}, [first]) == set()
    assert completes(store, second, at=64.0)


def test_the_same_owner_with_an_old_lease_is_fenced_off_too(store: Store) -> None:
    queue.submit(store, wanted("a"), at=1.0)
    (first,) = queue.lease(store, "run", "gpu-1", at=2.0)
    (second,) = queue.lease(store, "run", "gpu-1", at=100.0)
    assert not completes(store, first, at=101.0)
    assert completes(store, second, at=101.0)


def test_what_becomes_more_urgent_is_ordered_again(store: Store) -> None:
    """An agent does what it was ordered at the order's priority, whatever the queue says."""
    bears(store, "gpu-1", 1)
    (number,) = queue.submit_all(store, [wanted("a")], at=1.0)
    (first,) = queue.lease(store, "run", "gpu-1", at=2.0)
    queue.post(store, "run", {number: "order-1"}, [first])
    queue.draw(store, "run", {number: "vast-1"}, [first], at=2.0)
    queue.submit(store, wanted("a", priority=Priority.LOW), at=3.0)
    assert queue.heartbeat(store, "run", [first], at=3.0) == {number}, "less urgent changes nothing"
    raised = queue.submit(store, wanted("a", priority=Priority.HIGH), at=4.0)
    assert (raised.state, raised.owner, raised.source, raised.order_id, raised.attempts) == (State.QUEUED, None, None, None, 0)
    assert queue.heartbeat(store, "run", [first], at=4.0) == set()
    (second,) = queue.lease(store, "run", "gpu-1", at=5.0)
    assert (second.id, second.priority, second.leases) == (number, Priority.HIGH, 2)
    assert not completes(store, first, at=6.0) and fails(store, first, "timeout", at=6.0) is None
    queue.submit(store, wanted("a", priority=Priority.CRITICAL), at=7.0)
    assert queue.get(store, number).owner == "run", "nobody was ordered it yet"
    assert queue.post(store, "run", {number: "order-2"}, [second]) == set(), "and at that priority nobody will be"
    (third,) = queue.lease(store, "run", "gpu-1", at=8.0)
    assert queue.post(store, "run", {number: "order-3"}, [third]) == {number} and third.priority == Priority.CRITICAL
    assert completes(store, third, at=9.0)


def test_a_heartbeat_keeps_a_lease(store: Store) -> None:
    queue.submit(store, wanted("a"), at=1.0)
    (held,) = queue.lease(store, "run", "gpu-1", at=2.0, seconds=60.0)
    assert queue.heartbeat(store, "run", [held], at=50.0, seconds=60.0) == {held.id}
    assert queue.lease(store, "next", "gpu-1", at=100.0) == []
    assert queue.heartbeat(store, "next", [held], at=100.0) == set()


def test_a_failure_is_tried_again_later_and_the_last_says_what_to_do(store: Store) -> None:
    queue.submit(store, wanted("a"), at=0.0)
    now, pauses = 0.0, []
    for attempt in range(1, queue.ATTEMPTS):
        (held,) = queue.lease(store, "run", "gpu-1", at=now)
        assert fails(store, held, "no_source", at=now) == State.WAITING
        waiting = queue.get(store, held.id)
        assert (waiting.attempts, waiting.cause, waiting.order_id, waiting.owner) == (attempt, "no_source", None, None)
        assert waiting.due_at is not None and f"attempt {attempt + 1} of {queue.ATTEMPTS}" in (waiting.next_action or "")
        assert queue.lease(store, "run", "gpu-1", at=waiting.due_at - 0.1) == []
        pauses.append(waiting.due_at - now)
        now = waiting.due_at
    assert pauses == [5.0, 10.0, 20.0, 40.0, 80.0]
    (held,) = queue.lease(store, "run", "gpu-1", at=now)
    assert fails(store, held, "no_source", at=now) == State.FAILED
    failed = queue.get(store, held.id)
    assert (failed.state, failed.finished_at, failed.next_action) == (State.FAILED, now, queue.NEXT_ACTIONS["no_source"])
    assert [change.detail["cause"] for change in changes_since(store, 0) if change.kind == "OPERATION_FAILED"] == ["no_source"]


@pytest.mark.parametrize("cause", sorted(queue.FINAL_CAUSES))
def test_what_trying_again_does_not_help_fails_at_once(store: Store, cause: str) -> None:
    queue.submit(store, wanted("a"), at=0.0)
    (held,) = queue.lease(store, "run", "gpu-1", at=1.0)
    assert fails(store, held, cause, at=2.0) == State.FAILED
    assert queue.get(store, held.id).next_action == queue.NEXT_ACTIONS[cause]


def test_an_unknown_cause_is_an_error(store: Store) -> None:
    queue.submit(store, wanted("a"), at=0.0)
    (held,) = queue.lease(store, "run", "gpu-1", at=1.0)
    with pytest.raises(ValueError, match="no cause"):
        fails(store, held, "bad_luck", at=2.0)
    assert queue.get(store, held.id).state == State.LEASED


def test_pauses_grow_to_a_limit_and_are_shorter_for_what_is_critical() -> None:
    pauses = [queue.back_off(Priority.LOW, attempts, lambda: 0.5) for attempts in range(1, 20)]
    assert pauses == sorted(pauses) and pauses[-1] == queue.BACK_OFF[1]
    assert queue.back_off(Priority.CRITICAL, 19, lambda: 0.5) == queue.CRITICAL_BACK_OFF
    assert queue.back_off(Priority.LOW, 1, lambda: 0.0) < queue.back_off(Priority.LOW, 1, lambda: 1.0)


def test_an_end_is_told_of_with_what_it_took(store: Store) -> None:
    queue.submit(store, wanted("a"), at=0.0)
    (held,) = queue.lease(store, "run", "gpu-1", at=1.0)
    assert completes(store, held, at=5.0, brought=Brought("http", "vast-1", 4000, 2.0, 1))
    done = queue.get(store, held.id)
    assert (done.state, done.transport, done.source, done.bytes, done.retries, done.owner) == (
        State.DONE, "http", "vast-1", 4000, 1, None,
    )  # fmt: skip
    (told,) = [change for change in changes_since(store, 0) if change.kind == "OPERATION_DONE"]
    assert (told.location, told.detail["operation"], told.detail["bytes_a_second"]) == ("gpu-1", held.id, 2000)


def test_what_is_cancelled_is_taken_from_who_works_on_it(store: Store) -> None:
    queue.submit(store, wanted("a"), at=0.0)
    (held,) = queue.lease(store, "run", "gpu-1", at=1.0)
    assert queue.cancel(store, held.id, at=2.0).state == State.CANCELLED
    assert queue.heartbeat(store, "run", [held], at=3.0) == set()
    assert not completes(store, held, at=3.0)
    assert queue.cancel(store, held.id, at=4.0).finished_at == 2.0, "one that has ended stays as it is"
    with pytest.raises(KeyError):
        queue.cancel(store, 999, at=4.0)


def test_what_is_given_up_fails_unless_somebody_works_on_it(store: Store) -> None:
    queue.submit_all(store, many(2), at=0.0)
    (held,) = queue.lease(store, "run", "gpu-1", at=1.0)
    other = next(each for each in queue.listed(store) if each.id != held.id)
    assert queue.abandon(store, [held.id, other.id], "no_such_target", "it is gone", at=2.0) == 1
    ended = queue.get(store, other.id)
    assert (ended.state, ended.cause, ended.detail, ended.finished_at) == (State.FAILED, "no_such_target", "it is gone", 2.0)
    assert queue.get(store, held.id).state == State.LEASED
    (told,) = [change for change in changes_since(store, 0) if change.kind == "OPERATION_FAILED"]
    assert (told.detail["operation"], told.detail["cause"]) == (other.id, "no_such_target")
    with pytest.raises(ValueError, match="no cause"):
        queue.abandon(store, [held.id], "bad_luck", "", at=3.0)


def test_what_a_dead_run_held_ends_with_the_place_that_it_was_for(store: Store) -> None:
    """Nobody ever leases there again, and so nobody would take the lease back."""
    queue.submit_all(store, many(2), at=0.0)
    (held,) = queue.lease(store, "a run that is killed", "gpu-1", at=1.0, seconds=60.0)
    planner.cycle(store, Cluster(), None, at=60.9)
    assert queue.get(store, held.id).state == State.LEASED, "somebody may work on it"
    planner.cycle(store, Cluster(), None, at=61.0)
    assert {(each.state, each.cause) for each in queue.listed(store, states=list(State))} == {(State.FAILED, "no_such_target")}
    assert not completes(store, held, at=62.0)


def test_what_failed_is_asked_for_once_more_as_a_new_operation(store: Store) -> None:
    queue.submit(store, wanted("a", priority=Priority.LOW), at=0.0)
    (held,) = queue.lease(store, "run", "gpu-1", at=1.0)
    fails(store, held, "occupied", at=2.0)
    again = queue.retry(store, held.id, at=3.0, priority=Priority.HIGH)
    assert again.id != held.id
    assert (again.state, again.priority, again.attempts, again.size) == (State.QUEUED, Priority.HIGH, 0, LARGE)
    assert queue.retry(store, held.id, at=4.0).id == again.id
    assert queue.get(store, held.id).state == State.FAILED
    (held,) = queue.lease(store, "run", "gpu-1", at=5.0)
    fails(store, held, "timeout", at=6.0)
    assert queue.retry(store, held.id, at=7.0).state == State.QUEUED, "it is due at once"
    with pytest.raises(KeyError):
        queue.retry(store, 999, at=4.0)


def test_what_is_given_back_costs_no_attempt(store: Store) -> None:
    queue.submit_all(store, many(2), at=0.0)
    held = queue.lease(store, "run", "gpu-1", at=1.0, limit=2)
    assert queue.give_back(store, "run", held[:1], at=2.0) == 1
    assert queue.give_back(store, "run", held[1:], at=2.0, again_in=30.0, cause="agent_silent", detail="nobody there") == 1
    states = [(each.state, each.attempts, each.cause) for each in queue.listed(store)]
    assert states == [(State.QUEUED, 0, None), (State.WAITING, 0, "agent_silent")]
    assert [each.id for each in queue.lease(store, "run", "gpu-1", at=32.0, limit=2)] == [each.id for each in held]


def test_who_does_not_answer_is_waited_for_without_an_attempt_for_a_day(store: Store) -> None:
    queue.submit(store, wanted("a"), at=0.0)
    now, pauses = 0.0, []
    while (held := queue.lease(store, "run", "gpu-1", at=now)[0]).silent_seconds < queue.SILENT_SECONDS:
        assert put_off(store, held, "no_source", at=now) == State.WAITING
        waiting = queue.get(store, held.id)
        assert (waiting.attempts, waiting.cause, waiting.owner) == (0, "no_source", None)
        assert (waiting.next_action or "").startswith(queue.NEXT_ACTIONS["no_source"]) and waiting.due_at is not None
        assert queue.lease(store, "run", "gpu-1", at=waiting.due_at - 0.1) == []
        pauses.append(waiting.due_at - now)
        now = waiting.due_at
    assert pauses[:8] == [5.0, 5.0, 10.0, 20.0, 40.0, 80.0, 120.0, 120.0] and set(pauses[8:]) == {120.0}
    assert DAY <= now < DAY + 120.0
    assert put_off(store, held, "no_source", at=now) == State.WAITING
    assert queue.get(store, held.id).attempts == 1, "by then it counts as a failure"


def test_critical_never_waits_long_for_who_does_not_answer(store: Store) -> None:
    queue.submit(store, wanted("a", priority=Priority.CRITICAL), at=0.0)
    now = 0.0
    for _ in range(50):
        (held,) = queue.lease(store, "run", "gpu-1", at=now)
        put_off(store, held, "agent_silent", at=now)
        now += queue.CRITICAL_SILENT_PAUSE


def test_what_waits_for_a_target_is_due_when_it_answers(store: Store) -> None:
    queue.submit_all(store, [*many(3), *many(1, priority=Priority.CRITICAL), *many(1, "gpu-2")], at=0.0)
    (held, other) = queue.lease(store, "run", "gpu-1", at=0.0, limit=2)
    assert put_off(store, held, "agent_silent", at=0.0) == State.WAITING
    assert fails(store, other, "no_source", at=0.0) == State.WAITING
    assert queue.put_off_all(store, "gpu-1", [Priority.LOW], "nobody there", at=0.0) == 2
    assert queue.pending(store, at=1.0) == {("gpu-2", Priority.LOW): 1}, "no run is started for it"
    assert {each.attempts for each in queue.listed(store) if each.id != other.id} == {0}
    assert queue.wake(store, "gpu-1") == 3
    assert queue.pending(store, at=1.0) == {("gpu-1", Priority.CRITICAL): 1, ("gpu-1", Priority.LOW): 2, ("gpu-2", Priority.LOW): 1}
    assert queue.get(store, other.id).state == State.WAITING, "that is no fault of the target"


def test_low_waits_a_day_at_most_however_much_is_high(store: Store) -> None:
    bears(store, "gpu-1", 2)
    (low,) = queue.submit_all(store, many(1), at=0.0)
    queue.submit_all(store, many(50, priority=Priority.HIGH), at=1.0)
    for hour in range(24):
        (held, *_) = queue.lease(store, "run", "gpu-1", at=hour * 3600.0)
        assert held.id != low
        completes(store, held, at=hour * 3600.0)
    (held,) = queue.lease(store, "run", "gpu-1", at=DAY)
    assert (held.id, held.rank, held.aged, held.priority) == (low, AGED, True, Priority.LOW)
    queue.submit(store, wanted("now", priority=Priority.CRITICAL), at=DAY)
    assert queue.lease(store, "run", "gpu-1", at=DAY)[0].priority == Priority.CRITICAL, "before what has aged"


def test_what_has_aged_goes_with_every_class_but_critical_alone(store: Store) -> None:
    queue.submit_all(store, many(1), at=0.0)
    assert queue.lease(store, "run", "gpu-1", at=DAY, priorities=[Priority.CRITICAL]) == []
    assert queue.pending(store, at=DAY) == {("gpu-1", Priority.HIGH): 1}
    assert queue.lease(store, "run", "gpu-1", at=DAY, priorities=[Priority.HIGH])[0].aged


def test_what_aged_in_bulk_leaves_half_of_the_link_to_what_is_high(store: Store) -> None:
    bears(store, "gpu-1", 8)
    queue.submit_all(store, many(100), at=0.0)
    queue.submit_all(store, many(100, priority=Priority.HIGH), at=1.0)
    for turn in range(3):
        leased = queue.lease(store, "run", "gpu-1", at=DAY + turn, limit=8)
        assert sorted(each.priority for each in leased) == [Priority.HIGH] * 4 + [Priority.LOW] * 4
        again = queue.lease(store, "run", "gpu-1", at=DAY + turn, limit=8)
        assert again == [], "those under way count"
        for held in leased:
            completes(store, held, at=DAY + turn)


def test_what_an_operator_sees(store: Store) -> None:
    queue.submit_all(store, [*many(3), *many(1, "gpu-2", Priority.HIGH)], at=0.0)
    (held,) = queue.lease(store, "run", "gpu-1", at=1.0)
    assert [each.target for each in queue.listed(store)] == ["gpu-2", "gpu-1", "gpu-1", "gpu-1"]
    assert [each.id for each in queue.listed(store, states=[State.LEASED])] == [held.id]
    assert len(queue.listed(store, target="gpu-1", limit=2)) == 2
    assert queue.counts(store) == {
        (Priority.HIGH, State.QUEUED): 1, (Priority.LOW, State.QUEUED): 2, (Priority.LOW, State.LEASED): 1,
    }  # fmt: skip
    completes(store, held, at=2.0)
    assert [each.id for each in queue.listed(store, states=[State.DONE])] == [held.id]
    with pytest.raises(KeyError):
        queue.get(store, 999)


def test_several_processes_lease_everything_once(store: Store, manifest_url: str) -> None:
    bears(store, "gpu-1", 60)
    numbers = queue.submit_all(store, many(300, size=SMALL), at=time.time())
    processes = [lessees.start(manifest_url, f"run-{number}") for number in range(3)]
    said = [process.communicate(timeout=120)[0].splitlines()[1:] for process in processes]
    completed = [int(line.split()[0]) for lines in said for line in lines]
    assert sorted(completed) == numbers
    assert [process.returncode for process in processes] == [0, 0, 0]


def test_killed_lessees_lose_nothing_and_do_nothing_twice(store: Store, manifest_url: str) -> None:
    bears(store, "gpu-1", 60)
    numbers = queue.submit_all(store, many(60, size=SMALL), at=time.time())
    for number in range(4):
        with lessees.start(manifest_url, f"killed-{number}") as process:
            assert process.stdout is not None
            process.stdout.readline()
            for _ in range(5 * number):
                process.stdout.readline()
            process.kill()
    with lessees.start(manifest_url, "last") as process:
        process.communicate(timeout=120)
    done = queue.listed(store, states=[State.DONE], limit=1000)
    assert sorted(each.id for each in done) == numbers
    told = [change.detail["operation"] for change in changes_since(store, 0) if change.kind == "OPERATION_DONE"]
    assert sorted(told) == numbers


def test_a_lease_behind_a_hundred_thousand_is_found_by_index(store: Store) -> None:
    """What it costs must not grow with the queue: neither database may look through all of it."""
    queue.submit_all(store, many(100_000), at=0.0)
    queue.submit_all(store, many(1, priority=Priority.CRITICAL), at=1.0)
    if store.engine.dialect.name == "postgresql":  # it does so by itself, later
        with store.engine.connect() as connection, connection.begin():
            connection.exec_driver_sql("ANALYZE operations")
    plans = [plan_of(store, query, given) for query, given in _asked_when_leasing(store)]
    assert len(plans) > 5
    for plan in plans:
        assert "ix_operations_" in plan or "pk_operations" in plan or "PRIMARY KEY" in plan, plan
        all_that_is_leased = plan.replace("SCAN operations USING INDEX ix_operations_leased", "")
        assert "Seq Scan on operations" not in plan and "SCAN operations" not in all_that_is_leased, plan
    leased = queue.lease(store, "run", "gpu-1", at=2.0, limit=3)
    assert [each.priority for each in leased] == [Priority.CRITICAL, Priority.NORMAL, Priority.LOW]
    assert len(queue.lease(store, "run", "gpu-1", at=DAY, limit=100)) > 1, "and when all of it has aged"


def _asked_when_leasing(store: Store) -> list[tuple[str, object]]:
    """The statements on operations that a lease executes, with what they were given; those that look, not those that write."""
    with noted(store) as asked:
        held = queue.lease(store, "run", "gpu-9", at=0.0)
        held += queue.lease(store, "run", "gpu-1", at=0.0)
        queue.draw(store, "run", {each.id: "vast-1" for each in held}, held, at=0.0)
        queue.give_back(store, "run", held, at=0.0)
        queue.submit(store, wanted("one more"), at=0.0)
    return [(statement, parameters) for statement, parameters in asked if "max(" not in statement]


def test_ended_operations_do_not_stand_in_the_way_of_the_same_thing(store: Store) -> None:
    for turn in range(3):
        number = queue.submit(store, wanted("a"), at=float(turn)).id
        queue.cancel(store, number, at=float(turn))
    with store.reading() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(operations)).scalar_one() == 3
