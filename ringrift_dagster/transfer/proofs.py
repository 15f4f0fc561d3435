"""Live proof that a location holds an item: its bytes are read and hashed again, now. What the manifest remembers is none.

Of a bucket, which keeps what it took, the proof is that the object is there, readable, of the right size, and was uploaded with
this hash. What a proof is good for, `removal` knows.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ringrift_dagster.manifest.inventory import NoAnswer
from ringrift_dagster.manifest.merge import ARCHIVED_CLASSES
from ringrift_dagster.manifest.plane import Plane, bucket_client
from ringrift_dagster.manifest.queries import Copy, Item
from ringrift_dagster.manifest.sources.layouts import HOME, SNAPSHOT_FOLDER
from ringrift_dagster.manifest.sources.s3_metadata import hash_in
from ringrift_dagster.manifest.sources.tree import DiskSource
from ringrift_dagster.transfer.agents import HASHING_SECONDS, AgentClient, AgentRefused, Agents, AgentSilent
from ringrift_dagster.transfer.targets import place_of

TREE = "tree"
"""What agents call the root that is their host's own."""


@dataclass(frozen=True)
class Proof:
    """A location holds an item; `at` in seconds since 1970."""

    location: str
    lasting: bool
    at: float


def is_retired_by_itself(copy: Copy) -> bool:
    """Whether a copy is a snapshot that its location removes once a later one succeeds it: nothing to rely on."""
    if copy.kind == "disk":
        rule = HOME.rule(copy.path)
        return rule is not None and rule.retired
    return copy.path.startswith(f"{SNAPSHOT_FOLDER}/")


def root_of(kind: str, name: str) -> str:
    """What agents call a location."""
    return TREE if kind == "host" else name


class Prover:
    """Asks locations for proofs."""

    def __init__(self, plane: Plane, agents: Agents) -> None:
        self._plane = plane
        self._agents = agents
        self._s3: Any = None

    def prove(self, item: Item, copy: Copy) -> float | None:
        """When the copy was found to be whole, just now; None if it was not, or if nobody could say so."""
        if copy.kind == "s3":
            return self._in_bucket(item, copy)
        direct = next((source for source in self._plane.sources if source.location == copy.location), None)
        if isinstance(direct, DiskSource):
            try:
                return direct.prove(item.sha256, HASHING_SECONDS)
            except NoAnswer:
                return None
        for client in self.clients(copy.location):
            try:
                proof = client.prove(item.sha256, root_of(copy.kind, copy.location))
            except (AgentSilent, AgentRefused):
                continue
            if proof.held:
                return proof.verified_at or time.time()
        return None

    def clients(self, location: str) -> Iterable[AgentClient]:
        """The agents that serve a location."""
        place = place_of(self._plane.cluster, location)
        for host in place.hosts if place else ():
            try:
                client = self._agents.client(host)
            except AgentSilent:
                continue
            if client is not None:
                yield client

    def _in_bucket(self, item: Item, copy: Copy) -> float | None:
        try:
            if self._s3 is None:
                self._s3 = self._plane.s3_client() if self._plane.s3_client else bucket_client(self._plane.cluster)
            head = self._s3.head_object(Bucket=copy.location, Key=copy.path)
        except Exception:  # no keys, no such object, no answer: boto3 has many, and none is a proof
            return None
        whole = head.get("ContentLength") == item.size and hash_in(head.get("Metadata", {})) == item.sha256
        return time.time() if whole and head.get("StorageClass") not in ARCHIVED_CLASSES else None
