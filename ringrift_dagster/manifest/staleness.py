"""The staleness gate: whether the newest *game* of what would be trained on is young enough. The one place that judges ages.

The limit is `cluster.topology.AgeLimits`, and an exception from it an `overrides.Override`: there is nothing else to pass in. What
is not known is stale: no game, no time of a game, a time in the future, an item that nobody found sound, an unreadable limit.
An override excuses an age that is known, and never evidence or data that is missing, broken or out of reach.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import sqlalchemy as sa

from ringrift_dagster.cluster.topology import AgeLimits
from ringrift_dagster.datasets.freshness import newest_games
from ringrift_dagster.games.config import CONFIG_KEYS
from ringrift_dagster.home import Home
from ringrift_dagster.manifest.inventory import ItemType, Soundness
from ringrift_dagster.manifest.orphans import reachable
from ringrift_dagster.manifest.overrides import Override, in_force
from ringrift_dagster.manifest.schema import items
from ringrift_dagster.manifest.store import Store

FUTURE_SECONDS = 3600.0
"""A game this much younger than now comes from a wrong clock: its time is no evidence."""
STATES = ("fresh", "aging", "stale", "no data", "damaged")
"""Younger than the warning age; older; older than the failing age, or of unknown age; nothing there; it cannot be read."""


class Reason(StrEnum):
    """Why something is stale."""

    TOO_OLD = "too_old"
    NO_GAME_TIME = "no_game_time"
    FUTURE = "future"
    NO_LIMIT = "no_limit"
    NO_DATA = "no_data"
    UNSOUND = "unsound"
    DAMAGED = "damaged"
    UNREACHABLE = "unreachable"
    NOT_THE_REFERENCE = "not_the_reference"


_DETAILS = {
    Reason.NO_GAME_TIME: "nothing tells when its newest game was",
    Reason.FUTURE: "its newest game is in the future: a clock is wrong",
    Reason.NO_LIMIT: "the limit is not known: the hosts file cannot be used",
}


@dataclass(frozen=True)
class Staleness:
    """A verdict on an age. `newest_game` in seconds since 1970, `age` in seconds; both None where nothing tells.

    `reason` and `detail` say why it is stale, and are None if it is not. `override` is the exception that excuses it, if any: it is
    stale all the same.
    """

    newest_game: float | None = None
    age: float | None = None
    warned: bool = False
    reason: Reason | None = None
    detail: str | None = None
    override: Override | None = None

    @property
    def fresh(self) -> bool:
        return self.reason is None

    @property
    def may_train(self) -> bool:
        """Whether the gate lets it through."""
        return self.fresh or self.override is not None

    @property
    def state(self) -> str:
        """One of STATES."""
        if self.reason is None:
            return "aging" if self.warned else "fresh"
        return {Reason.NO_DATA: "no data", Reason.DAMAGED: "damaged"}.get(self.reason, "stale")


def judge(newest_game: float | None, limits: AgeLimits | None, now: float, override: Override | None = None) -> Staleness:
    """The verdict on data whose newest game was played then. Limits that nobody knows are kept by nothing."""
    age = None if newest_game is None else now - newest_game
    if age is None or math.isnan(age):
        return stale(Reason.NO_GAME_TIME)
    if age < -FUTURE_SECONDS:
        return stale(Reason.FUTURE, newest_game=newest_game)
    if limits is None:
        return stale(Reason.NO_LIMIT, newest_game=newest_game, age=age)
    if age > limits.fail.total_seconds():
        old = f"its newest game is {age / 3600:.1f} h old, more than {limits.fail_hours:g} h"
        excused = override is not None and override.granted_at <= now < override.until
        return Staleness(newest_game, age, False, Reason.TOO_OLD, old, override if excused else None)
    return Staleness(newest_game, age, warned=age > limits.warn.total_seconds())


def stale(reason: Reason, detail: str | None = None, *, newest_game: float | None = None, age: float | None = None) -> Staleness:
    """Stale for a reason that nobody can excuse."""
    return Staleness(newest_game, age, False, reason, detail or _DETAILS[reason])


class Reference(NamedTuple):
    """The training set that jobs of a config should use."""

    item_id: int
    sha256: bytes
    samples: int | None
    newest_game: float | None


def references(connection: sa.Connection, now: float) -> dict[str, Reference]:
    """For each config the sound training set with the newest game, the larger of two, that can be reached."""
    future = items.c.newest_game > now + FUTURE_SECONDS
    found: dict[str, Reference] = {}
    for config in CONFIG_KEYS:
        row = connection.execute(
            sa.select(items.c.id, items.c.sha256, items.c.samples, items.c.newest_game)
            .where(items.c.config == config, items.c.type == ItemType.NPZ, items.c.soundness == Soundness.SOUND)
            .where(items.c.newest_game.is_not(None), ~future, reachable(items.c.id))
            .order_by(items.c.newest_game.desc(), items.c.samples.desc().nulls_last(), items.c.id)
            .limit(1)
        ).one_or_none()
        if row is not None:
            found[config] = Reference(*row)
    return found


def of_config(store: Store, config: str, limits: AgeLimits | None, now: float) -> Staleness:
    """The verdict on the training set that jobs of a config should use, wherever it lies."""
    with store.reading() as connection:
        best = references(connection, now).get(config)
        if best is None:
            return stale(Reason.NO_DATA, "no sound training set that tells its age can be reached")
        return judge(best.newest_game, limits, now, in_force(connection, now).get(config))


def of_item(store: Store, sha256: str, limits: AgeLimits | None, now: float) -> Staleness:
    """The verdict on one item: known, sound, with a copy that can be read, and then its age."""
    columns = (items.c.config, items.c.soundness, items.c.reason, items.c.newest_game, reachable(items.c.id))
    with store.reading() as connection:
        row = connection.execute(sa.select(*columns).where(items.c.sha256 == bytes.fromhex(sha256))).one_or_none()
        if row is None:
            return stale(Reason.NO_DATA, "the manifest has no such item")
        config, soundness, why, newest, can_be_read = row
        if soundness != Soundness.SOUND:
            return stale(Reason.UNSOUND, why or "nobody has found it sound", newest_game=newest)
        if not can_be_read:
            return stale(Reason.UNREACHABLE, "no copy of it can be read now", newest_game=newest)
        return judge(newest, limits, now, in_force(connection, now).get(config))


def of_canonical_games(
    home: Home, limits: AgeLimits | None, now: float, overrides: Mapping[str, Override] | None = None
) -> Iterator[tuple[str, int, Staleness]]:
    """For each config how many canonical games this home has, and the verdict on them. `overrides` are those in force."""
    for found in newest_games(home):
        if found.damaged:
            verdict = stale(Reason.DAMAGED, "the store of canonical games cannot be read")
        elif not found.games:
            verdict = stale(Reason.NO_DATA, "there is no canonical game")
        else:
            newest = found.newest_game.timestamp() if found.newest_game else None
            verdict = judge(newest, limits, now, (overrides or {}).get(found.config))
        yield found.config, found.games, verdict
