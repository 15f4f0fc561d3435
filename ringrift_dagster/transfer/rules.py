"""Who must hold what: rules that somebody set, until they expire, and those that always stand. Only desired state belongs here.

What is missing for it is `planner`'s business; nothing is moved here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import sqlalchemy as sa
from pydantic import TypeAdapter, ValidationError
from sqlalchemy.engine import Connection

from ringrift_dagster.cluster.topology import Cluster
from ringrift_dagster.manifest.inventory import ConfigKey, ItemType, Name, Sha256
from ringrift_dagster.manifest.schema import rules
from ringrift_dagster.manifest.store import Store, Writer, upsert
from ringrift_dagster.transfer.model import OperationId, Priority
from ringrift_dagster.transfer.operations import Kind

STANDING = "standing-"
"""What the names of rules begin with that nobody can set."""
KEPT_SECONDS = 7 * 86_400.0
"""So long an expired rule can still be looked at."""
_NAME: TypeAdapter[str] = TypeAdapter(OperationId)
_HASH: TypeAdapter[str] = TypeAdapter(Sha256)
_CONFIG: TypeAdapter[str] = TypeAdapter(ConfigKey)
_PLACES: TypeAdapter[tuple[str, ...]] = TypeAdapter(tuple[Name, ...])


class BadRule(ValueError):
    """A rule that cannot be set; the text says why."""


@dataclass(frozen=True)
class Rule:
    """Desired state. `hosts` and `roles` narrow where; whatever is None narrows nothing. Times in seconds since 1970.

    With `copies`, every item that fits is to have so many on different hosts, `lasting` of them where data does not come and go;
    `hosts` and `roles` then say where further ones go. A BACKUP puts every sound item that fits into the buckets among `hosts`. All
    other rules want one item at every place that fits: that of `sha256`, or of each type and config the newest.
    """

    name: str
    kind: Kind
    priority: Priority
    type: ItemType | None = None
    config: str | None = None
    sha256: str | None = None
    copies: int | None = None
    lasting: int = 0
    hosts: tuple[str, ...] | None = None
    roles: tuple[str, ...] | None = None
    created_at: float = 0.0
    expires_at: float | None = None

    def holds(self, at: float) -> bool:
        """Whether it has not expired."""
        return self.expires_at is None or at < self.expires_at

    def is_about(self, sha256: str, type: str, config: str | None) -> bool:
        """Whether an item is one of those that it names."""
        if self.sha256 is not None:
            return self.sha256 == sha256
        return self.type in (None, type) and self.config in (None, config)


def training_job(
    name: str, config: str, hosts: Sequence[str], *, at: float, until: float, priority: Priority = Priority.HIGH
) -> Rule:
    """A job that trains on a config: its hosts hold the newest training set until it is over."""
    return Rule(
        name, Kind.PRELOAD, priority, ItemType.NPZ, config, hosts=tuple(hosts), created_at=at, expires_at=until
    )  # fmt: skip


def promoted_model(config: str, sha256: str, *, at: float, roles: Sequence[str] | None = None) -> Rule:
    """A config's current model: every host has it, or those of certain roles. It takes the place of the one before."""
    return Rule(
        model_rule(config), Kind.SYNC, Priority.HIGH, ItemType.MODEL, config, sha256,
        roles=None if roles is None else tuple(roles), created_at=at,
    )  # fmt: skip


def model_rule(config: str) -> str:
    """The name of the rule about a config's current model."""
    return f"model-{config}"


def standing_rules(cluster: Cluster) -> list[Rule]:
    """What always holds: enough copies of everything, one of them lasting, and a cold one of what is sound."""
    target = cluster.thresholds.replication_target
    found = [Rule(f"{STANDING}copies", Kind.REPLICATE, Priority.LOW, copies=target, lasting=1)]
    if cluster.s3 is not None and cluster.s3.enabled:
        found.append(Rule(f"{STANDING}cold", Kind.BACKUP, Priority.COLD_STORAGE, hosts=(cluster.s3.bucket,)))
    return found


def put(store: Store, rule: Rule) -> None:
    """Set a rule, in the place of one of its name. Rules that expired long before it are forgotten. Raises BadRule."""
    _check(rule)
    values = {
        "name": rule.name,
        "type": rule.type,
        "config": rule.config,
        "sha256": bytes.fromhex(rule.sha256) if rule.sha256 else None,
        "copies": rule.copies,
        "lasting": rule.lasting,
        "hosts": _json(rule.hosts),
        "roles": _json(rule.roles),
        "kind": rule.kind.value,
        "priority": int(rule.priority),
        "created_at": rule.created_at,
        "expires_at": rule.expires_at,
    }
    with store.writing() as writer:
        insert = upsert(writer.connection, rules).values(values)
        writer.connection.execute(insert.on_conflict_do_update(index_elements=["name"], set_=values))
        writer.connection.execute(sa.delete(rules).where(rules.c.expires_at < rule.created_at - KEPT_SECONDS))
        writer.touched = True


def remove(store: Store, name: str) -> bool:
    """Give a rule up; False if there is none of this name."""
    with store.writing() as writer:
        return _delete(writer, name)


def stored(store: Store, *, at: float | None = None) -> list[Rule]:
    """The rules that were set, by name; with `at`, only those that hold then."""
    with store.reading() as connection:
        return read(connection, at=at)


def read(connection: Connection, *, at: float | None = None) -> list[Rule]:
    """As `stored`, within a transaction."""
    found = [_rule(row) for row in connection.execute(sa.select(rules).order_by(rules.c.name))]
    return [rule for rule in found if at is None or rule.holds(at)]


def by_urgency(rules: Sequence[Rule]) -> list[Rule]:
    """The most urgent first."""
    return sorted(rules, key=lambda rule: (rule.priority, rule.created_at, rule.name))


def _check(rule: Rule) -> None:
    for what, adapter, value in (
        ("name", _NAME, rule.name),
        ("sha256", _HASH, rule.sha256),
        ("config", _CONFIG, rule.config),
        ("hosts", _PLACES, rule.hosts),
    ):
        try:
            if value is not None:
                adapter.validate_python(value)
        except ValidationError as error:
            raise BadRule(f"{what}: {error.errors()[0]['msg']}") from None
    if rule.name.startswith(STANDING):
        raise BadRule(f"name: rules named {STANDING}… always stand")
    if rule.copies is not None and not 1 <= rule.copies <= 100:
        raise BadRule("copies: 1 to 100")
    if rule.lasting < 0 or (rule.copies is not None and rule.lasting > rule.copies):
        raise BadRule("lasting: at most as many as copies")
    if rule.sha256 is None and rule.type is None and rule.config is None:
        raise BadRule("a rule names an item, a type or a config")
    if rule.expires_at is not None and rule.expires_at <= rule.created_at:
        raise BadRule("it would have expired already")


def _delete(writer: Writer, name: str) -> bool:
    found = writer.connection.execute(sa.delete(rules).where(rules.c.name == name)).rowcount > 0
    writer.touched |= found
    return found


def _json(names: Sequence[str] | None) -> str | None:
    return None if names is None else orjson.dumps(list(names)).decode()


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(orjson.loads(text))


def _rule(row: Any) -> Rule:
    return Rule(
        row.name, Kind(row.kind), Priority(row.priority), ItemType(row.type) if row.type else None, row.config,
        row.sha256.hex() if row.sha256 else None, row.copies, row.lasting, _names(row.hosts), _names(row.roles), row.created_at,
        row.expires_at,
    )  # fmt: skip
