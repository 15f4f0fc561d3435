"""A local cleanup was mirrored into the bucket with `--delete`, and 138 GB of backups went with it.

What vanishes where it came from stays in cold storage: nothing that has a name in the bucket is ever removed by moving data.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from ringrift_dagster.home import Home
from ringrift_dagster.manifest import queries
from ringrift_dagster.manifest.plane import Plane, open_plane
from ringrift_dagster.transfer import queue
from ringrift_dagster.transfer.coordinator import Coordinator
from ringrift_dagster.transfer.model import Priority
from ringrift_dagster.transfer.operations import Kind, State, Wanted
from ringrift_dagster.transfer.uploads import ASIDE
from tests.s3_servers import Proxy, S3Server, client_of


def back_up(plane: Plane, bucket: str) -> list[State]:
    """Everything sound that the bucket lacks, as a cold copy."""
    lacking = queries.missing_at(plane.store, bucket)
    wanted = [Wanted(Kind.BACKUP, each.sha256, bucket, Priority.COLD_STORAGE, each.size) for each in lacking]
    queue.submit_all(plane.store, wanted, at=time.time())
    return [row.state for row in Coordinator(plane, "nightly").run(bucket, seconds=60).rows]


def test_what_was_cleaned_up_at_home_stays_in_the_bucket(
    tmp_path: Path, s3_rclone: S3Server, proxied: Callable[[S3Server], Proxy], recorded: Callable[[str], Path]
) -> None:
    snapshots = tmp_path / "home/snapshots/square8_2p"
    snapshots.mkdir(parents=True)
    for name in ("canonical_square8_2p", "canonical_square8_2p_mixed22"):
        (snapshots / f"{name}.db").write_bytes(recorded(name).read_bytes())
    hosts = tmp_path / "hosts.yaml"
    hosts.write_text(f"sync_routing: {{s3: {{bucket: {s3_rclone.bucket}}}}}\nhosts: {{}}\n")
    proxy = proxied(s3_rclone)
    with open_plane(Home(tmp_path / "home"), hosts_file=hosts, s3_client=lambda: client_of(proxy.endpoint)) as plane:
        plane.refresh()
        assert back_up(plane, s3_rclone.bucket) == [State.DONE, State.DONE]
        stored = {key for key, _ in queries.readable_at(plane.store, s3_rclone.bucket)}
        assert len(stored) == 2
        for path in snapshots.iterdir():
            path.unlink()
        plane.refresh()
        (snapshots / "canonical_hex8_2p.db").write_bytes(recorded("canonical_hex8_2p").read_bytes())
        plane.refresh()
        assert back_up(plane, s3_rclone.bucket) == [State.DONE]
        plane.refresh()
        kept = {key for key, _ in queries.readable_at(plane.store, s3_rclone.bucket)}
        assert stored < kept and len(kept) == 3
    listed = {entry["Key"] for entry in s3_rclone.client.list_objects_v2(Bucket=s3_rclone.bucket)["Contents"]}
    assert kept <= listed
    assert [key for key in proxy.seen("DELETE") if ASIDE not in key] == []
