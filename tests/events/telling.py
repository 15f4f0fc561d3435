"""Events for tests, and their way from an outbox to an inbox without a network."""

from __future__ import annotations

from typing import Any

from ringrift_dagster.events import inbox
from ringrift_dagster.events.adapters import adapt
from ringrift_dagster.events.inbox import Receipt
from ringrift_dagster.events.model import Event
from ringrift_dagster.events.outbox import Batch, Outbox
from ringrift_dagster.manifest.store import Store

NOW = 1_767_000_000.0


def event(games: int = 1, host: str = "gpu-1", *, kind: str = "SELFPLAY_COMPLETE", at: float = NOW, **fields: Any) -> Event:
    """An event that a host tells of itself; `games` tells it from others."""
    payload = {"config": "hex8_2p", "games": games, **fields}
    return adapt({"type": kind, "payload": payload}, host=host, at=at)


def batch(host: str, epoch: str, first: int, *told: Any, floor: int = 0) -> Batch:
    """A batch as it comes over the wire, of events or of whatever else stands in their place."""
    entries = [
        {"sequence": first + index, "event": each.model_dump(mode="json") if isinstance(each, Event) else each}
        for index, each in enumerate(told)
    ]
    return Batch.model_validate({"host": host, "epoch": epoch, "floor": floor, "entries": entries})


def push(outbox: Outbox, store: Store, host: str = "gpu-1", *, at: float = NOW) -> Receipt | None:
    """Send what waits, and acknowledge it."""
    body = outbox.batch(host)
    if body is None:
        return None
    receipt = inbox.receive(store, Batch.model_validate_json(body), at=at)
    outbox.acknowledge(receipt.epoch, receipt.acknowledged, at=at)
    return receipt


def games(store: Store, host: str | None = None) -> list[int]:
    """Which events are in the inbox, in order."""
    return [
        each.event.payload.model_dump()["games"] for each in inbox.read(store, 0, limit=100_000) if host in (None, each.event.host)
    ]
