"""Training jobs as the manifest and the events see them: which set a job trains on, where that lies on its host, and what is told.

Running the command is for `models.training_jobs`; what follows from TRAINING_STARTED and its end is in `reactions`.
"""

from __future__ import annotations

import uuid
from typing import Final, Literal

from ringrift_dagster.events import model as told
from ringrift_dagster.events.model import EventType
from ringrift_dagster.events.outgoing import publish
from ringrift_dagster.manifest.plane import Plane
from ringrift_dagster.manifest.queries import where
from ringrift_dagster.manifest.states import ReplicaState
from ringrift_dagster.transfer.reactions import best_training_set

_IDS: Final = uuid.UUID("6f0c7a2e-5f8e-5d0b-a0c5-0c4c6f6d8a31")
"""Namespace of the ids of events about training jobs."""


class NoTrainingSet(Exception):
    """No training set of a config is good enough; the message is one line."""


def set_to_train_on(plane: Plane, config: str, *, at: float) -> str:
    """The hash of the best training set of a config that the freshness gate lets through. Raises NoTrainingSet."""
    item, verdict = best_training_set(plane, config, at)
    if item is None:
        raise NoTrainingSet(f"no training set of {config} is good enough: {verdict.detail or verdict.reason}")
    return item.sha256


def path_on_host(plane: Plane, sha256: str, host: str) -> str | None:
    """The path of an item on a host: below its root, or absolute on a file system that it mounts. None if it is not there now."""
    places = {place.name: place for place in plane.cluster.locations() if place.kind in ("host", "shared") and host in place.hosts}
    for copy in where(plane.store, sha256).copies:
        place = places.get(copy.location)
        if place is not None and copy.state == ReplicaState.AVAILABLE:
            return copy.path if place.kind == "host" else f"{place.path.rstrip('/')}/{copy.path}"
    return None


def tell_started(plane: Plane, config: str, host: str, job: str, *, at: float) -> None:
    """Say once that a job begins; its training set then comes to the host before everything else. `at` belongs to the id."""
    payload = told.TrainingStarted(config=config, host=host, job=job)
    _tell(plane, EventType.TRAINING_STARTED, payload, f"{job} {at!r} started", at)


def tell_ended(
    plane: Plane,
    config: str,
    host: str,
    job: str,
    outcome: Literal["completed", "failed", "cancelled"],
    *,
    started_at: float,
    at: float,
    model: str | None = None,
    reason: str | None = None,
) -> None:
    """Say once that a job that was begun at `started_at` is over. `model` is the hash of its candidate."""
    completed = outcome == "completed"
    payload = told.TrainingEnded(config=config, host=host, job=job, model=model, success=completed, reason=reason)
    type = EventType.TRAINING_COMPLETED if completed else EventType.TRAINING_FAILED
    _tell(plane, type, payload, f"{job} {started_at!r} ended", at)


def _tell(plane: Plane, type: EventType, payload: told.Payload, occurrence: str, at: float) -> None:
    with plane.store.writing() as writer:
        publish(writer, type, payload, at=at, id=str(uuid.uuid5(_IDS, occurrence)))
