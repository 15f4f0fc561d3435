"""What agents told so far, kept between questions: an inventory too long for one answer is told in several.

Sources are made anew for every cycle while the process stays; so it is the process that remembers. A source asks and judges, here
is only kept.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from ringrift_dagster.manifest.inventory import Cursor
from ringrift_dagster.manifest.sources.page import Collected, Page

KEPT_SECONDS = 300.0
"""What nobody goes on with for so long is forgotten."""
MAX_KEPT_ENTRIES = 1_000_000
"""Of all that is kept, about a gigabyte. Beyond that the shortest go, and never the longest: it is the first to come to its end."""

Key = tuple[str, ...]


@dataclass
class Telling:
    """What came in answer to one question, asked with the cursor `since`; the next page begins at `cursor`."""

    since: Cursor | None
    cursor: Cursor | None
    pages: int = 0
    collected: Collected = field(default_factory=Collected)
    kept_at: float = 0.0

    def add(self, page: Page) -> None:
        """The next page. One of another epoch begins anew: what was told before it belongs to a memory that is no more."""
        if self.cursor is not None and page.epoch != self.cursor.epoch:
            self.collected = Collected()
        self.collected.add(page)
        self.cursor = Cursor(page.epoch, page.cursor)
        self.pages += 1


class Tellings:
    """Those that are under way, by who tells. Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[Key, Telling] = {}

    def take(self, key: Key, since: Cursor | None) -> Telling:
        """What was told so far in answer to this very question, or the beginning of a new one. It is the caller's alone."""
        with self._lock:
            self._forget()
            kept = self._kept.pop(key, None)
        return kept if kept is not None and kept.since == since else Telling(since, since)

    def keep(self, key: Key, telling: Telling) -> None:
        """Have the next question go on from here, unless another has come further."""
        if not telling.pages:
            return
        with self._lock:
            self._forget()
            other = self._kept.get(key)
            if other is not None and other.since == telling.since and _length(other) > _length(telling):
                return
            telling.kept_at = time.monotonic()
            self._kept[key] = telling
            too_many = sum(map(_length, self._kept.values())) - MAX_KEPT_ENTRIES
            for each in sorted(self._kept, key=lambda each: _length(self._kept[each]))[:-1]:
                if too_many > 0:
                    too_many -= _length(self._kept.pop(each))

    def _forget(self) -> None:
        oldest = time.monotonic() - KEPT_SECONDS
        self._kept = {key: telling for key, telling in self._kept.items() if telling.kept_at >= oldest}


def _length(telling: Telling) -> int:
    return telling.collected.entries
