"""How fast bytes may flow: a token bucket for every link, shared by priority. Who asks, and for which links, is decided elsewhere.

A link is a name: `in` is what comes into this host, `from X` what comes from a location, `out` what this host serves.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ringrift_dagster.transfer.model import Priority

BURST_SECONDS = 0.05
"""What a bucket holds, in seconds of its rate: after a rest no more than that goes through at once."""
MIN_BURST = 64 << 10
PIECE_SECONDS = 0.02
MIN_PIECE = 16 << 10
"""Bytes are let through in pieces, of so many seconds of the slowest link, or of so many bytes."""
SLICE_SECONDS = 0.2
"""Nobody waits longer without looking whether it was cancelled."""
ACTIVE_SECONDS = 0.5
"""So long after its last bytes a class counts as contending."""
CRITICAL_SHARE = 0.7
WEIGHTS = {Priority.HIGH: 4.0, Priority.NORMAL: 2.0, Priority.LOW: 1.0, Priority.COLD_STORAGE: 1.0}
"""How the others share what CRITICAL leaves them. Whoever is alone has all."""
_SHORTEST = 0.001


class TokenBucket:
    """Lets `rate` bytes a second through, and `burst` bytes at once after a rest; without a rate, everything.

    In any t seconds at most rate * t + burst bytes may flow, and what was reserved last. Safe to use from several threads.
    """

    def __init__(self, rate: float | None, burst: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self.burst = _burst(rate, burst)
        self._clock = clock
        self._lock = threading.Lock()
        self._tokens = self.burst
        self._at = clock()

    def set(self, rate: float | None, burst: float | None = None) -> None:
        """Another limit from now on. What was reserved before stays so."""
        with self._lock:
            self._fill()
            self.rate, self.burst = rate, _burst(rate, burst)
            self._tokens = min(self._tokens, self.burst)

    def reserve(self, n: int) -> float:
        """Take `n` bytes; returns for how many seconds to wait before they flow."""
        with self._lock:
            self._fill()
            if self.rate is None:
                return 0.0
            self._tokens -= n
            return max(0.0, -self._tokens / self.rate)

    def wait(self) -> float:
        """For how many seconds nothing may flow, as more than there was is reserved."""
        return self.reserve(0)

    def _fill(self) -> None:
        now = self._clock()
        passed, self._at = max(0.0, now - self._at), now
        self._tokens = self.burst if self.rate is None else min(self.burst, self._tokens + passed * self.rate)


def _burst(rate: float | None, burst: float | None) -> float:
    if rate is None:
        return 0.0
    return max(float(MIN_BURST), BURST_SECONDS * rate) if burst is None else burst


class _Link:
    """A link and the classes that contend for it: who has had the least for its weight is next (start-time fair queueing).

    `calls` of programs that have to be told their pace are under way on it.
    """

    def __init__(self, rate: float | None, clock: Callable[[], float]) -> None:
        self.bucket = TokenBucket(rate, clock=clock)
        self.calls = 0
        self._clock = clock
        self._now_serving = 0.0
        self._finish: dict[Priority, float] = {}
        self._seen: dict[Priority, float] = {}
        self._second, self._bytes, self._bytes_before = 0, 0, 0

    def ahead(self, priority: Priority) -> float:
        """How much more than its share a class has had."""
        return max(0.0, self._finish.get(priority, 0.0) - self._now_serving)

    def see(self, priority: Priority) -> None:
        """The class wants something."""
        self._seen[priority] = self._clock()

    def pass_through(self, n: int, priority: Priority) -> None:
        """The class has `n` bytes."""
        start = self._now_serving + self.ahead(priority)
        self._now_serving = start
        self._finish[priority] = start + n / self._weight(priority)
        self.bucket.reserve(n)
        self._turn()
        self._bytes += n

    def part(self) -> float | None:
        """Of its limit, what one of the calls may have."""
        return None if self.bucket.rate is None else self.bucket.rate / self.calls

    def flow(self) -> float:
        """Bytes of the last whole second."""
        self._turn()
        return float(self._bytes_before)

    def _weight(self, priority: Priority) -> float:
        now = self._clock()
        active = {each for each, at in self._seen.items() if now - at <= ACTIVE_SECONDS} | {priority}
        others = sum(WEIGHTS[each] for each in active if each != Priority.CRITICAL)
        if priority == Priority.CRITICAL:
            return CRITICAL_SHARE if others else 1.0
        return WEIGHTS[priority] / others * (1 - CRITICAL_SHARE if Priority.CRITICAL in active else 1.0)

    def _turn(self) -> None:
        second = int(self._clock())
        if second != self._second:
            self._bytes_before = self._bytes if second == self._second + 1 else 0
            self._second, self._bytes = second, 0


@dataclass(eq=False)
class Want:
    """Bytes that somebody waits for."""

    links: list[_Link]
    n: int
    priority: Priority
    granted: bool = False


class Sharing:
    """Who may go next on which links, at the time that the clock tells. For one thread at a time, and never waits itself."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._links: dict[str, _Link] = {}
        self._wants: list[Want] = []

    def link(self, name: str) -> _Link:
        """A link by name; one that nobody set has no limit."""
        if name not in self._links:
            self._links[name] = _Link(None, self._clock)
        return self._links[name]

    def links(self) -> dict[str, _Link]:
        return dict(self._links)

    def want(self, names: Sequence[str], n: int, priority: Priority) -> Want:
        """Get in line."""
        want = Want([self.link(name) for name in names], n, priority)
        self._wants.append(want)
        return want

    def give_up(self, want: Want) -> None:
        """Leave the line."""
        if not want.granted:
            self._wants.remove(want)

    def grant(self) -> tuple[int, float]:
        """Let through what may flow now; returns how many that were, and in how many seconds more may."""
        for want in self._wants:
            for link in want.links:
                link.see(want.priority)
        granted, left = 0, SLICE_SECONDS
        while self._wants:
            waits = [(max((link.bucket.wait() for link in want.links), default=0.0), want) for want in self._wants]
            free = [want for wait, want in waits if wait == 0]
            if not free:
                left = min(left, *(wait for wait, _ in waits))
                break
            chosen = min(free, key=_urgency)
            for link in chosen.links:
                link.pass_through(chosen.n, chosen.priority)
            chosen.granted = True
            self._wants.remove(chosen)
            granted += 1
        return granted, left


class Links:
    """The links of a host. Safe to use from several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._changed = threading.Condition()
        self._sharing = Sharing(clock)

    def set(self, name: str, rate: float | None) -> None:
        """What a link bears, in bytes a second; None: no limit."""
        with self._changed:
            bucket = self._sharing.link(name).bucket
            if bucket.rate != rate:
                bucket.set(rate)
                self._changed.notify_all()

    def take(self, names: Sequence[str], n: int, priority: Priority, cancelled: Callable[[], bool]) -> None:
        """Wait until `n` bytes may flow over all these links. Returns early when it is cancelled."""
        rate = self.rate(names)
        piece = n if rate is None else max(MIN_PIECE, int(rate * PIECE_SECONDS))
        while n > 0 and self._take(names, min(n, piece), priority, cancelled):
            n -= piece

    def rate(self, names: Sequence[str]) -> float | None:
        """The lowest limit of these links in bytes a second; None if none has one."""
        with self._changed:
            rates = [rate for name in names if (rate := self._sharing.link(name).bucket.rate) is not None]
        return min(rates, default=None)

    @contextmanager
    def share(self, ways: Mapping[str, Sequence[str]]) -> Iterator[Mapping[str, float | None]]:
        """While it lasts, one more call is under way on the links of these ways, as far as they are different ones.

        Gives what may come on each way, in bytes a second, so that together they do not exceed the call's part of any link, or None
        where there is no limit. Whatever comes has to be taken as well.
        """
        with self._changed:
            links = {name: self._sharing.link(name) for names in ways.values() for name in names}
            for link in links.values():
                link.calls += 1
            parts = {name: part for name, link in links.items() if (part := link.part()) is not None}
        try:
            yield _fitted(ways, parts)
        finally:
            with self._changed:
                for link in links.values():
                    link.calls -= 1

    def rates(self) -> dict[str, tuple[float | None, float]]:
        """Of every link its limit, and what flowed in the last second, in bytes a second."""
        with self._changed:
            return {name: (link.bucket.rate, link.flow()) for name, link in self._sharing.links().items()}

    def _take(self, names: Sequence[str], n: int, priority: Priority, cancelled: Callable[[], bool]) -> bool:
        """Whether they may flow; False when it was cancelled."""
        with self._changed:
            want = self._sharing.want(names, n, priority)
        try:
            while True:
                with self._changed:
                    granted, left = self._sharing.grant()
                    if granted > want.granted:  # others than this one
                        self._changed.notify_all()
                    if not want.granted:
                        self._changed.wait(max(_SHORTEST, left))
                    if want.granted:
                        return True
                if cancelled():
                    return False
        finally:
            with self._changed:
                self._sharing.give_up(want)


def _fitted(ways: Mapping[str, Sequence[str]], parts: Mapping[str, float]) -> dict[str, float | None]:
    """What each way bears, made less where several ways lead over a link that does not bear them all."""
    fitted = {way: min((parts[name] for name in names if name in parts), default=None) for way, names in ways.items()}
    for link, part in parts.items():
        over = sum(share for way, share in fitted.items() if share is not None and link in ways[way]) / part
        if over > 1:
            fitted |= {way: share / over for way, share in fitted.items() if share is not None and link in ways[way]}
    return fitted


def _urgency(want: Want) -> tuple[float, Priority]:
    """What has had the least for its weight is first."""
    return max((link.ahead(want.priority) for link in want.links), default=0.0), want.priority
