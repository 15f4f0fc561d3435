"""Replication in Dagster: what waits becomes runs, one a host and class; a run brings it, verified, and says how."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest

from ringrift_dagster.defs.replication import sensors
from ringrift_dagster.defs.replication.classes import CLASS_TAG, REPLICATION_TAG, priorities_of, tags_of
from ringrift_dagster.defs.replication.sensors import demands, replication_queue_sensor
from ringrift_dagster.defs.resources import HomeResource, PlaneResource
from ringrift_dagster.games.database import file_sha256
from ringrift_dagster.home import Home
from ringrift_dagster.manifest.plane import load_cluster
from ringrift_dagster.manifest.queries import where
from ringrift_dagster.manifest.store import Store
from ringrift_dagster.transfer.model import Priority
from ringrift_dagster.transfer.operations import Kind, State, Wanted
from ringrift_dagster.transfer.queue import get, submit
from tests.agents import RunningAgent, running_agent
from tests.manifest.telling import silent, tell

from .conftest import NPZ, QUIET, checks, declare, materialized

SHA = "ab" * 32


@pytest.fixture
def store(home: Home) -> Iterator[Store]:
    """The home's manifest."""
    with PlaneResource(home=HomeResource()).manifest() as opened:
        yield opened


@pytest.fixture
def look(instance: dg.DagsterInstance, location: dg.Definitions, home: Home, monkeypatch: pytest.MonkeyPatch):
    """One tick of the sensor, which does not wait for work."""
    monkeypatch.setattr(sensors, "WAIT_SECONDS", 0.0)

    def tick() -> dg.SensorResult:
        resources = {"plane": PlaneResource(home=HomeResource())}
        with dg.build_sensor_context(instance=instance, resources=resources, definitions=location) as context:
            result = replication_queue_sensor(context)
        assert isinstance(result, dg.SensorResult)
        return result

    return tick


def ask_for(store: Store, target: str, priority: Priority, sha256: str = SHA, kind: Kind = Kind.PRELOAD) -> int:
    return submit(store, Wanted(kind, sha256, target, priority, 100), at=time.time()).id


def test_a_run_of_a_class_leases_it_and_whatever_is_more_urgent() -> None:
    assert priorities_of(tags_of("gpu-1", Priority.CRITICAL)) == (Priority.CRITICAL,)
    assert priorities_of(tags_of("gpu-1", Priority.NORMAL)) == (Priority.CRITICAL, Priority.HIGH, Priority.NORMAL)
    assert priorities_of({}) == tuple(Priority)
    assert priorities_of({CLASS_TAG: "PIPELINE"}) == tuple(Priority)


def test_each_host_and_class_that_waits_gets_one_run_the_urgent_first(
    home: Home, store: Store, look: Callable[[], dg.SensorResult]
) -> None:
    declare(home, gpu_1=None, gpu_2=None)
    for number in range(3):
        ask_for(store, "gpu-1", Priority.LOW, f"{number:064x}")
    ask_for(store, "gpu-2", Priority.CRITICAL)
    ask_for(store, "gpu-1", Priority.CRITICAL)

    result = look()

    asked = [(request.partition_key, request.tags[CLASS_TAG], request.tags["dagster/priority"]) for request in result.run_requests]
    assert asked == [("gpu-1", "CRITICAL", "100"), ("gpu-2", "CRITICAL", "100"), ("gpu-1", "LOW", "-50")]
    assert [added.partition_keys for added in result.dynamic_partitions_requests] == [["gpu-1", "gpu-2"]]


def test_nothing_that_waits_asks_for_nothing(home: Home, look: Callable[[], dg.SensorResult]) -> None:
    declare(home, gpu_1=None)
    result = look()
    assert not result.run_requests
    assert result.skip_reason and "nothing waits" in result.skip_reason.skip_message


@pytest.mark.parametrize(
    ("status", "asks"),
    [
        (dg.DagsterRunStatus.STARTED, False),
        (dg.DagsterRunStatus.NOT_STARTED, False),
        (dg.DagsterRunStatus.FAILURE, False),
        (dg.DagsterRunStatus.SUCCESS, True),
    ],
)
def test_a_class_is_left_alone_while_a_run_is_under_way_or_has_just_failed(
    status: dg.DagsterRunStatus,
    asks: bool,
    home: Home,
    store: Store,
    instance: dg.DagsterInstance,
    look: Callable[[], dg.SensorResult],
) -> None:
    declare(home, gpu_1=None)
    ask_for(store, "gpu-1", Priority.HIGH)
    instance.add_run(
        dg.DagsterRun("replication_job", "run-1", status=dg.DagsterRunStatus.NOT_STARTED, tags=tags_of("gpu-1", Priority.HIGH))
    )
    ends = {
        dg.DagsterRunStatus.STARTED: dg.DagsterEventType.RUN_START,
        dg.DagsterRunStatus.FAILURE: dg.DagsterEventType.RUN_FAILURE,
        dg.DagsterRunStatus.SUCCESS: dg.DagsterEventType.RUN_SUCCESS,
    }
    if status in ends:
        instance.report_dagster_event(dg.DagsterEvent(ends[status].value, "replication_job", message="told"), "run-1")

    assert bool(look().run_requests) is asks


def test_a_place_that_is_away_gets_a_run_now_and_then_and_at_once_when_it_is_back(
    home: Home, store: Store, instance: dg.DagsterInstance, look: Callable[[], dg.SensorResult]
) -> None:
    declare(home, gpu_1=None)
    with PlaneResource(home=HomeResource()).open():
        tell(store, "gpu-1", at=time.time() - 120)
        silent(store, "gpu-1", at=time.time() - 60)
        silent(store, "gpu-1", at=time.time())
    ask_for(store, "gpu-1", Priority.CRITICAL)
    assert len(look().run_requests or []) == 1, "it may be back"
    tags = tags_of("gpu-1", Priority.CRITICAL)
    instance.add_run(dg.DagsterRun("replication_job", "run-1", status=dg.DagsterRunStatus.NOT_STARTED, tags=tags))
    instance.report_dagster_event(
        dg.DagsterEvent(dg.DagsterEventType.RUN_SUCCESS.value, "replication_job", message="it was silent"), "run-1"
    )
    assert not look().run_requests
    tell(store, "gpu-1", at=time.time())
    assert len(look().run_requests or []) == 1


def test_a_broken_hosts_file_is_said_and_starts_nothing(home: Home, look: Callable[[], dg.SensorResult]) -> None:
    declare(home, gpu_1=None).write_text("hosts: [what")
    result = look()
    assert not result.run_requests
    assert result.skip_reason and "nothing can be moved" in result.skip_reason.skip_message


def test_drives_are_carried_for_by_their_host_and_places_without_a_carrier_by_nobody(home: Home) -> None:
    path = declare(home, gpu_1=None)
    path.write_text(
        path.read_text()
        + "sync_routing:\n  s3: {enabled: true, bucket: cold}\n  allowed_external_storage: [{name: owc, host: gpu-1, path: /mnt}]\n"
    )
    waiting = {("owc", Priority.LOW): 1, ("cold", Priority.COLD_STORAGE): 2, ("gone", Priority.HIGH): 1}
    found = [(demand.target, demand.host) for demand in demands(waiting, load_cluster(home))]
    assert found == [("owc", "gpu-1"), ("cold", None)]


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


def carried_out(location: dg.Definitions, instance: dg.DagsterInstance, tags: dict[str, str]) -> dg.ExecuteInProcessResult:
    """A replication run of `gpu-2` that waits for nothing more."""
    return location.resolve_job_def("replication_job").execute_in_process(
        instance=instance,
        partition_key="gpu-2",
        tags=tags,
        run_config=QUIET | {"ops": {"host_replicas": {"config": {"idle_seconds": 0}}}},
    )


def test_a_run_brings_what_was_asked_for_and_says_how(
    pair: dict[str, RunningAgent], store: Store, location: dg.Definitions, instance: dg.DagsterInstance
) -> None:
    plane = PlaneResource(home=HomeResource())
    sha256 = file_sha256(NPZ)
    with plane.open() as opened:
        opened.refresh()
    number = ask_for(store, "gpu-2", Priority.CRITICAL, sha256)
    instance.add_dynamic_partitions("hosts", ["gpu-1", "gpu-2"])

    result = carried_out(location, instance, tags_of("gpu-2", Priority.CRITICAL))

    assert get(store, number).state == State.DONE
    copies = {copy.location: copy.path for copy in where(store, sha256).reachable}
    assert set(copies) == {"gpu-1", "gpu-2"}
    assert file_sha256(pair["gpu-2"].root / copies["gpu-2"]) == sha256
    made = materialized(result)["host_replicas"]
    assert made.partition == "gpu-2"
    assert made.metadata["dagster/row_count"].value == 1
    assert "| gpu-2 |" in str(made.metadata["items"].value) and "http" in str(made.metadata["items"].value)
    assert checks(result)["every_byte_verified"].passed


def test_a_host_that_does_not_answer_is_no_proof_that_all_is_well(
    pair: dict[str, RunningAgent], store: Store, location: dg.Definitions, instance: dg.DagsterInstance
) -> None:
    with PlaneResource(home=HomeResource()).open() as opened:
        opened.refresh()
    ask_for(store, "gpu-2", Priority.CRITICAL, file_sha256(NPZ))
    pair["gpu-2"].kill()
    instance.add_dynamic_partitions("hosts", ["gpu-1", "gpu-2"])
    result = carried_out(location, instance, tags_of("gpu-2", Priority.CRITICAL))
    verdict = checks(result)["every_byte_verified"]
    assert not verdict.passed and "gpu-2" in str(verdict.description)


def test_a_run_with_nothing_to_do_materialises_nothing(
    pair: dict[str, RunningAgent], location: dg.Definitions, instance: dg.DagsterInstance
) -> None:
    instance.add_dynamic_partitions("hosts", ["gpu-2"])
    result = carried_out(location, instance, {})
    assert result.success
    assert materialized(result) == {}


def test_the_tags_of_a_run_say_whose_turn_it_is() -> None:
    assert tags_of("gpu-1", Priority.COLD_STORAGE)[REPLICATION_TAG] == "gpu-1 COLD_STORAGE"
