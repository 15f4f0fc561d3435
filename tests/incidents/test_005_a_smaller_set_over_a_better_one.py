"""A restart forgot what had been pushed and when, and a smaller, older training set went over a better one in the bucket.

Nothing remembered decides: a key has its content's hash, so both stand, and what is there already is not sent again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from ringrift_dagster.datasets.npz_export import export_databases
from ringrift_dagster.games.database import file_sha256
from ringrift_dagster.home import Home
from ringrift_dagster.manifest.inventory import ItemType
from ringrift_dagster.manifest.plane import open_plane
from ringrift_dagster.manifest.queries import items_by_quality
from ringrift_dagster.transfer import queue
from ringrift_dagster.transfer.coordinator import Coordinator
from ringrift_dagster.transfer.endings import Row
from ringrift_dagster.transfer.model import Priority
from ringrift_dagster.transfer.operations import Kind, State, Wanted
from tests.s3_servers import S3Server, client_of


def push(root: Path, bucket: S3Server, sha256: str, manifest: str) -> Row:
    """As a coordinator that was just started does it; `manifest` is the database that it remembers in."""
    hosts = root / "hosts.yaml"
    hosts.write_text(f"sync_routing: {{s3: {{bucket: {bucket.bucket}}}}}\nhosts: {{}}\n")
    url = f"sqlite:///{root}/{manifest}.db"
    with open_plane(Home(root / "home"), hosts_file=hosts, url=url, s3_client=lambda: client_of(bucket.endpoint)) as plane:
        plane.refresh()
        wanted = Wanted(Kind.BACKUP, sha256, bucket.bucket, Priority.COLD_STORAGE)
        queue.submit(plane.store, wanted, at=time.time())
        (row,) = Coordinator(plane, "push").run(bucket.bucket, seconds=60).rows
        assert len(items_by_quality(plane.store, "square8_2p", ItemType.NPZ)) >= 1
    return row


def test_neither_a_restart_nor_a_worse_set_costs_the_better_one(
    tmp_path: Path, s3_rclone: S3Server, recorded: Callable[[str], Path]
) -> None:
    datasets = tmp_path / "home/datasets"
    datasets.mkdir(parents=True)
    better, worse, current = tmp_path / "better.npz", tmp_path / "worse.npz", datasets / "square8_2p.npz"
    export_databases("square8_2p", [recorded("canonical_square8_2p"), recorded("canonical_square8_2p_mixed22")], better)
    export_databases("square8_2p", [recorded("canonical_square8_2p_mixed22")], worse)
    assert worse.stat().st_size < better.stat().st_size
    current.write_bytes(better.read_bytes())
    first = push(tmp_path, s3_rclone, file_sha256(better), "before")
    assert first.state == State.DONE and first.bytes == better.stat().st_size
    current.write_bytes(worse.read_bytes())
    os.utime(current, (1_600_000_000, 1_600_000_000))
    second = push(tmp_path, s3_rclone, file_sha256(worse), "forgotten")
    assert second.state == State.DONE
    key = "consolidated/training/square8_2p_{}.npz"
    for path in (better, worse):
        stored = s3_rclone.client.get_object(Bucket=s3_rclone.bucket, Key=key.format(file_sha256(path)))
        assert stored["Body"].read() == path.read_bytes()
    current.write_bytes(better.read_bytes())
    again = push(tmp_path, s3_rclone, file_sha256(better), "forgotten again")
    assert (again.state, again.bytes) == (State.DONE, 0), "it is there: nothing is sent"
