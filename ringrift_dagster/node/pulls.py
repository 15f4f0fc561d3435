"""The orders an agent was given, and whose turn it is: slots, urgency, bandwidth, progress. How items come is in `bringing`.

An order is durable before it is answered, and goes on after a crash as if nothing had been. The more urgent goes first, then the
older. While a CRITICAL item is being fetched, all others pause between two chunks; while a HIGH one is, those that are neither.
"""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ringrift_dagster.manifest.inventory import CHUNK_SIZE, NoAnswer
from ringrift_dagster.node.bringing import NEXT_ACTIONS, Bringer, Wish, failed
from ringrift_dagster.node.metrics import Metrics
from ringrift_dagster.node.pull_store import PullStore, waiting
from ringrift_dagster.node.roots import TREE, Root
from ringrift_dagster.node.transports import Transports
from ringrift_dagster.transfer.bandwidth import Links
from ringrift_dagster.transfer.model import ItemProgress, Order, Priority, Progress, PullState, TransportName

LARGE_BYTES = CHUNK_SIZE
"""An item of so many bytes is brought by itself; smaller ones come in batches."""
SLOTS = {True: 4, False: 2}
"""Large items, and batches of small ones, that are brought at once."""
URGENT_SLOTS = {True: 5, False: 3}
"""The same of HIGH and CRITICAL together, and once more of CRITICAL alone. What they push aside keeps its slot meanwhile."""
BATCH_ITEMS = 64
BATCH_BYTES = 32 << 20
MAX_OPEN_ITEMS = 100_000
"""Of all open orders together."""
MAX_LISTED = 1000
"""Orders that ended and are still told of in the list of all."""
HOUSEKEEPING_SECONDS = 5.0
PRUNE_SECONDS = 3600.0
STOP_SECONDS = 3.0

_FINAL = frozenset({PullState.DONE, PullState.FAILED, PullState.CANCELLED})
_log = logging.getLogger(__name__)


class Busy(Exception):
    """More is ordered than an agent takes."""


class UnknownRoot(Exception):
    """The agent has no root of that name."""


@dataclass(eq=False)
class _Order:
    """An order that has not ended; `left` items are not final."""

    number: int
    id: str
    priority: Priority
    root: str
    keep_free: int
    received_at: float
    version: int
    items: list[_Item] = field(default_factory=list)
    left: int = 0
    finished_at: float | None = None

    def state(self) -> PullState:
        states = {item.progress.state for item in self.items}
        if self.left:
            return PullState.WAITING if states == {PullState.WAITING} else PullState.RUNNING
        return next(state for state in (PullState.FAILED, PullState.CANCELLED, PullState.DONE) if state in states)

    def progress(self) -> Progress:
        return Progress(
            version=self.version,
            id=self.id,
            priority=self.priority,
            state=self.state(),
            items=tuple(item.progress for item in self.items),
            received_at=self.received_at,
            finished_at=self.finished_at,
        )

    def summary(self) -> dict[str, Any]:
        done = sum(item.progress.state == PullState.DONE for item in self.items)
        told = {"id": self.id, "priority": int(self.priority), "state": self.state(), "version": self.version}
        return told | {
            "received_at": self.received_at, "finished_at": self.finished_at, "items": len(self.items), "done": done,
        }  # fmt: skip


@dataclass(eq=False, slots=True)
class _Item:
    """One item of an open order. Its offers and its chunk table stay on disk until its turn has come."""

    order: _Order
    position: int
    progress: ItemProgress
    cancelled: bool = False

    def __lt__(self, other: _Item) -> bool:
        return self._turn < other._turn

    @property
    def key(self) -> tuple[str, str]:
        """What is the same is not fetched twice at once."""
        return self.order.root, self.progress.sha256

    @property
    def _turn(self) -> tuple[int, int, int]:
        return self.order.priority, self.order.number, self.position


@dataclass(eq=False)
class _Task:
    """One large item, or a batch of small ones, on the way in a thread of its own.

    `followers` want the same content: they are looked at again when it ends, and until then lend it their urgency.
    """

    items: list[_Item]
    large: bool
    priority: Priority
    fetching: bool = True
    followers: list[_Item] = field(default_factory=list)
    thread: threading.Thread | None = None

    @property
    def urgent(self) -> bool:
        return self.priority <= Priority.HIGH


class Pulls:
    """The orders of one agent, remembered in `state`. Use as a context manager to have them carried out.

    `min_free_bytes` stay free on every disk. Methods raise NoAnswer where nothing can be remembered.
    """

    def __init__(
        self, roots: Mapping[str, Root], state: Path, transports: Transports, *, min_free_bytes: int, metrics: Metrics
    ) -> None:
        self.links = Links()
        self.transports = transports
        self._roots = roots
        self._path = state / "pulls.db"
        self._metrics = metrics
        self._bringer = Bringer(transports, min_free_bytes=min_free_bytes)
        self._changed = threading.Condition(threading.RLock())
        self._submitting = threading.Lock()
        self._store: PullStore | None = None
        self._orders: dict[str, _Order] = {}
        self._waiting: dict[bool, list[_Item]] = {True: [], False: []}
        self._tasks: set[_Task] = set()
        self._holders: dict[tuple[str, str], _Task] = {}
        self._unsaved: list[_Item] = []
        self._stopping = False
        self._ending = threading.Event()
        self._housekeeper = threading.Thread(target=self._keep_house, name="pulls", daemon=True)

    def __enter__(self) -> Pulls:
        self._housekeeper.start()
        return self

    def __exit__(self, *_: object) -> None:
        """What is under way stops where it is, and goes on after the next start."""
        with self._changed:
            self._stopping = True
            self._ending.set()
            self._changed.notify_all()
            threads = [task.thread for task in self._tasks if task.thread is not None]
        deadline = time.monotonic() + STOP_SECONDS
        for thread in (*threads, self._housekeeper):
            thread.join(max(0.0, deadline - time.monotonic()))
        with self._changed:
            store, self._store = self._store, None
        if store is not None:
            store.close()

    def submit(self, order: Order) -> Progress:
        """Take an order, durably, and tell how it stands. The same again changes nothing.

        Raises Conflict when the id is known with another body, UnknownRoot, Busy.
        """
        with self._submitting, self._remembered() as store:
            if order.root not in self._roots and not store.knows(order):
                raise UnknownRoot(order.root)
            with self._changed:
                open_items = sum(each.left for each in self._orders.values())
            if open_items + len(order.items) > MAX_OPEN_ITEMS and not store.knows(order):
                raise Busy(f"{open_items} items are under way or waiting")
            now = time.time()
            number = store.add(order, at=now)
            if number is not None:
                taken = _Order(number, order.id, order.priority, order.root, order.keep_free, now, 1)
                with self._changed:
                    self._take_in(taken, [waiting(item) for item in order.items], order.inbound, order.outbound)
                    self._fill()
        progress = self.get(order.id)
        assert progress is not None
        return progress

    def get(self, id: str) -> Progress | None:
        """How an order stands; None if none of that id is known."""
        with self._changed:
            if (order := self._orders.get(id)) is not None:
                return order.progress()
        with self._remembered() as store:
            return store.progress(id)

    def version(self, id: str) -> int | None:
        """The version of an order that has not ended. Without the lock: an event loop that asks waits for no disk."""
        order = self._orders.get(id)
        return None if order is None else order.version

    def list(self) -> list[dict[str, Any]]:
        """Orders without their items: those that have not ended, the oldest first, then those that have, the last first."""
        with self._remembered() as store, self._changed:
            return [order.summary() for order in self._orders.values()] + store.ended(MAX_LISTED)

    def cancel(self, id: str) -> Progress | None:
        """End an order: nothing of it is begun any more, what is under way stops, what is done stays. None if it is unknown.

        What is left of it on a root that does not answer stays until the order is forgotten.
        """
        ended: list[_Item] = []
        with self._remembered() as store:
            with self._changed:
                order = self._orders.get(id)
                running = {item for task in self._tasks for item in task.items}
                for item in () if order is None else order.items:
                    item.cancelled = item.progress.state not in _FINAL
                    if item.cancelled and item not in running:
                        self._end(item, failed(item.progress, "cancelled", ""))
                        ended.append(item)
                self._save()
                self._changed.notify_all()
                left = _Task([item for item in ended if item.key not in self._holders], large=False, priority=Priority.COLD_STORAGE)
                self._holders |= {item.key: left for item in left.items}
            try:
                root = None if order is None else self._roots.get(order.root)
                if left.items and root is not None and root.check() is None:
                    for item in left.items:
                        self._clean(store, item)
            finally:
                with self._changed:
                    self._release(left)
                    self._fill()
        return self.get(id)

    def counts(self) -> Counter[tuple[str, str]]:
        """Items of open orders by state and priority."""
        with self._changed:
            items = [item for order in self._orders.values() for item in order.items]
            return Counter((item.progress.state.value, item.order.priority.name) for item in items)

    # Everything below that is not said to be otherwise is called by who holds the lock `_changed`.

    def _take_in(self, order: _Order, items: Iterable[ItemProgress], inbound: float | None, outbound: Mapping[str, float]) -> None:
        """Enter an order among the open ones. What the newest order says of a link holds."""
        order.items = [_Item(order, position, progress) for position, progress in enumerate(items)]
        open_items = [item for item in order.items if item.progress.state not in _FINAL]
        order.left = len(open_items)
        self._orders[order.id] = order
        for item in open_items:
            self._queue(item)
        self.links.set("in", inbound)
        for location, rate in outbound.items():
            self.links.set(f"from {location}", rate)

    def _queue(self, item: _Item) -> None:
        heapq.heappush(self._waiting[item.progress.size >= LARGE_BYTES], item)

    def _release(self, task: _Task) -> None:
        """Others may have what it had: those that follow it are in line again."""
        for key in {item.key for item in task.items}:
            del self._holders[key]
        for item in task.followers:
            self._queue(item)

    def _fill(self) -> None:
        """Start whatever may start now."""
        for large in (True, False):
            while not self._stopping and (task := self._next(large)) is not None:
                self._tasks.add(task)
                for item in task.items:
                    self._update(item, waiting(item.progress).model_copy(update={"state": PullState.RUNNING}))
                task.thread = threading.Thread(target=self._run, args=(task,), name="pull", daemon=True)
                task.thread.start()
        self._changed.notify_all()

    def _next(self, large: bool) -> _Task | None:
        """The task whose turn it is, if it may start."""
        queue, task, size = self._waiting[large], None, 0
        while queue:
            item = queue[0]
            if item.progress.state in _FINAL:
                heapq.heappop(queue)
                continue
            if (holder := self._holders.get(item.key)) is not None:
                holder.followers.append(heapq.heappop(queue))
                holder.priority = min(holder.priority, item.order.priority)
                continue
            size += item.progress.size
            if task is None and self._may_start(item.order.priority, large):
                task = _Task([], large, item.order.priority)
            elif (
                task is None
                or large
                or item.order is not task.items[0].order
                or len(task.items) == BATCH_ITEMS
                or size > BATCH_BYTES
            ):
                break
            task.items.append(heapq.heappop(queue))
            self._holders[item.key] = task
        return task

    def _may_start(self, priority: Priority, large: bool) -> bool:
        """Of the urgent only what is as urgent counts: no number of HIGH ones keeps a CRITICAL one waiting."""
        if self._goes_after(priority):
            return False
        running = [task for task in self._tasks if task.large == large]
        if priority <= Priority.HIGH:
            return sum(task.priority <= priority for task in running) < URGENT_SLOTS[large]
        return len(running) < SLOTS[large]

    def _goes_after(self, priority: Priority) -> bool:
        """Whether something urgent, and more so than this, is being fetched."""
        return any(task.urgent and task.fetching and task.priority < priority for task in self._tasks)

    def _has_to_wait(self, task: _Task) -> bool:
        return self._goes_after(task.priority)

    def _run(self, task: _Task) -> None:
        """A thread: without the lock."""
        try:
            results = self._bring(task)
        except Exception as error:
            _log.exception("a pull failed")
            results = [failed(item.progress, "failed", f"{type(error).__name__}: {error}") for item in task.items]
        with self._changed:
            self._tasks.discard(task)
            for item, result in zip(task.items, results, strict=True):
                if result.state != PullState.CANCELLED or item.cancelled:  # else the agent ends: it goes on after the next start
                    self._end(item, result)
            self._release(task)
            self._save()
            self._fill()

    def _bring(self, task: _Task) -> list[ItemProgress]:
        """Without the lock."""
        order, store = task.items[0].order, self._store
        root = self._roots.get(order.root)
        if root is None:
            return [failed(item.progress, "unplaceable", f"there is no root {order.root}") for item in task.items]
        if store is None:
            return [failed(item.progress, "cancelled", "") for item in task.items]
        ordered = store.items(order.number, [item.position for item in task.items])
        wishes = [Wish(each, order.keep_free, _Control(self, task, item)) for each, item in zip(ordered, task.items, strict=True)]
        results = self._bringer.bring(root, wishes)
        for item, result in zip(task.items, results, strict=True):
            if item.cancelled and result.state == PullState.CANCELLED:
                self._clean(store, item)
        return results

    def _update(self, item: _Item, progress: ItemProgress) -> None:
        item.progress = progress
        item.order.version += 1
        self._changed.notify_all()

    def _end(self, item: _Item, progress: ItemProgress) -> None:
        self._update(item, progress)
        item.order.left -= 1
        if item.order.left == 0:
            item.order.finished_at = time.time()
        self._unsaved.append(item)
        self._metrics.pulled(progress)

    def _save(self) -> None:
        """Write down what ended. What cannot be written now is tried again, and after a crash found to be here already."""
        if self._store is None or not self._unsaved:
            return
        orders = {item.order.id: item.order for item in self._unsaved if item.order.left == 0}
        changes = [(item.order.number, item.position, item.progress) for item in self._unsaved]
        try:
            self._store.record(changes, [(order.number, order.progress()) for order in orders.values()])
        except OSError as error:
            _log.warning("cannot write down how pulls ended: %s", error)
            return
        self._unsaved.clear()
        for id in orders:
            del self._orders[id]

    def _clean(self, store: PullStore, item: _Item) -> None:
        """Without the lock: a disk may take its time."""
        if (root := self._roots.get(item.order.root)) is not None:
            self._bringer.clean(root, *store.items(item.order.number, [item.position]))

    def _keep_house(self) -> None:
        """A thread: without the lock."""
        pruned = float("-inf")
        while not self._stopping:
            try:
                with self._remembered() as store:
                    with self._changed:
                        self._save()
                    if time.monotonic() - pruned >= PRUNE_SECONDS:
                        self._prune(store)
                        pruned = time.monotonic()
            except NoAnswer as refusal:
                _log.debug("pulls cannot be remembered: %s", refusal)
            self._ending.wait(HOUSEKEEPING_SECONDS)

    def _prune(self, store: PullStore) -> None:
        """Without the lock."""
        forgotten = store.prune(at=time.time())
        with self._changed:
            wanted = {item.key for order in self._orders.values() for item in order.items}
        for name, item in forgotten:
            if (name, item.sha256) not in wanted and (root := self._roots.get(name)) is not None:
                self._bringer.clean(root, item)

    @contextmanager
    def _remembered(self) -> Iterator[PullStore]:
        """Also without the lock. Raises NoAnswer for what the file system refuses."""
        try:
            yield self._opened()
        except OSError as error:
            detail = f"{error.filename or self._path}: {error.strerror or error}"
            raise NoAnswer(self._roots[TREE].location, "disk_error", detail) from error

    def _opened(self) -> PullStore:
        """Also without the lock. What was open when the agent ended goes on. Raises NoAnswer and OSError."""
        with self._changed:
            if self._store is not None:
                return self._store
            tree = self._roots[TREE]
            if self._path.is_relative_to(tree.tree.root) and (missing := tree.check()) is not None:
                raise missing  # where nothing is mounted, nothing is to be written
            if self._stopping:
                raise OSError(None, "the agent ends", str(self._path))
            self._store = PullStore(self._path)
            for each in self._store.open_orders():
                head = each.head
                order = _Order(each.number, head.id, head.priority, head.root, head.keep_free, each.received_at, each.version)
                self._take_in(order, map(_interrupted, each.progress), head.inbound, head.outbound)
            self._fill()
            return self._store


class _Control:
    """What one item's fetching is told, and tells."""

    def __init__(self, pulls: Pulls, task: _Task, item: _Item) -> None:
        self._pulls = pulls
        self._task = task
        self._item = item

    def cancelled(self) -> bool:
        return self._item.cancelled or self._pulls._stopping

    def wait_turn(self) -> bool:
        with self._pulls._changed:
            self._pulls._changed.wait_for(lambda: self.cancelled() or not self._pulls._has_to_wait(self._task))
        return not self.cancelled()

    def preempted(self) -> bool:
        with self._pulls._changed:
            return self._pulls._has_to_wait(self._task)

    def take(self, location: str, n: int) -> None:
        self._pulls.links.take(_links(location), n, self._task.priority, self.cancelled)

    @contextmanager
    def rate(self, locations: Iterable[str]) -> Iterator[Mapping[str, float | None]]:
        with self._pulls.links.share({location: _links(location) for location in locations}) as shares:
            yield shares

    def progress(self, bytes_done: int, transport: TransportName, location: str, retries: int) -> None:
        told = {"bytes_done": bytes_done, "transport": transport, "source": location, "retries": retries}
        with self._pulls._changed:
            if self._item.progress.state == PullState.RUNNING:
                self._pulls._update(self._item, self._item.progress.model_copy(update=told))

    def verifying(self) -> None:
        with self._pulls._changed:
            self._task.fetching = False
            self._pulls._update(self._item, self._item.progress.model_copy(update={"state": PullState.VERIFYING}))
            self._pulls._fill()


def _links(location: str) -> tuple[str, str]:
    return "in", f"from {location}"


def _interrupted(progress: ItemProgress) -> ItemProgress:
    if progress.state in _FINAL:
        return progress
    return progress.model_copy(update={"cause": "interrupted", "next_action": NEXT_ACTIONS["interrupted"]})
