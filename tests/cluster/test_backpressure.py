"""From readings to a pressure, from pressures over time to a decision: the worst counts, the unknown never counts as healthy."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringrift_dagster.cluster.backpressure import (
    ACTIVATES_AT,
    DWELL_SECONDS,
    RELEASES_AT,
    Level,
    Reading,
    Stance,
    assess,
    decide,
)

ORDER = [Level.HEALTHY, Level.RAISED, Level.HIGH]
values = st.floats(-10, 200, allow_nan=False)
readings = st.builds(
    Reading,
    name=st.sampled_from(["queue", "disk", "memory"]),
    value=st.none() | values | st.just(math.inf) | st.just(math.nan),
    low=st.just(0.0),
    high=st.just(100.0),
    unit=st.just("%"),
    unknown=st.none() | st.just("a disk"),
)


def reading(value: float | None, unknown: str | None = None) -> Reading:
    return Reading("disk", value, 0.0, 100.0, "%", unknown=unknown)


@pytest.mark.parametrize(
    ("value", "pressure"), [(-5, 0.0), (0, 0.0), (50, 0.5), (100, 1.0), (500, 1.0), (math.inf, 1.0), (None, None), (math.nan, None)]
)
def test_pressure_rises_from_the_low_to_the_high_edge(value: float | None, pressure: float | None) -> None:
    assert reading(value).pressure == pressure


def test_a_place_that_is_full_from_the_start_presses_only_when_it_is_full() -> None:
    assert [Reading("disk", value, 100.0, 100.0, "%").pressure for value in (99.0, 100.0)] == [0.0, 1.0]


def test_one_full_disk_is_not_made_up_for_by_idle_ones() -> None:
    told = assess([*[reading(0.0)] * 20, reading(99.0)])
    assert (told.level, told.overall, told.worst and told.worst.value) == (Level.HIGH, 0.99, 99.0)


def test_what_is_bad_enough_by_itself_is_high_whatever_is_unknown() -> None:
    told = assess([reading(95.0), reading(None, "this machine's memory")])
    assert (told.level, [each.unknown for each in told.unknown]) == (Level.HIGH, ["this machine's memory"])
    assert assess([reading(95.0, "another disk")]).level == Level.HIGH


def test_nothing_at_all_is_unknown() -> None:
    assert (assess([]).level, assess([]).overall, assess([]).worst) == (Level.UNKNOWN, None, None)


@given(st.lists(readings, max_size=5))
def test_what_is_unknown_never_counts_as_healthy(told: list[Reading]) -> None:
    found = assess(told)
    if not told or any(each.unknown or each.value is None or math.isnan(each.value) for each in told):
        assert found.level in (Level.UNKNOWN, Level.HIGH)
        assert decide(Stance(True, 0.0), found.level, 1e6).active, "and it releases nothing"
    if found.level == Level.UNKNOWN:
        assert not decide(Stance(False, 0.0), found.level, 1e6).active, "nor does ignorance alone stop any work"


@given(st.lists(values, min_size=1, max_size=5), st.data())
def test_more_of_anything_is_never_less_pressure(before: list[float], data: st.DataObject) -> None:
    after = list(before)
    index = data.draw(st.integers(0, len(before) - 1))
    after[index] += data.draw(st.floats(0, 100))
    low, high = assess(map(reading, before)), assess(map(reading, after))
    assert (high.overall or 0.0) >= (low.overall or 0.0)
    assert ORDER.index(high.level) >= ORDER.index(low.level)


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0.5, 300)), max_size=60))
def test_it_never_turns_twice_within_the_dwell_nor_between_its_edges(steps: list[tuple[float, float]]) -> None:
    stance, now, turns = Stance(), 1000.0, []
    for value, seconds in steps:
        now += seconds
        told = assess([reading(value)])
        following = decide(stance, told.level, now)
        if following.active != stance.active:
            turns.append(now)
            assert value >= 100 * ACTIVATES_AT if following.active else value <= 100 * RELEASES_AT
        stance = following
    assert all(later - earlier >= DWELL_SECONDS for earlier, later in pairwise(turns))


def test_pressure_that_lasts_activates_once_and_ease_that_lasts_releases_once() -> None:
    stance, seen = Stance(), []
    for now, value in enumerate([80] * 400 + [60] * 400 + [20] * 400):
        following = decide(stance, assess([reading(value)]).level, float(now))
        seen += [(now, following.active)] if following != stance else []
        stance = following
    assert seen == [(0, True), (800, False)]


def test_a_change_that_a_wrong_clock_put_far_into_the_future_does_not_hold_forever() -> None:
    assert decide(Stance(True, 1e9), Level.HEALTHY, 1000.0) == Stance(False, 1000.0)
