"""What RingRift's own manifests in a bucket say, and how far it is true.

A node's manifest lists every database and model of the node though only some of them are uploaded; it holds no hashes, and stays
when the node is gone. The consolidated one holds counts only. So they are evidence about nodes, never a list of items. Anything
may stand in them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import orjson
from pydantic import TypeAdapter, ValidationError

from ringrift_dagster.manifest.inventory import MAX_SIZE, RelativePath
from ringrift_dagster.manifest.sources.s3_client import CONNECTIONS, Failure, status_of
from ringrift_dagster.manifest.sources.s3_listing import Listed, list_objects

NODES_PREFIX = "nodes/"
CONSOLIDATED_KEY = "consolidated/manifest.json"
MAX_BYTES = 32 << 20
"""A larger manifest is not read."""
MAX_NODES = 1000
"""Nodes beyond so many are not looked at."""

_NODE = re.compile(r"nodes/([A-Za-z0-9][A-Za-z0-9._:-]{0,99})/.")
_PATH: TypeAdapter[str] = TypeAdapter(RelativePath)


@dataclass(frozen=True)
class NodeManifest:
    """What a node claims to have uploaded: size in bytes by path below `nodes/{node}/`, -1 where it tells none.

    `absent` paths are claimed and not in the bucket. `last_seen` is seconds since 1970 (UTC) by the node's own clock. `problem`:
    why nothing can be read from it, in one line.
    """

    node: str
    claimed: dict[str, int] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    last_seen: float | None = None
    problem: str | None = None


@dataclass(frozen=True)
class RingRiftManifests:
    """By node, those without a manifest included; `consolidated` maps what RingRift counted to the counts, empty if it did not."""

    nodes: dict[str, NodeManifest]
    consolidated: dict[str, int]


def node_ids(objects: Mapping[str, Any]) -> list[str]:
    """The nodes that have objects of their own, by what a bucket lists."""
    found = {match[1] for key in objects if (match := _NODE.match(key))}
    return sorted(found)[:MAX_NODES]


def ringrift_manifests(client: Any, bucket: str) -> RingRiftManifests:
    """Read the manifests of all nodes and the consolidated one. Raises s3_client.Failure and ListingBroken."""
    objects = list_objects(client, bucket, [NODES_PREFIX, CONSOLIDATED_KEY]).objects
    nodes = node_ids(objects)
    with ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="s3-manifests") as pool:
        manifests = list(pool.map(partial(_node_manifest, client, bucket, objects), nodes))
    told, _ = _read(client, bucket, CONSOLIDATED_KEY, objects)
    summary = told.get("summary") if isinstance(told, dict) else None
    counts = {name: count for name, count in _items(summary) if isinstance(name, str) and _is_count(count)}
    return RingRiftManifests({manifest.node: manifest for manifest in manifests}, counts)


def _node_manifest(client: Any, bucket: str, objects: Mapping[str, Listed], node: str) -> NodeManifest:
    folder = f"{NODES_PREFIX}{node}/"
    told, problem = _read(client, bucket, f"{folder}manifest.json", objects)
    if problem is not None:
        return NodeManifest(node, problem=problem)
    if not isinstance(told, dict):
        return NodeManifest(node, problem="not an object")
    claimed = {}
    for path, entry in _items(told.get("files")):
        try:
            path = _PATH.validate_python(path)
        except ValidationError:
            continue
        size = entry.get("size") if isinstance(entry, dict) else None
        claimed[path] = size if _is_count(size) else -1
    absent = tuple(sorted(path for path in claimed if folder + path not in objects))
    return NodeManifest(node, claimed, absent, _time(told.get("timestamp")))


def _read(client: Any, bucket: str, key: str, objects: Mapping[str, Listed]) -> tuple[Any, str | None]:
    """What stands in a JSON object, and why it cannot be read, if so."""
    listed = objects.get(key)
    if listed is None:
        return None, "no manifest"
    if listed.archived:
        return None, "archived"
    if listed.size > MAX_BYTES:
        return None, f"larger than {MAX_BYTES} bytes"
    try:
        with closing(client.get_object(Bucket=bucket, Key=key)["Body"]) as body:
            data = body.read(MAX_BYTES + 1)
        return orjson.loads(data[:MAX_BYTES]), None
    except orjson.JSONDecodeError as error:
        return None, f"no JSON: {error}"
    except Failure as error:
        if status_of(error) not in (403, 404):
            raise
        return None, f"status {status_of(error)}"


def _items(value: object) -> list[tuple[Any, Any]]:
    return list(value.items()) if isinstance(value, dict) else []


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_SIZE


def _time(value: Any) -> float | None:
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if numeric and math.isfinite(value) and 0 <= value <= 1 << 40 else None
