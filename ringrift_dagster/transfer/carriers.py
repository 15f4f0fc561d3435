"""Who carries items to a target: its agent (`pulling`), or for a bucket this process itself.

A carrier is given leased operations and tells of their ends, in batches, from threads of its own. It changes nothing in the queue
but which order an operation is part of and which link it counts on; leasing and recording is the coordinator's business.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from threading import Event
from typing import Any, Protocol

from ringrift_dagster.cluster.topology import Place, S3Place
from ringrift_dagster.manifest.plane import HOME_LOCATION, THIS_HOST_VARIABLE, Plane, bucket_client
from ringrift_dagster.manifest.queries import SILENT
from ringrift_dagster.manifest.replicas import Made
from ringrift_dagster.transfer import queue, uploads
from ringrift_dagster.transfer.agents import Agents
from ringrift_dagster.transfer.endings import Ended
from ringrift_dagster.transfer.model import OfferOutcome, TransportName
from ringrift_dagster.transfer.offers import Goods, Servers, goods_of
from ringrift_dagster.transfer.operations import Brought, Operation
from ringrift_dagster.transfer.uploads import Giver, LocalFile, RemoteCopy, UploadFailed

UPLOADS_AT_ONCE = 4


@dataclass
class Begun:
    """What came of beginning: operations that are under way now, and ends that came at once. The rest went back to the queue."""

    under_way: list[Operation] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)


News = SimpleQueue[list[Ended]]


class Carrier(Protocol):
    """Carries to one target."""

    def silent(self) -> str | None:
        """Why nothing can be carried now, or None."""
        ...

    def begin(self, leased: Sequence[Operation], *, at: float) -> Begun:
        """Get operations under way."""
        ...

    def forget(self, operation: Operation, *, cancelled: bool) -> None:
        """Nobody here wants to hear of an operation any more; if it was cancelled, nobody at all."""
        ...

    def close(self) -> None:
        """Tell of nothing any more. What an agent has begun it goes on with; what this process does itself it breaks off."""
        ...


class BucketCarrier:
    """Fills a bucket. `news` hears of ends."""

    def __init__(self, plane: Plane, agents: Agents, owner: str, bucket: S3Place, news: News) -> None:
        self._plane = plane
        self._agents = agents
        self._owner = owner
        self._bucket = bucket
        self._news = news
        self._over = Event()
        self._unwanted: set[int] = set()
        self._pool = ThreadPoolExecutor(UPLOADS_AT_ONCE, thread_name_prefix="upload")
        self._client: Any = None

    def silent(self) -> str | None:
        if self._client is None:
            try:
                client = self._plane.s3_client() if self._plane.s3_client else bucket_client(self._plane.cluster)
                client.head_bucket(Bucket=self._bucket.bucket)
                uploads.sweep(client, self._bucket, at=time.time())
            except Exception as error:  # a profile that is not there, an endpoint that is no URL: boto3 has many
                return f"{type(error).__name__}: {error}"
            self._client = client
        return None

    def begin(self, leased: Sequence[Operation], *, at: float) -> Begun:
        begun = Begun()
        goods = goods_of(self._plane.store, (each.sha256 for each in leased), self._bucket.bucket)
        servers = Servers(self._plane)
        ready: dict[int, tuple[Operation, Goods, list[Giver]]] = {}
        for each in leased:
            found = goods.get(each.sha256)
            if found is None:
                begun.ended.append(Ended(each, cause="unknown_item", detail="the manifest has no such item"))
            else:
                ready[each.id] = each, found, self._givers(found, servers)
        sources = {number: givers[0].location for number, (_, _, givers) in ready.items() if givers}
        borne = queue.draw(self._plane.store, self._owner, sources, [ready[number][0] for number in sources], at=at)
        for number, (operation, found, givers) in ready.items():
            if number in borne or not givers:
                begun.under_way.append(operation)
                self._pool.submit(self._upload, operation, found, givers)
        return begun

    def forget(self, operation: Operation, *, cancelled: bool) -> None:
        self._unwanted.add(operation.id)

    def close(self) -> None:
        self._over.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _givers(self, goods: Goods, servers: Servers) -> list[Giver]:
        """Who can send it: files of this machine first, then agents, those first that the hosts file lets push."""
        local: list[Giver] = []
        remote: list[tuple[bool, int, Giver]] = []
        pushing = self._bucket.push_enabled_hosts
        for number, source in enumerate(source for source in goods.sources if source.why != SILENT):
            if (root := self._local_root(servers.places.get(source.location), source.location)) is not None:
                local.append(LocalFile(source.location, root / source.path))
            elif (host := servers.of(source)) is not None and (agent := self._agents.client(host.name)) is not None:
                remote.append((host.name not in pushing, number, RemoteCopy(source.location, agent)))
        return [*local, *(giver for _, _, giver in sorted(remote, key=lambda each: each[:2]))]

    def _local_root(self, place: Place | None, name: str) -> Path | None:
        if name == HOME_LOCATION:
            return self._plane.home.root
        here = os.environ.get(THIS_HOST_VARIABLE, "")
        if place is None or place.kind not in ("drive", "shared") or here not in place.hosts:
            return None
        return Path(place.path).expanduser()

    def _upload(self, operation: Operation, goods: Goods, givers: Sequence[Giver]) -> None:
        def cancelled() -> bool:
            return self._over.is_set() or operation.id in self._unwanted

        try:
            done = uploads.upload(self._client, self._bucket, goods.item, goods.suffix, givers, cancelled=cancelled)
        except UploadFailed as failure:
            silent = failure.cause == "no_source" and not givers and bool(goods.silent(self._bucket.bucket))
            end = Ended(operation, goods.item, cause=failure.cause, detail=failure.detail, liars=failure.liars, silent=silent)
        except Exception as error:  # the thread must tell, whatever it was
            end = Ended(operation, goods.item, cause="upload_failed", detail=f"{type(error).__name__}: {error}")
        else:
            transport = TransportName.S3
            brought = Brought(transport.value, done.source, done.bytes, done.seconds)
            outcome = OfferOutcome(
                location=done.source or self._bucket.bucket, transport=transport, bytes=done.bytes, seconds=done.seconds
            )
            made = Made(operation.sha256, done.key, done.mtime, done.verified_at)
            end = Ended(operation, goods.item, brought, made, outcomes=(outcome,) if done.bytes else ())
        if not cancelled():
            self._news.put([end])
