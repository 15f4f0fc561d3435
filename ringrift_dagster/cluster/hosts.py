"""RingRift's `distributed_hosts.yaml`, read as it is: every problem at once, each with file, line and field.

Only reading and cross-checking belong here. What the fields are and what follows from them stands in `topology`, what YAML is in
`located_yaml`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError, field_validator
from pydantic_core import ErrorDetails

from ringrift_dagster.cluster import located_yaml
from ringrift_dagster.cluster.addresses import is_placeholder
from ringrift_dagster.cluster.fields import Name, Text
from ringrift_dagster.cluster.host import Host, Ssh
from ringrift_dagster.cluster.located_yaml import Located, Problem, Where
from ringrift_dagster.cluster.topology import (
    AgeLimits,
    AutoSync,
    Cluster,
    Drive,
    EloSync,
    Place,
    PromotionLimits,
    ProviderTimeouts,
    S3Place,
    SharedFileSystem,
    SyncRouting,
    Thresholds,
    TransportPreference,
    Webhook,
    resolved_bandwidth,
)

__all__ = [
    "AgeLimits",
    "AutoSync",
    "Cluster",
    "Drive",
    "EloSync",
    "Host",
    "HostsFileError",
    "Place",
    "ProviderTimeouts",
    "S3Place",
    "SharedFileSystem",
    "Ssh",
    "Thresholds",
    "load_hosts",
]

_WHAT = {
    "missing": "is missing",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "extra_forbidden": "is not known here",
    "string_pattern_mismatch": "has characters or a form that is not allowed here",
}
_PLACEHOLDER_FIELDS = ("ssh_host", "tailscale_ip", "tailscale_ipv6", "data_server_url")


class HostsFileError(Exception):
    """The hosts file cannot be used. `problems` has all that is wrong, each one line `FILE:LINE: FIELD: what is wrong`."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class _HostsFile(BaseModel):
    """The file's sections."""

    sync_routing: SyncRouting = SyncRouting()
    auto_sync: AutoSync = AutoSync()
    elo_sync: EloSync = EloSync()
    p2p_voters: tuple[Name, ...] = ()
    provider_timeouts: dict[Text, ProviderTimeouts] = Field(default_factory=dict)
    shared_storage: tuple[SharedFileSystem, ...] = ()
    transports: tuple[TransportPreference, ...] = ()
    webhooks: tuple[Webhook, ...] = ()
    freshness: AgeLimits = AgeLimits()
    promotion: PromotionLimits = PromotionLimits()
    hosts: dict[str, Host]

    @field_validator("hosts", mode="before")
    @classmethod
    def _name_them(cls, hosts: Any) -> Any:
        if not isinstance(hosts, dict):
            return hosts
        return {name: {**host, "name": name} if isinstance(host, dict) else host for name, host in hosts.items()}


def load_hosts(path: Path) -> Cluster:
    """The cluster that a hosts file describes. Raises HostsFileError."""
    document = located_yaml.read(path)
    problems = list(document.problems)
    content: _HostsFile | None = None
    if document.value is not None or not problems:
        try:
            content = _HostsFile.model_validate(_sections(document.value), strict=True)
        except ValidationError as error:
            problems += [_problem(document, details) for details in error.errors(include_url=False)]
    if content is not None:
        drives = tuple(_drives(content))
        problems += _name_clashes(document, content, drives)
        if not problems:
            return _cluster(path, document, content, drives)
    raise HostsFileError(list(dict.fromkeys(_lines(path, sorted(problems, key=lambda problem: problem.line)))))


def _sections(value: Any) -> Any:
    """The document without its empty sections, which count as not written."""
    if value is None:
        return {}
    return {key: section for key, section in value.items() if section is not None} if isinstance(value, dict) else value


def _cluster(path: Path, document: Located, content: _HostsFile, drives: tuple[Drive, ...]) -> Cluster:
    routing = content.sync_routing
    coordinator, doubts = _coordinator(document, content)
    return Cluster(
        hosts={
            name: host.model_copy(update={"bandwidth_mb_s": resolved_bandwidth(host, content.auto_sync)})
            for name, host in content.hosts.items()
        },
        drives=drives,
        s3=routing.s3,
        shared=(*routing.shared_storage, *content.shared_storage),
        transports=content.transports,
        webhooks=content.webhooks,
        thresholds=Thresholds.model_validate({name: getattr(routing, name) for name in Thresholds.model_fields}),
        freshness=content.freshness,
        promotion=content.promotion,
        auto_sync=content.auto_sync,
        elo_sync=content.elo_sync,
        p2p_voters=content.p2p_voters,
        provider_timeouts=content.provider_timeouts,
        excluded_hosts=tuple(dict.fromkeys((*routing.excluded_hosts, *content.auto_sync.exclude_hosts))),
        priority_hosts=routing.priority_hosts,
        underserved_configs=tuple(dict.fromkeys(routing.underserved_configs)),
        coordinator=coordinator,
        warnings=tuple(_lines(path, sorted([*doubts, *_warnings(document, content)], key=lambda problem: problem.line))),
    )


def _drives(content: _HostsFile) -> Iterator[Drive]:
    """Every drive under a name of its own.

    Where a host routes its data to external storage that nobody listed, the drive is there and has to be known, but is not
    among those that may receive.
    """
    drives = list(content.sync_routing.allowed_external_storage)
    listed = {(drive.host, drive.path.rstrip("/")) for drive in drives}
    for host in content.hosts.values():
        path = host.external_storage_path if host.use_external_storage else None
        if path and (host.name, path.rstrip("/")) not in listed:
            flags = {"receive_games": False, "receive_npz": False, "receive_models": False}
            drives.append(Drive.model_validate({"host": host.name, "path": path, **flags}))
    count: Counter[str] = Counter()
    for drive in drives:
        count[drive.host] += 1
        number = f"-{count[drive.host]}" if count[drive.host] > 1 else ""
        yield drive if drive.name else drive.model_copy(update={"name": f"{drive.host[:90]}-drive{number}"})


def _name_clashes(document: Located, content: _HostsFile, drives: tuple[Drive, ...]) -> Iterator[Problem]:
    """Names of locations that are taken: the manifest knows a place by its name alone."""
    routing = content.sync_routing
    top: Where = ("sync_routing",)
    named: list[tuple[Where, str]] = [(("hosts", name), name) for name in content.hosts]
    named += [((*top, "allowed_external_storage", index), drive.name) for index, drive in enumerate(drives)]
    for section, shared in ((top, routing.shared_storage), ((), content.shared_storage)):
        named += [((*section, "shared_storage", index), place.name) for index, place in enumerate(shared)]
    if routing.s3:
        named.append(((*top, "s3", "bucket"), routing.s3.bucket))
    taken: dict[str, int] = {}
    for where, name in named:
        line = document.line(where)
        if name in taken:
            yield Problem(line, where, f"the name {name} is taken at line {taken[name]}")
        taken.setdefault(name, line)


def _coordinator(document: Located, content: _HostsFile) -> tuple[str | None, list[Problem]]:
    """Who coordinates: `elo_sync.coordinator` if it is there, else the first host that says it does."""
    named = content.elo_sync.coordinator
    if named in content.hosts:
        return named, []
    marked = [host.name for host in content.hosts.values() if host.is_coordinator]
    marked = marked or [host.name for host in content.hosts.values() if host.coordinator]
    where: Where = ("hosts", *marked[1:2])
    doubts = [Problem(document.line(where), where, f"{marked[0]} is taken for the coordinator")] if len(marked) > 1 else []
    return next(iter(marked), None), doubts


def _warnings(document: Located, content: _HostsFile) -> Iterator[Problem]:
    yield from _unknown_hosts(document, content)
    yield from _idle_preferences(document, content)
    yield from _placeholders(document)
    yield from _same_agent(document, content)
    yield from _on_unnamed_nfs(document, content)
    limits = content.sync_routing
    if limits.max_disk_usage_percent > 100 - limits.min_free_disk_percent:
        where = ("sync_routing", "max_disk_usage_percent")
        yield Problem(
            document.line(where), where, f"{limits.min_free_disk_percent:g} % must stay free: full at {limits.full_at_percent:g} %"
        )
    ours = AgeLimits()
    if content.freshness.fail_hours > ours.fail_hours:
        where = ("freshness", "fail_hours")
        wider = f"{content.freshness.fail_hours:g} h is wider than the usual {ours.fail_hours:g} h: older games enter training"
        yield Problem(document.line(where), where, wider)


def _unknown_hosts(document: Located, content: _HostsFile) -> Iterator[Problem]:
    for where, name in _references(content):
        if name is not None and name not in content.hosts:
            yield Problem(document.line(where), where, f"{name} is not among the hosts")


def _references(content: _HostsFile) -> Iterator[tuple[Where, str | None]]:
    """Every field that names a host."""
    routing = content.sync_routing
    lists: list[tuple[Where, Iterable[str]]] = [
        (("sync_routing", "excluded_hosts"), routing.excluded_hosts),
        (("sync_routing", "priority_hosts"), routing.priority_hosts),
        (("sync_routing", "s3", "push_enabled_hosts"), routing.s3.push_enabled_hosts if routing.s3 else ()),
        (("auto_sync", "exclude_hosts"), content.auto_sync.exclude_hosts),
        (("p2p_voters",), content.p2p_voters),
    ]
    for section, shared in ((("sync_routing",), routing.shared_storage), ((), content.shared_storage)):
        lists += [((*section, "shared_storage", index, "hosts"), place.hosts) for index, place in enumerate(shared)]
    for where, names in lists:
        yield from (((*where, index), name) for index, name in enumerate(names))
    for index, drive in enumerate(routing.allowed_external_storage):
        yield ("sync_routing", "allowed_external_storage", index, "host"), drive.host
    yield ("elo_sync", "coordinator"), content.elo_sync.coordinator
    for name, host in content.hosts.items():
        yield ("hosts", name, "relay_primary"), host.relay_primary
        yield ("hosts", name, "relay_secondary"), host.relay_secondary


def _idle_preferences(document: Located, content: _HostsFile) -> Iterator[Problem]:
    for index, rule in enumerate(content.transports):
        providers = {host.provider for host in content.hosts.values()}
        for field, words, known in (("hosts", rule.hosts, set(content.hosts)), ("providers", rule.providers, providers)):
            for number, word in enumerate(words):
                if not any(fnmatchcase(name, word) if field == "hosts" else name == word for name in known):
                    where = ("transports", index, field, number)
                    yield Problem(document.line(where), where, f"{word} fits no host")


def _placeholders(document: Located) -> Iterator[Problem]:
    for name, host in document.value["hosts"].items():
        for field in _PLACEHOLDER_FIELDS:
            if is_placeholder(host.get(field)):
                where = ("hosts", name, field)
                yield Problem(document.line(where), where, f"{_shown(host[field])} is a placeholder: counts as no address")


def _same_agent(document: Located, content: _HostsFile) -> Iterator[Problem]:
    """Hosts behind one gateway have one address: at most one of their agents can be what answers there."""
    first: dict[str, str] = {}
    for host in content.hosts.values():
        if host.active and host.root and (url := host.agent_url):
            if url in first:
                where = ("hosts", host.name)
                yield Problem(document.line(where), where, f"same agent address as {first[url]}, {url}: give it a data_server_url")
            first.setdefault(url, host.name)


def _on_unnamed_nfs(document: Located, content: _HostsFile) -> Iterator[Problem]:
    """Hosts of which nobody says what file system it is that they share."""
    shared = (*content.sync_routing.shared_storage, *content.shared_storage)
    named = {name for place in shared for name in place.hosts}
    flagged = [host for host in content.hosts.values() if host.nfs and host.active and host.name not in named]
    count = Counter(host.provider for host in flagged)
    for host in flagged:
        if count[host.provider] > 1:
            where = ("hosts", host.name, "has_nfs" if host.has_nfs else "nfs_enabled")
            what = (
                f"it counts as one with the other hosts of {host.provider} on NFS, and shared_storage does not say what they share"
            )
            yield Problem(document.line(where), where, what)


def _problem(document: Located, details: ErrorDetails) -> Problem:
    where = tuple(details["loc"])
    if where[:1] == ("hosts",) and where[2:] == ("name",):
        return Problem(document.line(where), where[:2], "is no name of a host: letters, digits and . _ : - only, at most 100")
    where = where[:-1] if where and where[-1] == "[key]" else where
    kind, value = details["type"], details["input"]
    what = _WHAT.get(kind) or details["msg"].removeprefix("Value error, ").replace("Input should", "must").replace(
        "String should", "must"
    )
    if kind != "missing" and not isinstance(value, dict | tuple) and not (kind == "value_error" and _shown(value) in what):
        what += f", not {_shown(value)}"
    return Problem(document.line(where), where, what)


def _lines(path: Path, problems: Iterable[Problem]) -> Iterator[str]:
    for problem in problems:
        yield re.sub(r"[\x00-\x1f\x7f\x85\u2028\u2029]+", " ", f"{path}:{problem.line}: {_field(problem.where)}: {problem.what}")


def _field(where: Where) -> str:
    """`hosts.vast-1.ssh_port`, `sync_routing.priority_hosts[2]`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part[:100]}" for part in where)
    return text.removeprefix(".") or "(file)"


def _shown(value: object) -> str:
    """A value as the file has it, more or less: short, and without what stands before the @ of a URL."""
    words = {True: "true", False: "false", None: "empty"} if isinstance(value, bool | None) else {}
    text = words.get(value) or re.sub(r"//[^/]*@", "//...@", repr(value))
    return text if len(text) <= 60 else f"{text[:57]}..."
