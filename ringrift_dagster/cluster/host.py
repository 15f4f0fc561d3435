"""One host of the cluster: its fields in the hosts file, and what follows from them alone.

Field names are the project's; where the file's differ, they stand beside them as aliases. What depends on other sections is in
`topology`, what is known only at run time, such as whether it answers, is not here at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import AliasChoices, Field, field_validator, model_validator

from ringrift_dagster.cluster.addresses import Address, HttpUrl, Ipv6, plain_host
from ringrift_dagster.cluster.fields import Amount, FilePath, Name, Port, Section, Text, User, Whole

INACTIVE = frozenset({"terminated", "offline", "setup", "retired", "archived"})
"""Statuses of hosts that take no part."""

PROVIDERS = ("vast", "runpod", "nebius", "vultr", "hetzner", "lambda", "aws")
_PREFIXES = {**{f"{provider}-": provider for provider in PROVIDERS}, "mac-": "local", "macbook": "local", "localhost": "local"}
_ID_FIELDS = {
    "vast_instance_id": "vast",
    "runpod_id": "runpod",
    "runpod_pod_id": "runpod",
    "nebius_id": "nebius",
    "vultr_id": "vultr",
    "vultr_instance_id": "vultr",
    "hetzner_id": "hetzner",
    "lambda_id": "lambda",
    "lambda_instance_id": "lambda",
    "aws_instance_id": "aws",
}

_BELOW_ROOT = {
    "games": "data/games",
    "models": "models",
    "training_data": "data/training",
    "checkpoints": "checkpoints",
    "logs": "logs",
    "sync_incoming": "data/sync_incoming",
}
DRIVE_FOLDERS = {
    "games": "selfplay_repository",
    "models": "canonical_models",
    "training_data": "canonical_data",
    "checkpoints": "model_checkpoints",
    "logs": "logs",
    "sync_incoming": "cluster_games",
}
"""Where each kind of data stands on an external drive."""
SYNONYMS = {"npz": "training_data", "databases": "games"}


@dataclass(frozen=True)
class Ssh:
    """How to log in; `host` is None where the file has no address."""

    host: str | None
    user: str
    port: int
    key: str | None


class Host(Section):
    """One host. `root` is where RingRift stands on it, None for a mere proxy."""

    null_means: ClassVar[frozenset[str]] = frozenset({"ringrift_path"})
    name: Name
    provider: Text = ""
    rack: Text | None = Field(default=None, validation_alias=AliasChoices("rack", "region"))
    role: Text = "unknown"
    status: Text = "unknown"
    ssh_host: Address = None
    ssh_user: User = "ubuntu"
    ssh_port: Port = 22
    ssh_key: Text | None = None
    tailscale_ip: Address = None
    tailscale_ipv6: Ipv6 = None
    root: FilePath | None = Field(default="~/ringrift/ai-service", alias="ringrift_path")
    data_server_port: Port = 8766
    data_server_url: HttpUrl = None
    is_coordinator: bool = False
    ephemeral: bool = Field(default=False, alias="is_ephemeral")
    nfs_enabled: bool = False
    has_nfs: bool = False
    selfplay: bool = Field(default=True, alias="selfplay_enabled")
    training: bool = Field(default=False, alias="training_enabled")
    p2p: bool = Field(default=True, alias="p2p_enabled")
    nat_blocked: bool = False
    force_relay: bool = Field(default=False, alias="force_relay_mode")
    relay_primary: Name | None = None
    relay_secondary: Name | None = None
    skip_sync_receive: bool = False
    use_external_storage: bool = False
    external_storage_path: FilePath | None = None
    storage_paths: dict[Text, FilePath | None] = Field(default_factory=dict)
    gpu: Text = ""
    gpu_vram_gb: Amount = 0.0
    memory_gb: Amount = 0.0
    cpus: Whole = 0
    bandwidth_mb_s: Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)] = Field(default=0.0, alias="bandwidth_mbps")
    """Megabytes per second, whatever the file calls it. Once loaded it is never 0: what the file leaves open is resolved."""
    provider_ids: dict[Text, Text] = Field(default_factory=dict)
    """Provider to the host's id there."""

    @model_validator(mode="before")
    @classmethod
    def _unfold(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        known = {key: value for key, value in data.items() if value != "" or key not in ("rack", "region")}
        ids = {provider: data[key] for key, provider in _ID_FIELDS.items() if isinstance(data.get(key), str | int)}
        known["provider_ids"] = {provider: str(number) for provider, number in ids.items()}
        known["provider"] = _provider(data, ids)
        return known

    @field_validator("gpu")
    @classmethod
    def _none_is_no_gpu(cls, value: str) -> str:
        return "" if value.lower() == "none" else value

    @property
    def active(self) -> bool:
        """Whether the file counts on it. Says nothing about whether it answers."""
        return self.status.strip().lower() not in INACTIVE

    @property
    def nfs(self) -> bool:
        """Whether its data stands on a file system that others see too."""
        return self.nfs_enabled or self.has_nfs

    @property
    def coordinator(self) -> bool:
        """Whether it says of itself that it coordinates; `Cluster.coordinator` is the one that does."""
        return self.is_coordinator or self.role == "coordinator"

    @property
    def ssh(self) -> Ssh:
        """How to log in; a user written before the address wins."""
        user, at, _ = (self.ssh_host or "").rpartition("@")
        return Ssh(plain_host(self.ssh_host), user if at else self.ssh_user, self.ssh_port, self.ssh_key)

    @property
    def best_ip(self) -> str | None:
        """Address to reach it at: Tailscale, then ssh, then Tailscale's IPv6."""
        return plain_host(self.tailscale_ip) or plain_host(self.ssh_host) or self.tailscale_ipv6

    @property
    def agent_url(self) -> str | None:
        """Where its agent listens, without a slash at the end."""
        if self.data_server_url or not (address := self.best_ip):
            return self.data_server_url
        return f"http://{f'[{address}]' if ':' in address else address}:{self.data_server_port}"

    def storage_path(self, kind: str) -> str | None:
        """Directory of a kind of data: games, models, training_data, checkpoints, logs, sync_incoming; also npz and databases.

        None on a host without RingRift. Raises ValueError for another kind.
        """
        name = SYNONYMS.get(kind, kind)
        if name not in _BELOW_ROOT:
            raise ValueError(f"{kind!r} is none of {', '.join((*_BELOW_ROOT, *SYNONYMS))}")
        if named := self.storage_paths.get(kind) or self.storage_paths.get(name):
            return named
        if self.use_external_storage and self.external_storage_path:
            return f"{self.external_storage_path.rstrip('/')}/{DRIVE_FOLDERS[name]}"
        return f"{self.root.rstrip('/')}/{_BELOW_ROOT[name]}" if self.root else None


def _provider(data: dict[str, Any], ids: dict[str, Any]) -> str:
    """By the name's prefix, else by the field `provider`, else by whose id the host has."""
    name = str(data.get("name")).lower()
    for prefix, provider in _PREFIXES.items():
        if name.startswith(prefix):
            return provider
    named = str(data.get("provider") or "").lower()
    return named if named in (*PROVIDERS, "local") else next(iter(ids), "unknown")
