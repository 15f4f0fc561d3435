"""How many transfers a link bears: what moves the number, and that it says why."""

from __future__ import annotations

from dataclasses import replace

import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from ringrift_dagster.manifest.changes import changes_since
from ringrift_dagster.manifest.schema import link_limits
from ringrift_dagster.manifest.store import Store
from ringrift_dagster.transfer.limits import (
    AT_ONCE,
    FEWEST,
    MOST,
    SMALL_BYTES,
    SMALL_IN_A_LANE,
    Ended,
    Lanes,
    Link,
    decide,
    observe,
    seen,
)

GOOD = Ended(True, 100 << 20, 1.0)
BAD = Ended(False)


def after(link: Link, *transfers: Ended, waiting: int = 1000) -> Link:
    return decide(seen(link, transfers), waiting)


def test_one_more_while_all_is_well() -> None:
    link = after(Link(), *[GOOD] * AT_ONCE)
    assert (link.at_once, link.reason) == (AT_ONCE + 1, "all is well; 100% of 10 succeeded")
    assert (link.ended, link.succeeded) == (0, 0), "the next decision begins anew"


def test_too_few_transfers_decide_nothing() -> None:
    link = after(Link(), *[BAD] * (AT_ONCE - 1))
    assert (link.at_once, link.reason, link.ended) == (AT_ONCE, None, AT_ONCE - 1)
    wide = after(Link(at_once=40), *[BAD] * 39)
    assert wide.at_once == 40, "a decision sees every place used once"


def test_a_fifth_less_where_too_many_fail() -> None:
    link = after(Link(at_once=20), *[GOOD] * 10, *[BAD] * 10)
    assert (link.at_once, link.reason) == (16, "too many failed; 50% of 20 succeeded")


def test_nothing_changes_between_good_and_bad() -> None:
    some = after(Link(at_once=20), *[GOOD] * 193, *[BAD] * 7)
    assert (some.at_once, some.reason) == (20, "some failed; 96% of 200 succeeded")
    nearly = after(Link(at_once=20), *[GOOD] * 195, *[BAD] * 5)
    assert (nearly.at_once, nearly.reason) == (20, "nearly all is well; 98% of 200 succeeded")


def test_slower_transfers_take_one_back_unless_files_are_smaller() -> None:
    before = after(Link(), *[GOOD] * 10)
    slower = after(before, *[Ended(True, 100 << 20, 10.0)] * 40)
    assert slower.at_once == before.at_once - 1
    assert slower.reason is not None and slower.reason.startswith("slower, 1")
    smaller = after(before, *[Ended(True, 1 << 20, 0.1)] * 40)
    assert (smaller.at_once, (smaller.reason or "").split(";")[0]) == (before.at_once, "slower, as files are smaller")


def test_an_empty_queue_says_nothing_about_the_link() -> None:
    link = after(Link(), *[GOOD] * 10, waiting=3)
    assert (link.at_once, link.reason) == (AT_ONCE, "the queue is emptying; 100% of 10 succeeded")


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 1 << 40), st.floats(0, 1e6)), max_size=300), st.integers(0, 100))
def test_the_limit_stays_within_its_bounds(transfers: list[tuple[bool, int, float]], waiting: int) -> None:
    link = Link()
    for each in transfers:
        before, link = link, decide(seen(link, [Ended(*each)]), waiting)
        assert FEWEST <= link.at_once <= MOST
        assert link.at_once == before.at_once or link.reason


def test_success_and_failure_lead_to_the_bounds() -> None:
    link = Link()
    for _ in range(100):
        link = after(link, *[GOOD] * 60)
    assert link.at_once == MOST
    for _ in range(100):
        link = after(link, *[BAD] * 60)
    assert link.at_once == FEWEST


@given(st.lists(st.one_of(st.none(), st.integers(0, 2 * SMALL_BYTES)), max_size=300), st.integers(1, 60))
def test_lanes_bear_no_more_than_there_are(sizes: list[int | None], at_once: int) -> None:
    lanes = Lanes()
    taken = [size for size in sizes if lanes.take(size, at_once)]
    small = sum(size is not None and size < SMALL_BYTES for size in taken)
    assert (lanes.large, lanes.small) == (len(taken) - small, small)
    assert lanes.large + -(-lanes.small // SMALL_IN_A_LANE) <= at_once
    refused = replace(lanes)
    assert not (len(taken) < len(sizes) and refused.take(None, at_once) and all(size is None for size in sizes))


def test_what_was_observed_is_kept_and_a_change_told_of(store: Store) -> None:
    with store.writing() as writer:
        assert observe(writer, "to gpu-1", [GOOD] * 9, waiting=100, at=1.0).at_once == AT_ONCE
    with store.writing() as writer:
        link = observe(writer, "to gpu-1", [GOOD], waiting=100, at=2.0)
    assert link.at_once == AT_ONCE + 1
    (told,) = [change for change in changes_since(store, 0) if change.kind == "LIMIT_CHANGED"]
    assert (told.at, told.location) == (2.0, "gpu-1")
    assert told.detail == {"link": "to gpu-1", "before": AT_ONCE, "after": AT_ONCE + 1, "reason": link.reason}
    with store.writing() as writer:
        assert observe(writer, "to gpu-1", [BAD] * 11, waiting=100, at=3.0).at_once == AT_ONCE - 1
    with store.reading() as connection:
        row = connection.execute(sa.select(link_limits)).one()
    assert (row.at_once, row.changed_at, row.throughput, row.ended) == (AT_ONCE - 1, 3.0, link.throughput, 0)
