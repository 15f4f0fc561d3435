"""How items come into a root: is it here already, is there room, fetch, publish, tell the inventory.

Whose turn it is, and what is remembered of orders, is `pulls`' business; where bytes come from that of `transfer.fetch`.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ringrift_dagster.manifest.inventory import CHUNK_SIZE, NoAnswer
from ringrift_dagster.manifest.sources.hashing import InFlux, hash_file
from ringrift_dagster.manifest.sources.tree import ContentChanged
from ringrift_dagster.node.room import NoRoom, Room
from ringrift_dagster.node.roots import Root
from ringrift_dagster.node.transports import Transports
from ringrift_dagster.transfer.fetch import Control, Fetched, FetchFailed, fetch
from ringrift_dagster.transfer.model import ItemProgress, OfferOutcome, OrderedItem, PullState, TransportName
from ringrift_dagster.transfer.part import Held, PartFile, disk_cause
from ringrift_dagster.transfer.placement import Unplaceable, place
from ringrift_dagster.transfer.publish import Arrival, Folders, NotPublished, Published, publish_many
from ringrift_dagster.transfer.transports.http import HttpTransport
from ringrift_dagster.transfer.transports.protocol import TransportFailure
from ringrift_dagster.transfer.watch import TELL_SECONDS

NEXT_ACTIONS = {
    "no_source": "bring a location back that holds it, then order it again",
    "wrong_bytes": "look at its copies: what they send is not what its hash says",
    "no_room": "make room on this disk, then order it again",
    "read_only": "let the agent write there, then order it again",
    "disk_error": "look at this disk",
    "not_sound": "make the item anew: its own content does not pass the check of its type",
    "would_lose_games": "order it with merge",
    "occupied": "move away what stands at its path, then order it again",
    "timeout": "order it again: what came is kept",
    "interrupted": "nothing: it goes on by itself",
    "unplaceable": "order it into a root that has a folder for it",
    "failed": "look at the agent's log",
}
"""By cause: what happens now, or what a person has to do."""
MERGE_ROOM = 2
"""A merge needs room for what comes, and as much again for the games in their new place."""
_USELESS = frozenset({"no_room", "not_sound"})
"""After these what came is thrown away: it takes room, and would be of no use."""
HASH_LETTERS = 12
"""So much of its hash is in the name that an item is published under."""
_OBJECTS = "/v1/objects/"
_log = logging.getLogger(__name__)


class ItemControl(Control, Protocol):
    """What whoever wants an item says, and is told, while it comes."""

    def verifying(self) -> None: ...


@dataclass(frozen=True)
class Wish:
    """An item that is wanted, with its chunk table. `keep_free` bytes of the disk are not for it."""

    item: OrderedItem
    keep_free: int
    control: ItemControl


class _Ended(Exception):
    """There is nothing more to do about an item."""

    def __init__(self, progress: ItemProgress) -> None:
        super().__init__(progress.state)
        self.progress = progress


@dataclass
class _Attempt:
    """One item on its way. `result` once it is final."""

    wish: Wish
    path: str = ""
    part: PartFile | None = None
    fetched: Fetched | None = None
    result: ItemProgress | None = None

    @property
    def item(self) -> OrderedItem:
        return self.wish.item


class Bringer:
    """Brings items into roots. Safe to use from several threads, each with items that no other has."""

    def __init__(self, transports: Transports, *, min_free_bytes: int) -> None:
        self._transports = transports
        self._min_free_bytes = min_free_bytes
        self._room = Room()

    def bring(self, root: Root, wishes: Sequence[Wish]) -> list[ItemProgress]:
        """Bring items into a root, one large or some small ones; returns how each ended.

        What fails stops no other. Where several small ones come from the same agent, they come in one answer.
        """
        attempts = [_Attempt(wish) for wish in wishes]
        missing = root.check()
        known = set() if missing is not None else _known(root, attempts)
        folders = Folders(root.tree.root)
        with ExitStack() as opened:
            for attempt in attempts:
                with _ending(attempt):
                    if missing is not None:
                        raise _Ended(failed(attempt.item, "disk_error", f"{missing.code}: {missing.detail}"))
                    self._begin(root, attempt, attempt.item.sha256 in known, folders, opened)
            if len(attempts) > 1:
                self._bundles(attempts)
            for attempt in attempts:
                if attempt.result is None and attempt.fetched is None and attempt.part is not None:
                    with _ending(attempt):
                        attempt.fetched = fetch(attempt.part, attempt.item, self._transports, attempt.wish.control)
            self._publish(root, [attempt for attempt in attempts if attempt.result is None])
            for attempt in attempts:
                if attempt.result is not None and attempt.result.cause in _USELESS and attempt.part is not None:
                    attempt.part.discard()
        return [attempt.result for attempt in attempts if attempt.result is not None]

    def clean(self, root: Root, item: OrderedItem) -> None:
        """Remove what is left of an item that nobody waits for any more, unless somebody does."""
        with suppress(Unplaceable, Held, OSError):
            target = root.tree.root / place(root.kind, root.tree.layout, item)
            if _part_path(target.parent, item).exists():
                PartFile.open(target.parent, item.name, item.sha256, item.size, None).discard()

    def _begin(self, root: Root, attempt: _Attempt, known: bool, folders: Folders, opened: ExitStack) -> None:
        """Everything up to the first byte. `known`: the root may have it."""
        item = attempt.item
        here = _held(root, item) if known else None
        if here is not None:
            opened.callback(os.close, here)
        attempt.path = place(root.kind, root.tree.layout, item)
        if here is None and not item.merge:
            _look_at(root, item, attempt.path)
        folder = folders.make(attempt.path)
        floor = max(self._min_free_bytes, attempt.wish.keep_free)
        size = item.size * (MERGE_ROOM if item.merge else 1)
        opened.enter_context(self._room.taken(folder, _part_path(folder, item), size, floor))
        table = None if item.chunks is None else base64.b64decode(item.chunks, validate=True)
        attempt.part = opened.enter_context(PartFile.open(folder, item.name, item.sha256, item.size, table))
        if here is not None:
            _fill_from_here(attempt.part, here)

    def _bundles(self, attempts: Sequence[_Attempt]) -> None:
        """What small items one agent offers first are asked for together. What does not come this way is fetched by itself."""
        transport = self._transports.get(TransportName.HTTP)
        if not isinstance(transport, HttpTransport):
            return
        groups: dict[tuple[str, str], dict[str, _Attempt]] = defaultdict(dict)
        for attempt in attempts:
            offer, suffix = attempt.item.offers[0], _OBJECTS + attempt.item.sha256
            wanting = attempt.result is None and attempt.part is not None and attempt.part.missing() == [0]
            if wanting and offer.transport == TransportName.HTTP and offer.address.endswith(suffix):
                groups[offer.address.removesuffix(suffix), offer.location][attempt.item.sha256] = attempt
        for (base, location), group in groups.items():
            if len(group) > 1:
                with suppress(TransportFailure, OSError):
                    _bundle(transport, base, location, group)

    def _publish(self, root: Root, attempts: Sequence[_Attempt]) -> None:
        arrivals = [Arrival(attempt.part, attempt.item, attempt.path) for attempt in attempts if attempt.part is not None]
        for attempt in attempts:
            attempt.wish.control.verifying()
        outcomes = publish_many(arrivals, root.tree.root)
        _tell(root, [outcome for outcome in outcomes if isinstance(outcome, Published)])
        for attempt, outcome in zip(attempts, outcomes, strict=True):
            if isinstance(outcome, NotPublished):
                attempt.result = failed(attempt.item, outcome.cause, outcome.detail, attempt.fetched)
            else:
                attempt.result = _done(attempt, outcome)


def failed(item: OrderedItem | ItemProgress, cause: str, detail: str, fetched: Fetched | None = None) -> ItemProgress:
    """How an item stands that did not come. `cause` is one of CAUSES."""
    state = PullState.CANCELLED if cause == "cancelled" else PullState.FAILED
    return ItemProgress(
        sha256=item.sha256,
        size=item.size,
        state=state,
        cause=cause,
        detail=" ".join(detail.split())[:300] or None,
        next_action=NEXT_ACTIONS.get(cause),
        **_of(fetched),
    )


@contextmanager
def _ending(attempt: _Attempt) -> Iterator[None]:
    """Whatever happens within the block is this item's end, and nobody else's."""
    item = attempt.item
    try:
        yield
    except _Ended as ended:
        attempt.result = ended.progress
    except FetchFailed as error:
        attempt.result = failed(item, error.cause, error.detail, error.fetched)
    except Unplaceable as error:
        attempt.result = failed(item, "unplaceable", str(error))
    except NotPublished as error:
        attempt.result = failed(item, error.cause, error.detail)
    except NoRoom as error:
        attempt.result = failed(item, "no_room", str(error))
    except Held:
        attempt.result = failed(item, "timeout", "something else is filling its part")
    except OSError as error:
        attempt.result = failed(item, disk_cause(error), f"{error.filename or attempt.path}: {error.strerror or error}")
    except ValueError as error:
        attempt.result = failed(item, "failed", f"its chunk table is none: {error}")
    except Exception as error:
        _log.exception("bringing %s", item.sha256)
        attempt.result = failed(item, "failed", f"{type(error).__name__}: {error}")


def _known(root: Root, attempts: Sequence[_Attempt]) -> set[str]:
    """Hashes of which the root may have the content."""
    try:
        return root.tree.known(attempt.item.sha256 for attempt in attempts)
    except NoAnswer:
        return set()


def _held(root: Root, item: OrderedItem) -> int | None:
    """Raises _Ended when the root has the item, hashed right now.

    Returns the descriptor of a file with its content where that is no copy that stays, a snapshot, or games are to be merged.
    """
    try:
        opened = root.tree.open(item.sha256)
    except (ContentChanged, NoAnswer):
        opened = None
    if opened is not None and (item.merge or root.tree.snapshots.owns(opened.path)):
        return opened.descriptor
    if opened is not None:
        with os.fdopen(opened.descriptor, "rb", buffering=0) as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == item.sha256:
                raise _Ended(_here(item, opened.path, opened.mtime))
    return None


def _look_at(root: Root, item: OrderedItem, path: str) -> None:
    """Raises _Ended when the item stands at its path already, or something else does that will not make way."""
    try:
        there = hash_file(str(root.tree.root / path))
    except FileNotFoundError:
        return
    except (InFlux, OSError):
        there = None
    if there is not None and there.sha256 == item.sha256:
        root.refresh(0, 0)
        raise _Ended(_here(item, path, there.mtime_ns / 1e9))
    if item.sha256[:HASH_LETTERS] not in item.name:  # else it may be this item, damaged: publishing it decides
        raise _Ended(failed(item, "occupied", f"another content stands at {path}"))


def _here(item: OrderedItem, path: str, mtime: float) -> ItemProgress:
    """Nothing had to be moved."""
    return ItemProgress(sha256=item.sha256, path=path, mtime=mtime, state=PullState.DONE, size=item.size, verified_at=time.time())


def _fill_from_here(part: PartFile, descriptor: int) -> None:
    for index in part.missing():
        part.put(index, os.pread(descriptor, part.length(index), index * CHUNK_SIZE))


def _bundle(transport: HttpTransport, base: str, location: str, group: dict[str, _Attempt]) -> None:
    """Raises TransportFailure when the answer breaks off; what came before that counts."""
    began = told = time.monotonic()
    news: list[_Attempt] = []
    for sha256, size, reader in transport.fetch_bundle(base, list(group)):
        attempt = group[sha256]
        if not attempt.wish.control.wait_turn() or size is None or size != attempt.item.size or attempt.part is None:
            continue
        attempt.wish.control.take(location, size)
        data = reader.read()
        whole = hashlib.sha256(data)
        if whole.hexdigest() == sha256 and attempt.part.put(0, data, whole):
            now = time.monotonic()
            seconds, began = now - began, now
            outcome = OfferOutcome(location=location, transport=TransportName.HTTP, bytes=size, seconds=seconds)
            attempt.fetched = Fetched(TransportName.HTTP, location, size, 0, 0, seconds, (outcome,), ())
            news.append(attempt)
            if now - told >= TELL_SECONDS:
                for each in news:
                    each.wish.control.progress(each.item.size, TransportName.HTTP, location, 0)
                told = now
                news.clear()


def _done(attempt: _Attempt, published: Published) -> ItemProgress:
    return ItemProgress(
        sha256=attempt.item.sha256,
        path=published.path,
        mtime=published.mtime,
        merged=published.merged,
        state=PullState.DONE,
        bytes_done=attempt.item.size,
        size=attempt.item.size,
        verified_at=published.verified_at,
        **_of(attempt.fetched),
    )


def _of(fetched: Fetched | None) -> dict[str, Any]:
    if fetched is None:
        return {}
    names = ("transport", "source", "retries", "resent", "seconds", "benched", "offers")
    return {name: getattr(fetched, name) for name in names}


def _tell(root: Root, published: Sequence[Published]) -> None:
    """The inventory knows them at once. At a live database it has to look for itself."""
    items = [(each.path, each.hashed, each.facts) for each in published if each.merged is None]
    try:
        known = len(root.tree.adopt_all(items)) == len(published)
    except NoAnswer as refusal:
        _log.warning("what is published is not yet told of: %s", refusal)
        known = False
    root.refresh(None if known else 0, 0)


def _part_path(folder: Path, item: OrderedItem) -> Path:
    return folder / f".{item.name}.{item.sha256[:HASH_LETTERS]}.part"
