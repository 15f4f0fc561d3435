"""`new_candidates_sensor`: new candidates, new checkpoints on hosts and decisions at a prompt start `promotion_job`."""

import json
import time
from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.storage.tags import PARTITION_NAME_TAG

from ringrift_dagster.datasets.npz_export import digest_root
from ringrift_dagster.defs.models.promoted import promotion_job
from ringrift_dagster.defs.models.training import UNFINISHED
from ringrift_dagster.defs.resources import HomeResource, PlaneResource
from ringrift_dagster.games.config import CONFIG_KEYS
from ringrift_dagster.home import Home
from ringrift_dagster.models.candidates import candidates
from ringrift_dagster.models.promotion.log import DecisionLog
from ringrift_dagster.models.promotion.promoting import log_path
from ringrift_dagster.models.refused import refused_checkpoints
from ringrift_dagster.models.training_jobs.jobs import MAX_CHECKPOINT_BYTES

if TYPE_CHECKING:
    from ringrift_dagster.manifest.queries import HeldItem

RETRY_SECONDS = 3600.0
"""A checkpoint that a run did not fetch is asked for again after so long, if a host that has it answers."""


@dg.sensor(job=promotion_job, minimum_interval_seconds=10, default_status=dg.DefaultSensorStatus.RUNNING)
def new_candidates_sensor(context: dg.SensorEvaluationContext, home: HomeResource, plane: PlaneResource) -> dg.SensorResult:
    """Looks at candidates, at checkpoints that the manifest knows on hosts, and at current models; asks no host.

    Asks for a run of each config that has a new one of them, or another current model: one that became current by a command, e.g. a
    rollback, is so brought to the hosts. The cursor holds, by config, a digest of what a run was asked for, and when. A checkpoint
    stays part of the digest when it becomes a candidate or is refused, so that what a run does asks for no other.
    """
    from ringrift_dagster.transfer.candidates import new_checkpoints

    before: dict[str, str] = json.loads(context.cursor or "{}")
    now = int(time.time())
    with plane.manifest() as store:
        new = new_checkpoints(home.home, store)
    # Read after `new`, so that a checkpoint that a run registers meanwhile is in one of the two.
    registered = {config: {entry.sha256 for entry in candidates(home.home, config)} for config in CONFIG_KEYS}
    states = _states(home.home, registered, new)
    changed = {config for config, state in states.items() if before.get(config, "").partition(" ")[0] != state}
    fetchable = {
        config
        for config, entries in new.items()
        if any(entry.reachable and entry.size <= MAX_CHECKPOINT_BYTES for entry in entries)
    }
    retried = {config for config in fetchable - changed if now - int(before[config].partition(" ")[2] or 0) >= RETRY_SECONDS}
    retried -= _busy(context.instance) if retried else set()
    requested = {config: f"{states[config]} {now}" for config in states if config in changed | retried}
    keys = {config: f"{config}:{state if config in retried else states[config]}" for config, state in requested.items()}
    return dg.SensorResult(
        run_requests=[dg.RunRequest(run_key=key, partition_key=config) for config, key in keys.items()],
        skip_reason=None if requested else _skip_reason(registered, new),
        cursor=json.dumps({**before, **requested}),
    )


def _states(home: Home, registered: Mapping[str, Set[str]], new: Mapping[str, Sequence["HeldItem"]]) -> dict[str, str]:
    """By config, a digest of its candidates, its new and refused checkpoints, and its current decision; without any, none."""
    seen = {config: {*registered[config], *(entry.sha256 for entry in new.get(config, ()))} for config in CONFIG_KEYS}
    refused = list(refused_checkpoints(home).values())
    states: dict[str, str] = {}
    with DecisionLog(log_path(home)) as log:
        for config in filter(seen.__getitem__, CONFIG_KEYS):
            current = log.current(config)
            decision = [f"decision {current.id}"] if current else []
            states[config] = digest_root(
                [*seen[config].union(entry.sha256 for entry in refused if entry.config == config), *decision]
            )
    return states


def _skip_reason(registered: Mapping[str, Set[str]], new: Mapping[str, Sequence["HeldItem"]]) -> str:
    waiting = sum(map(len, new.values()))
    on_hosts = f", {waiting} on hosts were asked for" if waiting else ""
    return f"no new candidates or decisions ({sum(map(len, registered.values()))} are registered{on_hosts})"


def _busy(instance: dg.DagsterInstance) -> set[str]:
    """The configs of which a run is under way."""
    runs = instance.get_runs(dg.RunsFilter(job_name=promotion_job.name, statuses=UNFINISHED))
    return {run.tags[PARTITION_NAME_TAG] for run in runs if PARTITION_NAME_TAG in run.tags}
