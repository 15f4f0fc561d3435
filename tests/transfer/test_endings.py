"""What is recorded when operations end: all of it in one transaction, on both databases."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from ringrift_dagster.manifest.changes import changes_since
from ringrift_dagster.manifest.consistency import disagreements
from ringrift_dagster.manifest.locations import location
from ringrift_dagster.manifest.queries import items_of, where
from ringrift_dagster.manifest.replicas import Made
from ringrift_dagster.manifest.schema import link_limits
from ringrift_dagster.manifest.store import Store
from ringrift_dagster.transfer import breakers, queue
from ringrift_dagster.transfer.endings import Ended, record
from ringrift_dagster.transfer.model import OfferOutcome, TransportName
from ringrift_dagster.transfer.operations import Brought, Kind, Operation, State
from tests.manifest.telling import declared, dies, digest_of, item, tell
from tests.transfer.asking import many, wanted

TARGET = "nebius-1"


@pytest.fixture(autouse=True)
def _known(store: Store) -> None:
    declared(store)
    contents = [f"{TARGET} 3 {number}" for number in range(600)]
    tell(store, "vast-1", [item(f"data/training/{number}.npz", text) for number, text in enumerate(contents)], at=1)
    tell(store, TARGET, at=1)


def leased(store: Store, count: int = 1) -> list[Operation]:
    queue.submit_all(store, many(count, TARGET, size=1000), at=1.0)
    found: list[Operation] = []
    while len(found) < count:
        with store.writing() as writer:
            writer.connection.execute(sa.update(link_limits).values(at_once=60))
        found += queue.lease(store, "run", TARGET, at=2.0, limit=count - len(found))
    return found


def done(operation: Operation, **told: Any) -> Ended:
    made = Made(operation.sha256, f"data/training/{operation.sha256[:12]}.npz", 3.0, 3.0)
    outcome = OfferOutcome(location="vast-1", transport=TransportName.HTTP, bytes=1000, seconds=0.5)
    return Ended(
        **{"operation": operation, "brought": Brought("http", "vast-1", 1000, 0.5), "made": made, "outcomes": (outcome,), **told}
    )


def test_many_ends_are_one_change_and_the_counters_agree(store: Store) -> None:
    operations = leased(store, 500)
    facts = items_of(store, (each.sha256 for each in operations))
    before = store.revision()
    rows = record(store, TARGET, [done(each, item=facts[each.sha256]) for each in operations], at=5.0)
    assert store.revision() == before + 1
    assert {(row.state, row.transport, row.type, row.config) for row in rows} == {(State.DONE, "http", "NPZ", "hex8_2p")}
    assert len(rows) == 500 and rows[0].mb_per_second == pytest.approx(0.002)
    place = location(store, TARGET)
    assert place is not None and place.replicas == 500 and disagreements(store) == []
    assert {queue.get(store, each.id).state for each in operations[::50]} == {State.DONE}
    told = [change.detail for change in changes_since(store, 0, limit=2000) if change.kind == "OPERATION_DONE"]
    assert len(told) == 500 and told[0]["bytes_a_second"] == 2000


def test_two_operations_for_the_same_copy_are_one_copy(store: Store) -> None:
    (first,) = leased(store)
    second = queue.submit(store, wanted(f"{TARGET} 3 0", TARGET, kind=Kind.PRELOAD, size=1000), at=1.0)
    assert second.id != first.id
    (other,) = queue.lease(store, "run", TARGET, at=2.0)
    assert len(record(store, TARGET, [done(first), done(other)], at=5.0)) == 2
    place = location(store, TARGET)
    assert place is not None and place.replicas == 1 and disagreements(store) == []


def test_what_an_unheld_lease_brought_is_a_copy_but_no_end(store: Store) -> None:
    (operation,) = leased(store)
    (taken_over,) = queue.lease(store, "other", TARGET, at=1000.0)
    assert record(store, TARGET, [done(operation)], at=1001.0) == []
    assert queue.get(store, operation.id).state == State.LEASED
    assert len(where(store, operation.sha256).copies) == 2
    assert [row.state for row in record(store, TARGET, [done(taken_over)], at=1002.0)] == [State.DONE]
    assert disagreements(store) == []


def test_a_failure_teaches_and_waits(store: Store) -> None:
    operations = leased(store, 3)
    outcome = OfferOutcome(location="vast-1", transport=TransportName.HTTP, failures=3, failure="timeout")
    failed = [Ended(each, cause="timeout", detail="nothing came", outcomes=(outcome,)) for each in operations]
    rows = record(store, TARGET, failed, at=5.0)
    assert {(row.state, row.cause, row.detail) for row in rows} == {(State.WAITING, "timeout", "nothing came")}
    assert all(row.next_action for row in rows)
    assert [breaker.state for breaker in breakers.all_breakers(store)] == ["OPEN"]
    with store.reading() as connection:
        ended = dict(connection.execute(sa.select(link_limits.c.name, link_limits.c.ended)).all())
    assert ended == {f"to {TARGET}": 3, "from vast-1": 3}


def test_what_nobody_answered_for_is_no_attempt_and_says_nothing_of_links(store: Store) -> None:
    silent, tried = leased(store, 2)
    refused = OfferOutcome(location="vast-1", transport=TransportName.RSYNC, failures=3, failure="unreachable")
    asked = [Ended(each, cause="no_source", detail="nobody", outcomes=(refused,)) for each in (silent, tried)]
    assert [row.state for row in record(store, TARGET, asked[1:], at=5.0)] == [State.WAITING]
    dies(store, "vast-1", at=6.0)
    (row,) = record(store, TARGET, asked[:1], at=40.0)
    assert (row.state, row.cause, queue.get(store, silent.id).attempts) == (State.WAITING, "no_source", 0)
    assert queue.get(store, tried.id).attempts == 1, "its place answered, though not the agent"
    with store.reading() as connection:
        assert set(connection.execute(sa.select(link_limits.c.ended)).scalars()) == {0}


def test_a_liars_copy_is_doubted(store: Store) -> None:
    (operation,) = leased(store)
    (row,) = record(store, TARGET, [done(operation, liars=("vast-1",))], at=5.0)
    assert row.state == State.DONE
    assert {copy.location: copy.state for copy in where(store, operation.sha256).copies} == {
        "vast-1": "SUSPICIOUS", TARGET: "AVAILABLE",
    }  # fmt: skip
    assert disagreements(store) == []


def test_a_cause_that_only_an_agent_knows_is_kept_in_the_detail(store: Store) -> None:
    (operation,) = leased(store)
    (row,) = record(store, TARGET, [Ended(operation, cause="volcano", detail="it erupted")], at=5.0)
    assert (row.state, row.cause, row.detail) == (State.WAITING, "agent_refused", "volcano: it erupted")


def test_if_one_part_cannot_be_recorded_nothing_is(store: Store) -> None:
    first, second = leased(store, 2)
    unheard_of = Made(digest_of("never told"), "data/training/x.npz", 3.0, 3.0)
    with pytest.raises(KeyError):
        record(store, TARGET, [done(first), done(second, made=unheard_of)], at=5.0)
    assert {queue.get(store, each.id).state for each in (first, second)} == {State.LEASED}
    place = location(store, TARGET)
    assert place is not None and place.replicas == 0 and breakers.all_breakers(store) == []
