"""`new_candidates_sensor`: a registered candidate starts its evaluation and the decision by itself."""

import json

import dagster as dg

from ringrift_dagster.datasets.npz_export import digest_root
from ringrift_dagster.defs.models.promoted import promotion_job
from ringrift_dagster.defs.resources import HomeResource
from ringrift_dagster.games.config import CONFIG_KEYS
from ringrift_dagster.models.candidates import candidates


@dg.sensor(job=promotion_job, minimum_interval_seconds=10, default_status=dg.DefaultSensorStatus.RUNNING)
def new_candidates_sensor(context: dg.SensorEvaluationContext, home: HomeResource) -> dg.SensorResult:
    """Looks at the registered candidates; asks for a run of each config that has one it had not before.

    The cursor holds, by config, the digest of the candidates that a run was asked for.
    """
    before: dict[str, str] = json.loads(context.cursor or "{}")
    hashes = {config: [entry.sha256 for entry in candidates(home.home, config)] for config in CONFIG_KEYS}
    now = {config: digest_root(entries) for config, entries in hashes.items() if entries}
    due = {config: state for config, state in now.items() if before.get(config) != state}
    return dg.SensorResult(
        run_requests=[dg.RunRequest(run_key=f"{config}:{state}", partition_key=config) for config, state in due.items()],
        skip_reason=None if due else f"no new candidates ({sum(map(len, hashes.values()))} are registered)",
        cursor=json.dumps({**before, **now}),
    )
