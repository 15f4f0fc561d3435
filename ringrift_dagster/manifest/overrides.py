"""Exceptions from the age limit: a person lets a config train on games that are too old. The only way past the gate.

Each has who, why and until when, and a note in the manifest's changes. A row is never changed: there is no renewing it, and going
on takes another one, with its own reasons. What an exception makes of an age is `staleness`' business.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import sqlalchemy as sa

from ringrift_dagster.games.config import CONFIG_KEYS
from ringrift_dagster.manifest.schema import LONGEST_OVERRIDE, overrides
from ringrift_dagster.manifest.store import Store

HOUR = 3600.0
_CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]+")


class OverrideRefused(ValueError):
    """No exception is made; the message is a line that says why."""


@dataclass(frozen=True)
class Override:
    """One exception. Times in seconds since 1970."""

    id: int
    config: str
    who: str
    why: str
    granted_at: float
    until: float


_COLUMNS = [overrides.c[name] for name in Override.__dataclass_fields__]


def grant(store: Store, config: str, *, who: str, why: str, hours: float, at: float) -> Override:
    """Let a config train on games that are too old from `at` on, for so many hours. Raises OverrideRefused."""
    who, why = (" ".join(_CONTROL.sub(" ", text).split()) for text in (who, why))
    if config not in CONFIG_KEYS:
        raise OverrideRefused(f"{config!r} is no config; there are {', '.join(CONFIG_KEYS)}")
    for name, text, longest in (("who grants it", who, 100), ("why", why, 500)):
        if not 0 < len(text) <= longest:
            raise OverrideRefused(f"an override must say {name}, in at most {longest} characters")
    if not (math.isfinite(hours) and 0 < hours * HOUR <= LONGEST_OVERRIDE):
        raise OverrideRefused(f"an override lasts more than 0 and at most {LONGEST_OVERRIDE / HOUR:g} hours, not {hours:g}")
    values = {"config": config, "who": who, "why": why, "granted_at": at, "until": at + hours * HOUR}
    with store.writing() as writer:
        number = writer.connection.execute(sa.insert(overrides).values(values).returning(overrides.c.id)).scalar_one()
        writer.note(at, "STALENESS_OVERRIDDEN", None, override=number, config=config, who=who, why=why, until=values["until"])
    return Override(number, **values)


def in_force(connection: sa.Connection, now: float) -> dict[str, Override]:
    """The override of each config that has one now; of several, the one that lasts longest."""
    query = sa.select(*_COLUMNS).where(overrides.c.until > now, overrides.c.granted_at <= now).order_by(overrides.c.until)
    return {row.config: Override(*row) for row in connection.execute(query)}


def listed(store: Store, *, limit: int = 100) -> list[Override]:
    """Every override there ever was, the latest first."""
    with store.reading() as connection:
        query = sa.select(*_COLUMNS).order_by(overrides.c.granted_at.desc(), overrides.c.id.desc()).limit(limit)
        return [Override(*row) for row in connection.execute(query)]


def standing(store: Store, now: float) -> dict[str, Override]:
    """As `in_force`, of a store."""
    with store.reading() as connection:
        return in_force(connection, now)
