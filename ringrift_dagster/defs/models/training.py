"""`training_job`: trains one config on one host over ssh and registers the checkpoint, a materialisation of `candidate_models`.

An op and not an asset: a run of a partitioned asset has the tag `dagster/partition`, of which one run at a time is allowed, and
training for hours would hold up the pipeline and the decisions of its config. The checks of `candidate_models` follow when
`new_candidates_sensor` has noticed the candidate.
"""

import time
from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg
from pydantic import Field

from ringrift_dagster.cluster.hosts import HostsFileError
from ringrift_dagster.datasets.npz_export import digest_root
from ringrift_dagster.defs.models.candidates import NAME
from ringrift_dagster.defs.models.pipes import TrainingPipesClient
from ringrift_dagster.defs.presentation import location
from ringrift_dagster.defs.resources import HomeResource, PlaneResource
from ringrift_dagster.games.config import parse_config
from ringrift_dagster.home import Home
from ringrift_dagster.models.candidates import Candidate, candidates, directory
from ringrift_dagster.models.training_jobs.jobs import RINGRIFT_TRAINER, JobState, TrainingJob, cancel
from ringrift_dagster.models.training_jobs.records import (
    JobRefused,
    Outcome,
    TrainingRecord,
    claim,
    following,
    is_followed,
    open_records,
    save,
)
from ringrift_dagster.models.training_jobs.remote import (
    HostUnreachable,
    TrainingHost,
    TrainingHostError,
    training_host,
)
from ringrift_dagster.models.training_jobs.training import (
    Output,
    TrainingCancelled,
    TrainingFailed,
    check_ended_well,
    take_in,
)

LOOK_SECONDS = 1.0
"""Between two looks at the manifest for a training set that is on its way."""
LOST_SECONDS = 48 * 3600.0
"""A job whose host did not answer for so long has failed. Its data is kept there as long, too."""
ADOPT_SECONDS = 600
"""A job that nobody follows is given a new run at most once in so long."""
CANCELLED = (dg.DagsterRunStatus.CANCELING, dg.DagsterRunStatus.CANCELED)
JOB_TAG = "ringrift/training"
"""On runs that follow a job: its id. A run that Dagster starts in place of a crashed one has it too."""
UNFINISHED = [
    dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]  # fmt: skip


class TrainingConfig(dg.Config):
    """Configuration of a run of `training_job`: what is trained, where and how."""

    config: str = Field(description="Which config, e.g. square8_2p.")
    host: str = Field(description="Which host of the hosts file.")
    command: list[str] = Field(
        default=list(RINGRIFT_TRAINER),
        description="The command, word by word, run in the host's `ringrift_path`. {data_path}, {save_path}, {board}, {players}, "
        "{config} and {job} are filled in.",
    )
    arguments: list[str] = Field(default=[], description="Further words of the command, e.g. [--epochs, '30'].")
    attempt: int = Field(default=1, ge=1, description="Another number is another job: raise it to train again what failed.")
    python: str = Field(default="python3", description="The host's Python (3.8 or later) for what starts the command.")
    wait_minutes: float = Field(default=60, gt=0, description="For the training set to come to the host.")
    unreachable_minutes: float = Field(
        default=30,
        gt=0,
        description="For a host that does not answer. After that the run fails; the job goes on and is found again.",
    )


@dg.op(
    name="train",
    description="Train a config on a host over ssh, and register the checkpoint as a candidate.",
    out=dg.Out(dg.Nothing),
)
def train(
    context: dg.OpExecutionContext, config: TrainingConfig, home: HomeResource, plane: PlaneResource
) -> Iterator[dg.AssetMaterialization | dg.Output]:
    try:
        parse_config(config.config)
        with following(home.home, config.config, config.host):
            record, host = _claimed(context, config, home.home, plane)
            candidate, metadata = _trained(context, config, home.home, plane, record, host)
    except (ValueError, JobRefused, HostsFileError) as error:
        text = f"the hosts file cannot be used: {error.problems[0]}" if isinstance(error, HostsFileError) else str(error)
        raise dg.Failure(text, allow_retries=False) from error
    except TrainingHostError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    registered = candidates(home.home, candidate.config)
    yield dg.AssetMaterialization(
        NAME,
        partition=candidate.config,
        description=f"trained on {record.host}",
        metadata={
            **metadata,
            "newest candidate": candidate.sha256,
            "origin": candidate.origin,
            "bytes": candidate.bytes,
            "training set": candidate.training_data_sha256 or "unknown",
            **{name: value for name, value in candidate.metrics.items() if isinstance(value, int | float | str)},
            **location(directory(home.home, candidate.config)),
        },
        tags={"dagster/data_version": digest_root(entry.sha256 for entry in registered)},
    )
    yield dg.Output(None)


@dg.job(
    name="training_job",
    description="Train one config on one host over ssh; the checkpoint becomes a candidate.",
    tags={"ringrift/op_class": "TRAINING"},
)
def training_job() -> None:
    train()


@dg.sensor(job=training_job, minimum_interval_seconds=30, default_status=dg.DefaultSensorStatus.RUNNING)
def unattended_training_sensor(context: dg.SensorEvaluationContext, home: HomeResource) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """Asks for a run of every training job whose end is not known and that no run follows, as after a restart.

    If the last run that followed a job was cancelled when nothing of it was left to cancel the job, the new run does that.
    """
    unattended = [
        record
        for record in open_records(home.home)
        if not is_followed(home.home, record)
        and not context.instance.get_runs_count(dg.RunsFilter(tags={JOB_TAG: record.job}, statuses=UNFINISHED))
    ]
    if not unattended:
        yield dg.SkipReason("every training job that has begun is followed")
    for record in unattended:
        last = context.instance.get_run_by_id(record.followed_by) if record.followed_by else None
        if last is not None and last.status in CANCELLED and record.cancel_by is None:
            record.cancel_by = f"run {last.run_id}"
            save(home.home, record)
        settings = TrainingConfig(
            config=record.config, host=record.host, command=list(record.command), attempt=record.attempt, python=record.python
        )
        yield dg.RunRequest(
            run_key=f"{record.job}:{int(time.time() // ADOPT_SECONDS)}",
            run_config=dg.RunConfig(ops={"train": settings}),
            tags={JOB_TAG: record.job},
        )


def _claimed(
    context: dg.OpExecutionContext, config: TrainingConfig, home: Home, plane: PlaneResource
) -> tuple[TrainingRecord, TrainingHost]:
    """The job of this run: one like it that is not over, or one for the best training set that there is."""
    from ringrift_dagster.transfer.training import NoTrainingSet, set_to_train_on, tell_started

    command = (*config.command, *config.arguments)
    with plane.open() as opened:
        declared = opened.cluster.hosts.get(config.host)
        if declared is None or not declared.active:
            raise JobRefused(f"the hosts file names no active host {config.host}")
        host = training_host(declared, home, python=config.python)
        open_one = next(
            (
                entry
                for entry in open_records(home)
                if (entry.config, entry.host, entry.command, entry.attempt) == (config.config, config.host, command, config.attempt)
            ),
            None,
        )
        try:
            data = open_one.data_sha256 if open_one else set_to_train_on(opened, config.config, at=time.time())
        except NoTrainingSet as error:
            raise JobRefused(str(error)) from error
        job = TrainingJob(config.config, data, command, config.attempt)
        record = claim(home, job, config.host, f"run {context.run_id}", at=time.time(), python=config.python)
        record.followed_by = context.run_id
        save(home, record)
        context.instance.add_run_tags(context.run_id, {JOB_TAG: record.job})
        tell_started(opened, record.config, record.host, record.job, at=record.requested_at)
    return record, host


def _trained(
    context: dg.OpExecutionContext,
    config: TrainingConfig,
    home: Home,
    plane: PlaneResource,
    record: TrainingRecord,
    host: TrainingHost,
) -> tuple[Candidate, Mapping[str, Any]]:
    """Run the job to its end, or find it again, and register what it made. Its end is told before this returns or raises."""
    job, output, start_asked = record.training_job, Output(), False

    def data_path() -> str:
        nonlocal start_asked
        path = _data_path(plane, record, config.wait_minutes * 60)
        start_asked = True
        return path

    def begun(state: JobState) -> None:
        if state.process is None:
            return
        if record.process is not None and state.process != record.process:
            raise TrainingFailed(f"job {record.job[:8]} is another process of {record.host} than the one that was started")
        record.process, record.heard_at = state.process, time.time()
        save(home, record)

    def progressed(metrics: Mapping[str, Any]) -> None:
        record.heard_at = time.time()
        if record.epoch is not None and metrics["epoch"] <= record.epoch:
            return  # a run before this one has shown it
        record.epoch = metrics["epoch"]
        save(home, record)
        context.log.info(", ".join(f"{name} {value}" for name, value in metrics.items()))
        context.log_event(dg.AssetObservation(NAME, partition=record.config, description="training", metadata=dict(metrics)))

    client = TrainingPipesClient(host, asset=NAME, partition=record.config, patience=config.unreachable_minutes * 60)
    try:
        if record.cancel_by is not None:
            cancel(host, job, record.cancel_by)
        invocation = client.run(
            context=context,
            extras={"config": record.config, "training_data_sha256": record.data_sha256, "job": record.job},
            job=job,
            data_path=data_path,
            may_start=record.process is None,
            on_started=begun,
            on_progress=progressed,
            on_output=output.add,
        )
        check_ended_well(job, record.host, invocation.state, output)
        candidate = take_in(home, host, job, invocation.state, who=f"run {context.run_id}", metrics=invocation.metrics)
    except dg.DagsterExecutionInterruptedError:
        _interrupted(context, home, plane, record, host)
        raise
    except TrainingFailed as error:
        _end(home, plane, record, "cancelled" if isinstance(error, TrainingCancelled) else "failed", reason=str(error))
        again = "; raise `attempt` to train again" if record.process is not None else ""
        metadata = {"end of the output": dg.MetadataValue.md(_code(output.tail))}
        raise dg.Failure(f"{error}{again}", metadata=metadata, allow_retries=False) from error
    except TrainingHostError as error:
        lost = time.time() - record.heard_at > LOST_SECONDS
        never_began = record.process is None and not (start_asked and isinstance(error, HostUnreachable))
        if lost or (never_began and record.requested_by == f"run {context.run_id}"):
            _end(home, plane, record, "failed", reason=str(error))
        raise
    _end(home, plane, record, "completed", candidate=candidate.sha256)
    return candidate, invocation.reported_metadata


def _data_path(plane: PlaneResource, record: TrainingRecord, seconds: float) -> str:
    """Where the training set is on the job's host, once it is there. Raises TrainingFailed if it does not come."""
    from ringrift_dagster.transfer.training import path_on_host

    deadline = time.monotonic() + seconds
    with plane.open() as opened:
        while (path := path_on_host(opened, record.data_sha256, record.host)) is None:
            if time.monotonic() > deadline:
                raise TrainingFailed(
                    f"training set {record.data_sha256[:12]} did not come to {record.host} in {seconds / 60:g} minutes: "
                    f"`ringrift-data ready --config {record.config} --host {record.host}` says why"
                )
            time.sleep(LOOK_SECONDS)
    return path


def _interrupted(
    context: dg.OpExecutionContext, home: Home, plane: PlaneResource, record: TrainingRecord, host: TrainingHost
) -> None:
    """Cancel the job if the run is being cancelled; leave it alone if its process is ended for another reason, as by a restart."""
    run = context.instance.get_run_by_id(context.run_id)
    if run is None or run.status not in CANCELLED:
        context.log.warning(f"this run was interrupted; job {record.job[:8]} goes on at {record.host} and will be found again")
        return
    record.cancel_by = f"run {context.run_id}"
    save(home, record)
    try:
        state, gone = cancel(host, record.training_job, record.cancel_by)
    except TrainingHostError as error:
        context.log.warning(f"{error}; the job is cancelled by the next run that reaches the host")
        return
    context.log.info(f"job {record.job[:8]} is {state.state}; {'nothing' if gone else 'something'} of its process group is left")
    if gone:
        _end(home, plane, record, "cancelled", reason=f"cancelled by {record.cancel_by}")


def _end(
    home: Home,
    plane: PlaneResource,
    record: TrainingRecord,
    outcome: Outcome,
    *,
    reason: str | None = None,
    candidate: str | None = None,
) -> None:
    """Tell the end of a job and record it; told first, so that what is recorded was told."""
    from ringrift_dagster.transfer.training import tell_ended

    with plane.open() as opened:
        tell_ended(
            opened, record.config, record.host, record.job, outcome,
            started_at=record.requested_at, at=time.time(), model=candidate, reason=reason,
        )  # fmt: skip
    record.outcome, record.reason, record.candidate = outcome, reason, candidate
    save(home, record)


def _code(text: str) -> str:
    return "```\n" + text.replace("```", "` ` `") + "\n```"
