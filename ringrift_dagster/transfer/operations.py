"""What an operation is, to those who submit, lease or read one. The queue itself is `queue`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from ringrift_dagster.manifest.schema import operations
from ringrift_dagster.transfer.model import CAUSES, Priority


class Kind(StrEnum):
    """What an operation is for."""

    SYNC = "sync"
    """A host wants newer data."""
    REPLICATE = "replicate"
    """A copy more, so that none is lost."""
    BACKUP = "backup"
    """Into the bucket."""
    PRELOAD = "preload"
    """A job will need it there."""


class State(StrEnum):
    """Of an operation. DONE, FAILED and CANCELLED are final."""

    QUEUED = "QUEUED"
    WAITING = "WAITING"
    """It failed, and is tried again at `due_at`."""
    LEASED = "LEASED"
    DONE = "DONE"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


CAUSES_HERE = (
    *CAUSES,
    "agent_silent",  # the target's agent does not answer
    "agent_refused",  # the target's agent does not take the order
    "no_such_target",  # the hosts file names no such place, or it has no agent
    "unknown_item",  # the manifest has no such item
    "link_busy",  # the source's link bears no more now
    "upload_failed",  # the bucket did not take it
)
"""Why an operation failed or waits: the agent's causes, and the coordinator's own."""

AGED = 5
"""The rank of what has waited too long: behind CRITICAL, before everything else."""
RANKS = {priority: 10 * priority for priority in Priority}
"""What operations are leased by, the smaller the sooner."""


@dataclass(frozen=True)
class Wanted:
    """An item that somebody wants at a target. `size` in bytes: small ones share a slot. `why` names who wants it."""

    kind: Kind
    sha256: str
    target: str
    priority: Priority
    size: int | None = None
    why: str | None = None


@dataclass(frozen=True)
class Operation:
    """One durable request. Times in seconds since 1970, `size` and `bytes` in bytes."""

    id: int
    kind: Kind
    sha256: str
    target: str
    size: int | None
    priority: Priority
    rank: int
    state: State
    why: str | None
    submitted_at: float
    due_at: float | None
    attempts: int
    leases: int
    owner: str | None
    leased_until: float | None
    order_id: str | None
    source: str | None
    transport: str | None
    bytes: int | None
    seconds: float | None
    retries: int | None
    cause: str | None
    detail: str | None
    next_action: str | None
    finished_at: float | None
    silent_seconds: float = 0.0

    @property
    def aged(self) -> bool:
        """Whether it waited for so long that it goes before others."""
        return self.rank == AGED


@dataclass(frozen=True)
class Brought:
    """How an operation was done: bytes, seconds, by which transport and from where, and what had to be tried again."""

    transport: str | None = None
    source: str | None = None
    bytes: int = 0
    seconds: float = 0.0
    retries: int = 0


FIELDS = tuple(Operation.__dataclass_fields__)
COLUMNS = tuple(operations.c[name] for name in FIELDS)


def operation(row: Any) -> Operation:
    """Of a row of COLUMNS."""
    values = dict(zip(FIELDS, row, strict=True))
    values |= {
        "kind": Kind(values["kind"]),
        "sha256": values["sha256"].hex(),
        "priority": Priority(values["priority"]),
        "state": State(values["state"]),
    }
    return Operation(**values)


def in_state(state: State) -> sa.ColumnElement[bool]:
    """Spelt so that a partial index is used."""
    return operations.c.state == sa.literal_column(f"'{state}'")
