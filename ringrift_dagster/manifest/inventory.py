"""What a source says that a location holds: the contract between agents, drives, buckets and the store.

Only the shape of an answer and its bounds belong here. Everything that came over a wire passes through these models, so what they
let through is safe to store: paths are relative and plain, numbers are within bounds, configs are among the twelve.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Protocol

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from ringrift_dagster.games.config import CONFIG_KEYS

CHUNK_SIZE = 4 << 20
"""Bytes of one chunk of a chunk table; the last may be shorter."""

CHUNK_DIGEST_BYTES = 32
MAX_PATH = 1024
MAX_SIZE = 1 << 50
MAX_PROVENANCE = 16


class ItemType(StrEnum):
    """What an item is."""

    GAME_DB = "GAME_DB"
    CANONICAL_GAMES = "CANONICAL_GAMES"
    NPZ = "NPZ"
    CHECKPOINT = "CHECKPOINT"
    MODEL = "MODEL"


class Soundness(StrEnum):
    """Whether an item's content passed the check of its type; UNKNOWN where there is none, or nobody looked."""

    SOUND = "SOUND"
    UNSOUND = "UNSOUND"
    UNKNOWN = "UNKNOWN"


class Gone(StrEnum):
    """Why a path no longer holds what it held."""

    VANISHED = "vanished"
    """The file is not there any more; nobody said it would go."""
    REPLACED = "replaced"
    """Another content stands there under the same name."""
    SUPERSEDED = "superseded"
    """The source itself retired it: a snapshot that a later one of the same database succeeds."""


UNTRACKED_REASONS = (
    "empty",  # zero bytes
    "unreadable",  # permission, I/O error, no sound game database
    "unknown_config",  # neither content nor name tell one of the twelve configs
    "in_flux",  # changed while it was being hashed; looked at again next time
    "unsafe_link",  # a symbolic link that dangles, loops or leads out of the root
    "live_database",  # a database with a write-ahead log where only finished files are expected
    "set_aside",  # in a holdout, quarantine or corrupted directory: never training data
    "no_hash",  # an object nobody has hashed yet
    "no_room",  # a snapshot would not leave enough free space
    "archived",  # in a storage class that cannot be read on demand
    "pending",  # seen, not hashed yet
)
"""Why a file is on disk and not an item."""


def _safe_path(text: str) -> str:
    parts = text.split("/")
    if text.startswith("/") or any(part in ("", ".", "..") for part in parts):
        raise ValueError("not a plain relative path")
    if not text.isprintable() or "\\" in text:
        raise ValueError("control character or backslash in path")
    return text


def _known_config(text: str) -> str:
    if text not in CONFIG_KEYS:
        raise ValueError("not one of the twelve configs")
    return text


RelativePath = Annotated[str, StringConstraints(min_length=1, max_length=MAX_PATH), AfterValidator(_safe_path)]
"""POSIX, relative to the location's root, without `.` and `..`."""
Sha256 = Annotated[str, StringConstraints(pattern=re.compile(r"^[0-9a-f]{64}\Z"))]
ConfigKey = Annotated[str, AfterValidator(_known_config)]
Name = Annotated[str, StringConstraints(pattern=re.compile(r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,99}\Z"))]
"""Of a host, a location or a root."""
Bytes = Annotated[int, Field(ge=0, le=MAX_SIZE, strict=True)]
Count = Annotated[int, Field(ge=0, le=1 << 40, strict=True)]
Seconds = Annotated[float, Field(ge=0, le=1 << 40, allow_inf_nan=False)]
"""A time: seconds since 1970, UTC."""


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class FoundItem(_Answer):
    """One file or object that is an item, with what its content tells. `quality` is 0 to 1, None if nothing was scored."""

    path: RelativePath
    sha256: Sha256
    size: Bytes
    type: ItemType
    mtime: Seconds = 0.0
    config: ConfigKey | None = None
    games: Count | None = None
    samples: Count | None = None
    quality: Annotated[float, Field(ge=0, le=1)] | None = None
    newest_game: Seconds | None = None
    elo: Annotated[float, Field(ge=-10_000, le=10_000)] | None = None
    soundness: Soundness = Soundness.UNKNOWN
    reason: Annotated[str, StringConstraints(max_length=300)] | None = None
    verified_at: Seconds | None = None
    damaged: bool = False
    """The bytes no longer are what `sha256` says: found by re-hashing."""
    provenance: dict[Annotated[str, StringConstraints(max_length=50)], Annotated[str, StringConstraints(max_length=500)]] = Field(
        default_factory=dict, max_length=MAX_PROVENANCE
    )
    chunks: Annotated[str, StringConstraints(max_length=16 << 20)] | None = None
    """The chunk table: BLAKE3 digests of CHUNK_SIZE chunks, concatenated, in base64."""

    @model_validator(mode="after")
    def _whole_chunk_table(self) -> FoundItem:
        if self.chunks is not None:
            digests = base64.b64decode(self.chunks, validate=True)
            if len(digests) != CHUNK_DIGEST_BYTES * chunk_count(self.size):
                raise ValueError("the chunk table does not fit the size")
        return self


class UntrackedFile(_Answer):
    """On disk, and not an item; `reason` is one of UNTRACKED_REASONS."""

    path: RelativePath
    size: Bytes
    mtime: Seconds
    reason: Annotated[str, Field(pattern="^(" + "|".join(UNTRACKED_REASONS) + ")$")]
    detail: Annotated[str, StringConstraints(max_length=300)] | None = None


class SourceDatabase(_Answer):
    """A live database: never an item. `games` counts finished games of at least five moves, as of its last snapshot."""

    path: RelativePath
    size: Bytes
    mtime: Seconds
    games: dict[ConfigKey, Count] = Field(default_factory=dict)
    newest_game: Seconds | None = None
    snapshot: Sha256 | None = None


class GonePath(_Answer):
    """A path that no longer holds what it held."""

    path: RelativePath
    reason: Gone = Gone.VANISHED


class Disk(_Answer):
    """Of the file system that holds the root, in bytes."""

    total: Bytes
    free: Bytes


@dataclass
class Inventory:
    """A source's answer about one location.

    `full`: `found`, `untracked` and `databases` are everything there is, and what is not in them is gone. Otherwise they are what
    changed since the cursor that was given. `epoch` names the source's memory: a cursor is good within its epoch only. `now` is the
    source's own clock when it answered; `latency` is in seconds.
    """

    location: str
    epoch: str
    cursor: int
    full: bool
    found: list[FoundItem] = field(default_factory=list)
    gone: list[GonePath] = field(default_factory=list)
    untracked: list[UntrackedFile] = field(default_factory=list)
    databases: list[SourceDatabase] = field(default_factory=list)
    disk: Disk | None = None
    now: float | None = None
    latency: float | None = None
    pending: int = 0
    """Files seen and not hashed yet; they follow in a later answer."""
    begun_earlier: bool = False
    """It was begun for an earlier question, and may be as old as the first of those that had no answer."""
    strangers: list[str] = field(default_factory=list)
    """Names of hosts that showed up and are not in the hosts file."""


@dataclass(frozen=True)
class Cursor:
    """How far a source was read."""

    epoch: str
    position: int


@dataclass(frozen=True)
class Scrubbed:
    """What re-hashing found: bytes and files read, paths whose content is not what it was, files whose turn has not come yet."""

    files: int
    bytes: int
    damaged: tuple[str, ...]
    remaining: int


NO_ANSWER_CODES = (
    "refused",  # nobody listens there
    "timeout",  # no answer in time
    "unreachable",  # no route, no such name
    "unauthorized",  # our token or key is not accepted
    "not_found",  # no such bucket, root or endpoint
    "server_error",  # the other side failed
    "bad_answer",  # an answer that breaks the contract: nothing of it is used
    "wrong_node",  # another host answers at this address
    "not_mounted",  # the place is known and not there: sentinel file missing
    "disk_error",  # the file system failed
    "unfinished",  # it is telling, and goes on with that when it is asked next
)
CONTACT_CODES = frozenset({"unfinished"})
"""Those of a place that is there, and told something: nothing can be taken in yet, and it is not silent."""


class NoAnswer(Exception):
    """A source told nothing, or not all of it: `code` is one of NO_ANSWER_CODES. Says nothing about what the location holds."""

    def __init__(self, location: str, code: str, detail: str) -> None:
        super().__init__(f"{location}: {code}: {detail}")
        self.location = location
        self.code = code
        self.detail = " ".join(detail.split())[:300]


class Source(Protocol):
    """A place that can be asked what it holds. Both calls are safe to repeat, and to abandon at any moment."""

    @property
    def location(self) -> str:
        """The location's name."""
        ...

    def read(self, since: Cursor | None, timeout: float) -> Inventory:
        """What the location holds, or what changed since a cursor. Raises NoAnswer, within about `timeout` seconds."""
        ...

    def scrub(self, max_bytes: int, timeout: float) -> Scrubbed:
        """Re-hash up to `max_bytes` of what was verified longest ago. Raises NoAnswer."""
        ...


def chunk_count(size: int) -> int:
    """Chunks of an item of so many bytes; an empty one has none."""
    return -(-size // CHUNK_SIZE)
