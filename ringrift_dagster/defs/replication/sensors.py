"""`replication_queue_sensor`: what waits in the queue becomes runs, one a host and priority class. It moves nothing itself."""

import threading
import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import dagster as dg

from ringrift_dagster.cluster.hosts import HostsFileError
from ringrift_dagster.cluster.topology import Cluster
from ringrift_dagster.defs.partitions import HOSTS
from ringrift_dagster.defs.replication.classes import REPLICATION_TAG, tags_of
from ringrift_dagster.defs.replication.jobs import cold_storage_job, replication_job
from ringrift_dagster.defs.resources import PlaneResource
from ringrift_dagster.manifest.locations import all_locations
from ringrift_dagster.manifest.states import Liveness
from ringrift_dagster.manifest.store import Store
from ringrift_dagster.transfer.deferral import deferred
from ringrift_dagster.transfer.model import Priority
from ringrift_dagster.transfer.queue import pending
from ringrift_dagster.transfer.targets import agent_hosts, buckets

WAIT_SECONDS = 40.0
"""A tick waits so long for work: what is submitted meanwhile is seen at once, not in the next tick. Dagster allows 60."""
POLL_SECONDS = 0.25
AGAIN_SECONDS = 60.0
"""After a run that failed, its host and class rest so long: the operations wait anyway."""
AWAY_SECONDS = 600.0
"""A place that the manifest knows to be away gets a run for a class so rarely: once it is back, what waits is due at once."""
UNFINISHED = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


class Demand(NamedTuple):
    """Operations of a class that wait for a run. `host` is None for the bucket."""

    priority: Priority
    host: str | None
    target: str


@dg.sensor(jobs=[replication_job, cold_storage_job], minimum_interval_seconds=5, default_status=dg.DefaultSensorStatus.RUNNING)
def replication_queue_sensor(context: dg.SensorEvaluationContext, plane: PlaneResource) -> dg.SensorResult:
    """Starts a run for each host and priority class that has operations waiting and no run under way, the urgent first.

    A tick lasts until there is such work, 40 seconds at most. A run that is under way takes what comes for its class by itself.
    """
    try:
        cluster = plane.cluster()
    except HostsFileError as error:
        return dg.SensorResult(skip_reason=f"nothing can be moved: {error.problems[0]}")
    deadline = time.monotonic() + WAIT_SECONDS
    pause = threading.Event()
    with plane.manifest() as store:
        while True:
            now = time.time()
            put_off = deferred(store, now)
            waiting = {key: count for key, count in pending(store, at=now).items() if key[1] not in put_off}
            away = _away(store) if waiting else frozenset()
            wanted = [demand for demand in demands(waiting, cluster) if not _is_met(context.instance, demand, away)]
            if wanted:
                return _runs(context.instance, wanted)
            if time.monotonic() >= deadline:
                return dg.SensorResult(skip_reason=_why_nothing(sum(waiting.values()), bool(put_off)))
            pause.wait(POLL_SECONDS if not waiting else 1.0)


def _why_nothing(waiting: int, deferring: bool) -> str:
    said = f"{waiting} operations wait, for runs under way" if waiting else "nothing waits"
    return f"{said}; LOW and COLD_STORAGE are deferred" if deferring else said


def demands(waiting: Mapping[tuple[str, Priority], int], cluster: Cluster) -> Iterator[Demand]:
    """What runs the waiting operations need, the urgent first. None for places that the hosts file does not name any more: the
    planner ends such operations."""
    hosts, named = agent_hosts(cluster), set(buckets(cluster))
    for priority, target in sorted({(priority, target) for target, priority in waiting}):
        if target in named:
            yield Demand(priority, None, target)
        elif target in hosts:
            yield Demand(priority, hosts[target], target)


def _away(store: Store) -> frozenset[str]:
    """The places that are known not to answer, or not to be mounted."""
    gone = (Liveness.OFFLINE, Liveness.UNAVAILABLE)
    return frozenset(place.name for place in all_locations(store) if place.liveness in gone)


def _is_met(instance: dg.DagsterInstance, demand: Demand, away: frozenset[str]) -> bool:
    rest = AWAY_SECONDS if demand.target in away else 0.0
    return is_taken_care_of(instance, demand.host or demand.target, demand.priority, rest=rest)


def is_taken_care_of(instance: dg.DagsterInstance, target: str, priority: Priority, *, rest: float = 0.0) -> bool:
    """Whether a run for a class of a host, or of a bucket, is under way, failed just now, or ended less than `rest` seconds ago."""
    tag = {REPLICATION_TAG: tags_of(target, priority)[REPLICATION_TAG]}
    records = instance.get_run_records(dg.RunsFilter(tags=tag), limit=1)
    if not records:
        return False
    if records[0].dagster_run.status in UNFINISHED:
        return True
    if records[0].dagster_run.status == dg.DagsterRunStatus.FAILURE:
        rest = max(rest, AGAIN_SECONDS)
    return time.time() - (records[0].end_time or 0.0) < rest


def _runs(instance: dg.DagsterInstance, wanted: list[Demand]) -> dg.SensorResult:
    """A run for each, and the partitions that they need."""
    requests, asked = [], set()
    for demand in wanted:
        tags = tags_of(demand.host or demand.target, demand.priority)
        if tags[REPLICATION_TAG] in asked:
            continue
        asked.add(tags[REPLICATION_TAG])
        job = replication_job if demand.host else cold_storage_job
        requests.append(dg.RunRequest(job_name=job.name, partition_key=demand.host, tags=tags))
    there = set(instance.get_dynamic_partitions(HOSTS.name or ""))
    new = sorted({demand.host for demand in wanted if demand.host} - there)
    return dg.SensorResult(run_requests=requests, dynamic_partitions_requests=[HOSTS.build_add_request(new)] if new else [])
