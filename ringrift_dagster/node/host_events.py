"""An agent's part in events: its outbox and what pushes it, what the coordinator told this host, and on the coordinator's own host
the inbox and what delivers from it. No HTTP server here.

Threads wait for something to do, or for the next attempt to be due; they never look in a loop.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge
from pydantic import TypeAdapter, ValidationError
from sqlalchemy.exc import SQLAlchemyError

from ringrift_dagster.cluster.hosts import HostsFileError
from ringrift_dagster.cluster.topology import Cluster
from ringrift_dagster.events import inbox
from ringrift_dagster.events.delivered import Delivered, Delivery
from ringrift_dagster.events.delivery import Addresses, Deliverer
from ringrift_dagster.events.inbox import OutOfOrder, Receipt
from ringrift_dagster.events.model import Event, EventType, ModelPromoted
from ringrift_dagster.events.outbox import Batch, Outbox
from ringrift_dagster.events.posting import Poster, PostFailed
from ringrift_dagster.events.webhooks import configured
from ringrift_dagster.home import Home
from ringrift_dagster.manifest.plane import HOSTS_VARIABLE, load_cluster
from ringrift_dagster.manifest.store import Store, StoreError, default_url
from ringrift_dagster.models.manifest import Current, SignedManifest, note, note_signed
from ringrift_dagster.models.publishing.published_set import Verifier
from ringrift_dagster.models.publishing.reasons import PublishingRefused
from ringrift_dagster.transfer.metrics import QueueCollector

PATH = "/v1/inbox"
BACK_OFF = (0.5, 60.0)
"""Seconds before the second attempt to push, doubled with each, and at most."""
IDLE_SECONDS = 60.0
DELIVER_SECONDS = 0.25
"""Between two looks whether something has to be delivered."""
PRUNE_SECONDS = 3600.0
_TROUBLE = (PostFailed, OutOfOrder, OSError, StoreError, SQLAlchemyError, ValueError)
_RECEIPT = TypeAdapter(Receipt)

log = logging.getLogger(__name__)


class Inbox:
    """The coordinator's manifest, as far as events go: opened when it is needed, and again if that failed."""

    def __init__(self, home: Path) -> None:
        self.home = Home(home)
        self._store: Store | None = None
        self._lock = threading.Lock()

    def store(self) -> Store:
        """The manifest. Raises StoreError."""
        with self._lock:
            if self._store is None:
                self._store = Store.open(default_url(self.home))
            return self._store

    def receive(self, body: bytes) -> Receipt:
        """Take in a batch as a host sends it. Raises ValidationError, OutOfOrder, ValueError, StoreError and SQLAlchemyError."""
        return inbox.receive(self.store(), Batch.model_validate_json(body), at=time.time())

    def close(self) -> None:
        with self._lock:
            if self._store is not None:
                self._store.close()


class HostEvents:
    """What an agent has to do with events. Use as a context manager to have them pushed and delivered.

    `coordinator` is the URL of the agent with the inbox; where `home` is given, the inbox is here. With neither, events wait. The
    host's model manifest is kept in `tree`; with `verify`, only one that was signed is.
    """

    def __init__(
        self,
        name: str,
        state: Path,
        *,
        coordinator: str | None = None,
        home: Path | None = None,
        token: str | None = None,
        tree: Path | None = None,
        verify: Verifier | None = None,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self.name = name
        self.coordinator = coordinator
        self._tree = tree
        self._verify = verify
        self.inbox = Inbox(home) if home is not None else None
        self.outbox = Outbox(state / "events.db")
        self.delivered = Delivered(state / "delivered.db")
        self.failures: dict[str, str] = {}
        registry = registry or CollectorRegistry()
        self.counted = _Metrics(registry, self.outbox)
        if self.inbox is not None:
            registry.register(QueueCollector(self.inbox.store))
        self._token = token
        self._poster = Poster()
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._push, args=(send,), name="push events") for send in self._senders()]
        if self.inbox is not None:
            self._threads.append(threading.Thread(target=self._deliver, args=(self.inbox,), name="deliver events"))

    def __enter__(self) -> HostEvents:
        for thread in self._threads:
            thread.daemon = True
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self.outbox.wake()
        for thread in self._threads:
            thread.join(5.0)
        self._poster.close()
        self.delivered.close()
        if not any(thread.is_alive() for thread in self._threads):
            self.outbox.close()
            if self.inbox is not None:
                self.inbox.close()

    def health(self) -> dict[str, Any]:
        """How it stands, for people."""
        waiting = self.outbox.waiting()
        return {
            "coordinator": "here" if self.inbox is not None else self.coordinator,
            "waiting": waiting.entries,
            "oldest": waiting.oldest,
            "acknowledged": waiting.acknowledged,
            "acknowledged_at": waiting.acknowledged_at,
            "failures": sorted(self.failures.values()),
        }

    def note_models(self, delivery: Delivery) -> None:
        """Keep this host's model manifest: what was promoted is current from now on. Raises OSError.

        Where signatures are checked the manifest that came with the promotion takes its place, or nothing does.
        """
        for told in delivery.events:
            if told.get("type") == EventType.MODEL_PROMOTED and self._tree is not None:
                with suppress(ValidationError):
                    event = Event.model_validate(told)
                    payload: Any = event.payload
                    if self._verify is not None:
                        self._note_signed(self._tree, payload, self._verify)
                        continue
                    current = Current(
                        sha256=payload.sha256, promoted_at=event.at, file=payload.path, elo=payload.elo, model=payload.model
                    )
                    note(self._tree, payload.config, current)

    def _note_signed(self, tree: Path, payload: ModelPromoted, verify: Verifier) -> None:
        try:
            if payload.manifest is None or payload.signature is None:
                raise PublishingRefused("no_signature", f"the promotion of a model of {payload.config} came without one")
            note_signed(tree, SignedManifest(payload.manifest.encode(), bytes.fromhex(payload.signature)), verify)
            self.failures.pop("models", None)
        except PublishingRefused as error:
            self.counted.refused.labels(error.reason).inc()
            self._told("models", f"a promotion is refused: {error}")

    def _senders(self) -> list[Callable[[bytes], Receipt]]:
        """How a batch gets to the inbox; empty if nobody said where that is."""
        if self.inbox is not None:
            return [self.inbox.receive]
        return [self._send] if self.coordinator is not None else []

    def _send(self, body: bytes) -> Receipt:
        answer = self._poster.post(f"{(self.coordinator or '').rstrip('/')}{PATH}", body, token=self._token)
        return receipt(answer)

    def _push(self, send: Callable[[bytes], Receipt]) -> None:
        """Push what waits, the oldest first; the next batch only when the one before is acknowledged."""
        pause, longest = BACK_OFF
        while not self._stopped.is_set():
            if not self.outbox.wait(IDLE_SECONDS, self._stopped):
                continue
            try:
                self._push_once(send)
                self.failures.pop("push", None)
                pause = BACK_OFF[0]
            except _TROUBLE as error:
                self._told("push", f"events wait for the coordinator: {_short(error)}")
                self.counted.failures.inc()
                self._stopped.wait(pause * (0.5 + random.random()))
                pause = min(pause * 2, longest)

    def _push_once(self, send: Callable[[bytes], Receipt]) -> None:
        batch = self.outbox.batch(self.name)
        if batch is None:
            return
        before = self.outbox.waiting().acknowledged
        got = send(batch)
        if got.epoch != self.outbox.epoch or got.acknowledged <= before:
            raise ValueError("the coordinator acknowledged nothing of what it was sent")
        self.outbox.acknowledge(got.epoch, got.acknowledged, at=time.time())
        self.counted.pushed.inc(got.acknowledged - before)

    def _deliver(self, here: Inbox) -> None:
        """Deliver what the coordinator has to tell, as long as the agent runs."""
        pause = DELIVER_SECONDS
        pruned = time.monotonic()
        while not self._stopped.wait(pause):
            try:
                with Deliverer(here.store(), self._poster) as deliverer:
                    addresses = _Addresses(here.home, self._token)
                    while not self._stopped.wait(DELIVER_SECONDS):
                        deliverer.step(addresses.now())
                        self.failures.pop("deliver", None)
                        pause = DELIVER_SECONDS
                        if time.monotonic() - pruned > PRUNE_SECONDS:
                            pruned = time.monotonic()
                            inbox.prune(here.store(), at=time.time())
            except _TROUBLE as error:
                self._told("deliver", f"nothing is delivered: {_short(error)}")
                pause = min(pause * 2, BACK_OFF[1])

    def _told(self, what: str, failure: str) -> None:
        """Remember what is wrong; the log has it once, however often it is tried."""
        if failure != self.failures.get(what):
            log.warning("%s", failure)
        self.failures[what] = failure


class _Addresses:
    """Where targets are reached, by a hosts file that may change."""

    def __init__(self, home: Home, token: str | None) -> None:
        self._home = home
        self._token = token
        self._path = Path(os.environ.get(HOSTS_VARIABLE) or home.root / "distributed_hosts.yaml")
        self._read_at: int | None = -1
        self._known = Addresses({}, token)

    def now(self) -> Addresses:
        """As the hosts file has it; if it cannot be read now, as it had it."""
        changed = self._path.stat().st_mtime_ns if self._path.exists() else None
        if changed != self._read_at:
            self._read_at = changed
            try:
                self._known = addresses_of(load_cluster(self._home), self._token)
            except (HostsFileError, OSError) as error:
                log.warning("the hosts file cannot be read: %s", _short(error))
        return self._known


class _Metrics:
    """Counters of events, in the agent's registry."""

    def __init__(self, registry: CollectorRegistry, outbox: Outbox) -> None:
        self.accepted = Counter("ringrift_node_events_accepted", "Events taken into the outbox.", ["type"], registry=registry)
        self.dead = Counter("ringrift_node_events_dead", "Told, and not understood.", ["reason"], registry=registry)
        self.pushed = Counter("ringrift_node_events_pushed", "Entries that the coordinator acknowledged.", registry=registry)
        self.refused = Counter(
            "ringrift_node_promotions_refused",
            "Promotions that were told without a valid signature.",
            ["reason"],
            registry=registry,
        )
        self.failures = Counter("ringrift_node_event_push_failures", "Pushes that failed.", registry=registry)
        waiting = Gauge("ringrift_node_events_waiting", "Entries of the outbox.", registry=registry)
        waiting.set_function(lambda: outbox.waiting().entries)


def addresses_of(cluster: Cluster, token: str | None) -> Addresses:
    """Where the hosts of a hosts file and its webhooks are reached."""
    agents = {name: host.agent_url for name, host in cluster.hosts.items() if host.active and host.agent_url}
    return Addresses(agents, token, configured(cluster))


def receipt(answer: bytes) -> Receipt:
    """What an inbox answered. Raises ValueError."""
    try:
        return _RECEIPT.validate_json(answer)
    except ValidationError:
        raise ValueError("what answers there is no inbox") from None


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
