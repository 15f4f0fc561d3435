"""Limits hold in every window, are used up when there is demand, and are shared by priority."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringrift_dagster.transfer.bandwidth import MIN_BURST, Links, Sharing, TokenBucket
from ringrift_dagster.transfer.model import Priority


class Clock:
    """A time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def never() -> bool:
    return False


@settings(deadline=None, max_examples=60)
@given(
    rate=st.floats(1e3, 1e9),
    burst_share=st.floats(0.001, 0.05),
    asks=st.lists(st.tuples(st.floats(0, 0.7), st.floats(0.0001, 0.1)), min_size=1, max_size=120),
)
def test_no_window_has_more_than_the_limit(rate: float, burst_share: float, asks: list[tuple[float, float]]) -> None:
    clock = Clock()
    bucket = TokenBucket(rate, rate * burst_share, clock)
    flows: list[tuple[float, int]] = []
    for rest, share in asks:
        clock.now += rest
        n = max(1, int(rate * share))
        clock.now += bucket.reserve(n)
        flows.append((clock.now, n))
    for first, (begin, _) in enumerate(flows):
        window = 0
        for at, n in flows[first:]:
            if at - begin >= 1.0:
                break
            window += n
            assert window <= rate * (at - begin) + rate * burst_share + flows[first][1] + 1e-6 * rate + 1


@settings(deadline=None, max_examples=60)
@given(rate=st.floats(1e4, 1e9), shares=st.lists(st.floats(0.0005, 0.2), min_size=50, max_size=200))
def test_all_of_the_limit_is_used_while_there_is_demand(rate: float, shares: list[float]) -> None:
    clock = Clock()
    bucket = TokenBucket(rate, clock=clock)
    sent = 0
    for share in shares:
        n = max(1, int(rate * share))
        sent += n
        clock.now += bucket.reserve(n)
    assert sent >= 0.95 * rate * (clock.now - 100.0)
    assert sent <= rate * (clock.now - 100.0) + bucket.burst + 1


@settings(deadline=None, max_examples=40)
@given(rests=st.lists(st.floats(0, 1e6), max_size=20))
def test_rest_saves_up_no_more_than_the_burst(rests: list[float]) -> None:
    clock = Clock()
    bucket = TokenBucket(1e6, 1e5, clock)
    for rest in rests:
        clock.now += rest
        clock.now -= rest / 2  # a clock that goes back gives nothing, and takes nothing
    assert bucket.reserve(100_000) == 0
    assert bucket.reserve(50_000) == pytest.approx(0.05)


def test_no_limit_is_no_wait() -> None:
    assert TokenBucket(None).reserve(1 << 50) == 0


def test_a_limit_can_change() -> None:
    clock = Clock()
    bucket = TokenBucket(None, clock=clock)
    bucket.reserve(1 << 40)
    bucket.set(1000.0, 100)
    assert bucket.reserve(1100) == pytest.approx(1.1)
    bucket.set(2000.0, 100)
    assert bucket.wait() == pytest.approx(0.55)
    bucket.set(None)
    assert bucket.wait() == 0


def test_whoever_is_alone_has_all() -> None:
    got = _granted({Priority.COLD_STORAGE: ["inn"]}, inn=1e6)
    assert got[Priority.COLD_STORAGE] == pytest.approx(10e6, rel=0.02)


@pytest.mark.parametrize(
    ("classes", "shares"),
    [
        ([Priority.CRITICAL, Priority.LOW], [0.7, 0.3]),
        ([Priority.HIGH, Priority.NORMAL, Priority.LOW], [4 / 7, 2 / 7, 1 / 7]),
        ([Priority.CRITICAL, Priority.HIGH, Priority.LOW, Priority.COLD_STORAGE], [0.7, 0.2, 0.05, 0.05]),
    ],
)
def test_shares_follow_the_weights(classes: list[Priority], shares: list[float]) -> None:
    got = _granted({priority: ["inn"] for priority in classes}, inn=1e6)
    for priority, share in zip(classes, shares, strict=True):
        assert got[priority] / sum(got.values()) == pytest.approx(share, abs=0.03)


def test_what_one_link_keeps_back_is_free_for_others_on_the_other() -> None:
    got = _granted({Priority.CRITICAL: ["inn", "from slow"], Priority.LOW: ["inn", "from fast"]}, inn=1e6, slow=1e5)
    assert got[Priority.CRITICAL] == pytest.approx(1e5 * 10, rel=0.2)
    assert got[Priority.LOW] == pytest.approx(9e5 * 10, rel=0.1)


def _granted(wants: dict[Priority, list[str]], *, inn: float, slow: float | None = None) -> Counter[Priority]:
    """Ten seconds in which each class always has a piece waiting."""
    clock = Clock()
    sharing = Sharing(clock)
    sharing.link("inn").bucket.set(inn)
    sharing.link("from slow").bucket.set(slow)
    got: Counter[Priority] = Counter()
    waiting = {priority: sharing.want(names, 20_000, priority) for priority, names in wants.items()}
    while clock.now < 110:
        clock.now += max(0.001, min(0.01, sharing.grant()[1]))
        for priority, want in waiting.items():
            if want.granted:
                got[priority] += want.n
                waiting[priority] = sharing.want(wants[priority], 20_000, priority)
    return got


@pytest.mark.parametrize("rate", [2e6, 50e6])
def test_in_real_time_no_window_has_more_than_the_limit(rate: float) -> None:
    links, flows = Links(), []
    links.set("in", rate)
    until = time.monotonic() + 1.2

    def demand(priority: Priority) -> None:
        while time.monotonic() < until:
            links.take(["in", "from a"], 16 << 10, priority, never)
            flows.append((time.monotonic(), 16 << 10))

    _together(lambda: demand(Priority.NORMAL), lambda: demand(Priority.HIGH), lambda: demand(Priority.CRITICAL))
    flows.sort()
    assert sum(n for _, n in flows) <= rate * (flows[-1][0] - until + 1.2) + max(MIN_BURST, 0.05 * rate) + 4 * (16 << 10)
    assert links.rates()["in"][0] == rate
    assert links.rate(["in", "from a"]) == rate


def test_calls_that_are_told_their_pace_share_a_link_while_they_last() -> None:
    links, a, b = Links(), ("in", "from a"), ("in", "from b")
    with links.share({"a": a}) as unlimited:
        assert unlimited == {"a": None}
    links.set("in", 10e6)
    with links.share({"a": a}) as alone, links.share({"b": b}) as second, links.share({"a": a}) as third:
        assert (alone, second) == ({"a": 10e6}, {"b": 5e6})
        assert third == {"a": pytest.approx(10e6 / 3)}
    with links.share({"a": a}) as again:
        assert again == {"a": 10e6}


def test_what_comes_on_several_ways_is_no_more_than_the_link_they_have_in_common_bears() -> None:
    links, ways = Links(), {"a": ("in", "from a"), "b": ("in", "from b")}
    links.set("from a", 3e6)
    with links.share(ways) as shares:
        assert shares == {"a": 3e6, "b": None}
    links.set("from b", 9e6)
    with links.share(ways) as shares:
        assert shares == {"a": 3e6, "b": 9e6}
    links.set("in", 8e6)
    with links.share(ways) as shares:
        assert shares == {"a": pytest.approx(3e6 * 8 / 11), "b": pytest.approx(8e6 * 8 / 11)}


def test_whoever_is_cancelled_waits_no_longer() -> None:
    links, gone = Links(), threading.Event()
    links.set("in", 1000.0)
    links.take(["in"], 1 << 20, Priority.NORMAL, lambda: True)
    waiting = threading.Thread(target=links.take, args=(["in"], 1 << 20, Priority.NORMAL, gone.is_set))
    waiting.start()
    gone.set()
    waiting.join(10)
    assert not waiting.is_alive()


def test_a_limit_that_is_lifted_lets_go_of_who_waits() -> None:
    links = Links()
    links.set("in", 1000.0)
    waiting = threading.Thread(target=links.take, args=(["in"], 4 << 20, Priority.NORMAL, never))
    waiting.start()
    links.set("in", None)
    waiting.join(20)
    assert not waiting.is_alive()


def _together(*work: Callable[[], None]) -> None:
    threads = [threading.Thread(target=each) for each in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
