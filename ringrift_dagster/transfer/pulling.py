"""Having an agent pull: who is offered for what, the orders it is posted, and following them until they end.

An order's id is in the queue before the agent hears of it, and the agent does the same order once: whoever finds the id there later
asks for it, and goes on. What agents say is in `agents`, what sources there are in `offers`.
"""

from __future__ import annotations

import base64
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Event, Lock, Thread
from uuid import uuid4

from pydantic import ValidationError

from ringrift_dagster.cluster.topology import Place
from ringrift_dagster.manifest.inventory import ItemType
from ringrift_dagster.manifest.locations import location
from ringrift_dagster.manifest.plane import HOME_LOCATION, Plane
from ringrift_dagster.manifest.queries import Item, items_of
from ringrift_dagster.manifest.replicas import Made
from ringrift_dagster.transfer import breakers, queue
from ringrift_dagster.transfer.agents import BUSY, AgentClient, AgentRefused, Agents, AgentSilent
from ringrift_dagster.transfer.breakers import Breaker, BreakerState, Way
from ringrift_dagster.transfer.carriers import Begun, News
from ringrift_dagster.transfer.collect import source_names
from ringrift_dagster.transfer.endings import Ended
from ringrift_dagster.transfer.model import ItemProgress, Offer, Order, OrderedItem, Priority, Progress, PullState, TransportName
from ringrift_dagster.transfer.offers import SWARM_BYTES, Goods, Offering, goods_of, receivers_of
from ringrift_dagster.transfer.operations import Brought, Operation
from ringrift_dagster.transfer.placement import Unplaceable, file_name

ORDER_ITEMS = 500
WAIT_SECONDS = 10.0
"""An answer about an order is waited for as long, if there is no news."""
NEWS_SECONDS = 0.05
"""Between two answers about an order: progress of bytes alone is news as well."""
AGAIN_SECONDS = 0.25
SILENCE_SECONDS = 30.0
"""An agent that is restarted has so long until its orders count as failed here; it goes on with them by itself."""
CANCEL_SECONDS = 10.0
"""An agent that is told to end an order is waited for no longer."""
BUSY_SECONDS = 10.0
TRIAL_SECONDS = 5.0
"""Whoever waits for what comes of somebody's trial looks again after so long."""
_FINAL = frozenset({PullState.DONE, PullState.FAILED, PullState.CANCELLED})


@dataclass(frozen=True)
class _Offered:
    """Operations that want the same item, and who is asked for it."""

    operations: tuple[Operation, ...]
    goods: Goods
    offers: tuple[Offer, ...]

    @property
    def first(self) -> Operation:
        """The most urgent of them."""
        return min(self.operations, key=lambda each: (each.rank, each.id))

    @property
    def urgency(self) -> Priority:
        """What the agent is told: what waited for too long is not pushed aside there either."""
        return min(Priority.HIGH, self.first.priority) if self.first.aged else self.first.priority


class _Followed:
    """An order that the agent has, with the operations that wait for its items. Two threads use it."""

    def __init__(self, id: str, operations: Sequence[Operation], items: Mapping[str, Item]) -> None:
        self.id = id
        self.items = items
        self._lock = Lock()
        self._waiting: dict[str, list[Operation]] = defaultdict(list)
        for each in operations:
            self._waiting[each.sha256].append(each)

    def take(self, sha256: str | None = None) -> list[Operation]:
        """The operations that waited for an item, or for any; they do not any more."""
        with self._lock:
            taken = [self._waiting.pop(name, []) for name in ([sha256] if sha256 else list(self._waiting))]
        return [each for operations in taken for each in operations]

    def forget(self, operation: Operation) -> bool:
        """An operation waits no more; returns whether that was the last one."""
        with self._lock:
            left = [each for each in self._waiting.get(operation.sha256, ()) if each.id != operation.id]
            found = len(left) < len(self._waiting.get(operation.sha256, ()))
            self._waiting[operation.sha256] = left
            self._waiting = defaultdict(list, {name: each for name, each in self._waiting.items() if each})
            return found and not self._waiting

    @property
    def over(self) -> bool:
        with self._lock:
            return not self._waiting


class AgentCarrier:
    """Has the agent of `host` pull into the root that `place` is there. `news` hears of ends."""

    def __init__(self, plane: Plane, agents: Agents, owner: str, place: Place, host: str, client: AgentClient, news: News) -> None:
        self._plane = plane
        self._agents = agents
        self._owner = owner
        self._place = place
        self._host = host
        self._client = client
        self._news = news
        self._followed: list[_Followed] = []
        self._cancelling: list[Thread] = []
        self._over = Event()

    def silent(self) -> str | None:
        try:
            self._client.health()
        except (AgentSilent, AgentRefused) as error:
            return str(error)
        return None

    def begin(self, leased: Sequence[Operation], *, at: float) -> Begun:
        begun = Begun()
        fresh = self._adopt(leased, begun)
        offered = self._unblocked(self._offered(fresh, begun), begun, at)
        sources = {each.id: every.offers[0].location for every in offered for each in every.operations}
        borne = queue.draw(self._plane.store, self._owner, sources, [each for every in offered for each in every.operations], at=at)
        left = [(tuple(each for each in every.operations if each.id in borne), every) for every in offered]
        self._post([_Offered(operations, every.goods, every.offers) for operations, every in left if operations], begun, at)
        return begun

    def forget(self, operation: Operation, *, cancelled: bool) -> None:
        for followed in self._followed:
            if followed.forget(operation) and cancelled:
                cancelling = Thread(target=self._cancel, args=(followed.id,), name=f"cancel {followed.id}", daemon=True)
                cancelling.start()
                self._cancelling.append(cancelling)

    def close(self) -> None:
        self._over.set()
        for each in self._cancelling:
            each.join(CANCEL_SECONDS)

    def _adopt(self, leased: Sequence[Operation], begun: Begun) -> list[Operation]:
        """Go on with orders that the agent was given before; returns what it was not."""
        orders: dict[str, list[Operation]] = defaultdict(list)
        fresh = []
        for each in leased:
            (fresh if each.order_id is None else orders[each.order_id]).append(each)
        items = items_of(self._plane.store, {each.sha256 for operations in orders.values() for each in operations})
        for id, operations in orders.items():
            try:
                progress = self._client.get(id)
            except (AgentSilent, AgentRefused) as error:
                begun.ended += [_not_taken(each, items.get(each.sha256), error) for each in operations]
                continue
            known = {item.sha256 for item in progress.items} if progress else set()
            fresh += [each for each in operations if each.sha256 not in known]
            if progress is not None and (mine := [each for each in operations if each.sha256 in known]):
                begun.under_way += mine
                self._follow(_Followed(id, mine, items), progress)
        return fresh

    def _offered(self, operations: Sequence[Operation], begun: Begun) -> list[_Offered]:
        """Operations that somebody can be asked for, with everybody that can."""
        wanted: dict[str, list[Operation]] = defaultdict(list)
        for each in operations:
            wanted[each.sha256].append(each)
        if not wanted:
            return []
        goods = goods_of(self._plane.store, wanted, self._host)
        large = [sha256 for sha256, each in goods.items() if each.item.size >= SWARM_BYTES]
        receivers = receivers_of(self._plane.store, large)
        offering = Offering(self._plane, self._agents, self._place.name, self._host)
        offered = []
        for sha256, here in wanted.items():
            found = goods.get(sha256)
            if found is None:
                begun.ended += [Ended(each, cause="unknown_item", detail="the manifest has no such item") for each in here]
            elif self._place.kind == "host" and (source := found.in_place) is not None:
                brought = Brought(TransportName.SHARED.value, source.location)
                begun.ended += [Ended(each, found.item, brought) for each in here]
            elif offers := offering.of(found, receivers.get(sha256, ())):
                offered.append(_Offered(tuple(here), found, tuple(offers)))
            else:
                why, silent = "no place that answers holds it", bool(found.silent(self._place.name))
                begun.ended += [Ended(each, found.item, cause="no_source", detail=why, silent=silent) for each in here]
        return offered

    def _unblocked(self, offered: Sequence[_Offered], begun: Begun, at: float) -> list[_Offered]:
        """Without ways whose breakers are open. What then has none waits for them; CRITICAL does not, and tries them."""
        shut = breakers.admit(self._plane.store, {_way(offer) for each in offered for offer in each.offers}, at=at)
        passed = []
        for each in offered:
            left = tuple(offer for offer in each.offers if _way(offer) not in shut)
            if left or each.first.priority == Priority.CRITICAL:
                passed.append(_Offered(each.operations, each.goods, left or each.offers))
            else:
                self._wait_for(each, shut, begun, at)
        return passed

    def _wait_for(self, blocked: _Offered, shut: Mapping[Way, Breaker], begun: Begun, at: float) -> None:
        why = f"not asked for a while: {', '.join(sorted({offer.location for offer in blocked.offers}))}"
        old = [each for each in blocked.operations if each.silent_seconds >= queue.SILENT_SECONDS]
        begun.ended += [Ended(each, blocked.goods.item, cause="no_source", detail=why) for each in old]
        waiting = [each for each in blocked.operations if each not in old]
        again = min(_again(shut[_way(offer)], at) for offer in blocked.offers)
        queue.give_back(self._plane.store, self._owner, waiting, at=at, again_in=again, cause="no_source", detail=why, silent=True)

    def _post(self, offered: Sequence[_Offered], begun: Begun, at: float) -> None:
        """Give the agent orders, one or more a priority. Their ids are in the queue before the agent hears of them."""
        urgent: dict[tuple[Priority, bool], list[tuple[OrderedItem, _Offered]]] = defaultdict(list)
        sources = self._sources(offered)
        for each in offered:
            try:
                urgent[each.urgency, each.first.priority > Priority.HIGH].append(
                    (_ordered(each, sources.get(each.goods.item.sha256)), each)
                )
            except (Unplaceable, ValidationError) as error:
                begun.ended += [
                    Ended(operation, each.goods.item, cause="unplaceable", detail=str(error)) for operation in each.operations
                ]
        composed: list[tuple[Order, list[_Offered]]] = []
        for (priority, sparing), items in sorted(urgent.items()):
            for start in range(0, len(items), ORDER_ITEMS):
                part = items[start : start + ORDER_ITEMS]
                composed.append((self._order(priority, sparing, [item for item, _ in part]), [each for _, each in part]))
        held = [operation for _, part in composed for each in part for operation in each.operations]
        numbers = {operation.id: order.id for order, part in composed for each in part for operation in each.operations}
        mine = queue.post(self._plane.store, self._owner, numbers, held) if held else set()
        for order, part in composed:
            operations = [operation for each in part for operation in each.operations if operation.id in mine]
            self._post_one(order, operations, {each.goods.item.sha256: each.goods.item for each in part}, begun, at)

    def _post_one(self, order: Order, operations: Sequence[Operation], items: Mapping[str, Item], begun: Begun, at: float) -> None:
        try:
            progress = self._client.post(order)
        except AgentSilent as error:
            if error.code == BUSY:
                queue.give_back(
                    self._plane.store, self._owner, operations, at=at, again_in=BUSY_SECONDS, cause="agent_refused",
                    detail=error.detail,
                )  # fmt: skip
            else:
                begun.ended += [_not_taken(each, items.get(each.sha256), error) for each in operations]
        except AgentRefused as error:
            begun.ended += [_not_taken(each, items.get(each.sha256), error) for each in operations]
        else:
            begun.under_way += operations
            self._follow(_Followed(order.id, operations, items), progress)

    def _sources(self, offered: Sequence[_Offered]) -> Mapping[str, str]:
        """What the live databases are called that games are to be merged into: those of the pipeline, in the project's home."""
        if self._place.name != HOME_LOCATION:
            return {}
        games = [each.goods.item.sha256 for each in offered if each.goods.item.type == ItemType.GAME_DB]
        return source_names(self._plane.store, games)

    def _order(self, priority: Priority, sparing: bool, items: Sequence[OrderedItem]) -> Order:
        """`sparing`: the share of the disk stays free that the hosts file wants; else the agent's own floor decides alone."""
        hosts = self._plane.cluster.hosts
        outbound = {}
        for name in {offer.location for item in items for offer in item.offers}:
            server = self._serving(name)
            if server in hosts and len(outbound) < 256:
                outbound[name] = hosts[server].bandwidth_mb_s * 1e6
        return Order(
            id=f"order-{uuid4().hex}",
            priority=priority,
            root="tree" if self._place.kind == "host" else self._place.name,
            keep_free=self._to_keep_free() if sparing else 0,
            inbound=hosts[self._host].bandwidth_mb_s * 1e6,
            outbound=outbound,
            items=tuple(items),
        )

    def _serving(self, name: str) -> str | None:
        """The host whose link a location's bytes come over."""
        place = next((place for place in self._plane.cluster.locations() if place.name == name), None)
        return place.hosts[0] if place is not None and place.hosts else None

    def _to_keep_free(self) -> int:
        """Bytes that stay free whoever writes, unless it is urgent."""
        known = location(self._plane.store, self._place.name)
        full_at = self._plane.cluster.thresholds.full_at_percent
        return int((known.disk_total or 0) * (1 - full_at / 100)) if known else 0

    def _follow(self, followed: _Followed, progress: Progress) -> None:
        self._followed = [each for each in self._followed if not each.over]
        self._followed.append(followed)
        Thread(target=self._watch, args=(followed, progress), name=f"follow {followed.id}", daemon=True).start()

    def _watch(self, followed: _Followed, progress: Progress | None) -> None:
        """Tell of every item of an order as it ends, until all have."""
        version: int | None = None
        silent_since: float | None = None
        while True:
            if progress is not None:
                version, silent_since = progress.version, None
                self._tell(followed, progress)
            if followed.over or self._over.wait(NEWS_SECONDS):
                return
            try:
                progress = self._client.get(followed.id, wait=WAIT_SECONDS, version=version)
            except AgentSilent as silence:
                silent_since = silent_since or time.monotonic()
                progress = None
                if time.monotonic() - silent_since > SILENCE_SECONDS:
                    self._end_all(followed, silence)
                self._over.wait(AGAIN_SECONDS)
                continue
            except AgentRefused as refusal:
                self._end_all(followed, refusal)
                continue
            if progress is None:
                self._end_all(followed, AgentRefused(404, "not_found", "the agent does not know its order any more"))

    def _tell(self, followed: _Followed, progress: Progress) -> None:
        ended = [
            _ended(operation, followed.items.get(item.sha256), item)
            for item in progress.items
            if item.state in _FINAL
            for operation in followed.take(item.sha256)
        ]
        if ended and not self._over.is_set():
            self._news.put(ended)

    def _end_all(self, followed: _Followed, why: AgentSilent | AgentRefused) -> None:
        ended = [_not_taken(each, followed.items.get(each.sha256), why) for each in followed.take()]
        if ended and not self._over.is_set():
            self._news.put(ended)

    def _cancel(self, id: str) -> None:
        try:
            self._client.cancel(id)
        except (AgentSilent, AgentRefused):
            return  # it ends by itself; nobody waits for it


def _ordered(offered: _Offered, source: str | None) -> OrderedItem:
    """`source`: the live database that its games are merged into. Raises Unplaceable and ValidationError."""
    item, chunks = offered.goods.item, offered.goods.chunks
    return OrderedItem.model_validate(
        {
            "sha256": item.sha256,
            "size": item.size,
            "type": item.type,
            "name": source or file_name(item, offered.goods.suffix),
            "merge": source is not None,
            "config": item.config,
            "chunks": None if chunks is None else base64.b64encode(chunks).decode(),
            "offers": offered.offers,
        }
    )


def _ended(operation: Operation, item: Item | None, told: ItemProgress) -> Ended:
    """What an agent says of an item at the end."""
    brought = Brought(told.transport, told.source, _moved(told), told.seconds, told.retries)
    if told.state == PullState.DONE:
        keeps = told.path is not None and told.merged is None and told.verified_at is not None
        made = Made(operation.sha256, told.path or "", told.mtime, told.verified_at or 0.0) if keeps else None
        return Ended(operation, item, brought, made, outcomes=told.offers, liars=told.benched)
    cause = told.cause or ("cancelled" if told.state == PullState.CANCELLED else "interrupted")
    return Ended(
        operation, item, brought, None, cause, told.detail or "", told.next_action, outcomes=told.offers, liars=told.benched
    )


def _moved(told: ItemProgress) -> int:
    """Bytes that came from somewhere for this item."""
    return sum(offer.bytes for offer in told.offers) if told.offers else (told.bytes_done if told.transport else 0)


def _not_taken(operation: Operation, item: Item | None, why: AgentSilent | AgentRefused) -> Ended:
    cause = "agent_silent" if isinstance(why, AgentSilent) else "agent_refused"
    return Ended(operation, item, cause=cause, detail=str(why), silent=isinstance(why, AgentSilent))


def _way(offer: Offer) -> Way:
    return Way(offer.location, offer.transport)


def _again(breaker: Breaker, at: float) -> float:
    """Seconds after which a shut way may be open."""
    if breaker.state == BreakerState.TRIAL:
        return TRIAL_SECONDS
    return max((breaker.retry_at or at) - at, 1.0)
