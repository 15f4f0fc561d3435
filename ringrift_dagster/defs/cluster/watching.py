"""Ticks of several sensors that wait for the same: one of them always waits, and one at a time reacts. Nothing of Dagster here."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Watchers:
    """Those who wait now. `turn` is for whoever reacts."""

    def __init__(self) -> None:
        self.turn = threading.Lock()
        self._door = threading.Lock()
        self._waiting: set[Watcher] = set()

    @contextmanager
    def another(self, usual: float, longest: float) -> Iterator["Watcher"]:
        """One more, for the block. It may leave after `usual` seconds, and after `longest` whoever else is there."""
        watcher = Watcher(self, usual, longest)
        with self._door:
            self._waiting.add(watcher)
        try:
            yield watcher
        finally:
            with self._door:
                self._waiting.discard(watcher)

    def leaves(self, watcher: "Watcher", in_any_case: bool) -> bool:
        """Whether it goes now: of several, one at a time."""
        with self._door:
            if len(self._waiting) > 1 or in_any_case:
                self._waiting.discard(watcher)
            return watcher not in self._waiting


class Watcher:
    """One who waits."""

    def __init__(self, watchers: Watchers, usual: float, longest: float) -> None:
        self._watchers = watchers
        self._usual = time.monotonic() + usual
        self.deadline = time.monotonic() + longest

    def may_leave(self, *, has_news: bool) -> bool:
        """Whether it is time to go: with news as soon as another waits."""
        now = time.monotonic()
        return (has_news or now >= self._usual) and self._watchers.leaves(self, now >= self.deadline)
