"""Whether locations are there: what their answers, and their silence, say. HOST_ONLINE and HOST_OFFLINE come from here.

A location that is silent keeps all that is known of it; only what can be reached changes.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from ringrift_dagster.manifest import orphans
from ringrift_dagster.manifest.inventory import CONTACT_CODES, Inventory, NoAnswer
from ringrift_dagster.manifest.schema import locations, strangers
from ringrift_dagster.manifest.states import Liveness
from ringrift_dagster.manifest.store import Store, Writer, upsert

OFFLINE_FAILURES = 2
OFFLINE_SECONDS = 20.0
"""So many questions without an answer, and so long since the last answer, make a location OFFLINE."""
SKEW_SECONDS = 5.0
"""A clock that differs by more is told of."""
_SMOOTHING = 0.3


def answered(store: Store, inventory: Inventory, *, at: float) -> bool:
    """Record that a location answered; returns whether it was not ONLINE before."""
    with store.writing() as writer:
        place = _place(writer, inventory.location)
        skew = None if inventory.now is None else inventory.now - at
        values: dict[str, Any] = {"answered_at": at, "failures": 0, "reason": None, "clock_skew": skew}
        if inventory.latency is not None:
            before = place.latency if place.latency is not None else inventory.latency
            values["latency"] = before + _SMOOTHING * (inventory.latency - before)
        came = place.liveness != Liveness.ONLINE
        if came:
            values |= {"liveness": Liveness.ONLINE, "changed_at": at}
        writer.connection.execute(sa.update(locations).where(locations.c.id == place.id).values(values))
        if came:
            writer.note(at, _kind(place, "ONLINE"), place.name, before=place.liveness, silent=_silence(place, at))
            orphans.resolve(writer, at=at)
        if skew is not None and abs(skew) > SKEW_SECONDS >= abs(place.clock_skew or 0.0):
            writer.note(at, "CLOCK_SKEW", place.name, seconds=round(skew, 1))
        _remember_strangers(writer, inventory, at)
    return came


def unanswered(store: Store, silence: NoAnswer, *, at: float) -> bool:
    """Record that a location did not answer; returns whether that makes it OFFLINE or UNAVAILABLE now.

    One that told something is there: it stays what it is until all was told and taken in.
    """
    with store.writing() as writer:
        place = _place(writer, silence.location)
        told = silence.code in CONTACT_CODES
        failures = 0 if told else place.failures + 1
        now = Liveness(place.liveness)
        if silence.code == "not_mounted":
            now = Liveness.UNAVAILABLE
        elif failures >= OFFLINE_FAILURES and at - (place.answered_at or 0.0) >= OFFLINE_SECONDS:
            now = Liveness.OFFLINE
        went = now != place.liveness
        values: dict[str, Any] = {"failures": failures, "reason": f"{silence.code}: {silence.detail}"}
        if told:
            values["answered_at"] = at
        if went:
            values |= {"liveness": now, "changed_at": at}
        writer.connection.execute(sa.update(locations).where(locations.c.id == place.id).values(values))
        if went:
            writer.note(at, _kind(place, now), place.name, code=silence.code, reason=silence.detail, silent=_silence(place, at))
            orphans.detect_stranded(writer, place.id, place.name, at=at)
    return went


def _place(writer: Writer, name: str) -> sa.Row[Any]:
    row = writer.connection.execute(sa.select(locations).where(locations.c.name == name)).one_or_none()
    if row is None:
        raise KeyError(name)
    return row


def _kind(place: sa.Row[Any], what: str) -> str:
    return f"{'HOST' if place.kind == 'host' else 'LOCATION'}_{what}"


def _silence(place: sa.Row[Any], at: float) -> float | None:
    return None if place.answered_at is None else round(at - place.answered_at, 1)


def _remember_strangers(writer: Writer, inventory: Inventory, at: float) -> None:
    """Hosts that nobody declared are listed for the operator, and otherwise ignored."""
    known = set(writer.connection.execute(sa.select(strangers.c.name)).scalars())
    insert = upsert(writer.connection, strangers)
    for name in sorted(set(inventory.strangers)):
        values = {"name": name, "seen_at_location": inventory.location, "first_seen": at, "last_seen": at}
        update = {"last_seen": at, "seen_at_location": inventory.location}
        writer.connection.execute(insert.values(values).on_conflict_do_update(index_elements=["name"], set_=update))
        if name not in known:
            writer.note(at, "STRANGER_SEEN", inventory.location, name=name)
