"""The sensors over the manifest: what happened is told once and briefly, and idle clusters cost nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest

from ringrift_dagster.defs.manifest.events import MAX_EVENTS, events
from ringrift_dagster.defs.manifest.sensors import host_change_sensor, manifest_refresh_sensor
from ringrift_dagster.defs.resources import HomeResource, PlaneResource
from ringrift_dagster.home import Home
from ringrift_dagster.manifest.changes import changes_since, last_change
from ringrift_dagster.manifest.inventory import Inventory, NoAnswer
from ringrift_dagster.manifest.refresh import Refreshed
from ringrift_dagster.manifest.sources.tree import DiskSource
from ringrift_dagster.manifest.store import Store
from tests.agents import running_agent
from tests.manifest.telling import dies, item, tell

from .conftest import declare, store_training_set

Tick = Callable[..., dg.SensorResult]


@pytest.fixture
def refresh(instance: dg.DagsterInstance, location: dg.Definitions, home: Home) -> Tick:
    return lambda cursor=None: evaluate(manifest_refresh_sensor, instance, location, cursor)


@pytest.fixture
def follow(instance: dg.DagsterInstance, location: dg.Definitions, home: Home) -> Tick:
    return lambda cursor=None: evaluate(host_change_sensor, instance, location, cursor)


@pytest.fixture
def manifest(home: Home) -> Iterator[Store]:
    """The home's manifest."""
    with PlaneResource(home=HomeResource()).manifest() as store:
        yield store


def evaluate(sensor: dg.SensorDefinition, instance: dg.DagsterInstance, location: dg.Definitions, cursor: str | None):
    resources = {"plane": PlaneResource(home=HomeResource())}
    with dg.build_sensor_context(instance=instance, cursor=cursor, resources=resources, definitions=location) as context:
        result = sensor(context)
    assert isinstance(result, dg.SensorResult)
    return result


def told(result: dg.SensorResult, key: str) -> list[dg.AssetObservation]:
    return [
        event for event in result.asset_events if isinstance(event, dg.AssetObservation) and event.asset_key.to_user_string() == key
    ]


def failed(result: dg.SensorResult) -> list[str]:
    return [event.check_name for event in result.asset_events if isinstance(event, dg.AssetCheckEvaluation) and not event.passed]


def partitions(result: dg.SensorResult) -> tuple[list[str], list[str]]:
    """Those to add and those to delete."""
    requests = result.dynamic_partitions_requests or []
    added = [key for request in requests if isinstance(request, dg.AddDynamicPartitionsRequest) for key in request.partition_keys]
    gone = [key for request in requests if isinstance(request, dg.DeleteDynamicPartitionsRequest) for key in request.partition_keys]
    return added, gone


def test_a_new_training_set_is_told_once(refresh: Tick, home: Home) -> None:
    store_training_set(home)
    first = refresh()
    (observation,) = told(first, "data_manifest")
    assert "1 REPLICAS_CHANGED" in (observation.description or "")
    assert "datasets/square8_3p.npz" in str(observation.metadata["what changed"].value)
    assert len(first.run_requests or []) == 1
    second = refresh(first.cursor)
    assert (second.asset_events, second.run_requests) == ([], [])
    assert second.skip_reason.skip_message == "nothing changed; 1 of 1 locations answered"
    assert second.cursor == first.cursor


def test_a_place_that_told_a_part_is_named_as_such(refresh: Tick, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    cursor = refresh().cursor

    def telling(source: DiskSource, *_: object) -> Inventory:
        raise NoAnswer(source.location, "unfinished", "2,000 entries so far")

    monkeypatch.setattr(DiskSource, "read", telling)
    told = refresh(cursor)
    assert told.skip_reason.skip_message == "nothing changed; 0 of 1 locations answered; 1 told a part and go on"


def test_more_copies_are_observed_and_cost_no_run(refresh: Tick, home: Home) -> None:
    cursor = refresh().cursor
    store_training_set(home)
    result = refresh(cursor)
    assert len(told(result, "data_manifest")) == 1
    assert not result.run_requests


def test_a_run_that_waits_is_enough(refresh: Tick, home: Home, instance: dg.DagsterInstance, location: dg.Definitions) -> None:
    job = location.resolve_job_def("manifest_job")
    run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.NOT_STARTED)
    assert not refresh().run_requests
    instance.delete_run(run.run_id)
    assert refresh().run_requests


def test_a_host_that_dies_is_told_with_what_only_it_had(refresh: Tick, home: Home, tmp_path: Path, manifest: Store) -> None:
    root = tmp_path / "node"
    (root / "data/training").mkdir(parents=True)
    store_training_set(home).rename(root / "data/training/square8_3p.npz")
    with running_agent(root, "vast-1") as agent:
        declare(home, vast_1=agent.url)
        alive = refresh()
        agent.kill()
    (host,) = told(alive, "host_replicas")
    assert host.partition == "vast-1"
    assert (host.metadata["liveness"].value, host.metadata["replicas"].value) == ("ONLINE", 1)
    assert "square8_3p" in str(host.metadata["holds"].value)

    dies(manifest, "vast-1", at=time.time())
    dead = refresh(alive.cursor)

    (host,) = told(dead, "host_replicas")
    assert (host.partition, host.metadata["liveness"].value) == ("vast-1", "OFFLINE")
    assert failed(dead) == ["nothing_stranded"]
    (request,) = dead.run_requests or []
    assert request.run_key != (alive.run_requests or [])[0].run_key


def test_a_broken_hosts_file_stops_the_asking_and_says_why(refresh: Tick, home: Home) -> None:
    declare(home).write_text("hosts: [vast-1]\n")
    result = refresh("7")
    assert "distributed_hosts.yaml:1: hosts" in result.skip_reason.skip_message
    assert result.cursor == "7"


@pytest.mark.parametrize("cursor", [None, "999999", "not a number"])
def test_a_cursor_of_another_manifest_starts_over(refresh: Tick, home: Home, cursor: str | None) -> None:
    store_training_set(home)
    result = refresh(cursor)
    assert len(told(result, "data_manifest")) == 1
    assert int((result.cursor or "0").partition(" ")[0]) > 0


def test_many_changes_make_few_events(refresh: Tick, home: Home, manifest: Store) -> None:
    names = [f"vast-{number}" for number in range(30)]
    declare(home, **dict.fromkeys(names))
    plane = PlaneResource(home=HomeResource())
    with plane.open() as opened:
        for name in names:
            tell(manifest, name, [item("a.npz", name)], at=1)
            dies(manifest, name, at=50)
        made = events(opened.store, changes_since(manifest, 0), Refreshed(0.0, 0))
    assert len(made) <= MAX_EVENTS
    (check,) = [event for event in made if isinstance(event, dg.AssetCheckEvaluation)]
    assert (check.check_name, check.metadata["items"].value) == ("nothing_stranded", 30)
    last = made[-1]
    assert isinstance(last, dg.AssetObservation)
    assert (last.partition, last.description) == (None, "24 more hosts changed")


def test_what_came_back_in_the_meantime_fails_nothing(home: Home, manifest: Store) -> None:
    declare(home, vast_1=None)
    with PlaneResource(home=HomeResource()).open():
        tell(manifest, "vast-1", [item("a.npz", "a")], at=1)
        dies(manifest, "vast-1", at=50)
        tell(manifest, "vast-1", [item("a.npz", "a")], at=70)
    changes = changes_since(manifest, 0)
    assert {"ORPHAN_DETECTED", "ORPHANS_RESOLVED"} <= {change.kind for change in changes}
    made = events(manifest, changes, Refreshed(0.0, 0))
    assert not [event for event in made if isinstance(event, dg.AssetCheckEvaluation)]


def test_partitions_follow_the_hosts_file(follow: Tick, home: Home, instance: dg.DagsterInstance) -> None:
    assert partitions(follow()) == ([], [])
    path = declare(home, vast_1=None, vast_2=None, nebius_1=None)
    first = follow()
    assert partitions(first) == (["vast-1", "vast-2", "nebius-1"], [])
    instance.add_dynamic_partitions("hosts", ["vast-1", "vast-2", "nebius-1"])
    assert partitions(follow(first.cursor)) == ([], [])
    declare(home, vast_2=None, nebius_1=None, vast_3=None)
    assert partitions(follow(first.cursor)) == (["vast-3"], ["vast-1"])
    path.write_text(path.read_text().replace("status: ready", "status: terminated", 1))
    assert partitions(follow(first.cursor)) == (["vast-3"], ["vast-1", "vast-2"])


def test_partitions_outlive_a_broken_or_missing_hosts_file(follow: Tick, home: Home, instance: dg.DagsterInstance) -> None:
    path = declare(home, vast_1=None)
    instance.add_dynamic_partitions("hosts", ["vast-1"])
    path.write_text("hosts: {vast-1: {ssh_port: many}}\n")
    broken = follow()
    assert partitions(broken) == ([], [])
    (observation,) = told(broken, "host_replicas")
    assert "ssh_port" in (observation.description or "")
    again = follow(broken.cursor)
    assert again.asset_events == []
    assert "ssh_port" in again.skip_reason.skip_message
    path.unlink()
    gone = follow(again.cursor)
    assert partitions(gone) == ([], [])
    assert "1 partitions are left as they are" in gone.skip_reason.skip_message


def test_ten_thousand_hosts_come_in_chunks(follow: Tick, home: Home) -> None:
    declare(home, **{f"h{number}": "http://127.0.0.1:1" for number in range(2500)})
    requests = follow().dynamic_partitions_requests or []
    assert [len(request.partition_keys) for request in requests] == [1000, 1000, 500]


def test_strangers_are_listed_and_not_added(follow: Tick, home: Home, manifest: Store) -> None:
    declare(home, vast_1=None)
    with PlaneResource(home=HomeResource()).open():
        tell(manifest, "vast-1", at=1, strangers=["runpod-9"])
    first = follow()
    (observation,) = told(first, "host_replicas")
    assert "runpod-9" in str(observation.metadata["unknown hosts"].value)
    assert partitions(first)[0] == ["vast-1"]
    assert follow(first.cursor).asset_events == []
    assert last_change(manifest) > 0
