"""Filling a part from several sources at once by ranges: a chunk is the unit, and each is asked of whoever promises most.

A source that stalls, fails or lies loses its chunks to the others at once. What of a chunk has come is kept when the connection
breaks, and gone on with from wherever. Stages and rounds are `fetch`'s business.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from ringrift_dagster.manifest.inventory import CHUNK_SIZE
from ringrift_dagster.transfer.part import ChunkWriter, PartFile, Revoked
from ringrift_dagster.transfer.sources import Source, best, is_too_slow
from ringrift_dagster.transfer.transports.protocol import RangeTransport, TransportFailure
from ringrift_dagster.transfer.watch import Watcher

RUN_CHUNKS = 16
"""Chunks asked for in one request, at most."""
RUN_SECONDS = 0.5
"""What a source may be asked for at once while there are others."""
HUNG_SECONDS = 4.0
"""A request that brings nothing for so long is abandoned, whatever its transport says."""
SLOWEST = 1024.0
"""Bytes a second: who brings less over HUNG_SECONDS has stalled."""
PATIENCE_SECONDS = 1.0
"""So long all sources may rest after failures before another transport goes on."""
MOVED_BYTES = 64 << 10
"""What a request has to bring to count as no failure in a row."""
LOOK_SECONDS = 0.25
STEAL_SECONDS = 1.0
"""A chunk is taken from a source that needs so much longer than twice what another would."""


class _Enough(Exception):
    """The request has brought what is still wanted of it."""


@dataclass
class _Partial:
    """A chunk of which some has come, and from whom."""

    writer: ChunkWriter
    sources: set[Source] = field(default_factory=set)


@dataclass(eq=False)
class _Request:
    """A run of chunks asked of a source, the first being written. `moved`: when something came last; `paused` while we ourselves
    keep it waiting, `held` seconds so far; `window`: when the pace was looked at last, and what had come by then."""

    source: Source
    chunks: deque[int]
    partial: _Partial | None
    began: float
    moved: float
    window: tuple[float, int]
    held: float = 0.0
    paused: bool = False
    abandoned: bool = False
    came: int = 0
    finished: int = 0


class RangeStage:
    """Offers of one transport, used together until nothing is missing or none of them helps any more."""

    def __init__(
        self,
        part: PartFile,
        transport: RangeTransport,
        sources: Sequence[Source],
        watcher: Watcher,
        connections: int,
        *,
        last: bool,
    ) -> None:
        self._part = part
        self._transport = transport
        self._sources = sources
        self._watcher = watcher
        self._last = last
        self._changed = threading.Condition()
        self._todo = part.missing()
        self._running: list[_Request] = []
        self._partials: dict[int, _Partial] = {}
        self._alone: set[int] = set()
        self._wrong_from: dict[int, set[Source]] = {}
        self._moved = time.monotonic()
        self._stopped: Exception | None = None
        self._connections = max(1, min(connections, len(self._todo)))
        self._working = 0

    def run(self) -> None:
        """Returns when it is over. Raises what the watcher raises, and OSError when writing fails."""
        if len(self._todo) == 1:
            self._work()
        else:
            with self._changed:
                for _ in range(self._connections):
                    self._start_worker()
                while self._working:
                    self._changed.wait(LOOK_SECONDS)
                    self._abandon_hung()
        for partial in self._partials.values():
            partial.writer.revoke()
        if self._stopped is not None:
            raise self._stopped

    def _start_worker(self) -> None:
        self._working += 1
        threading.Thread(target=self._work_until_over, name="fetch", daemon=True).start()

    def _work_until_over(self) -> None:
        if self._work():
            with self._changed:
                self._working -= 1
                self._changed.notify_all()

    def _work(self) -> bool:
        """Ask for one run after the other; False when the last was abandoned, and somebody else is in this one's place."""
        while (request := self._next()) is not None:
            failure = broken = None
            try:
                failure = self._ask(request)
            except Exception as error:
                broken = error
            with self._changed:
                if request not in self._running:
                    return False
                self._ended(request, failure)
                self._stopped = self._stopped or broken
        return True

    def _next(self) -> _Request | None:
        """The next request; None when it is over."""
        while True:
            broken = None
            try:
                self._watcher.turn()
            except Exception as error:
                broken = error
            with self._changed:
                self._stopped = self._stopped or broken
                if self._over():
                    self._changed.notify_all()
                    return None
                now = time.monotonic()
                source = self._choose(now)
                if source is not None and not self._todo:
                    self._steal(source, now)
                if source is not None and self._todo:
                    return self._begin(source, now)
                self._changed.wait(self._rest(now))

    def _over(self) -> bool:
        if self._stopped is not None or not (self._todo or self._running):
            return True
        if self._running:
            return False
        now = time.monotonic()
        usable = [source for source in self._sources if source.usable]
        if not usable:
            return True
        resting = all(source.ready_at > now for source in usable)
        return resting and not self._last and now - self._moved > PATIENCE_SECONDS

    def _rest(self, now: float) -> float:
        ready = [source.ready_at - now for source in self._sources if source.usable and source.ready_at > now]
        return max(0.01, min([LOOK_SECONDS, *ready]))

    def _choose(self, now: float) -> Source | None:
        """Whom to ask next, if anybody can be asked now. Who had the chunk wrong already, only if there is nobody else."""
        ready = [source for source in self._sources if source.usable and source.ready_at <= now]
        if not self._part.has_table:  # from one only, as long as it goes: then it is known who lied
            return min(ready, key=lambda source: (source.wrong_chunks, self._is_slow(source), source.rank), default=None)
        wrong = self._wrong_from.get(self._todo[0], set()) if self._todo else set()
        return best(source for source in ready if source not in wrong) or best(ready)

    def _is_slow(self, source: Source) -> bool:
        return source.speed is not None and is_too_slow(source, source.speed, self._sources)

    def _begin(self, source: Source, now: float) -> _Request:
        chunks = deque([heapq.heappop(self._todo)])
        wanted = self._run_length(source)
        while len(chunks) < wanted and self._todo and self._todo[0] == chunks[-1] + 1 and self._todo[0] not in self._partials:
            chunks.append(heapq.heappop(self._todo))
        partial = self._partials.pop(chunks[0], None) or _Partial(self._part.writer(chunks[0]))
        partial.sources.add(source)
        request = _Request(source, chunks, partial, began=now, moved=now, window=(now, 0))
        source.begin(now)
        self._running.append(request)
        return request

    def _run_length(self, source: Source) -> int:
        share = -(-(len(self._todo) + 1) // self._connections)
        if source.wrong_chunks:
            return 1
        if sum(each.usable for each in self._sources) == 1:
            return min(RUN_CHUNKS, share)
        if not source.right_chunks or source.speed is None:
            return 1
        return max(1, min(RUN_CHUNKS, int(source.speed * RUN_SECONDS / CHUNK_SIZE), share // 2))

    def _ask(self, request: _Request) -> TransportFailure | None:
        """Have it brought. What is wrong with our own disk is raised."""
        with self._changed:
            if request.partial is None or request.abandoned:
                return None
            start = request.chunks[0] * CHUNK_SIZE + request.partial.writer.written
            length = request.chunks[-1] * CHUNK_SIZE + self._part.length(request.chunks[-1]) - start
        try:
            self._transport.fetch(
                request.source.offer, start, length, lambda piece: self._came(request, piece), lambda: self._unwanted(request)
            )
        except (_Enough, Revoked):
            return None
        except TransportFailure as failure:
            return failure
        except Exception as error:
            if request.paused:
                raise
            return TransportFailure("failed", f"{type(error).__name__}: {error}")
        return TransportFailure("short", "it ended before the end") if request.chunks else None

    def _unwanted(self, request: _Request) -> bool:
        return request.abandoned or self._stopped is not None or request.source.benched or self._watcher.cancelled()

    def _came(self, request: _Request, piece: memoryview) -> None:
        came = time.monotonic()
        request.paused = True
        while piece:
            partial = request.partial
            if partial is None or request.abandoned:
                raise _Enough
            taken = piece[: partial.writer.length - partial.writer.written]
            self._watcher.take(request.source.offer.location, len(taken))
            partial.writer.write(taken)
            request.came += len(taken)
            self._watcher.tell(self._part.bytes_done, request.source.offer)
            piece = piece[len(taken) :]
            if partial.writer.written == partial.writer.length:
                self._chunk_came(request, partial)
        request.paused = False
        request.moved = time.monotonic()
        request.held += request.moved - came
        self._check_pace(request)

    def _check_pace(self, request: _Request) -> None:
        """Raises TransportFailure for a source that trickles, and _Enough for one that is much slower than another may be."""
        since, came = request.window
        passed = request.moved - request.held - since
        if passed >= HUNG_SECONDS:
            speed = (request.came - came) / passed
            if speed < SLOWEST:
                raise TransportFailure("timeout", f"less than {SLOWEST:g} bytes a second")
            if is_too_slow(request.source, speed, self._sources):
                raise _Enough
            request.window = (request.moved - request.held, request.came)

    def _chunk_came(self, request: _Request, partial: _Partial) -> None:
        """The chunk is right, or not; on to the next if it is. Raises _Enough at the end of the request."""
        right = partial.writer.commit()
        preempted = self._watcher.preempted()
        with self._changed:
            if request not in self._running:
                raise _Enough
            index = request.chunks.popleft()
            request.partial = None
            self._moved = time.monotonic()
            if right:
                request.finished += 1
                request.source.good()
            else:
                self._struck(request.source, index, partial)
            if not right or preempted or not request.chunks or request.source.benched or self._stopped is not None:
                raise _Enough
            request.partial = _Partial(self._part.writer(request.chunks[0]), {request.source})

    def _struck(self, source: Source, index: int, partial: _Partial) -> None:
        heapq.heappush(self._todo, index)
        self._watcher.retried()
        if len(partial.sources) == 1:
            source.wrong_chunks += 1
            self._wrong_from.setdefault(index, set()).add(source)
        else:
            self._alone.add(index)  # who of them it was is not known: one has to bring it all
        self._changed.notify_all()

    def _ended(self, request: _Request, failure: TransportFailure | None) -> None:
        """Give back what has not come, and remember how it went."""
        now = time.monotonic()
        self._running.remove(request)
        request.source.end(now, request.came, now - request.began - request.held)
        kept = self._keep(request)
        for index in request.chunks:
            heapq.heappush(self._todo, index)
        request.chunks = deque()
        if failure is not None and failure.code != "cancelled":
            moved = request.finished > 0 or (kept and request.came >= MOVED_BYTES)
            request.source.fail(now, failure.code, failure.detail, moved=moved)
            self._watcher.retried()
            if moved:
                self._moved = now
        self._changed.notify_all()

    def _keep(self, request: _Request) -> bool:
        """Whether the beginning of a chunk stays for whoever goes on."""
        partial, request.partial = request.partial, None
        if partial is None or not request.chunks or partial.writer.written == 0:
            return False
        if request.abandoned or request.source.benched or request.chunks[0] in self._alone:
            partial.writer.revoke()
            return False
        self._partials[request.chunks[0]] = partial
        return True

    def _abandon_hung(self) -> None:
        """Leave requests whose transport does not come back, each with its thread."""
        now = time.monotonic()
        for request in [each for each in self._running if not each.paused and now - each.moved > HUNG_SECONDS]:
            self._abandon(request, TransportFailure("timeout", f"nothing came for {HUNG_SECONDS:g} s"))

    def _abandon(self, request: _Request, failure: TransportFailure | None) -> None:
        request.abandoned = True
        self._ended(request, failure)
        self._working -= 1
        self._start_worker()

    def _steal(self, source: Source, now: float) -> None:
        """Nothing else is left to ask for: take the tail of what a much slower source still has to bring."""
        if source.speed is None:
            return
        for request in list(self._running):
            seconds = now - request.began - request.held
            if request.source is source or request.paused or seconds < STEAL_SECONDS:
                continue
            written = request.partial.writer.written if request.partial else 0
            left = sum(self._part.length(index) for index in request.chunks) - written
            if left * seconds < 2 * request.came * (left / source.speed + STEAL_SECONDS):
                continue
            if len(request.chunks) > 1:
                heapq.heappush(self._todo, request.chunks.pop())
            else:
                self._abandon(request, None)
            return
