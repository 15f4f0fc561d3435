"""Jobs and schedules over the training data: the pipeline, the nightly catch-up, the hourly freshness check."""

from collections.abc import Iterator, Mapping

import dagster as dg

from ringrift_dagster.defs.resources import HomeResource
from ringrift_dagster.games.sources import states, watch

STATE_TAG = "ringrift/sources_state"
"""On every run of the pipeline that was started for a certain content of the sources."""

training_data_job = dg.define_asset_job(
    "training_data_job",
    selection=["selfplay_databases", "canonical_games", "training_npz"],
    description="Self-play databases of one config, through the canonical gate, into its training set.",
    tags={"ringrift/op_class": "PIPELINE"},
)


def processed(instance: dg.DagsterInstance, wanted: Mapping[str, str]) -> frozenset[str]:
    """Those configs of `wanted` (config to state) of which a run has succeeded for exactly that state of the sources."""
    runs = instance.get_runs(
        dg.RunsFilter(
            job_name=training_data_job.name,
            statuses=[dg.DagsterRunStatus.SUCCESS],
            tags={STATE_TAG: list(wanted.values())},
        )
    )
    done = {run.tags[STATE_TAG] for run in runs}
    return frozenset(config for config, state in wanted.items() if state in done)


freshness_job = dg.define_asset_job(
    "freshness_job",
    selection=["freshness_report"],
    description="How old is the newest canonical game of each config?",
)

freshness_schedule = dg.ScheduleDefinition(
    job=freshness_job, cron_schedule="5 * * * *", default_status=dg.DefaultScheduleStatus.RUNNING
)


@dg.schedule(job=training_data_job, cron_schedule="20 3 * * *", default_status=dg.DefaultScheduleStatus.RUNNING)
def nightly_catch_up_schedule(context: dg.ScheduleEvaluationContext, home: HomeResource) -> Iterator[dg.RunRequest]:
    """Every config that has databases, once a night: picks up what a failed run left, judges nothing twice."""
    night = context.scheduled_execution_time.date().isoformat()
    for config, state in states(watch(home.home.selfplay, {})).items():
        yield dg.RunRequest(run_key=f"{night}:{config}", partition_key=config, tags={STATE_TAG: state})
