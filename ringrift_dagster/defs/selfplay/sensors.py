"""`new_selfplay_sensor`: new games start the pipeline for their config by themselves.

The cursor holds what was seen (so that only changed databases are opened) and, for each config, the state
last asked for. A config that still has a run under way is asked for again when that has ended: a growing
database does not fill the queue.
"""

import json
from collections.abc import Mapping, Set
from dataclasses import asdict, dataclass, field
from typing import Self

import dagster as dg
from dagster._core.storage.tags import PARTITION_NAME_TAG

from ringrift_dagster.defs.datasets.jobs import STATE_TAG, processed, training_data_job
from ringrift_dagster.defs.resources import HomeResource
from ringrift_dagster.games.sources import Watched, states, watch

UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
]


@dataclass(frozen=True)
class Cursor:
    """What the sensor remembers from one tick to the next."""

    watched: dict[str, Watched] = field(default_factory=dict)
    requested: dict[str, str] = field(default_factory=dict)

    @classmethod
    def loads(cls, text: str | None) -> Self:
        if not text:
            return cls()
        data = json.loads(text)
        return cls(
            {name: Watched(seen["stamp"], tuple(seen["configs"])) for name, seen in data["watched"].items()},
            data["requested"],
        )

    def dumps(self) -> str:
        return json.dumps(asdict(self))


def run_key(config: str, state: str) -> str:
    """Dagster starts at most one run a key: one for each content of a config's sources."""
    return f"{config}:{state}"


@dg.sensor(job=training_data_job, minimum_interval_seconds=30, default_status=dg.DefaultSensorStatus.RUNNING)
def new_selfplay_sensor(context: dg.SensorEvaluationContext, home: HomeResource) -> dg.SensorResult:
    """Looks at size and time of every self-play database; asks for a run for each config whose databases changed."""
    before = Cursor.loads(context.cursor)
    watched = watch(home.home.selfplay, before.watched)
    now = states(watched)
    changed = {config: state for config, state in now.items() if before.requested.get(config) != state}
    done = processed(context.instance, changed) if changed else frozenset()
    busy = _busy(context.instance) if changed else frozenset()
    due = {config: state for config, state in changed.items() if config not in done | busy}
    known = {config: changed[config] for config in done} | due
    return dg.SensorResult(
        run_requests=[_request(config, state) for config, state in due.items()],
        skip_reason=None if due else _why_nothing(now, busy & changed.keys()),
        cursor=Cursor(watched, {**before.requested, **known}).dumps(),
    )


def _request(config: str, state: str) -> dg.RunRequest:
    return dg.RunRequest(run_key=run_key(config, state), partition_key=config, tags={STATE_TAG: state})


def _busy(instance: dg.DagsterInstance) -> frozenset[str]:
    runs = instance.get_runs(dg.RunsFilter(job_name=training_data_job.name, statuses=UNFINISHED))
    return frozenset(run.tags[PARTITION_NAME_TAG] for run in runs if PARTITION_NAME_TAG in run.tags)


def _why_nothing(now: Mapping[str, str], busy: Set[str]) -> str:
    if busy:
        return f"still running: {', '.join(sorted(busy))}"
    return f"no new games ({len(now)} configs have databases)"
