"""From rules to operations: what is missing for the desired state, as far as it can be brought now.

Planning only reads; `submit` puts the plan into the queue. What already holds or is already on its way is never planned, nor, for a
while, what failed or was cancelled. A plan is bounded, in what it asks for and in what it looks at: what is left over follows with
the next one.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ringrift_dagster.cluster.topology import Cluster
from ringrift_dagster.manifest.inventory import ItemType, Soundness
from ringrift_dagster.manifest.plane import HOME_LOCATION
from ringrift_dagster.manifest.schema import items, locations, operations, replicas, source_databases
from ringrift_dagster.manifest.schema import state as manifest_state
from ringrift_dagster.manifest.sources.layouts import SNAPSHOT_FOLDER
from ringrift_dagster.manifest.states import ARCHIVED, Liveness, ReplicaState
from ringrift_dagster.manifest.store import Store, in_batches
from ringrift_dagster.transfer import queue
from ringrift_dagster.transfer.operations import Kind, State, Wanted
from ringrift_dagster.transfer.rules import Rule, by_urgency, read, standing_rules
from ringrift_dagster.transfer.spots import Spot, all_spots

PLANNED_AT_ONCE = 1000
"""Operations in one plan."""
LOOKED_AT = 5
"""So many times as many items are looked at in every plan: some cannot be brought now."""
FURTHER, FURTHER_SECONDS = 50_000, 2.0
"""If none of those can, so many others, for so long. The next plan goes on behind them."""
_BATCH = 500
_MAX_WHY = 200
UNMET_TOLD = 100
REST_SECONDS = {State.FAILED: 6 * 3600.0, State.CANCELLED: 86_400.0, State.DONE: 3600.0}
"""So long the planner does not ask again for what ended so. Of DONE: for a later snapshot of the same live games."""
_IN_VAIN = (State.FAILED.value, State.CANCELLED.value)
_ITEM = (items.c.id, items.c.sha256, items.c.type, items.c.config, items.c.size)
_SNAPSHOT = f"{SNAPSHOT_FOLDER}/"


@dataclass(frozen=True)
class Mark:
    """What a plan was made of: the manifest's revision, and when something is due although that stays the same.

    `after`: how far the items that a rule is about were looked at, by the rule, where that was not to the end.
    """

    revision: int
    due_at: float | None = None
    after: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def to_text(self) -> str:
        """For a cursor."""
        after = f":{orjson.dumps(self.after).decode()}" if self.after else ""
        return f"{self.revision}:{'' if self.due_at is None else self.due_at}{after}"

    @classmethod
    def from_text(cls, text: str | None) -> Mark | None:
        """The mark that a cursor holds; None if it holds none."""
        revision, colon, rest = (text or "").partition(":")
        due_at, _, after = rest.partition(":")
        try:
            told = {str(name): tuple(int(part) for part in key) for name, key in orjson.loads(after or "{}").items()}
            return cls(int(revision), float(due_at) if due_at else None, told) if colon else None
        except (ValueError, TypeError, AttributeError):
            return None


@dataclass(frozen=True)
class Unmet:
    """What a rule wants and cannot be brought now. `target` None: no place at all."""

    rule: str
    sha256: str
    target: str | None
    why: str


@dataclass
class Plan:
    """What to ask for, the most urgent first; `unmet` are examples, `lacking` says how many there are by reason."""

    mark: Mark
    wanted: list[Wanted] = field(default_factory=list)
    unmet: list[Unmet] = field(default_factory=list)
    lacking: Counter[str] = field(default_factory=Counter)
    more: bool = False
    """It is full, or not everything was looked at: there may be more to plan."""


def is_due(store: Store, mark: Mark | None, *, at: float) -> bool:
    """Whether a plan could say something else than the one of this mark."""
    return mark is None or mark.revision != store.revision() or (mark.due_at is not None and mark.due_at <= at)


def plan(store: Store, cluster: Cluster, *, at: float, limit: int = PLANNED_AT_ONCE, mark: Mark | None = None) -> Plan:
    """What is missing for the rules that hold at a time, up to `limit` operations. `mark`: of the plan that this one follows."""
    with store.reading() as connection:
        return _Planning(connection, cluster, at, limit, mark).run()


def submit(store: Store, planned: Plan, *, at: float) -> list[int]:
    """Ask for everything that was planned and did not arrive meanwhile; returns the operations' ids."""
    return queue.submit_missing(store, planned.wanted, at=at)


def cycle(store: Store, cluster: Cluster, mark: Mark | None, *, at: float, limit: int = PLANNED_AT_ONCE) -> Plan | None:
    """Plan and submit, if that is due; returns the plan. To be called after every refresh of the manifest."""
    if not is_due(store, mark, at=at):
        return None
    planned = plan(store, cluster, at=at, limit=limit, mark=mark)
    if planned.wanted:
        submit(store, planned, at=at)
    _withdraw(store, cluster, at)
    return planned


class _Item(NamedTuple):
    id: int
    sha256: bytes
    type: str
    config: str | None
    size: int


class _Held(NamedTuple):
    """A replica, as far as planning goes."""

    location: str
    path: str
    state: str
    online: bool


class _Planning:
    """One plan. Places fill up while it is made."""

    def __init__(self, connection: Connection, cluster: Cluster, at: float, limit: int, mark: Mark | None) -> None:
        self.connection = connection
        self.cluster = cluster
        self.at = at
        self.limit = limit
        revision = connection.execute(sa.select(manifest_state.c.revision)).scalar_one()
        self.plan = Plan(Mark(revision))
        self.spots = all_spots(connection, cluster)
        self.resting, self.lately = self._ended_lately()
        self.after = dict(mark.after) if mark is not None else {}
        self.fitting: dict[tuple[str, str], list[Spot]] = {}
        self.copies: dict[int, list[_Held]] = {}
        self.live: dict[bytes, str] = {}
        self.coming: dict[bytes, set[str]] = {}
        self.planned: dict[bytes, set[str]] = defaultdict(set)
        self.due: list[float] = []

    def run(self) -> Plan:
        rules = by_urgency([*read(self.connection, at=self.at), *standing_rules(self.cluster)])
        for rule in rules:
            if self.left() <= 0:
                break
            if rule.kind == Kind.BACKUP:
                self._cold(rule)
            elif rule.copies is not None:
                self._enough(rule, rule.copies)
            else:
                self._placed(rule)
        self.plan.more |= self.left() <= 0
        if self.plan.more:
            self.due.append(self.at)
        lists = {name for rule in rules for name in (rule.name, *(_list_at(rule, host) for host in rule.hosts or ()))}
        after = {name: key for name, key in self.after.items() if name in lists}
        self.plan.mark = Mark(self.plan.mark.revision, min(self.due, default=None), after)
        return self.plan

    def left(self) -> int:
        return self.limit - len(self.plan.wanted)

    def _ended_lately(self) -> tuple[dict[tuple[bytes, str], float], dict[str, float]]:
        """Until when not to ask again: by item and target, and, for snapshots of live games, by why they were asked for."""
        resting: dict[tuple[bytes, str], float] = {}
        columns = (operations.c.sha256, operations.c.target, operations.c.finished_at)
        for ended in (State.FAILED, State.CANCELLED):
            query = sa.select(*columns).where(operations.c.state == ended.value, self._ended_within(REST_SECONDS[ended]))
            for sha256, target, finished_at in self.connection.execute(query):
                resting[sha256, target] = max(finished_at + REST_SECONDS[ended], resting.get((sha256, target), 0.0))
        rest = REST_SECONDS[State.DONE]
        open_or_done = sa.or_(operations.c.finished_at.is_(None), self._ended_within(rest))
        query = sa.select(operations.c.why, sa.func.max(sa.func.coalesce(operations.c.finished_at, self.at)) + rest)
        query = query.where(operations.c.why.like("snapshot %"), open_or_done, operations.c.state.not_in(_IN_VAIN))
        return resting, {row[0]: row[1] for row in self.connection.execute(query.group_by(operations.c.why))}

    def _ended_within(self, seconds: float) -> sa.ColumnElement[bool]:
        return operations.c.finished_at > self.at - seconds

    def _look_at(self, found: Sequence[_Item]) -> None:
        """Find out where items are, where they are on their way to, and of which live database they are the snapshot."""
        self.copies, self.coming, self.live = defaultdict(list), defaultdict(set), {}
        online = locations.c.liveness == Liveness.ONLINE
        for batch in in_batches([item.id for item in found]):
            query = sa.select(replicas.c.item_id, locations.c.name, replicas.c.path, replicas.c.state, replicas.c.reason, online)
            for row in self.connection.execute(query.join_from(replicas, locations).where(replicas.c.item_id.in_(batch))):
                state = ReplicaState.AVAILABLE if row[4] == ARCHIVED else row[3]
                self.copies[row[0]].append(_Held(row[1], row[2], state, bool(row[5]) and row[4] != ARCHIVED))
        for kind in Kind:  # by kind, as the index of what is open begins with it
            for batch in in_batches([item.sha256 for item in found]):
                query = sa.select(operations.c.sha256, operations.c.target).where(
                    operations.c.finished_at.is_(None), operations.c.kind == kind.value, operations.c.sha256.in_(batch)
                )
                for sha256, target in self.connection.execute(query):
                    self.coming[sha256].add(target)
        for item in found:
            self.coming[item.sha256] |= self.planned[item.sha256]
        for batch in in_batches([item.sha256 for item in found if item.type == ItemType.GAME_DB]):
            query = sa.select(source_databases.c.snapshot, locations.c.name, source_databases.c.path)
            query = query.join_from(source_databases, locations).where(source_databases.c.snapshot.in_(batch))
            for sha256, name, path in self.connection.execute(
                query.order_by(locations.c.name.desc(), source_databases.c.path.desc())
            ):
                self.live[sha256] = f"{path} at {name}"

    def _enough(self, rule: Rule, copies: int) -> None:
        """So many copies of every item that fits."""
        query, key = self._short_of(rule, copies)
        for item in self._look(rule.name, query, key, lambda: any(self._fitting(rule, type) for type in ItemType)):
            self._spread(rule, item, copies)

    def _look(
        self, name: str, query: sa.Select[*tuple[Any, ...]], key: Sequence[sa.ColumnElement[int]], worthwhile: Callable[[], bool]
    ) -> Iterator[_Item]:
        """The items of a list, in the order of `key`, as long as there is room in the plan; each once it was looked at.

        The first ones in every plan. If there is still room then, and it is `worthwhile`, those behind where the last plan stopped.
        """
        size, query = self.left() * LOOKED_AT, query.add_columns(*key).order_by(*key)
        rows = self.connection.execute(query.limit(size)).all()
        for row in self._looked_at(rows):
            yield _Item(*row[: len(_ITEM)])
        if len(rows) < size:
            self.after.pop(name, None)
        if len(rows) < size or self.left() <= 0 or not worthwhile():
            return
        head = tuple(rows[-1][len(_ITEM) :])
        start = looked = max(head, self.after.get(name, head))
        behind = query.where(sa.tuple_(*key) > sa.tuple_(*map(sa.literal, start)))
        rows = self.connection.execute(behind.limit(FURTHER)).all()
        for row in self._looked_at(rows, time.monotonic() + FURTHER_SECONDS):
            looked = tuple(row[len(_ITEM) :])
            yield _Item(*row[: len(_ITEM)])
        if len(rows) == FURTHER or (rows and looked != tuple(rows[-1][len(_ITEM) :])):
            self.after[name], self.plan.more = looked, True
        else:
            self.after.pop(name, None)
            self.plan.more |= start != head

    def _looked_at(self, rows: Sequence[Sequence[Any]], until: float | None = None) -> Iterator[Sequence[Any]]:
        """Rows of items, as long as there is room in the plan and time; at least one batch."""
        for batch in in_batches(rows, _BATCH):
            self._look_at([_Item(*row[: len(_ITEM)]) for row in batch])
            for row in batch:
                if self.left() <= 0:
                    return
                yield row
            if until is not None and time.monotonic() >= until:
                return

    def _spread(self, rule: Rule, item: _Item, copies: int) -> None:
        """Further copies of one item, each where the loss of another one matters least."""
        why = self._why(rule, item)
        if why is None:
            return
        held = self._domains(item)
        lasting = sum(not spot.place.ephemeral for spot in held.values())
        while (short := len(held) < copies) or lasting < rule.lasting:
            chosen = self._best(self._open_to(rule, item, held), held.values(), item, lasting < rule.lasting)
            if chosen is None or (chosen.place.ephemeral and not short):
                self._lack(rule, item, None, self._nowhere(rule, item, held))
                return
            held[chosen.domain] = chosen
            lasting += not chosen.place.ephemeral
            self._want(rule, item, chosen, why)

    def _domains(self, item: _Item) -> dict[str | None, Spot]:
        """By failure domain, as far as that is known, where an item can be read or is on its way to; a lasting place, if any."""
        here = {copy.location for copy in self.copies[item.id] if copy.state == ReplicaState.AVAILABLE and copy.online}
        names = here | self.coming[item.sha256]
        found = [spot for name in sorted(names) if (spot := self.spots.get(name)) is not None and spot.domain is not None]
        return {spot.domain: spot for spot in sorted(found, key=lambda spot: not spot.place.ephemeral)}

    def _open_to(self, rule: Rule, item: _Item, held: Collection[str | None]) -> list[Spot]:
        """Places to which an item may be sent as a further copy, where it is `held` already in some domains."""
        return [
            spot
            for spot in self._fitting(rule, item.type)
            if spot.domain is not None and spot.domain not in held
            if self._why_not(item, spot) is None and spot.why_not(self.cluster, item.type, item.size, rule.priority) is None
        ]

    def _fitting(self, rule: Rule, type: str) -> list[Spot]:
        """Places that took a small item of a type when this plan was begun. They only fill up."""
        if (rule.name, type) not in self.fitting:
            self.fitting[rule.name, type] = [
                spot
                for spot in self.spots.values()
                if spot.place.kind != "s3" and _fits(rule, spot) and spot.why_not(self.cluster, type, 0, rule.priority) is None
            ]
        return self.fitting[rule.name, type]

    def _why_not(self, item: _Item, spot: Spot) -> str | None:
        """Why an item, as it stands with it, is not sent to a place."""
        if spot.name in self.coming[item.sha256]:
            return "it is on its way"
        if any(copy.location == spot.name and copy.state != ReplicaState.LOST for copy in self.copies[item.id]):
            return "a copy stands there"
        until = self.resting.get((item.sha256, spot.name))
        if until is not None:
            self.due.append(until)
            return "it failed or was cancelled lately"
        return None

    def _best(self, spots: Collection[Spot], held: Collection[Spot], item: _Item, lasting: bool) -> Spot | None:
        """Lasting where one is needed, then priority hosts, then far from the other copies, then where there is room."""
        providers: Counter[str | None] = Counter(spot.place.provider for spot in held if spot.place.provider)
        racks: Counter[Any] = Counter((spot.place.provider, spot.place.rack) for spot in held if spot.place.rack)

        def rank(spot: Spot) -> tuple[Any, ...]:
            place = spot.place
            near = providers[place.provider], racks[place.provider, place.rack]
            return (lasting and place.ephemeral, not spot.favoured, *near, -spot.share_left(item.size), spot.name)

        return min(spots, key=rank, default=None)

    def _nowhere(self, rule: Rule, item: _Item, held: Collection[str | None]) -> str:
        """Why no place takes a further copy: the commonest reason."""
        reasons = Counter(
            why
            for spot in self.spots.values()
            if spot.place.kind == "host" and spot.domain not in held and _fits(rule, spot)
            if (why := self._why_not(item, spot) or spot.why_not(self.cluster, item.type, item.size, rule.priority))
        )
        return reasons.most_common(1)[0][0] if reasons else "there is no further host"

    def _placed(self, rule: Rule) -> None:
        """One item at every place that fits."""
        found = self._named(rule)
        self._look_at(found)
        for item in found:
            if not any(copy.state == ReplicaState.AVAILABLE and copy.online for copy in self.copies[item.id]):
                self._lack(rule, item, None, "no copy can be read now")
                continue
            for spot in self._places(rule):
                if self.left() <= 0:
                    return
                if not self._has(item, spot):
                    self._bring(rule, item, spot)
        for name in rule.hosts or ():
            if name not in self.spots:
                self.plan.lacking[f"the hosts file names no {name} with data"] += 1

    def _places(self, rule: Rule) -> Iterator[Spot]:
        """Those a rule names, or else every host that fits; priority hosts first."""
        everywhere = [spot for spot in self.spots.values() if spot.place.active and _fits(rule, spot)]
        chosen = [spot for spot in everywhere if rule.hosts or spot.place.kind == "host"]
        yield from sorted(chosen, key=lambda spot: (not spot.favoured, spot.name))

    def _has(self, item: _Item, spot: Spot) -> bool:
        """Whether a place holds an item, sees it in place, or will."""
        seen = {copy.location for copy in self.copies[item.id] if copy.state == ReplicaState.AVAILABLE and copy.online}
        coming = self.coming[item.sha256]
        return not ({spot.name, *spot.sees}.isdisjoint(seen) and coming.isdisjoint({spot.name, *spot.sees}))

    def _bring(self, rule: Rule, item: _Item, spot: Spot) -> None:
        why_not = self._why_not(item, spot) or spot.why_not(self.cluster, item.type, item.size, rule.priority)
        if why_not is None:
            self._want(rule, item, spot, f"rule {rule.name}")
        else:
            self._lack(rule, item, spot.name, why_not)

    def _cold(self, rule: Rule) -> None:
        """Every sound item that fits, in the buckets."""
        for name in rule.hosts or ():
            spot = self.spots.get(name)
            if spot is None or spot.place.kind != "s3":
                self.plan.lacking[f"{name} is no bucket of the hosts file"] += 1
                continue
            if why_not := spot.why_not(self.cluster, ItemType.NPZ, 0, rule.priority):
                self.plan.lacking[why_not] += 1
                continue
            query = self._lacking_at(rule, name)
            for item in self._look(_list_at(rule, name), query, [items.c.id], lambda: True):
                why = self._why(rule, item)
                if why is not None and self._why_not(item, spot) is None:
                    self._want(rule, item, spot, why)

    def _why(self, rule: Rule, item: _Item) -> str | None:
        """Who wants it. None if it is the snapshot of a live database, which grows, and an earlier one was brought lately."""
        readable = [copy for copy in self.copies[item.id] if copy.state == ReplicaState.AVAILABLE and copy.online]
        if item.type != ItemType.GAME_DB or not readable or not all(copy.path.startswith(_SNAPSHOT) for copy in readable):
            return f"rule {rule.name}"
        live = self.live.get(item.sha256, f"{item.sha256.hex()[:16]} at {readable[0].location}")
        why = _in_short(f"snapshot of {live}, rule {rule.name}")
        if (until := self.lately.get(why)) is not None:
            self.due.append(until)
            return None
        self.lately[why] = self.at + REST_SECONDS[State.DONE]
        return why

    def _want(self, rule: Rule, item: _Item, spot: Spot, why: str) -> None:
        self.plan.wanted.append(Wanted(rule.kind, item.sha256.hex(), spot.name, rule.priority, item.size, why))
        self.planned[item.sha256].add(spot.name)
        self.coming[item.sha256].add(spot.name)
        spot.take(item.size)

    def _lack(self, rule: Rule, item: _Item, target: str | None, why: str) -> None:
        self.plan.lacking[why] += 1
        if len(self.plan.unmet) < UNMET_TOLD:
            self.plan.unmet.append(Unmet(rule.name, item.sha256.hex(), target, why))

    def _short_of(self, rule: Rule, copies: int) -> tuple[sa.Select[*tuple[Any, ...]], list[sa.ColumnElement[int]]]:
        """Items with too few copies and none on its way for this, and what orders them: the fewest first."""
        domain = self._domain()
        count = sa.func.count(sa.distinct(domain))
        lasting = sa.func.count(sa.distinct(sa.case((locations.c.ephemeral.is_(False), domain))))
        counted = (
            sa.select(replicas.c.item_id, count.label("copies"), lasting.label("lasting"))
            .join_from(replicas, locations)
            .where(replicas.c.state == ReplicaState.AVAILABLE, locations.c.liveness == Liveness.ONLINE)
            .group_by(replicas.c.item_id)
            .having(sa.or_(count < copies, lasting < rule.lasting))
            .subquery()
        )
        query = (
            sa.select(*_ITEM)
            .join_from(counted, items, items.c.id == counted.c.item_id)
            .where(items.c.soundness != Soundness.UNSOUND, ~_asked_for(rule.kind), *_about(rule))
        )
        return query, [counted.c.copies, counted.c.lasting, items.c.id]

    def _domain(self) -> sa.ColumnElement[str | None]:
        """A location's failure domain. Most have the obvious one: only the others cost the database a comparison each."""
        obvious = sa.func.coalesce(locations.c.via, locations.c.name)
        others: dict[str | None, list[str]] = defaultdict(list)
        for name, spot in self.spots.items():
            if spot.place.liveness == Liveness.ONLINE and spot.domain != (spot.place.via or name):
                others[spot.domain].append(name)
        cases = [(locations.c.name.in_(names), sa.literal(domain, sa.String)) for domain, names in others.items()]
        return sa.case(*cases, else_=obvious) if cases else obvious

    def _lacking_at(self, rule: Rule, name: str) -> sa.Select[*tuple[Any, ...]]:
        """Sound items that can be read somewhere and are not, archived ones included, at a place, nor on their way there."""
        copy = sa.select(replicas.c.item_id).join(locations, locations.c.id == replicas.c.location_id)
        mine = copy.where(replicas.c.item_id == items.c.id).correlate(items)
        there = mine.where(
            locations.c.name == name, sa.or_(replicas.c.state == ReplicaState.AVAILABLE, replicas.c.reason == ARCHIVED)
        )
        readable = mine.where(replicas.c.state == ReplicaState.AVAILABLE, locations.c.liveness == Liveness.ONLINE)
        return sa.select(*_ITEM).where(
            items.c.soundness == Soundness.SOUND, ~there.exists(), ~_asked_for(rule.kind, name), readable.exists(), *_about(rule)
        )

    def _named(self, rule: Rule) -> list[_Item]:
        """The item of a rule's hash, or the newest that is sound of each type and config that it names."""
        if rule.sha256 is not None:
            return self._items(sa.select(*_ITEM).where(items.c.sha256 == bytes.fromhex(rule.sha256)))
        newest = sa.func.row_number().over(
            partition_by=(items.c.type, items.c.config),
            order_by=(
                sa.func.coalesce(items.c.newest_game, -1).desc(),
                sa.func.coalesce(items.c.samples, items.c.games, -1).desc(),
                items.c.id.desc(),
            ),
        )
        readable = (
            sa.select(sa.literal(1))
            .select_from(replicas)
            .join(locations, locations.c.id == replicas.c.location_id)
            .where(replicas.c.item_id == items.c.id, replicas.c.state == ReplicaState.AVAILABLE)
            .where(locations.c.liveness == Liveness.ONLINE)
            .correlate(items)
        )
        ranked = sa.select(*_ITEM, newest.label("rank")).where(
            items.c.soundness == Soundness.SOUND, readable.exists(), *_about(rule)
        )
        inner = ranked.subquery()
        return self._items(sa.select(*(inner.c[column.name] for column in _ITEM)).where(inner.c.rank == 1).order_by(inner.c.id))

    def _items(self, query: sa.Select[*tuple[Any, ...]]) -> list[_Item]:
        return [_Item(*row) for row in self.connection.execute(query)]


def _list_at(rule: Rule, place: str) -> str:
    """What the list of items that a rule wants at a place is called in a mark."""
    return f"{rule.name} at {place}"


def _in_short(why: str) -> str:
    """A text that fits into a row and still differs from all others."""
    return why if len(why) <= _MAX_WHY else f"{why[: _MAX_WHY - 17]}~{hashlib.sha256(why.encode()).hexdigest()[:16]}"


def _fits(rule: Rule, spot: Spot) -> bool:
    """Whether a rule is about a place."""
    return (rule.hosts is None or spot.name in rule.hosts) and (rule.roles is None or spot.place.role in rule.roles)


def _about(rule: Rule) -> list[sa.ColumnElement[bool]]:
    """What an item has to be."""
    found: list[sa.ColumnElement[bool]] = []
    if rule.type is not None:
        found.append(items.c.type == rule.type.value)
    if rule.config is not None:
        found.append(items.c.config == rule.config)
    if rule.sha256 is not None:
        found.append(items.c.sha256 == bytes.fromhex(rule.sha256))
    return found


def _asked_for(kind: Kind, target: str | None = None) -> sa.Exists:
    """Whether an operation of a kind is open for an item, at any target or at one."""
    query = sa.select(operations.c.id).where(
        operations.c.finished_at.is_(None), operations.c.kind == kind.value, operations.c.sha256 == items.c.sha256
    )
    return (query if target is None else query.where(operations.c.target == target)).correlate(items).exists()


def _withdraw(store: Store, cluster: Cluster, at: float) -> None:
    """End what cannot come about any more: at places that the hosts file does not name, and of snapshots that were retired."""
    open_ones = sa.select(operations.c.id).where(operations.c.finished_at.is_(None), queue.is_idle(at))
    named = [HOME_LOCATION, *(place.name for place in cluster.locations())]
    with store.reading() as connection:
        astray = connection.execute(open_ones.where(operations.c.target.not_in(named)).limit(PLANNED_AT_ONCE)).scalars().all()
        retired = connection.execute(open_ones.where(*_retired()).limit(PLANNED_AT_ONCE)).scalars().all()
    if astray:
        queue.abandon(store, astray, "no_such_target", "the hosts file does not name it, or not as active", at=at)
    for number in retired:
        queue.cancel(store, number, at=at)


def _retired() -> tuple[sa.ColumnElement[bool], ...]:
    """Of operations for snapshots that nobody has any more, as a later one of the same database succeeded them."""
    copy = (
        sa.select(replicas.c.item_id)
        .join(items, items.c.id == replicas.c.item_id)
        .where(items.c.sha256 == operations.c.sha256, replicas.c.state != ReplicaState.LOST)
        .correlate(operations)
    )
    waits = operations.c.state == sa.literal_column(f"'{State.WAITING}'")
    return waits, operations.c.cause == "no_source", operations.c.why.like("snapshot %"), ~copy.exists()
