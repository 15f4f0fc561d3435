"""How old the newest canonical game of each config is.

The time of an export or of a copy is no evidence and not looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pyarrow as pa

from ringrift_dagster.datasets.canonical_games import CorruptStore, summarise
from ringrift_dagster.games.config import CONFIG_KEYS
from ringrift_dagster.home import Home

STATES = ("fresh", "aging", "stale", "no data", "damaged")
"""Younger than the warning age; older; older than the failing age; no canonical game; a store that cannot be read."""


@dataclass(frozen=True)
class Freshness:
    """The state of one config, one of STATES."""

    config: str
    games: int
    newest_game: datetime | None
    age: timedelta | None
    state: str


def freshness(home: Home, now: datetime, *, warn: timedelta, fail: timedelta) -> Iterator[Freshness]:
    """The state of each of the twelve configs at `now` (an aware time)."""
    for config in CONFIG_KEYS:
        try:
            store = summarise(config, home)
        except (CorruptStore, OSError, pa.ArrowException):
            yield Freshness(config, 0, None, None, "damaged")
            continue
        newest = recorded_time(store.newest_game)
        age = now - newest if newest else None
        yield Freshness(config, store.games, newest, age, _state(age, warn, fail))


def recorded_time(text: str | None) -> datetime | None:
    """A time as games record it; RingRift writes UTC without saying so."""
    if not text:
        return None
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _state(age: timedelta | None, warn: timedelta, fail: timedelta) -> str:
    if age is None:
        return "no data"
    if age > fail:
        return "stale"
    return "aging" if age > warn else "fresh"
