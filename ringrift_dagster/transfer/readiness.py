"""Why is a job not ready? What it would get on a host, what is missing, and what is being done about it. Reading only."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from ringrift_dagster.manifest.locations import location
from ringrift_dagster.manifest.plane import Plane
from ringrift_dagster.manifest.queries import Item, where
from ringrift_dagster.manifest.schema import operations
from ringrift_dagster.manifest.staleness import Staleness
from ringrift_dagster.manifest.states import Liveness
from ringrift_dagster.transfer.operations import COLUMNS, Operation, State, operation
from ringrift_dagster.transfer.reactions import best_training_set, path_at

LATELY_SECONDS = 86_400.0


@dataclass(frozen=True)
class Doing:
    """An operation that would help, in words."""

    operation: int
    what: str
    state: State
    since: float
    detail: str | None


@dataclass(frozen=True)
class Readiness:
    """Whether a job of a config could begin on a host now. `path` is where its data lies there, below the host's root.

    `missing` says what is in the way, one line each and none if it is ready; `doing` what is under way or failed lately.
    """

    config: str
    host: str
    item: Item | None
    verdict: Staleness
    path: str | None
    missing: tuple[str, ...]
    doing: tuple[Doing, ...]

    @property
    def ready(self) -> bool:
        return not self.missing


def readiness(plane: Plane, config: str, host: str, *, at: float) -> Readiness:
    """What a job of a config would find on a host. Raises KeyError for a host that the hosts file does not name."""
    if host not in plane.cluster.hosts:
        raise KeyError(host)
    item, verdict = best_training_set(plane, config, at)
    path = path_at(plane, item.sha256, host) if item is not None else None
    return Readiness(
        config, host, item, verdict, path, tuple(_missing(plane, host, item, verdict, path)), _doing(plane, item, host, at)
    )


def _missing(plane: Plane, host: str, item: Item | None, verdict: Staleness, path: str | None) -> list[str]:
    found = []
    place = location(plane.store, host)
    if place is None or place.liveness != Liveness.ONLINE:
        found.append(f"{host} does not answer{f': {place.reason}' if place and place.reason else ''}")
    if item is None:
        found.append(f"no training set is good enough: {verdict.detail or verdict.reason}")
    elif path is None:
        holders = sorted({copy.location for copy in where(plane.store, item.sha256).reachable})
        found.append(f"{host} does not hold {item.sha256[:12]}, which lies at {', '.join(holders)}")
    return found


def _doing(plane: Plane, item: Item | None, host: str, at: float) -> tuple[Doing, ...]:
    """Open operations for the item at the host, and those that failed lately."""
    if item is None:
        return ()
    query = (
        sa.select(*COLUMNS)
        .where(operations.c.sha256 == bytes.fromhex(item.sha256), operations.c.target == host)
        .where(sa.or_(operations.c.finished_at.is_(None), operations.c.finished_at > at - LATELY_SECONDS))
        .where(operations.c.state.not_in([State.DONE.value, State.CANCELLED.value]))
        .order_by(operations.c.rank, operations.c.id)
        .limit(10)
    )
    with plane.store.reading() as connection:
        return tuple(_said(operation(row)) for row in connection.execute(query))


def _said(each: Operation) -> Doing:
    said = [f"{each.cause}: {each.detail}" if each.cause and each.detail else each.cause, each.next_action]
    return Doing(
        each.id, f"{each.kind} at {each.priority.name}", each.state, each.submitted_at, "; ".join(filter(None, said)) or None
    )
