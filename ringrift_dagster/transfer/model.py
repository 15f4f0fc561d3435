"""What moving data is made of: priorities, offers, orders and their outcomes. Shapes and bounds only; the wire form of pulls.

An **operation** is one durable request in the coordinator's queue. An **order** is what its target's agent is posted: items with
their hashes, sizes, chunk tables and ranked offers. Everything here may have come over a wire.
"""

from __future__ import annotations

import re
from enum import IntEnum, StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from ringrift_dagster.manifest.inventory import Bytes, ConfigKey, Count, ItemType, Name, RelativePath, Seconds, Sha256


class Priority(IntEnum):
    """How urgent an operation is; the smaller, the sooner."""

    CRITICAL = 0
    """A training job waits for it."""
    HIGH = 1
    """Training within five minutes, or DATA_NEEDED."""
    NORMAL = 2
    """Synchronisation."""
    LOW = 3
    """Replication."""
    COLD_STORAGE = 4


class TransportName(StrEnum):
    """Every transport there is."""

    SHARED = "shared"
    """In place or hard-linked from a file system that source and target both see: nothing is copied."""
    HTTP = "http"
    S3 = "s3"
    RSYNC = "rsync"
    ARIA2 = "aria2"
    BITTORRENT = "bittorrent"


Text = Annotated[str, StringConstraints(max_length=4000, pattern=re.compile(r"^[^\x00-\x1f\x7f]*\Z"))]
FileName = Annotated[str, StringConstraints(pattern=re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}\Z"))]
"""A plain name without a folder: which folder it belongs into, the target itself decides."""
Rate = Annotated[float, Field(gt=0, le=1e12, allow_inf_nan=False)]
"""Bytes a second."""
OperationId = Annotated[str, StringConstraints(pattern=re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z"))]


class _Wire(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Offer(_Wire):
    """A place that can give an item's bytes by one transport. `address` is what the transport understands: a URL, or for rsync
    `user@host:/path`; `options` are plain words for it (port, key, peers…). Secrets are never in either."""

    transport: TransportName
    location: Name
    address: Text
    options: dict[Text, Text] = Field(default_factory=dict, max_length=16)


class OrderedItem(_Wire):
    """One item to be pulled into a file `name`; the folder follows from the type (`placement`).

    `merge`: the games of a GAME_DB are added to the live database of that name; without one it becomes that database. `chunks` is
    the chunk table: BLAKE3 digests of CHUNK_SIZE chunks, concatenated, in base64. `offers` are ranked, the best first.
    """

    sha256: Sha256
    size: Bytes
    type: ItemType
    name: FileName
    config: ConfigKey | None = None
    mode: Annotated[int, Field(ge=0, le=0o777)] = 0o644
    merge: bool = False
    chunks: Annotated[str, StringConstraints(max_length=16 << 20)] | None = None
    offers: tuple[Offer, ...] = Field(min_length=1, max_length=64)


class Order(_Wire):
    """What an agent is posted. The same id again is the same order: nothing happens twice.

    `root` is one of the agent's roots. `keep_free` bytes stay free on its disk (the agent's own floor holds as well). `inbound` is
    what the link into the host bears, `outbound` what the links out of source locations do; unlimited where they say nothing.
    """

    id: OperationId
    priority: Priority
    root: Name = "tree"
    keep_free: Bytes = 0
    inbound: Rate | None = None
    outbound: dict[Name, Rate] = Field(default_factory=dict, max_length=256)
    items: tuple[OrderedItem, ...] = Field(min_length=1, max_length=1000)


class PullState(StrEnum):
    """Of an item on its way. DONE, FAILED and CANCELLED are final."""

    WAITING = "WAITING"
    RUNNING = "RUNNING"
    VERIFYING = "VERIFYING"
    DONE = "DONE"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


CAUSES = (
    "no_source",  # no offer answers
    "wrong_bytes",  # every source that answered sent something else
    "no_room",  # the disk would fall below its floor
    "read_only",  # the directory cannot be written to
    "disk_error",
    "not_sound",  # the bytes are right and the check of their type fails
    "would_lose_games",  # a database stands there that has games which the incoming one lacks, and merging was not asked for
    "occupied",  # another content stands there that nobody may overwrite
    "timeout",
    "cancelled",
    "interrupted",  # the agent was restarted; it goes on by itself
    "unplaceable",  # the root has no folder for such an item
    "failed",  # anything else, said in the detail
)
"""Why an item failed."""


class OfferOutcome(_Wire):
    """What one source was good for over one transport: the coordinator's breakers live on it. `failure`: the last, if any."""

    location: Name
    transport: TransportName
    bytes: Bytes = 0
    seconds: Seconds = 0.0
    failures: Count = 0
    wrong_chunks: Count = 0
    failure: Annotated[str, StringConstraints(max_length=50)] | None = None


class ItemProgress(_Wire):
    """How far one item is. `path` is where it stands below the root once it is DONE, `mtime` that file's.

    `next_action` says what happens, or what a person has to do, after a failure. `merged`: games that a merge added.
    """

    sha256: Sha256
    path: RelativePath | None = None
    mtime: Seconds | None = None
    merged: Count | None = None
    state: PullState
    bytes_done: Bytes = 0
    size: Bytes = 0
    transport: TransportName | None = None
    source: Name | None = None
    retries: Count = 0
    resent: Bytes = 0
    """Bytes that were fetched more than once."""
    seconds: Seconds = 0.0
    cause: Annotated[str, StringConstraints(max_length=50)] | None = None
    detail: Text | None = None
    next_action: Text | None = None
    benched: tuple[Name, ...] = ()
    """Sources that sent wrong bytes twice."""
    offers: tuple[OfferOutcome, ...] = ()
    verified_at: Seconds | None = None


class Progress(_Wire):
    """An agent's answer about an order. `version` grows with every change: whoever waits for news gives the one it knows."""

    version: Count = 0
    id: OperationId
    priority: Priority
    state: PullState
    items: tuple[ItemProgress, ...]
    received_at: Seconds
    finished_at: Seconds | None = None
