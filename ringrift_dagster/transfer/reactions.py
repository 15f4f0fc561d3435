"""What follows from an event: operations, rules, runs to ask for, and events in turn. One function a type of event.

Everything here may be done again after a crash: operations are asked for once, rules have names, and an event is marked handled in
the transaction that tells what follows from it. Who reads events, and starts the runs, is Dagster's side of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import sqlalchemy as sa

from ringrift_dagster.events import model as told
from ringrift_dagster.events.inbox import Told, handled, mark_handled
from ringrift_dagster.events.model import EventType, Payload
from ringrift_dagster.events.outgoing import HOME, publish
from ringrift_dagster.games.config import CONFIG_KEYS
from ringrift_dagster.manifest.inventory import ItemType
from ringrift_dagster.manifest.plane import HOME_LOCATION, Plane
from ringrift_dagster.manifest.queries import Item, find_item, items_by_quality, items_of, where
from ringrift_dagster.manifest.refresh import refresh
from ringrift_dagster.manifest.schema import events, handled_events
from ringrift_dagster.manifest.staleness import Staleness, of_config, references
from ringrift_dagster.manifest.states import ReplicaState
from ringrift_dagster.manifest.store import Store
from ringrift_dagster.transfer import collect, deferral, planner, queue, rules
from ringrift_dagster.transfer.model import Priority
from ringrift_dagster.transfer.operations import Kind, Wanted
from ringrift_dagster.transfer.placement import file_name
from ringrift_dagster.transfer.rules import Rule

CONSUMER = "reactions"
_EXPORT = "export "
"""With a config behind it, a consumer too: its row has no outcome before the run is there that the event asks for."""
JOB_SECONDS = 48 * 3600.0
"""A job that never says that it ended keeps its data for so long."""
SOON_SECONDS = 6 * 3600.0
"""A job that is to begin soon and does not gives its place up after so long."""
CANDIDATES = 3
"""Items that a host is given when it says that it needs data."""
REFRESH_SECONDS = 3.0
"""For an answer of the host that an event is about."""


@dataclass
class Reaction:
    """What was done. `operations` are ids in the queue, `urgent` targets with CRITICAL ones, `exports` configs whose pipeline is
    to run now. `outcome` says it in a line."""

    operations: list[int] = field(default_factory=list)
    urgent: set[str] = field(default_factory=set)
    exports: set[str] = field(default_factory=set)
    outcome: str = ""


@dataclass
class _Doing:
    """One event being reacted to. `say` collects what is told in the end."""

    plane: Plane
    event: told.Event
    at: float
    reaction: Reaction = field(default_factory=Reaction)
    say: list[tuple[EventType, Payload, tuple[str, ...]]] = field(default_factory=list)

    @property
    def payload(self) -> Any:
        return self.event.payload

    def want(self, kind: Kind, item: Item, target: str, priority: Priority, why: str) -> None:
        """Ask for an item at a host, unless it is there."""
        if path_at(self.plane, item.sha256, target) is None:
            wanted = Wanted(kind, item.sha256, target, priority, item.size, why[:200])
            self.reaction.operations += queue.submit_missing(self.plane.store, [wanted], at=self.at)
            if priority == Priority.CRITICAL:
                self.reaction.urgent.add(target)

    def tell(self, type: EventType, payload: Payload, *hosts: str) -> None:
        """Have an event recorded with the end of this one, and delivered to those of the hosts that are known."""
        self.say.append((type, payload, tuple(host for host in hosts if host in self.plane.cluster.hosts)))

    def keep(self, rule: Rule) -> None:
        rules.put(self.plane.store, rule)

    def done(self, outcome: str) -> None:
        self.reaction.outcome = outcome


def react(plane: Plane, event: Told, *, at: float) -> Reaction | None:
    """Do what follows from an event; None if that was done before.

    What it says goes out with the mark that it was handled, in one transaction.
    """
    if CONSUMER in handled(plane.store, event.number):
        return None
    doing = _Doing(plane, event.event, at)
    act = _REACTIONS.get(event.event.type)
    if act is None:
        doing.done("nothing follows from it")
    else:
        act(doing)
    with plane.store.writing() as writer:
        if not mark_handled(writer, CONSUMER, event.number, at=at, outcome=doing.reaction.outcome[:200]):
            return None
        for kind, payload, hosts in doing.say:
            publish(writer, kind, payload, at=at, hosts=hosts)
        for config in doing.reaction.exports:
            mark_handled(writer, f"{_EXPORT}{config}", event.number, at=at)
    return doing.reaction


@dataclass(frozen=True)
class ExportWanted:
    """An event that wants a config's pipeline to run, since `at` (seconds since 1970)."""

    number: int
    event_id: str
    at: float


def exports_wanted(store: Store) -> dict[str, list[ExportWanted]]:
    """The events whose pipeline has not begun to run, by config, in order."""
    query = (
        sa.select(handled_events.c.consumer, events.c.id, events.c.event_id, handled_events.c.at)
        .join(events, events.c.id == handled_events.c.event)
        .where(handled_events.c.consumer.startswith(_EXPORT), handled_events.c.outcome.is_(None))
        .order_by(events.c.id)
    )
    wanted: dict[str, list[ExportWanted]] = {}
    with store.reading() as connection:
        for consumer, number, id, at in connection.execute(query):
            wanted.setdefault(consumer.removeprefix(_EXPORT), []).append(ExportWanted(number, id, at))
    return wanted


def export_begun(store: Store, config: str, wanted: Iterable[ExportWanted], run: str) -> None:
    """Say that the run that events wanted is there."""
    numbers = [each.number for each in wanted]
    mine = sa.update(handled_events).where(handled_events.c.consumer == f"{_EXPORT}{config}", handled_events.c.event.in_(numbers))
    with store.writing() as writer:
        writer.connection.execute(mine.values(outcome=f"run {run}"))


def best_training_set(plane: Plane, config: str, at: float) -> tuple[Item | None, Staleness]:
    """What jobs of a config train on: the reference, if the gate lets it through; and the verdict on it."""
    verdict = of_config(plane.store, config, plane.cluster.freshness, at)
    if not verdict.may_train:
        return None, verdict
    with plane.store.reading() as connection:
        reference = references(connection, at).get(config)
    if reference is None:
        return None, verdict
    return items_of(plane.store, [reference.sha256.hex()]).get(reference.sha256.hex()), verdict


def path_at(plane: Plane, sha256: str, host: str) -> str | None:
    """Where a host has an item, on its own disk or on a file system that it mounts; None if it has not.

    That it does not answer just now does not mean that its files are gone: its last answer counts.
    """
    seen = {place.name for place in plane.cluster.locations() if place.kind in ("host", "shared") and host in place.hosts}
    copies = [copy for copy in where(plane.store, sha256).copies if copy.location in seen]
    there = (copy.path for copy in copies if copy.state == ReplicaState.AVAILABLE or (copy.last_seen and copy.location == host))
    return next(there, None)


def _training_started(doing: _Doing) -> None:
    """The best fresh training set goes to the job's host, before everything else; its parent checkpoint too, if one is named."""
    config, host = doing.payload.config, doing.payload.host
    if host not in doing.plane.cluster.hosts:
        doing.done(f"the hosts file names no host {host}")
        return
    item, verdict = best_training_set(doing.plane, config, doing.at)
    if item is None:
        _blocked(doing, config, host, verdict)
        return
    until = doing.at + JOB_SECONDS
    for each, what in ((item, "data"), (_parent(doing), "parent")):
        if each is None:
            continue
        doing.keep(_exactly(_job(doing, what), each, host, Priority.CRITICAL, doing.at, until))
        path = path_at(doing.plane, each.sha256, host)
        if path is not None:
            doing.tell(EventType.DATA_AVAILABLE, available(each, host, path, "it was there"), host)
        doing.want(Kind.PRELOAD, each, host, Priority.CRITICAL, f"training of {config} started")
    held = not doing.reaction.operations
    doing.done(f"{host} {'holds' if held else 'is sent'} {item.sha256[:12]}{_excused(verdict)}")


def _blocked(doing: _Doing, config: str, host: str, verdict: Staleness) -> None:
    """Nothing that is good enough can be had: say so, and start what would change that."""
    reason = verdict.detail or str(verdict.reason)
    doing.tell(
        EventType.TRAINING_BLOCKED_BY_DATA,
        told.TrainingBlockedByData(
            config=config, host=host, reason=reason, age=verdict.age, next_action="the pipeline runs; self-play is asked for"
        ),
        host,
    )
    _need_games(doing, config, reason)
    doing.reaction.exports.add(config)
    doing.reaction.operations += collect.cycle(doing.plane.store, doing.plane.cluster, at=doing.at)
    doing.done(f"blocked: {reason}")


def _threshold_reached(doing: _Doing) -> None:
    """Export now, and have the newest training set where the job will be before it begins."""
    config = doing.payload.config
    hosts = _training_hosts(doing.plane, doing.payload.host)
    doing.keep(rules.training_job(f"soon-{config}", config, hosts, at=doing.at, until=doing.at + SOON_SECONDS))
    doing.reaction.operations += collect.cycle(doing.plane.store, doing.plane.cluster, at=doing.at)
    _plan(doing)
    doing.reaction.exports.add(config)
    doing.done(f"export, then to {', '.join(hosts) or 'no host: none trains'}")


def _data_needed(doing: _Doing) -> None:
    """The best that fits, to each host; self-play if nothing does."""
    payload: told.DataNeeded = doing.payload
    priority = Priority[payload.urgency] if payload.urgency in ("CRITICAL", "HIGH") else Priority.HIGH
    configs = [payload.config] if payload.config else list(_configs_of(doing.plane, payload.type))
    found = 0
    for config in configs:
        fitting = items_by_quality(
            doing.plane.store, config, payload.type, min_samples=payload.min_samples,
            newer_than=None if payload.max_age is None else doing.at - payload.max_age, limit=CANDIDATES if payload.config else 1,
        )  # fmt: skip
        found += len(fitting)
        for item in fitting:
            for host in payload.hosts:
                if host in doing.plane.cluster.hosts:
                    doing.want(Kind.SYNC, item, host, priority, f"{host} needs data of {config}")
                    path = path_at(doing.plane, item.sha256, host)
                    if path is not None:
                        doing.tell(EventType.DATA_AVAILABLE, available(item, host, path, "it was there"), host)
        if not fitting:
            _need_games(doing, config, "no item fits what was asked for", payload.hosts[0])
    doing.done(f"{found} items fit; {len(doing.reaction.operations)} are sent")


def _data_stale(doing: _Doing) -> None:
    """Whatever is newer goes there; the pipeline makes what is newer still; self-play is asked for where nothing is fresh."""
    config, host = doing.payload.config, doing.payload.host
    item, verdict = best_training_set(doing.plane, config, doing.at)
    if item is not None and host in doing.plane.cluster.hosts:
        doing.want(Kind.SYNC, item, host, Priority.HIGH, f"what {host} has of {config} is stale")
    if not verdict.fresh:
        _need_games(doing, config, verdict.detail or str(verdict.reason), host)
    doing.reaction.operations += collect.cycle(doing.plane.store, doing.plane.cluster, at=doing.at)
    doing.reaction.exports.add(config)
    doing.done(f"export; {len(doing.reaction.operations)} operations")


def _selfplay_complete(doing: _Doing) -> None:
    """The host is asked what it has now; its games come home, where the pipeline judges and exports them."""
    payload: told.SelfplayComplete = doing.payload
    if payload.success is False:
        doing.done("it failed: there is nothing new")
        return
    _ask(doing, payload.host)
    doing.reaction.operations += collect.cycle(doing.plane.store, doing.plane.cluster, at=doing.at, host=payload.host)
    doing.done(f"{len(doing.reaction.operations)} databases come home")


def _exported(doing: _Doing) -> None:
    """The host is asked what it has now; what the rules want of it is planned."""
    if doing.payload.success is False:
        doing.done("it failed: there is nothing new")
        return
    _ask(doing, doing.payload.host)
    _plan(doing)
    doing.done(f"{len(doing.reaction.operations)} operations")


def _model_promoted(doing: _Doing) -> None:
    """Every host gets it, and is told that it takes the place of the config's former model."""
    payload: told.ModelPromoted = doing.payload
    if doing.event.host == HOME:
        doing.done("our own word")
        return
    if payload.success is False:
        doing.done("it failed: nothing was promoted")
        return
    item = _model(doing.plane, payload)
    if item is None:
        _ask(doing, payload.host)
        item = _model(doing.plane, payload)
    if item is None:
        doing.done(f"no model of {payload.config} is known by {payload.sha256 or payload.path or payload.model}")
        return
    doing.keep(rules.promoted_model(payload.config, item.sha256, at=doing.at))
    _plan(doing)
    suffix = next((PurePosixPath(copy.path).suffix for copy in where(doing.plane.store, item.sha256).copies), "")
    current = payload.model_copy(update={"sha256": item.sha256, "path": file_name(item, suffix)})
    doing.tell(EventType.MODEL_PROMOTED, current, *(host.name for host in doing.plane.cluster.active_hosts if host.root))
    doing.done(f"{item.sha256[:12]} goes to every host: {len(doing.reaction.operations)} operations")


def _host_online(doing: _Doing) -> None:
    """It is asked what it has; what its role needs is planned."""
    _ask(doing, doing.payload.host)
    _plan(doing)
    doing.done(f"{len(doing.reaction.operations)} operations")


def _host_offline(doing: _Doing) -> None:
    """What it was to bring goes back to the queue, and the rest gets further copies. What only it had the manifest tells of."""
    _ask(doing, doing.payload.host)
    returned = queue.release(doing.plane.store, doing.payload.host, at=doing.at)
    _plan(doing)
    doing.done(f"{returned} leases returned; {len(doing.reaction.operations)} operations")


def _job_ended(doing: _Doing) -> None:
    """Its data need not stay any longer."""
    gone = sum(rules.remove(doing.plane.store, _job(doing, what)) for what in ("data", "parent"))
    doing.done(f"{gone} rules ended")


def _pressed(doing: _Doing) -> None:
    payload: told.Backpressure = doing.payload
    if payload.host == HOME_LOCATION:
        doing.done("our own word")  # who announced it has acted on it
        return
    deferral.activate(doing.plane.store, payload.host, reason=payload.reason or payload.resource or "", at=doing.at)
    doing.done("LOW and COLD_STORAGE wait")


def _released(doing: _Doing) -> None:
    if doing.payload.host == HOME_LOCATION:
        doing.done("our own word")
        return
    standing = deferral.release(doing.plane.store, doing.payload.host, at=doing.at)
    doing.done("others still press" if standing.active else "nothing waits any more")


_REACTIONS: Mapping[EventType, Callable[[_Doing], None]] = {
    EventType.TRAINING_STARTED: _training_started,
    EventType.TRAINING_COMPLETED: _job_ended,
    EventType.TRAINING_FAILED: _job_ended,
    EventType.TRAINING_THRESHOLD_REACHED: _threshold_reached,
    EventType.DATA_NEEDED: _data_needed,
    EventType.DATA_STALE: _data_stale,
    EventType.SELFPLAY_COMPLETE: _selfplay_complete,
    EventType.NPZ_EXPORT_COMPLETE: _exported,
    EventType.MODEL_PROMOTED: _model_promoted,
    EventType.HOST_ONLINE: _host_online,
    EventType.HOST_OFFLINE: _host_offline,
    EventType.BACKPRESSURE_ACTIVATED: _pressed,
    EventType.BACKPRESSURE_RELEASED: _released,
}
REACTED_TO = frozenset(_REACTIONS)
"""The types of events from which something follows."""


def available(item: Item, host: str, path: str, reason: str) -> told.DataAvailable:
    """That an item lies on a host."""
    return told.DataAvailable(
        host=host, sha256=item.sha256, type=ItemType(item.type), config=item.config, path=path, bytes=item.size, games=item.games,
        samples=item.samples, reason=reason,
    )  # fmt: skip


def _exactly(name: str, item: Item, host: str, priority: Priority, at: float, until: float) -> Rule:
    """One item on one host, until then."""
    return Rule(
        name, Kind.PRELOAD, priority, ItemType(item.type), item.config, item.sha256, hosts=(host,), created_at=at, expires_at=until
    )  # fmt: skip


def _job(doing: _Doing, what: str) -> str:
    """The name of a job's rule."""
    host, config = doing.payload.host, doing.payload.config
    return f"job-{host}-{config}-{what}".replace(":", "-")[:100]


def _parent(doing: _Doing) -> Item | None:
    """The checkpoint that a job goes on from, if it names one, of whatever config, and the manifest knows which that is."""
    return _named(doing.plane, doing.payload.model_path, None, (ItemType.CHECKPOINT, ItemType.MODEL))


def _model(plane: Plane, payload: told.ModelPromoted) -> Item | None:
    if payload.sha256 is not None:
        return items_of(plane.store, [payload.sha256]).get(payload.sha256)
    for name in (payload.path, payload.model):
        found = _named(plane, name, payload.config, (ItemType.MODEL, ItemType.CHECKPOINT))
        if found is not None:
            return found
    return None


def _named(plane: Plane, path: str | None, config: str | None, types: Sequence[ItemType]) -> Item | None:
    """The one item that a path's file name stands for; None if it stands for none, for several, or for another config's than
    `config`, if that matters."""
    if not path:
        return None
    try:
        sha256 = find_item(plane.store, PurePosixPath(path).name)
    except LookupError:
        return None
    item = items_of(plane.store, [sha256]).get(sha256)
    fits = item is not None and ItemType(item.type) in types and (config is None or item.config in (None, config))
    return item if fits else None


def _training_hosts(plane: Plane, named: str | None) -> list[str]:
    """The host that was named, if it trains; otherwise all that do."""
    hosts = {host.name: host for host in plane.cluster.active_hosts if host.training or "training" in host.role}
    return [named] if named in hosts else sorted(hosts)


def _configs_of(plane: Plane, type: ItemType) -> Iterable[str]:
    return [config for config in CONFIG_KEYS if items_by_quality(plane.store, config, type, limit=1)]


def _need_games(doing: _Doing, config: str, reason: str, host: str | None = None) -> None:
    """Tell every host that plays."""
    names = [host.name for host in doing.plane.cluster.selfplay_hosts]
    doing.tell(EventType.SELFPLAY_NEEDED, told.SelfplayNeeded(config=config, reason=reason, host=host), *names)


def _excused(verdict: Staleness) -> str:
    return f", which is too old but for an override by {verdict.override.who}" if verdict.override else ""


def _ask(doing: _Doing, host: str) -> None:
    """Ask a host what it holds, now: what the event is about may be newer than the last answer. Our own word needs no asking."""
    if doing.event.host == HOME:
        return
    sources = [source for source in doing.plane.sources if source.location == host]
    if sources:
        refresh(doing.plane.store, sources, answer_seconds=REFRESH_SECONDS, again_seconds=0.1)


def _plan(doing: _Doing) -> None:
    """Ask for what is missing for the rules, now."""
    planned = planner.plan(doing.plane.store, doing.plane.cluster, at=doing.at)
    if planned.wanted:
        doing.reaction.operations += planner.submit(doing.plane.store, planned, at=doing.at)
        doing.reaction.urgent |= {each.target for each in planned.wanted if each.priority == Priority.CRITICAL}
