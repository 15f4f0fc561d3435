"""The coordinator: leases what one target is to have, has its agent pull it, and records what came of it.

Killed at any moment it loses nothing and does nothing twice: an order's id stands in the queue before the agent is posted it, the
agent does the same order once, and an operation's end, its copy and what was learnt on the way are one transaction. Which sources
are offered is `offers`' business, how a bucket is filled that of `uploads`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from ringrift_dagster.manifest.plane import Plane
from ringrift_dagster.transfer.model import Priority
from ringrift_dagster.transfer.operations import Kind, State


@dataclass(frozen=True)
class Row:
    """What came of one operation within a run. `bytes` that were moved, `seconds` of the transfer; `state` WAITING: tried again."""

    operation: int
    kind: Kind
    priority: Priority
    item: str
    type: str | None
    config: str | None
    state: State
    bytes: int = 0
    seconds: float = 0.0
    transport: str | None = None
    source: str | None = None
    retries: int = 0
    cause: str | None = None
    detail: str | None = None
    next_action: str | None = None

    @property
    def mb_per_second(self) -> float | None:
        """Megabytes (10^6) a second; None if nothing was moved."""
        return self.bytes / self.seconds / 1e6 if self.bytes and self.seconds else None


@dataclass
class Report:
    """What a run did for a target: a row an operation that ended or is tried again later, in that order.

    `left` operations went back to the queue as they were: time was up, or links were busy. `lost` leases were somebody else's in
    the end, or cancelled. `silent` says why the target's agent cannot be asked, if it could not when the run ended.
    """

    target: str
    rows: list[Row] = field(default_factory=list)
    left: int = 0
    lost: int = 0
    silent: str | None = None

    @property
    def done(self) -> list[Row]:
        return [row for row in self.rows if row.state == State.DONE]

    @property
    def failed(self) -> list[Row]:
        return [row for row in self.rows if row.state == State.FAILED]

    @property
    def waiting(self) -> list[Row]:
        return [row for row in self.rows if row.state == State.WAITING]

    @property
    def bytes(self) -> int:
        """Bytes that were moved."""
        return sum(row.bytes for row in self.rows)


class Coordinator:
    """Carries out operations under the name `owner`, which no other process uses. `lease_seconds`: so long after its death
    another takes over."""

    def __init__(
        self, plane: Plane, owner: str, *, clock: Callable[[], float] = time.time, lease_seconds: float = 60.0
    ) -> None: ...

    def run(
        self,
        target: str,
        priorities: Collection[Priority] = tuple(Priority),
        *,
        seconds: float,
        idle: float | None = 0.0,
        stop: Callable[[], bool] = lambda: False,
        told: Callable[[Row], None] = lambda row: None,
    ) -> Report:
        """Carry out what the queue has for a target, for up to `seconds`.

        Returns earlier when `stop` says so, or when there was nothing to do for `idle` seconds (None: never). What is under way
        then goes on at the agent, and back to the queue: the next run finds it there. `told` hears of each row as it comes about.
        """
        raise NotImplementedError
