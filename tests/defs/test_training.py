"""The training job: what a run shows and tells, and what happens to the command when runs end, fail, are cancelled or die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from ringrift_dagster.defs.models.training import JOB_TAG, unattended_training_sensor
from ringrift_dagster.defs.resources import HomeResource
from ringrift_dagster.events.model import EventType
from ringrift_dagster.games.database import file_sha256
from ringrift_dagster.home import Home
from ringrift_dagster.manifest.plane import open_plane
from ringrift_dagster.models.candidates import candidates
from ringrift_dagster.models.training_jobs.jobs import state
from ringrift_dagster.models.training_jobs.records import TrainingRecord, following, open_records, records
from tests.manifest.telling import item, tell
from tests.models.making import model_file
from tests.models.training_jobs.conftest import COMMAND, CONFIG, DATA, Site, gate, open_gate, runs, server, site
from tests.transfer.test_reactions import said

from .conftest import QUIET, failure

__all__ = ["gate", "server", "site"]

Train = Callable[..., dg.ExecuteInProcessResult]


@pytest.fixture
def cluster(site: Site, home: Home) -> Site:
    """The site in the hosts file of the home, its training set in the manifest."""
    login = site.declared.ssh
    declared = {
        "status": "ready", "ssh_host": login.host, "ssh_user": login.user, "ssh_port": login.port, "ssh_key": login.key,
        "ringrift_path": str(site.root), "training_enabled": True,
    }  # fmt: skip
    home.root.mkdir(exist_ok=True)
    (home.root / "distributed_hosts.yaml").write_text(yaml.safe_dump({"hosts": {"gpu-1": declared}}))
    now = time.time()
    with open_plane(home) as plane:
        tell(
            plane.store, "gpu-1", [item(DATA, "a training set", config=CONFIG, newest_game=now - 3600, samples=1000)], at=now
        )  # fmt: skip
    return site


@pytest.fixture(autouse=True)
def nothing_left(home: Home) -> Iterator[None]:
    """Jobs that a test left running are ended."""
    yield
    for record in records(home, CONFIG):
        if record.process is not None and runs(record.process.pid):
            os.killpg(record.process.pid, signal.SIGKILL)


def settings(*arguments: str | Path, **more: Any) -> dict[str, Any]:
    """The configuration of a run."""
    return {"config": CONFIG, "host": "gpu-1", "command": list(COMMAND), "arguments": list(map(str, arguments)), **more}


@pytest.fixture
def train(location: dg.Definitions, instance: dg.DagsterInstance) -> Train:
    def execute(*arguments: str | Path, **more: Any) -> dg.ExecuteInProcessResult:
        return location.resolve_job_def("training_job").execute_in_process(
            instance=instance,
            run_config={**QUIET, "ops": {"train": {"config": settings(*arguments, **more)}}},
            raise_on_error=False,
        )

    return execute


def events(home: Home) -> dict[str, list[dict[str, Any]]]:
    kinds = (EventType.TRAINING_STARTED, EventType.TRAINING_COMPLETED, EventType.TRAINING_FAILED)
    with open_plane(home) as plane:
        return {kind.value.removeprefix("TRAINING_"): said(plane, kind) for kind in kinds}


def only(home: Home) -> TrainingRecord:
    (record,) = records(home, CONFIG)
    return record


def materialization(result: dg.ExecuteInProcessResult) -> dg.AssetMaterialization:
    (event,) = result.get_asset_materialization_events()
    return event.step_materialization_data.materialization


def test_a_trained_checkpoint_is_a_candidate_and_its_progress_is_in_the_run(
    cluster: Site, home: Home, train: Train, tmp_path: Path
) -> None:
    weights = model_file(tmp_path / "weights.pth", CONFIG)
    result = train("--weights", weights)
    assert result.success, failure(result)
    (candidate,) = candidates(home, CONFIG)
    record = only(home)
    assert (candidate.sha256, candidate.training_data_sha256) == (file_sha256(weights), cluster.sha256)
    assert (candidate.origin, candidate.metrics["val_loss"]) == (f"training job {record.job} on gpu-1", 0.25)
    assert record.process is not None
    assert (record.outcome, record.candidate, candidate.training_began) == ("completed", candidate.sha256, record.process.began)
    made = materialization(result)
    assert (made.asset_key.to_user_string(), made.partition) == ("candidate_models", CONFIG)
    assert made.metadata["newest candidate"].value == candidate.sha256
    assert "dagster/data_version" in (made.tags or {})
    progress = [event.asset_observation_data.asset_observation for event in result.get_asset_observation_events()]
    assert [(seen.partition, seen.metadata["epoch"].value, seen.metadata["val_loss"].value) for seen in progress] == [
        (CONFIG, 1, 0.5),
        (CONFIG, 2, 0.25),
    ]
    told = events(home)
    assert [len(told[kind]) for kind in ("STARTED", "COMPLETED", "FAILED")] == [1, 1, 0]
    assert (told["STARTED"][0]["host"], told["STARTED"][0]["job"]) == ("gpu-1", record.job)
    assert (told["COMPLETED"][0]["model"], told["COMPLETED"][0]["success"]) == (candidate.sha256, True)

    again = train("--weights", weights)
    assert again.success, failure(again)
    assert (candidates(home, CONFIG), events(home)) == ([candidate], told)
    assert again.get_asset_observation_events() == []
    assert only(home).process == record.process


def test_a_command_may_speak_pipes(cluster: Site, home: Home, train: Train, tmp_path: Path) -> None:
    weights = model_file(tmp_path / "weights.pth", CONFIG)
    script = Path(__file__).with_name("pipes_trainer.py")
    result = train(command=[sys.executable, str(script), str(weights)])
    assert result.success, failure(result)
    assert materialization(result).metadata["policy accuracy"].value == 0.75
    assert candidates(home, CONFIG)[0].metrics == {"epoch": 1, "val_loss": 0.125}


def test_a_failing_command_is_told_with_the_end_of_its_output(cluster: Site, home: Home, train: Train, tmp_path: Path) -> None:
    result = train("--status", 3, "--starts", tmp_path / "starts")
    assert not result.success
    assert "on gpu-1 ended with status 3: CUDA out of memory; raise `attempt` to train again" in failure(result)
    assert candidates(home, CONFIG) == []
    (told,) = events(home)["FAILED"]
    assert told["reason"].endswith("ended with status 3: CUDA out of memory")
    (step,) = result.get_step_failure_events()
    user = step.step_failure_data.user_failure_data
    assert user is not None
    assert "note: None\nCUDA out of memory" in str(user.metadata["end of the output"].value)
    train("--status", 3, "--starts", tmp_path / "starts")
    assert len((tmp_path / "starts").read_text().split()) == len(events(home)["FAILED"]) == 1
    train("--status", 3, "--starts", tmp_path / "starts", attempt=2)
    assert len((tmp_path / "starts").read_text().split()) == len(events(home)["FAILED"]) == 2


def test_a_checkpoint_that_the_reader_refuses_is_not_registered(cluster: Site, home: Home, train: Train, tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(b"not a model")
    result = train("--weights", tmp_path / "weights.pth")
    assert "its checkpoint is not registered: unknown_format: " in failure(result)
    assert candidates(home, CONFIG) == []
    assert only(home).outcome == "failed"
    assert "unknown_format" in events(home)["FAILED"][0]["reason"]
    assert "ended well without a checkpoint" in failure(train())


def test_what_cannot_begin_is_said_in_one_line_and_may_be_asked_for_again(
    cluster: Site, home: Home, train: Train, tmp_path: Path
) -> None:
    hosts = home.root / "distributed_hosts.yaml"
    declared = hosts.read_text()
    weights = model_file(tmp_path / "weights.pth", CONFIG)
    lines = {
        failure(train(config="chess_2p")),
        failure(train(host="gpu-9")),
        failure(train(config="hex8_2p")),
        failure(train("--auto-promote")),
    }
    hosts.write_text(declared.replace(f"ssh_port: {cluster.declared.ssh_port}", "ssh_port: 1"))
    lines.add(failure(train("--weights", weights)))
    hosts.write_text(declared.replace("ssh_key:", "other_key:"))
    lines.add(failure(train("--weights", weights)))
    hosts.write_text(declared)
    (cluster.root / DATA).write_bytes(b"another one")
    lines.add(failure(train("--weights", weights)))
    assert not [line for line in lines if "\n" in line or not line]
    for part in (
        "'chess_2p'", "no active host gpu-9", "no training set of hex8_2p", "promoted by evidence", "gpu-1 cannot be reached",
        "ssh_key of gpu-1", f"expected {cluster.sha256[:12]}",
    ):  # fmt: skip
        assert [line for line in lines if part in line], (part, lines)
    assert len(events(home)["STARTED"]) == len(events(home)["FAILED"]) == 2
    (cluster.root / DATA).write_bytes(b"a training set")
    result = train("--weights", weights)
    assert result.success, failure(result)
    assert len(events(home)["COMPLETED"]) == 1


def test_a_set_that_does_not_come_to_the_host_in_time_ends_the_job(cluster: Site, home: Home, train: Train) -> None:
    with open_plane(home) as plane:
        tell(plane.store, "gpu-1", gone=[DATA], at=time.time(), full=False)
        tell(
            plane.store,
            "home",
            [item("datasets/square8_4p.npz", "a training set", config=CONFIG, newest_game=time.time() - 3600)],
            at=time.time(),
        )
    result = train(wait_minutes=0.001)
    assert "did not come to gpu-1" in failure(result)
    assert len(events(home)["STARTED"]) == len(events(home)["FAILED"]) == 1


def test_only_one_run_follows_a_config_on_a_host(cluster: Site, home: Home, train: Train) -> None:
    with following(home, CONFIG, "gpu-1"):
        assert failure(train()) == f"another run follows the training of {CONFIG} on gpu-1"


@pytest.fixture
def other_run(cluster: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts a run in a process of its own, with an instance on disk."""
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    (tmp_path / "dagster").mkdir()
    with dg.DagsterInstance.get():
        pass
    program = """
import json, sys
import dagster as dg
from ringrift_dagster.definitions import defs
with dg.DagsterInstance.get() as instance:
    job = defs().resolve_job_def("training_job")
    job.execute_in_process(instance=instance, run_config=json.loads(sys.argv[1]), raise_on_error=False)
"""
    started: list[subprocess.Popen[bytes]] = []

    def begin(*arguments: str | Path) -> subprocess.Popen[bytes]:
        run_config = {**QUIET, "ops": {"train": {"config": settings(*arguments)}}}
        started.append(subprocess.Popen([sys.executable, "-c", program, json.dumps(run_config)]))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.wait()


def first_epoch(home: Home, process: subprocess.Popen[bytes]) -> TrainingRecord:
    """Wait until the run has recorded the first epoch."""
    while process.poll() is None:
        found = records(home, CONFIG)
        if found and found[0].epoch is not None:
            return found[0]
        time.sleep(0.05)
    raise AssertionError("the run ended")


def test_a_cancelled_run_ends_the_command(
    cluster: Site, home: Home, other_run: Callable[..., subprocess.Popen[bytes]], gate: Path, tmp_path: Path
) -> None:
    process = other_run("--gate", gate, "--child", tmp_path / "child")
    record = first_epoch(home, process)
    with dg.DagsterInstance.get() as instance:
        (run,) = instance.get_runs()
        instance.report_run_canceling(run)
        process.send_signal(signal.SIGINT)
        process.wait()
    assert record.process is not None
    assert not runs(record.process.pid)
    assert not runs(int((tmp_path / "child").read_text()))
    end = only(home)
    assert (end.outcome, end.cancel_by) == ("cancelled", f"run {run.run_id}")
    (told,) = events(home)["FAILED"]
    assert "cancelled by run" in told["reason"]
    assert state(cluster.host, end.training_job).cancelled_by == f"run {run.run_id}"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_ends_with_its_server_leaves_the_command_to_the_next(
    cluster: Site, home: Home, other_run: Callable[..., subprocess.Popen[bytes]], gate: Path, tmp_path: Path, train: Train,
    instance: dg.DagsterInstance, number: signal.Signals,
) -> None:  # fmt: skip
    weights = model_file(tmp_path / "weights.pth", CONFIG)
    arguments = ("--gate", gate, "--starts", tmp_path / "starts", "--weights", weights)
    process = other_run(*arguments)
    record = first_epoch(home, process)
    assert not unattended(home, instance)
    process.send_signal(number)
    process.wait()
    assert record.process is not None
    assert runs(record.process.pid)
    (request,) = unattended(home, instance)
    assert request.tags[JOB_TAG] == record.job
    with open_plane(home) as plane:  # a newer training set changes nothing for a job that has begun
        newer = item("data/training/newer.npz", "newer", config=CONFIG, newest_game=time.time() - 60, samples=2000)
        tell(plane.store, "gpu-1", [newer], at=time.time(), full=False)
    open_gate(gate)
    result = train(*arguments)
    assert result.success, failure(result)
    assert (tmp_path / "starts").read_text() == f"{record.process.pid}\n"
    assert [candidate.sha256 for candidate in candidates(home, CONFIG)] == [file_sha256(weights)]
    assert {kind: len(told) for kind, told in events(home).items()} == {"STARTED": 1, "COMPLETED": 1, "FAILED": 0}
    assert not open_records(home)
    assert not unattended(home, instance)


def unattended(home: Home, instance: dg.DagsterInstance) -> list[dg.RunRequest]:
    context = dg.build_sensor_context(instance=instance, resources={"home": HomeResource(root=str(home.root))})
    return [entry for entry in unattended_training_sensor(context) if isinstance(entry, dg.RunRequest)]  # type: ignore[union-attr]


def test_a_run_that_is_cancelled_after_its_death_has_the_command_ended_by_the_next(
    cluster: Site, home: Home, other_run: Callable[..., subprocess.Popen[bytes]], gate: Path, train: Train
) -> None:
    process = other_run("--gate", gate)
    record = first_epoch(home, process)
    process.kill()
    process.wait()
    with dg.DagsterInstance.get() as instance:
        (run,) = instance.get_runs()
        instance.report_run_canceled(run)
        (request,) = unattended(home, instance)
    assert request.run_config["ops"]["train"]["config"]["command"] == list(record.command)
    assert f"was cancelled by run {run.run_id}" in failure(train("--gate", gate))
    assert record.process is not None
    assert not runs(record.process.pid)
    assert (only(home).outcome, len(events(home)["FAILED"])) == ("cancelled", 1)


def test_a_job_whose_directory_is_gone_is_not_started_again(cluster: Site, home: Home, train: Train, tmp_path: Path) -> None:
    train("--status", 3, "--starts", tmp_path / "starts")
    cluster.folder(only(home).training_job).rename(tmp_path / "away")
    assert "its directory is gone from the host; raise `attempt`" in failure(train("--status", 3, "--starts", tmp_path / "starts"))
    assert len((tmp_path / "starts").read_text().split()) == 1
