"""Records of training jobs at home: which job is on which host, as what process, and how it ended.

One JSON file a job below `home.models/training/<config>/`. What the host itself knows is in `jobs`; what is decided from both is in
`training`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from ringrift_dagster.datasets.npz_writer import publish
from ringrift_dagster.games.config import CONFIG_KEYS
from ringrift_dagster.home import Home
from ringrift_dagster.models.training_jobs.jobs import Process, TrainingJob

MAX_RECORD_BYTES: Final = 1 << 20

Outcome = Literal["completed", "failed", "cancelled"]


class JobRefused(Exception):
    """A job that may not be run now; the message is one line that says what to do."""


class TrainingRecord(BaseModel):
    """A job as it was asked for, and what is known of it. Times are seconds since 1970.

    `outcome` is None until its end is known. `cancel_by` is who asked to cancel it, also if the host could not be reached then.
    `heard_at` is when the host answered last, `epoch` the last one that was reported. `python` is the host's interpreter,
    `followed_by` the last run that followed the job.
    """

    model_config = ConfigDict(extra="ignore")

    version: int = 1
    job: str
    config: str
    host: str
    data_sha256: str
    command: tuple[str, ...]
    attempt: int
    python: str = "python3"
    requested_at: float
    requested_by: str
    heard_at: float
    process: Process | None = None
    epoch: float | None = None
    followed_by: str | None = None
    cancel_by: str | None = None
    outcome: Outcome | None = None
    reason: str | None = None
    candidate: str | None = None

    @property
    def training_job(self) -> TrainingJob:
        return TrainingJob(self.config, self.data_sha256, self.command, self.attempt)


def save(home: Home, record: TrainingRecord) -> None:
    """Write a record in place of the one before. Raises OSError."""
    path = _path(home, record.config, record.job)
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.part")
    staged.write_text(record.model_dump_json(indent=2) + "\n")
    publish(staged, path)


def records(home: Home, config: str) -> list[TrainingRecord]:
    """The jobs of a config, the last that was asked for first. Files that cannot be read are left out."""
    read = (_read(path) for path in (home.models / "training" / config).glob("*.json"))
    return sorted((entry for entry in read if entry is not None), key=lambda entry: (-entry.requested_at, entry.job))


def open_records(home: Home) -> list[TrainingRecord]:
    """The jobs whose end is not known."""
    return [entry for config in CONFIG_KEYS for entry in records(home, config) if entry.outcome is None]


def claim(home: Home, job: TrainingJob, host: str, who: str, *, at: float, python: str = "python3") -> TrainingRecord:
    """The record of a job that is to run on a host: a new one, or that which is there.

    A job that never began may be asked for again, on any host. Raises JobRefused for one that is on another host, and while another
    job of the config is on this one. Whoever calls this holds `following`.
    """
    known = {entry.job: entry for entry in records(home, job.config)}
    before = known.get(job.id)
    if before is not None and (before.outcome is None or before.process is not None):
        if before.host != host:
            raise JobRefused(f"job {job.id[:8]} is on {before.host}: run it there, or raise `attempt` to train it again on {host}")
        return before
    other = next((entry for entry in known.values() if entry.outcome is None and entry.host == host), None)
    if other is not None:
        raise JobRefused(f"{host} trains {job.config} already: job {other.job[:8]}; wait for its end, or cancel it")
    record = TrainingRecord(
        job=job.id, config=job.config, host=host, data_sha256=job.data_sha256, command=job.command, attempt=job.attempt,
        python=python, requested_at=at, requested_by=who, heard_at=at,
    )  # fmt: skip
    save(home, record)
    return record


@contextmanager
def following(home: Home, config: str, host: str, *, wait_seconds: float = 2.0) -> Iterator[None]:
    """Be the one who follows the training of a config on a host; ends with the process. Raises JobRefused if another is.

    Waits a moment: `is_followed` holds the same lock while it looks.
    """
    lock = _lock(home, config, host)
    try:
        lock.acquire(timeout=wait_seconds)
    except Timeout:
        raise JobRefused(f"another run follows the training of {config} on {host}") from None
    try:
        yield
    finally:
        lock.release()


def is_followed(home: Home, record: TrainingRecord) -> bool:
    """Whether somebody follows the training of the record's config on its host now."""
    try:
        with following(home, record.config, record.host, wait_seconds=0):
            return False
    except JobRefused:
        return True


def _lock(home: Home, config: str, host: str) -> FileLock:
    folder = home.models / "training" / config
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f".{host}.lock")


def _path(home: Home, config: str, job: str) -> Path:
    return home.models / "training" / config / f"{job}.json"


def _read(path: Path) -> TrainingRecord | None:
    try:
        with path.open("rb") as file:
            return TrainingRecord.model_validate_json(file.read(MAX_RECORD_BYTES))
    except (OSError, ValidationError):
        return None
