"""The coordinator's inbox, on SQLite and PostgreSQL: once each, in order, read from any place, dead letters kept and replayed."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import sqlalchemy as sa

from ringrift_dagster.events import inbox
from ringrift_dagster.events.adapters import NotUnderstood
from ringrift_dagster.events.ids import new_id
from ringrift_dagster.events.inbox import OutOfOrder
from ringrift_dagster.events.model import EventType
from ringrift_dagster.events.outbox import DeadLetter
from ringrift_dagster.manifest.schema import dead_letters, events
from ringrift_dagster.manifest.store import Store
from tests.events.telling import NOW, batch, event, games

SELFPLAY, STARTED = EventType.SELFPLAY_COMPLETE, EventType.TRAINING_STARTED


def test_a_batch_is_taken_once_and_in_order(store: Store) -> None:
    epoch, told = new_id(), [event(number) for number in range(1, 6)]
    first = batch("gpu-1", epoch, 1, *told[:3])
    got = inbox.receive(store, first, at=NOW)
    assert (got.epoch, got.acknowledged, got.taken, got.dead) == (epoch, 3, 3, 0)
    again = inbox.receive(store, first, at=NOW + 1)
    assert (again.acknowledged, again.taken) == (3, 0)
    assert inbox.receive(store, batch("gpu-1", epoch, 3, *told[2:]), at=NOW).taken == 2
    assert inbox.receive(store, first, at=NOW).acknowledged == 5, "an old copy that comes late changes nothing"
    assert games(store) == [1, 2, 3, 4, 5]
    read = inbox.read(store, 0)
    assert [each.event.sequence for each in read] == [1, 2, 3, 4, 5]
    assert [each.event.id for each in read] == [each.id for each in told]
    assert inbox.hosts(store) == {"gpu-1": NOW}


def test_a_hole_is_not_passed_over(store: Store) -> None:
    epoch = new_id()
    with pytest.raises(OutOfOrder) as refused:
        inbox.receive(store, batch("gpu-1", epoch, 3, event(3)), at=NOW)
    assert (refused.value.expected, games(store)) == (1, [])
    bad = batch("gpu-1", epoch, 1, event(1), event(2))
    with pytest.raises(ValueError, match="without a gap"):
        inbox.receive(store, bad.model_copy(update={"entries": (bad.entries[1], bad.entries[0])}), at=NOW)


def test_a_manifest_that_was_set_back_says_what_it_lost(store: Store) -> None:
    epoch = new_id()
    got = inbox.receive(store, batch("gpu-1", epoch, 8, event(8), floor=7), at=NOW)
    assert (got.acknowledged, got.dead, games(store)) == (8, 1, [8])
    (letter,) = inbox.dead(store)
    assert (letter.reason, "1 to 7" in letter.detail) == ("lost", True)


def test_an_event_that_comes_by_two_ways_is_one(store: Store) -> None:
    same = event(1)
    inbox.receive(store, batch("gpu-1", new_id(), 1, same, event(2)), at=NOW)
    got = inbox.receive(store, batch("gpu-1", new_id(), 1, same, event(3)), at=NOW)
    assert (got.acknowledged, games(store)) == (2, [1, 2, 3])


def test_what_is_no_event_keeps_nobody_back(store: Store) -> None:
    strange: list[Any] = [None, {}, {"type": "X"}, {**event().model_dump(mode="json"), "payload": {"config": "hex9_2p"}}]
    strange += [{**event().model_dump(mode="json"), "id": "1"}, {"a": "\x00" * 20_000}]
    got = inbox.receive(store, batch("gpu-1", new_id(), 1, event(1), *strange, event(2)), at=NOW)
    assert (got.acknowledged, got.taken, got.dead, games(store)) == (8, 8, 6, [1, 2])
    assert {letter.reason for letter in inbox.dead(store)} == {"not_typed"}
    assert inbox.dead_count(store) == 6


def test_readers_go_on_from_a_number(store: Store) -> None:
    inbox.receive(store, batch("gpu-1", new_id(), 1, *[event(number) for number in range(1, 11)]), at=NOW)
    inbox.receive(store, batch("gpu-2", new_id(), 1, event(11, "gpu-2", kind="TRAINING_STARTED")), at=NOW)
    first = inbox.read(store, 0, limit=4)
    rest = inbox.read(store, first[-1].number)
    assert [each.number for each in (*first, *rest)] == list(range(first[0].number, first[0].number + 11))
    assert [each.event.type for each in inbox.read(store, 0, types={STARTED})] == [STARTED]
    assert [each.number for each in inbox.latest(store, 2)] == [rest[-2].number, rest[-1].number]
    assert inbox.last_number(store) == rest[-1].number
    assert inbox.read(store, rest[-1].number) == []


def test_a_reader_that_waits_is_told_at_once(store: Store) -> None:
    def tell() -> None:
        inbox.receive(store, batch("gpu-1", new_id(), 1, event(1, kind="TRAINING_STARTED"), event(2)), at=NOW)

    timer = threading.Timer(0.3, tell)
    timer.start()
    try:
        assert [each.event.type for each in inbox.read(store, 0, types={SELFPLAY}, wait=30.0)] == [SELFPLAY]
    finally:
        timer.join()
    assert inbox.read(store, 2, types={SELFPLAY}, wait=0.1) == []
    assert inbox.read(store, 2, wait=30.0, stopped=lambda: True) == []


def test_no_reader_misses_what_two_hosts_tell_at_once(store: Store) -> None:
    def tell(host: str) -> None:
        epoch = new_id()
        for number in range(1, 31):
            inbox.receive(store, batch(host, epoch, number, event(number, host)), at=NOW)

    threads = [threading.Thread(target=tell, args=(host,)) for host in ("gpu-1", "gpu-2", "gpu-3")]
    for thread in threads:
        thread.start()
    seen: list[tuple[str, int]] = []
    last, until = 0, time.monotonic() + 60
    while len(seen) < 90 and time.monotonic() < until:
        for each in inbox.read(store, last, wait=0.5):
            assert each.number > last
            last = each.number
            seen.append((each.event.host, each.event.payload.model_dump()["games"]))
    for thread in threads:
        thread.join()
    for host in ("gpu-1", "gpu-2", "gpu-3"):
        assert [number for name, number in seen if name == host] == list(range(1, 31))


def test_what_was_done_about_an_event_is_done_once(store: Store) -> None:
    inbox.receive(store, batch("gpu-1", new_id(), 1, event(1), event(2), event(3, kind="TRAINING_STARTED")), at=NOW)
    first, second, _ = inbox.read(store, 0)
    with store.writing() as writer:
        assert inbox.mark_handled(writer, "register", first.number, at=NOW, outcome="5 games")
        assert not inbox.mark_handled(writer, "register", first.number, at=NOW)
        assert inbox.mark_handled(writer, "other", first.number, at=NOW + 1)
    with pytest.raises(RuntimeError), store.writing() as writer:
        inbox.mark_handled(writer, "register", second.number, at=NOW)
        raise RuntimeError
    assert [each.number for each in inbox.unhandled(store, "register", {SELFPLAY})] == [second.number]
    assert [each.number for each in inbox.unhandled(store, "register", {SELFPLAY}, after=second.number)] == []
    assert inbox.handled(store, first.number) == {"register": (NOW, "5 games"), "other": (NOW + 1, None)}


def dead(reason: str, raw: str) -> DeadLetter:
    return DeadLetter.of(NotUnderstood(reason, "why"), raw, at=NOW)


def test_a_dead_letter_is_read_again_after_a_fix(store: Store) -> None:
    letters = [dead("unknown_type", '{"type": "HOST_ONLINE", "payload": {"host": "a"}}'), dead("not_json", "{")]
    sent = batch("gpu-1", new_id(), 1, event(1), event(2))
    entries = [
        entry.model_copy(update={"event": None, "dead": letter}) for entry, letter in zip(sent.entries, letters, strict=True)
    ]
    assert inbox.receive(store, sent.model_copy(update={"entries": tuple(entries)}), at=NOW + 5).dead == 2
    broken, good = inbox.dead(store)
    told = inbox.replay(store, good.number, at=NOW + 9)
    assert (told.event.type, told.event.host, told.event.at) == (EventType.HOST_ONLINE, "gpu-1", NOW)
    assert inbox.replay(store, good.number, at=NOW + 99).number == told.number
    assert [each.event for each in inbox.read(store, 0)] == [told.event.model_copy(update={"sequence": 1})]
    with pytest.raises(NotUnderstood):
        inbox.replay(store, broken.number, at=NOW)
    with pytest.raises(KeyError):
        inbox.replay(store, 999, at=NOW)
    assert [letter.number for letter in inbox.dead(store)] == [broken.number]
    assert {letter.number: letter.replayed_at for letter in inbox.dead(store, replayed=True)} == {
        broken.number: None,
        good.number: NOW + 9,
    }
    assert inbox.dead_count(store) == 1


def test_an_event_of_another_version_stops_no_reader(store: Store) -> None:
    inbox.receive(store, batch("gpu-1", new_id(), 1, event(1), event(2), event(3)), at=NOW)
    number = inbox.read(store, 0)[1].number
    with store.writing() as writer:
        writer.connection.execute(sa.update(events).where(events.c.id == number).values(payload='{"config": "hex8_9p"}'))
    assert games(store) == [1, 3]
    assert games(store) == [1, 3]
    (letter,) = inbox.dead(store)
    assert (letter.reason, "hex8_9p" in letter.raw) == ("not_typed", True)


def test_a_row_that_is_no_json_stops_no_reader(store: Store) -> None:
    inbox.receive(store, batch("gpu-1", new_id(), 1, event(1), event(2)), at=NOW)
    number = inbox.read(store, 0)[0].number
    with store.writing() as writer:
        writer.connection.execute(sa.update(events).where(events.c.id == number).values(payload='{"config": "he'))
    assert games(store) == [2]
    (letter,) = inbox.dead(store)
    assert (letter.reason, "config" in letter.raw) == ("not_typed", True)


def test_what_cannot_be_acted_on_is_a_dead_letter_and_when_replayed_a_new_event(store: Store) -> None:
    inbox.receive(store, batch("gpu-1", new_id(), 1, event(1), event(2)), at=NOW)
    first, second = inbox.read(store, 0)
    again = first
    for turn in (1, 2):
        inbox.bury(store, again, "RuntimeError: out of luck", at=NOW + turn)
        assert [each.event for each in inbox.read(store, 0)] == [second.event]
        (letter,) = inbox.dead(store)
        assert (letter.reason, letter.detail, letter.received_at) == ("not_done", "RuntimeError: out of luck", NOW + turn)
        again = inbox.replay(store, letter.number, at=NOW + turn)
        assert (again.event.id, again.event.payload, inbox.dead_count(store)) == (first.event.id, first.event.payload, 0)
        assert again.number > second.number
        assert [each.number for each in inbox.unhandled(store, "me", [SELFPLAY], after=second.number)] == [again.number]
    inbox.bury(store, first, "it is gone already", at=NOW)
    assert inbox.dead_count(store) == 0


def test_hosts_may_be_left_out_of_what_waits(store: Store) -> None:
    for host in ("gpu-1", "gpu-2"):
        inbox.receive(store, batch(host, new_id(), 1, event(1), event(2)), at=NOW)
    waiting = inbox.unhandled(store, "me", [SELFPLAY], not_of={"gpu-1"}, limit=1)
    assert [each.event.host for each in waiting] == ["gpu-2"]


def test_what_is_old_is_forgotten_and_does_not_come_back(store: Store) -> None:
    epoch = new_id()
    old = batch("gpu-1", epoch, 1, event(1), {})
    inbox.receive(store, old, at=NOW)
    later = NOW + inbox.KEEP_SECONDS + 1
    inbox.receive(store, batch("gpu-1", epoch, 3, event(3)), at=later)
    assert inbox.prune(store, at=later) == 1
    assert inbox.receive(store, old, at=later).taken == 0
    assert (games(store), inbox.dead_count(store)) == ([3], 1)
    inbox.prune(store, at=NOW + inbox.KEEP_DEAD_SECONDS + 1)
    assert inbox.dead_count(store) == 0
    with store.reading() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(dead_letters)).scalar_one() == 0
