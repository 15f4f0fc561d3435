"""A shared file system: one location that several hosts see. One of them is asked, the next only if it gives no answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from ringrift_dagster.manifest.inventory import CONTACT_CODES, Cursor, Inventory, NoAnswer, Scrubbed, Source

T = TypeVar("T")


class SharedSource:
    """Implements `inventory.Source` over the hosts that mount a shared file system, in the order given."""

    def __init__(self, location: str, mounts: Sequence[Source]) -> None:
        self._location = location
        self._mounts = list(mounts)

    @property
    def location(self) -> str:
        return self._location

    def read(self, since: Cursor | None, timeout: float) -> Inventory:
        return self._first(lambda source, seconds: source.read(since, seconds), timeout)

    def scrub(self, max_bytes: int, timeout: float) -> Scrubbed:
        return self._first(lambda source, seconds: source.scrub(max_bytes, seconds), timeout)

    def _first(self, ask: Callable[[Source, float], T], timeout: float) -> T:
        """The first answer; each host has an equal share of the time that is left. Whoever answered is asked first next time."""
        deadline = time.monotonic() + timeout
        silences: list[tuple[Source, NoAnswer]] = []
        for number, source in enumerate(list(self._mounts)):
            share = (deadline - time.monotonic()) / (len(self._mounts) - number)
            try:
                answer = ask(source, max(share, 0.05))
            except NoAnswer as silence:
                if silence.code in CONTACT_CODES:
                    # The next host would have to begin anew.
                    raise NoAnswer(self._location, silence.code, silence.detail) from None
                silences.append((source, silence))
                continue
            self._mounts.remove(source)
            self._mounts.insert(0, source)
            return answer
        raise self._why(silences)

    def _why(self, silences: Sequence[tuple[Source, NoAnswer]]) -> NoAnswer:
        """It is not mounted only if every host says so: one that is silent may have it."""
        if not silences:
            return NoAnswer(self._location, "not_found", "no host of the hosts file mounts it")
        unmounted = [(source, silence) for source, silence in silences if silence.code == "not_mounted"]
        first = next((silence for _, silence in silences if silence.code != "not_mounted"), silences[0][1])
        told = [f"{_host(source)} does not mount it: {silence.detail}" for source, silence in unmounted if silence is not first]
        return NoAnswer(self._location, first.code, "; ".join([first.detail, *told]))


def _host(source: Source) -> str:
    """Who was asked, as far as the source knows."""
    return getattr(source, "host", None) or "a host"
