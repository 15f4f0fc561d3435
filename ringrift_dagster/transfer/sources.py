"""What is known of each source while an item is fetched: what it brought, how it failed, and whether to ask it again.

Kept for one fetch only; what outlives it are the outcomes, which the coordinator's breakers are told.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ringrift_dagster.transfer.model import Offer, OfferOutcome

STRIKES = 2
"""So many wrong chunks, and a source is not asked again."""
TRIES = 3
"""In a row, before a source is left for good by its stage."""
BACK_OFF_SECONDS = (0.2, 2.0)
"""Before the second try, doubled with each, and at most."""
FINAL_FAILURES = frozenset({"unauthorized", "not_found", "changed", "not_installed"})
"""Trying again changes nothing."""
SLOW, SLOW_SHARE = 256e3, 0.1
"""Bytes a second that make another source worth a try, and the share of another's speed that makes it the better one."""
_SMOOTHING = 0.3


@dataclass(eq=False)
class Source:
    """An offer, and how it does. `busy`: requests under way; `speed` of one of them in bytes a second; times are monotonic."""

    offer: Offer
    rank: int
    bytes: int = 0
    seconds: float = 0.0
    failures: int = 0
    wrong_chunks: int = 0
    right_chunks: int = 0
    failure: str | None = None
    detail: str = ""
    busy: int = 0
    speed: float | None = None
    ready_at: float = 0.0
    left: bool = False
    _in_a_row: int = 0
    _busy_since: float = 0.0

    @property
    def benched(self) -> bool:
        """It lied too often."""
        return self.wrong_chunks >= STRIKES

    @property
    def usable(self) -> bool:
        """It may be asked, now or after a rest."""
        return not self.benched and not self.left

    def begin(self, now: float) -> None:
        """A request to it begins."""
        if self.busy == 0:
            self._busy_since = now
        self.busy += 1

    def end(self, now: float, n: int, seconds: float) -> None:
        """A request has ended that brought `n` bytes in `seconds`, waiting for our own limits not counted."""
        self.busy -= 1
        self.bytes += n
        if self.busy == 0:
            self.seconds += now - self._busy_since
        if n and seconds > 0:
            self.speed = n / seconds if self.speed is None else self.speed + _SMOOTHING * (n / seconds - self.speed)

    def fail(self, now: float, code: str, detail: str, *, moved: bool) -> None:
        """A request failed; `moved`: after it had brought something that stays."""
        self.failures += 1
        self.failure, self.detail = code, detail
        self._in_a_row = 0 if moved else self._in_a_row + 1
        self.ready_at = now if moved else now + min(BACK_OFF_SECONDS[0] * 2 ** (self._in_a_row - 1), BACK_OFF_SECONDS[1])
        self.left = self.left or code in FINAL_FAILURES or self._in_a_row >= TRIES
        if not moved and self.speed is not None:
            self.speed /= 2

    def good(self) -> None:
        """It brought a right chunk."""
        self.right_chunks += 1
        self._in_a_row = 0

    def again(self) -> None:
        """Another round begins: what failed in the last may do now."""
        self.left = self.failure in FINAL_FAILURES
        self._in_a_row, self.ready_at = 0, 0.0

    def outcome(self) -> OfferOutcome:
        """What it was good for."""
        return OfferOutcome(
            location=self.offer.location,
            transport=self.offer.transport,
            bytes=self.bytes,
            seconds=self.seconds,
            failures=self.failures,
            wrong_chunks=self.wrong_chunks,
            failure=self.failure,
        )


def best(candidates: Iterable[Source]) -> Source | None:
    """Which to ask next: the one from which most is to be expected, considering what it is doing already. Those of which nothing
    is known yet go first, by rank."""
    return min(candidates, key=_preference, default=None)


def is_too_slow(source: Source, speed: float, others: Iterable[Source]) -> bool:
    """Whether so many bytes a second are little compared with what another brings, or may bring."""
    for other in others:
        if other is source or not other.usable:
            continue
        if speed < (SLOW if other.speed is None else SLOW_SHARE * other.speed):
            return True
    return False


def _preference(source: Source) -> tuple[bool, float, int]:
    if source.speed is None:
        return source.busy > 0, source.busy, source.rank
    return True, -source.speed / (1 + source.busy), source.rank


def cause_of_failure(sources: Iterable[Source]) -> str:
    """Why all of them together could not bring an item."""
    asked = [source for source in sources if source.failures or source.wrong_chunks]
    liars = [source for source in asked if source.wrong_chunks]
    if liars and all(source.wrong_chunks or not source.right_chunks for source in asked):
        return "wrong_bytes"
    return "timeout" if asked and all(source.failure == "timeout" for source in asked) else "no_source"


def told(sources: Iterable[Source]) -> str:
    """One line: what each of them failed with."""
    words: list[str] = []
    for source in sources:
        what = f"{source.wrong_chunks} wrong chunks" if source.wrong_chunks else source.failure or "nothing"
        words.append(f"{source.offer.location} by {source.offer.transport}: {what} {source.detail}".strip())
    return "; ".join(words)[:1000]
