"""What is never removed: what somebody pinned, candidates, current models, the data of running jobs.

A short pin also keeps an item's other copies while one of them is being removed (`removal`). Removing is not done here.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ringrift_dagster.manifest.inventory import ItemType
from ringrift_dagster.manifest.schema import items, pins, replicas
from ringrift_dagster.manifest.states import ReplicaState
from ringrift_dagster.manifest.store import Store, Writer, in_batches, upsert
from ringrift_dagster.transfer.placement import CANDIDATE_PREFIX
from ringrift_dagster.transfer.rules import read


class Pinned(Exception):
    """The item must stay; the text says why."""


@dataclass(frozen=True)
class Pin:
    """An item must stay because `owner` (a job, a promotion, a person) says so. Times in seconds since 1970."""

    sha256: str
    owner: str
    reason: str
    created_at: float
    expires_at: float | None = None


def pin(store: Store, sha256: str, owner: str, reason: str, *, at: float, until: float | None = None) -> Pin:
    """Keep an item; the owner's earlier pin of it is replaced."""
    with store.writing() as writer:
        return _write(writer, Pin(sha256, owner[:100], reason[:200], at, until))


def unpin(store: Store, sha256: str, owner: str) -> bool:
    """Give an owner's pin up; False if there is none."""
    with store.writing() as writer:
        where = (pins.c.sha256 == bytes.fromhex(sha256), pins.c.owner == owner)
        return writer.connection.execute(sa.delete(pins).where(*where)).rowcount > 0


def all_pins(store: Store, *, at: float) -> list[Pin]:
    """What is pinned explicitly at a time, the oldest first."""
    query = _explicit(at).order_by(pins.c.created_at, pins.c.sha256, pins.c.owner)
    with store.reading() as connection:
        return [Pin(row.sha256.hex(), row.owner, row.reason, row.created_at, row.expires_at) for row in connection.execute(query)]


def pinned(store: Store, sha256s: Collection[str], *, at: float, besides: str | None = None) -> dict[str, str]:
    """Which of some items must stay, and why; the pins of `besides`, an owner, do not count."""
    with store.reading() as connection:
        return _pinned(connection, sha256s, at, besides)


def reserve(store: Store, sha256: str, owner: str, reason: str, *, at: float, until: float) -> None:
    """Pin an item for a moment, alone: while one of its copies is being removed, nobody removes another. Raises Pinned."""
    with store.writing() as writer:
        if why := _pinned(writer.connection, [sha256], at).get(sha256):
            raise Pinned(why)
        writer.connection.execute(sa.delete(pins).where(pins.c.expires_at <= at))
        _write(writer, Pin(sha256, owner[:100], reason[:200], at, until))


def _pinned(connection: Connection, sha256s: Collection[str], at: float, besides: str | None = None) -> dict[str, str]:
    placing = [rule for rule in read(connection, at=at) if rule.copies is None]
    found: dict[str, str] = {}
    for batch in in_batches(sorted(bytes.fromhex(sha256) for sha256 in sha256s)):
        for digest, kind, config in connection.execute(_ITEM.where(items.c.sha256.in_(batch))).all():
            rule = next((rule for rule in placing if rule.is_about(digest.hex(), kind, config)), None)
            if rule is not None:
                found[digest.hex()] = f"rule {rule.name}"
        for digest in connection.execute(_CANDIDATES.where(items.c.sha256.in_(batch))).scalars():
            found[digest.hex()] = "a candidate that waits for its evaluation"
        for row in connection.execute(_explicit(at).where(pins.c.sha256.in_(batch))):
            if row.owner != besides:
                found[row.sha256.hex()] = f"{row.owner}: {row.reason}"
    return found


def _explicit(at: float) -> sa.Select[Any]:
    return sa.select(pins).where(sa.or_(pins.c.expires_at.is_(None), pins.c.expires_at > at))


_ITEM = sa.select(items.c.sha256, items.c.type, items.c.config)
_NAMED = CANDIDATE_PREFIX.replace("_", "!_") + "%"
_CANDIDATES = (
    sa.select(items.c.sha256)
    .join_from(items, replicas)
    .where(items.c.type == ItemType.CHECKPOINT, replicas.c.state != ReplicaState.LOST)
    .where(sa.or_(replicas.c.path.like(f"%/{_NAMED}", escape="!"), replicas.c.path.like(_NAMED, escape="!")))
)


def _write(writer: Writer, wanted: Pin) -> Pin:
    values = {
        "sha256": bytes.fromhex(wanted.sha256),
        "owner": wanted.owner,
        "reason": wanted.reason,
        "created_at": wanted.created_at,
        "expires_at": wanted.expires_at,
    }
    insert = upsert(writer.connection, pins).values(values)
    keys = ["sha256", "owner"]
    writer.connection.execute(insert.on_conflict_do_update(index_elements=keys, set_=values))
    return wanted
