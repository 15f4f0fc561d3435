"""Listing a bucket: every object below some prefixes, all of them or none.

A listing that breaks off in the middle is no listing: the error is passed on, and nothing can be taken for gone. What an object is,
is not known here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from threading import Event
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ringrift_dagster.manifest.inventory import MAX_SIZE, RelativePath

PAGE_OBJECTS = 1000
MAX_OBJECTS = 5_000_000
"""A listing that goes on beyond so many objects is taken for an endless one."""
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
    """Objects by key. `now` is the server's clock, `latency` the seconds that its first page took."""

    objects: dict[str, Listed]
    now: float | None
    latency: float | None


def list_objects(client: Any, bucket: str, prefixes: Collection[str], deadline: float | None = None) -> Listing:
    """List the objects below each prefix, at the same time. `deadline` is on the monotonic clock.

    Keys that are no plain relative paths, and those that stand for folders, are left out. Raises ListingBroken and
    s3_client.Failure.
    """
    stop = Event()
    if not prefixes:
        return Listing({}, None, None)

    def in_time() -> None:
        if stop.is_set() or (deadline is not None and time.monotonic() >= deadline):
            raise ListingBroken("the listing took too long", timeout=True)

    pool = ThreadPoolExecutor(len(prefixes), thread_name_prefix="s3-list")
    try:
        parts = [pool.submit(_list_one, client, bucket, prefix, in_time) for prefix in dict.fromkeys(prefixes)]
        done, waiting = wait(parts, None if deadline is None else max(deadline - time.monotonic(), 0), FIRST_EXCEPTION)
        broken = next((error for part in done if (error := part.exception())), None)
        if broken:
            raise broken
        if waiting:
            raise ListingBroken("the listing took too long", timeout=True)
    finally:
        stop.set()
        pool.shutdown(wait=False, cancel_futures=True)
    listings = [part.result() for part in parts]
    objects = {key: listed for part in listings for key, listed in part.objects.items()}
    return Listing(objects, listings[0].now, listings[0].latency)


def _list_one(client: Any, bucket: str, prefix: str, in_time: Callable[[], None]) -> Listing:
    objects: dict[str, Listed] = {}
    now = latency = None
    started = time.monotonic()
    for page in _pages(client, bucket, prefix, in_time):
        if latency is None:
            latency = time.monotonic() - started
            now = _date(page)
        for entry in page.get("Contents", ()):
            listed = _listed(entry)
            if listed is not None:
                objects[listed.key] = listed
        if len(objects) > MAX_OBJECTS:
            raise ListingBroken(f"more than {MAX_OBJECTS} objects below {prefix!r}")
    return Listing(objects, now, latency)


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
