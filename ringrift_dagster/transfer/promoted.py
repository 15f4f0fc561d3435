"""Distribution of promoted models: what follows from a recorded decision, and which hosts do not have the current model yet.

Which model is current is decided in `models.promotion`. A rule keeps the model wanted at every host, so that one that is offline
gets it when it is back.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from ringrift_dagster.events import model as told
from ringrift_dagster.events.model import EventType
from ringrift_dagster.events.outgoing import publish
from ringrift_dagster.manifest.plane import HOME_LOCATION, Plane
from ringrift_dagster.manifest.queries import Item, items_of
from ringrift_dagster.manifest.refresh import refresh
from ringrift_dagster.manifest.schema import items, locations, replicas
from ringrift_dagster.manifest.states import ReplicaState
from ringrift_dagster.models.manifest import SignedManifest
from ringrift_dagster.models.publishing.names import MODELS, SUFFIX, model_names
from ringrift_dagster.transfer import planner, rules
from ringrift_dagster.transfer.placement import file_name

HOME_SECONDS: Final = 30.0
"""How long the home's inventory is waited for until it has the model."""
_IDS: Final = uuid.UUID("b7c2a0d4-54a3-5b53-9a43-0c8b5a0c7f11")
"""Namespace of the ids of events that follow from decisions."""


class NotAtHome(Exception):
    """The home's inventory does not show the model; the message is one line."""


@dataclass(frozen=True)
class Lag:
    """A host that does not have the current model of a config under the name by which RingRift loads it.

    `since` is when that became current, in seconds since 1970. `held` says whether the model is there under another name: then its
    agent has not given it its names yet, or refuses to.
    """

    host: str
    config: str
    sha256: str
    since: float
    held: bool = False


def ship(
    plane: Plane, config: str, sha256: str, decision: int, *, promoted_at: float, manifest: SignedManifest | None = None
) -> int:
    """Have a model that is published at home brought to every host, and tell the hosts; returns how many operations are new.

    `manifest` is that of the published set, if it is signed. May be done again for the same decision: nothing is asked for or told
    twice, but once more when there is a signature for the first time. Raises NotAtHome.
    """
    item = _at_home(plane, sha256)
    now = time.time()
    rules.put(plane.store, rules.promoted_model(config, sha256, at=promoted_at))
    planned = planner.plan(plane.store, plane.cluster, at=now)
    operations = planner.submit(plane.store, planned, at=now) if planned.wanted else []
    payload = told.ModelPromoted(
        config=config,
        host=HOME_LOCATION,
        sha256=sha256,
        path=file_name(item, SUFFIX),
        reason=f"decision {decision}",
        manifest=manifest and manifest.content.decode(),
        signature=manifest and manifest.signature.hex(),
    )
    hosts = [host.name for host in plane.cluster.active_hosts if host.root]
    with plane.store.writing() as writer:
        event = str(uuid.uuid5(_IDS, f"{config} {decision} {sha256}{' signed' if manifest else ''}"))
        publish(writer, EventType.MODEL_PROMOTED, payload, at=promoted_at, hosts=hosts, id=event)
    return len(operations)


def lags(plane: Plane) -> list[Lag]:
    """Every active host with a RingRift tree that lacks the current model of a config, or has not given it its name."""
    hosts = [host.name for host in plane.cluster.active_hosts if host.root]
    missing: list[Lag] = []
    for rule in rules.stored(plane.store):
        if rule.sha256 is not None and rule.config is not None and rule.name == rules.model_rule(rule.config):
            holders, expected = _holders(plane, rule.sha256), f"{MODELS}/{model_names(rule.config)[0]}"
            missing += [
                Lag(name, rule.config, rule.sha256, rule.created_at, held=name in holders)
                for name in hosts
                if expected not in holders.get(name, ())
            ]
    return missing


def _holders(plane: Plane, sha256: str) -> dict[str, set[str]]:
    """The locations that have a sound copy, whether they answer now or not, and where."""
    query = (
        sa.select(locations.c.name, replicas.c.path)
        .join_from(replicas, items)
        .join(locations, locations.c.id == replicas.c.location_id)
        .where(items.c.sha256 == bytes.fromhex(sha256), replicas.c.state.in_([ReplicaState.AVAILABLE, ReplicaState.UNAVAILABLE]))
    )
    with plane.store.reading() as connection:
        rows = connection.execute(query).all()
    holders: dict[str, set[str]] = {}
    for name, path in rows:
        holders.setdefault(name, set()).add(path)
    return holders


def _at_home(plane: Plane, sha256: str) -> Item:
    sources = [source for source in plane.sources if source.location == HOME_LOCATION]
    deadline = time.monotonic() + HOME_SECONDS
    while True:
        refresh(plane.store, sources, answer_seconds=HOME_SECONDS, again_seconds=0.1)
        item = items_of(plane.store, [sha256]).get(sha256)
        if item is not None:
            return item
        if time.monotonic() > deadline:
            raise NotAtHome(f"the home's inventory does not show model {sha256[:12]}; the next run of promoted_models tries again")
        time.sleep(0.2)
