"""A training job on a host: its identity, and what can be done with it: start, follow, cancel, fetch its checkpoint.

A job is its config, the hash of its training set, its command and the number of the attempt: the same four are the same job, which
is started once. Which job is to run, and what follows from its end, is in `training`.
"""

from __future__ import annotations

import base64
import json
import re
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from ringrift_dagster.games.config import Config, parse_config
from ringrift_dagster.games.database import file_sha256
from ringrift_dagster.models.training_jobs.host_side import FOLDER
from ringrift_dagster.models.training_jobs.lines import MAX_MESSAGE_BYTES, Lines
from ringrift_dagster.models.training_jobs.remote import HostUnreachable, TrainingHost, TrainingHostError

RINGRIFT_TRAINER: Final = (
    "python3", "-m", "app.training.train", "--data-path", "{data_path}", "--save-path", "{save_path}",
    "--board-type", "{board}", "--num-players", "{players}",
)  # fmt: skip
"""RingRift's trainer, as it is called in its `ai-service`."""
FORBIDDEN_FLAGS: Final = frozenset({"--auto-promote", "--autonomous"})
"""Flags of RingRift's trainer with which it promotes what it trained."""
MAX_BEHIND_BYTES: Final = 4 << 20
"""Of a stream; what is longer and was not read yet is left out but for its end."""
MAX_CHECKPOINT_BYTES: Final = 4 << 30
GRACE_SECONDS: Final = 10.0
"""Between SIGTERM and SIGKILL."""
RECONNECT_SECONDS: Final = (0.5, 30.0)
"""Before the first new attempt to connect, doubled with each, and at most."""
_IDS: Final = uuid.UUID("3f8b1d53-9ad5-5c0e-8b7c-2a7e6d0f4c19")
"""Namespace of jobs' ids."""
_PLACEHOLDER: Final = re.compile(r"\{(data_path|save_path|messages|config|board|players|job)\}")

State = Literal["absent", "running", "ended", "vanished", "cancelled"]


@dataclass(frozen=True)
class Process:
    """Identity of a job's command on its host. `start_time` in clock ticks since boot, `began` in seconds since 1970."""

    pid: int
    start_time: int
    boot_id: str
    began: float


@dataclass(frozen=True)
class JobState:
    """What a host knows of a job. `folder` is its directory there.

    `absent`: never started. `vanished`: neither process nor exit status is there; the host restarted, or its supervisor was killed.
    `cancelled`: before it began; one that was cancelled while it ran is `ended`, with `cancelled_by`. `status` is the exit status,
    negative for a signal. `data_unchanged` says that the training set was the same file at the end.
    """

    state: State
    folder: str
    process: Process | None = None
    status: int | None = None
    ended: float | None = None
    data_unchanged: bool | None = None
    cancelled_by: str | None = None


@dataclass(frozen=True)
class TrainingJob:
    """What is to be trained. `command` may contain {data_path}, {save_path}, {board}, {players}, {config}, {job} and {messages}."""

    config: str
    data_sha256: str
    command: tuple[str, ...] = RINGRIFT_TRAINER
    attempt: int = 1

    def __post_init__(self) -> None:
        if not self.command or any("\0" in word for word in self.command):
            raise ValueError("the command is empty, or contains a null character")
        forbidden = FORBIDDEN_FLAGS.intersection(word.partition("=")[0] for word in self.command)
        if forbidden:
            raise ValueError(f"{', '.join(sorted(forbidden))}: models are promoted by evidence, never by the trainer; leave it out")

    @property
    def id(self) -> str:
        """A UUID: the same for the same job, wherever and by whom it is asked for."""
        content = json.dumps([self.config, self.data_sha256, self.command, self.attempt], ensure_ascii=True)
        return str(uuid.uuid5(_IDS, content))

    @property
    def parsed_config(self) -> Config:
        return parse_config(self.config)

    @property
    def checkpoint(self) -> str:
        """The name of the file that is to be written, in the job's directory."""
        return f"candidate_{self.config}.pth"

    def filled_in(self, text: str, folder: str, data_path: str) -> str:
        """A word of the command with its placeholders replaced; other braces stay."""
        values = {
            "data_path": data_path,
            "save_path": f"{folder}/{self.checkpoint}",
            "messages": f"{folder}/messages",
            "config": self.config,
            "board": self.parsed_config.board,
            "players": str(self.parsed_config.players),
            "job": self.id,
        }
        return _PLACEHOLDER.sub(lambda match: values[match[1]], text)


def state(host: TrainingHost, job: TrainingJob) -> JobState:
    """What the host knows of the job. Raises TrainingHostError."""
    return _state(host, host.ask(op="state", job=job.id))


def start(
    host: TrainingHost, job: TrainingJob, data_path: str, environment: Mapping[str, str] | None = None
) -> tuple[JobState, bool]:
    """Start the job unless it was started or cancelled before; its state, and whether this call started it.

    `data_path` is absolute, or relative to the host's root. The training set there is hashed first. `environment` goes to the
    command, beside `RINGRIFT_TRAINING_DATA_PATH`, `_SAVE_PATH` and `_JOB`. Raises TrainingHostError.
    """
    known = state(host, job)
    if known.state != "absent":
        return known, False
    if not data_path.startswith("/"):
        data_path = f"{known.folder.removesuffix(f'/{FOLDER}/{job.id}')}/{data_path}"
    given = {
        **(environment or {}),
        "RINGRIFT_TRAINING_DATA_PATH": data_path,
        "RINGRIFT_TRAINING_SAVE_PATH": "{save_path}",
    }
    answer = host.ask(
        op="start",
        job=job.id,
        data_path=data_path,
        data_sha256=job.data_sha256,
        command=[job.filled_in(word, known.folder, data_path) for word in job.command],
        environment={name: job.filled_in(value, known.folder, data_path) for name, value in given.items()},
    )
    begun = _state(host, answer)
    if begun.state == "absent":
        raise TrainingHostError(f"{host.name}: the command could not be started; look at {begun.folder}")
    return begun, bool(answer.get("started"))


def follow(
    host: TrainingHost, job: TrainingJob, on_line: Callable[[str, str], None], *, patience: float, on_break: Callable[[str], None]
) -> JobState:
    """Hand on every line of a started job's streams (`on_line(stream, line)`) until it is over; its state then.

    A broken connection is made again; nothing is handed on twice. `on_break` hears why it broke. Raises HostUnreachable if none can
    be made for `patience` seconds, TrainingHostError.
    """
    lines = {"stdout": Lines(), "stderr": Lines(), "messages": Lines(MAX_MESSAGE_BYTES)}
    offsets = dict.fromkeys(lines, 0)
    failing_since, pause = None, RECONNECT_SECONDS[0]
    while True:
        try:
            with host.asked(op="follow", job=job.id, offsets=offsets, behind_bytes=MAX_BEHIND_BYTES) as connection:
                for said in connection.lines():
                    failing_since, pause = None, RECONNECT_SECONDS[0]
                    name = said["stream"]
                    offsets[name] = said["offset"]
                    for line in lines[name].feed(base64.b64decode(said["data"]), skipped=said["skipped"]):
                        on_line(name, line)
                for name in lines:
                    for line in lines[name].rest():
                        on_line(name, line)
                return _state(host, connection.answer)
        except HostUnreachable as error:
            failing_since = failing_since or time.monotonic()
            if time.monotonic() - failing_since > patience:
                raise
            on_break(str(error))
        time.sleep(pause)
        pause = min(2 * pause, RECONNECT_SECONDS[1])


def cancel(host: TrainingHost, job: TrainingJob, who: str, *, grace_seconds: float = GRACE_SECONDS) -> tuple[JobState, bool]:
    """End the command's process group, and never start the job again; its state, and whether nothing of it is left.

    Only a group whose recorded identity still holds is sent a signal. Raises TrainingHostError.
    """
    answer = host.ask(op="cancel", job=job.id, who=who, grace_seconds=grace_seconds)
    return _state(host, answer), bool(answer.get("gone"))


def fetch(host: TrainingHost, job: TrainingJob, into: Path, *, max_bytes: int = MAX_CHECKPOINT_BYTES) -> str:
    """Copy the job's checkpoint into a file that is made or overwritten; its SHA-256, computed on both sides.

    Raises TrainingHostError, also for one that is larger than `max_bytes`, and OSError for the disk here.
    """
    with host.asked(op="fetch", job=job.id, name=job.checkpoint, max_bytes=max_bytes) as connection:
        header = connection.line()
        left = header.get("size") if header else None
        if not isinstance(left, int) or not 0 <= left <= max_bytes:
            raise TrainingHostError(f"{host.name}: not a file's size: {left!r}")
        with into.open("wb") as file:
            while left:
                block = connection.read(min(left, 1 << 20))
                file.write(block)
                left -= len(block)
        if connection.line() is not None:
            raise TrainingHostError(f"{host.name}: no hash came after the checkpoint")
    sha256 = file_sha256(into)
    if connection.answer.get("sha256") != sha256 or connection.answer.get("unchanged") is not True:
        raise TrainingHostError(f"{host.name}: the checkpoint changed on its way, or while it was read")
    return sha256


def _state(host: TrainingHost, answer: dict[str, Any]) -> JobState:
    try:
        process, ended, cancelled = answer["process"], answer["exit"] or {}, answer["cancelled"] or {}
        return JobState(
            state=answer["state"],
            folder=answer["folder"],
            process=process
            and Process(int(process["pid"]), int(process["start_time"]), str(process["boot_id"]), float(process["began"])),
            status=ended.get("status"),
            ended=ended.get("ended"),
            data_unchanged=ended.get("data_unchanged"),
            cancelled_by=cancelled.get("who"),
        )
    except (KeyError, TypeError, ValueError):
        raise TrainingHostError(f"{host.name}: its record of job {str(answer.get('folder'))[-36:]} is damaged") from None
