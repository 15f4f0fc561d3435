"""Items that cannot be reached: STRANDED while their only copies are at locations that are not there, LOST when no copy is known.

Detecting them, and proposing what to do, is here. Nothing is deleted or copied here; that a copy is missing at all `merge` decides.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from ringrift_dagster.manifest.inventory import Soundness
from ringrift_dagster.manifest.schema import items, locations, orphans, replicas
from ringrift_dagster.manifest.states import ARCHIVED, HELD, Liveness, ReplicaState
from ringrift_dagster.manifest.store import Store, Writer, in_batches

EXAMPLES = 20
_ORPHAN = (
    orphans.c.item_id, orphans.c.kind, orphans.c.detected_at, locations.c.name,
    items.c.sha256, items.c.type, items.c.config, items.c.size,
)  # fmt: skip
_COPY = (
    replicas.c.item_id, replicas.c.path, replicas.c.state, replicas.c.reason,
    locations.c.name, locations.c.kind, locations.c.liveness,
)  # fmt: skip


class Orphanhood(StrEnum):
    """Why an item cannot be had."""

    STRANDED = "stranded"
    LOST = "lost"


@dataclass(frozen=True)
class Orphan:
    """An item that cannot be reached, and what would bring it back."""

    sha256: str
    type: str
    config: str | None
    size: int
    kind: Orphanhood
    location: str
    path: str | None
    detected_at: float
    proposal: str


def reachable(item: sa.ColumnElement[Any]) -> sa.Exists:
    """Whether an item has a copy that can be read now."""
    return (
        sa.select(sa.literal(1))
        .select_from(replicas)
        .join(locations, locations.c.id == replicas.c.location_id)
        .where(replicas.c.item_id == item, replicas.c.state == ReplicaState.AVAILABLE, locations.c.liveness == Liveness.ONLINE)
        .correlate(orphans, items)
        .exists()
    )


def detect_stranded(writer: Writer, location_id: int, name: str, *, at: float) -> int:
    """A location is not there any more: find what only it had. Returns how many."""
    here = replicas.alias("here")
    candidates = (
        sa.select(here.c.item_id)
        .join(items, items.c.id == here.c.item_id)
        .where(
            here.c.location_id == location_id,
            here.c.state == ReplicaState.AVAILABLE,
            items.c.soundness != Soundness.UNSOUND,
            ~reachable(items.c.id),
        )
        .distinct()
    )
    return _record(writer, candidates, Orphanhood.STRANDED, location_id, name, at)


def detect_lost(writer: Writer, candidates: Collection[int], location_id: int, name: str, *, at: float) -> int:
    """Copies at a location are lost or bad: find what has no readable copy elsewhere. Returns how many."""
    found = 0
    elsewhere = (
        sa.select(replicas.c.item_id)
        .where(replicas.c.item_id == items.c.id, replicas.c.state.in_((ReplicaState.AVAILABLE, ReplicaState.UNAVAILABLE)))
        .exists()
    )
    for batch in in_batches(sorted(candidates)):
        gone = sa.select(items.c.id).where(items.c.id.in_(batch), items.c.soundness != Soundness.UNSOUND, ~reachable(items.c.id))
        found += _record(writer, gone.where(~elsewhere), Orphanhood.LOST, location_id, name, at)
        found += _record(writer, gone.where(elsewhere), Orphanhood.STRANDED, location_id, name, at)
    return found


def resolve(writer: Writer, among: Collection[int] | None = None, *, at: float) -> int:
    """Close what can be reached again, of all or among certain items; returns how many."""
    if writer.connection.execute(sa.select(orphans.c.id).where(orphans.c.resolved_at.is_(None)).limit(1)).first() is None:
        return 0
    close = sa.update(orphans).where(orphans.c.resolved_at.is_(None), reachable(orphans.c.item_id)).values(resolved_at=at)
    batches = [None] if among is None else in_batches(sorted(among))
    closed = 0
    for batch in batches:
        chosen = close if batch is None else close.where(orphans.c.item_id.in_(batch))
        closed += writer.connection.execute(chosen).rowcount
    if closed:
        writer.note(at, "ORPHANS_RESOLVED", None, items=closed)
    return closed


def accept_loss(store: Store, name: str, *, at: float) -> int:
    """A person says that what a brake holds at a location is LOST; returns how many replicas. Raises KeyError."""
    with store.writing() as writer:
        place = writer.connection.execute(sa.select(locations).where(locations.c.name == name)).one_or_none()
        if place is None:
            raise KeyError(name)
        held = (replicas.c.location_id == place.id, replicas.c.reason == HELD)
        affected = writer.connection.execute(sa.select(replicas.c.item_id).where(*held)).scalars().all()
        lost = {"state": ReplicaState.LOST, "reason": "vanished", "revision": writer.revision}
        writer.connection.execute(sa.update(replicas).where(*held).values(lost))
        writer.connection.execute(sa.update(locations).where(locations.c.id == place.id).values(held=0))
        if affected:
            writer.note(at, "LOSS_ACCEPTED", name, replicas=len(affected))
            detect_lost(writer, set(affected), place.id, name, at=at)
    return len(affected)


def open_orphans(store: Store, *, limit: int = 1000) -> list[Orphan]:
    """What cannot be reached now, the latest first, with a proposal for each."""
    with store.reading() as connection:
        rows = connection.execute(
            sa.select(*_ORPHAN)
            .join(items, items.c.id == orphans.c.item_id)
            .join(locations, locations.c.id == orphans.c.location_id)
            .where(orphans.c.resolved_at.is_(None))
            .order_by(orphans.c.detected_at.desc(), orphans.c.id)
            .limit(limit)
        ).all()
        copies: dict[int, list[Any]] = {}
        for batch in in_batches([row.item_id for row in rows]):
            for copy in connection.execute(
                sa.select(*_COPY).join(locations, locations.c.id == replicas.c.location_id).where(replicas.c.item_id.in_(batch))
            ):
                copies.setdefault(copy.item_id, []).append(copy)
    return [
        Orphan(
            row.sha256.hex(), row.type, row.config, row.size, Orphanhood(row.kind), row.name,
            next((copy.path for copy in copies.get(row.item_id, ()) if copy.name == row.name), None),
            row.detected_at, min(_ways_back(copies.get(row.item_id, ())))[1],
        )
        for row in rows
    ]  # fmt: skip


def _ways_back(copies: Collection[Any]) -> Iterator[tuple[int, str]]:
    """What would bring an item back, the easiest first by number."""
    yield 9, "no copy is known any more: make it again"
    for copy in copies:
        if copy.state == ReplicaState.UNAVAILABLE and copy.reason == ARCHIVED:
            yield 1, f"restore {copy.path} from the archive of {copy.name}"
        elif copy.state == ReplicaState.UNAVAILABLE:
            yield 2, f"look at {copy.name}: much is missing there at once"
        elif copy.state == ReplicaState.AVAILABLE and copy.liveness == Liveness.UNAVAILABLE:
            yield 0, f"mount {copy.name}"
        elif copy.state == ReplicaState.AVAILABLE:
            yield 3, f"bring {copy.name} back, or its disk"


def _record(writer: Writer, candidates: sa.Select[Any], kind: Orphanhood, location_id: int, name: str, at: float) -> int:
    """Write down and tell of those that were no orphans yet, or were stranded and are lost now; returns how many."""
    connection = writer.connection
    already = sa.select(orphans.c.item_id, orphans.c.kind).where(orphans.c.resolved_at.is_(None))
    found = connection.execute(candidates).scalars().all()
    known = dict(connection.execute(already).all()) if found else {}
    new = [item for item in found if item not in known]
    worse = [item for item in found if kind == Orphanhood.LOST and known.get(item) == Orphanhood.STRANDED]
    told = [*new, *worse]
    if not told:
        return 0
    now = {"kind": kind, "location_id": location_id, "detected_at": at}
    writer.many(sa.insert(orphans), [{"item_id": item, **now} for item in new])
    for batch in in_batches(worse):
        connection.execute(sa.update(orphans).where(orphans.c.resolved_at.is_(None), orphans.c.item_id.in_(batch)).values(now))
    summary = connection.execute(
        sa.select(items.c.type, items.c.config, sa.func.count(), sa.func.sum(items.c.size))
        .join(orphans, orphans.c.item_id == items.c.id)
        .where(orphans.c.location_id == location_id, orphans.c.detected_at == at)
        .where(orphans.c.resolved_at.is_(None), orphans.c.kind == kind)
        .group_by(items.c.type, items.c.config)
    ).all()
    examples = connection.execute(sa.select(items.c.sha256).where(items.c.id.in_(told[:EXAMPLES]))).scalars()
    writer.note(
        at,
        "ORPHAN_DETECTED",
        name,
        orphans=kind.value,
        items=len(told),
        bytes=int(sum(row[3] for row in summary)),
        held={f"{row[0]} {row[1] or '-'}": row[2] for row in summary},
        examples=[digest.hex() for digest in examples],
    )
    return len(told)
