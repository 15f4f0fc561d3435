"""What stands between a fetch and whoever wants it: its turn, its limits, and being told how far it is."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

from ringrift_dagster.transfer.model import Offer, TransportName
from ringrift_dagster.transfer.part import PartFile

TELL_SECONDS = 0.25


class Control(Protocol):
    """What whoever wants the item has to say while it is fetched. Called from several threads at once."""

    def cancelled(self) -> bool:
        """Nobody wants it any more."""
        ...

    def wait_turn(self) -> bool:
        """Return when nothing more urgent is under way; False when it was cancelled meanwhile. Called between chunks."""
        ...

    def preempted(self) -> bool:
        """Something more urgent waits: what is under way ends after this chunk, and `wait_turn` is called."""
        ...

    def take(self, location: str, n: int) -> None:
        """Return when `n` bytes from a location may flow."""
        ...

    def rate(self, locations: Iterable[str]) -> AbstractContextManager[Mapping[str, float | None]]:
        """Bytes a second that may come from each of these, for one call of a transport that has to be told; None: no limit.

        The call lasts as long as the context. What it brings is taken as well.
        """
        ...

    def progress(self, bytes_done: int, transport: TransportName, location: str, retries: int) -> None:
        """How far it is; told a few times a second."""
        ...


class Stopped(Exception):
    """It was cancelled."""


class Watcher:
    """The control of one fetch, and the counts that go through it. Safe to use from several threads."""

    def __init__(self, part: PartFile, control: Control) -> None:
        self._part = part
        self._control = control
        self._lock = threading.Lock()
        self._told = 0.0
        self.retries = 0

    def turn(self) -> None:
        """Wait for the turn. Raises Stopped, and what the control raises."""
        if self._control.cancelled() or not self._control.wait_turn():
            raise Stopped

    def cancelled(self) -> bool:
        return self._control.cancelled()

    def preempted(self) -> bool:
        return self._control.preempted()

    def take(self, location: str, n: int) -> None:
        self._control.take(location, n)

    def rate(self, locations: Iterable[str]) -> AbstractContextManager[Mapping[str, float | None]]:
        return self._control.rate(locations)

    def retried(self) -> None:
        """Something has to be asked for again."""
        with self._lock:
            self.retries += 1

    def tell(self, bytes_done: int, offer: Offer, *, now: bool = False) -> None:
        """Tell how far it is, unless that was done just before."""
        at = time.monotonic()
        with self._lock:
            if not now and at - self._told < TELL_SECONDS:
                return
            self._told = at
        self._control.progress(bytes_done, offer.transport, offer.location, self.retries)
