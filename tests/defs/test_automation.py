"""New games start runs by themselves: once each, and without filling the queue."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg

from ringrift_dagster.defs.datasets.jobs import STATE_TAG, nightly_catch_up_schedule
from ringrift_dagster.defs.resources import HomeResource
from ringrift_dagster.defs.selfplay.sensors import new_selfplay_sensor
from ringrift_dagster.games import sources
from ringrift_dagster.home import Home

Give = Callable[..., Path]


def tick(instance: dg.DagsterInstance, cursor: str | None = None) -> dg.SensorResult:
    context = dg.build_sensor_context(instance=instance, cursor=cursor, resources={"home": HomeResource()})
    result = new_selfplay_sensor(context)
    assert isinstance(result, dg.SensorResult)
    return result


def requested(result: dg.SensorResult) -> list[str | None]:
    return [request.partition_key for request in result.run_requests or []]


def test_an_empty_home_asks_for_nothing(instance: dg.DagsterInstance, home: Home) -> None:
    assert requested(tick(instance)) == []


def test_each_content_is_asked_for_once(instance: dg.DagsterInstance, give: Give) -> None:
    give("db/canonical_square8_4p")
    give("db/canonical_hex8_2p")
    first = tick(instance)
    assert requested(first) == ["square8_4p", "hex8_2p"]
    assert requested(tick(instance, first.cursor)) == []
    again = tick(instance)
    assert [r.run_key for r in again.run_requests or []] == [r.run_key for r in first.run_requests or []]


def test_only_the_config_that_grew_is_asked_for(instance: dg.DagsterInstance, give: Give) -> None:
    give("db/canonical_square8_4p")
    grown = give("db/canonical_hex8_2p")
    cursor = tick(instance).cursor
    os.utime(grown, ns=(1, 1))
    assert requested(tick(instance, cursor)) == ["hex8_2p"]


def test_a_write_that_is_still_in_the_wal_counts(instance: dg.DagsterInstance, give: Give) -> None:
    database = give("db/canonical_square8_4p")
    cursor = tick(instance).cursor
    database.with_name(database.name + "-wal").write_bytes(b"frames")
    assert requested(tick(instance, cursor)) == ["square8_4p"]


def test_the_empty_wal_that_looking_leaves_behind_does_not_count(instance: dg.DagsterInstance, give: Give) -> None:
    database = give("db/canonical_square8_4p")
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    cursor = tick(instance).cursor
    assert database.with_name(database.name + "-wal").exists(), "opening it to read makes one"
    assert requested(tick(instance, cursor)) == []


def test_unchanged_databases_are_not_opened(instance: dg.DagsterInstance, give: Give, monkeypatch) -> None:
    give("db/canonical_square8_4p")
    cursor = tick(instance).cursor
    monkeypatch.setattr(sources, "describe", lambda path: (_ for _ in ()).throw(AssertionError("opened")))
    assert requested(tick(instance, cursor)) == []


def test_a_config_under_way_is_asked_for_when_it_has_ended(
    instance: dg.DagsterInstance, give: Give, location: dg.Definitions
) -> None:
    give("db/canonical_square8_4p")
    job = location.resolve_job_def("training_data_job")
    run = instance.create_run_for_job(job, tags={"dagster/partition": "square8_4p"}, status=dg.DagsterRunStatus.STARTED)
    waiting = tick(instance)
    assert requested(waiting) == []
    assert "still running: square8_4p" in str(waiting.skip_reason)
    instance.delete_run(run.run_id)
    assert requested(tick(instance, waiting.cursor)) == ["square8_4p"]


def test_what_another_run_processed_is_not_asked_for(
    instance: dg.DagsterInstance, give: Give, home: Home, location: dg.Definitions
) -> None:
    give("db/canonical_square8_4p")
    state = sources.states(sources.watch(home.selfplay, {}))["square8_4p"]
    instance.create_run_for_job(
        location.resolve_job_def("training_data_job"),
        tags={"dagster/partition": "square8_4p", STATE_TAG: state},
        status=dg.DagsterRunStatus.SUCCESS,
    )
    assert requested(tick(instance)) == []


def test_the_night_catches_up_on_every_config_that_has_databases(give: Give) -> None:
    give("db/canonical_square8_4p")
    context = dg.build_schedule_context(
        resources={"home": HomeResource()}, scheduled_execution_time=datetime(2026, 11, 24, 3, 20, tzinfo=UTC)
    )
    requests = list(nightly_catch_up_schedule(context))
    assert [request.partition_key for request in requests] == ["square8_4p"]


def test_games_flow_on_when_only_the_store_was_rebuilt(
    instance: dg.DagsterInstance,
    give: Give,
    location: dg.Definitions,
    run: Callable[..., dg.ExecuteInProcessResult],
) -> None:
    give("db/canonical_square8_4p")
    assert run("training_data_job", "square8_4p").success
    before = dg.evaluate_automation_conditions(defs=location, instance=instance)
    assert before.total_requested <= 1, "a run that built everything leaves nothing to follow but the roll-up"
    give("db/canonical_square8_4p", "copy.db")
    assert run("training_data_job", "square8_4p", only=["selfplay_databases"]).success
    after = dg.evaluate_automation_conditions(defs=location, instance=instance, cursor=before.cursor)
    assert after.get_requested_partitions(dg.AssetKey("canonical_games")) == {"square8_4p"}
    assert after.get_requested_partitions(dg.AssetKey("training_npz")) == {"square8_4p"}
