"""The second half of `ringrift-data demo --full`: models are trained on a host and judged by games; one is promoted to every host.

Nothing is decided or moved here. Runs of `training_job` are started, as an operator would in the web interface; what follows is
done by Dagster's sensors, and watched. The first half, up to the training set, is in `demo`.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import dagster as dg

from ringrift_dagster.cli.demo_cluster import WITHOUT_DATA, DemoCluster, ssh_server
from ringrift_dagster.cli.demo_games import MODEL_CONFIG
from ringrift_dagster.cli.demo_timeline import StepFailed, Timeline
from ringrift_dagster.cli.output import Unreadable
from ringrift_dagster.cli.services import Services
from ringrift_dagster.defs.models.promoted import promotion_job
from ringrift_dagster.defs.models.training import TrainingConfig, training_job
from ringrift_dagster.games.database import file_sha256
from ringrift_dagster.home import Home
from ringrift_dagster.manifest.plane import Plane
from ringrift_dagster.models.promotion.log import DecisionLog, Entry
from ringrift_dagster.models.promotion.promoting import log_path
from ringrift_dagster.models.publishing.names import model_names
from ringrift_dagster.models.training_jobs.records import TrainingRecord, records

MODEL_SECONDS: Final = 3600.0
"""Limit for the training of a candidate, and again for the games and the decision about it."""
TRAINER: Final = (
    sys.executable, "-m", "ringrift_dagster.models.training", "--data-path", "{data_path}", "--save-path", "{save_path}",
    "--board-type", "{board}", "--num-players", "{players}", "--batch-size", "128",
)  # fmt: skip
CURRENT_NAME: Final = model_names(MODEL_CONFIG)[0]
"""The name below `models/` of a host under which it has the current model."""


@dataclass(frozen=True)
class DemoCandidate:
    """A candidate to train; `options` are further ones of the trainer."""

    title: str
    options: tuple[str, ...] = ()


_TENTH: Final = ("--epochs", "1", "--validation-split", "0.9")
"""Options to train once on a tenth of the set."""
CANDIDATES: Final = (
    DemoCandidate("a candidate", ("--epochs", "1")),
    DemoCandidate("one that hardly learns", (*_TENTH, "--learning-rate", "1e-6")),
    DemoCandidate(
        "the current model, trained a little more",
        (*_TENTH, "--learning-rate", "3e-4", "--initial-checkpoint", f"models/{CURRENT_NAME}"),
    ),
)
"""The candidates in the order of their training. The first is promoted; the second is refused for being worse, since it reaches no
floor; the third is refused for lack of evidence, since so few games do not show that it is stronger than the first."""


def torch_is_installed() -> bool:
    """Whether candidates can be trained, and play, on this machine."""
    return importlib.util.find_spec("torch") is not None


def check_installed() -> None:
    """Raise Unreadable if something that training needs is not installed."""
    if not torch_is_installed():
        raise Unreadable("--full trains with torch, which is not installed: make torch, or pip install 'ringrift-dagster[train]'")
    ssh_server()


def train_and_promote(plane: Plane, instance: dg.DagsterInstance, services: Services, cluster: DemoCluster, line: Timeline) -> None:
    """Train the candidates, each after the decision on the previous one, and wait for the promoted one on every host.

    Ends where a step fails; the timeline has the reason.
    """
    home = plane.home
    if (current := _current(home)) is not None:
        line.happened("promoted", f"{current.sha256[:12]}, by an earlier demo")
        line.wait("every host has it", partial(_everywhere, cluster, current))
        return
    for candidate in CANDIDATES:
        began = time.time()
        run = services.launch(training_job.name, _run_config(home, candidate))
        line.happened("training", f"{candidate.title}: {MODEL_CONFIG} on {WITHOUT_DATA}, run {run[:8]}")
        trained = line.wait("trained", partial(_trained, home, instance, run), MODEL_SECONDS)
        record = _record(home, run)
        if not trained or record is None or record.candidate is None:
            return
        if not line.wait("decided", partial(_decided, home, instance, record.candidate, began), MODEL_SECONDS):
            return
        if (current := _current(home)) is None:
            line.failed("promoted", "no candidate: `ringrift-data models list` and `ringrift-data models show` say why")
            return
        if not line.wait("every host has it", partial(_everywhere, cluster, current)):
            return


def _run_config(home: Home, candidate: DemoCandidate) -> dg.RunConfig:
    command = [*TRAINER, *candidate.options]
    earlier = sum(record.command == tuple(command) for record in records(home, MODEL_CONFIG))
    training = TrainingConfig(config=MODEL_CONFIG, host=WITHOUT_DATA, command=command, attempt=earlier + 1, python=sys.executable)
    return dg.RunConfig(ops={"train": training})


def _record(home: Home, run: str) -> TrainingRecord | None:
    return next((record for record in records(home, MODEL_CONFIG) if record.requested_by == f"run {run}"), None)


def _trained(home: Home, instance: dg.DagsterInstance, run: str) -> str | None:
    record = _record(home, run)
    if record is None or record.outcome is None:
        _raise_if_failed(instance, dg.RunsFilter(run_ids=[run]))
        return None
    if record.candidate is None:
        raise StepFailed(record.reason or f"job {record.job[:8]} is {record.outcome}")
    return f"candidate {record.candidate[:12]}"


def _decided(home: Home, instance: dg.DagsterInstance, sha256: str, since: float) -> str | None:
    with DecisionLog(log_path(home)) as log:
        entry = log.last_about(MODEL_CONFIG, sha256)
    if entry is None:
        _raise_if_failed(instance, dg.RunsFilter(job_name=promotion_job.name, created_after=datetime.fromtimestamp(since, UTC)))
        return None
    return f"{sha256[:12]} {_outcome(entry)}"


def _outcome(entry: Entry) -> str:
    """The decision and what it rests on, in one line."""
    decision: Any = entry.record["decision"]
    if entry.kind == "refuse":
        return f"is refused: {'; '.join(reason['text'] for reason in decision['reasons'])}"
    scores = ", ".join(f"{name} {floor['score']:.2f}" for name, floor in decision["floors"].items())
    return f"is promoted; scores: {scores}"


def _raise_if_failed(instance: dg.DagsterInstance, runs: dg.RunsFilter) -> None:
    failed = next((run for run in instance.get_runs(runs) if run.status == dg.DagsterRunStatus.FAILURE), None)
    if failed is not None:
        raise StepFailed(f"run {failed.run_id} failed; see the web interface")


def _everywhere(cluster: DemoCluster, current: Entry) -> str | None:
    paths = [cluster.root / host / "models" / CURRENT_NAME for host in cluster.urls]
    if not all(path.is_file() and file_sha256(path) == current.sha256 for path in paths):
        return None
    return f"{current.sha256[:12]} is models/{CURRENT_NAME} of {', '.join(cluster.urls)}"


def _current(home: Home) -> Entry | None:
    with DecisionLog(log_path(home)) as log:
        return log.current(MODEL_CONFIG)
