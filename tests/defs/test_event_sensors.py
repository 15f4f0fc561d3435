"""Sensors that react: seen at once, handled once, in order; what follows becomes runs and is observed."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ringrift_dagster.defs.cluster import sensors
from ringrift_dagster.defs.cluster.sensors import events_sensor, second_events_sensor
from ringrift_dagster.defs.replication.classes import CLASS_TAG
from ringrift_dagster.defs.resources import HomeResource, PlaneResource
from ringrift_dagster.events import inbox
from ringrift_dagster.events.adapters import adapt
from ringrift_dagster.events.ids import new_id
from ringrift_dagster.events.inbox import receive
from ringrift_dagster.events.outbox import Batch, DeadLetter, Entry
from ringrift_dagster.games.database import file_sha256
from ringrift_dagster.home import Home
from ringrift_dagster.manifest import overrides
from ringrift_dagster.manifest.queries import where
from ringrift_dagster.manifest.staleness import Staleness, of_config
from ringrift_dagster.manifest.store import Store
from ringrift_dagster.transfer import reactions
from ringrift_dagster.transfer.operations import State
from ringrift_dagster.transfer.queue import get, listed
from tests.agents import RunningAgent, running_agent

from .conftest import NPZ, declare

EPOCH = "00000000-0000-4000-8000-000000000001"
Tick = Callable[..., dg.SensorResult]


@pytest.fixture
def store(home: Home) -> Iterator[Store]:
    """The home's manifest."""
    with PlaneResource(home=HomeResource()).manifest() as opened:
        yield opened


@pytest.fixture
def look(instance: dg.DagsterInstance, location: dg.Definitions, home: Home, monkeypatch: pytest.MonkeyPatch) -> Tick:
    """One tick, which waits for nothing unless it is told to."""
    monkeypatch.setattr(sensors, "LONGEST_SECONDS", 0.0)
    monkeypatch.setattr(sensors, "WAIT_SECONDS", 0.0)
    monkeypatch.setattr(sensors, "_asked", {})
    monkeypatch.setattr(sensors, "_failing", {})

    def tick(cursor: str | None = None, sensor: dg.SensorDefinition = events_sensor) -> dg.SensorResult:
        resources = {"plane": PlaneResource(home=HomeResource())}
        with dg.build_sensor_context(instance=instance, cursor=cursor, resources=resources, definitions=location) as context:
            result = sensor(context)
        assert isinstance(result, dg.SensorResult)
        return result

    return tick


def tell(store: Store, sequence: int, type: str, host: str = "gpu-1", **fields: Any) -> None:
    """A host's event arrives."""
    event = adapt({"type": type, **fields}, host=host, at=time.time())
    entry = Entry(sequence=sequence, event=event.model_dump(mode="json"))
    receive(store, Batch(host=host, epoch=EPOCH, floor=0, entries=(entry,)), at=fields.get("at", time.time()))


def fails_for(failing: str, patch: pytest.MonkeyPatch) -> None:
    """Whatever is to follow from events about a config fails."""

    def judge(store: Store, config: str, *rest: Any) -> Staleness:
        if config == failing:
            raise RuntimeError("out of luck")
        return of_config(store, config, *rest)

    patch.setattr(reactions, "of_config", judge)


def told(result: dg.SensorResult, kind: type) -> list[Any]:
    return [event for event in result.asset_events if isinstance(event, kind)]


def test_nothing_told_nothing_done(home: Home, look: Tick) -> None:
    declare(home, gpu_1=None)
    result = look()
    assert (list(result.run_requests or []), list(result.asset_events)) == ([], [])


def test_a_blocked_training_asks_for_the_pipeline_once(home: Home, store: Store, look: Tick) -> None:
    declare(home, gpu_1=None)
    tell(store, 1, "TRAINING_STARTED", config="hex8_2p", node_id="gpu-1")
    first = look()
    asked = [(request.job_name, request.partition_key) for request in first.run_requests or []]
    assert asked == [("training_data_job", "hex8_2p")]
    (seen,) = told(first, dg.AssetObservation)
    assert "blocked: no sound training set" in str(seen.metadata["what followed"].value)
    assert not look(first.cursor).run_requests
    assert not look(None, second_events_sensor).run_requests


def test_an_event_that_comes_while_a_tick_waits_is_seen_at_once(
    home: Home, store: Store, look: Tick, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(home, gpu_1=None)
    monkeypatch.setattr(sensors, "LONGEST_SECONDS", 30.0)
    monkeypatch.setattr(sensors, "WAIT_SECONDS", 30.0)
    later = threading.Timer(0.3, tell, (store, 1, "DATA_STALE"), {"config": "hex8_2p", "node_id": "gpu-1"})
    later.start()
    with sensors._watchers.another(30.0, 30.0):
        result = look()
    later.join()
    assert len(told(result, dg.AssetObservation)) == 1


def test_with_news_a_tick_stays_until_another_waits(home: Home, store: Store, look: Tick, monkeypatch: pytest.MonkeyPatch) -> None:
    declare(home, gpu_1=None)
    monkeypatch.setattr(sensors, "LONGEST_SECONDS", 30.0)
    tell(store, 1, "DATA_STALE", config="hex8_2p", node_id="gpu-1")
    with ExitStack() as stack:

        def second() -> None:
            tell(store, 2, "DATA_STALE", config="square8_2p", node_id="gpu-1")
            stack.enter_context(sensors._watchers.another(30.0, 30.0))

        later = threading.Timer(0.3, second)
        later.start()
        result = look()
        later.join()
    (seen,) = told(result, dg.AssetObservation)
    assert seen.metadata["events"].value == 2
    assert {request.partition_key for request in result.run_requests or []} == {"hex8_2p", "square8_2p"}


def test_what_nobody_understood_is_a_yellow_check(home: Home, store: Store, look: Tick) -> None:
    declare(home, gpu_1=None)
    letter = DeadLetter(id=new_id(), reason="unknown_type", detail="no such event", raw='{"type": "WHAT"}', at=time.time())
    receive(store, Batch(host="gpu-1", epoch=EPOCH, floor=0, entries=(Entry(sequence=1, dead=letter),)), at=time.time())
    tell(store, 2, "HOST_ONLINE", host_id="gpu-1", node_id="gpu-1")
    (check,) = told(look(), dg.AssetCheckEvaluation)
    assert not check.passed
    assert "unknown_type" in str(check.metadata["dead letters"].value)


def test_an_event_that_fails_holds_back_only_its_own_host(
    home: Home, store: Store, look: Tick, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(home, gpu_1=None, gpu_2=None)
    tell(store, 1, "TRAINING_STARTED", config="hex8_2p", node_id="gpu-1")
    tell(store, 2, "DATA_STALE", config="hex8_2p", node_id="gpu-1")
    tell(store, 1, "DATA_STALE", "gpu-2", config="square8_2p", node_id="gpu-2")

    with monkeypatch.context() as patch:
        fails_for("hex8_2p", patch)
        first = look()
    assert [request.partition_key for request in first.run_requests or []] == ["square8_2p"]
    again = look(first.cursor)
    assert [request.partition_key for request in again.run_requests or []] == ["hex8_2p"]


def test_a_host_whose_event_fails_keeps_nobody_back_however_much_it_told(
    home: Home, store: Store, look: Tick, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(home, gpu_1=None, gpu_2=None)
    monkeypatch.setattr(sensors, "AT_ONCE", 3)
    for sequence in range(1, 8):
        tell(store, sequence, "DATA_STALE", config="hex8_2p", node_id="gpu-1")
    tell(store, 1, "DATA_STALE", "gpu-2", config="square8_2p", node_id="gpu-2")
    fails_for("hex8_2p", monkeypatch)
    assert [request.partition_key for request in look().run_requests or []] == ["square8_2p"]


def test_an_event_that_waited_for_long_is_tried_as_often_as_any(
    home: Home, store: Store, look: Tick, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(home, gpu_1=None)
    tell(store, 1, "DATA_STALE", config="hex8_2p", node_id="gpu-1", at=time.time() - 7200)
    with monkeypatch.context() as patch:
        fails_for("hex8_2p", patch)
        assert not look().run_requests
    assert inbox.dead(store) == []
    assert [request.partition_key for request in look().run_requests or []] == ["hex8_2p"]


def test_an_event_that_fails_for_too_long_is_a_dead_letter_and_a_yellow_check(
    home: Home, store: Store, look: Tick, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(home, gpu_1=None)
    monkeypatch.setattr(sensors, "GIVE_UP_SECONDS", -1.0)
    tell(store, 1, "DATA_STALE", config="hex8_2p", node_id="gpu-1")
    tell(store, 2, "DATA_STALE", config="square8_2p", node_id="gpu-1")
    fails_for("hex8_2p", monkeypatch)
    first = look()
    (letter,) = inbox.dead(store)
    assert (letter.reason, letter.detail) == ("not_done", "RuntimeError: out of luck")
    second = look(first.cursor)
    assert [request.partition_key for request in second.run_requests or []] == ["square8_2p"]
    (check,) = told(second, dg.AssetCheckEvaluation)
    assert not check.passed


@pytest.fixture
def pair(home: Home, tmp_path: Path) -> Iterator[dict[str, RunningAgent]]:
    """Two real agents; `gpu-1` holds a training set, `gpu-2` nothing."""
    source = tmp_path / "gpu-1/data/training/square8_3p.npz"
    source.parent.mkdir(parents=True)
    shutil.copyfile(NPZ, source)
    (tmp_path / "gpu-2").mkdir()
    with running_agent(tmp_path / "gpu-1", "gpu-1") as first, running_agent(tmp_path / "gpu-2", "gpu-2") as second:
        declare(home, gpu_1=first.url, gpu_2=second.url)
        yield {"gpu-1": first, "gpu-2": second}


def test_a_training_start_is_posted_to_the_agent_within_the_tick(pair: dict[str, RunningAgent], store: Store, look: Tick) -> None:
    with PlaneResource(home=HomeResource()).open() as plane:
        plane.refresh()
    overrides.grant(store, "square8_3p", who="tests", why="a recorded game is old", hours=1, at=time.time())
    tell(store, 1, "TRAINING_STARTED", host="gpu-2", config="square8_3p", node_id="gpu-2")
    result = look()
    ended = listed(store, states=list(State))
    assert [(each.target, each.priority.name) for each in ended] == [("gpu-2", "CRITICAL")]
    run = [(request.partition_key, request.tags[CLASS_TAG]) for request in result.run_requests or []]
    if get(store, ended[0].id).state == State.DONE:
        assert [made.partition for made in told(result, dg.AssetMaterialization)] == ["gpu-2"]
        assert "gpu-2" in {copy.location for copy in where(store, file_sha256(NPZ)).reachable}
    else:
        assert ended[0].order_id is not None
        assert run == [("gpu-2", "CRITICAL")]
