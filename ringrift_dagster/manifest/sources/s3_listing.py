"""Listing a bucket: every object below some prefixes, all of them or none.

A listing that breaks off in the middle is no listing: the error is passed on, and nothing can be taken for gone. One that takes
longer than an answer may goes on behind it, and the next question has the result. What an object is, is not known here.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from threading import Event, Lock, Thread
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ringrift_dagster.manifest.inventory import MAX_SIZE, RelativePath

PAGE_OBJECTS = 1000
MAX_OBJECTS = 5_000_000
"""A listing that goes on beyond so many objects is taken for an endless one."""
LISTING_SECONDS = 900.0
"""A listing behind the answers takes no longer."""
FORSAKEN_SECONDS = 180.0
"""A listing that nobody asked for so long ends."""
RESULT_SECONDS = 90.0
"""So long after its end a listing is still what a bucket holds, with the words of those who asked for it meanwhile."""
NOT_ON_DEMAND = frozenset({"GLACIER", "DEEP_ARCHIVE"})
"""Storage classes whose objects have to be restored before they can be read."""

_PATH: TypeAdapter[str] = TypeAdapter(RelativePath)


class ListingBroken(Exception):
    """The listing did not come to an end; the message says why. `timeout`: for want of time."""

    def __init__(self, message: str, *, timeout: bool = False) -> None:
        super().__init__(message)
        self.timeout = timeout


@dataclass(frozen=True)
class Listed:
    """One object as the bucket lists it. `modified` is seconds since 1970 (UTC) by the server's clock; `etag` tells changes apart
    and nothing else. `archived`: not readable on demand, nor restored."""

    key: str
    etag: str
    size: int
    modified: float
    storage_class: str | None
    archived: bool

    @property
    def identity(self) -> tuple[str, int, float]:
        """While it stands, so does what is known of the content."""
        return self.etag, self.size, self.modified


@dataclass(frozen=True)
class Listing:
    """Objects by key. `now` is the server's clock at the first page, which came at `at` on the monotonic clock and took `latency`
    seconds."""

    objects: dict[str, Listed]
    now: float | None
    latency: float | None
    at: float = 0.0

    def clock(self) -> float | None:
        """The server's clock now, as far as it was told."""
        return None if self.now is None else self.now + time.monotonic() - self.at


def list_objects(
    client: Any,
    bucket: str,
    prefixes: Collection[str],
    deadline: float | None = None,
    on_page: Callable[[], None] = lambda: None,
) -> Listing:
    """List the objects below each prefix, at the same time. `deadline` is on the monotonic clock; what `on_page` raises ends it.

    Keys that are no plain relative paths, and those that stand for folders, are left out. Raises ListingBroken and
    s3_client.Failure.
    """
    stop = Event()
    answers: queue.SimpleQueue[Listing | Exception] = queue.SimpleQueue()
    asked = list(dict.fromkeys(prefixes))
    if not asked:
        return Listing({}, None, None)

    def in_time() -> None:
        if stop.is_set() or (deadline is not None and time.monotonic() >= deadline):
            raise ListingBroken("the listing took too long", timeout=True)

    def run(prefix: str) -> None:
        try:
            answers.put(_list_one(client, bucket, prefix, in_time, on_page))
        except Exception as error:  # handed to the caller
            answers.put(error)

    for prefix in asked:  # in threads that keep no process from ending
        Thread(target=run, args=(prefix,), name=f"s3-list {prefix}", daemon=True).start()
    listings: list[Listing] = []
    try:
        while len(listings) < len(asked):
            told = answers.get(timeout=None if deadline is None else max(deadline - time.monotonic(), 0))
            if isinstance(told, Exception):
                raise told
            listings.append(told)
    except queue.Empty:
        raise ListingBroken("the listing took too long", timeout=True) from None
    finally:
        stop.set()
    objects = {key: listed for part in listings for key, listed in part.objects.items()}
    first = listings[0]
    return Listing(objects, first.now, first.latency, first.at)


class UnderWay:
    """A listing in a thread of its own, which goes on while somebody asks for it now and then."""

    def __init__(self, client: Any, bucket: str, prefixes: Collection[str]) -> None:
        self.asked_at = time.monotonic()
        self.ended_at: float | None = None
        self.pages = 0
        self._seen = 0
        self._outcome: Listing | Exception | None = None
        self._thread = Thread(target=self._run, args=(client, bucket, prefixes), name=f"s3-list {bucket}", daemon=True)
        self._thread.start()

    @property
    def is_over(self) -> bool:
        """Whether there is nothing to wait for any more: it failed, or what it told is old."""
        old = self.ended_at is not None and time.monotonic() - self.ended_at > RESULT_SECONDS
        return old or isinstance(self._outcome, Exception)

    def result(self, timeout: float) -> Listing | None:
        """What was listed, or None if that goes on after `timeout` seconds. Raises ListingBroken and s3_client.Failure."""
        self._thread.join(max(timeout, 0))
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome

    def went_on(self) -> bool:
        """Whether a page came since this was asked last."""
        before, self._seen = self._seen, self.pages
        return self._seen > before

    def _run(self, client: Any, bucket: str, prefixes: Collection[str]) -> None:
        try:
            self._outcome = list_objects(client, bucket, prefixes, time.monotonic() + LISTING_SECONDS, self._on_page)
        except Exception as error:  # handed to whoever asks
            self._outcome = error
        self.ended_at = time.monotonic()

    def _on_page(self) -> None:
        self.pages += 1
        if time.monotonic() - self.asked_at > FORSAKEN_SECONDS:
            raise ListingBroken("nobody asks for the listing any more", timeout=True)


class Listings:
    """The listings under way in this process, and those that ended and nobody had yet. Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._known: dict[tuple[str, str, tuple[str, ...]], UnderWay] = {}

    def join(self, client: Any, bucket: str, prefixes: Collection[str]) -> tuple[UnderWay, bool]:
        """The listing of a bucket, and whether it was begun before; one that failed, or is old, is begun anew."""
        key = (str(client.meta.endpoint_url), bucket, tuple(prefixes))
        with self._lock:
            self._known = {each: listing for each, listing in self._known.items() if not listing.is_over}
            known = self._known.get(key)
            if known is not None:
                known.asked_at = time.monotonic()
                return known, True
            self._known[key] = begun = UnderWay(client, bucket, prefixes)
            return begun, False

    def drop(self, listing: UnderWay) -> None:
        """Somebody has its result: the next question begins a new one."""
        with self._lock:
            self._known = {key: each for key, each in self._known.items() if each is not listing}


def _list_one(client: Any, bucket: str, prefix: str, in_time: Callable[[], None], on_page: Callable[[], None]) -> Listing:
    objects: dict[str, Listed] = {}
    now = latency = None
    started = at = time.monotonic()
    for page in _pages(client, bucket, prefix, in_time):
        on_page()
        if latency is None:
            at = time.monotonic()
            latency, now = at - started, _date(page)
        for entry in page.get("Contents", ()):
            listed = _listed(entry)
            if listed is not None:
                objects[listed.key] = listed
        if len(objects) > MAX_OBJECTS:
            raise ListingBroken(f"more than {MAX_OBJECTS} objects below {prefix!r}")
    return Listing(objects, now, latency, at)


def _pages(client: Any, bucket: str, prefix: str, in_time: Callable[[], None]) -> Iterator[dict[str, Any]]:
    in_time()
    pages = client.get_paginator("list_objects_v2").paginate(
        Bucket=bucket,
        Prefix=prefix,
        OptionalObjectAttributes=["RestoreStatus"],
        PaginationConfig={"PageSize": PAGE_OBJECTS},
    )
    for number, page in enumerate(pages):
        yield page
        if number > MAX_OBJECTS / PAGE_OBJECTS:
            raise ListingBroken(f"the listing of {prefix!r} does not end")
        in_time()


def _listed(entry: dict[str, Any]) -> Listed | None:
    size, modified = entry.get("Size"), entry.get("LastModified")
    try:
        key = _PATH.validate_python(entry.get("Key"))
    except ValidationError:
        return None
    if not isinstance(size, int) or not 0 <= size <= MAX_SIZE or not isinstance(modified, datetime):
        return None
    storage_class = entry.get("StorageClass")
    return Listed(
        key,
        plain_etag(entry.get("ETag")),
        size,
        max(modified.timestamp(), 0.0),
        storage_class,
        storage_class in NOT_ON_DEMAND and not _restored(entry.get("RestoreStatus")),
    )


def plain_etag(etag: object) -> str:
    """Without the quotes that some answers have and others have not."""
    return str(etag or "").strip('"')[:200]


def _restored(status: object) -> bool:
    """Whether a copy can be read: S3 tells an expiry date only then."""
    return isinstance(status, dict) and not status.get("IsRestoreInProgress") and status.get("RestoreExpiryDate") is not None


def _date(page: dict[str, Any]) -> float | None:
    try:
        return parsedate_to_datetime(page["ResponseMetadata"]["HTTPHeaders"]["date"]).timestamp()
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
