"""What the coordinator tells: recorded with its cause or not at all, delivered at least once, in order, each target on its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from ringrift_dagster.events import inbox, outgoing
from ringrift_dagster.events.delivery import Addresses, Deliverer
from ringrift_dagster.events.model import EventType, HostOffline, HostOnline, SelfplayNeeded
from ringrift_dagster.events.posting import Poster
from ringrift_dagster.events.webhooks import MAX_LINES, Webhook
from ringrift_dagster.manifest.schema import deliveries, events
from ringrift_dagster.manifest.store import Store
from ringrift_dagster.transfer import queue
from ringrift_dagster.transfer.model import Priority
from tests.events.hooks import Hook, hook
from tests.events.telling import NOW
from tests.transfer.asking import wanted

NEEDED = EventType.SELFPLAY_NEEDED


@pytest.fixture
def gpu() -> Iterator[Hook]:
    """Where the host gpu-1 is reached."""
    with hook() as server:
        yield server


@pytest.fixture
def slack() -> Iterator[Hook]:
    with hook() as server:
        yield server


def tell(store: Store, *reasons: str, hosts: tuple[str, ...] = ("gpu-1",), at: float = NOW) -> None:
    with store.writing() as writer:
        for reason in reasons:
            outgoing.publish(writer, NEEDED, SelfplayNeeded(config="hex8_2p", reason=reason), at=at, hosts=hosts)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def step(store: Store, addresses: Addresses, clock: Clock) -> list[bool]:
    """One pass; whether each target that was due was told."""
    with Deliverer(store, Poster(), clock=clock) as deliverer:
        return [future.result() for future in deliverer.step(addresses)]


def reasons(server: Hook) -> list[str]:
    return [event["payload"]["reason"] for _, body in server.taken for event in body["events"]]


def test_an_event_and_its_cause_are_one(store: Store) -> None:
    queue.submit(store, wanted("a", "gpu-1", Priority.HIGH), at=NOW)
    with pytest.raises(RuntimeError), store.writing() as writer:
        writer.note(NOW, "OPERATION_DONE", "gpu-1", operation=1)
        outgoing.publish(writer, NEEDED, SelfplayNeeded(config="hex8_2p", reason="few"), at=NOW, hosts=["gpu-1"])
        raise RuntimeError
    assert (inbox.last_number(store), outgoing.outstanding(store)) == (0, {})
    with store.writing() as writer:
        number = outgoing.publish(writer, NEEDED, SelfplayNeeded(config="hex8_2p", reason="few"), at=NOW, hosts=["gpu-1", "gpu-1"])
    (told,) = inbox.read(store, 0)
    assert (told.number, told.event.host, told.event.sequence) == (number, "home", None)
    assert outgoing.outstanding(store) == {"host gpu-1": 1}


def test_a_payload_of_another_event_is_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="HostOffline is not the payload"), store.writing() as writer:
        outgoing.publish(writer, NEEDED, HostOffline(host="a"), at=NOW)


def test_hosts_are_told_in_order_with_the_token(store: Store, gpu: Hook) -> None:
    tell(store, "one", "two")
    tell(store, "three", hosts=("gpu-2", "gpu-1"))
    addresses, clock = Addresses({"gpu-1": gpu.url}, "secret"), Clock()
    assert sorted(step(store, addresses, clock)) == [False, True]
    assert reasons(gpu) == ["one", "two", "three"]
    assert {path for path, _ in gpu.taken} == {"/v1/deliveries"}
    assert {body["host"] for _, body in gpu.taken} == {"gpu-1"}
    assert gpu.headers[0]["authorization"] == "Bearer secret"
    assert outgoing.outstanding(store) == {"host gpu-2": 1}, "it has no address yet"
    clock.now += 2
    assert step(store, Addresses({"gpu-1": gpu.url, "gpu-2": gpu.url}), clock) == [True]
    assert outgoing.outstanding(store) == {}
    assert step(store, addresses, clock) == []


def test_what_fails_is_tried_again_later_and_keeps_its_order(store: Store, gpu: Hook) -> None:
    tell(store, "one")
    addresses, clock = Addresses({"gpu-1": gpu.url}), Clock()
    gpu.status = 503
    assert step(store, addresses, clock) == [False]
    tell(store, "two")
    assert step(store, addresses, clock) == [], "not before its time"
    clock.now += 1.1
    assert step(store, addresses, clock) == [False]
    clock.now += 1.1
    assert step(store, addresses, clock) == [], "the pause doubles"
    gpu.status = 200
    clock.now += 1.0
    assert step(store, addresses, clock) == [True]
    assert (reasons(gpu), gpu.refused) == (["one", "two"], 2)
    with store.reading() as connection:
        rows = connection.execute(sa.select(deliveries.c.attempts, deliveries.c.delivered).order_by(deliveries.c.event)).all()
    assert [tuple(row) for row in rows] == [(2, True), (0, True)]


def test_redirects_are_no_success(store: Store, gpu: Hook) -> None:
    tell(store, "one")
    gpu.status = 307
    assert step(store, Addresses({"gpu-1": gpu.url}), Clock()) == [False]
    assert (gpu.refused, outgoing.outstanding(store)) == (1, {"host gpu-1": 1})


def test_a_target_that_stalls_holds_back_nobody(store: Store, gpu: Hook, slack: Hook) -> None:
    tell(store, "one", hosts=("gpu-1", "gpu-2"))
    gpu.stalled.clear()
    addresses, clock = Addresses({"gpu-1": gpu.url, "gpu-2": slack.url}), Clock()
    with Deliverer(store, Poster(), clock=clock) as deliverer:
        begun = deliverer.step(addresses)
        assert len(begun) == 2
        while outgoing.outstanding(store) != {"host gpu-1": 1}:
            pass
        assert deliverer.step(addresses) == [], "what is under way is not begun again"
        tell(store, "two", hosts=("gpu-2",))
        assert [future.result() for future in deliverer.step(addresses)] == [True]
        gpu.stalled.set()
        assert all(future.result() for future in begun)
    assert (reasons(slack), reasons(gpu)) == (["one", "two"], ["one"])


def test_in_the_end_it_is_given_up_and_said(store: Store, gpu: Hook) -> None:
    tell(store, "one")
    clock = Clock()
    clock.now += outgoing.GIVE_UP_SECONDS + 1
    tell(store, "two", at=clock.now)
    assert step(store, Addresses({}), clock) == [False]
    with store.reading() as connection:
        row = connection.execute(sa.select(deliveries).where(deliveries.c.ended_at.is_not(None))).one()
    assert (row.delivered, row.cause) == (False, "given up: the hosts file has no address for it")
    clock.now += 2
    assert step(store, Addresses({"gpu-1": gpu.url}), clock) == [True]
    assert reasons(gpu) == ["two"]


def test_webhooks_are_told_what_they_asked_for_from_now_on(store: Store, slack: Hook) -> None:
    tell(store, "before")
    clock = Clock()
    addresses = Addresses({}, webhooks={"ops": Webhook("ops", f"{slack.url}/T0/secret", ("SELFPLAY_*", "HOST_OFFLINE"))})
    step(store, addresses, clock)
    tell(store, "a <link> & more", hosts=())
    with store.writing() as writer:
        outgoing.publish(writer, EventType.HOST_OFFLINE, HostOffline(host="vast-3", reason="timeout"), at=NOW)
        outgoing.publish(writer, EventType.HOST_ONLINE, HostOnline(host="vast-3"), at=NOW)
    clock.now += 1
    assert True in step(store, addresses, clock)
    ((path, message),) = slack.taken
    assert path == "/T0/secret"
    assert message == {
        "text": "SELFPLAY_NEEDED hex8_2p: reason a &lt;link&gt; &amp; more (2025-12-29 09:20:00 UTC)\n"
        "HOST_OFFLINE vast-3: reason timeout (2025-12-29 09:20:00 UTC)"
    }
    clock.now += 1
    step(store, addresses, clock)
    assert len(slack.taken) == 1


def test_a_webhook_that_is_down_is_told_later_in_short_messages(store: Store, slack: Hook) -> None:
    clock, addresses = Clock(), Addresses({}, webhooks={"ops": Webhook("ops", slack.url, ("*",))})
    step(store, addresses, clock)
    slack.status = 429
    tell(store, *(f"number {number}" for number in range(50)), hosts=())
    assert step(store, addresses, clock) == [False]
    slack.status = 200
    for _ in range(4):
        clock.now += 10
        step(store, addresses, clock)
    lines = [line for _, message in slack.taken for line in message["text"].split("\n")]
    assert [line.split("number ")[1].split()[0] for line in lines] == [str(number) for number in range(50)]
    assert max(message["text"].count("\n") for _, message in slack.taken) == MAX_LINES - 1


def test_a_webhook_that_is_no_more_leaves_nothing_open(store: Store, slack: Hook) -> None:
    clock, addresses = Clock(), Addresses({}, webhooks={"ops": Webhook("ops", slack.url, ("*",))})
    step(store, addresses, clock)
    slack.status = 500
    tell(store, "one", hosts=())
    step(store, addresses, clock)
    assert outgoing.outstanding(store) == {"webhook ops": 1}
    step(store, Addresses({}), clock)
    assert outgoing.outstanding(store) == {}


def test_what_waits_for_a_host_is_not_pruned(store: Store) -> None:
    tell(store, "one")
    tell(store, "two", hosts=())
    assert inbox.prune(store, at=NOW + inbox.KEEP_SECONDS + 1) == 1
    with store.reading() as connection:
        assert connection.execute(sa.select(events.c.payload)).scalar_one().count("one") == 1
