"""What is concluded from the end of a training job: a registered candidate, or why there is none."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from ringrift_dagster.home import Home
from ringrift_dagster.models.candidates import Candidate, RegistrationRefused, register
from ringrift_dagster.models.checkpoints.refusals import CheckpointRefused
from ringrift_dagster.models.training_jobs.jobs import MAX_CHECKPOINT_BYTES, JobState, TrainingJob, fetch
from ringrift_dagster.models.training_jobs.remote import RequestRefused, TrainingHost

TAIL_LINES: Final = 20
TAIL_CHARACTERS: Final = 2000


class TrainingFailed(Exception):
    """A job that ended without a candidate. The message is one line."""


class TrainingCancelled(TrainingFailed):
    """A job that was cancelled."""


class Output:
    """The end of a command's output, for the message of its failure."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=TAIL_LINES)

    def add(self, line: str) -> None:
        self._lines.append(line[:TAIL_CHARACTERS])

    @property
    def tail(self) -> str:
        return "\n".join(self._lines)[-TAIL_CHARACTERS:]

    @property
    def last(self) -> str:
        return self._lines[-1][:200] if self._lines else ""


def check_ended_well(job: TrainingJob, host: str, state: JobState, output: Output) -> None:
    """Raises TrainingFailed unless the command ended with status 0 and its training set stayed as it was."""
    name = f"job {job.id[:8]} on {host}"
    if state.cancelled_by is not None and state.status != 0:
        raise TrainingCancelled(f"{name} was cancelled by {state.cancelled_by}")
    if state.state == "absent":
        raise TrainingFailed(f"{name}: its directory is gone from the host")
    if state.state != "ended" or state.status is None:
        raise TrainingFailed(f"{name} ended with unknown status: the host restarted, or its supervisor was killed")
    if state.status != 0:
        end = f"was ended by signal {-state.status}" if state.status < 0 else f"ended with status {state.status}"
        raise TrainingFailed(f"{name} {end}{f': {output.last}' if output.last else ''}")
    if not state.data_unchanged:
        raise TrainingFailed(f"{name}: the training set was replaced while it was read; the checkpoint is of unknown origin")


def take_in(
    home: Home,
    host: TrainingHost,
    job: TrainingJob,
    state: JobState,
    *,
    who: str,
    metrics: Mapping[str, Any],
    max_bytes: int = MAX_CHECKPOINT_BYTES,
) -> Candidate:
    """Bring the checkpoint of a job that ended well home and register it.

    May be done again. Raises TrainingFailed for one that is missing, too large or refused by the reader of checkpoints,
    TrainingHostError if the host fails, and OSError.
    """
    assert state.process is not None
    folder = home.models / "training"
    folder.mkdir(parents=True, exist_ok=True)
    name = f"job {job.id[:8]} on {host.name}"
    with TemporaryDirectory(prefix=".fetched-", dir=folder) as fetched:
        file = Path(fetched) / job.checkpoint
        try:
            fetch(host, job, file, max_bytes=max_bytes)
            return register(
                home,
                file,
                job.parsed_config,
                origin=f"training job {job.id} on {host.name}",
                who=who,
                training_data_sha256=job.data_sha256,
                training_began=state.process.began,
                metrics=dict(metrics),
            )
        except RequestRefused as error:
            if error.code not in ("no_checkpoint", "too_large"):
                raise
            raise TrainingFailed(f"{name} ended well without a checkpoint that can be fetched: {error}") from error
        except (CheckpointRefused, RegistrationRefused) as error:
            raise TrainingFailed(f"{name}: its checkpoint is not registered: {error}") from error
