"""Checkpoints on hosts that become candidates: which are new, and fetching and registering them.

The config in a file's name decides only for which config it is fetched. What the file is, its content says; what disqualifies it
is decided in `models.candidates`. Bringing items to places by way of the queue is for `coordinator`.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from ringrift_dagster.games.config import parse_config
from ringrift_dagster.home import Home
from ringrift_dagster.manifest.inventory import ItemType
from ringrift_dagster.manifest.plane import HOME_LOCATION, TOKEN_VARIABLE, Plane
from ringrift_dagster.manifest.queries import HeldItem, items_held
from ringrift_dagster.manifest.store import Store
from ringrift_dagster.models.candidates import Candidate, candidates, register
from ringrift_dagster.models.checkpoints.refusals import CheckpointRefused
from ringrift_dagster.models.promotion.log import DecisionLog
from ringrift_dagster.models.promotion.promoting import log_path
from ringrift_dagster.models.refused import LOCAL_REASONS, RefusedCheckpoint, record_refusal, refused_checkpoints
from ringrift_dagster.models.training_jobs.jobs import MAX_CHECKPOINT_BYTES
from ringrift_dagster.transfer.agents import Agents
from ringrift_dagster.transfer.bandwidth import SLICE_SECONDS, TokenBucket
from ringrift_dagster.transfer.fetch import Fetched, FetchFailed, fetch
from ringrift_dagster.transfer.model import OrderedItem, TransportName
from ringrift_dagster.transfer.offers import Goods, Offering, goods_of
from ringrift_dagster.transfer.part import Held, PartFile, disk_cause
from ringrift_dagster.transfer.targets import agent_hosts
from ringrift_dagster.transfer.transports.http import HttpTransport
from ringrift_dagster.transfer.transports.protocol import RangeTransport
from ringrift_dagster.transfer.transports.s3 import S3Transport

MAX_NEW: Final = 20
"""Checkpoints that one search registers or refuses."""
MAX_BYTES: Final = 16 << 30
"""Bytes that one search fetches."""
SEARCH_SECONDS: Final = 900.0
"""How long one search fetches; a checkpoint takes half of what is left of it at most, so that one slow host holds up no others."""
COPIES: Final = 2
"""How many copies of a checkpoint the home's disk has while it is registered."""
_NO_ANSWER: Final = frozenset({"refused", "timeout", "unreachable", "server_error"})
"""Failures after which a location is not asked for anything else in the same search."""


@dataclass(frozen=True)
class MissedCheckpoint:
    """A checkpoint that was not fetched; the next search tries again.

    `origin` is a location and the path there. `cause` is one of `transfer.model.CAUSES`, or `too_large`.
    """

    sha256: str
    origin: str
    cause: str
    detail: str


@dataclass(frozen=True)
class CheckpointSearch:
    """The result of a search for new checkpoints of a config. `left` counts those that its bounds left for the next search."""

    config: str
    registered: tuple[Candidate, ...]
    refused: tuple[RefusedCheckpoint, ...]
    missed: tuple[MissedCheckpoint, ...]
    left: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "registered": [candidate.model_dump() for candidate in self.registered],
            "refused": [refusal.model_dump() for refusal in self.refused],
            "missed": [asdict(missed) for missed in self.missed],
            "left": self.left,
        }


def new_checkpoints(home: Home, store: Store) -> dict[str, list[HeldItem]]:
    """New checkpoints by config, the first seen first: at any location, and neither registered, nor decided on, nor refused.

    Checkpoints without a config are left out. Raises OSError and sqlite3.Error.
    """
    held: dict[str, list[HeldItem]] = defaultdict(list)
    for item in items_held(store, ItemType.CHECKPOINT):
        held[item.config].append(item)
    refused = refused_checkpoints(home)
    new: dict[str, list[HeldItem]] = {}
    with DecisionLog(log_path(home)) as log:
        for config, entries in held.items():
            known = log.models(config).union(refused, (candidate.sha256 for candidate in candidates(home, config)))
            new[config] = [item for item in entries if item.sha256 not in known]
    return {config: entries for config, entries in new.items() if entries}


def find_candidates(
    plane: Plane,
    config: str,
    *,
    who: str,
    max_new: int = MAX_NEW,
    max_bytes: int = MAX_BYTES,
    seconds: float = SEARCH_SECONDS,
) -> CheckpointSearch:
    """Fetch the new checkpoints of a config from the locations that have them, and register them as candidates.

    What the reader refuses is recorded (`models.refused`). What could not be fetched is tried again by the next search, which
    continues a partial download. The manifest is not refreshed. Raises UnknownConfig, OSError and sqlite3.Error.
    """
    parsed = parse_config(config)
    items = new_checkpoints(plane.home, plane.store).get(parsed.key, [])
    folder = plane.home.models / "fetched" / parsed.key
    if not items:
        _clean(folder, ())
        return CheckpointSearch(parsed.key, (), (), (), 0)
    folder.mkdir(parents=True, exist_ok=True)
    _clean(folder, items)
    registered: list[Candidate] = []
    refused: list[RefusedCheckpoint] = []
    missed: list[MissedCheckpoint] = []
    left = fetched_bytes = 0
    deadline = time.monotonic() + seconds
    with _fetcher(plane, folder) as fetcher:
        goods = goods_of(plane.store, [item.sha256 for item in items], fetcher.receiver)
        for item in items:
            if item.size > MAX_CHECKPOINT_BYTES:
                detail = f"{item.size} bytes, the limit is {MAX_CHECKPOINT_BYTES}"
                missed.append(_missed(goods[item.sha256], "too_large", detail))
                continue
            time_left = deadline - time.monotonic()
            if len(registered) + len(refused) >= max_new or fetched_bytes + item.size > max_bytes or time_left <= 0:
                left += 1
                continue
            outcome = fetcher.take_in(goods[item.sha256], parsed.key, who, time_left / 2)
            if isinstance(outcome, MissedCheckpoint):
                missed.append(outcome)
                continue
            fetched_bytes += item.size
            if isinstance(outcome, Candidate):
                registered.append(outcome)
            else:
                refused.append(outcome)
    return CheckpointSearch(parsed.key, tuple(registered), tuple(refused), tuple(missed), left)


class _CheckpointFetcher:
    """Fetches checkpoints into a folder below the home, one after the other, and registers them."""

    def __init__(self, plane: Plane, folder: Path, agents: Agents, transports: Mapping[TransportName, RangeTransport]) -> None:
        self.receiver = plane.cluster.coordinator or ""
        self._plane = plane
        self._folder = folder
        self._transports = transports
        self._offering = Offering(plane, agents, HOME_LOCATION, self.receiver)
        self._silent: set[str] = set()
        hosts = plane.cluster.hosts
        carriers = agent_hosts(plane.cluster).items()
        self._limits = {place: TokenBucket(hosts[host].bandwidth_mb_s * 1e6 or None) for place, host in carriers if host in hosts}

    def take_in(self, goods: Goods, config: str, who: str, seconds: float) -> Candidate | RefusedCheckpoint | MissedCheckpoint:
        """Fetch an item and register it; a partial download stays for the next search."""
        item = goods.item
        offers = (offer for offer in self._offering.of(goods) if offer.transport in self._transports)
        usable = tuple(offer for offer in offers if offer.location not in self._silent)
        if not usable:
            return _missed(goods, "no_source", f"no answer from {', '.join(sorted({s.location for s in goods.sources}))}")
        disk = shutil.disk_usage(self._folder)
        if not self._plane.cluster.thresholds.has_room(disk.total, disk.free, COPIES * item.size):
            return _missed(goods, "no_room", f"{item.size} bytes at {self._folder}")
        try:
            ordered = OrderedItem(sha256=item.sha256, size=item.size, type=ItemType.CHECKPOINT, name=item.sha256, offers=usable)
            with PartFile.open(self._folder, "checkpoint", item.sha256, item.size, goods.chunks) as part:
                fetched = fetch(part, ordered, self._transports, _FetchControl(seconds, self._limits))
                outcome = self._register(part.path, goods, config, who, fetched)
                part.discard()
                return outcome
        except FetchFailed as error:
            failures = (offer for offer in error.fetched.offers if offer.failure in _NO_ANSWER)
            self._silent.update(offer.location for offer in failures)
            if error.cause == "cancelled":
                self._silent.update(offer.location for offer in usable)
                return _missed(goods, "timeout", f"{seconds:.0f} s were not enough; the next search goes on with it")
            return _missed(goods, error.cause, error.detail)
        except Held:
            return _missed(goods, "timeout", "another process is fetching it")
        except ValueError as error:  # RegistrationRefused, or what the manifest has of it contradicts itself
            return _missed(goods, "failed", str(error))
        except OSError as error:
            return _missed(goods, disk_cause(error), str(error))

    def _register(self, path: Path, goods: Goods, config: str, who: str, fetched: Fetched) -> Candidate | RefusedCheckpoint:
        origin = _origin(goods, fetched.source)
        try:
            return register(self._plane.home, path, parse_config(config), origin=origin, who=who)
        except CheckpointRefused as error:
            if error.reason in LOCAL_REASONS:
                raise OSError(f"{path}: {error}") from error
            refusal = RefusedCheckpoint(
                sha256=goods.item.sha256,
                config=config,
                reason=error.reason,
                detail=error.detail[:500],
                origin=origin,
                at=time.time(),
            )
            record_refusal(self._plane.home, refusal)
            return refusal


class _FetchControl:
    """The control of one fetch: a time limit in seconds, and the bandwidth limit of every location."""

    def __init__(self, seconds: float, limits: Mapping[str, TokenBucket]) -> None:
        self._deadline = time.monotonic() + seconds
        self._limits = limits

    def cancelled(self) -> bool:
        return time.monotonic() > self._deadline

    def wait_turn(self) -> bool:
        return not self.cancelled()

    def preempted(self) -> bool:
        return False

    def take(self, location: str, n: int) -> None:
        wait = self._limits[location].reserve(n) if location in self._limits else 0.0
        while wait > 0 and not self.cancelled():
            time.sleep(min(wait, SLICE_SECONDS))
            wait = self._limits[location].wait()

    @contextmanager
    def rate(self, locations: Iterable[str]) -> Iterator[Mapping[str, float | None]]:
        yield {location: self._limits[location].rate if location in self._limits else None for location in locations}

    def progress(self, bytes_done: int, transport: TransportName, location: str, retries: int) -> None:
        """Progress is not shown."""


@contextmanager
def _fetcher(plane: Plane, folder: Path) -> Iterator[_CheckpointFetcher]:
    token = os.environ.get(TOKEN_VARIABLE)
    with (
        closing(Agents(plane.cluster, token)) as agents,
        closing(HttpTransport(token)) as http,
        closing(S3Transport()) as s3,
    ):
        yield _CheckpointFetcher(plane, folder, agents, {TransportName.HTTP: http, TransportName.S3: s3})


def _missed(goods: Goods, cause: str, detail: str) -> MissedCheckpoint:
    return MissedCheckpoint(goods.item.sha256, _origin(goods, None), cause, " ".join(detail.split()))


def _origin(goods: Goods, location: str | None) -> str:
    """A location and the path there: of the copy that was fetched, or of the first one."""
    source = next((source for source in goods.sources if source.location == location), None) or next(iter(goods.sources), None)
    return f"{source.location}: {source.path}"[:500] if source else "nowhere"


def _clean(folder: Path, items: Iterable[HeldItem]) -> None:
    """Remove partial downloads of checkpoints that are no longer to be fetched."""
    prefixes = {item.sha256[:12] for item in items}
    for path in folder.glob(".checkpoint.*.part*"):
        if path.name.split(".")[2] not in prefixes:
            path.unlink(missing_ok=True)
