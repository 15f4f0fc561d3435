"""A job is started once, whoever asks; it goes on without its client, is found again, and ended with its children."""

from __future__ import annotations

import ast
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ringrift_dagster.games.database import file_sha256
from ringrift_dagster.models.training_jobs import host_side
from ringrift_dagster.models.training_jobs.jobs import JobState, Process, TrainingJob, cancel, fetch, follow, start, state
from ringrift_dagster.models.training_jobs.remote import HostUnreachable, RequestRefused, TrainingHost, TrainingHostError
from tests.models.making import model_file

from .conftest import CONFIG, DATA, Site, open_gate, runs

Ended = Callable[[TrainingJob], TrainingJob]


def followed(host: TrainingHost, job: TrainingJob) -> tuple[JobState, dict[str, list[str]]]:
    """The state at the end, and the lines by stream."""
    lines: dict[str, list[str]] = {"stdout": [], "stderr": [], "messages": []}
    end = follow(host, job, lambda stream, line: lines[stream].append(line), patience=30, on_break=lambda _: None)
    return end, lines


def begun(state: JobState) -> Process:
    assert state.process is not None
    return state.process


def test_the_command_gets_its_arguments_and_its_checkpoint_comes_home(site: Site, tmp_path: Path) -> None:
    weights = model_file(tmp_path / "weights.pth", CONFIG)
    job = site.job("--weights", weights, "--note", "a 'quoted'; $(word) {x} ü")
    first, by_us = start(site.host, job, DATA)
    assert (by_us, first.folder) == (True, str(site.folder(job)))
    end, lines = followed(site.host, job)
    assert (end.state, end.status, end.data_unchanged, end.cancelled_by) == ("ended", 0, True, None)
    assert lines["stdout"] == [
        "note: a 'quoted'; $(word) {x} ü",
        '{"epoch": 1, "val_loss": 0.5}',
        json.dumps({"epoch": 2, "val_loss": 0.25, "path": str(site.root / DATA)}),
    ]
    assert fetch(site.host, job, tmp_path / "fetched") == file_sha256(weights)
    assert (tmp_path / "fetched").read_bytes() == weights.read_bytes()
    again, by_us = start(site.host, job, DATA)
    assert (again, by_us) == (end, False)


def test_a_job_goes_on_when_its_client_is_killed_and_is_found_again(site: Site, gate: Path, tmp_path: Path, ended: Ended) -> None:
    job = ended(site.job("--gate", gate, "--starts", tmp_path / "starts"))
    program = f"""
import json, sys
from ringrift_dagster.models.training_jobs.jobs import *
from ringrift_dagster.models.training_jobs.remote import TrainingHost
host, job = TrainingHost(*json.loads(sys.argv[1])), TrainingJob(*json.loads(sys.argv[2]))
start(host, job, {DATA!r})
follow(host, job, lambda stream, line: print(line, flush=True), patience=30, on_break=print)
"""
    host = [site.host.name, site.host.words, site.host.root]
    command = [sys.executable, "-c", program, json.dumps(host), json.dumps([job.config, job.data_sha256, job.command])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        assert any("epoch" in line for line in client.stdout)
        client.kill()
    adopted, by_us = start(site.host, job, DATA)
    assert (adopted.state, by_us) == ("running", False)
    open_gate(gate)
    end, lines = followed(site.host, job)
    assert (end.status, end.process) == (0, adopted.process)
    assert [json.loads(line)["epoch"] for line in lines["stdout"][1:]] == [1, 2]
    assert (tmp_path / "starts").read_text() == f"{begun(adopted).pid}\n"


def test_of_two_that_start_it_at_once_one_does(site: Site, gate: Path, tmp_path: Path, ended: Ended) -> None:
    job = ended(site.job("--gate", gate, "--starts", tmp_path / "starts"))
    outcomes: list[tuple[JobState, bool]] = []
    starters = [threading.Thread(target=lambda: outcomes.append(start(site.host, job, DATA))) for _ in range(3)]
    for thread in starters:
        thread.start()
    for thread in starters:
        thread.join()
    assert sorted(by_us for _, by_us in outcomes) == [False, False, True]
    assert len({begun(known).pid for known, _ in outcomes}) == 1
    open_gate(gate)
    followed(site.host, job)
    assert len((tmp_path / "starts").read_text().split()) == 1


def test_who_starts_a_job_waits_for_another_that_does(here: Site, tmp_path: Path, ended: Ended) -> None:
    job = ended(here.job("--starts", tmp_path / "starts"))
    here.folder(job).mkdir(parents=True)
    request = {
        "op": "start", "job": job.id, "data_path": DATA, "data_sha256": here.sha256, "command": ["true"], "environment": {}
    }  # fmt: skip
    with (here.folder(job) / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with here.host.asked(**request) as connection:
            assert b'"beat"' in connection.read(100)
            assert state(here.host, job).state == "absent"
            fcntl.flock(lock, fcntl.LOCK_UN)
            assert connection.line() is None
            assert connection.answer["started"] is True


def test_lines_come_once_though_the_connection_breaks(site: Site, gate: Path, ended: Ended) -> None:
    """The server's process of the connection is killed at the first epoch."""
    job = ended(site.job("--gate", gate))
    start(site.host, job, DATA)
    lines: list[str] = []
    breaks: list[str] = []

    def on_line(_: str, line: str) -> None:
        lines.append(line)
        if "epoch" in line and not breaks and len(lines) == 2:
            for pid in _clients():
                os.kill(pid, signal.SIGKILL)

    def on_break(reason: str) -> None:
        breaks.append(reason)
        open_gate(gate)

    assert follow(site.host, job, on_line, patience=30, on_break=on_break).status == 0
    assert len(breaks) == 1
    assert [json.loads(line)["epoch"] for line in lines[1:]] == [1, 2]


def _clients() -> list[int]:
    """The ssh clients that this process started."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [int(pid) for pid in children if Path(f"/proc/{pid}/comm").read_text().strip() == "ssh"]


@pytest.mark.parametrize("stubborn", [False, True])
def test_cancelling_ends_the_command_and_its_children(here: Site, gate: Path, tmp_path: Path, ended: Ended, stubborn: bool) -> None:
    """The child ignores SIGTERM, the stubborn command too."""
    job = ended(here.job("--gate", gate, "--child", tmp_path / "child", *(["--stubborn"] if stubborn else [])))
    running, _ = start(here.host, job, DATA)
    wait_for_epoch(here.host, job)
    child = int((tmp_path / "child").read_text())
    end, gone = cancel(here.host, job, "anna", grace_seconds=0.2)
    assert gone
    assert not runs(begun(running).pid)
    assert not runs(child)
    assert (end.state, end.cancelled_by) == ("ended", "anna")
    assert end.status == (-signal.SIGKILL if stubborn else -signal.SIGTERM)
    assert start(here.host, job, DATA) == (end, False)


def test_cancelling_ends_the_children_of_a_command_that_is_gone(here: Site, tmp_path: Path, gate: Path, ended: Ended) -> None:
    """Neither the process that waits for the command nor the command is there any more."""
    job = ended(here.job("--gate", gate, "--child", tmp_path / "child"))
    running, _ = start(here.host, job, DATA)
    wait_for_epoch(here.host, job)
    recorded = json.loads((here.folder(job) / "process.json").read_text())
    for pid in (recorded["supervisor"]["pid"], begun(running).pid):
        os.kill(pid, signal.SIGKILL)
        while runs(pid):
            time.sleep(0.01)
    child = int((tmp_path / "child").read_text())
    assert runs(child)
    reused = {**recorded, "start_time": 0}  # the group is known by its mark alone
    assert (host_side.members(reused, job.id), host_side.members(reused, "another job")) == ([child], [])
    end, gone = cancel(here.host, job, "anna", grace_seconds=0)
    assert (end.state, gone, runs(child)) == ("vanished", True, False)


def wait_for_epoch(host: TrainingHost, job: TrainingJob) -> None:
    """Until the trainer has said its first."""

    class Seen(Exception):
        pass

    def look(_: str, line: str) -> None:
        if "epoch" in line:
            raise Seen

    with pytest.raises(Seen):
        follow(host, job, look, patience=30, on_break=lambda _: None)


def test_a_job_cancelled_before_it_began_never_begins(here: Site, tmp_path: Path) -> None:
    job = here.job("--starts", tmp_path / "starts")
    assert cancel(here.host, job, "anna")[0].state == "cancelled"
    known, by_us = start(here.host, job, DATA)
    assert (known.state, known.cancelled_by, by_us) == ("cancelled", "anna", False)
    assert not (tmp_path / "starts").exists()


def test_a_process_that_has_the_pid_by_now_is_left_alone(here: Site, gate: Path, ended: Ended) -> None:
    job = ended(here.job("--gate", gate))
    start(here.host, job, DATA)
    record = here.folder(job) / "process.json"
    recorded = json.loads(record.read_text())
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as stranger:
        record.write_text(json.dumps({**recorded, "pid": stranger.pid}))
        try:
            assert state(here.host, job).state == "vanished"
            _, gone = cancel(here.host, job, "anna", grace_seconds=0)
            assert gone
            assert stranger.poll() is None
        finally:
            stranger.kill()
            record.write_text(json.dumps(recorded))
    assert state(here.host, job).state == "running"


def test_what_the_command_leaves_behind_is_ended_with_it(here: Site, tmp_path: Path) -> None:
    job = here.job("--child", tmp_path / "child")
    start(here.host, job, DATA)
    followed(here.host, job)
    assert not runs(int((tmp_path / "child").read_text()))


def test_without_its_supervisor_a_job_goes_on_and_its_end_is_unknown(here: Site, gate: Path, ended: Ended) -> None:
    job = ended(here.job("--gate", gate))
    running, _ = start(here.host, job, DATA)
    supervisor = json.loads((here.folder(job) / "process.json").read_text())["supervisor"]["pid"]
    os.kill(supervisor, signal.SIGKILL)
    assert state(here.host, job).state == "running"
    open_gate(gate)
    end, lines = followed(here.host, job)
    assert (end.state, end.status, end.process) == ("vanished", None, running.process)
    assert "epoch" in lines["stdout"][-1]
    assert start(here.host, job, DATA) == (end, False)


def test_another_training_set_at_the_path_is_refused_and_nothing_starts(here: Site, tmp_path: Path) -> None:
    job = here.job("--starts", tmp_path / "starts")
    (here.root / DATA).write_bytes(b"another one")
    with pytest.raises(RequestRefused, match=r"has hash .*, expected") as refused:
        start(here.host, job, DATA)
    assert refused.value.code == "data_mismatch"
    with pytest.raises(RequestRefused, match="No such file"):
        start(here.host, job, "data/training/none.npz")
    assert state(here.host, job).state == "absent"
    (here.root / DATA).write_bytes(b"a training set")
    assert start(here.host, job, DATA)[1]
    followed(here.host, job)


def test_a_training_set_that_is_replaced_meanwhile_is_noticed(here: Site, gate: Path, ended: Ended) -> None:
    job = ended(here.job("--gate", gate))
    start(here.host, job, DATA)
    (here.root / DATA).write_bytes(b"a training zet")
    open_gate(gate)
    assert followed(here.host, job)[0].data_unchanged is False


def test_a_failing_command_and_one_that_is_not_there(here: Site) -> None:
    job = here.job("--status", "3")
    start(here.host, job, DATA)
    end, lines = followed(here.host, job)
    assert (end.state, end.status, lines["stderr"]) == ("ended", 3, ["CUDA out of memory"])
    with pytest.raises(RequestRefused, match="No such file or directory") as refused:
        fetch(here.host, job, here.root / "nothing")
    assert refused.value.code == "no_checkpoint"
    missing = replace(job, command=("no-such-trainer",))
    start(here.host, missing, DATA)
    end, lines = followed(here.host, missing)
    assert (end.status, lines["stderr"]) == (127, ["no-such-trainer: No such file or directory"])


def test_a_checkpoint_over_the_limit_or_behind_a_link_is_not_fetched(here: Site, tmp_path: Path) -> None:
    job = here.job("--weights", model_file(tmp_path / "weights.pth", CONFIG))
    start(here.host, job, DATA)
    followed(here.host, job)
    with pytest.raises(RequestRefused, match="more than 100"):
        fetch(here.host, job, tmp_path / "fetched", max_bytes=100)
    checkpoint = here.folder(job) / job.checkpoint
    checkpoint.unlink()
    checkpoint.symlink_to("/etc/hostname")
    with pytest.raises(RequestRefused):
        fetch(here.host, job, tmp_path / "fetched")


def test_a_host_that_cannot_be_reached_is_said_in_one_line(site: Site) -> None:
    words = list(site.host.words)
    words[words.index("-p") + 1] = "1"
    closed = replace(site.host, words=tuple(words))
    with pytest.raises(HostUnreachable, match=r"^gpu-1 cannot be reached: [^\n]*Connection refused$"):
        start(closed, site.job(), DATA)
    with pytest.raises(HostUnreachable):
        follow(closed, site.job(), lambda *_: None, patience=0, on_break=lambda _: None)
    with pytest.raises(TrainingHostError, match=r"^gpu-1 has no Python 3"):
        state(replace(site.host, python="no-such-python"), site.job())
    with pytest.raises(RequestRefused, match="there is no directory /nowhere"):
        state(replace(site.host, root="/nowhere"), site.job())


def test_the_hosts_side_needs_nothing_but_python_3_8() -> None:
    tree = ast.parse(Path(host_side.__file__).read_text(), feature_version=(3, 8))
    imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported <= sys.stdlib_module_names


def test_the_id_depends_on_config_data_command_and_attempt_alone() -> None:
    job = TrainingJob(CONFIG, "0" * 64, ("train",))
    others = [
        replace(job, config="hex8_2p"),
        replace(job, data_sha256="1" * 64),
        replace(job, command=("train", "x")),
        replace(job, attempt=2),
    ]
    assert len({job.id, *(other.id for other in others)}) == 5
    assert TrainingJob(CONFIG, "0" * 64, ("train",)).id == job.id


@pytest.mark.parametrize("flag", ["--auto-promote", "--autonomous", "--auto-promote=1"])
def test_the_trainers_own_promotion_is_not_asked_for(flag: str) -> None:
    with pytest.raises(ValueError, match="promoted by evidence"):
        TrainingJob(CONFIG, "0" * 64, ("train", flag))
