"""What a hosts file says: hosts, places that hold data, and the one set of limits of the project.

Models of its sections and what follows from their fields belong here; reading files does not (`hosts`). Speeds are in megabytes
per second (10^6 bytes), times in seconds, disk limits in percent of the disk.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ringrift_dagster.cluster.addresses import HttpUrl
from ringrift_dagster.cluster.fields import (
    Amount,
    Bucket,
    ConfigName,
    FilePath,
    Folder,
    HoursOfGames,
    Interval,
    Name,
    Percent,
    Port,
    Region,
    Section,
    Speed,
    Text,
    Whole,
)
from ringrift_dagster.cluster.host import DRIVE_FOLDERS, SYNONYMS, Host

PROVIDER_BANDWIDTH = {
    "lambda": 100.0,
    "runpod": 100.0,
    "nebius": 50.0,
    "vast": 50.0,
    "vultr": 25.0,
    "hetzner": 100.0,
    "local": 100.0,
}
"""MB/s, where the file says nothing for a host."""
TAILSCALE_BANDWIDTH = 100.0


class Thresholds(Section):
    """The limits that everything in the project follows; there are no others.

    RingRift's code had several of each (disk 70, 85 or 90; copies 2, 3 or 5). What the file says holds. Where it is silent, the
    defaults are: 85 % full at most, so that they agree with the 15 % that must stay free; cleanup down to 60 %; three copies, as
    the published templates have it, the fewest that survive losing one host while another is being repaired.
    """

    max_disk_usage_percent: Percent = 85.0
    """A place fuller than this is given nothing more."""
    target_disk_usage_percent: Percent = 60.0
    """Cleanup goes down to this."""
    min_free_disk_percent: Annotated[float, Field(ge=0, lt=100, allow_inf_nan=False)] = 15.0
    """So much stays free, whoever writes."""
    replication_target: Annotated[int, Field(ge=1, le=100)] = 3
    """Copies of an item, on different hosts."""

    @field_validator("target_disk_usage_percent")
    @classmethod
    def _below_the_maximum(cls, value: float, info: Any) -> float:
        maximum = info.data.get("max_disk_usage_percent", 100.0)
        if value >= maximum:
            raise ValueError(f"must be below max_disk_usage_percent ({maximum:g})")
        return value

    @property
    def full_at_percent(self) -> float:
        """Usage at which a place is full: the stricter of the maximum and of what must stay free."""
        return min(self.max_disk_usage_percent, 100.0 - self.min_free_disk_percent)

    def has_room(self, total: int, free: int, size: int = 0) -> bool:
        """Whether a disk of `total` bytes with `free` left takes `size` more."""
        return total > 0 and free >= size and total - free + size <= total * self.full_at_percent / 100


class AgeLimits(Section):
    """How old the newest game may be: training on older ones is doubtful from `warn_hours` on, and wrong from `fail_hours`.

    Section `freshness`, the project's own. Gates, checks and reports take their limit from here and from nowhere else. A field that
    is not known is an error: a misspelt limit must not leave the default standing in its place.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    warn_hours: HoursOfGames = 24.0
    fail_hours: HoursOfGames = 48.0

    @field_validator("fail_hours")
    @classmethod
    def _not_before_the_warning(cls, value: float, info: Any) -> float:
        warning = info.data.get("warn_hours", 0.0)
        if value < warning:
            raise ValueError(f"must be at least warn_hours ({warning:g})")
        return value

    @property
    def warn(self) -> timedelta:
        return timedelta(hours=self.warn_hours)

    @property
    def fail(self) -> timedelta:
        return timedelta(hours=self.fail_hours)


Floors = dict[Literal["2p", "3p", "4p"], Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]]
Alpha = Annotated[float, Field(gt=0, le=0.2, allow_inf_nan=False)]


class PromotionLimits(Section):
    """What a candidate has to show before it is promoted; see docs/models.md.

    Section `promotion`, the project's own. `elo0` and `elo1` are the hypotheses of the sequential test against the current model,
    in normalised Elo. The floors are shares of a game, by number of players. Evaluation games count for `evidence_days`; `player`
    is the AI that plays with a model in them: `policy_only`, or `mcts:N` with N simulations a decision.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", validate_default=True)

    elo0: Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)] = 0.0
    elo1: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] = 30.0
    alpha: Alpha = 0.05
    beta: Alpha = 0.05
    min_blocks: Annotated[int, Field(ge=10, le=100_000)] = 40
    max_blocks: Annotated[int, Field(ge=10, le=100_000)] = 5000
    floor_blocks: Annotated[int, Field(ge=10, le=100_000)] = 100
    floor_alpha: Alpha = 0.05
    evidence_days: Annotated[float, Field(gt=0, le=3650, allow_inf_nan=False)] = 30.0
    player: str = "mcts:32"
    random_floor: Floors = Field(default_factory=lambda: {"2p": 0.75, "3p": 0.6, "4p": 0.5})
    heuristic_floor: Floors = Field(default_factory=lambda: {"2p": 1 / 2, "3p": 1 / 3, "4p": 1 / 4})

    @field_validator("elo1")
    @classmethod
    def _above_elo0(cls, value: float, info: Any) -> float:
        if value <= info.data.get("elo0", 0.0):
            raise ValueError(f"must be above elo0 ({info.data['elo0']:g})")
        return value

    @field_validator("max_blocks")
    @classmethod
    def _not_below_the_minimum(cls, value: int, info: Any) -> int:
        if value < info.data.get("min_blocks", 0):
            raise ValueError(f"must be at least min_blocks ({info.data['min_blocks']})")
        return value

    @field_validator("player")
    @classmethod
    def _plays_with_a_model(cls, value: str) -> str:
        if not re.fullmatch("policy_only|mcts:[1-9][0-9]{0,3}", value):
            raise ValueError("must be policy_only, or mcts:N with 1 to 9999 simulations")
        return value

    @field_validator("random_floor", "heuristic_floor")
    @classmethod
    def _for_every_number_of_players(cls, value: Floors) -> Floors:
        if len(value) != 3:
            raise ValueError("must have a floor for 2p, 3p and 4p")
        return value


class Drive(Section):
    """External storage that hangs on a host. The `receive_*` flags say what may be sent there."""

    name: Name = ""
    host: Name
    path: FilePath
    receive_games: bool = True
    receive_npz: bool = True
    receive_models: bool = True
    subdirs: dict[Text, Folder] = Field(default_factory=dict)

    @property
    def folders(self) -> dict[str, str]:
        """Kind of data (games, training_data, models, ...) to folder below `path`."""
        return DRIVE_FOLDERS | {SYNONYMS.get(kind, kind): folder for kind, folder in self.subdirs.items()}


class S3Place(Section):
    """The bucket. `pull_*` say what hosts may fetch from it, `push_enabled_hosts` who may write."""

    enabled: bool = True
    bucket: Bucket
    region: Region = "us-east-1"
    prefix: Folder = "consolidated"
    pull_games: bool = True
    pull_training_npz: bool = True
    pull_models: bool = True
    push_enabled_hosts: tuple[Name, ...] = ()
    sync_interval: Interval = 300.0
    primary_for_games: bool = False
    primary_for_models: bool = False
    primary_for_npz: bool = False


class SharedFileSystem(Section):
    """One file system that several hosts see at the same path. The project's own section: RingRift only flags hosts as NFS.

    What is lost with it, `domains` knows."""

    name: Name
    path: FilePath
    hosts: tuple[Name, ...] = ()


class TransportPreference(Section):
    """By what a receiving host gets items, the best first: the first of the section `transports` that fits holds.

    The project's own section, as well. `hosts` are patterns of names; what is not given fits everything.
    """

    prefer: Annotated[tuple[Literal["shared", "http", "s3", "rsync", "aria2", "bittorrent"], ...], Field(min_length=1)]
    hosts: tuple[Text, ...] = ()
    providers: tuple[Text, ...] = ()
    types: tuple[Literal["GAME_DB", "CANONICAL_GAMES", "NPZ", "CHECKPOINT", "MODEL"], ...] = ()

    @field_validator("prefer")
    @classmethod
    def _each_once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise ValueError("names a transport twice")
        return names


class Webhook(Section):
    """Somebody else who is told of events, in Slack's form: one of the section `webhooks`, the project's own.

    The address is a secret: `url_variable` names the environment variable that has it, where it should not stand in the file.
    `events` are names of events or patterns of them; without any, bad news.
    """

    name: Name
    url: HttpUrl = None
    url_variable: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$")] | None = None
    events: tuple[Text, ...] = ()


class SyncRouting(Thresholds):
    """Section `sync_routing`: the thresholds, who takes part, and places that are no hosts."""

    excluded_hosts: tuple[Name, ...] = ()
    priority_hosts: tuple[Name, ...] = ()
    underserved_configs: tuple[ConfigName, ...] = ()
    s3: S3Place | None = None
    allowed_external_storage: tuple[Drive, ...] = ()
    shared_storage: tuple[SharedFileSystem, ...] = ()


class AutoSync(Section):
    """Section `auto_sync`. In the file, speeds are called `_mbps`; they are megabytes per second nevertheless."""

    enabled: bool = True
    interval_seconds: Interval = 60.0
    gossip_interval_seconds: Interval = 15.0
    skip_nfs_sync: bool = True
    max_concurrent_syncs: Annotated[int, Field(ge=1, le=1000)] = 1
    min_games_to_sync: Whole = 10
    bandwidth_mb_s: Speed = Field(default=100.0, alias="bandwidth_limit_mbps")
    exclude_hosts: tuple[Name, ...] = ()
    bandwidth_by_pattern: dict[Text, Speed] = Field(default_factory=dict, alias="host_bandwidth_overrides")
    """Host name pattern (`vast-*`) to MB/s; the first that fits holds."""


class EloSync(Section):
    """Section `elo_sync`. `divergence_threshold` is in Elo points."""

    coordinator: Name | None = None
    sync_port: Port = 8766
    sync_interval: Interval = 300.0
    divergence_threshold: Amount = 50.0
    transports: tuple[Text, ...] = ("tailscale", "aria2", "http")


class ProviderTimeouts(Section):
    """How long a provider's hosts may be silent, and how often they speak."""

    peer_timeout: Interval | None = None
    heartbeat_interval: Interval | None = None
    reason: Text = ""


@dataclass(frozen=True)
class Place:
    """A location: somewhere that holds data under a name of its own.

    `path` is its root, on a bucket the prefix. `via` is the host that a drive hangs on, `hosts` the active ones through which it
    is reached: the host itself, the drive's, all that mount a shared file system, none for a bucket. A disk is a
    directory of this machine that is no host's tree; `via` is then this machine's host, if that is known.
    """

    name: str
    kind: Literal["host", "drive", "shared", "s3", "disk"]
    path: str
    provider: str | None = None
    rack: str | None = None
    role: str | None = None
    ephemeral: bool = False
    via: str | None = None
    hosts: tuple[str, ...] = ()


class Cluster(BaseModel):
    """Everything that a hosts file says. `warnings` are lines `FILE:LINE: FIELD: what` about what was let through."""

    model_config = ConfigDict(frozen=True)

    hosts: dict[str, Host] = Field(default_factory=dict)
    drives: tuple[Drive, ...] = ()
    s3: S3Place | None = None
    shared: tuple[SharedFileSystem, ...] = ()
    transports: tuple[TransportPreference, ...] = ()
    webhooks: tuple[Webhook, ...] = ()
    thresholds: Thresholds = Thresholds()
    freshness: AgeLimits = AgeLimits()
    promotion: PromotionLimits = PromotionLimits()
    auto_sync: AutoSync = AutoSync()
    elo_sync: EloSync = EloSync()
    p2p_voters: tuple[str, ...] = ()
    provider_timeouts: dict[str, ProviderTimeouts] = Field(default_factory=dict)
    excluded_hosts: tuple[str, ...] = ()
    """Never sent anything: of `sync_routing` and `auto_sync` together."""
    priority_hosts: tuple[str, ...] = ()
    underserved_configs: tuple[str, ...] = ()
    coordinator: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def active_hosts(self) -> tuple[Host, ...]:
        """Hosts that the file counts on, in its order."""
        return tuple(host for host in self.hosts.values() if host.active)

    @property
    def selfplay_hosts(self) -> tuple[Host, ...]:
        """Active hosts that play games: all but mere proxies and those with `selfplay_enabled: false`."""
        return tuple(host for host in self.active_hosts if host.selfplay and host.role != "proxy")

    def locations(self) -> list[Place]:
        """Every place that holds data and can be asked: what hangs on hosts that are not active is left out."""
        return [*self._on_hosts(), *self._on_drives(), *self._on_shared(), *self._in_buckets()]

    def _on_hosts(self) -> Iterator[Place]:
        for host in self.active_hosts:
            if host.root:
                yield Place(host.name, "host", host.root, host.provider, host.rack, host.role, host.ephemeral, hosts=(host.name,))

    def _on_drives(self) -> Iterator[Place]:
        for drive in self.drives:
            host = self.hosts.get(drive.host)
            if host and host.active:
                yield Place(
                    drive.name, "drive", drive.path, host.provider, host.rack, None, host.ephemeral, host.name, (host.name,)
                )

    def _on_shared(self) -> Iterator[Place]:
        for shared in self.shared:
            mounted = [host for name in shared.hosts if (host := self.hosts.get(name)) and host.active]
            if mounted:
                yield Place(
                    shared.name,
                    "shared",
                    shared.path,
                    provider=_common({host.provider for host in mounted}),
                    rack=_common({host.rack for host in mounted}),
                    hosts=tuple(host.name for host in mounted),
                )

    def _in_buckets(self) -> Iterator[Place]:
        if self.s3 and self.s3.enabled:
            yield Place(self.s3.bucket, "s3", self.s3.prefix, provider="aws", rack=self.s3.region)


def resolved_bandwidth(host: Host, auto_sync: AutoSync) -> float:
    """MB/s that a host may be sent: its own, else the first pattern that fits, its provider's, Tailscale's, the file's limit.

    A value counts even if it equals the file's limit; RingRift takes such a pattern for none.
    """
    if host.bandwidth_mb_s:
        return host.bandwidth_mb_s
    for pattern, speed in auto_sync.bandwidth_by_pattern.items():
        if fnmatchcase(host.name, pattern):
            return speed
    if host.provider in PROVIDER_BANDWIDTH:
        return PROVIDER_BANDWIDTH[host.provider]
    return TAILSCALE_BANDWIDTH if host.tailscale_ip else auto_sync.bandwidth_mb_s


def _common(values: set[str | None]) -> str | None:
    return values.pop() if len(values) == 1 else None
