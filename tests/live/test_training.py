"""A training job under a real Dagster: its data is brought, the code server is restarted meanwhile, and a run is cancelled."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ringrift_dagster.games.database import file_sha256
from ringrift_dagster.manifest import overrides
from ringrift_dagster.models.candidates import candidates
from ringrift_dagster.models.training_jobs.records import TrainingRecord, records
from tests.live.cluster import MAIN, LiveCluster, live_cluster
from tests.live.test_live import NPZ, ask, eventually
from tests.models.making import model_file
from tests.models.training_jobs.conftest import COMMAND, open_gate, runs
from tests.ssh_servers import ssh_server

pytestmark = [pytest.mark.live, pytest.mark.xdist_group("live")]

CONFIG = "square8_3p"
LAUNCH = """mutation { launchRun(executionParams: {
  selector: {repositoryLocationName: "ringrift", repositoryName: "__repository__", jobName: "training_job"}, runConfigData: %s
}) { __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
TERMINATE = 'mutation { terminateRun(runId: "%s") { __typename } }'
STATUS = '{ runOrError(runId: "%s") { ... on Run { status } } }'


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveCluster]:
    root = tmp_path_factory.mktemp("training")
    with ssh_server(root / "sshd") as server:
        login = f", ssh_user: {getpass.getuser()}, ssh_port: {server.port}, ssh_key: {server.key}, training_enabled: true"
        hosts = {MAIN: ", role: coordinator, is_coordinator: true", "gpu-1": login, "gpu-2": ""}
        with live_cluster(root, hosts, sections="sync_routing: {replication_target: 1}") as running:
            path = root / "gpu-2/data/training" / f"{CONFIG}.npz"
            path.parent.mkdir(parents=True)
            shutil.copyfile(NPZ, path)
            eventually(lambda: running.known(file_sha256(NPZ)))
            overrides.grant(running.store, CONFIG, who="tests", why="a recorded game is old", hours=1, at=time.time())
            try:
                yield running
            finally:
                for record in records(running.home, CONFIG):
                    if record.process is not None and runs(record.process.pid):
                        os.killpg(record.process.pid, signal.SIGKILL)


def launch(cluster: LiveCluster, *arguments: Any, attempt: int) -> str:
    """Start a run of the training job; its id."""
    config = {
        "config": CONFIG, "host": "gpu-1", "command": [*COMMAND], "arguments": list(map(str, arguments)), "attempt": attempt
    }  # fmt: skip
    launched = ask(cluster.services, LAUNCH % json.dumps(json.dumps({"ops": {"train": {"config": config}}})))["launchRun"]
    assert launched["__typename"] == "LaunchRunSuccess", launched
    return launched["run"]["runId"]


def trains(cluster: LiveCluster, attempt: int) -> list[TrainingRecord]:
    """The record of the attempt, once its command has said something."""
    return [entry for entry in records(cluster.home, CONFIG) if entry.attempt == attempt and entry.epoch is not None]


def test_training_outlives_the_code_server_and_ends_with_a_cancelled_run(cluster: LiveCluster, tmp_path: Path) -> None:
    weights, gate, starts = model_file(tmp_path / "weights.pth", CONFIG), tmp_path / "gate", tmp_path / "starts"
    os.mkfifo(gate)
    arguments = ("--weights", weights, "--gate", gate, "--starts", starts)
    first = launch(cluster, *arguments, attempt=1)
    (record,) = eventually(lambda: trains(cluster, 1))
    assert "gpu-1" in cluster.places(file_sha256(NPZ))
    assert record.process is not None

    cluster.services.restart("code-server")
    assert runs(record.process.pid)
    eventually(lambda: [entry for entry in trains(cluster, 1) if entry.followed_by != first])
    open_gate(gate)
    (end,) = eventually(lambda: [entry for entry in trains(cluster, 1) if entry.outcome is not None])
    assert (end.outcome, end.process) == ("completed", record.process)
    assert [entry.sha256 for entry in candidates(cluster.home, CONFIG)] == [file_sha256(weights)]
    assert starts.read_text() == f"{record.process.pid}\n"

    second = launch(cluster, *arguments, attempt=2)
    (record,) = eventually(lambda: trains(cluster, 2))
    assert record.process is not None
    ask(cluster.services, TERMINATE % second)
    (end,) = eventually(lambda: [entry for entry in trains(cluster, 2) if entry.outcome is not None])
    assert (end.outcome, end.cancel_by) == ("cancelled", f"run {second}")
    assert not runs(record.process.pid)
    eventually(lambda: [1] if ask(cluster.services, STATUS % second)["runOrError"]["status"] == "CANCELED" else [])
