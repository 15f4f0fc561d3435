"""Who says that less urgent work has to wait, until when, and whether it does: backpressure as the coordinator remembers it.

Each source has a claim that expires by itself: this coordinator's own measurement, and hosts that announced theirs. While one claim
stands, LOW and COLD_STORAGE are deferred: nothing else ever is, for slowing down what training waits for makes everything worse.
What waited for a day goes on in any case. Every beginning and every end is a note in the manifest's changes, and nothing between.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ringrift_dagster.cluster.backpressure import DWELL_SECONDS, Assessment, Level, Stance, decide, turned
from ringrift_dagster.cluster.topology import Thresholds
from ringrift_dagster.manifest.schema import backpressure, backpressure_sources
from ringrift_dagster.manifest.store import Store, Writer, upsert
from ringrift_dagster.transfer import turns
from ringrift_dagster.transfer.model import Priority
from ringrift_dagster.transfer.pressure import measure

DEFERRED = frozenset({Priority.LOW, Priority.COLD_STORAGE})
OWN = "measured"
OWN_SECONDS = 900.0
"""What was measured counts for so long: if nobody measures any more, or nothing can be told, the claim lapses."""
LONGEST_SECONDS = 3600.0
"""A host that is under pressure for longer says so again."""


@dataclass(frozen=True)
class Claim:
    """One source's word that less urgent work has to wait. Times in seconds since 1970."""

    source: str
    since: float
    expires_at: float
    reason: str


@dataclass(frozen=True)
class Standing:
    """Whether less urgent work waits, since when, who says so; and what was measured last. Times in seconds since 1970."""

    active: bool
    changed_at: float | None
    claims: tuple[Claim, ...]
    measured_at: float | None
    level: Level
    overall: float | None
    readings: tuple[dict[str, Any], ...]


def deferred(store: Store, at: float) -> frozenset[Priority]:
    """The classes that are not to be leased now: LOW and COLD_STORAGE, or none."""
    active, until = store.prepared("backpressure", _until).rows({})[0]
    return DEFERRED if active and until is not None and until > at else frozenset()


def standing(store: Store, at: float) -> Standing:
    """Everything that is known of it now."""
    with store.reading() as connection:
        return _standing(connection, at)


def watch(store: Store, thresholds: Thresholds, *, at: float) -> Standing:
    """Measure, and take in what was found."""
    return take_in(store, measure(store, thresholds, at=at), at=at)


def take_in(store: Store, assessment: Assessment, *, at: float) -> Standing:
    """Let this coordinator's own measurement decide about its claim: made when HIGH, dropped when HEALTHY, kept between.

    While something is unknown the claim is neither made nor dropped, nor does it last longer than it would have. What is deferred
    and has waited for a day is let go ahead, as far as links bear it.
    """
    with store.writing() as writer:
        _end_what_expired(writer, at)
        told = {"level": assessment.level.value, "overall": assessment.overall, "measured_at": at}
        told["readings"] = orjson.dumps(
            [asdict(reading) | {"pressure": reading.pressure} for reading in assessment.readings]
        ).decode()
        writer.connection.execute(sa.update(backpressure).values(told))
        held = any(claim.source == OWN for claim in _claims(writer.connection, at))
        wanted = decide(Stance(held), assessment.level, at).active
        if wanted and assessment.level != Level.UNKNOWN:
            _claim(writer, OWN, _reason(assessment), at, at + OWN_SECONDS)
        elif held and not wanted:
            _drop(writer, OWN, at)
        _settle(writer, at)
        now = _standing(writer.connection, at)
        if now.active:
            turns.let_old_go_ahead(writer.connection, at)
        return now


def activate(store: Store, source: str, *, reason: str, at: float, seconds: float = LONGEST_SECONDS) -> Standing:
    """A host says that it is under pressure: it counts for so many seconds, an hour at most, or until the host releases it."""
    with store.writing() as writer:
        _end_what_expired(writer, at)
        lasts = min(max(seconds, DWELL_SECONDS), LONGEST_SECONDS)
        _claim(writer, _named(source), reason or "no reason given", at, at + lasts)
        _settle(writer, at)
        return _standing(writer.connection, at)


def release(store: Store, source: str, *, at: float) -> Standing:
    """A host says that it is not under pressure any more. Claims of others stand."""
    with store.writing() as writer:
        _end_what_expired(writer, at)
        _drop(writer, _named(source), at)
        _settle(writer, at)
        return _standing(writer.connection, at)


def _until() -> sa.Select[*tuple[Any, ...]]:
    return sa.select(backpressure.c.active, sa.select(sa.func.max(backpressure_sources.c.expires_at)).scalar_subquery())


def _named(source: str) -> str:
    return f"host {source}"[:110]


def _standing(connection: Connection, at: float) -> Standing:
    row = connection.execute(sa.select(backpressure)).one()
    claims = tuple(_claims(connection, at))
    readings = tuple(orjson.loads(row.readings))
    return Standing(
        row.active and bool(claims), row.changed_at, claims, row.measured_at, Level(row.level), row.overall, readings
    )  # fmt: skip


def _claims(connection: Connection, at: float) -> list[Claim]:
    """Those that have not expired."""
    columns = [backpressure_sources.c[name] for name in Claim.__dataclass_fields__]
    query = sa.select(*columns).where(backpressure_sources.c.expires_at > at).order_by(backpressure_sources.c.source)
    return [Claim(*row) for row in connection.execute(query)]


def _stance(connection: Connection) -> Stance:
    return Stance(*connection.execute(sa.select(backpressure.c.active, backpressure.c.changed_at)).one())


def _claim(writer: Writer, source: str, reason: str, at: float, until: float) -> None:
    """Make a claim, or let it last longer: since when it stands does not change."""
    insert = upsert(writer.connection, backpressure_sources)
    insert = insert.values(source=source, since=at, expires_at=until, reason=reason[:300])
    again = {name: insert.excluded[name] for name in ("expires_at", "reason")}
    writer.connection.execute(insert.on_conflict_do_update(index_elements=["source"], set_=again))


def _drop(writer: Writer, source: str, at: float) -> None:
    """End a claim: at once, or, while the decision that it led to has to stand, at the end of the dwell."""
    mine = backpressure_sources.c.source == source
    stance = _stance(writer.connection)
    if stance.active and turned(stance, False, at).active:
        stands_until = (stance.changed_at or at) + DWELL_SECONDS
        sooner = sa.case(
            (backpressure_sources.c.expires_at < stands_until, backpressure_sources.c.expires_at), else_=stands_until
        )  # fmt: skip
        writer.connection.execute(sa.update(backpressure_sources).where(mine).values(expires_at=sooner))
    else:
        writer.connection.execute(sa.delete(backpressure_sources).where(mine))


def _end_what_expired(writer: Writer, at: float) -> None:
    """Say that it ended when the last claim did, though nobody was there to say it then; forget claims that are over."""
    stance = _stance(writer.connection)
    if stance.active and not _claims(writer.connection, at):
        last = writer.connection.execute(sa.select(sa.func.max(backpressure_sources.c.expires_at))).scalar_one()
        ended = at if last is None else min(last, at)
        _turn(writer, Stance(False, ended), at, after=ended - (stance.changed_at or ended), why="the last claim expired")
    writer.connection.execute(sa.delete(backpressure_sources).where(backpressure_sources.c.expires_at <= at))


def _settle(writer: Writer, at: float) -> None:
    """Let the decision follow from the claims, as soon as the dwell allows it."""
    before = _stance(writer.connection)
    claims = _claims(writer.connection, at)
    after = turned(before, bool(claims), at)
    if after == before:
        return
    if after.active:
        stands = backpressure_sources.c.expires_at < at + DWELL_SECONDS
        writer.connection.execute(sa.update(backpressure_sources).where(stands).values(expires_at=at + DWELL_SECONDS))
        reasons = {claim.source: claim.reason for claim in claims}
        _turn(writer, after, at, sources=reasons, defers=sorted(priority.name for priority in DEFERRED))
    else:
        _turn(writer, after, at, after=at - (before.changed_at or at), why="nobody claims it any more")


def _turn(writer: Writer, stance: Stance, at: float, **told: Any) -> None:
    writer.connection.execute(sa.update(backpressure).values(active=stance.active, changed_at=stance.changed_at))
    writer.note(at, "BACKPRESSURE_ACTIVATED" if stance.active else "BACKPRESSURE_RELEASED", None, **told)


def _reason(assessment: Assessment) -> str:
    worst = assessment.worst
    if worst is None or worst.value is None:
        return f"pressure is {assessment.level}"
    return f"{worst.name}: {worst.value:.0f} {worst.unit}, {worst.detail}"
