"""`new_candidates_sensor`: registered candidates, and decisions made at a prompt, start the job of the models by themselves."""

import json

import dagster as dg

from ringrift_dagster.datasets.npz_export import digest_root
from ringrift_dagster.defs.models.promoted import promotion_job
from ringrift_dagster.defs.resources import HomeResource
from ringrift_dagster.games.config import CONFIG_KEYS
from ringrift_dagster.models.candidates import candidates
from ringrift_dagster.models.promotion.log import DecisionLog
from ringrift_dagster.models.promotion.promoting import log_path


@dg.sensor(job=promotion_job, minimum_interval_seconds=10, default_status=dg.DefaultSensorStatus.RUNNING)
def new_candidates_sensor(context: dg.SensorEvaluationContext, home: HomeResource) -> dg.SensorResult:
    """Looks at candidates and current models; asks for a run of each config that has a new candidate or another current model.

    A model that became current by a command, e.g. a rollback, is so brought to the hosts. The cursor holds, by config, a digest of
    what a run was asked for.
    """
    before: dict[str, str] = json.loads(context.cursor or "{}")
    hashes = {config: [entry.sha256 for entry in candidates(home.home, config)] for config in CONFIG_KEYS}
    with DecisionLog(log_path(home.home)) as log:
        current = {config: [f"decision {entry.id}"] if (entry := log.current(config)) else [] for config in CONFIG_KEYS}
    now = {config: digest_root(entries + current[config]) for config, entries in hashes.items() if entries}
    due = {config: state for config, state in now.items() if before.get(config) != state}
    return dg.SensorResult(
        run_requests=[dg.RunRequest(run_key=f"{config}:{state}", partition_key=config) for config, state in due.items()],
        skip_reason=None if due else f"no new candidates or decisions ({sum(map(len, hashes.values()))} are registered)",
        cursor=json.dumps({**before, **now}),
    )
