"""What a training job trains on, where that lies on its host, and that its beginning and its end are told once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringrift_dagster.events.model import EventType
from ringrift_dagster.home import Home
from ringrift_dagster.manifest.plane import Plane, open_plane
from ringrift_dagster.transfer.training import NoTrainingSet, path_on_host, set_to_train_on, tell_ended, tell_started
from tests.manifest.telling import item, tell
from tests.transfer.test_reactions import HOSTS, NOW, NPZ, hold, said

CONFIG = "hex8_2p"


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    """The hosts of `test_reactions`; two of them mount a file system."""
    home = Home(tmp_path / "home")
    home.root.mkdir()
    (home.root / "distributed_hosts.yaml").write_text(
        f"shared_storage: [{{name: nfs, path: /mnt/nfs, hosts: [gpu-1, gpu-2]}}]\n{HOSTS}"
    )
    with open_plane(home) as opened:
        for host in ("main", "gpu-1", "gpu-2", "nfs"):
            tell(opened.store, host, at=NOW)
        yield opened


def test_a_job_trains_on_the_best_set_that_is_fresh(plane: Plane) -> None:
    with pytest.raises(NoTrainingSet, match=r"no training set of hex8_2p is good enough: ."):
        set_to_train_on(plane, CONFIG, at=NOW)
    hold(plane, "gpu-2", "stale", age=1000 * 3600)
    with pytest.raises(NoTrainingSet):
        set_to_train_on(plane, CONFIG, at=NOW)
    best = hold(plane, "gpu-2", "good", path="data/training/new_hex8_2p.npz")
    assert set_to_train_on(plane, CONFIG, at=NOW) == best


def test_the_path_is_below_the_hosts_root_or_where_it_mounts_a_file_system(plane: Plane) -> None:
    own = hold(plane, "gpu-1", "own")
    assert (path_on_host(plane, own, "gpu-1"), path_on_host(plane, own, "gpu-2")) == (NPZ, None)
    tell(plane.store, "nfs", [item("shared/hex8_2p.npz", "shared", newest_game=NOW)], at=NOW)
    digest = item("x", "shared").sha256
    assert [path_on_host(plane, digest, host) for host in ("gpu-1", "gpu-2", "main")] == [
        "/mnt/nfs/shared/hex8_2p.npz",
        "/mnt/nfs/shared/hex8_2p.npz",
        None,
    ]


def test_beginning_and_end_are_told_once_each_time_the_job_is_asked_for(plane: Plane) -> None:
    for asked_at in (1.0, 1.0, 2.0):
        tell_started(plane, CONFIG, "gpu-1", "job", at=asked_at)
        tell_ended(plane, CONFIG, "gpu-1", "job", "failed", started_at=asked_at, at=time.time(), reason="no memory")
    tell_ended(plane, CONFIG, "gpu-1", "other", "completed", started_at=3.0, at=4.0, model="0" * 64)
    assert len(said(plane, EventType.TRAINING_STARTED)) == len(said(plane, EventType.TRAINING_FAILED)) == 2
    assert said(plane, EventType.TRAINING_FAILED)[0]["reason"] == "no memory"
    (completed,) = said(plane, EventType.TRAINING_COMPLETED)
    assert (completed["host"], completed["model"], completed["success"]) == ("gpu-1", "0" * 64, True)
