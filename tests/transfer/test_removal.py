"""Removing copies of real files at real agents: only with live proof of the others."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from ringrift_dagster.manifest.changes import changes_since
from ringrift_dagster.manifest.queries import Copy, Item
from ringrift_dagster.manifest.schema import locations
from ringrift_dagster.transfer import pins, planner, queue, removal
from ringrift_dagster.transfer.agents import AgentClient, AgentSilent
from ringrift_dagster.transfer.model import Priority
from ringrift_dagster.transfer.operations import Kind
from ringrift_dagster.transfer.proofs import Prover
from ringrift_dagster.transfer.removal import NotRemoved, Removed, drop, retention
from ringrift_dagster.transfer.rules import Rule, put
from tests.s3_servers import new_bucket, rclone_server
from tests.transfer.field import MODEL, Field, noise, running_field
from tests.transfer.fresh import fresh
from tests.transfer.real_items import NPZ

GB = 10**9
HOSTS = {
    "gpu-1": "role: gpu_selfplay",
    "gpu-2": "role: gpu_selfplay, is_ephemeral: true",
    "gpu-3": "role: gpu_training_primary",
    "gpu-4": "role: gpu_selfplay",
}


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    """Four hosts, one of them ephemeral; started once."""
    with running_field(tmp_path_factory.mktemp("field"), HOSTS) as running:
        yield running


@pytest.fixture
def field(agents: Field, tmp_path: Path) -> Iterator[Field]:
    """They, with nothing in their trees, and a manifest of their own."""
    with fresh(agents, tmp_path / "home") as running:
        yield running


def everywhere(field: Field, *hosts: str, data: bytes | None = None, name: str = MODEL) -> str:
    """The same file at several hosts, known to the manifest; returns its hash."""
    data = noise(1000, 1) if data is None else data
    sha256 = {field.put(host, data, name) for host in hosts or HOSTS}.pop()
    field.refresh()
    return sha256


def there(field: Field, name: str = MODEL) -> list[str]:
    return [host for host in HOSTS if (field.root / host / name).exists()]


def refused(field: Field, sha256: str, location: str) -> NotRemoved:
    """Why a copy stays."""
    with pytest.raises(NotRemoved) as told:
        drop(field.plane, sha256, location, why="a test")
    assert told.value.code in removal.NOT_REMOVED
    assert pins.all_pins(field.plane.store, at=time.time()) == [], "nothing stays reserved"
    return told.value


def test_a_copy_goes_once_two_others_proved_theirs(field: Field) -> None:
    sha256 = everywhere(field, "gpu-1", "gpu-2", "gpu-3")
    before = time.time()
    removed = drop(field.plane, sha256, "gpu-2", why="no room")
    assert (removed.location, removed.paths, removed.bytes) == ("gpu-2", (MODEL,), 1000)
    assert [proof.location for proof in removed.proofs] == ["gpu-1", "gpu-3"]
    assert all(proof.at >= before - 1 for proof in removed.proofs)
    assert there(field) == ["gpu-1", "gpu-3"]
    assert field.copies(sha256)[f"gpu-2/{MODEL}"] == "LOST"
    (told,) = [change for change in changes_since(field.plane.store, 0) if change.kind == "REPLICA_DROPPED"]
    assert (told.location, told.detail["item"], told.detail["why"]) == ("gpu-2", sha256, "no room")
    field.refresh()
    assert field.agrees()
    assert pins.all_pins(field.plane.store, at=time.time()) == []


def test_what_only_the_manifest_says_is_no_proof(field: Field) -> None:
    sha256 = everywhere(field, "gpu-1", "gpu-2", "gpu-3")
    (field.root / "gpu-3" / MODEL).unlink()
    told = refused(field, sha256, "gpu-2")
    assert (told.code, "gpu-1 did" in told.detail) == ("too_few_copies", True)
    assert there(field) == ["gpu-1", "gpu-2"]


def test_bytes_that_rotted_prove_nothing(field: Field) -> None:
    sha256 = everywhere(field, "gpu-1", "gpu-2", "gpu-3")
    path = field.root / "gpu-3" / MODEL
    status = path.stat()
    path.write_bytes(bytes(1000))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert refused(field, sha256, "gpu-2").code == "too_few_copies"
    assert (field.root / "gpu-2" / MODEL).exists()


def test_a_dead_agent_proves_nothing(field: Field) -> None:
    sha256 = everywhere(field, "gpu-1", "gpu-2", "gpu-3")
    field.agents["gpu-1"].kill()
    try:
        assert refused(field, sha256, "gpu-2").code == "too_few_copies"
        assert (field.root / "gpu-2" / MODEL).exists()
    finally:
        field.restart("gpu-1")


def test_one_of_the_others_has_to_last(tmp_path: Path) -> None:
    ephemeral = dict.fromkeys(("gpu-2", "gpu-4"), "role: gpu_selfplay, is_ephemeral: true")
    with running_field(tmp_path, {"gpu-1": "role: gpu_selfplay", **ephemeral}) as field:
        sha256 = everywhere(field, "gpu-1", "gpu-2", "gpu-4")
        assert refused(field, sha256, "gpu-1").code == "too_few_copies"
        assert (field.root / "gpu-1" / MODEL).exists()


def test_a_host_that_took_another_content_in_its_place_keeps_it(field: Field) -> None:
    sha256 = everywhere(field, "gpu-1", "gpu-2", "gpu-3")
    field.put("gpu-2", b"newer")
    assert refused(field, sha256, "gpu-2").code in ("changed", "not_here")
    assert (field.root / "gpu-2" / MODEL).read_bytes() == b"newer"


def test_what_is_pinned_wanted_or_unknown_stays(field: Field) -> None:
    sha256 = everywhere(field)
    store = field.plane.store
    pins.pin(store, sha256, "ada", "for the paper", at=time.time())
    with pytest.raises(NotRemoved, match="ada: for the paper") as told:
        drop(field.plane, sha256, "gpu-2", why="a test")
    assert told.value.code == "pinned"
    pins.unpin(store, sha256, "ada")
    put(store, Rule("mine", Kind.SYNC, Priority.NORMAL, sha256=sha256, hosts=("gpu-1",), created_at=time.time()))
    assert refused(field, sha256, "gpu-2").code == "pinned"
    put(store, Rule("mine", Kind.SYNC, Priority.NORMAL, sha256="0" * 64, hosts=("gpu-1",), created_at=time.time()))
    operation = field.submit(sha256, "gpu-2")
    assert refused(field, sha256, "gpu-2").code == "wanted"
    queue.cancel(store, operation.id, at=time.time())
    assert refused(field, "0" * 64, "gpu-2").code == "unknown_item"
    assert there(field) == list(HOSTS)


@pytest.mark.parametrize("code", ["pinned", "pinned by a rule", "wanted"])
def test_what_comes_to_be_needed_while_the_others_are_proved_stays(
    field: Field, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    sha256 = everywhere(field)
    store = field.plane.store
    proved = Prover.prove

    def meanwhile(prover: Prover, item: Item, copy: Copy) -> float | None:
        if code == "pinned":
            pins.pin(store, sha256, "ada", "for the paper", at=time.time())
        elif code == "wanted":
            field.submit(sha256, "gpu-2")
        else:
            put(store, Rule("mine", Kind.SYNC, Priority.NORMAL, sha256=sha256, hosts=("gpu-2",), created_at=time.time()))
        return proved(prover, item, copy)

    monkeypatch.setattr(Prover, "prove", meanwhile)
    with pytest.raises(NotRemoved) as told:
        drop(field.plane, sha256, "gpu-2", why="a test")
    assert told.value.code == code.partition(" ")[0]
    assert there(field) == list(HOSTS)
    assert [pin.owner for pin in pins.all_pins(store, at=time.time())] == (["ada"] if code == "pinned" else [])


def test_a_candidate_stays(field: Field) -> None:
    name = "models/candidate_hex8_2p.pth"
    sha256 = everywhere(field, name=name, data=noise(1000, 2))
    told = refused(field, sha256, "gpu-2")
    assert (told.code, "candidate" in told.detail) == ("pinned", True)
    assert there(field, name) == list(HOSTS)


def test_a_live_database_and_its_snapshot_stay(field: Field, recorded: Callable[[str], Path]) -> None:
    for host in HOSTS:
        (field.root / host / "data/games").mkdir(parents=True)
        shutil.copy(recorded("canonical_square8_2p"), field.root / host / "data/games/selfplay.db")
    field.refresh()
    with field.plane.store.reading() as connection:
        (sha256,) = connection.execute(sa.text("SELECT DISTINCT sha256 FROM items WHERE type = 'GAME_DB'")).scalars()
    assert refused(field, bytes(sha256).hex(), "gpu-2").code == "snapshot"


def test_two_removals_do_not_prove_each_other(field: Field) -> None:
    """Each of three copies has two others, until one of the removals is through."""
    sha256 = everywhere(field, "gpu-1", "gpu-3", "gpu-4")
    outcomes: list[Removed | NotRemoved] = []

    def remove(location: str) -> None:
        try:
            outcomes.append(drop(field.plane, sha256, location, why="a test"))
        except NotRemoved as error:
            outcomes.append(error)

    threads = [threading.Thread(target=remove, args=(location,)) for location in ("gpu-1", "gpu-3", "gpu-4")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(isinstance(outcome, Removed) for outcome in outcomes) == 1
    assert len(there(field)) == 2


def test_while_nobody_knows_whether_it_happened_the_others_stay(field: Field, monkeypatch: pytest.MonkeyPatch) -> None:
    sha256 = everywhere(field)
    answered = AgentClient.drop

    def lost_answer(client: AgentClient, id: str, sha256: str, root: str) -> None:
        answered(client, id, sha256, root)
        raise AgentSilent("timeout", "no whole answer in time")

    with monkeypatch.context() as patched:
        patched.setattr(AgentClient, "drop", lost_answer)
        with pytest.raises(NotRemoved) as told:
            drop(field.plane, sha256, "gpu-2", why="a test")
        assert told.value.code == "agent_silent"
    assert there(field) == ["gpu-1", "gpu-3", "gpu-4"]
    with pytest.raises(NotRemoved) as told:
        drop(field.plane, sha256, "gpu-4", why="a test")
    assert told.value.code == "pinned"
    field.refresh()
    assert f"gpu-2/{MODEL}" not in field.copies(sha256), "the agent said that it was meant"
    later = time.time() + removal.RESERVED_SECONDS
    assert drop(field.plane, sha256, "gpu-4", why="a test", clock=lambda: later).location == "gpu-4"


def test_a_drive_proves_and_is_removed_from_and_is_lost_with_its_host(tmp_path: Path) -> None:
    sections = f"sync_routing: {{allowed_external_storage: [{{name: owc, host: gpu-1, path: {tmp_path}/owc}}]}}"
    options = {"gpu-1": ["--drive", f"owc={tmp_path}/owc"]}
    hosts = {name: HOSTS[name] for name in ("gpu-1", "gpu-3", "gpu-4")}
    with running_field(tmp_path, hosts, options=options, sections=sections, marked=["owc"]) as field:
        data = noise(1000, 3)
        for host in ("gpu-1", "gpu-3"):
            sha256 = field.put(host, data)
        field.put("owc", data, "canonical_models/hex8_2p.onnx")
        field.refresh()
        assert refused(field, sha256, "gpu-3").code == "too_few_copies", "the drive and its host are one"
        field.put("gpu-4", data)
        field.refresh()
        removed = drop(field.plane, sha256, "owc", why="a test")
        assert (removed.paths, [proof.location for proof in removed.proofs]) == (
            ("canonical_models/hex8_2p.onnx",), ["gpu-3", "gpu-4"],
        )  # fmt: skip


def test_hosts_on_one_nfs_do_not_prove_each_other(tmp_path: Path) -> None:
    """What three of them show may be one file."""
    flagged = {f"nfs-{number}": "has_nfs: true" for number in (1, 2, 3)}
    with running_field(tmp_path, {**flagged, "gpu-1": "", "gpu-2": ""}) as field:
        data = noise(1000, 5)
        sha256 = everywhere(field, *flagged, "gpu-1", data=data)
        assert refused(field, sha256, "nfs-1").code == "too_few_copies"
        disks(field, {"nfs-1": 10_000})
        (cleaned,) = retention(field.plane)
        assert (cleaned.removed, cleaned.kept) == ([], {"too_few_copies": 1})
        field.put("gpu-2", data)
        field.refresh()
        assert [proof.location for proof in drop(field.plane, sha256, "nfs-1", why="a test").proofs] == ["gpu-1", "gpu-2"]
        removed = drop(field.plane, sha256, "gpu-1", why="a test")
        assert [proof.location for proof in removed.proofs] == ["gpu-2", "nfs-2"]


def test_the_home_and_its_host_are_one(tmp_path: Path) -> None:
    hosts = {"gpu-1": "", "gpu-2": "", "lead": "is_coordinator: true"}
    with running_field(tmp_path, hosts) as field:
        field.put("home", NPZ.read_bytes(), "datasets/square8_3p.npz")
        sha256 = everywhere(field, "lead", "gpu-1", data=NPZ.read_bytes(), name="data/training/square8_3p.npz")
        assert refused(field, sha256, "gpu-1").code == "too_few_copies"
        assert refused(field, sha256, "lead").code == "too_few_copies"
        field.put("gpu-2", NPZ.read_bytes(), "data/training/square8_3p.npz")
        field.refresh()
        assert [proof.location for proof in drop(field.plane, sha256, "gpu-1", why="a test").proofs] == ["gpu-2", "home"]


def test_nothing_is_removed_from_a_bucket_which_proves_what_it_took(tmp_path: Path) -> None:
    with rclone_server(tmp_path / "rclone") as endpoint:
        bucket = new_bucket(endpoint)
        sections = f"sync_routing: {{s3: {{bucket: {bucket.bucket}}}}}"
        hosts = {name: HOSTS[name] for name in ("gpu-1", "gpu-3")}
        with running_field(tmp_path, hosts, sections=sections, s3_client=lambda: bucket.client) as field:
            data = noise(1000, 4)
            sha256 = field.put("gpu-1", data)
            field.put("gpu-3", data)
            key = f"consolidated/models/{sha256}.onnx"
            bucket.put(key, data, {"sha256": sha256})
            field.refresh()
            assert refused(field, sha256, bucket.bucket).code == "cold_storage"
            removed = drop(field.plane, sha256, "gpu-1", why="a test")
            assert [proof.location for proof in removed.proofs] == ["gpu-3", bucket.bucket]
            field.put("gpu-1", data)
            bucket.client.delete_object(Bucket=bucket.bucket, Key=key)
            field.refresh()
            assert refused(field, sha256, "gpu-1").code == "too_few_copies"


def disks(field: Field, used: Mapping[str, int]) -> None:
    """Let some hosts' disks of 10,000 bytes be as full as that, and all others' half empty, whatever this machine's is."""
    with field.plane.store.writing() as writer:
        for host in field.agents:
            values = {"disk_total": 10_000, "disk_free": 10_000 - used.get(host, 5000)}
            writer.connection.execute(sa.update(locations).where(locations.c.name == host).values(values))


def aged(field: Field, host: str, name: str, age: float) -> None:
    then = time.time() - age
    os.utime(field.root / host / name, (then, then))


def test_retention_makes_room_oldest_first_down_to_the_target(field: Field) -> None:
    names = [f"models/hex8_2p_{number}.onnx" for number in range(6)]
    for number, name in enumerate(names):
        for host in HOSTS:
            field.put(host, noise(1000, 10 + number), name)
            aged(field, host, name, 1000.0 * (number + 1))
    field.refresh()
    disks(field, {"gpu-2": 9000, "gpu-1": 8500})
    (cleaned,) = retention(field.plane)
    assert (cleaned.location, cleaned.wanted, cleaned.freed, cleaned.kept) == ("gpu-2", 3000, 3000, {})
    assert [removed.paths[0] for removed in cleaned.removed] == [names[5], names[4], names[3]]
    assert sorted(path for path in names if (field.root / "gpu-2" / path).exists()) == names[:3]
    assert all((field.root / host / name).exists() for host in ("gpu-1", "gpu-3", "gpu-4") for name in names)
    field.refresh()
    assert field.agrees()
    assert planner.plan(field.plane.store, field.plane.cluster, at=time.time()).wanted == [], "it is not brought back"


def test_retention_keeps_what_is_pinned_or_too_rare(field: Field) -> None:
    rare = field.put("gpu-2", noise(1000, 20), "models/hex8_2p_rare.onnx")
    field.put("gpu-1", noise(1000, 20), "models/hex8_2p_rare.onnx")
    for host in HOSTS:
        field.put(host, noise(1000, 21), "models/candidate_hex8_2p.pth")
        field.put(host, noise(1000, 22), "models/hex8_2p_pinned.onnx")
        field.put(host, noise(1000, 23), "models/hex8_2p_free.onnx")
    field.refresh()
    store = field.plane.store
    found = {path.rpartition("/")[2]: digest for path, digest in field.held("gpu-2").items()}
    pins.pin(store, found["hex8_2p_pinned.onnx"], "ada", "for the paper", at=time.time())
    disks(field, {"gpu-2": 10_000})
    (cleaned,) = retention(field.plane)
    assert [removed.sha256 for removed in cleaned.removed] == [found["hex8_2p_free.onnx"]]
    assert cleaned.kept == {"pinned": 2, "too_few_copies": 1}
    assert rare in field.held("gpu-2").values()


def test_retention_is_bounded_and_leaves_who_takes_no_part_alone(field: Field) -> None:
    for number in range(4):
        for host in HOSTS:
            field.put(host, noise(1000, 30 + number), f"models/hex8_2p_{number}.onnx")
    field.refresh()
    disks(field, dict.fromkeys(("gpu-1", "gpu-2", "gpu-3"), 10_000))
    plane = replace(field.plane, cluster=field.plane.cluster.model_copy(update={"excluded_hosts": ("gpu-1",)}))
    assert [place.name for place, _ in removal.overfull(plane.store, plane.cluster)] == ["gpu-2", "gpu-3"]
    (cleaned,) = retention(plane, only=["gpu-2"], limit=2)
    assert (cleaned.location, len(cleaned.removed)) == ("gpu-2", 2)
    (cleaned,) = retention(plane, only=["gpu-2"], stop=lambda: True)
    assert cleaned.removed == []
