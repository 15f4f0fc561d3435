"""Every event there is: its type, its typed payload, and the envelope around it.

Shapes and bounds only; everything here may have come over a wire. How RingRift's own payloads become these is `adapters`' business.
Times are seconds since 1970, lengths of time seconds, sizes bytes, shares 0 to 1.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    StringConstraints,
    model_validator,
)

from ringrift_dagster.events.ids import is_id
from ringrift_dagster.manifest.inventory import Bytes, ConfigKey, Count, ItemType, Name, Seconds, Sha256

MAX_RAW = 16 << 10
"""Characters that are kept of what was not understood."""
MAX_TEXT = 500
MAX_MANIFEST = 128 << 10
"""Characters of a model manifest; that of twelve configs has ten thousand."""
MAX_OTHER = 40
"""Further fields of a payload that are kept as they came."""


class EventType(StrEnum):
    """What happened, or is wanted."""

    TRAINING_STARTED = "TRAINING_STARTED"
    TRAINING_COMPLETED = "TRAINING_COMPLETED"
    TRAINING_FAILED = "TRAINING_FAILED"
    TRAINING_THRESHOLD_REACHED = "TRAINING_THRESHOLD_REACHED"
    DATA_NEEDED = "DATA_NEEDED"
    DATA_STALE = "DATA_STALE"
    SELFPLAY_COMPLETE = "SELFPLAY_COMPLETE"
    NPZ_EXPORT_COMPLETE = "NPZ_EXPORT_COMPLETE"
    MODEL_PROMOTED = "MODEL_PROMOTED"
    HOST_ONLINE = "HOST_ONLINE"
    HOST_OFFLINE = "HOST_OFFLINE"
    BACKPRESSURE_ACTIVATED = "BACKPRESSURE_ACTIVATED"
    BACKPRESSURE_RELEASED = "BACKPRESSURE_RELEASED"
    DATA_AVAILABLE = "DATA_AVAILABLE"
    SYNC_COMPLETED = "SYNC_COMPLETED"
    TRAINING_BLOCKED_BY_DATA = "TRAINING_BLOCKED_BY_DATA"
    SELFPLAY_NEEDED = "SELFPLAY_NEEDED"
    DATA_TRANSFER_COMPLETE = "DATA_TRANSFER_COMPLETE"
    DATA_TRANSFER_FAILED = "DATA_TRANSFER_FAILED"
    ORPHAN_DETECTED = "ORPHAN_DETECTED"


OUTGOING = frozenset(
    {
        EventType.DATA_AVAILABLE,
        EventType.SYNC_COMPLETED,
        EventType.TRAINING_BLOCKED_BY_DATA,
        EventType.SELFPLAY_NEEDED,
        EventType.DATA_TRANSFER_COMPLETE,
        EventType.DATA_TRANSFER_FAILED,
        EventType.ORPHAN_DETECTED,
    }
)
"""What the coordinator tells; RingRift's components tell some of them too."""


def tidy(value: Any) -> Any:
    """A text in one line, without control characters and not too long; anything else as it is."""
    if not isinstance(value, str):
        return value
    plain = value if value.isprintable() else "".join(letter if letter.isprintable() else " " for letter in value)
    return " ".join(plain.split())[:MAX_TEXT]


def _an_id(text: str) -> str:
    if not is_id(text):
        raise ValueError("not a UUID in lower case")
    return text


Said = Annotated[str, BeforeValidator(tidy), StringConstraints(max_length=MAX_TEXT)]
"""Somebody's words: brought into one line rather than refused."""
FilePath = Annotated[str, StringConstraints(min_length=1, max_length=1024, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""On some host, as it told it: never opened here."""
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Length = Annotated[float, Field(ge=0, le=1e10, allow_inf_nan=False)]
"""Of time, in seconds."""
Figure = Annotated[float, Field(ge=-1e12, le=1e12, allow_inf_nan=False)]
EventId = Annotated[str, AfterValidator(_an_id)]
Urgency = Literal["CRITICAL", "HIGH", "NORMAL", "LOW", "COLD_STORAGE"]
FieldName = Annotated[str, StringConstraints(min_length=1, max_length=100)]
Scalar = Annotated[int, Field(ge=-(1 << 53), le=1 << 53, strict=True)] | bool | Figure | Said


class Payload(BaseModel):
    """What all payloads have: `other` is what was told beside the fields that we know."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    other: Annotated[dict[FieldName, Scalar], Field(max_length=MAX_OTHER)] = Field(default_factory=dict)


class TrainingStarted(Payload):
    """A job begins to train a config on a host. `model_path`: the checkpoint that it goes on from, or writes."""

    config: ConfigKey
    host: Name
    job: Said | None = None
    model: Said | None = None
    model_path: FilePath | None = None
    iteration: Count | None = None
    success: bool | None = None


class TrainingEnded(Payload):
    """A training job ended."""

    config: ConfigKey
    host: Name
    job: Said | None = None
    model: Said | None = None
    model_path: FilePath | None = None
    iteration: Count | None = None
    success: bool | None = None
    reason: Said | None = None


class TrainingThresholdReached(Payload):
    """Enough games or samples are there for a training job to begin soon."""

    config: ConfigKey
    host: Name
    games: Count | None = None
    samples: Count | None = None
    threshold: Count | None = None
    quality: Share | None = None
    urgency: Said | None = None
    reason: Said | None = None


class DataNeeded(Payload):
    """Hosts need data. Without a config, everything of that type that they lack. `max_age` of the newest game."""

    hosts: Annotated[tuple[Name, ...], Field(min_length=1, max_length=100)]
    config: ConfigKey | None = None
    type: ItemType = ItemType.NPZ
    min_samples: Count | None = None
    max_age: Length | None = None
    source: Name | None = None
    urgency: Urgency | None = None
    reason: Said | None = None


class DataStale(Payload):
    """What a host would train on is too old. `age` of the newest game there."""

    config: ConfigKey
    host: Name
    age: Length | None = None
    threshold: Length | None = None
    games: Count | None = None
    last_sync: Seconds | None = None
    fresh: bool | None = None


class SelfplayComplete(Payload):
    """New games lie on a host. `games` are the new ones."""

    host: Name
    config: ConfigKey | None = None
    games: Count | None = None
    total_games: Count | None = None
    path: FilePath | None = None
    seconds: Length | None = None
    engine: Said | None = None
    task: Said | None = None
    model: Said | None = None
    iteration: Count | None = None
    success: bool | None = None


class NpzExportComplete(Payload):
    """A training set was written on a host."""

    config: ConfigKey
    host: Name
    path: FilePath | None = None
    sha256: Sha256 | None = None
    samples: Count | None = None
    games: Count | None = None
    seconds: Length | None = None
    iteration: Count | None = None
    success: bool | None = None


class ModelPromoted(Payload):
    """A model is the best of its config now."""

    config: ConfigKey
    host: Name
    model: Said | None = None
    path: FilePath | None = None
    sha256: Sha256 | None = None
    elo: Figure | None = None
    elo_gain: Figure | None = None
    promotion: Said | None = None
    reason: Said | None = None
    success: bool | None = None
    manifest: Annotated[str, StringConstraints(max_length=MAX_MANIFEST)] | None = None
    """Where manifests are signed: the published one, with every config's current model."""
    signature: Annotated[str, StringConstraints(pattern="^[0-9a-f]{2,8192}$")] | None = None
    """Of `manifest`, in hexadecimal."""


class HostOnline(Payload):
    """A host takes part again."""

    host: Name
    kind: Said | None = None
    capabilities: Annotated[tuple[Said, ...], Field(max_length=100)] = ()


class HostOffline(Payload):
    """A host does not answer any more, or is about to end."""

    host: Name
    reason: Said | None = None
    last_seen: Seconds | None = None


class Backpressure(Payload):
    """More work than a host, or the whole cluster, bears; or no longer so. Shares are of what is bearable."""

    host: Name
    reason: Said | None = None
    level: Said | None = None
    resource: Said | None = None
    utilization: Share | None = None
    queue_depth: Count | None = None
    threshold: Figure | None = None
    seconds: Length | None = None
    overall: Share | None = None
    queue: Share | None = None
    training: Share | None = None
    disk: Share | None = None
    sync: Share | None = None
    memory: Share | None = None
    spawn_rate: Figure | None = None


class DataAvailable(Payload):
    """An item that a host wanted lies there, verified."""

    host: Name
    sha256: Sha256
    type: ItemType
    config: ConfigKey | None = None
    path: FilePath | None = None
    bytes: Bytes | None = None
    games: Count | None = None
    samples: Count | None = None
    reason: Said | None = None


class SyncCompleted(Payload):
    """Data was brought from one place to others."""

    config: ConfigKey | None = None
    host: Name | None = None
    source: Name | None = None
    targets: Annotated[tuple[Name, ...], Field(max_length=100)] = ()
    games: Count | None = None
    files: Count | None = None
    bytes: Bytes | None = None
    seconds: Length | None = None
    kind: Said | None = None
    reason: Said | None = None


class TrainingBlockedByData(Payload):
    """A job cannot train on what there is. `reason` says why, `next_action` what would help."""

    config: ConfigKey
    host: Name
    reason: Said
    age: Length | None = None
    threshold: Figure | None = None
    quality: Share | None = None
    games: Count | None = None
    samples: Count | None = None
    path: FilePath | None = None
    next_action: Said | None = None


class SelfplayNeeded(Payload):
    """There are too few good games of a config."""

    config: ConfigKey
    reason: Said
    host: Name | None = None
    games: Count | None = None


class DataTransferComplete(Payload):
    """An operation of the queue put an item to its target, verified."""

    operation: Count
    host: Name
    sha256: Sha256
    kind: Said | None = None
    config: ConfigKey | None = None
    path: FilePath | None = None
    bytes: Bytes | None = None
    seconds: Length | None = None
    source: Name | None = None
    transport: Said | None = None
    urgency: Urgency | None = None


class DataTransferFailed(Payload):
    """An operation of the queue cannot put its item to its target; nobody tries again before somebody did something."""

    operation: Count
    host: Name
    sha256: Sha256
    cause: Said
    kind: Said | None = None
    config: ConfigKey | None = None
    detail: Said | None = None
    attempts: Count | None = None
    next_action: Said | None = None
    urgency: Urgency | None = None


class OrphanDetected(Payload):
    """Items or games that nobody can reach, or that no database knows of, at a place."""

    host: Name
    count: Count
    kind: Said | None = None
    games: Count | None = None
    bytes: Bytes | None = None
    paths: Annotated[tuple[FilePath, ...], Field(max_length=100)] = ()
    boards: Annotated[tuple[Said, ...], Field(max_length=12)] = ()
    items: Annotated[tuple[Sha256, ...], Field(max_length=100)] = ()


PAYLOADS: dict[EventType, type[Payload]] = {
    EventType.TRAINING_STARTED: TrainingStarted,
    EventType.TRAINING_COMPLETED: TrainingEnded,
    EventType.TRAINING_FAILED: TrainingEnded,
    EventType.TRAINING_THRESHOLD_REACHED: TrainingThresholdReached,
    EventType.DATA_NEEDED: DataNeeded,
    EventType.DATA_STALE: DataStale,
    EventType.SELFPLAY_COMPLETE: SelfplayComplete,
    EventType.NPZ_EXPORT_COMPLETE: NpzExportComplete,
    EventType.MODEL_PROMOTED: ModelPromoted,
    EventType.HOST_ONLINE: HostOnline,
    EventType.HOST_OFFLINE: HostOffline,
    EventType.BACKPRESSURE_ACTIVATED: Backpressure,
    EventType.BACKPRESSURE_RELEASED: Backpressure,
    EventType.DATA_AVAILABLE: DataAvailable,
    EventType.SYNC_COMPLETED: SyncCompleted,
    EventType.TRAINING_BLOCKED_BY_DATA: TrainingBlockedByData,
    EventType.SELFPLAY_NEEDED: SelfplayNeeded,
    EventType.DATA_TRANSFER_COMPLETE: DataTransferComplete,
    EventType.DATA_TRANSFER_FAILED: DataTransferFailed,
    EventType.ORPHAN_DETECTED: OrphanDetected,
}


class Event(BaseModel):
    """The envelope. `host` is the one whose agent took the event in, whomever it is about; `at` is when it happened.

    `sequence` is the event's place among those of its host; None until it has one, and for what the coordinator itself tells.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: EventId
    type: EventType
    host: Name
    at: Seconds
    payload: SerializeAsAny[Payload]
    sequence: Annotated[int, Field(ge=1, le=1 << 53, strict=True)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _typed(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("payload"), dict) and isinstance(data.get("type"), str):
            payload = PAYLOADS.get(data["type"])  # type: ignore[call-overload]
            if payload is not None:
                return {**data, "payload": payload.model_validate(data["payload"])}
        return data

    @model_validator(mode="after")
    def _payload_of_its_type(self) -> Event:
        if type(self.payload) is not PAYLOADS[self.type]:
            raise ValueError(f"not the payload of {self.type}")
        return self

    def dump(self) -> bytes:
        """As JSON; fields that say nothing are left out."""
        return self.model_dump_json(exclude_defaults=True).encode()


def dump_payload(payload: Payload) -> bytes:
    """A payload alone as JSON."""
    return payload.model_dump_json(exclude_defaults=True).encode()


def load_payload(type: EventType, text: str | bytes) -> Payload:
    """A payload that was stored. Raises ValidationError."""
    return PAYLOADS[type].model_validate(orjson.loads(text))


def subjects(payload: Payload) -> tuple[str | None, str | None]:
    """The config and the host that a payload is about, if it names one."""
    host = getattr(payload, "host", None) or next(iter(getattr(payload, "hosts", ())), None)
    return getattr(payload, "config", None), host
