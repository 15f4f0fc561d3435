"""`manifest_refresh_sensor` asks every place every 30 seconds; `host_change_sensor` follows the hosts file.

Neither costs a run while nothing happens. What their events look like is in `events`.
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import dagster as dg

from ringrift_dagster.cluster.hosts import HostsFileError
from ringrift_dagster.defs.manifest.assets import strangers_table
from ringrift_dagster.defs.manifest.events import REPLICAS, events, is_urgent
from ringrift_dagster.defs.partitions import HOSTS
from ringrift_dagster.defs.presentation import table
from ringrift_dagster.defs.resources import PlaneResource
from ringrift_dagster.manifest.changes import Change, changes_since, last_change
from ringrift_dagster.manifest.inventory import CONTACT_CODES
from ringrift_dagster.manifest.plane import Plane
from ringrift_dagster.manifest.queries import unknown_hosts
from ringrift_dagster.manifest.refresh import Refreshed
from ringrift_dagster.transfer import collect, planner
from ringrift_dagster.transfer.announcing import announce
from ringrift_dagster.transfer.deferral import watch
from ringrift_dagster.transfer.planner import Mark

JOB = "manifest_job"
WAITING = [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED]
"""A run that has not begun will see everything: another is not needed."""
MAX_CHANGES = 10_000
"""Read in one tick; what is left follows in the next."""
FIRST_CHANGES = 1000
"""Of a manifest older than this sensor, so many of the latest changes are told."""
ANSWER_SECONDS = 8.0
"""For each place to answer, twice, with a pause between: a cycle takes at most about 20 of the 60 seconds a tick may take."""
BUDGET_SECONDS = 25.0
"""After so long no further answer is begun with: what is left is asked again in the next tick."""
CHUNK = 1000
"""Partitions in one request: SQLite takes only so many values in one statement."""


@dg.sensor(job_name=JOB, minimum_interval_seconds=30, default_status=dg.DefaultSensorStatus.RUNNING)
def manifest_refresh_sensor(context: dg.SensorEvaluationContext, plane: PlaneResource) -> dg.SensorResult:
    """Asks every place what it holds and takes in what changed; asks for a run only if an operator must see it.

    Then puts into the queue what is missing for the rules, and measures what presses on it. The cursor is the id of the last change
    that was told, and the mark of the last plan.
    """
    told, _, mark = (context.cursor or "").partition(" ")
    try:
        with plane.open() as opened:
            refreshed = opened.refresh(answer_seconds=ANSWER_SECONDS, budget=BUDGET_SECONDS)
            now = time.time()
            watch(opened.store, opened.cluster.thresholds, at=now)
            collect.cycle(opened.store, opened.cluster, at=now)
            planned = planner.cycle(opened.store, opened.cluster, Mark.from_text(mark), at=now)
            return _told(context, opened, refreshed, told, planned.mark.to_text() if planned else mark)
    except HostsFileError as error:
        return dg.SensorResult(skip_reason=f"nobody was asked: {error.problems[0]}", cursor=context.cursor)


def _told(context: dg.SensorEvaluationContext, plane: Plane, refreshed: Refreshed, told: str, mark: str) -> dg.SensorResult:
    after = _start(told, last_change(plane.store))
    changes = changes_since(plane.store, after, limit=MAX_CHANGES)
    announce(plane.store, changes)
    requests = _requests(context.instance, changes)
    answered = f"{len(refreshed.outcomes) - len(refreshed.silent)} of {len(refreshed.outcomes)} locations answered"
    if telling := sum(outcome.code in CONTACT_CODES for outcome in refreshed.silent):
        answered += f"; {telling} told a part and go on"
    if refreshed.left:
        answered += f"; no time for {len(refreshed.left)} of them yet"
    return dg.SensorResult(
        run_requests=requests,
        skip_reason=None if requests else f"{f'{len(changes)} changes' if changes else 'nothing changed'}; {answered}",
        asset_events=events(plane.store, changes, refreshed),
        cursor=f"{changes[-1].id if changes else after} {mark}".rstrip(),
    )


def _start(cursor: str | None, last: int) -> int:
    """The change after which to read. A cursor ahead of the manifest belongs to another manifest."""
    told = int(cursor) if cursor and cursor.isdecimal() else None
    return told if told is not None and told <= last else max(0, last - FIRST_CHANGES)


def _requests(instance: dg.DagsterInstance, changes: Sequence[Change]) -> list[dg.RunRequest]:
    """A run for the last change that matters. Its time is in the key: another manifest counts from one again."""
    urgent = [change for change in changes if is_urgent(change)]
    if not urgent or instance.get_runs(dg.RunsFilter(job_name=JOB, statuses=WAITING), limit=1):
        return []
    return [dg.RunRequest(run_key=f"{JOB}:{urgent[-1].id}:{urgent[-1].at:.3f}")]


@dataclass(frozen=True)
class Seen:
    """What `host_change_sensor` has told already."""

    problem: str | None = None
    strangers: tuple[str, ...] = ()

    @classmethod
    def loads(cls, text: str | None) -> Self:
        if not text:
            return cls()
        data = json.loads(text)
        return cls(data["problem"], tuple(data["strangers"]))

    def dumps(self) -> str:
        return json.dumps(asdict(self))


@dg.sensor(minimum_interval_seconds=30, default_status=dg.DefaultSensorStatus.RUNNING)
def host_change_sensor(context: dg.SensorEvaluationContext, plane: PlaneResource) -> dg.SensorResult:
    """Keeps the partitions `hosts` those of the hosts file: its active hosts that can hold data.

    Hosts that show up without being in the file are listed, never added. While the file is broken, or names no hosts at all,
    the partitions stay as they are; what is wrong with it is told once.
    """
    before = Seen.loads(context.cursor)
    with plane.manifest() as store:
        strangers = unknown_hosts(store)
    names = tuple(sorted(str(row["name"]) for row in strangers))
    told = [_strangers(strangers)] if set(names) - set(before.strangers) else []
    try:
        wanted = [place.name for place in plane.cluster().locations() if place.kind == "host"]
    except HostsFileError as error:
        if error.problems[0] != before.problem:
            told.append(_broken(error.problems))
        return dg.SensorResult(
            skip_reason=f"partitions are left as they are: {error.problems[0]}",
            asset_events=told,
            cursor=Seen(error.problems[0], names).dumps(),
        )
    there = set(context.instance.get_dynamic_partitions(HOSTS.name or ""))
    added = [name for name in wanted if name not in there]
    removed = sorted(there - set(wanted)) if wanted else []
    return dg.SensorResult(
        dynamic_partitions_requests=[
            *(HOSTS.build_add_request(chunk) for chunk in _chunks(added)),
            *(HOSTS.build_delete_request(chunk) for chunk in _chunks(removed)),
        ],
        skip_reason=f"{len(wanted)} hosts: {len(added)} added, {len(removed)} removed" if wanted else _nobody(len(there)),
        asset_events=told,
        cursor=Seen(None, names).dumps(),
    )


def _nobody(kept: int) -> str:
    return f"the hosts file names no hosts; {kept} partitions are left as they are" if kept else "there are no hosts"


def _strangers(rows: list[dict[str, Any]]) -> dg.AssetObservation:
    return dg.AssetObservation(
        REPLICAS,
        description=f"{len(rows)} hosts showed up that the hosts file does not name",
        metadata={"unknown hosts": strangers_table(rows)},
    )


def _broken(problems: Sequence[str]) -> dg.AssetObservation:
    return dg.AssetObservation(
        REPLICAS,
        description=f"the hosts file cannot be used: {problems[0]}",
        metadata={"problems": table(["problem"], ([problem] for problem in problems))},
    )


def _chunks(names: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(names), CHUNK):
        yield list(names[start : start + CHUNK])
