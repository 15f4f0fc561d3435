"""One verdict on the data plane: what is good, what is bad, what is not known, and what to do about each. Reading only.

Every figure comes from the manifest's database and this machine as they are now; what they mean their own modules know.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from ringrift_dagster.cluster.backpressure import Assessment, Level, Reading
from ringrift_dagster.cluster.topology import Cluster
from ringrift_dagster.home import Home
from ringrift_dagster.manifest.freshness import host_freshness
from ringrift_dagster.manifest.locations import Location, all_locations
from ringrift_dagster.manifest.overrides import Override, standing
from ringrift_dagster.manifest.report import orphans_by_kind, untracked_by_reason
from ringrift_dagster.manifest.schema import operations, state
from ringrift_dagster.manifest.staleness import of_canonical_games
from ringrift_dagster.manifest.states import Liveness
from ringrift_dagster.manifest.store import Store
from ringrift_dagster.transfer import deferral
from ringrift_dagster.transfer.breakers import BreakerState, all_breakers
from ringrift_dagster.transfer.model import Priority
from ringrift_dagster.transfer.operations import State, in_state
from ringrift_dagster.transfer.pressure import measure
from ringrift_dagster.transfer.queue import NEXT_ACTIONS

MANIFEST_SECONDS = 300.0
"""A manifest that was refreshed longer ago tells how things were, not how they are."""
LONGEST_WAIT = {
    Priority.CRITICAL: 120.0,
    Priority.HIGH: 300.0,
    Priority.NORMAL: 3600.0,
    Priority.LOW: 2 * 86_400.0,
    Priority.COLD_STORAGE: 2 * 86_400.0,
}
"""Seconds after which a class has waited too long."""
DAY = 86_400.0
SHOWN = 3
"""Names in a line; the rest is counted."""


class Verdict(StrEnum):
    """On one aspect."""

    GOOD = "good"
    BAD = "bad"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Line:
    """One aspect: what was found in a few words, what to do if it is not good, and all of it in `detail`."""

    what: str
    verdict: Verdict
    told: str
    action: str | None = None
    detail: dict[str, Any] = field(default_factory=dict)


def health(store: Store, cluster: Cluster, home: Home, *, at: float) -> list[Line]:
    """Every aspect, in the order in which one would look: what is not known first, as nothing below it may be believed."""
    places = [place for place in all_locations(store) if place.active]
    return [
        _manifest(store, at),
        _locations(places),
        _brakes(places),
        _orphans(store),
        _untracked(store),
        _queue(store, at),
        _failures(store, at),
        _breakers(store, at),
        _backpressure(store, measure(store, cluster.thresholds, at=at), at),
        *_freshness(store, cluster, home, at),
    ]


def _manifest(store: Store, at: float) -> Line:
    with store.reading() as connection:
        refreshed = connection.execute(sa.select(state.c.refreshed_at)).scalar_one()
    action, detail = "`ringrift-data manifest refresh`, or start Dagster's daemon", {"refreshed_at": refreshed}
    if refreshed is None:
        return Line("manifest", Verdict.UNKNOWN, "nobody has refreshed it yet", action, detail)
    if at - refreshed > MANIFEST_SECONDS:
        return Line("manifest", Verdict.UNKNOWN, f"refreshed {_span(at - refreshed)} ago: what follows is as old", action, detail)
    return Line("manifest", Verdict.GOOD, f"refreshed {_span(at - refreshed)} ago", None, detail)


def _locations(places: Sequence[Location]) -> Line:
    away = [place for place in places if place.liveness in (Liveness.OFFLINE, Liveness.UNAVAILABLE)]
    unasked = [place for place in places if place.liveness == Liveness.UNKNOWN]
    detail = {"locations": {place.name: place.liveness for place in places}}
    if away:
        said = _some([f"{place.name} is {place.liveness}" for place in away])
        return Line("locations", Verdict.BAD, said, "`ringrift-data manifest locations` says why", detail)
    if unasked:
        said = f"{_some([place.name for place in unasked])} not asked yet"
        return Line("locations", Verdict.UNKNOWN, said, "`ringrift-data manifest refresh`", detail)
    return Line("locations", Verdict.GOOD, f"all {len(places)} answer", None, detail)


def _brakes(places: Sequence[Location]) -> Line:
    held = {place.name: place.held for place in places if place.held}
    if not held:
        return Line("brakes", Verdict.GOOD, "none holds anything", None, {"held": held})
    said = f"so much is missing at once that {_some([f'{name} ({count} copies)' for name, count in held.items()])} is held"
    action = "look there; `ringrift-data manifest accept LOCATION` if it is lost"
    return Line("brakes", Verdict.BAD, said, action, {"held": held})


def _orphans(store: Store) -> Line:
    found = {kind.value: count for kind, count in orphans_by_kind(store).items() if count}
    if not found:
        return Line("orphans", Verdict.GOOD, "every item can be reached", None, found)
    said = ", ".join(f"{count} {kind}" for kind, count in found.items())
    return Line("orphans", Verdict.BAD, said, "`ringrift-data orphans` says what brings them back", found)


def _untracked(store: Store) -> Line:
    """Good in any case: RingRift's trees are full of files that are no items. Only how many matters, and why."""
    by_reason: dict[str, int] = {}
    for row in untracked_by_reason(store):
        by_reason[row.reason] = by_reason.get(row.reason, 0) + row.files
    said = ", ".join(f"{count} {reason}" for reason, count in by_reason.items()) or "every file is an item"
    action = "`ringrift-data manifest untracked` lists them" if by_reason else None
    return Line("untracked", Verdict.GOOD, said, action, by_reason)


def _queue(store: Store, at: float) -> Line:
    query = sa.select(operations.c.priority, sa.func.count(), sa.func.min(operations.c.submitted_at)).where(
        sa.or_(in_state(State.QUEUED), in_state(State.WAITING))
    )
    with store.reading() as connection:
        rows = connection.execute(query.group_by(operations.c.priority).order_by(operations.c.priority)).all()
    waiting = [(Priority(row[0]), row[1], at - row[2]) for row in rows]
    detail = {priority.name: {"waiting": count, "oldest_seconds": age} for priority, count, age in waiting}
    late = [priority.name for priority, _, age in waiting if age > LONGEST_WAIT[priority]]
    said = "; ".join(f"{count} {priority.name}, the oldest for {_span(age)}" for priority, count, age in waiting)
    if late:
        action = f"{', '.join(late)} for too long: `ringrift-data queue list` says what each waits for"
        return Line("queue", Verdict.BAD, said, action, detail)
    return Line("queue", Verdict.GOOD, said or "nothing waits", None, detail)


def _failures(store: Store, at: float) -> Line:
    """Of the last day, but for those that were done since."""
    later = operations.alias("later")
    made_up = (
        sa.select(sa.literal(1))
        .where(
            later.c.sha256 == operations.c.sha256, later.c.target == operations.c.target,
            later.c.state == State.DONE.value, later.c.finished_at >= operations.c.finished_at,
        )
        .exists()
    )  # fmt: skip
    query = (
        sa.select(operations.c.cause, sa.func.count())
        .where(operations.c.finished_at > at - DAY, in_state(State.FAILED), ~made_up)
        .group_by(operations.c.cause)
        .order_by(sa.func.count().desc(), operations.c.cause)
    )
    with store.reading() as connection:
        found = {row[0] or "unknown": row[1] for row in connection.execute(query)}
    if not found:
        return Line("failures", Verdict.GOOD, "none in the last day that was not made up for", None, found)
    said = "in the last day " + ", ".join(f"{count} {cause}" for cause, count in found.items())
    worst = next(iter(found))
    return Line("failures", Verdict.BAD, said, f"{NEXT_ACTIONS.get(worst, 'look at them')}; `ringrift-data queue list`", found)


def _breakers(store: Store, at: float) -> Line:
    shut = [breaker for breaker in all_breakers(store) if breaker.state != BreakerState.CLOSED]
    detail = {f"{breaker.location} {breaker.transport}": asdict(breaker) for breaker in shut}
    if not shut:
        return Line("breakers", Verdict.GOOD, "all are closed", None, detail)
    said = _some([f"{breaker.location} by {breaker.transport} ({breaker.code})" for breaker in shut])
    again = min(max((breaker.retry_at or at) - at, 0.0) for breaker in shut)
    return Line("breakers", Verdict.BAD, f"open: {said}", f"look there; one is tried again in {_span(again)}", detail)


def _backpressure(store: Store, told: Assessment, at: float) -> Line:
    """What is measured now, and what stands."""
    now = deferral.standing(store, at)
    detail = {
        "active": now.active,
        "since": now.changed_at if now.active else None,
        "claims": [asdict(claim) for claim in now.claims],
        "level": told.level.value,
        "overall": told.overall,
        "readings": [asdict(reading) | {"pressure": reading.pressure} for reading in told.readings],
    }
    if now.active:
        said = "LOW and COLD_STORAGE wait: " + _some([f"{claim.source} says {claim.reason}" for claim in now.claims])
        return Line("backpressure", Verdict.BAD, said, "relieve what is named; it releases by itself", detail)
    if told.level == Level.HIGH:
        return Line("backpressure", Verdict.BAD, f"high: {_reading(told.worst)}", "relieve it, or more work will wait", detail)
    if told.level == Level.UNKNOWN:
        said = "nobody knows " + _some([reading.unknown or reading.name for reading in told.unknown])
        return Line("backpressure", Verdict.UNKNOWN, said, "make that known: refresh, or look at the host", detail)
    return Line("backpressure", Verdict.GOOD, f"{told.level}: the most is {_reading(told.worst)}", None, detail)


def _freshness(store: Store, cluster: Cluster, home: Home, at: float) -> Iterator[Line]:
    limits, excused = cluster.freshness, standing(store, at)
    games = [each for each in of_canonical_games(home, limits, at, excused) if each[2].state != "no data"]
    states = {config: {"state": verdict.state, "age": verdict.age, "reason": verdict.reason} for config, _, verdict in games}
    bad = [f"{config} is {verdict.state}" for config, _, verdict in games if not verdict.may_train]
    action = "`ringrift-data freshness` says how old; self-play for it has stopped, or its databases do not arrive"
    if not games:
        yield Line("canonical games", Verdict.UNKNOWN, "there are none here", "`ringrift-data verify`, or run the pipeline", states)
    elif bad:
        yield Line("canonical games", Verdict.BAD, _some(bad), action, states)
    else:
        aging = sum(verdict.state == "aging" for _, _, verdict in games)
        late = f", {aging} of them aging" if aging else ""
        yield Line("canonical games", Verdict.GOOD, f"{len(games)} configs keep the limit or are excused{late}", None, states)
    yield _training_sets(store, cluster, at)
    yield _overrides(excused)


def _training_sets(store: Store, cluster: Cluster, at: float) -> Line:
    rows = host_freshness(store, at, limits=cluster.freshness)
    held = {row.config for row in rows if row.training_sets}
    wanted = [row for row in rows if row.config in held]
    bad = [row for row in wanted if not row.may_train]
    detail = {"stale": [{"host": row.location, "config": row.config, "reason": row.reason, "why": row.why} for row in bad]}
    action = "`ringrift-data freshness` says which, and why"
    if not rows:
        return Line("training sets", Verdict.GOOD, "there are no hosts", None, detail)
    if not held:
        return Line("training sets", Verdict.BAD, "no host has one", action, detail)
    if bad:
        named = _some([f"{row.location} {row.config}: {row.why}" for row in bad], 1)
        return Line("training sets", Verdict.BAD, f"{len(bad)} of {len(wanted)} on hosts are stale: {named}", action, detail)
    return Line("training sets", Verdict.GOOD, f"{len(wanted)} on hosts keep the limit or are excused", None, detail)


def _overrides(excused: dict[str, Override]) -> Line:
    """Nothing is wrong with one, but nobody may overlook it."""
    detail = {config: asdict(override) for config, override in excused.items()}
    if not excused:
        return Line("overrides", Verdict.GOOD, "nobody overrides the age limit", None, detail)
    said = _some(
        [f"{each.config} by {each.who} until {_when(each.until)} UTC: {each.why}" for each in excused.values()], len(excused)
    )
    return Line("overrides", Verdict.GOOD, said, "they end by themselves; newer games make them needless", detail)


def _some(names: Sequence[str], shown: int = SHOWN) -> str:
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def _reading(reading: Reading | None) -> str:
    if reading is None or reading.value is None:
        return "nothing"
    return f"{reading.name}, {reading.value:.0f} {reading.unit} ({reading.pressure or 0.0:.0%} of what is bearable)"


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M")


def _span(seconds: float) -> str:
    for size, unit in ((DAY, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{max(seconds, 0.0):.0f} s"
