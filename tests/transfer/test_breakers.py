"""Breakers: what opens, who may try, what closes; several processes at once; both databases."""

from __future__ import annotations

from typing import Any

import pytest

from ringrift_dagster.manifest.changes import changes_since
from ringrift_dagster.manifest.store import Store
from ringrift_dagster.transfer import breakers
from ringrift_dagster.transfer.breakers import COOL_DOWN, FAILURES, TRIAL_SECONDS, Breaker, BreakerState, Way
from ringrift_dagster.transfer.model import OfferOutcome, TransportName

WAY = Way("vast-1", TransportName.HTTP)
OTHER = Way("vast-1", TransportName.RSYNC)


def saw(store: Store, at: float, *codes: str | None, way: Way = WAY) -> None:
    """Outcomes of a way, in order: why it failed, or None where it brought something."""
    came = ({"bytes": 10} if code is None else {"failures": 1, "failure": code} for code in codes)
    with store.writing() as writer:
        breakers.observe(writer, [outcome(**each, way=way) for each in came], at=at)


def outcome(way: Way = WAY, **told: Any) -> OfferOutcome:
    return OfferOutcome(location=way.location, transport=way.transport, **told)


def state(store: Store, way: Way = WAY) -> BreakerState:
    return next((each.state for each in breakers.all_breakers(store) if each.way == way), BreakerState.CLOSED)


def shut(store: Store, at: float, *ways: Way) -> set[Way]:
    return set(breakers.admit(store, ways or (WAY, OTHER), at=at))


def opened(store: Store, at: float) -> None:
    saw(store, at, *["timeout"] * FAILURES)


def told(store: Store, kind: str) -> list[dict[str, object]]:
    return [change.detail for change in changes_since(store, 0) if change.kind == kind]


def test_failures_in_a_row_open_it_and_a_success_between_starts_anew(store: Store) -> None:
    saw(store, 1, "timeout", "refused", None, "timeout", "timeout")
    assert (state(store), shut(store, 1)) == (BreakerState.CLOSED, set())
    saw(store, 2, "refused")
    assert shut(store, 2) == {WAY}, "the other transport of the same place goes on"
    assert told(store, "BREAKER_OPENED") == [{"transport": "http", "code": "refused", "failures": 3, "seconds": COOL_DOWN[0]}]


def test_when_its_time_has_come_one_may_try(store: Store) -> None:
    opened(store, 10)
    assert shut(store, 10 + COOL_DOWN[0] - 1) == {WAY}
    due = 10 + COOL_DOWN[0]
    assert shut(store, due) == set()
    assert state(store) == BreakerState.TRIAL
    assert shut(store, due + 1) == {WAY}, "somebody is at it"
    saw(store, due + 2, None)
    assert (state(store), shut(store, due + 2)) == (BreakerState.CLOSED, set())
    assert [detail["transport"] for detail in told(store, "BREAKER_CLOSED")] == ["http"]


def test_a_trial_that_fails_doubles_the_pause_up_to_an_hour(store: Store) -> None:
    opened(store, 0)
    now, pauses = 0.0, []
    for _ in range(8):
        (breaker,) = breakers.all_breakers(store)
        assert breaker.retry_at is not None
        pauses.append(breaker.retry_at - now)
        now = breaker.retry_at
        assert shut(store, now) == set()
        saw(store, now, "timeout")
    assert pauses == [60, 120, 240, 480, 960, 1920, 3600, 3600]
    assert shut(store, now + COOL_DOWN[1]) == set()
    saw(store, now, None)
    opened(store, now)
    (breaker,) = breakers.all_breakers(store)
    assert breaker.cool_down == COOL_DOWN[0], "after a success all is as before"


def test_a_trial_whose_holder_died_is_free_again(store: Store) -> None:
    opened(store, 0)
    assert shut(store, 60) == set()
    assert shut(store, 60 + TRIAL_SECONDS - 1) == {WAY}
    assert shut(store, 60 + TRIAL_SECONDS) == set()


def test_of_two_that_looked_at_the_same_time_one_may_try(store: Store) -> None:
    opened(store, 0)
    (seen_by_both,) = breakers.all_breakers(store)
    with store.writing() as writer:
        assert breakers._take_trial(writer, seen_by_both, 70.0)
    with store.writing() as writer:
        assert not breakers._take_trial(writer, seen_by_both, 70.0)


def test_what_was_under_way_when_it_opened_neither_shuts_it_for_longer_nor_counts_for_nothing(store: Store) -> None:
    opened(store, 0)
    saw(store, 5, "timeout", "timeout")
    (breaker,) = breakers.all_breakers(store)
    assert (breaker.retry_at, breaker.failures) == (COOL_DOWN[0], FAILURES + 2)
    saw(store, 6, None)
    assert state(store) == BreakerState.CLOSED


@pytest.mark.parametrize(
    ("seen", "counts"),
    [
        ({"failures": 1, "failure": "timeout"}, True),
        ({"failures": 3, "failure": "timeout", "bytes": 10}, True),
        ({"failures": 1, "failure": "timeout", "bytes": 10}, False),
        ({"wrong_chunks": 2, "bytes": 10}, True),
        ({"wrong_chunks": 1, "bytes": 10}, False),
        ({"failures": 1, "failure": "not_found"}, False),
        ({"failures": 1, "failure": "not_installed"}, False),
        ({"failures": 1, "failure": "cancelled"}, False),
        ({}, False),
    ],
)
def test_only_what_is_the_locations_fault_counts(store: Store, seen: dict[str, Any], counts: bool) -> None:
    with store.writing() as writer:
        breakers.observe(writer, [outcome(**seen)] * FAILURES, at=1.0)
    assert (state(store) == BreakerState.OPEN) == counts


def test_it_is_kept_in_the_same_transaction_as_what_it_was_learnt_from(store: Store) -> None:
    seen = [outcome(failures=1, failure="timeout")] * FAILURES
    with pytest.raises(ZeroDivisionError), store.writing() as writer:
        breakers.observe(writer, seen, at=1.0)
        raise ZeroDivisionError
    assert breakers.all_breakers(store) == [] and shut(store, 1) == set()


def test_nothing_is_written_where_nothing_ever_failed(store: Store) -> None:
    saw(store, 1, None, None)
    assert breakers.all_breakers(store) == []
    assert not Breaker(*WAY).shut(1.0)
