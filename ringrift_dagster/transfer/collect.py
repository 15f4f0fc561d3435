"""Bringing games home: what hosts play is merged into sources of the project's own home, where the pipeline finds it.

Each host's database becomes one source below the home's `selfplay/`, which only ever gains games. Judging them is the pipeline's
business; which items have to be where is `planner`'s.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import PurePosixPath

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ringrift_dagster.cluster.topology import Cluster
from ringrift_dagster.manifest.inventory import ItemType, Soundness
from ringrift_dagster.manifest.plane import HOME_LOCATION
from ringrift_dagster.manifest.schema import items, locations, operations, replicas, source_databases
from ringrift_dagster.manifest.sources.layouts import is_named_by_hash
from ringrift_dagster.manifest.states import Liveness, ReplicaState
from ringrift_dagster.manifest.store import Store, in_batches
from ringrift_dagster.transfer import queue
from ringrift_dagster.transfer.model import Priority
from ringrift_dagster.transfer.operations import Kind, State, Wanted
from ringrift_dagster.transfer.targets import agent_hosts

AT_ONCE = 200
REST_SECONDS = 6 * 3600.0
"""What failed or was cancelled is not asked for again for so long."""
PAUSE_SECONDS, EAGER_SECONDS = 600.0, 30.0
"""A source comes home again after so long at the earliest; after a host's word that it played, sooner."""
PAUSE_BYTES_A_SECOND = 5e6
"""Large ones less often: on average no faster than this."""
MAX_NAME = 150
_ODD = re.compile(r"[^A-Za-z0-9._-]+")
_USUAL = "data/games/"


def cycle(store: Store, cluster: Cluster, *, at: float, host: str | None = None) -> list[int]:
    """Ask for the games that the home lacks, of every host, or of one that has just played; returns the operations' ids."""
    found = wanted(store, cluster, at=at, host=host)
    return queue.submit_all(store, found, at=at) if found else []


def wanted(store: Store, cluster: Cluster, *, at: float, host: str | None = None, limit: int = AT_ONCE) -> list[Wanted]:
    """Sound game databases on hosts that were never brought home and are not on their way; none if no host has the home.

    A source comes again only after a pause: a live database has a new snapshot every few minutes, and the whole of it is sent.
    """
    if HOME_LOCATION not in agent_hosts(cluster):
        return []
    pause = PAUSE_SECONDS if host is None else EAGER_SECONDS
    copy = (
        sa.select(replicas.c.item_id)
        .join(locations, locations.c.id == replicas.c.location_id)
        .where(replicas.c.item_id == items.c.id, replicas.c.state == ReplicaState.AVAILABLE)
        .correlate(items)
    )
    on_host = copy.where(locations.c.kind == "host", locations.c.liveness == Liveness.ONLINE)
    if host is not None:
        on_host = on_host.where(locations.c.name == host)
    asked = (
        sa.select(operations.c.id)
        .where(
            operations.c.sha256 == items.c.sha256,
            operations.c.target == HOME_LOCATION,
            sa.or_(
                operations.c.finished_at.is_(None),
                operations.c.state == State.DONE.value,
                operations.c.finished_at > at - REST_SECONDS,
            ),
        )
        .correlate(items)
    )
    query = (
        sa.select(items.c.sha256, items.c.size)
        .where(items.c.type == ItemType.GAME_DB, items.c.soundness == Soundness.SOUND, items.c.games > 0)
        .where(on_host.exists(), ~copy.where(locations.c.name == HOME_LOCATION).exists(), ~asked.exists())
        .order_by(items.c.id)
        .limit(limit)
    )
    with store.reading() as connection:
        rows = connection.execute(query).all()
        longest = max([pause, *(row.size / PAUSE_BYTES_A_SECOND for row in rows)])
        lately = _lately(connection, at, longest) if rows else {}
    names = source_names(store, [row.sha256.hex() for row in rows])
    found = []
    for row in rows:
        sha256 = row.sha256.hex()
        why = f"snapshot of {names.get(sha256, sha256)} for home"[:200]
        if lately.get(why, float("-inf")) <= at - max(pause, row.size / PAUSE_BYTES_A_SECOND):
            found.append(Wanted(Kind.SYNC, sha256, HOME_LOCATION, Priority.NORMAL, row.size, why))
            lately[why] = at
    return found


def _lately(connection: Connection, at: float, within: float) -> dict[str, float]:
    """When each source was last brought home, if that is not so many seconds ago; now, if it is asked for."""
    home = (operations.c.target == HOME_LOCATION, operations.c.why.is_not(None))
    query = sa.select(operations.c.why, sa.func.max(operations.c.finished_at)).where(*home).group_by(operations.c.why)
    ended = query.where(operations.c.finished_at > at - within, operations.c.state == State.DONE.value)
    coming = sa.select(operations.c.why).where(*home, operations.c.finished_at.is_(None))
    done = {row[0]: row[1] for row in connection.execute(ended)}
    return done | dict.fromkeys(connection.execute(coming).scalars(), at)


def source_names(store: Store, sha256s: Collection[str]) -> dict[str, str]:
    """What the source is called that a database's games belong to: by the host and the path of the live database that it is of."""
    found: dict[str, str] = {}
    live = sa.select(source_databases.c.snapshot, locations.c.name, source_databases.c.path).join_from(source_databases, locations)
    lying = (
        sa.select(items.c.sha256, locations.c.name, replicas.c.path)
        .join_from(replicas, items)
        .join(locations, locations.c.id == replicas.c.location_id)
        .where(replicas.c.state == ReplicaState.AVAILABLE, locations.c.kind == "host")
        .order_by(locations.c.name.desc(), replicas.c.path.desc())
    )
    with store.reading() as connection:
        for batch in in_batches([bytes.fromhex(sha256) for sha256 in sha256s]):
            for digest, name, path in connection.execute(lying.where(items.c.sha256.in_(batch))):
                found[digest.hex()] = _name(name, path)
            for digest, name, path in connection.execute(live.where(source_databases.c.snapshot.in_(batch))):
                found[digest.hex()] = _name(name, path)
    return found


def _name(host: str, path: str) -> str:
    """One that no other database of any host has; what has only a hash for a name shares one source a host."""
    if is_named_by_hash(PurePosixPath(path).name):
        path = "arrived.db"
    told = f"{host}.{path.removeprefix(_USUAL).removesuffix('.db')}"
    return _ODD.sub("_", told)[:MAX_NAME] + ".db"
