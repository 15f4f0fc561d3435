"""What happens to the manifest, told as events: hosts that come and go, orphans, backpressure. Once each, however often it is read.

Who follows the changes keeps the number of the last; an event's id follows from its change, so that telling it again does nothing.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence

from ringrift_dagster.events import model as told
from ringrift_dagster.events.model import EventType, Payload
from ringrift_dagster.events.outgoing import publish
from ringrift_dagster.manifest.changes import Change
from ringrift_dagster.manifest.plane import HOME_LOCATION
from ringrift_dagster.manifest.store import Store

_IDS = uuid.UUID("6f0d2c53-5b4e-5d0a-9a35-1d3c4cf0a7b1")
"""The space of ids that follow from changes."""


def announce(store: Store, changes: Sequence[Change]) -> int:
    """Record the events of some changes; returns how many were new."""
    worth = [(change, *_ANNOUNCED[change.kind]) for change in changes if change.kind in _ANNOUNCED]
    if not worth:
        return 0
    new = 0
    with store.writing() as writer:
        for change, kind, payload in worth:
            id_ = str(uuid.uuid5(_IDS, f"{change.id} {change.at!r}"))
            new += publish(writer, kind, payload(change), at=change.at, id=id_) is not None
    return new


def _online(change: Change) -> Payload:
    return told.HostOnline(host=change.location or HOME_LOCATION, kind="seen by the manifest")


def _offline(change: Change) -> Payload:
    silent = change.detail.get("silent")
    return told.HostOffline(
        host=change.location or HOME_LOCATION,
        reason=f"{change.detail.get('code')}: {change.detail.get('reason')}",
        last_seen=None if silent is None else max(0.0, change.at - float(silent)),
    )


def _orphans(change: Change) -> Payload:
    detail = change.detail
    return told.OrphanDetected(
        host=change.location or HOME_LOCATION, count=detail.get("items", 0), kind=detail.get("orphans"), bytes=detail.get("bytes"),
        items=tuple(detail.get("examples", ())),
    )  # fmt: skip


def _pressure(change: Change) -> Payload:
    said = "; ".join(f"{source}: {reason}" for source, reason in change.detail.get("sources", {}).items())
    return told.Backpressure(host=HOME_LOCATION, reason=said or change.detail.get("why"))


_ANNOUNCED: Mapping[str, tuple[EventType, Callable[[Change], Payload]]] = {
    "HOST_ONLINE": (EventType.HOST_ONLINE, _online),
    "HOST_OFFLINE": (EventType.HOST_OFFLINE, _offline),
    "ORPHAN_DETECTED": (EventType.ORPHAN_DETECTED, _orphans),
    "BACKPRESSURE_ACTIVATED": (EventType.BACKPRESSURE_ACTIVATED, _pressure),
    "BACKPRESSURE_RELEASED": (EventType.BACKPRESSURE_RELEASED, _pressure),
}
