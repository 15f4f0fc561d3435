"""Proposals for items with a single copy left, and the bucket's manifest made of what the manifest knows."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringrift_dagster.cluster.hosts import load_hosts
from ringrift_dagster.cluster.topology import Cluster
from ringrift_dagster.home import Home
from ringrift_dagster.manifest.inventory import Disk
from ringrift_dagster.manifest.plane import open_plane, publish_bucket_manifest
from ringrift_dagster.manifest.rescue import rescues
from ringrift_dagster.manifest.sources.s3_manifest import read_manifest
from ringrift_dagster.manifest.store import Store
from tests.manifest.s3_uploads import upload
from tests.manifest.telling import declared, dies, digest_of, item, tell
from tests.s3_servers import S3Server, client_of

HOSTS = """
sync_routing: {excluded_hosts: [vast-2]}
hosts:
  vast-1: {is_ephemeral: true}
  vast-2: {}
  nebius-1: {}
  full-1: {}
  refuses-1: {skip_sync_receive: true}
"""
ROOM, FULL = Disk(total=1000, free=900), Disk(total=1000, free=100)


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    path = tmp_path / "hosts.yaml"
    path.write_text(HOSTS)
    return load_hosts(path)


def test_a_sole_copy_goes_to_a_lasting_host_with_room(store: Store, cluster: Cluster) -> None:
    declared(store)
    tell(store, "bucket", [item("a.npz", "a")], at=1)
    tell(store, "vast-1", [item("b.npz", "b"), item("c.npz", "c")], at=1, disk=ROOM)
    tell(store, "vast-2", [item("c.npz", "c")], at=1, disk=ROOM)
    tell(store, "nebius-1", at=1, disk=ROOM)
    proposed = {(rescue.sha256, rescue.source): rescue.target for rescue in rescues(store, cluster)}
    assert proposed == {(digest_of("a"), "bucket"): "nebius-1", (digest_of("b"), "vast-1"): "nebius-1"}


@pytest.mark.parametrize("disk", [FULL, None])
def test_a_full_or_unknown_disk_is_sent_nothing(store: Store, cluster: Cluster, disk: Disk | None) -> None:
    declared(store)
    tell(store, "vast-1", [item("b.npz", "b")], at=1)
    tell(store, "nebius-1", at=1, disk=disk)
    assert [rescue.target for rescue in rescues(store, cluster)] == [None]


def test_a_silent_host_is_sent_nothing(store: Store, cluster: Cluster) -> None:
    declared(store)
    tell(store, "vast-1", [item("b.npz", "b")], at=1)
    tell(store, "nebius-1", at=1, disk=ROOM)
    dies(store, "nebius-1", at=50)
    assert [rescue.target for rescue in rescues(store, cluster)] == [None]


def test_the_bucket_gets_a_manifest_of_what_can_be_read_there(home: Home, s3_rclone: S3Server) -> None:
    there = upload(s3_rclone, "consolidated/training/hex8_2p.npz", b"content", config="hex8_2p")
    gone = upload(s3_rclone, "consolidated/training/gone_hex8_2p.npz", b"gone", config="hex8_2p")
    home.root.mkdir()
    (home.root / "distributed_hosts.yaml").write_text(f"sync_routing: {{s3: {{bucket: {s3_rclone.bucket}}}}}\nhosts: {{}}\n")
    with open_plane(home, s3_client=lambda: client_of(s3_rclone.endpoint)) as plane:
        plane.refresh()
        s3_rclone.client.delete_object(Bucket=s3_rclone.bucket, Key=gone.path)
        published = publish_bucket_manifest(plane, s3_rclone.client)
    assert (published.written, published.dangling) == (1, [gone.path])
    written = read_manifest(s3_rclone.client, s3_rclone.bucket)
    assert written is not None
    assert {key: entry.sha256 for key, entry in written.objects.items()} == {there.path: there.sha256}
