"""What tests of fetching share: an item with its table, and a control that says yes and remembers."""

from __future__ import annotations

import base64
import hashlib
import random
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from blake3 import blake3

from ringrift_dagster.manifest.inventory import CHUNK_SIZE, ItemType
from ringrift_dagster.transfer.model import Offer, OrderedItem, TransportName
from ringrift_dagster.transfer.part import PartFile


@dataclass(frozen=True)
class Content:
    """Some bytes and what is known of them."""

    data: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def size(self) -> int:
        return len(self.data)

    @property
    def table(self) -> bytes:
        starts = range(0, self.size, CHUNK_SIZE)
        return b"".join(blake3(self.data[start : start + CHUNK_SIZE]).digest() for start in starts)

    def chunk(self, index: int) -> bytes:
        return self.data[index * CHUNK_SIZE : (index + 1) * CHUNK_SIZE]

    def item(self, offers: Sequence[Offer], *, table: bool = True) -> OrderedItem:
        return OrderedItem(
            sha256=self.sha256,
            size=self.size,
            type=ItemType.NPZ,
            name="some.npz",
            chunks=base64.b64encode(self.table).decode() if table else None,
            offers=tuple(offers),
        )

    def part(self, folder: Path, *, table: bool = True) -> PartFile:
        return PartFile.open(folder, "some.npz", self.sha256, self.size, self.table if table else None)


def content(size: int, seed: int = 1) -> Content:
    """So many random bytes, always the same."""
    return Content(random.Random(seed).randbytes(size))


def offer(address: str, location: str, transport: TransportName = TransportName.HTTP) -> Offer:
    return Offer(transport=transport, location=location, address=address)


@dataclass
class Consent:
    """A control that never stands in the way, unless a test makes it."""

    is_cancelled: threading.Event = field(default_factory=threading.Event)
    may_go: threading.Event = field(default_factory=threading.Event)
    taken: dict[str, int] = field(default_factory=dict)
    told: list[int] = field(default_factory=list)
    turns: int = 0
    on_take: Callable[[], None] | None = None
    limit: float | None = None

    def __post_init__(self) -> None:
        self.may_go.set()
        self._lock = threading.Lock()

    def cancelled(self) -> bool:
        return self.is_cancelled.is_set()

    def wait_turn(self) -> bool:
        with self._lock:
            self.turns += 1
        while not self.may_go.wait(0.05):
            if self.cancelled():
                return False
        return not self.cancelled()

    def preempted(self) -> bool:
        return not self.may_go.is_set()

    def take(self, location: str, n: int) -> None:
        with self._lock:
            self.taken[location] = self.taken.get(location, 0) + n
        if self.on_take is not None:
            self.on_take()

    @contextmanager
    def rate(self, locations: Iterable[str]) -> Iterator[Mapping[str, float | None]]:
        yield dict.fromkeys(locations, self.limit)

    def progress(self, bytes_done: int, transport: TransportName, location: str, retries: int) -> None:
        with self._lock:
            self.told.append(bytes_done)
