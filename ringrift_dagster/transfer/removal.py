"""Removing copies, safely: only with live proof of enough others, never what is pinned, never from a bucket.

`drop` removes one copy; `retention` makes room at locations that are fuller than the hosts file allows, the oldest first. What an
agent then does with a file is `manifest.sources.tree_removal`'s business.
"""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from uuid import uuid4

import sqlalchemy as sa

from ringrift_dagster.cluster.domains import failure_domains
from ringrift_dagster.cluster.topology import Cluster
from ringrift_dagster.manifest import replicas as copies
from ringrift_dagster.manifest.locations import Location, all_locations, read_locations
from ringrift_dagster.manifest.plane import TOKEN_VARIABLE, Plane
from ringrift_dagster.manifest.queries import Copy, UnknownItem, Whereabouts, where
from ringrift_dagster.manifest.schema import items, locations, operations, replicas
from ringrift_dagster.manifest.sources.layouts import SNAPSHOT_FOLDER
from ringrift_dagster.manifest.states import Liveness, ReplicaState
from ringrift_dagster.manifest.store import Store, in_batches
from ringrift_dagster.transfer import pins
from ringrift_dagster.transfer.agents import HASHING_SECONDS, AgentRefused, Agents, AgentSilent
from ringrift_dagster.transfer.pins import Pinned
from ringrift_dagster.transfer.proofs import Proof, Prover, is_retired_by_itself, root_of
from ringrift_dagster.transfer.rules import Rule, standing_rules, stored

PROOFS = 2
"""Other locations that have to prove a copy before one is removed; one of them is lasting."""
RESERVED_SECONDS = 7200.0
"""So long, at most, nobody else removes a copy of the same item."""
REMOVED_AT_ONCE = 100
"""Copies that one pass of retention removes at a location."""
_PAGE = 500
_KINDS = ("host", "drive", "shared")
"""Where something may be removed at all."""

NOT_REMOVED = (
    "unknown_item",  # the manifest has no such item
    "not_here",  # the location has no copy that can be read
    "cold_storage",  # nothing is ever removed from a bucket
    "not_ours",  # this coordinator's home keeps its own house
    "pinned",  # a person, a rule or its name says that it stays
    "wanted",  # it is just being brought there
    "too_few_copies",  # not enough other locations proved theirs
    "timeout",  # the proofs took too long
    "agent_silent",  # nobody there removes it; it may have happened nevertheless
    "snapshot",  # of a live database: it goes by itself
    "live_database",
    "changed",  # the file is another one by now
    "outside",  # the file is behind a link that leads out of the root
    "agent_refused",
)
"""Why a copy was not removed."""


class NotRemoved(Exception):
    """The copy stays: `code` is one of NOT_REMOVED."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


@dataclass(frozen=True)
class Removed:
    """A copy that was removed: its paths, its bytes, and who proved that they hold the item."""

    sha256: str
    location: str
    paths: tuple[str, ...]
    bytes: int
    proofs: tuple[Proof, ...]


@dataclass
class Cleaned:
    """What retention did at a location. Bytes; `kept` counts by reason what was looked at and had to stay."""

    location: str
    wanted: int
    removed: list[Removed] = field(default_factory=list)
    kept: Counter[str] = field(default_factory=Counter)

    @property
    def freed(self) -> int:
        return sum(each.bytes for each in self.removed)


def drop(plane: Plane, sha256: str, location: str, *, why: str, clock: Callable[[], float] = time.time) -> Removed:
    """Remove an item's copy at a location, once PROOFS other locations have proved theirs. Raises NotRemoved."""
    agents = Agents(plane.cluster, os.environ.get(TOKEN_VARIABLE))
    try:
        return _drop(plane, agents, sha256, location, why, clock)
    finally:
        agents.close()


def retention(
    plane: Plane,
    *,
    clock: Callable[[], float] = time.time,
    only: Collection[str] | None = None,
    limit: int = REMOVED_AT_ONCE,
    stop: Callable[[], bool] = lambda: False,
) -> list[Cleaned]:
    """Make room wherever a location is fuller than allowed, down to the target percentage, as far as that is safe.

    What goes is what has enough other copies, so that the planner does not bring it back: the oldest first, up to `limit` a
    location. `only`: these locations. `stop` is asked before each copy.
    """
    agents = Agents(plane.cluster, os.environ.get(TOKEN_VARIABLE))
    try:
        return [
            _clean(plane, agents, place, wanted, clock, limit, stop)
            for place, wanted in overfull(plane.store, plane.cluster)
            if only is None or place.name in only
        ]
    finally:
        agents.close()


def overfull(store: Store, cluster: Cluster) -> list[tuple[Location, int]]:
    """Locations that are fuller than allowed, and how many bytes have to go there."""
    limits = cluster.thresholds
    found = []
    for place in all_locations(store):
        total, free = place.disk_total or 0, place.disk_free or 0
        ours = place.kind in _KINDS and place.liveness == Liveness.ONLINE and place.active
        if ours and total and not _is_excluded(cluster, place) and not limits.has_room(total, free):
            found.append((place, round(total - free - total * limits.target_disk_usage_percent / 100)))
    return found


def _is_excluded(cluster: Cluster, place: Location) -> bool:
    """Who takes no part has nothing removed either."""
    return (place.via or place.name) in cluster.excluded_hosts


def _drop(plane: Plane, agents: Agents, sha256: str, location: str, why: str, clock: Callable[[], float]) -> Removed:
    found = _whereabouts(plane.store, sha256)
    _removable(plane.store, found, location)
    began, owner = clock(), f"removal {uuid4().hex}"
    until = began + RESERVED_SECONDS
    try:
        pins.reserve(plane.store, sha256, owner, f"its copy at {location} is being removed", at=began, until=until)
    except Pinned as error:
        raise NotRemoved("pinned", str(error)) from None
    unsure = False
    try:
        proofs = _proofs(plane, Prover(plane, agents), found, location)
        if clock() > until - HASHING_SECONDS:
            raise NotRemoved("timeout", "the proofs took so long that they may be old by now")
        mine = _still_removable(plane.store, sha256, location, owner, clock())
        paths = _told_to_remove(Prover(plane, agents), found, mine[0])
        with plane.store.writing() as writer:
            copies.drop(writer, location, sha256, why=why, at=clock())
    except NotRemoved as error:
        unsure = error.code == "agent_silent"
        raise
    finally:
        if not unsure:  # it may have happened: until that is known for certain, the others stay
            pins.unpin(plane.store, sha256, owner)
    return Removed(sha256, location, tuple(paths), found.item.size * len(paths), tuple(proofs))


def _whereabouts(store: Store, sha256: str) -> Whereabouts:
    try:
        return where(store, sha256)
    except UnknownItem:
        raise NotRemoved("unknown_item", f"the manifest has no item {sha256[:12]}") from None


def _removable(store: Store, found: Whereabouts, location: str) -> list[Copy]:
    """The copies at a location. Raises NotRemoved where they may not go whatever else is proved."""
    mine = [copy for copy in found.reachable if copy.location == location]
    kind = next((copy.kind for copy in found.copies if copy.location == location), None)
    if kind == "s3":
        raise NotRemoved("cold_storage", f"{location} is a bucket: nothing is ever removed from one")
    if kind == "disk":
        raise NotRemoved("not_ours", f"{location} is this coordinator's own, and the pipeline keeps it")
    if not mine:
        raise NotRemoved("not_here", f"{location} has no copy that can be read now")
    if any(is_retired_by_itself(copy) for copy in mine):
        raise NotRemoved("snapshot", f"{mine[0].path} is the snapshot of a live database: it goes when a later one succeeds it")
    with store.reading() as connection:
        coming = sa.select(operations.c.id).where(
            operations.c.finished_at.is_(None),
            operations.c.sha256 == bytes.fromhex(found.item.sha256),
            operations.c.target == location,
        )
        if number := connection.execute(coming.limit(1)).scalar():
            raise NotRemoved("wanted", f"operation {number} brings it there")
    return mine


def _still_removable(store: Store, sha256: str, location: str, owner: str, at: float) -> list[Copy]:
    """As `_removable`, once more: while copies were proved, somebody may have come to need this one. Raises NotRemoved."""
    mine = _removable(store, _whereabouts(store, sha256), location)
    if why := pins.pinned(store, [sha256], at=at, besides=owner).get(sha256):
        raise NotRemoved("pinned", f"{why}; it came while the other copies were proved")
    return mine


def _proofs(plane: Plane, prover: Prover, found: Whereabouts, location: str) -> list[Proof]:
    """Live proofs of other copies, none lost with another, the lasting ones first. Raises NotRemoved if there are too few."""
    places = {place.name: place for place in all_locations(plane.store)}
    domain_of = failure_domains(plane.cluster, places.values())
    domains = {domain_of[location]}
    known = [copy for copy in found.reachable if domain_of.get(copy.location) is not None and domain_of[location] is not None]
    others = [copy for copy in known if not is_retired_by_itself(copy)]
    proofs: list[Proof] = []
    for copy in sorted(others, key=lambda copy: (places[copy.location].ephemeral, copy.kind == "s3", copy.location)):
        place = places[copy.location]
        if domain_of[copy.location] in domains or _is_enough(proofs):
            continue
        at = prover.prove(found.item, copy)
        if at is not None:
            proofs.append(Proof(copy.location, not place.ephemeral, at))
            domains.add(domain_of[copy.location])
    if not _is_enough(proofs):
        proven = ", ".join(proof.location for proof in proofs) or "nobody"
        raise NotRemoved("too_few_copies", f"{PROOFS} others have to prove theirs, one of them lasting; {proven} did")
    return proofs


def _is_enough(proofs: Sequence[Proof]) -> bool:
    return len(proofs) >= PROOFS and any(proof.lasting for proof in proofs)


def _told_to_remove(prover: Prover, found: Whereabouts, copy: Copy) -> Sequence[str]:
    """Have the location's agent remove it; returns the paths that went. Raises NotRemoved."""
    refused: AgentRefused | None = None
    for client in prover.clients(copy.location):
        try:
            answer = client.drop(f"drop-{uuid4().hex}", found.item.sha256, root_of(copy.kind, copy.location))
        except AgentSilent as error:
            raise NotRemoved("agent_silent", f"{client.name}: {error.detail}") from error
        except AgentRefused as error:
            refused = error
            continue
        if answer.dropped:
            return answer.paths
        raise NotRemoved("not_here", f"{copy.location} has no such file any more")
    if refused is None:
        raise NotRemoved("agent_refused", f"no agent serves {copy.location}")
    code = refused.code if refused.code in NOT_REMOVED else "agent_refused"
    raise NotRemoved(code, refused.detail)


def _clean(
    plane: Plane, agents: Agents, place: Location, wanted: int, clock: Callable[[], float], limit: int, stop: Callable[[], bool]
) -> Cleaned:
    """Retention at one location."""
    done = Cleaned(place.name, wanted)
    for sha256, reason in _oldest_first(plane, place, clock()):
        if done.freed >= wanted or len(done.removed) >= limit or stop():
            break
        if reason is not None:
            done.kept[reason] += 1
            continue
        try:
            why = f"{place.name} is fuller than {plane.cluster.thresholds.full_at_percent:g} %"
            done.removed.append(_drop(plane, agents, sha256, place.name, why, clock))
        except NotRemoved as error:
            done.kept[error.code] += 1
            if error.code == "agent_silent":
                break
    return done


def _oldest_first(plane: Plane, place: Location, at: float) -> Iterator[tuple[str, str | None]]:
    """Items at a location by age of their files, with why they have to stay, if so."""
    age = sa.func.coalesce(sa.func.min(replicas.c.mtime), items.c.first_seen)
    query = (
        sa.select(items.c.sha256, items.c.id, items.c.type, items.c.config)
        .join_from(replicas, items)
        .join(locations, locations.c.id == replicas.c.location_id)
        .where(locations.c.name == place.name, replicas.c.state == ReplicaState.AVAILABLE)
        .where(~replicas.c.path.startswith(f"{SNAPSHOT_FOLDER}/"))
        .group_by(items.c.id)
        .order_by(age, items.c.id)
    )
    rules = [*stored(plane.store, at=at), *standing_rules(plane.cluster)]
    with plane.store.reading() as connection:
        rows = connection.execute(query).all()
    for page in in_batches(rows, _PAGE):
        pinned = pins.pinned(plane.store, [row.sha256.hex() for row in page], at=at)
        elsewhere = _elsewhere(plane, [row.id for row in page], place)
        for row in page:
            sha256 = row.sha256.hex()
            copies_there, lasting = elsewhere.get(row.id, (0, 0))
            if sha256 in pinned:
                yield sha256, "pinned"
            elif copies_there < _needed(rules, sha256, row.type, row.config) or lasting < 1:
                yield sha256, "too_few_copies"
            else:
                yield sha256, None


def _needed(rules: Sequence[Rule], sha256: str, type: str, config: str | None) -> int:
    """How many other copies there have to be, so that no rule brings this one back."""
    wanted = [rule.copies for rule in rules if rule.copies is not None and rule.is_about(sha256, type, config)]
    return max([PROOFS, *wanted])


def _elsewhere(plane: Plane, numbers: Sequence[int], place: Location) -> dict[int, tuple[int, int]]:
    """In how many other failure domains items can be read, snapshots not counted, and how many of those are lasting."""
    found: dict[int, dict[str, bool]] = defaultdict(dict)
    with plane.store.reading() as connection:
        domain_of = failure_domains(plane.cluster, read_locations(connection))
        here = domain_of[place.name]
        for batch in in_batches(numbers):
            query = (
                sa.select(replicas.c.item_id, locations.c.name, locations.c.ephemeral)
                .join_from(replicas, locations)
                .where(replicas.c.item_id.in_(batch), replicas.c.state == ReplicaState.AVAILABLE)
                .where(locations.c.liveness == Liveness.ONLINE)
                .where(~replicas.c.path.startswith(f"{SNAPSHOT_FOLDER}/"))
            )
            for number, name, ephemeral in connection.execute(query):
                domain = domain_of[name]
                if here is not None and domain is not None and domain != here:
                    found[number][domain] = found[number].get(domain, False) or not ephemeral
    return {number: (len(names), sum(names.values())) for number, names in found.items()}
