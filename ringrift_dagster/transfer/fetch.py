"""Filling a part from ranked offers: stage after stage, round after round, until the whole is right or nobody is left to ask.

Consecutive offers of one transport are a stage. What one stage brought stays for the next, whatever its transport. How single
sources of ranges are used is in `ranges`, what is known of them in `sources`; publishing the file is somebody else's business.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from ringrift_dagster.manifest.inventory import CHUNK_SIZE
from ringrift_dagster.transfer.model import OfferOutcome, OrderedItem, TransportName
from ringrift_dagster.transfer.part import PartFile, disk_cause
from ringrift_dagster.transfer.ranges import RangeStage
from ringrift_dagster.transfer.sources import Source, cause_of_failure, told
from ringrift_dagster.transfer.transports.asking import answer_seconds
from ringrift_dagster.transfer.transports.protocol import RangeTransport, TransportFailure, WholeTransport
from ringrift_dagster.transfer.watch import Control, Stopped, Watcher

__all__ = ["Control", "FetchFailed", "Fetched", "Preempted", "fetch"]

CONNECTIONS = 4
MAX_PASSES = 3
"""Without a chunk table the whole is fetched so many times at most, each time preferably from another source."""
STALL_SECONDS = 4.0
"""A transport of whole items that brings nothing for so long is ended, once it has begun."""
LOOK_BYTES_A_SECOND = 50e6
"""It may look at what is there already, at this pace, before it brings more."""
MIN_PIECE, PIECE_SECONDS = 64 << 10, 0.05
"""What comes is taken from the links in pieces, of so many bytes or seconds; between them it can be stopped."""
_SEVERAL_SOURCES = frozenset({TransportName.HTTP, TransportName.S3, TransportName.ARIA2, TransportName.BITTORRENT})
_HASHED_FIRST = frozenset({TransportName.ARIA2, TransportName.BITTORRENT})
"""Before the first byte an agent may have to hash the whole item; that it died is told at once all the same."""
_RANGES = frozenset({TransportName.HTTP, TransportName.S3})


@dataclass(frozen=True)
class Fetched:
    """How an item came. `transport` and `source`: what brought most of its bytes, None if nothing did.

    `bytes` came in all, `resent` of them were not the first of their place, or wrong. `benched`: locations that lied twice.
    """

    transport: TransportName | None
    source: str | None
    bytes: int
    resent: int
    retries: int
    seconds: float
    offers: tuple[OfferOutcome, ...]
    benched: tuple[str, ...]


class FetchFailed(Exception):
    """The item could not be had; right chunks stay in the part. `cause` is one of CAUSES."""

    def __init__(self, cause: str, detail: str, fetched: Fetched) -> None:
        super().__init__(f"{cause}: {detail}" if detail else cause)
        self.cause = cause
        self.detail = " ".join(detail.split())[:1000]
        self.fetched = fetched


class Preempted(Exception):
    """The fetch ends for now, as something more urgent goes first. Raised by a Control's `wait_turn`; right chunks stay."""


def fetch(
    part: PartFile,
    item: OrderedItem,
    transports: Mapping[TransportName, RangeTransport | WholeTransport],
    control: Control,
    *,
    connections: int = CONNECTIONS,
) -> Fetched:
    """Fill the part; when this returns, the SHA-256 of the whole is right.

    Chunks that are there are not fetched again. Range transports use up to `connections` connections at once. Raises FetchFailed;
    what the control raises passes through.
    """
    job = _Job(part, item, transports, control, connections)
    try:
        while True:
            job.fill()
            if part.digest() == item.sha256:
                return job.fetched()
            job.whole_was_wrong()
    except Stopped:
        raise FetchFailed("cancelled", "", job.fetched()) from None
    except OSError as error:
        raise FetchFailed(disk_cause(error), f"{type(error).__name__}: {error}", job.fetched()) from error


class _Job:
    """One fetch."""

    def __init__(
        self,
        part: PartFile,
        item: OrderedItem,
        transports: Mapping[TransportName, RangeTransport | WholeTransport],
        control: Control,
        connections: int,
    ) -> None:
        self._part = part
        self._item = item
        self._transports = transports
        self._watcher = Watcher(part, control)
        self._connections = connections
        self._began = time.monotonic()
        self._had = part.bytes_done
        self._gained = 0
        self._passes = 0
        self._pass_had = part.bytes_done
        self._pass_bytes: dict[Source, int] = {}
        self._sources = [Source(offer, rank) for rank, offer in enumerate(item.offers)]
        self._stages = _stages(self._sources)

    def fill(self) -> None:
        """Until no chunk is missing. Raises FetchFailed, Stopped and OSError."""
        self._pass_had = self._part.bytes_done
        self._pass_bytes = {source: source.bytes for source in self._sources}
        while self._part.missing():
            before = self._part.bytes_done
            for source in self._sources:
                source.again()
            for number, stage in enumerate(self._stages):
                self._run(stage, last=number == len(self._stages) - 1)
                if not self._part.missing():
                    return
            if self._part.bytes_done <= before:
                self._fail(cause_of_failure(self._sources), told(self._sources))

    def whole_was_wrong(self) -> None:
        """Every chunk came and the SHA-256 differs. Raises FetchFailed when nothing is left to try."""
        self._passes += 1
        self._watcher.retried()
        brought = [source for source in self._sources if source.bytes > self._pass_bytes[source]]
        if self._part.has_table:
            if self._passes == 1 and self._part.adopt():
                return  # what is on the disk is not what came
            self._part.forget()
            self._fail("wrong_bytes", "the chunk table belongs to another content than the hash")
        if len(brought) == 1 and self._pass_had == 0:
            brought[0].wrong_chunks += 1
        self._part.forget()
        if self._passes >= MAX_PASSES or all(source.benched for source in self._sources):
            self._fail("wrong_bytes", told(self._sources))

    def fetched(self) -> Fetched:
        """How it went so far."""
        most = max(self._sources, key=lambda source: source.bytes)
        came = sum(source.bytes for source in self._sources)
        return Fetched(
            transport=most.offer.transport if most.bytes else None,
            source=most.offer.location if most.bytes else None,
            bytes=came,
            resent=max(0, came - max(0, self._part.bytes_done - self._had)),
            retries=self._watcher.retries,
            seconds=time.monotonic() - self._began,
            offers=tuple(source.outcome() for source in self._sources if source.bytes or source.failures or source.wrong_chunks),
            benched=tuple(dict.fromkeys(source.offer.location for source in self._sources if source.benched)),
        )

    def _run(self, stage: Sequence[Source], *, last: bool) -> None:
        usable = [source for source in stage if source.usable]
        if not usable:
            return
        name = usable[0].offer.transport
        transport = self._transports.get(name)
        if transport is None:
            for source in usable:
                source.fail(time.monotonic(), "not_installed", "this agent cannot do it", moved=False)
        elif name in _RANGES:
            RangeStage(self._part, transport, usable, self._watcher, self._connections, last=last).run()  # type: ignore[arg-type]
        else:
            self._run_whole(transport, usable)  # type: ignore[arg-type]

    def _run_whole(self, transport: WholeTransport, sources: Sequence[Source]) -> None:
        """One call, and again as often as something more urgent went first."""
        owed = 0
        while True:
            self._watcher.turn()
            before, began = self._part.bytes_done, time.monotonic()
            with self._watcher.rate([source.offer.location for source in sources]) as shares:
                stall = _Stall(self._part, self._watcher, sources[0], shares, owed)
                failure, wrong = self._call(transport, sources, stall)
            seconds = time.monotonic() - began - stall.held
            self._account(sources, self._part.bytes_done - before, seconds, wrong, failure, stall)
            owed = stall.owed
            if not stall.preempted or not wrong:
                return

    def _call(self, transport: WholeTransport, sources: Sequence[Source], stall: _Stall) -> tuple[TransportFailure | None, int]:
        """How it failed, and how many chunks are still not right. Raises OSError for what our own disk refuses."""
        stamp, failure = self._part.stamp(), TransportFailure("failed")
        try:
            transport.fetch_whole(
                self._item,
                [source.offer for source in sources],
                self._part.path,
                bytes_a_second=stall.limit,
                cancelled=stall.is_over,
                progress=stall.progress,
            )
            failure = None
        except TransportFailure as error:
            failure = error
        except Exception as error:
            if isinstance(error, OSError) and disk_cause(error) != "disk_error":
                raise
            failure = TransportFailure("failed", f"{type(error).__name__}: {error}")
        finally:
            wrong = self._part.adopt(whole=failure is None, since=stamp)
        return failure, wrong

    def _account(
        self,
        sources: Sequence[Source],
        gained: int,
        seconds: float,
        wrong: int,
        failure: TransportFailure | None,
        stall: _Stall,
    ) -> None:
        """Several sources of one call cannot be told apart: bytes are the first's, failures everybody's, lies nobody's."""
        now = time.monotonic()
        for source in sources:
            source.begin(now - seconds)
            source.end(now, max(0, gained) if source is sources[0] else 0, seconds)
        if failure is None and wrong:
            failure = TransportFailure("failed", f"{wrong} chunks are wrong")
            if len(sources) == 1:
                sources[0].wrong_chunks += wrong
                sources[0].bytes += min(wrong * CHUNK_SIZE, self._part.size)
        if failure is None or (failure.code == "cancelled" and not stall.stalled):
            return
        if stall.stalled:
            failure = TransportFailure("timeout", f"nothing came for {stall.patience:.3g} s")
        self._watcher.retried()
        for source in sources:
            source.fail(now, failure.code, failure.detail, moved=gained > 0)

    def _fail(self, cause: str, detail: str) -> None:
        raise FetchFailed(cause, detail, self.fetched())


class _Stall:
    """Watches one call of a transport of whole items: ends it when it stalls, is cancelled, or something more urgent waits.

    `shares`: what may come from each location; `owed` bytes came before and are not yet taken from the links, `held` seconds it
    waited for them.
    """

    def __init__(self, part: PartFile, watcher: Watcher, source: Source, shares: Mapping[str, float | None], owed: int = 0) -> None:
        self._watcher = watcher
        self._source = source
        self._size = part.size
        self._done = 0
        self._moved = time.monotonic()
        status = part.path.stat()
        self._look_seconds = STALL_SECONDS + status.st_size / LOOK_BYTES_A_SECOND
        hashed = answer_seconds(part.size) if source.offer.transport in _HASHED_FIRST else 0.0
        self.patience = hashed + self._look_seconds
        self.stalled = False
        self.preempted = False
        self.held = 0.0
        # How much each of several locations brings is not known: as much as its links bear.
        limited = {location: share for location, share in shares.items() if share is not None}
        self.limit = sum(limited.values()) if len(limited) == len(shares) else None
        self._parts = limited if self.limit is not None else dict.fromkeys(shares.keys() - limited.keys(), 1.0)
        self._taken = min(part.size, status.st_blocks * 512) - owed  # what is there already will be told of again

    @property
    def owed(self) -> int:
        return max(0, self._done - self._taken)

    def progress(self, done: int) -> None:
        """Returns when what came had its turn on its links, beside what others bring."""
        if done > self._done:
            self.patience = STALL_SECONDS if self._done else self._look_seconds
            if done >= self._size:
                self.patience = STALL_SECONDS + self._size / LOOK_BYTES_A_SECOND  # it may look at what came
            self._done, self._moved = done, time.monotonic()
            self._watcher.tell(done, self._source.offer)
        piece = self._size if self.limit is None else max(MIN_PIECE, int(self.limit * PIECE_SECONDS))
        while self.owed and not self.is_over():
            n, began, whole = min(self.owed, piece), time.monotonic(), sum(self._parts.values())
            for location, share in self._parts.items():
                self._watcher.take(location, round(n * share / whole))
            self._taken += n
            self._moved = time.monotonic()
            self.held += self._moved - began

    def is_over(self) -> bool:
        if self._watcher.cancelled():
            return True
        self.preempted = self.preempted or self._watcher.preempted()
        self.stalled = not self.preempted and (self.stalled or time.monotonic() - self._moved > self.patience)
        return self.preempted or self.stalled


def _stages(sources: Sequence[Source]) -> list[list[Source]]:
    """Consecutive offers of one transport; where a transport takes only one source, each is a stage."""
    stages: list[list[Source]] = []
    for name, group in groupby(sources, key=lambda source: source.offer.transport):
        together = list(group)
        stages += [together] if name in _SEVERAL_SOURCES else [[source] for source in together]
    return stages
