"""Our consolidated manifest of a bucket: which object has which content, for whoever reads the bucket without us.

It stands beside RingRift's `consolidated/manifest.json`, under a name of its own: RingRift's daemon rewrites that file every hour
and its readers expect counts there, so one file cannot serve both. It never names an object that was not seen in the bucket, with
the right size, right before: a manifest that runs ahead of its objects sends readers to what is not there. Uploading is not done
here.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from ringrift_dagster.manifest.inventory import (
    Bytes,
    ConfigKey,
    Count,
    FoundItem,
    ItemType,
    RelativePath,
    Seconds,
    Sha256,
    Soundness,
)
from ringrift_dagster.manifest.sources.s3_client import CONNECTIONS, Failure, code_of, status_of
from ringrift_dagster.manifest.sources.s3_listing import Listed, list_objects, plain_etag
from ringrift_dagster.manifest.sources.s3_metadata import hash_in

MANIFEST_NAME = "ringrift-data-manifest.json"
DEFAULT_PREFIX = "consolidated"
VERSION = 1
MAX_BYTES = 256 << 20
"""A larger manifest is not read."""


class ManifestUnreadable(Exception):
    """What stands in the manifest's place is no manifest; the message says why."""


class PublishFailed(Exception):
    """What was read back is not what was written: another writer, or a server that lies."""


class ManifestObject(BaseModel):
    """One object. `etag` is the one it had when it was last seen: it tells a later overwriting, never the content."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    key: RelativePath
    sha256: Sha256
    size: Bytes
    type: ItemType
    etag: Annotated[str, StringConstraints(max_length=200)] = ""
    config: ConfigKey | None = None
    games: Count | None = None
    samples: Count | None = None
    quality: Annotated[float, Field(ge=0, le=1)] | None = None
    newest_game: Seconds | None = None
    elo: Annotated[float, Field(ge=-10_000, le=10_000)] | None = None
    soundness: Soundness = Soundness.UNKNOWN

    def facts(self) -> dict[str, Any]:
        """What it tells about the content beside hash and size."""
        return self.model_dump(mode="json", exclude={"key", "sha256", "size", "etag"}, exclude_none=True)


class _Written(BaseModel):
    version: Literal[1]
    written_at: Seconds
    objects: list[Any]


@dataclass(frozen=True)
class Manifest:
    """The manifest as it stands in the bucket. `modified` is the server's clock; `invalid` entries were left out."""

    written_at: float
    modified: float
    etag: str
    objects: dict[str, ManifestObject]
    invalid: int = 0


@dataclass(frozen=True)
class Published:
    """`written` objects are named by the manifest now; `dangling` keys are not, since the bucket does not hold what they say.

    `changed`: a manifest was written; else the one that stood there said all of it already.
    """

    written: int
    dangling: list[str]
    changed: bool


def manifest_key(prefix: str = DEFAULT_PREFIX) -> str:
    return "/".join(part for part in (prefix.strip("/"), MANIFEST_NAME) if part)


def read_manifest(client: Any, bucket: str, prefix: str = DEFAULT_PREFIX) -> Manifest | None:
    """The manifest, or None if there is none. Raises ManifestUnreadable and s3_client.Failure."""
    read = _get(client, bucket, manifest_key(prefix))
    if read is None:
        return None
    data, answer = read
    try:
        written = _Written.model_validate(orjson.loads(data))
    except (orjson.JSONDecodeError, ValidationError, RecursionError) as error:
        raise ManifestUnreadable(f"{manifest_key(prefix)}: {' '.join(str(error).split())[:200]}") from error
    objects = {}
    for told in written.objects:
        try:
            entry = _OBJECT.validate_python(told)
        except ValidationError:
            continue
        objects[entry.key] = entry
    modified = answer["LastModified"].timestamp()
    return Manifest(written.written_at, modified, plain_etag(answer.get("ETag")), objects, len(written.objects) - len(objects))


def publish_manifest(
    client: Any,
    bucket: str,
    prefix: str,
    entries: Iterable[FoundItem | ManifestObject],
    *,
    clock: Callable[[], float] = time.time,
) -> Published:
    """Write the manifest of `entries`, as far as the bucket holds them now; an item's path is its key.

    An entry is dangling if there is no such object, or one of another size, or whose metadata claims another hash. Raises
    PublishFailed and s3_client.Failure; the manifest that stood there before then stands there still, or the new one does.
    """
    named = {entry.key: entry for entry in map(_entry, entries)}
    try:
        before = read_manifest(client, bucket, prefix)
    except ManifestUnreadable:
        before = None
    vouched = before.objects if before else {}
    listed = list_objects(client, bucket, sorted({key.partition("/")[0] for key in named})).objects
    present = [
        entry.model_copy(update={"etag": listed[key].etag})
        for key, entry in sorted(named.items())
        if key in listed and listed[key].size == entry.size
    ]
    unseen = [entry for entry in present if not _vouches(vouched.get(entry.key), entry, listed[entry.key])]
    with ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="s3-head") as pool:
        contradicted = {
            entry.key for entry, holds in zip(unseen, pool.map(partial(_holds, client, bucket), unseen), strict=True) if not holds
        }
    objects = [entry for entry in present if entry.key not in contradicted]
    dangling = sorted(named.keys() - {entry.key for entry in objects})
    if before and not before.invalid and before.objects == {entry.key: entry for entry in objects}:
        return Published(len(objects), dangling, changed=False)
    _put(client, bucket, manifest_key(prefix), objects, clock())
    return Published(len(objects), dangling, changed=True)


_OBJECT: TypeAdapter[ManifestObject] = TypeAdapter(ManifestObject)


def _entry(entry: FoundItem | ManifestObject) -> ManifestObject:
    if isinstance(entry, ManifestObject):
        return entry
    return ManifestObject.model_validate({"key": entry.path, **entry.model_dump()})


def _vouches(before: ManifestObject | None, entry: ManifestObject, listed: Listed) -> bool:
    """Whether the last manifest named the same content, and the object was not overwritten since."""
    return before is not None and before.sha256 == entry.sha256 and before.etag == listed.etag != ""


def _holds(client: Any, bucket: str, entry: ManifestObject) -> bool:
    """Whether the object is there, unchanged since it was listed, and does not claim to be something else."""
    try:
        answer = client.head_object(Bucket=bucket, Key=entry.key)
    except Failure as error:
        if status_of(error) == 404:
            return False
        raise
    claimed = hash_in(answer.get("Metadata", {}))
    same = answer.get("ContentLength") == entry.size and plain_etag(answer.get("ETag")) == entry.etag
    return same and claimed in (None, entry.sha256)


def _put(client: Any, bucket: str, key: str, objects: Sequence[ManifestObject], at: float) -> None:
    told = [entry.model_dump(mode="json", exclude_none=True) for entry in objects]
    data = orjson.dumps({"version": VERSION, "written_at": at, "objects": told})
    digest = hashlib.sha256(data).hexdigest()
    client.put_object(Bucket=bucket, Key=key, Body=data, ContentType="application/json", Metadata={"sha256": digest})
    read = _get(client, bucket, key)
    if read is None or hashlib.sha256(read[0]).hexdigest() != digest:
        raise PublishFailed(f"{key} is not what was written to it; publish again")


def _get(client: Any, bucket: str, key: str) -> tuple[bytes, dict[str, Any]] | None:
    try:
        answer = client.get_object(Bucket=bucket, Key=key)
    except Failure as error:
        if status_of(error) == 404 and code_of(error) != "NoSuchBucket":
            return None
        raise
    with closing(answer["Body"]) as body:
        data = body.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ManifestUnreadable(f"{key} is larger than {MAX_BYTES} bytes")
    return data, answer
