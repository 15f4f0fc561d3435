"""A bucket as a location: what it lists, what its objects are said to hold, and, read through from time to time, what they do hold.

An ETag tells that an object changed, never what it is: with parts or another server it is no hash at all. An object is an item once
its SHA-256 is known: from its metadata, from our own manifest, or because a scrub read it. Nothing is uploaded or deleted here.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ringrift_dagster.manifest.inventory import (
    Cursor,
    FoundItem,
    Inventory,
    ItemType,
    NoAnswer,
    Scrubbed,
    UntrackedFile,
)
from ringrift_dagster.manifest.sources.layouts import SHARED, is_listed
from ringrift_dagster.manifest.sources.s3_cache import Known, S3Cache
from ringrift_dagster.manifest.sources.s3_client import CONNECTIONS, Failure, code_of, failure_code, no_answer, status_of
from ringrift_dagster.manifest.sources.s3_listing import NOT_ON_DEMAND, Listed, Listing, ListingBroken, Listings, plain_etag
from ringrift_dagster.manifest.sources.s3_manifest import (
    DEFAULT_PREFIX,
    ManifestObject,
    ManifestUnreadable,
    manifest_key,
    read_manifest,
)
from ringrift_dagster.manifest.sources.s3_metadata import config_of, facts_in, hash_in, refined_type, type_of
from ringrift_dagster.manifest.sources.s3_ringrift import node_ids

DEFAULT_PREFIXES = ("nodes/", "consolidated/", "models/", "owc/")
"""Where RingRift puts what it keeps; `transfers/` holds copies under way, under names that collide."""
HEAD_BATCH = 256
RETRY_SECONDS = 3600.0
"""An object whose metadata was refused is asked again after so long."""
SCRUB_AGAIN_SECONDS = 24 * 3600.0
"""An object that was read through is left alone for so long: reading costs money."""
READ_BLOCK = 1 << 20
_OWN_SHARE = 0.85
"""Of the time given, for asking; the rest is for putting the answer together."""
_LISTING_SHARE = 0.7
"""Of the time for asking, for waiting for the listing: what it leaves is for metadata."""
_LISTINGS = Listings()

T = TypeVar("T")


@dataclass
class _Reading:
    """An object that is being read through: how far, and the hash so far. Lives as long as the source."""

    known: Known
    position: int = 0
    digest: Any = field(default_factory=hashlib.sha256)


class S3Source:
    """Implements `inventory.Source` over a bucket.

    `client` is a boto3 S3 client whose requests are bounded in time, `cache` the file that remembers what objects were said to be.
    Node ids outside `strangers_known` are reported as strangers. `manifest_prefix` is where our own manifest stands.
    """

    def __init__(
        self,
        location: str,
        client: Any,
        bucket: str,
        *,
        cache: Path,
        prefixes: Sequence[str] = DEFAULT_PREFIXES,
        strangers_known: Collection[str] = (),
        manifest_prefix: str = DEFAULT_PREFIX,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._location = location
        self._client = client
        self._bucket = bucket
        self._cache = S3Cache(cache, f"s3 {bucket}")
        self._manifest_prefix = manifest_prefix
        self._manifest_key = manifest_key(manifest_prefix)
        covered = any(self._manifest_key.startswith(prefix) for prefix in prefixes)
        self._prefixes = tuple(prefixes) if covered else (*prefixes, self._manifest_key)
        self._strangers_known = frozenset(strangers_known)
        self._clock = clock
        self._manifest: tuple[str, dict[str, ManifestObject]] = ("", {})
        self._scrubbing = threading.Lock()
        self._reading: _Reading | None = None

    @property
    def location(self) -> str:
        return self._location

    def read(self, since: Cursor | None, timeout: float) -> Inventory:
        """What the bucket holds. It is listed as a whole each time, so `since` does not matter; the answer is full unless objects
        are still to be asked for their metadata: then nothing may be taken for gone. Raises NoAnswer.

        A listing for which the time is too short goes on, and the next question has it, whichever source of this process asks."""
        return self._within(timeout, self._read)

    def scrub(self, max_bytes: int, timeout: float) -> Scrubbed:
        """Read through what was verified longest ago, what has no hash first: at least one object, at most about `max_bytes`.

        An object for which the time is too short is gone on with by the next call on the same source. Raises NoAnswer.
        """
        return self._within(timeout, lambda deadline: self._scrub(max_bytes, deadline))

    def _within(self, timeout: float, work: Callable[[float], T]) -> T:
        """Run it in a thread that is left behind when time is over; its requests end by themselves."""
        outcome: list[T | Exception] = []
        deadline = time.monotonic() + timeout * _OWN_SHARE

        def run() -> None:
            try:
                outcome.append(work(deadline))
            except Exception as error:  # handed to the caller
                outcome.append(error)

        thread = threading.Thread(target=run, name=f"s3 {self._location}", daemon=True)
        thread.start()
        thread.join(timeout)
        if not outcome:
            raise NoAnswer(self._location, "timeout", f"no answer from {self._bucket} in {timeout:g} s")
        result = outcome[0]
        if isinstance(result, ListingBroken):
            raise NoAnswer(self._location, "timeout" if result.timeout else "bad_answer", str(result)) from result
        if isinstance(result, OSError) and not isinstance(result, Failure):
            raise NoAnswer(self._location, "disk_error", str(result)) from result
        if isinstance(result, Failure):
            raise no_answer(self._location, result) from result
        if isinstance(result, Exception):
            raise result
        return result

    def _read(self, deadline: float) -> Inventory:
        listing, begun_earlier = self._list(time.monotonic() + (deadline - time.monotonic()) * _LISTING_SHARE)
        objects = {key: listed for key, listed in listing.objects.items() if _is_item(key)}
        asked = {key: listed for key, listed in objects.items() if listed.size and not SHARED.is_set_aside(key)}
        known, epoch = self._remember(asked)
        self._believe_manifest(listing, known)
        for key in self._ask(known, deadline):
            del objects[key]
        found, untracked = [], []
        for key, listed in objects.items():
            entry = _entry(listed, known.get(key))
            (found if isinstance(entry, FoundItem) else untracked).append(entry)
        pending = sum(entry.reason == "pending" for entry in untracked)
        return Inventory(
            self._location,
            epoch,
            0,
            full=pending == 0,
            found=found,
            untracked=untracked,
            now=listing.clock(),
            latency=listing.latency,
            pending=pending,
            begun_earlier=begun_earlier,
            strangers=[node for node in node_ids(listing.objects) if node not in self._strangers_known],
        )

    def _list(self, deadline: float) -> tuple[Listing, bool]:
        """The listing, and whether an earlier question began it. Raises NoAnswer, ListingBroken and Failure."""
        while True:
            under_way, begun_earlier = _LISTINGS.join(self._client, self._bucket, self._prefixes)
            try:
                listing = under_way.result(deadline - time.monotonic())
            except (ListingBroken, *Failure):
                _LISTINGS.drop(under_way)
                if begun_earlier and time.monotonic() < deadline:
                    continue  # the server may be well by now
                raise
            if listing is not None:
                _LISTINGS.drop(under_way)
                return listing, begun_earlier
            code = "unfinished" if under_way.went_on() else "timeout"
            raise NoAnswer(self._location, code, f"the listing of {self._bucket} goes on: {under_way.pages:,} pages so far")

    def _remember(self, objects: dict[str, Listed]) -> tuple[dict[str, Known], str]:
        """What is known of the objects, and the epoch of that knowledge."""
        with self._cache.session() as session:
            known = session.all()
            fresh = [listed for key, listed in objects.items() if key not in known or known[key].identity != listed.identity]
            session.begin(fresh)
            session.forget(known.keys() - objects.keys())
            known = {key: known[key] for key in known.keys() & objects.keys()}
            known |= {listed.key: Known(listed.key, *listed.identity, readable=not listed.archived) for listed in fresh}
            changed = [each for key, each in known.items() if each.readable == objects[key].archived]
            for each in changed:
                each.readable = not each.readable
            session.note_readable(changed)
            return known, session.epoch

    def _believe_manifest(self, listing: Listing, known: dict[str, Known]) -> None:
        """Take from our manifest what metadata does not tell, for objects that are not newer than it. It stays known when the
        manifest goes: nothing is lost by that."""
        standing = listing.objects.get(self._manifest_key)
        if standing is None or standing.archived:
            return
        if self._manifest[0] != standing.etag:
            try:
                manifest = read_manifest(self._client, self._bucket, self._manifest_prefix)
            except ManifestUnreadable:
                manifest = None
            self._manifest = (standing.etag, manifest.objects if manifest else {})
        told = []
        for key, entry in self._manifest[1].items():
            each = known.get(key)
            if each is None or each.origin == "metadata" or each.size != entry.size or each.modified > standing.modified:
                continue
            facts = entry.facts()
            if entry.etag in ("", each.etag) and (each.claimed, each.facts) != (entry.sha256, facts):
                each.claimed, each.origin, each.facts = entry.sha256, "manifest", facts
                told.append(each)
        if told:
            with self._cache.session() as session:
                session.note_told(told)

    def _ask(self, known: dict[str, Known], deadline: float) -> list[str]:
        """Ask objects for their metadata as long as there is time; returns keys that turned out to be gone.

        One that cannot be answered now stays pending. If most cannot, the server is in trouble and is left in peace.
        """
        again = self._clock() - RETRY_SECONDS
        todo = [each for each in known.values() if each.headed_at is None]
        todo += [each for each in known.values() if each.problem is not None and (each.headed_at or 0) < again]
        gone: list[str] = []
        pool = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="s3-head")
        try:
            for start in range(0, len(todo), HEAD_BATCH):
                if time.monotonic() >= deadline:
                    break
                batch = todo[start : start + HEAD_BATCH]
                outcomes = list(pool.map(lambda each: self._head(each, deadline), batch))
                with self._cache.session() as session:
                    session.note_told([each for each, outcome in zip(batch, outcomes, strict=True) if outcome == "told"])
                gone += [each.key for each, outcome in zip(batch, outcomes, strict=True) if outcome == "gone"]
                if outcomes.count("failed") > len(batch) / 2:
                    break
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        return gone

    def _head(self, each: Known, deadline: float) -> str:
        """Ask one object: "told" what there is to know, "gone", "failed" for now, or "late"."""
        if time.monotonic() >= deadline:
            return "late"
        try:
            answer = self._client.head_object(Bucket=self._bucket, Key=each.key)
        except Failure as error:
            status = status_of(error)
            if status == 404:
                return "gone"
            if failure_code(error) in ("timeout", "server_error") or not status:
                return "failed"
            each.problem, each.headed_at = f"its metadata is refused: status {status}", self._clock()
            return "told"
        if plain_etag(answer.get("ETag")) != each.etag:
            return "late"  # overwritten since the listing
        metadata = answer.get("Metadata") or {}
        each.problem, each.headed_at = None, self._clock()
        claimed = hash_in(metadata)
        if claimed is not None:
            each.claimed, each.origin, each.facts = claimed, "metadata", facts_in(metadata)
        elif each.origin is None:
            each.facts = facts_in(metadata)
        return "told"

    def _scrub(self, max_bytes: int, deadline: float) -> Scrubbed:
        if not self._scrubbing.acquire(timeout=max(deadline - time.monotonic(), 0)):
            raise NoAnswer(self._location, "timeout", "another scrub of this bucket is under way")
        try:
            waiting = self._waiting()
            if waiting is None:
                self._read(deadline)
                waiting = self._waiting() or []
            if self._reading is not None:
                waiting.sort(key=lambda each: each.key != self._reading.known.key if self._reading else False)
            damaged: list[str] = []
            files = size = 0
            for each in waiting:
                if files and (size + each.size > max_bytes or time.monotonic() >= deadline):
                    break
                read, finished = self._read_through(each, deadline)
                size += read
                if not finished:
                    break
                files += 1
                if each.damaged:
                    damaged.append(each.key)
            return Scrubbed(files, size, tuple(damaged), len(waiting) - files)
        finally:
            self._scrubbing.release()

    def _waiting(self) -> list[Known] | None:
        """Objects to read through, in their order; None if nothing at all is known of the bucket yet."""
        with self._cache.session() as session:
            waiting = session.to_verify(self._clock() - SCRUB_AGAIN_SECONDS)
            return waiting if waiting or session.all() else None

    def _read_through(self, each: Known, deadline: float) -> tuple[int, bool]:
        """Read an object's bytes and note what they are; returns how many were read now, and whether that is done with.

        Done with is also what is not there any more, or is another object by now: the next inventory tells.
        """
        reading = self._reading
        if reading is None or (reading.known.key, reading.known.identity) != (each.key, each.identity):
            reading = _Reading(each)
        self._reading = None
        began = reading.position
        try:
            whole = self._stream(reading, deadline)
        except Failure as error:
            if reading.position > began:
                self._reading = reading
            else:
                self._note_tried(each)
            if code_of(error) not in ("NoSuchKey", "InvalidObjectState"):
                raise
            whole = None
        if whole is None:
            each.readable = False
            self._note_tried(each)
        elif not whole:
            self._reading = reading
            return reading.position - began, False
        else:
            each.computed = reading.digest.hexdigest()
            each.verified_at = self._clock()
            self._note_tried(each)
        return reading.position - began, True

    def _stream(self, reading: _Reading, deadline: float) -> bool | None:
        """Hash on from where the reading stands: True at the end, False if time was over, None if it is another object."""
        each = reading.known
        part = {"Range": f"bytes={reading.position}-"} if reading.position else {}
        answer = self._client.get_object(Bucket=self._bucket, Key=each.key, **part)
        with closing(answer["Body"]) as body:
            if plain_etag(answer.get("ETag")) != each.etag or answer.get("ContentLength") != each.size - reading.position:
                return None
            for block in body.iter_chunks(READ_BLOCK):
                reading.digest.update(block)
                reading.position += len(block)
                if time.monotonic() >= deadline and reading.position < each.size:
                    return False
        return True if reading.position == each.size else None

    def _note_tried(self, each: Known) -> None:
        each.tried_at = self._clock()
        with self._cache.session() as session:
            session.note_read(each)


def _is_item(key: str) -> bool:
    return type_of(key) is not None and is_listed(key.rpartition("/")[2])


def _entry(listed: Listed, known: Known | None) -> FoundItem | UntrackedFile:
    """What the inventory says of an object; `known` is None for those that nobody asks about."""
    if known is None:
        return _untracked(listed, "set_aside" if listed.size else "empty")
    if known.sha256 is None:
        if known.headed_at is None:
            return _untracked(listed, "pending")
        return _untracked(listed, "archived" if listed.archived else "no_hash", known.problem or listed.storage_class)
    type_ = type_of(listed.key) or ItemType.MODEL
    facts = {"config": config_of(listed.key), **known.facts}
    return FoundItem.model_validate(
        {
            **facts,
            "path": listed.key,
            "sha256": known.sha256,
            "size": listed.size,
            "type": refined_type(type_, facts.get("type")),
            "mtime": listed.modified,
            "verified_at": known.verified_at,
            "damaged": known.damaged,
            "provenance": _storage(listed),
        }
    )


def _storage(listed: Listed) -> dict[str, str]:
    """The storage class, as far as it matters: that of a restored object does not."""
    restored = listed.storage_class in NOT_ON_DEMAND and not listed.archived
    return {"storage_class": listed.storage_class} if listed.storage_class and not restored else {}


def _untracked(listed: Listed, reason: str, detail: str | None = None) -> UntrackedFile:
    return UntrackedFile(path=listed.key, size=listed.size, mtime=listed.modified, reason=reason, detail=detail)
