"""A disk cleaner deleted candidate models, which were fetched again, and deleted again: every five minutes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ringrift_dagster.manifest.changes import changes_since
from ringrift_dagster.manifest.inventory import Disk
from ringrift_dagster.manifest.plane import Plane
from ringrift_dagster.transfer import planner, queue
from ringrift_dagster.transfer.model import Priority
from ringrift_dagster.transfer.operations import State
from ringrift_dagster.transfer.removal import overfull, retention
from ringrift_dagster.transfer.rules import promoted_model, put, remove, training_job
from tests.manifest.telling import tell
from tests.transfer.field import Field, noise, running_field
from tests.transfer.fresh import fresh

CYCLES = 4
HOSTS = {
    "gpu-1": "role: gpu_training_primary",
    "gpu-2": "role: gpu_selfplay",
    "gpu-3": "role: gpu_selfplay",
}
CANDIDATE = "models/candidate_hex8_2p.pth"


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    with running_field(tmp_path_factory.mktemp("field"), HOSTS, sections="sync_routing: {replication_target: 2}") as running:
        yield running


@pytest.fixture
def field(agents: Field, tmp_path: Path) -> Iterator[Field]:
    with fresh(agents, tmp_path / "home") as running:
        yield running


def crowded(field: Field, *hosts: str) -> None:
    """These hosts say that their disks are full to the brim; the others have room."""
    for host in HOSTS:
        disk = Disk(total=1_000_000, free=0 if host in hosts else 900_000)
        tell(field.plane.store, host, at=time.time(), full=False, disk=disk)


def cycle(field: Field, *full: str) -> tuple[int, int]:
    """What happens every few minutes: look, plan, move, make room. Returns how many copies were brought and removed."""
    field.refresh()
    crowded(field, *full)
    plane: Plane = field.plane
    made = planner.cycle(plane.store, plane.cluster, None, at=time.time())
    assert made is not None
    brought = sum(len(field.run(host).done) for host in HOSTS)
    removed = sum(len(cleaned.removed) for cleaned in retention(plane))
    return brought, removed


def test_candidates_current_models_and_the_data_of_jobs_survive_a_full_disk(field: Field) -> None:
    candidate = noise(2000, 1)
    current = noise(2000, 2)
    old = noise(2000, 3)
    for host in HOSTS:
        field.put(host, candidate, CANDIDATE)
        field.put(host, old, "models/old_hex8_2p.onnx")
    model = field.put("gpu-1", current, "models/current_hex8_2p.onnx")
    field.refresh()
    put(field.plane.store, promoted_model("hex8_2p", model, at=time.time()))

    story = [cycle(field, "gpu-2") for _ in range(CYCLES)]
    assert story == [(1, 1), (0, 0), (0, 0), (0, 0)], "gpu-3 got the current model, gpu-2 gave the old one, and that was all"
    assert [place.name for place, _ in overfull(field.plane.store, field.plane.cluster)] == ["gpu-2"], "full as it is"
    assert all((field.root / host / CANDIDATE).read_bytes() == candidate for host in HOSTS)
    assert not (field.root / "gpu-2" / "models/old_hex8_2p.onnx").exists()
    assert model in field.held("gpu-1").values() and model in field.held("gpu-3").values()


def test_what_a_job_needs_is_not_removed_while_it_runs(field: Field) -> None:
    npz = (Path(__file__).parents[1] / "data/damaged/base_ok.npz").read_bytes()
    for host in HOSTS:
        sha256 = field.put(host, npz, "data/training/square8_3p.npz")
    field.refresh()
    store = field.plane.store
    put(store, training_job("job-7", "square8_3p", ["gpu-2"], at=time.time(), until=time.time() + 3600))
    assert [cycle(field, "gpu-2") for _ in range(2)] == [(0, 0), (0, 0)]
    assert sha256 in field.held("gpu-2").values()
    remove(store, "job-7")
    assert [cycle(field, "gpu-2"), cycle(field)] == [(0, 1), (0, 0)], "two copies are enough: it is not fetched again"
    assert sha256 not in field.held("gpu-2").values()


def test_what_is_removed_is_not_brought_back_even_where_there_is_room_again(field: Field) -> None:
    for host in HOSTS:
        field.put(host, noise(2000, 4), "models/old_hex8_2p.onnx")
    story = [cycle(field, "gpu-2"), cycle(field), cycle(field)]
    assert story == [(0, 1), (0, 0), (0, 0)]
    kinds = [change.kind for change in changes_since(field.plane.store, 0)]
    assert kinds.count("REPLICA_DROPPED") == 1
    assert queue.counts(field.plane.store) == {}


def test_a_full_host_that_has_to_have_it_is_told_so_instead_of_being_filled(field: Field) -> None:
    model = field.put("gpu-1", noise(2000, 5), "models/current_hex8_2p.onnx")
    field.put("gpu-3", noise(2000, 5), "models/current_hex8_2p.onnx")
    field.refresh()
    put(field.plane.store, replace(promoted_model("hex8_2p", model, at=time.time()), priority=Priority.CRITICAL))
    assert [cycle(field, "gpu-2") for _ in range(2)] == [(0, 0), (0, 0)]
    found = planner.plan(field.plane.store, field.plane.cluster, at=time.time())
    assert [(unmet.target, unmet.why) for unmet in found.unmet] == [("gpu-2", "gpu-2 has no room")]
    assert queue.listed(field.plane.store, states=list(State)) == []
