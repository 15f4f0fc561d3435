"""The code location as a whole: it loads, and its asset graph changes only on purpose."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from ringrift_dagster.games.config import CONFIG_KEYS
from ringrift_dagster.transfer.model import Priority

PROJECT = Path(__file__).parents[2]
SNAPSHOT = Path(__file__).with_name("asset_graph.json")


def described(location: dg.Definitions) -> dict[str, Any]:
    graph = location.resolve_asset_graph()
    return {
        key.to_user_string(): {
            "deps": sorted(dep.to_user_string() for dep in node.parent_keys),
            "group": node.group_name,
            "kinds": sorted(node.kinds),
            "owners": sorted(node.owners),
            "partitions": partitions(node.partitions_def),
            "checks": {check.name: "blocking" if graph.get(check).blocking else "warning" for check in sorted(node.check_keys)},
        }
        for key in sorted(graph.get_all_asset_keys())
        for node in [graph.get(key)]
    }


def partitions(defined: dg.PartitionsDefinition | None) -> int | str | None:
    """How many there are; of those that come and go, whose they are."""
    if isinstance(defined, dg.DynamicPartitionsDefinition):
        return defined.name
    return len(defined.get_partition_keys()) if defined else None


def test_it_loads(location: dg.Definitions) -> None:
    dg.Definitions.validate_loadable(location)


def test_the_asset_graph_is_the_recorded_one(location: dg.Definitions) -> None:
    """After a change on purpose: `python -m tests.defs.record_asset_graph`, and read the difference."""
    assert described(location) == json.loads(SNAPSHOT.read_text())


def test_every_asset_says_what_it_is(location: dg.Definitions) -> None:
    graph = location.resolve_asset_graph()
    assert not [key for key in graph.get_all_asset_keys() if not graph.get(key).description]


def test_sensors_and_schedules_run_without_being_switched_on(location: dg.Definitions) -> None:
    assert {sensor.name for sensor in location.sensors or []} == {
        "events_sensor",
        "host_change_sensor",
        "manifest_refresh_sensor",
        "new_candidates_sensor",
        "new_selfplay_sensor",
        "replication_queue_sensor",
        "second_events_sensor",
        "training_data_automation",
        "unattended_training_sensor",
    }
    assert {sensor.default_status for sensor in location.sensors or []} == {dg.DefaultSensorStatus.RUNNING}
    statuses = {schedule.default_status for schedule in location.schedules or [] if isinstance(schedule, dg.ScheduleDefinition)}
    assert statuses == {dg.DefaultScheduleStatus.RUNNING}


def test_loading_leaves_alone_what_only_some_runs_need() -> None:
    """Each run loads the definitions in a process of its own."""
    look = (
        "import sys; from ringrift_dagster.definitions import defs; defs(); print(*sorted({'boto3', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == []


def test_dagster_yaml_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    (tmp_path / "dagster.yaml").write_text((PROJECT / "dagster.yaml").read_text())
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        limits = instance.get_concurrency_config().run_queue_config
        assert limits is not None
        by_tag = {(each["key"], str(each["value"])): each["limit"] for each in limits.tag_concurrency_limits}
        assert {value for (key, value), limit in by_tag.items() if key == "dagster/partition" and limit == 1} == set(CONFIG_KEYS)
        classes = {value: limit for (key, value), limit in by_tag.items() if key == "ringrift/op_class"}
        assert Priority.CRITICAL.name not in classes
        assert {priority.name for priority in Priority if priority} <= set(classes)
        assert sum(classes.values()) < limits.max_concurrent_runs
        assert not instance.telemetry_enabled
        assert not instance.nux_enabled


def test_the_workspace_names_the_code_location() -> None:
    (entry,) = yaml.safe_load((PROJECT / "workspace.yaml").read_text())["load_from"]
    assert entry["python_module"]["module_name"] == "ringrift_dagster.definitions"
