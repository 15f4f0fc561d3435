"""When less urgent work has to wait: from readings to a pressure, from pressures over time to a decision. Nothing is measured here.

The whole is as bad as its worst part: a full disk is not made up for by idle memory. What is not known is never taken for healthy:
one unknown reading makes the level UNKNOWN, unless what is known is bad enough by itself. Two edges and a dwell keep the decision
from oscillating.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

ACTIVATES_AT = 0.7
RELEASES_AT = 0.5
"""Pressures. Between them everything stays as it is."""
DWELL_SECONDS = 120.0
"""So long a decision stands at least."""


class Level(StrEnum):
    """How things are."""

    HEALTHY = "healthy"
    RAISED = "raised"
    """Between the edges."""
    HIGH = "high"
    UNKNOWN = "unknown"
    """Something is not known, and the rest is not high."""


@dataclass(frozen=True)
class Reading:
    """One input. `value` runs from `low` (no pressure) to `high` (pressure 1), in `unit`.

    `unknown` says what could not be measured, and is None if all was. The value is then what it is at least, or None.
    """

    name: str
    value: float | None
    low: float
    high: float
    unit: str
    detail: str = ""
    unknown: str | None = None

    @property
    def known(self) -> bool:
        return self.unknown is None and self.value is not None and not math.isnan(self.value)

    @property
    def pressure(self) -> float | None:
        """From 0 to 1; None if nothing is known. At least that, if something is not known."""
        if self.value is None or math.isnan(self.value):
            return None
        if self.high <= self.low or math.isinf(self.value):
            return 1.0 if self.value >= self.high else 0.0
        return min(max((self.value - self.low) / (self.high - self.low), 0.0), 1.0)


@dataclass(frozen=True)
class Assessment:
    """What readings amount to. `overall` is the worst pressure: at least that, if something is not known."""

    readings: tuple[Reading, ...]
    overall: float | None
    level: Level

    @property
    def unknown(self) -> tuple[Reading, ...]:
        return tuple(reading for reading in self.readings if not reading.known)

    @property
    def worst(self) -> Reading | None:
        """Of those that are known, at least in part."""
        told = [reading for reading in self.readings if reading.pressure is not None]
        return max(told, key=lambda reading: reading.pressure or 0.0, default=None)


@dataclass(frozen=True)
class Stance:
    """Whether pressure is held to be high, and since when; None: it never changed."""

    active: bool = False
    changed_at: float | None = None


def assess(readings: Iterable[Reading]) -> Assessment:
    """What readings amount to; no reading at all is unknown."""
    told = tuple(readings)
    pressures = [reading.pressure for reading in told if reading.pressure is not None]
    overall = max(pressures, default=None)
    certain = bool(told) and all(reading.known for reading in told)
    if overall is not None and overall >= ACTIVATES_AT:
        level = Level.HIGH
    elif not certain or overall is None:
        level = Level.UNKNOWN
    else:
        level = Level.HEALTHY if overall <= RELEASES_AT else Level.RAISED
    return Assessment(told, overall, level)


def decide(before: Stance, level: Level, now: float) -> Stance:
    """HIGH activates, HEALTHY releases, everything else leaves it; nothing changes twice within the dwell."""
    wanted = {Level.HIGH: True, Level.HEALTHY: False}.get(level, before.active)
    return turned(before, wanted, now)


def turned(before: Stance, active: bool, now: float) -> Stance:
    """The stance as it is wanted, as soon as the dwell allows it. A change that lies in the future is no reason to wait for it."""
    if active == before.active or (before.changed_at is not None and abs(now - before.changed_at) < DWELL_SECONDS):
        return before
    return Stance(active, now)
