"""Filling a part from ranked offers: which source is asked for which chunk, what is done when one fails, lies or stalls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from ringrift_dagster.transfer.model import OfferOutcome, OrderedItem, TransportName
from ringrift_dagster.transfer.part import PartFile
from ringrift_dagster.transfer.transports.protocol import RangeTransport, WholeTransport


class Control(Protocol):
    """What whoever wants the item says while it is fetched. Called from several threads."""

    def cancelled(self) -> bool: ...
    def wait_turn(self) -> bool: ...
    def preempted(self) -> bool: ...
    def take(self, location: str, n: int) -> None: ...
    def rate(self, location: str) -> float | None: ...
    def progress(self, bytes_done: int, transport: TransportName, location: str, retries: int) -> None: ...


@dataclass(frozen=True)
class Fetched:
    """How an item came. `transport` and `source`: what brought most of its bytes, None if nothing was missing."""

    transport: TransportName | None
    source: str | None
    bytes: int
    resent: int
    retries: int
    seconds: float
    offers: tuple[OfferOutcome, ...]
    benched: tuple[str, ...]


class FetchFailed(Exception):
    """The item could not be had; verified chunks stay in the part. `cause` is one of CAUSES."""

    def __init__(self, cause: str, detail: str, fetched: Fetched) -> None:
        super().__init__(f"{cause}: {detail}")
        self.cause = cause
        self.detail = detail
        self.fetched = fetched


class Preempted(Exception):
    """Something more urgent goes first, and the fetch ends for now. A Control may raise it out of `wait_turn`."""


def fetch(
    part: PartFile,
    item: OrderedItem,
    transports: Mapping[TransportName, RangeTransport | WholeTransport],
    control: Control,
    *,
    connections: int = 4,
) -> Fetched:
    raise NotImplementedError
