"""The sensors that react to what hosts tell: two alike, so that one waits while the other's tick is over. What follows is in
`transfer.reactions`; here it becomes runs and observations.
"""

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import dagster as dg

from ringrift_dagster.cluster.hosts import HostsFileError
from ringrift_dagster.defs.cluster.assets import observation, understood
from ringrift_dagster.defs.cluster.watching import Watcher, Watchers
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
from ringrift_dagster.manifest.store import Store
from ringrift_dagster.transfer import reactions
from ringrift_dagster.transfer.coordinator import Coordinator, Report
from ringrift_dagster.transfer.model import Priority
from ringrift_dagster.transfer.reactions import CONSUMER, REACTED_TO, Reaction, react
from ringrift_dagster.transfer.targets import agent_hosts

WAIT_SECONDS = 25.0
"""A tick waits so long for an event, and longer, up to LONGEST_SECONDS, while no other waits: somebody always does. Dagster begins
ticks only every few seconds, so a tick with news stays as well until another is there."""
LONGEST_SECONDS = 35.0
"""Dagster allows a tick 60 seconds, with what is done in the end."""
POLL_SECONDS = 0.05
AGAIN_SECONDS = 5.0
"""An event whose reaction failed is tried again after so long."""
AT_ONCE = 100
REACT_SECONDS = 6.0
"""After so long no further event is begun with: the next tick does."""
POST_SECONDS = 8.0
"""For giving CRITICAL work to agents at once, and seeing it through if it is quick; a run needs seconds to start."""
POST_AT_ONCE = 8
GIVE_UP_SECONDS = 3600.0
"""An event whose reaction has failed for so long, counted from the first failure, becomes a dead letter."""
ASKED_SECONDS = 60.0
"""Dagster has so long to make a run that it was asked for."""
EVENT_TAG = "ringrift/event"
"""Of a run of the pipeline: the last event that asked for it."""

_watchers = Watchers()
_failing: dict[int, float] = {}
"""Events whose reaction failed: their number to when it did first. Whoever has the turn uses it."""
_asking = threading.Lock()
_asked: dict[str, float] = {}
"""Runs that Dagster was asked for: the event's id to when. Whoever has `_asking` uses it."""


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
    last = inbox.last_number(plane.store)
    cursor = cursor if cursor <= last else 0  # of another manifest
    exports = _exports(instance, plane.store)
    done: list[tuple[Told, Reaction]] = []
    with ThreadPoolExecutor(POST_AT_ONCE) as threads, _watchers.another(WAIT_SECONDS, LONGEST_SECONDS) as watcher:
        posting: list[Future[Report]] = []
        while True:
            last = inbox.last_number(plane.store)
            now = _take_turn(plane, cursor, watcher.deadline)
            urgent = {target for _, reaction in now for target in reaction.urgent}
            posting += [threads.submit(_post, plane, target) for target in sorted(urgent)]
            done += now
            if watcher.may_leave(has_news=bool(done or exports)):
                break
            if not now:
                _wait_for_news(plane, last, watcher, has_news=bool(done or exports))
        left = inbox.unhandled(plane.store, CONSUMER, REACTED_TO, after=cursor, limit=1)
        cursor = left[0].number - 1 if left else last
    if not (done or exports):
        return dg.SensorResult(skip_reason="nothing was told", cursor=str(cursor))
    posted = [each.result() for each in posting if _went_well(each)]
    return _result(instance, plane, done, posted, [*exports, *_exports(instance, plane.store)], cursor)


def _wait_for_news(plane: Plane, seen: int, watcher: Watcher, *, has_news: bool) -> None:
    """Until something was told after a number, it is time to try again what failed, or to leave."""
    again, pause = time.monotonic() + AGAIN_SECONDS, threading.Event()
    while inbox.last_number(plane.store) == seen and time.monotonic() < again and not watcher.may_leave(has_news=has_news):
        pause.wait(POLL_SECONDS)


def _take_turn(plane: Plane, cursor: int, deadline: float) -> list[tuple[Told, Reaction]]:
    """React to what was told, if anything was and nobody else did meanwhile."""
    if not inbox.unhandled(plane.store, CONSUMER, REACTED_TO, after=cursor, limit=1):
        return []
    if not _watchers.turn.acquire(timeout=max(deadline - time.monotonic(), 0.0)):
        return []
    try:
        return _react(plane, cursor)
    finally:
        _watchers.turn.release()


def _react(plane: Plane, cursor: int) -> list[tuple[Told, Reaction]]:
    """React to what waits after the cursor, in its order. What fails is tried again later and keeps back only what its own host
    told after it, however much that is."""
    done: list[tuple[Told, Reaction]] = []
    held: set[str] = set()
    until = time.monotonic() + REACT_SECONDS
    while waiting := inbox.unhandled(plane.store, CONSUMER, REACTED_TO, after=cursor, limit=AT_ONCE, not_of=held):
        for told in waiting:
            if time.monotonic() > until:
                return done
            cursor = told.number
            if told.event.host in held:
                continue
            try:
                reaction = react(plane, told, at=time.time())
            except Exception as error:
                logging.getLogger(__name__).exception("event %s", told.number)
                held.add(told.event.host)
                if time.monotonic() - _failing.setdefault(told.number, time.monotonic()) > GIVE_UP_SECONDS:
                    inbox.bury(plane.store, told, f"{type(error).__name__}: {error}", at=time.time())
                    del _failing[told.number]
                continue
            _failing.pop(told.number, None)
            if reaction is not None:
                done.append((told, reaction))
    return done


def _post(plane: Plane, target: str) -> Report:
    """Give an agent what is CRITICAL right now. A run adopts what takes longer than a few seconds."""
    coordinator = Coordinator(plane, f"events {time.time_ns()} {target}"[:100])
    return coordinator.run(target, (Priority.CRITICAL,), seconds=POST_SECONDS, idle=0.0)


def _went_well(posting: Future[Report]) -> bool:
    """Whether an attempt to give an agent work came to its end; if not, runs do it."""
    error = posting.exception()
    if error is not None:
        logging.getLogger(__name__).error("giving an agent what is urgent", exc_info=error)
    return error is None


def _exports(instance: dg.DagsterInstance, store: Store) -> list[dg.RunRequest]:
    """The runs of the pipeline that events asked for and that Dagster does not have: one a config, however many events asked.

    What was asked for is in the manifest until the run is there, so a tick whose result is lost loses nothing.
    """
    requests = []
    for config, asked in reactions.exports_wanted(store).items():
        filters = dg.RunsFilter(job_name=training_data_job.name, tags={EVENT_TAG: [each.event_id for each in asked]})
        runs = instance.get_run_records(filters, limit=1)
        begun = [each for each in asked if runs and each.at <= runs[0].create_timestamp.timestamp()]
        if begun:
            reactions.export_begun(store, config, begun, runs[0].dagster_run.run_id)
        left = [each.event_id for each in asked if each not in begun]
        if left and _ask_for(left):
            requests.append(
                dg.RunRequest(
                    job_name=training_data_job.name, run_key=f"event {left[-1]} {config}", partition_key=config,
                    tags={EVENT_TAG: left[-1]},
                )
            )  # fmt: skip
    return requests


def _ask_for(events: Sequence[str]) -> bool:
    """Whether Dagster is to be asked for a run now: not if it was a moment ago."""
    now = time.monotonic()
    with _asking:
        for event in [event for event, at in _asked.items() if now - at > ASKED_SECONDS]:
            del _asked[event]
        if any(event in _asked for event in events):
            return False
        _asked.update(dict.fromkeys(events, now))
        return True


def _result(
    instance: dg.DagsterInstance,
    plane: Plane,
    done: Sequence[tuple[Told, Reaction]],
    posted: Sequence[Report],
    exports: Sequence[dg.RunRequest],
    cursor: int,
) -> dg.SensorResult:
    hosts = agent_hosts(plane.cluster)
    urgent = {hosts[report.target]: report.target for report in posted if report.left and report.target in hosts}
    requests = [
        dg.RunRequest(job_name=replication_job.name, partition_key=host, tags=tags_of(host, Priority.CRITICAL))
        for host in sorted(urgent)
        if not is_taken_care_of(instance, host, Priority.CRITICAL)
    ]
    requests += exports
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
