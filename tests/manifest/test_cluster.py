"""A cluster on this machine: five real agents, a drive, a shared file system and an S3 server, filled with real databases and
training sets that share names and not contents. What the manifest says is right after anything happened to them.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ringrift_dagster.cluster.topology import AgeLimits
from ringrift_dagster.datasets.npz_export import export_databases
from ringrift_dagster.games.database import file_sha256
from ringrift_dagster.home import Home
from ringrift_dagster.manifest import queries
from ringrift_dagster.manifest.changes import changes_since
from ringrift_dagster.manifest.freshness import host_freshness
from ringrift_dagster.manifest.inventory import ItemType
from ringrift_dagster.manifest.locations import location
from ringrift_dagster.manifest.orphans import open_orphans
from ringrift_dagster.manifest.plane import Plane, open_plane
from ringrift_dagster.manifest.refresh import Refreshed
from ringrift_dagster.manifest.sources.s3_metadata import metadata_of
from ringrift_dagster.manifest.sources.tree import mark_location
from tests.agents import RunningAgent, running_agent
from tests.s3_servers import S3Server, client_of, new_bucket

pytestmark = pytest.mark.xdist_group("cluster")

TRAINING = "data/training/square8_2p.npz"
HOSTS = """
sync_routing:
  s3: {{enabled: true, bucket: {bucket}}}
  allowed_external_storage: [{{name: owc, host: n5, path: {root}/owc}}]
shared_storage: [{{name: nfs, path: {root}/nfs, hosts: [n1, n2]}}]
hosts:
  n1: {{data_server_url: "{n1}", provider: lambda, rack: west, role: gpu_training_primary, ringrift_path: {root}/n1}}
  n2: {{data_server_url: "{n2}", provider: lambda, rack: west, role: gpu_selfplay, ringrift_path: {root}/n2}}
  n3: {{data_server_url: "{n3}", provider: vast, role: gpu_selfplay, is_ephemeral: true, ringrift_path: {root}/n3}}
  n4: {{data_server_url: "{n4}", provider: nebius, rack: eu, role: gpu_training_primary, ringrift_path: {root}/n4}}
  n5: {{data_server_url: "{n5}", provider: local, role: coordinator, is_coordinator: true, ringrift_path: {root}/n5}}
"""


@dataclass
class Cluster:
    """The running parts, and the plane that watches them."""

    root: Path
    plane: Plane
    agents: dict[str, RunningAgent]
    bucket: S3Server
    hashes: dict[str, str]
    start: Callable[[str, int], RunningAgent]
    ahead: float = 0.0
    files: int = field(default=0)

    def refresh(self, *, later: float = 0.0) -> Refreshed:
        """A cycle, `later` seconds after the last one by the coordinator's clock."""
        self.ahead += later
        return self.plane.refresh(clock=lambda: time.time() + self.ahead, answer_seconds=5.0, again_seconds=0.1)

    def copies(self, content: str) -> dict[str, str]:
        """State of every copy by location and path."""
        found = queries.where(self.plane.store, self.hashes.get(content, content)).copies
        return {f"{copy.location}/{copy.path}": copy.state for copy in found}

    def put(self, host: str, name: str, like: str = "a") -> tuple[Path, str]:
        """A training set that no other file equals; returns path and hash."""
        self.files += 1
        path = self.root / host / name
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        with part.open("wb") as file:
            file.write((self.root / f"{like}.npz").read_bytes() + b" " * self.files)
        part.replace(path)
        return path, file_sha256(path)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, recorded: Callable[[str], Path], rclone_endpoint: str) -> Iterator[Cluster]:
    root = tmp_path_factory.mktemp("cluster")
    databases = {"a": recorded("canonical_square8_2p"), "b": recorded("canonical_square8_2p_mixed22")}
    for name, database in databases.items():
        export_databases("square8_2p", [database], root / f"{name}.npz")
    for host, content in (("n1", "a"), ("n2", "b")):
        _copy(databases[content], root / host / "data/games/canonical_square8_2p.db")
    for path, content in ((f"n1/{TRAINING}", "a"), (f"n4/{TRAINING}", "b"), ("n3/data/training/other_square8_2p.npz", "a")):
        _copy(root / f"{content}.npz", root / path)
    (root / "n5").mkdir()
    _copy(root / "b.npz", root / "owc/canonical_data/square8_2p.npz")
    _copy(databases["a"], root / "owc/consolidated/games/old.db")
    _copy(root / "b.npz", root / "nfs/training/square8_2p.npz")
    for name in ("owc", "nfs"):
        mark_location(root / name, name)
    options = {"n1": ("--shared", f"nfs={root}/nfs"), "n2": ("--shared", f"nfs={root}/nfs"), "n5": ("--drive", f"owc={root}/owc")}
    bucket = new_bucket(rclone_endpoint)
    hashes = {name: file_sha256(root / f"{name}.npz") for name in "ab"}
    metadata = metadata_of(hashes["a"], {"type": ItemType.NPZ})
    bucket.put("consolidated/training/square8_2p.npz", (root / "a.npz").read_bytes(), metadata)
    with ExitStack() as stack:

        def start(host: str, port: int = 0) -> RunningAgent:
            return stack.enter_context(running_agent(root / host, host, *options.get(host, ()), port=port))

        agents = {host: start(host) for host in ("n1", "n2", "n3", "n4", "n5")}
        hosts = root / "hosts.yaml"
        hosts.write_text(HOSTS.format(root=root, bucket=bucket.bucket, **{host: agent.url for host, agent in agents.items()}))
        plane = stack.enter_context(open_plane(Home(root / "home"), hosts_file=hosts, s3_client=lambda: client_of(rclone_endpoint)))
        running = Cluster(root, plane, agents, bucket, hashes, start)
        _settle(running)
        yield running


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _settle(cluster: Cluster) -> None:
    """Refresh until everything was hashed."""
    deadline = time.monotonic() + 60
    while True:
        result = cluster.refresh()
        places = [location(cluster.plane.store, outcome.location) for outcome in result.outcomes]
        if not result.silent and all(
            place and place.pending == 0 and not (place.epoch or "").endswith("-first") for place in places
        ):
            return
        assert time.monotonic() < deadline, result.outcomes


def test_names_and_contents_are_kept_apart(cluster: Cluster) -> None:
    a = cluster.copies("a")
    assert {f"n1/{TRAINING}", "n3/data/training/other_square8_2p.npz"} <= set(a)
    assert f"{cluster.bucket.bucket}/consolidated/training/square8_2p.npz" in a
    assert {f"n4/{TRAINING}", "nfs/training/square8_2p.npz", "owc/canonical_data/square8_2p.npz"} == set(cluster.copies("b"))
    with pytest.raises(queries.AmbiguousItem):
        queries.find_item(cluster.plane.store, "square8_2p.npz")


def test_databases_of_one_name_are_two_items_with_their_own_counts(cluster: Cluster) -> None:
    found = queries.items_by_quality(cluster.plane.store, "square8_2p", ItemType.GAME_DB)
    assert sorted(entry.games or 0 for entry in found)[:1] == [8]
    assert 30 in {entry.games for entry in found}
    snapshots = [queries.where(cluster.plane.store, entry.sha256).copies for entry in found if entry.games == 8]
    assert [[copy.location for copy in copies] for copies in snapshots] == [["n2"]]


def test_a_file_is_followed_as_it_appears_changes_and_vanishes(cluster: Cluster) -> None:
    path, first = cluster.put("n2", "data/training/x_square8_2p.npz")
    cluster.put("n2", "data/training/y_square8_2p.npz")
    cluster.refresh()
    assert cluster.copies(first) == {"n2/data/training/x_square8_2p.npz": "AVAILABLE"}
    _, second = cluster.put("n2", "data/training/x_square8_2p.npz")
    cluster.refresh()
    assert cluster.copies(first) == {"n2/data/training/x_square8_2p.npz": "LOST"}
    assert cluster.copies(second) == {"n2/data/training/x_square8_2p.npz": "AVAILABLE"}
    path.unlink()
    cluster.refresh()
    assert cluster.copies(second) == {"n2/data/training/x_square8_2p.npz": "LOST"}
    assert second in {orphan.sha256 for orphan in open_orphans(cluster.plane.store)}


def test_an_unmounted_drive_loses_nothing(cluster: Cluster) -> None:
    drive = cluster.root / "owc"
    away = drive.rename(cluster.root / "unmounted")
    drive.mkdir()
    result = cluster.refresh()
    assert {outcome.location: outcome.code for outcome in result.silent} == {"owc": "not_mounted"}
    assert cluster.copies("b")["owc/canonical_data/square8_2p.npz"] == "UNAVAILABLE"
    drive.rmdir()
    away.rename(drive)
    cluster.refresh()
    assert cluster.copies("b")["owc/canonical_data/square8_2p.npz"] == "AVAILABLE"


def test_a_killed_agent_strands_what_only_its_host_has_until_it_is_back(cluster: Cluster) -> None:
    _, only = cluster.put("n3", "data/training/only_square8_2p.npz")
    cluster.refresh()
    assert [danger.sha256 for danger in queries.sole_copies(cluster.plane.store, at_location="n3")] == [only]
    dead = cluster.agents["n3"]
    dead.kill()
    result = cluster.refresh(later=30)
    kinds = {change.kind for change in changes_since(cluster.plane.store, result.changes) if change.location == "n3"}
    assert kinds == {"HOST_OFFLINE", "ORPHAN_DETECTED"}
    assert [(orphan.location, orphan.proposal) for orphan in open_orphans(cluster.plane.store) if orphan.sha256 == only] == [
        ("n3", "bring n3 back, or its disk")
    ]
    assert cluster.copies("a")["n3/data/training/other_square8_2p.npz"] == "UNAVAILABLE"
    cluster.agents["n3"] = cluster.start("n3", int(dead.url.rsplit(":", 1)[1]))
    cluster.refresh()
    assert cluster.copies(only) == {"n3/data/training/only_square8_2p.npz": "AVAILABLE"}
    assert only not in {orphan.sha256 for orphan in open_orphans(cluster.plane.store)}


def test_a_host_that_hangs_delays_nobody(cluster: Cluster) -> None:
    _, new = cluster.put("n2", "data/training/meanwhile_square8_2p.npz")
    os.kill(cluster.agents["n4"].process.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        result = cluster.refresh(later=30)
        assert time.monotonic() - began < 15
    finally:
        os.kill(cluster.agents["n4"].process.pid, signal.SIGCONT)
    assert {outcome.location: outcome.code for outcome in result.silent} == {"n4": "timeout"}
    assert cluster.copies(new) == {"n2/data/training/meanwhile_square8_2p.npz": "AVAILABLE"}
    cluster.refresh()
    assert cluster.copies("b")[f"n4/{TRAINING}"] == "AVAILABLE"


def test_each_host_is_sent_to_the_nearest_copy(cluster: Cluster) -> None:
    def nearest(content: str, host: str) -> tuple[str, str]:
        source = queries.best_sources(cluster.plane.store, cluster.hashes[content], host)[0]
        return source.location, source.why

    assert nearest("b", "n2") == ("nfs", "shared file system in place")
    assert nearest("a", "n2") == ("n1", "same rack")
    assert nearest("b", "n4") == ("n4", "already there")


def test_what_the_bucket_lacks_is_everything_sound_but_what_it_has(cluster: Cluster) -> None:
    lacks = {danger.sha256 for danger in queries.missing_at(cluster.plane.store, cluster.bucket.bucket)}
    assert cluster.hashes["b"] in lacks
    assert cluster.hashes["a"] not in lacks


def within(hours: float) -> AgeLimits:
    """Limits for recorded games, which are of any age: wider ones than a hosts file may have."""
    return AgeLimits.model_construct(warn_hours=hours, fail_hours=hours)


def test_the_report_says_for_every_host_what_it_would_train_on(cluster: Cluster) -> None:
    now = time.time() + cluster.ahead
    rows = {
        row.location: row for row in host_freshness(cluster.plane.store, now, limits=within(876_000)) if row.config == "square8_2p"
    }
    assert rows["n5"].why == "it has no training set"
    assert rows["n1"].training_sets == 2  # its own, and the one on the file system that it sees
    assert sum(bool(row.is_reference) for row in rows.values()) >= 1
    stale = {row.location for row in host_freshness(cluster.plane.store, now, limits=within(1 / 3600)) if not row.fresh}
    assert stale == {"n1", "n2", "n3", "n4", "n5"}


def test_a_coordinator_with_a_wrong_clock_notices_and_loses_nothing(cluster: Cluster) -> None:
    before = cluster.copies("a")
    cluster.refresh(later=4000)
    place = location(cluster.plane.store, "n1")
    assert place is not None and place.clock_skew is not None and place.clock_skew < -3900
    assert cluster.copies("a") == before
