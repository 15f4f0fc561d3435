"""A training host: a real ssh server on loopback, and a RingRift tree with a training set and a trainer."""

from __future__ import annotations

import getpass
import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from ringrift_dagster.cluster.host import Host
from ringrift_dagster.home import Home
from ringrift_dagster.models.training_jobs.host_side import process_stat
from ringrift_dagster.models.training_jobs.jobs import TrainingJob, cancel
from ringrift_dagster.models.training_jobs.remote import TrainingHost, training_host
from tests.ssh_servers import SshServer, ssh_server

CONFIG = "square8_4p"
DATA = "data/training/square8_4p.npz"
TRAINER = Path(__file__).with_name("trainer.py")
COMMAND = (
    sys.executable, str(TRAINER), "--data-path", "{data_path}", "--save-path", "{save_path}",
    "--board-type", "{board}", "--num-players", "{players}",
)  # fmt: skip


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    with ssh_server(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@dataclass
class Site:
    """The host, and what of it the tests touch directly."""

    host: TrainingHost
    declared: Host
    root: Path
    sha256: str

    def job(self, *arguments: str | Path, attempt: int = 1) -> TrainingJob:
        return TrainingJob(CONFIG, self.sha256, (*COMMAND, *map(str, arguments)), attempt)

    def folder(self, job: TrainingJob) -> Path:
        return self.root / ".ringrift-node" / "training" / job.id


@pytest.fixture
def site(server: SshServer, tmp_path: Path, home: Home) -> Site:
    root = tmp_path / "ai service"
    data = root / DATA
    data.parent.mkdir(parents=True)
    data.write_bytes(b"a training set")
    declared = Host.model_validate(
        {
            "name": "gpu-1", "ssh_host": "127.0.0.1", "ssh_user": getpass.getuser(), "ssh_port": server.port,
            "ssh_key": str(server.key), "ringrift_path": str(root),
        }
    )  # fmt: skip
    return Site(training_host(declared, home), declared, root, hashlib.sha256(data.read_bytes()).hexdigest())


@pytest.fixture
def here(site: Site) -> Site:
    """The same without ssh between: for what is only about the host's side."""
    return replace(site, host=replace(site.host, words=("sh", "-c")))


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """Where the trainer waits until `open_gate`."""
    path = tmp_path / "gate"
    os.mkfifo(path)
    return path


def open_gate(gate: Path) -> None:
    with gate.open("w"):
        pass


@pytest.fixture
def ended(site: Site) -> Iterator[Callable[[TrainingJob], TrainingJob]]:
    """Has jobs ended after the test, whatever becomes of it."""
    jobs: list[TrainingJob] = []

    def note(job: TrainingJob) -> TrainingJob:
        jobs.append(job)
        return job

    yield note
    for job in jobs:
        cancel(site.host, job, "the end of the test", grace_seconds=0)


def runs(pid: int) -> bool:
    """Whether a process is there, and not only waiting to be reaped."""
    found = process_stat(pid)
    return found is not None and found[0] not in ("Z", "X")
