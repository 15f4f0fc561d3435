"""What happens to the manifest is told as events, once each, and as Prometheus metrics."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, generate_latest

from ringrift_dagster.events.inbox import latest
from ringrift_dagster.events.model import EventType
from ringrift_dagster.manifest.changes import changes_since
from ringrift_dagster.manifest.store import Store, StoreError
from ringrift_dagster.transfer.announcing import announce
from ringrift_dagster.transfer.deferral import activate
from ringrift_dagster.transfer.metrics import QueueCollector
from ringrift_dagster.transfer.model import Priority
from ringrift_dagster.transfer.operations import Kind, Wanted
from ringrift_dagster.transfer.queue import cancel, submit
from tests.manifest.telling import declared, dies, digest_of, item, tell

NOW = time.time()


def test_hosts_that_come_and_go_and_orphans_become_events_once(store: Store) -> None:
    declared(store)
    tell(store, "vast-1", [item("data/training/hex8_2p.npz", "only")], at=NOW)
    dies(store, "vast-1", at=NOW + 60)
    assert announce(store, changes_since(store, 0)) == 3
    assert announce(store, changes_since(store, 0)) == 0
    told = {each.event.type: each.event.payload for each in latest(store, 10)}
    assert set(told) == {EventType.HOST_ONLINE, EventType.HOST_OFFLINE, EventType.ORPHAN_DETECTED}
    orphan = told[EventType.ORPHAN_DETECTED]
    assert (orphan.host, orphan.count, orphan.items) == ("vast-1", 1, (digest_of("only"),))
    assert told[EventType.HOST_OFFLINE].reason == "refused: nobody there"


def test_backpressure_is_announced_as_our_own(store: Store) -> None:
    activate(store, "gpu-1", reason="its queue is long", at=NOW)
    announce(store, changes_since(store, 0))
    (told,) = latest(store, 10)
    assert (told.event.type, told.event.payload.host) == (EventType.BACKPRESSURE_ACTIVATED, "home")
    assert "its queue is long" in (told.event.payload.reason or "")


def test_an_operation_that_is_cancelled_has_its_event_in_the_same_transaction(store: Store) -> None:
    operation = submit(store, Wanted(Kind.SYNC, "ab" * 32, "gpu-1", Priority.LOW), at=NOW)
    cancel(store, operation.id, at=NOW)
    (told,) = latest(store, 10)
    assert (told.event.type, told.event.payload.cause) == (EventType.DATA_TRANSFER_FAILED, "cancelled")
    cancel(store, operation.id, at=NOW)
    assert len(latest(store, 10)) == 1


def test_the_queue_is_a_metric(store: Store) -> None:
    registry = CollectorRegistry()
    registry.register(QueueCollector(lambda: store))
    submit(store, Wanted(Kind.SYNC, "ab" * 32, "gpu-1", Priority.LOW), at=NOW)
    text = generate_latest(registry).decode()
    assert 'ringrift_queue_operations{priority="LOW",state="QUEUED"} 1.0' in text
    assert "ringrift_queue_readable 1.0" in text


def test_a_manifest_that_cannot_be_read_is_a_metric_too() -> None:
    def broken() -> Store:
        raise StoreError("no such file")

    registry = CollectorRegistry()
    registry.register(QueueCollector(broken))
    text = generate_latest(registry).decode()
    assert "ringrift_queue_readable 0.0" in text
    assert "ringrift_queue_operations{" not in text
