"""What follows from each event: asked for once, told once, and said to those whom it concerns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import sqlalchemy as sa

from ringrift_dagster.events.adapters import adapt
from ringrift_dagster.events.inbox import Told, handled, last_number, receive, unhandled
from ringrift_dagster.events.model import EventType
from ringrift_dagster.events.outbox import Batch, Entry
from ringrift_dagster.home import Home
from ringrift_dagster.manifest import overrides
from ringrift_dagster.manifest.inventory import Disk, ItemType
from ringrift_dagster.manifest.plane import Plane, open_plane
from ringrift_dagster.manifest.schema import deliveries, events
from ringrift_dagster.transfer import queue, rules
from ringrift_dagster.transfer.deferral import deferred
from ringrift_dagster.transfer.model import Priority
from ringrift_dagster.transfer.operations import Kind, State, Wanted
from ringrift_dagster.transfer.reactions import CONSUMER, REACTED_TO, Reaction, react
from tests.manifest.telling import digest_of, item, silent, tell

NOW = time.time()
HOUR = 3600.0
EPOCH = "00000000-0000-4000-8000-000000000001"
NPZ = "data/training/hex8_2p.npz"
HOSTS = """
sync_routing: {replication_target: 1}
hosts:
  main: {status: ready, ssh_host: 127.0.0.1, is_coordinator: true, role: coordinator, data_server_url: "http://127.0.0.1:9"}
  gpu-1: {status: ready, ssh_host: 127.0.0.1, role: gpu_training_primary, training_enabled: true, data_server_url: "http://127.0.0.1:9"}
  gpu-2: {status: ready, ssh_host: 127.0.0.1, role: gpu_selfplay, data_server_url: "http://127.0.0.1:9"}
"""


@pytest.fixture
def plane(tmp_path: Path, manifest_url: str) -> Iterator[Plane]:
    """Three hosts, none of which runs an agent: what they hold is told by the tests."""
    home = Home(tmp_path / "home")
    home.root.mkdir()
    (home.root / "distributed_hosts.yaml").write_text(HOSTS)
    with open_plane(home, url=manifest_url) as opened:
        for host in ("main", "gpu-1", "gpu-2"):
            tell(opened.store, host, at=NOW, disk=Disk(total=10**12, free=10**12))
        yield opened


@pytest.fixture
def happens(plane: Plane) -> Callable[..., Reaction]:
    """An event as a host tells it, and what follows."""

    def happen(type: str, **fields: Any) -> Reaction:
        told = tell_event(plane, type, **fields)
        reaction = react(plane, told, at=NOW)
        assert reaction is not None
        return reaction

    return happen


def tell_event(plane: Plane, type: str, **fields: Any) -> Told:
    event = adapt({"type": type, **fields}, host="gpu-1", at=NOW)
    sequence = last_number(plane.store) + 1
    entry = Entry(sequence=sequence, event=event.model_dump(mode="json"))
    receive(plane.store, Batch(host="gpu-1", epoch=EPOCH, floor=sequence - 1, entries=(entry,)), at=NOW)
    return next(each for each in unhandled(plane.store, CONSUMER, REACTED_TO) if each.event.id == event.id)


def hold(plane: Plane, host: str, content: str = "good", *, age: float = HOUR, path: str = NPZ, **facts: Any) -> str:
    tell(plane.store, host, [item(path, content, newest_game=NOW - age, samples=1000, **facts)], at=NOW, full=False)
    return digest_of(content)


def wanted(plane: Plane) -> set[tuple[str, str, Priority]]:
    return {(each.sha256, each.target, each.priority) for each in queue.listed(plane.store)}


def said(plane: Plane, kind: EventType) -> list[dict[str, Any]]:
    """The payloads of events of a type, with the hosts that they are to be delivered to."""
    with plane.store.reading() as connection:
        rows = connection.execute(sa.select(events.c.id, events.c.payload).where(events.c.type == kind.value)).all()
        lines = connection.execute(sa.select(deliveries.c.event, deliveries.c.target)).all()
    return [orjson.loads(row.payload) | {"to": sorted(target for event, target in lines if event == row.id)} for row in rows]


def test_a_training_start_brings_the_best_fresh_set_before_everything_else(plane: Plane, happens: Callable[..., Reaction]) -> None:
    hold(plane, "gpu-2", "older", age=9 * HOUR, path="data/training/old_hex8_2p.npz", quality=0.99)
    best = hold(plane, "gpu-2")
    reaction = happens("TRAINING_STARTED", config="hex8_2p", node_id="gpu-1")
    assert wanted(plane) == {(best, "gpu-1", Priority.CRITICAL)}
    assert reaction.urgent == {"gpu-1"}
    (rule,) = rules.stored(plane.store, at=NOW)
    assert (rule.sha256, rule.hosts) == (best, ("gpu-1",))


def test_what_the_host_holds_already_is_not_sent_but_told(plane: Plane, happens: Callable[..., Reaction]) -> None:
    best = hold(plane, "gpu-1")
    reaction = happens("training_started", config="hex8_2p", host="gpu-1")
    assert (wanted(plane), reaction.operations) == (set(), [])
    (told,) = said(plane, EventType.DATA_AVAILABLE)
    assert (told["sha256"], told["path"], told["to"]) == (best, NPZ, ["host gpu-1"])


def test_a_host_that_does_not_answer_just_now_still_holds_what_it_held(plane: Plane, happens: Callable[..., Reaction]) -> None:
    best = hold(plane, "gpu-1")
    hold(plane, "gpu-2")
    silent(plane.store, "gpu-1", at=NOW)
    happens("TRAINING_STARTED", config="hex8_2p", host="gpu-1")
    happens("DATA_NEEDED", config="hex8_2p", host="gpu-1", min_samples=1)
    assert wanted(plane) == set()
    assert {(told["sha256"], told["path"]) for told in said(plane, EventType.DATA_AVAILABLE)} == {(best, NPZ)}


def test_an_old_set_of_the_same_name_does_not_count_as_held(plane: Plane, happens: Callable[..., Reaction]) -> None:
    hold(plane, "gpu-1", "old", age=30 * HOUR)
    best = hold(plane, "gpu-2")
    happens("TRAINING_STARTED", config="hex8_2p", node_id="gpu-1")
    assert wanted(plane) == {(best, "gpu-1", Priority.CRITICAL)}


@pytest.mark.parametrize("age", [None, 100 * HOUR])
def test_without_fresh_data_the_job_is_told_that_it_is_blocked_and_why(
    age: float | None, plane: Plane, happens: Callable[..., Reaction]
) -> None:
    if age is not None:
        hold(plane, "gpu-2", age=age)
    reaction = happens("TRAINING_STARTED", config="hex8_2p", node_id="gpu-1")
    assert wanted(plane) == set()
    assert reaction.exports == {"hex8_2p"}
    (blocked,) = said(plane, EventType.TRAINING_BLOCKED_BY_DATA)
    assert blocked["to"] == ["host gpu-1"]
    assert ("100.0 h old" if age else "no sound training set") in blocked["reason"]
    (needed,) = said(plane, EventType.SELFPLAY_NEEDED)
    assert "host gpu-2" in needed["to"]


def test_an_override_lets_old_data_through_and_is_named(plane: Plane, happens: Callable[..., Reaction]) -> None:
    old = hold(plane, "gpu-2", age=100 * HOUR)
    overrides.grant(plane.store, "hex8_2p", who="Ada", why="a drill", hours=1, at=NOW - 1)
    reaction = happens("TRAINING_STARTED", config="hex8_2p", node_id="gpu-1")
    assert wanted(plane) == {(old, "gpu-1", Priority.CRITICAL)}
    assert "override by Ada" in reaction.outcome


def test_the_same_event_again_does_nothing(plane: Plane) -> None:
    hold(plane, "gpu-2")
    told = tell_event(plane, "TRAINING_STARTED", config="hex8_2p", node_id="gpu-1")
    assert react(plane, told, at=NOW) is not None
    before = wanted(plane)
    assert react(plane, told, at=NOW) is None
    assert (wanted(plane), len(rules.stored(plane.store))) == (before, 1)


def test_a_crash_after_asking_and_before_the_mark_changes_nothing(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    hold(plane, "gpu-2")
    told = tell_event(plane, "TRAINING_STARTED", config="hex8_2p", node_id="gpu-1")
    with monkeypatch.context() as patch:
        patch.setattr("ringrift_dagster.transfer.reactions.mark_handled", _crash)
        with pytest.raises(KeyboardInterrupt):
            react(plane, told, at=NOW)
    assert CONSUMER not in handled(plane.store, told.number)
    assert react(plane, told, at=NOW) is not None
    assert len(wanted(plane)) == 1


def _crash(*_: object, **__: object) -> bool:
    raise KeyboardInterrupt


def test_a_job_that_ends_gives_up_its_data(plane: Plane, happens: Callable[..., Reaction]) -> None:
    hold(plane, "gpu-2")
    happens("TRAINING_STARTED", config="hex8_2p", node_id="gpu-1")
    happens("TRAINING_COMPLETED", config="hex8_2p", node_id="gpu-1")
    assert rules.stored(plane.store) == []


def test_a_threshold_exports_and_places_before_the_job(plane: Plane, happens: Callable[..., Reaction]) -> None:
    best = hold(plane, "gpu-2")
    reaction = happens("TRAINING_THRESHOLD_REACHED", config="hex8_2p", games=500)
    assert reaction.exports == {"hex8_2p"}
    assert (best, "gpu-1", Priority.HIGH) in wanted(plane)


def test_needed_data_is_the_best_that_fits(plane: Plane, happens: Callable[..., Reaction]) -> None:
    tell(
        plane.store,
        "gpu-2",
        [
            item("data/training/a_hex8_2p.npz", "few", samples=10, quality=0.9, newest_game=NOW - HOUR),
            item("data/training/b_hex8_2p.npz", "fits", samples=5000, quality=0.5, newest_game=NOW - HOUR),
            item("data/training/c_hex8_2p.npz", "too old", samples=5000, quality=0.8, newest_game=NOW - 50 * HOUR),
        ],
        at=NOW,
    )
    happens("DATA_NEEDED", config="hex8_2p", host="gpu-1", min_samples=1000, max_age=10 * HOUR)
    assert wanted(plane) == {(digest_of("fits"), "gpu-1", Priority.HIGH)}
    assert said(plane, EventType.SELFPLAY_NEEDED) == []


def test_needed_data_that_nobody_has_asks_for_selfplay(plane: Plane, happens: Callable[..., Reaction]) -> None:
    happens("DATA_NEEDED", config="hex8_2p", host="gpu-1", min_samples=1000)
    assert len(said(plane, EventType.SELFPLAY_NEEDED)) == 1


def test_stale_data_is_replaced_and_the_pipeline_runs(plane: Plane, happens: Callable[..., Reaction]) -> None:
    hold(plane, "gpu-1", "old", age=60 * HOUR)
    best = hold(plane, "gpu-2")
    reaction = happens("DATA_STALE", board_type="hex8", num_players=2, node_id="gpu-1", data_age_hours=60)
    assert wanted(plane) == {(best, "gpu-1", Priority.HIGH)}
    assert reaction.exports == {"hex8_2p"}


def test_a_promoted_model_goes_to_every_host(plane: Plane, happens: Callable[..., Reaction]) -> None:
    path = "models/canonical_hex8_2p.pth"
    model = hold(plane, "gpu-1", "weights", path=path, type=ItemType.MODEL)
    happens("MODEL_PROMOTED", config_key="hex8_2p", model_path=f"/home/ubuntu/ringrift/ai-service/{path}", node_id="gpu-1")
    assert {(sha256, target) for sha256, target, _ in wanted(plane)} >= {(model, "gpu-2"), (model, "main")}
    assert [rule.sha256 for rule in rules.stored(plane.store)] == [model]
    promoted = [each for each in said(plane, EventType.MODEL_PROMOTED) if each["to"]]
    assert [(each["sha256"], each["to"]) for each in promoted] == [(model, ["host gpu-1", "host gpu-2", "host main"])]


def test_a_promotion_that_failed_changes_nothing(plane: Plane, happens: Callable[..., Reaction]) -> None:
    path = "models/canonical_hex8_2p.pth"
    hold(plane, "gpu-1", "weights", path=path, type=ItemType.MODEL)
    reaction = happens("PROMOTION_COMPLETE", config="hex8_2p", model_path=path, success=False)
    assert "it failed" in reaction.outcome
    assert (wanted(plane), rules.stored(plane.store)) == (set(), [])
    assert [each for each in said(plane, EventType.MODEL_PROMOTED) if each["to"]] == []


def test_a_parent_of_another_config_goes_along(plane: Plane, happens: Callable[..., Reaction]) -> None:
    hold(plane, "gpu-2")
    parent = hold(plane, "gpu-2", "weights", path="models/canonical_square8_2p.pth", type=ItemType.MODEL)
    happens("TRAINING_STARTED", config="hex8_2p", node_id="gpu-1", model_path="models/canonical_square8_2p.pth")
    assert (parent, "gpu-1", Priority.CRITICAL) in wanted(plane)


def test_leases_at_a_host_that_is_gone_are_returned(plane: Plane, happens: Callable[..., Reaction]) -> None:
    queue.submit(plane.store, Wanted(Kind.SYNC, hold(plane, "gpu-2"), "gpu-1", Priority.NORMAL, 10), at=NOW)
    (held,) = queue.lease(plane.store, "run", "gpu-1", at=NOW)
    reaction = happens("HOST_OFFLINE", host="gpu-1", reason="preempted")
    assert queue.get(plane.store, held.id).state == State.QUEUED
    assert "1 leases returned" in reaction.outcome


def test_pressure_defers_the_least_urgent_until_it_is_released(plane: Plane, happens: Callable[..., Reaction]) -> None:
    happens("BACKPRESSURE_ACTIVATED", node_id="gpu-2", level="high", reason="queue")
    assert deferred(plane.store, NOW + 1) == {Priority.LOW, Priority.COLD_STORAGE}
    happens("BACKPRESSURE_RELEASED", node_id="gpu-2", previous_level="high")
    assert deferred(plane.store, NOW + 3600) == frozenset()


def test_a_host_that_nobody_declared_is_sent_nothing(plane: Plane, happens: Callable[..., Reaction]) -> None:
    hold(plane, "gpu-2")
    reaction = happens("TRAINING_STARTED", config="hex8_2p", node_id="stranger")
    assert wanted(plane) == set()
    assert "names no host stranger" in reaction.outcome
