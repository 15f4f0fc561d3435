"""When the newest canonical game of each config was played.

The time of an export or of a copy is no evidence and not looked at. Whether a game is young enough is `manifest.staleness`'
business.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa

from ringrift_dagster.datasets.canonical_games import CorruptStore, summarise
from ringrift_dagster.games.config import CONFIG_KEYS
from ringrift_dagster.home import Home


@dataclass(frozen=True)
class CanonicalAge:
    """What the canonical games of one config tell; nothing if their store is `damaged`."""

    config: str
    games: int
    newest_game: datetime | None
    damaged: bool = False


def newest_games(home: Home) -> Iterator[CanonicalAge]:
    """Each of the twelve configs."""
    for config in CONFIG_KEYS:
        try:
            store = summarise(config, home)
            yield CanonicalAge(config, store.games, recorded_time(store.newest_game))
        except (CorruptStore, OSError, ValueError, pa.ArrowException):
            yield CanonicalAge(config, 0, None, damaged=True)


def recorded_time(text: str | None) -> datetime | None:
    """A time as games record it; RingRift writes UTC without saying so."""
    if not text:
        return None
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)
