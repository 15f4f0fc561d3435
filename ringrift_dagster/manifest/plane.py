"""What this coordinator is set up for: the hosts file, the manifest, and a source for every place that holds data.

The one place where declarations become sources. What the hosts file means is `cluster`'s business, asking the sources `refresh`'s.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ringrift_dagster.cluster.hosts import load_hosts
from ringrift_dagster.cluster.topology import Cluster, Host, Place
from ringrift_dagster.home import Home
from ringrift_dagster.manifest.inventory import Cursor, FoundItem, Inventory, NoAnswer, Scrubbed, Source
from ringrift_dagster.manifest.locations import register
from ringrift_dagster.manifest.queries import readable_at
from ringrift_dagster.manifest.refresh import Refreshed, refresh
from ringrift_dagster.manifest.sources.layouts import HOME, SHARED, drive
from ringrift_dagster.manifest.sources.node import NodeSource
from ringrift_dagster.manifest.sources.shared import SharedSource
from ringrift_dagster.manifest.sources.tree import DiskSource, TreeInventory
from ringrift_dagster.manifest.store import Store, default_url

if TYPE_CHECKING:
    from ringrift_dagster.manifest.sources.s3_manifest import Published

HOSTS_VARIABLE = "RINGRIFT_HOSTS_FILE"
TOKEN_VARIABLE = "RINGRIFT_NODE_TOKEN"
THIS_HOST_VARIABLE = "RINGRIFT_HOST"
"""This machine's name in the hosts file: drives and shared file systems that it mounts are then read without an agent."""
SCRUB_REST_SECONDS = 20 * 3600.0
"""A file that was verified is not scrubbed again for so long: once a day, whenever in the day that is."""
_TOLD = ("sha256", "size", "type", "config", "games", "samples", "quality", "newest_game", "elo", "soundness")
HOME_LOCATION = "home"
"""This coordinator's own `$RINGRIFT_DATA_HOME`."""


@dataclass
class Plane:
    """A coordinator at work; use `open_plane`."""

    home: Home
    cluster: Cluster
    store: Store
    s3_client: Callable[[], Any] | None = None

    @cached_property
    def sources(self) -> tuple[Source, ...]:
        """One for every location. Made when they are first needed: most questions are answered by the manifest alone."""
        return tuple(_sources(self.home, self.cluster, _places(self.home, self.cluster), self.s3_client))

    def refresh(self, **options: Any) -> Refreshed:
        """One cycle over every source; see `refresh.refresh`."""
        return refresh(self.store, self.sources, **options)


@contextmanager
def open_plane(
    home: Home | None = None,
    *,
    hosts_file: Path | None = None,
    url: str | None = None,
    s3_client: Callable[[], Any] | None = None,
    at: float | None = None,
) -> Iterator[Plane]:
    """Everything that the environment, or the arguments, declare; the manifest's locations are made those of the hosts file.

    Without a hosts file the home is the only location. Raises HostsFileError and StoreError.
    """
    home = home or Home.from_env()
    cluster = load_cluster(home, hosts_file)
    with Store.open(url or default_url(home)) as store:
        register(store, _places(home, cluster), at=time.time() if at is None else at)
        yield Plane(home, cluster, store, s3_client)


def _places(home: Home, cluster: Cluster) -> list[Place]:
    via = _home_host(cluster)
    return [Place(HOME_LOCATION, "disk", str(home.root), provider="local", role="coordinator", via=via), *cluster.locations()]


def _home_host(cluster: Cluster) -> str | None:
    """The host that the home is on: the coordinator's. None if the hosts file and the environment do not agree on one."""
    named = {cluster.coordinator, os.environ.get(THIS_HOST_VARIABLE)} & set(cluster.hosts)
    return named.pop() if len(named) == 1 else None


def load_cluster(home: Home, hosts_file: Path | None = None) -> Cluster:
    """The hosts file that is named, or that the environment names, or that stands in the home; without one, an empty cluster."""
    named = hosts_file or os.environ.get(HOSTS_VARIABLE)
    path = Path(named) if named else home.root / "distributed_hosts.yaml"
    return load_hosts(path) if named or path.exists() else Cluster()


def _sources(home: Home, cluster: Cluster, places: Sequence[Place], s3_client: Callable[[], Any] | None) -> Iterator[Source]:
    here = os.environ.get(THIS_HOST_VARIABLE, "")
    state = home.root / "inventory"
    for place in places:
        if place.kind == "disk":
            tree = TreeInventory(place.name, home.root, HOME, state / place.name, scrub_rest=SCRUB_REST_SECONDS)
            yield DiskSource(place.name, tree)
        elif place.kind == "s3":
            yield _bucket(place, cluster, s3_client, state)
        else:
            asked = [_through(place, cluster, cluster.hosts[name], here, state) for name in place.hosts]
            yield asked[0] if place.kind == "host" else SharedSource(place.name, asked)


def _through(place: Place, cluster: Cluster, host: Host, here: str, state: Path) -> Source:
    """A place as a host sees it: through its agent, or directly if that host is this one and the place no host."""
    if host.name == here and place.kind != "host":
        folders = next((hung.subdirs.values() for hung in cluster.drives if hung.name == place.name), None)
        layout = SHARED if folders is None else drive(folders)
        root = Path(place.path).expanduser()
        tree = TreeInventory(place.name, root, layout, state / place.name, sentinel=True, scrub_rest=SCRUB_REST_SECONDS)
        return DiskSource(place.name, tree)
    root = "tree" if place.kind == "host" else place.name
    return NodeSource(place.name, host.agent_url or "", os.environ.get(TOKEN_VARIABLE), root, host.name, max_age=0)


def bucket_client(cluster: Cluster) -> Any:
    """A client for the bucket of the hosts file; keys and endpoint come from the environment."""
    from ringrift_dagster.manifest.sources.s3_client import make_client

    return make_client(cluster.s3.region if cluster.s3 else None)


def publish_bucket_manifest(plane: Plane, client: Any) -> Published:
    """Write our consolidated manifest into the bucket: everything that the manifest says can be read there. Raises NoAnswer."""
    from ringrift_dagster.manifest.sources.s3_client import Failure, no_answer
    from ringrift_dagster.manifest.sources.s3_manifest import ManifestUnreadable, PublishFailed, publish_manifest

    bucket = plane.cluster.s3
    if bucket is None:
        raise NoAnswer("", "not_found", "the hosts file names no bucket")
    entries = [
        FoundItem.model_validate({"path": path, **{name: getattr(item, name) for name in _TOLD}})
        for path, item in readable_at(plane.store, bucket.bucket)
    ]
    try:
        return publish_manifest(client, bucket.bucket, bucket.prefix, entries)
    except Failure as error:
        raise no_answer(bucket.bucket, error) from error
    except (ManifestUnreadable, PublishFailed) as error:
        raise NoAnswer(bucket.bucket, "bad_answer", str(error)) from error


def _bucket(place: Place, cluster: Cluster, s3_client: Callable[[], Any] | None, state: Path) -> Source:
    from ringrift_dagster.manifest.sources.s3 import DEFAULT_PREFIXES, S3Source
    from ringrift_dagster.manifest.sources.s3_manifest import DEFAULT_PREFIX

    try:
        client = s3_client() if s3_client else bucket_client(cluster)
    except Exception as error:  # a profile that is not there, an endpoint that is no URL: boto3 has many
        return _Unusable(place.name, f"{type(error).__name__}: {error}")
    prefix = place.path.strip("/") or DEFAULT_PREFIX
    below = DEFAULT_PREFIXES if f"{prefix}/".startswith(DEFAULT_PREFIXES) else (*DEFAULT_PREFIXES, f"{prefix}/")
    cache = state / f"{place.name}.db"
    return S3Source(
        place.name, client, place.name, cache=cache, prefixes=below, strangers_known=cluster.hosts, manifest_prefix=prefix
    )


class _Unusable:
    """A place that cannot be asked because of how this machine is set up: the others are, nevertheless."""

    def __init__(self, location: str, detail: str) -> None:
        self.location = location
        self._detail = detail

    def read(self, since: Cursor | None, timeout: float) -> Inventory:
        raise NoAnswer(self.location, "unreachable", self._detail)

    def scrub(self, max_bytes: int, timeout: float) -> Scrubbed:
        raise NoAnswer(self.location, "unreachable", self._detail)
