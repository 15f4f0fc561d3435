"""The sensors that react to what hosts tell: two alike, so that one waits while the other's tick is over. What follows is in
`transfer.reactions`; here it becomes runs and observations.
"""

import logging
import threading
import time
from collections.abc import Sequence

import dagster as dg

from ringrift_dagster.cluster.hosts import HostsFileError
from ringrift_dagster.defs.cluster.assets import observation, understood
from ringrift_dagster.defs.datasets.jobs import training_data_job
from ringrift_dagster.defs.partitions import HOSTS
from ringrift_dagster.defs.replication.assets import REPLICAS, metadata_of
from ringrift_dagster.defs.replication.classes import tags_of
from ringrift_dagster.defs.replication.jobs import replication_job
from ringrift_dagster.defs.replication.sensors import is_taken_care_of
from ringrift_dagster.defs.resources import PlaneResource
from ringrift_dagster.events import inbox
from ringrift_dagster.events.inbox import Told
from ringrift_dagster.manifest.plane import Plane
from ringrift_dagster.transfer.coordinator import Coordinator, Report
from ringrift_dagster.transfer.model import Priority
from ringrift_dagster.transfer.reactions import CONSUMER, REACTED_TO, Reaction, give_up, react
from ringrift_dagster.transfer.targets import agent_hosts

WAIT_SECONDS = 40.0
"""A tick waits so long for an event. Dagster allows 60."""
POLL_SECONDS = 0.05
AT_ONCE = 100
POST_SECONDS = 5.0
"""For giving CRITICAL work to an agent at once; the run that follows it needs seconds to start."""
GIVE_UP_SECONDS = 3600.0
"""An event whose reaction has failed for so long is marked as failed."""
_ONE_AT_A_TIME = threading.Lock()


def _events_sensor(name: str) -> dg.SensorDefinition:
    @dg.sensor(
        name=name,
        jobs=[replication_job, training_data_job],
        minimum_interval_seconds=5,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Reacts to what hosts tell, the moment it is told: places data, starts the pipeline, keeps rules.",
    )
    def sensor(context: dg.SensorEvaluationContext, plane: PlaneResource) -> dg.SensorResult:
        cursor = int(context.cursor) if context.cursor and context.cursor.isdecimal() else 0
        try:
            with plane.open() as opened:
                return _tick(context.instance, opened, cursor)
        except HostsFileError as error:
            return dg.SensorResult(skip_reason=f"nobody can be reached: {error.problems[0]}", cursor=context.cursor)

    return sensor


events_sensor = _events_sensor("events_sensor")
second_events_sensor = _events_sensor("second_events_sensor")


def _tick(instance: dg.DagsterInstance, plane: Plane, cursor: int) -> dg.SensorResult:
    """Wait for events, react to them; the cursor is an event before which all were handled."""
    deadline = time.monotonic() + WAIT_SECONDS
    last = inbox.last_number(plane.store)
    cursor = cursor if cursor <= last else 0  # of another manifest
    pause = threading.Event()
    while not (waiting := inbox.unhandled(plane.store, CONSUMER, REACTED_TO, after=cursor, limit=AT_ONCE)):
        if time.monotonic() >= deadline:
            return dg.SensorResult(skip_reason="nothing was told", cursor=str(last))
        seen = inbox.last_number(plane.store)
        while inbox.last_number(plane.store) == seen and time.monotonic() < deadline:
            pause.wait(POLL_SECONDS)
        last = seen
    with _ONE_AT_A_TIME:
        waiting = inbox.unhandled(plane.store, CONSUMER, REACTED_TO, after=cursor, limit=AT_ONCE)
        done = _react(plane, waiting)
        posted = _post(plane, {target for _, reaction in done for target in reaction.urgent})
        left = inbox.unhandled(plane.store, CONSUMER, REACTED_TO, after=cursor, limit=1)
    return _result(instance, plane, done, posted, left[0].number - 1 if left else last)


def _react(plane: Plane, waiting: Sequence[Told]) -> list[tuple[Told, Reaction]]:
    """React to events in their order. One that fails is tried again later and keeps back only what its own host told after it."""
    done, held = [], set()
    for told in waiting:
        if told.event.host in held:
            continue
        try:
            reaction = react(plane, told, at=time.time())
        except Exception as error:
            logging.getLogger(__name__).exception("event %s", told.number)
            held.add(told.event.host)
            if time.time() - told.received_at > GIVE_UP_SECONDS:
                give_up(plane.store, told, f"{type(error).__name__}: {error}", at=time.time())
            continue
        if reaction is not None:
            done.append((told, reaction))
    return done


def _post(plane: Plane, targets: set[str]) -> list[Report]:
    """Give the agents what is CRITICAL right now: the runs that are asked for adopt it."""
    reports = []
    for target in sorted(targets):
        looks = iter((False,))
        coordinator = Coordinator(plane, f"events {time.time_ns()} {target}"[:100])
        reports.append(
            coordinator.run(
                target, (Priority.CRITICAL,), seconds=POST_SECONDS, idle=0.0, stop=lambda looks=looks: next(looks, True)
            )
        )
    return reports


def _result(
    instance: dg.DagsterInstance, plane: Plane, done: Sequence[tuple[Told, Reaction]], posted: Sequence[Report], cursor: int
) -> dg.SensorResult:
    hosts = agent_hosts(plane.cluster)
    urgent = {hosts[report.target]: report.target for report in posted if report.left and report.target in hosts}
    requests = [
        dg.RunRequest(job_name=replication_job.name, partition_key=host, tags=tags_of(host, Priority.CRITICAL))
        for host in sorted(urgent)
        if not is_taken_care_of(instance, host, Priority.CRITICAL)
    ]
    requests += [
        dg.RunRequest(
            job_name=training_data_job.name, run_key=f"event {told.event.id} {config}", partition_key=config,
            tags={"ringrift/event": told.event.id},
        )
        for told, reaction in done
        for config in sorted(reaction.exports)
    ]  # fmt: skip
    arrived = [report for report in posted if report.rows and report.target in hosts]
    told: list[dg.AssetObservation | dg.AssetMaterialization | dg.AssetCheckEvaluation] = [observation(done)] if done else []
    told += [
        dg.AssetMaterialization(REPLICAS, partition=hosts[report.target], metadata=metadata_of([report])) for report in arrived
    ]
    if done:
        told.append(understood(plane.store))
    there = set(instance.get_dynamic_partitions(HOSTS.name or ""))
    new = sorted(({hosts[report.target] for report in arrived} | set(urgent)) - there)
    return dg.SensorResult(
        run_requests=requests,
        skip_reason=None if requests else f"{len(done)} events, no run needed",
        asset_events=told,
        dynamic_partitions_requests=[HOSTS.build_add_request(new)] if new else [],
        cursor=str(cursor),
    )
