"""Filling a bucket: an item's bytes go to a place aside, are read back and hashed, and only then get their name.

A name contains the whole hash of what it names, so nothing is ever overwritten, whoever else writes, however much smaller or newer
another item of the same config is. Nothing but our own leftovers aside is ever removed. Bytes come from this machine's own files,
or from hosts' agents, which are given presigned addresses and need no keys.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from ringrift_dagster.cluster.topology import S3Place
from ringrift_dagster.manifest.inventory import CHUNK_SIZE, ItemType
from ringrift_dagster.manifest.queries import Item
from ringrift_dagster.manifest.sources.s3_client import Failure, code_of, status_of
from ringrift_dagster.manifest.sources.s3_manifest import DEFAULT_PREFIX
from ringrift_dagster.manifest.sources.s3_metadata import hash_in, metadata_of
from ringrift_dagster.transfer.agents import AgentClient, AgentRefused, AgentSilent

FOLDERS = {
    ItemType.GAME_DB: "games",
    ItemType.NPZ: "training",
    ItemType.CANONICAL_GAMES: "canonical",
    ItemType.MODEL: "models",
    ItemType.CHECKPOINT: "checkpoints",
}
"""Below the bucket's prefix."""
ASIDE = ".incoming"
"""Folder for what has no name yet; nobody takes what is in it for an item."""
PART_BYTES = 4 * CHUNK_SIZE
"""An item that is larger goes in parts of that size, several at once."""
MAX_PARTS = 9_000
PARTS_AT_ONCE = 4
COPY_BYTES = 5 << 30
"""A larger object cannot be given its name by one request."""
PRESIGNED_SECONDS = 3600
PART_SECONDS = 300.0
LEFT_SECONDS = 86_400.0
"""What lies aside for longer was left by a process that died."""
READ_BLOCK = 1 << 20
_FACTS = ("type", "config", "games", "samples", "quality", "newest_game", "elo", "soundness")


class UploadFailed(Exception):
    """The bucket does not have the item. `cause` is one of CAUSES_HERE; `liars` are locations whose copies were found wrong."""

    def __init__(self, cause: str, detail: str, liars: tuple[str, ...] = ()) -> None:
        super().__init__(f"{cause}: {detail}")
        self.cause = cause
        self.detail = " ".join(detail.split())[:300]
        self.liars = liars


class PartRefused(Exception):
    """A giver could not send a part; the message says why. `bucket`: because of where it was to go."""

    def __init__(self, detail: str, *, bucket: bool = False) -> None:
        super().__init__(detail)
        self.bucket = bucket


@dataclass(frozen=True)
class Uploaded:
    """An item in the bucket, read back: `bytes` that were sent for it, 0 if it stood there; times in seconds since 1970."""

    key: str
    mtime: float
    verified_at: float
    bytes: int
    seconds: float
    source: str | None


class Giver(Protocol):
    """Who can send an item's bytes to a bucket."""

    @property
    def location(self) -> str: ...

    def put(self, aside: Aside, start: int, length: int, part: int | None) -> str:
        """Send a range, as a part of an upload or as the whole object; returns the ETag. Raises PartRefused and Failure."""
        ...

    def proves(self, sha256: str) -> bool | None:
        """Whether its copy is what the hash says, read again just now; None if it does not say."""
        ...


@dataclass(frozen=True)
class Aside:
    """An object without a name yet."""

    client: Any
    bucket: str
    key: str
    sha256: str
    upload: str | None = None

    def where(self, part: int | None) -> dict[str, Any]:
        """What names it, or a part of it, in a request."""
        named = {"Bucket": self.bucket, "Key": self.key}
        return named if part is None else {**named, "UploadId": self.upload, "PartNumber": part}


@dataclass(frozen=True)
class LocalFile:
    """A file of this machine."""

    location: str
    path: Path

    def put(self, aside: Aside, start: int, length: int, part: int | None) -> str:
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(start)
                data = file.read(length)
        except OSError as error:
            raise PartRefused(f"{self.location}: {error.strerror or error}") from error
        if len(data) != length:
            raise PartRefused(f"{self.location}: the file is shorter than its item")
        send = aside.client.put_object if part is None else aside.client.upload_part
        return str(send(**aside.where(part), Body=data).get("ETag", ""))

    def proves(self, sha256: str) -> bool | None:
        try:
            with self.path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == sha256
        except OSError:
            return None


@dataclass(frozen=True)
class RemoteCopy:
    """A copy at a location that an agent serves."""

    location: str
    agent: AgentClient

    def put(self, aside: Aside, start: int, length: int, part: int | None) -> str:
        method = "put_object" if part is None else "upload_part"
        url = aside.client.generate_presigned_url(method, Params=aside.where(part), ExpiresIn=PRESIGNED_SECONDS)
        try:
            return self.agent.upload(aside.sha256, url, start, length, {}, timeout=PART_SECONDS).etag
        except (AgentSilent, AgentRefused) as error:
            raise PartRefused(f"{self.location}: {error}", bucket=error.code == "server_error") from error

    def proves(self, sha256: str) -> bool | None:
        try:
            return self.agent.prove(sha256).held
        except (AgentSilent, AgentRefused):
            return None


def key_of(bucket: S3Place, item: Item, suffix: str) -> str:
    """Where an item stands in the bucket: a name for this content alone."""
    folder = FOLDERS[ItemType(item.type)]
    name = item.sha256 if item.type == ItemType.GAME_DB else f"{item.config or 'any'}_{item.sha256}"
    return f"{_prefix(bucket)}/{folder}/{name}{suffix}"


def upload(
    client: Any,
    bucket: S3Place,
    item: Item,
    suffix: str,
    givers: Sequence[Giver],
    *,
    cancelled: Callable[[], bool] = lambda: False,
) -> Uploaded:
    """Bring an item into a bucket, from the first of the givers that can send it. Raises UploadFailed.

    Killed at any moment it leaves nothing but what lies aside, which `sweep` removes.
    """
    began = time.monotonic()
    key = key_of(bucket, item, suffix)
    try:
        if standing := _standing(client, bucket.bucket, key):
            if _digest(client, bucket.bucket, key, item.size, cancelled) != item.sha256:
                raise UploadFailed("occupied", f"{key} has another content than its name says")
            return Uploaded(key, standing, time.time(), 0, time.monotonic() - began, None)
        if not givers:
            raise UploadFailed("no_source", "nobody who answers can send it")
        aside = Aside(client, bucket.bucket, f"{_prefix(bucket)}/{ASIDE}/{item.sha256}/{uuid4().hex}", item.sha256)
        with _removed(aside):
            used = _send(aside, item.size, givers, cancelled)
            if _digest(client, bucket.bucket, aside.key, item.size, cancelled) != item.sha256:
                raise _wrong(item, [giver for giver in givers if giver.location in used])
            verified_at = time.time()
            _name(aside, key, item)
        mtime = _standing(client, bucket.bucket, key)
        if mtime is None:
            raise UploadFailed("upload_failed", f"{key} is not there after it was named")
        return Uploaded(key, mtime, verified_at, item.size, time.monotonic() - began, used[0] if used else None)
    except Failure as error:
        raise UploadFailed("upload_failed", f"{type(error).__name__}: {error}") from error


def sweep(client: Any, bucket: S3Place, *, at: float) -> int:
    """Remove what processes that died left aside; returns how much. A server that does not list it keeps it."""
    removed = 0
    prefix = f"{_prefix(bucket)}/{ASIDE}/"
    with suppress(*Failure):
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket.bucket, Prefix=prefix):
            for entry in page.get("Contents", ()):
                if entry["LastModified"].timestamp() < at - LEFT_SECONDS:
                    client.delete_object(Bucket=bucket.bucket, Key=entry["Key"])
                    removed += 1
        for page in client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket.bucket, Prefix=prefix):
            for entry in page.get("Uploads", ()):
                if entry["Initiated"].timestamp() < at - LEFT_SECONDS:
                    client.abort_multipart_upload(Bucket=bucket.bucket, Key=entry["Key"], UploadId=entry["UploadId"])
                    removed += 1
    return removed


def _send(aside: Aside, size: int, givers: Sequence[Giver], cancelled: Callable[[], bool]) -> list[str]:
    """Send the bytes; returns the locations that gave them, the one that gave most first."""
    if size <= PART_BYTES:
        giver, _ = _put(aside, 0, size, None, givers, cancelled)
        return [giver]
    length = max(PART_BYTES, -(-size // MAX_PARTS // CHUNK_SIZE) * CHUNK_SIZE)
    upload_id = aside.client.create_multipart_upload(Bucket=aside.bucket, Key=aside.key)["UploadId"]
    aside = Aside(aside.client, aside.bucket, aside.key, aside.sha256, upload_id)
    try:
        with ThreadPoolExecutor(PARTS_AT_ONCE, thread_name_prefix="s3-part") as pool:
            ranges = [(start, min(length, size - start)) for start in range(0, size, length)]
            waiting = [pool.submit(_put, aside, *each, number, givers, cancelled) for number, each in enumerate(ranges, 1)]
            try:
                sent = [part.result() for part in waiting]
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
        parts = [{"ETag": etag, "PartNumber": number} for number, (_, etag) in enumerate(sent, 1)]
        aside.client.complete_multipart_upload(
            Bucket=aside.bucket, Key=aside.key, UploadId=upload_id, MultipartUpload={"Parts": parts}
        )
    except BaseException:
        with suppress(*Failure):
            aside.client.abort_multipart_upload(Bucket=aside.bucket, Key=aside.key, UploadId=upload_id)
        raise
    names = [name for name, _ in sent]
    return sorted(set(names), key=names.count, reverse=True)


def _put(
    aside: Aside, start: int, length: int, part: int | None, givers: Sequence[Giver], cancelled: Callable[[], bool]
) -> tuple[str, str]:
    """Send a range from the first giver that can; returns its location and the ETag."""
    refusals: list[PartRefused] = []
    for giver in givers:
        if cancelled():
            raise UploadFailed("cancelled", "nobody wants it any more")
        try:
            return giver.location, giver.put(aside, start, length, part)
        except PartRefused as refusal:
            refusals.append(refusal)
    cause = "upload_failed" if any(refusal.bucket for refusal in refusals) else "no_source"
    raise UploadFailed(cause, "; ".join(map(str, refusals)))


def _wrong(item: Item, used: Sequence[Giver]) -> UploadFailed:
    """Whose fault it is that other bytes came back: of who sent them if his own copy is wrong, else of the way or the bucket."""
    liars = tuple(giver.location for giver in used if giver.proves(item.sha256) is False)
    if liars:
        return UploadFailed("wrong_bytes", f"{', '.join(liars)}: the copy is not what its hash says", liars)
    return UploadFailed("upload_failed", "what came back is not what was sent")


def _name(aside: Aside, key: str, item: Item) -> None:
    """Give what was verified its name, with what it is."""
    metadata = metadata_of(item.sha256, {name: getattr(item, name) for name in _FACTS})
    source = {"Bucket": aside.bucket, "Key": aside.key}
    extra = {"Metadata": metadata, "MetadataDirective": "REPLACE"}
    if item.size < COPY_BYTES:
        aside.client.copy_object(Bucket=aside.bucket, Key=key, CopySource=source, **extra)
    else:
        aside.client.copy(source, aside.bucket, key, ExtraArgs=extra)
    head = aside.client.head_object(Bucket=aside.bucket, Key=key)
    if head.get("ContentLength") != item.size or hash_in(head.get("Metadata") or {}) != item.sha256:
        aside.client.delete_object(Bucket=aside.bucket, Key=key)
        raise UploadFailed("upload_failed", f"{key} was not copied as it is")


def _standing(client: Any, bucket: str, key: str) -> float | None:
    """When the object was written; None if there is none."""
    try:
        return client.head_object(Bucket=bucket, Key=key)["LastModified"].timestamp()
    except Failure as error:
        if status_of(error) == 404 and code_of(error) != "NoSuchBucket":
            return None
        raise


def _digest(client: Any, bucket: str, key: str, size: int, cancelled: Callable[[], bool]) -> str | None:
    """The hash of an object, read through; None if it has another size."""
    digest, length = hashlib.sha256(), 0
    answer = client.get_object(Bucket=bucket, Key=key)
    with closing(answer["Body"]) as body:
        for block in body.iter_chunks(READ_BLOCK):
            digest.update(block)
            length += len(block)
            if length > size:
                return None
            if cancelled():
                raise UploadFailed("cancelled", "nobody wants it any more")
    return digest.hexdigest() if length == size else None


@contextmanager
def _removed(aside: Aside) -> Iterator[None]:
    try:
        yield
    finally:
        with suppress(*Failure):
            aside.client.delete_object(Bucket=aside.bucket, Key=aside.key)


def _prefix(bucket: S3Place) -> str:
    return bucket.prefix.strip("/") or DEFAULT_PREFIX
