"""The coordinator with real agents: what is leased, posted, followed and recorded, and what is left when anybody dies."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from ringrift_dagster.manifest.inventory import FoundItem, ItemType
from ringrift_dagster.manifest.schema import link_limits, operations
from ringrift_dagster.manifest.sources.hashing import hash_file
from ringrift_dagster.manifest.store import Store
from ringrift_dagster.transfer import breakers, queue
from ringrift_dagster.transfer.agents import AgentClient
from ringrift_dagster.transfer.coordinator import Coordinator
from ringrift_dagster.transfer.model import Priority
from ringrift_dagster.transfer.operations import Kind, Operation, State, Wanted
from tests.manifest.telling import tell
from tests.s3_servers import client_of, new_bucket
from tests.transfer.faulty_servers import FaultyServer
from tests.transfer.field import MB, MODEL, Field, noise, running_field
from tests.transfer.processes import wait_until

pytestmark = pytest.mark.xdist_group("coordinator")
SLOW = ("--uplink", "8")
"""MB/s, so that something can happen in the middle."""


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory, rclone_endpoint: str) -> Iterator[Field]:
    """Three hosts with a drive, a file system that two see, a bucket, and the project's own home. Nobody dies here."""
    root = tmp_path_factory.mktemp("field")
    sections = f"""
sync_routing:
  s3: {{bucket: {new_bucket(rclone_endpoint).bucket}}}
  allowed_external_storage: [{{name: owc, host: n3, path: {root}/owc}}]
shared_storage: [{{name: nfs, path: {root}/nfs, hosts: [n1, n2]}}]
"""
    options = {
        "n1": ("--shared", f"nfs={root}/nfs"),
        "n2": ("--shared", f"nfs={root}/nfs"),
        "n3": ("--drive", f"owc={root}/owc", "--home", f"{root}/home"),
    }
    hosts = {"n1": "", "n2": "", "n3": "is_coordinator: true"}
    with running_field(
        root, hosts, options=options, sections=sections, marked=("owc", "nfs"), s3_client=lambda: client_of(rclone_endpoint)
    ) as running:
        yield running


def on_its_way(field: Field, operation: Operation, host: str) -> bool:
    """Whether bytes of an item have come to a host, and not all of them."""
    parts = list((field.root / host).rglob(f"*{operation.sha256[:12]}*.part"))
    return any(part.stat().st_blocks > 2048 for part in parts)


def told(field: Field, host: str, sha256: str, size: int, path: str = MODEL) -> None:
    """Say in a host's name that it holds an item."""
    entry = FoundItem(path=path, sha256=sha256, size=size, type=ItemType.MODEL, config="hex8_2p", verified_at=time.time())
    tell(field.plane.store, host, [entry], at=time.time())


def test_an_item_comes_verified_and_is_known_at_once(field: Field) -> None:
    sha256 = field.put("n1", noise(6 * MB, 1))
    field.refresh()
    operation = field.submit(sha256, "n2", Priority.HIGH, size=6 * MB)
    (row,) = field.run("n2").rows
    assert (row.state, row.item, row.transport, row.source, row.bytes) == (State.DONE, sha256, "http", "n1", 6 * MB)
    assert row.mb_per_second and row.config == "hex8_2p" and row.type == "MODEL"
    here = f"n2/models/hex8_2p_{sha256[:12]}.onnx"
    assert field.copies(sha256) == {f"n1/{MODEL}": "AVAILABLE", here: "AVAILABLE"}
    assert field.held("n2")[here.removeprefix("n2/")] == sha256
    assert field.get(operation).state == State.DONE and field.agrees()
    field.refresh()
    assert field.copies(sha256)[here] == "AVAILABLE"


def test_what_is_there_already_is_not_moved(field: Field) -> None:
    sha256 = field.put("n1", noise(2 * MB, 2), "models/two_hex8_2p.onnx")
    field.put("n2", noise(2 * MB, 2), "models/same_hex8_2p.onnx")
    field.refresh()
    field.submit(sha256, "n2")
    (row,) = field.run("n2").rows
    assert (row.state, row.bytes, row.transport) == (State.DONE, 0, None)
    assert sum(path.startswith("n2/") for path in field.copies(sha256)) == 1


def test_many_small_ones_go_in_few_orders(field: Field) -> None:
    wanted = [field.put("n1", noise(2_000, 1000 + number), f"models/s{number}_hex8_2p.onnx") for number in range(300)]
    field.refresh()
    queue.submit_all(field.plane.store, [Wanted(Kind.REPLICATE, each, "n3", Priority.LOW, 2_000) for each in wanted], at=1.0)
    report = field.run("n3")
    assert len(report.done) == 300 and {row.item for row in report.done} == set(wanted)
    ended = queue.listed(field.plane.store, states=[State.DONE], target="n3", limit=500)
    assert len({operation.order_id for operation in ended}) <= 8
    assert set(wanted) <= set(field.held("n3").values()) and field.agrees()


def test_a_file_system_that_the_target_sees_is_used_in_place(field: Field) -> None:
    sha256 = field.put("nfs", noise(3 * MB, 3), "models/shared_hex8_2p.onnx")
    field.refresh()
    field.submit(sha256, "n1")
    (row,) = field.run("n1").rows
    assert (row.state, row.transport, row.source, row.bytes) == (State.DONE, "shared", "nfs", 0)
    assert field.copies(sha256) == {"nfs/models/shared_hex8_2p.onnx": "AVAILABLE"}


@pytest.mark.parametrize(("target", "folder"), [("owc", "canonical_models"), ("nfs", "models")])
def test_a_place_that_is_no_host_is_filled_through_one_that_sees_it(field: Field, target: str, folder: str) -> None:
    data = noise(5 * MB, len(target) + 40)
    sha256 = field.put("n1", data, f"models/for_{target}_hex8_2p.onnx")
    field.refresh()
    field.submit(sha256, target)
    (row,) = field.run(target).rows
    path = f"{folder}/hex8_2p_{sha256[:12]}.onnx"
    assert row.state == State.DONE and (field.root / target / path).read_bytes() == data
    assert field.copies(sha256)[f"{target}/{path}"] == "AVAILABLE" and field.agrees()


def test_the_projects_own_datasets_come_from_the_coordinators_host(field: Field, recorded_npz: Path) -> None:
    folder = field.root / "home/datasets"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "square8_2p.npz").write_bytes(recorded_npz.read_bytes())
    field.refresh()
    sha256 = hash_file(str(recorded_npz)).sha256
    field.submit(sha256, "n1", Priority.CRITICAL)
    (row,) = field.run("n1").rows
    assert (row.state, row.source, row.type, row.config) == (State.DONE, "home", "NPZ", "square8_2p")
    assert f"n1/data/training/square8_2p_{sha256[:12]}.npz" in field.copies(sha256)


@pytest.fixture(scope="module")
def recorded_npz(tmp_path_factory: pytest.TempPathFactory, recorded) -> Path:
    from ringrift_dagster.datasets.npz_export import export_databases

    path = tmp_path_factory.mktemp("npz") / "square8_2p.npz"
    export_databases("square8_2p", [recorded("canonical_square8_2p")], path)
    return path


def test_the_bucket_is_filled_from_the_host_that_holds_it(field: Field) -> None:
    bucket = field.plane.cluster.s3
    assert bucket is not None and field.plane.s3_client is not None
    data = noise(20 * MB, 5)
    sha256 = field.put("n2", data, "models/cold_hex8_2p.onnx")
    field.refresh()
    field.submit(sha256, bucket.bucket, Priority.COLD_STORAGE, kind=Kind.BACKUP)
    (row,) = field.run(bucket.bucket).rows
    assert (row.state, row.transport, row.source, row.bytes) == (State.DONE, "s3", "n2", 20 * MB)
    key = f"consolidated/models/hex8_2p_{sha256}.onnx"
    assert field.copies(sha256)[f"{bucket.bucket}/{key}"] == "AVAILABLE"
    stored = field.plane.s3_client().get_object(Bucket=bucket.bucket, Key=key)["Body"].read()
    assert stored == data and field.agrees()
    field.refresh()
    assert field.copies(sha256)[f"{bucket.bucket}/{key}"] == "AVAILABLE"


@pytest.mark.parametrize(
    ("sha256", "target", "cause"),
    [("ab" * 32, "atlantis", "no_such_target"), ("ab" * 32, "n1", "unknown_item")],
)
def test_what_cannot_ever_be_done_fails_with_its_cause(field: Field, sha256: str, target: str, cause: str) -> None:
    operation = field.submit(sha256, target)
    (row,) = field.run(target).rows
    assert (row.state, row.cause) == (State.FAILED, cause) and row.next_action
    assert field.get(operation).finished_at is not None


def test_what_nobody_can_give_now_waits_with_its_cause(field: Field) -> None:
    sha256 = "cd" * 32
    told(field, "n3", sha256, 1000, "models/gone_hex8_2p.onnx")
    field.refresh()
    operation = field.submit(sha256, "n1")
    (row,) = field.run("n1").rows
    assert (row.state, row.cause) == (State.WAITING, "no_source")
    assert field.get(operation).due_at


def test_critical_goes_before_what_was_there_first(field: Field) -> None:
    low = [field.put("n1", noise(5 * MB, 60 + number), f"models/low{number}_hex8_2p.onnx") for number in range(12)]
    urgent = field.put("n1", noise(5 * MB, 80), "models/urgent_hex8_2p.onnx")
    field.refresh()
    queue.submit_all(field.plane.store, [Wanted(Kind.REPLICATE, each, "n2", Priority.LOW, 5 * MB) for each in low], at=1.0)
    rows: list[str] = []

    def hears(row) -> None:
        if not rows:
            field.submit(urgent, "n2", Priority.CRITICAL, size=5 * MB)
        rows.append(row.item)

    report = field.run("n2", told=hears, idle=3.0)  # longer than an operation waits for its source's link
    waiting = queue.listed(field.plane.store, states=[State.QUEUED, State.WAITING, State.LEASED], target="n2")
    assert [(each.sha256, each.state, each.cause, each.detail) for each in waiting] == []
    assert len(report.rows) == len(report.done) == 13
    assert rows.index(urgent) < 12, "it did not wait for the last"


def test_what_becomes_urgent_on_its_way_goes_on_as_that(tmp_path: Path) -> None:
    """The agent learns of it, and what it has of the item stays."""
    with running_field(tmp_path, {"n1": "", "n2": ""}, options={"n1": SLOW}) as field:
        sha256 = field.put("n1", noise(40 * MB, 1))
        field.refresh()
        operation = field.submit(sha256, "n2", size=40 * MB)
        agent = AgentClient(field.agents["n2"].url, None, "n2")
        with ThreadPoolExecutor(1) as pool:
            run = pool.submit(field.run, "n2", lease_seconds=600.0)
            assert wait_until(lambda: on_its_way(field, operation, "n2"))
            before = field.get(operation)
            field.submit(sha256, "n2", Priority.CRITICAL, size=40 * MB)
            assert wait_until(lambda: (field.get(operation).order_id or before.order_id) != before.order_id)
            order = field.get(operation).order_id or ""  # the queue knows it before the agent does
            assert wait_until(lambda: (told := agent.get(order)) is not None and told.priority == Priority.CRITICAL)
            report = run.result(90)
        assert [(row.operation, row.state) for row in report.rows] == [(operation.id, State.DONE)]
        assert report.rows[0].bytes in (40 * MB, 0), "0 if the second order is heard of first: it found the item there"
        ended = field.get(operation)
        assert (ended.leases, ended.attempts, ended.priority) == (before.leases + 1, 0, Priority.CRITICAL)
        assert list(field.held("n2").values()) == [sha256] and field.agrees()


def test_a_run_waits_for_what_is_submitted_and_ends_when_it_is_told(field: Field) -> None:
    sha256 = field.put("n1", noise(MB, 90), "models/later_hex8_2p.onnx")
    field.refresh()
    over = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(field.run, "n2", idle=None, stop=over.is_set, told=lambda row: over.set())
        operation = field.submit(sha256, "n2", Priority.CRITICAL)
        assert run.result(60).done
    assert field.get(operation).state == State.DONE


def test_two_at_the_same_time_do_everything_once(field: Field) -> None:
    wanted = [field.put("n1", noise(300_000, 200 + number), f"models/t{number}_hex8_2p.onnx") for number in range(40)]
    field.refresh()
    queue.submit_all(field.plane.store, [Wanted(Kind.SYNC, each, "n2", Priority.NORMAL, 5 * MB) for each in wanted], at=1.0)
    with ThreadPoolExecutor(2) as pool:
        reports = list(pool.map(lambda owner: field.run("n2", owner=owner, idle=1.0), ("first", "second")))
    done = [row.item for report in reports for row in report.done]
    assert sorted(done) == sorted(wanted)
    assert field.agrees()


def test_only_what_is_asked_for_is_carried_out(field: Field) -> None:
    sha256 = field.put("n1", noise(1000, 91), "models/cold_only_hex8_2p.onnx")
    field.refresh()
    operation = field.submit(sha256, "n3", Priority.COLD_STORAGE)
    assert field.run("n3", priorities=[Priority.CRITICAL, Priority.HIGH]).rows == []
    assert field.get(operation).state == State.QUEUED
    assert len(field.run("n3", priorities=[Priority.COLD_STORAGE]).done) == 1


def test_the_disk_keeps_free_what_the_hosts_file_says_unless_it_is_urgent(tmp_path: Path) -> None:
    sections = "sync_routing: {min_free_disk_percent: 99.9, max_disk_usage_percent: 100, target_disk_usage_percent: 0.05}"
    with running_field(tmp_path, {"n1": "", "n2": ""}, sections=sections) as field:
        sha256 = field.put("n1", noise(MB, 1))
        field.refresh()
        field.submit(sha256, "n2", Priority.NORMAL)
        (row,) = field.run("n2").rows
        assert (row.state, row.cause) == (State.WAITING, "no_room")
        field.submit(sha256, "n2", Priority.HIGH)
        assert len(field.run("n2").done) == 1


def test_a_source_that_dies_in_the_middle_is_replaced(tmp_path: Path) -> None:
    with running_field(tmp_path, {"n1": "", "n2": "", "n3": ""}, options={"n1": SLOW, "n3": SLOW}) as field:
        sha256 = field.put("n1", noise(24 * MB, 1))
        field.put("n3", noise(24 * MB, 1), "models/other_hex8_2p.onnx")
        field.refresh()
        operation = field.submit(sha256, "n2", size=24 * MB)
        with ThreadPoolExecutor(1) as pool:
            run = pool.submit(field.run, "n2")
            assert wait_until(lambda: on_its_way(field, operation, "n2"))
            field.agents["n1"].kill()
            (row,) = run.result(90).rows
        assert (row.state, row.source) == (State.DONE, "n3")
        assert sha256 in field.held("n2").values() and field.agrees()


def test_a_liar_is_found_out_doubted_and_not_asked_again(tmp_path: Path) -> None:
    data = noise(20 * MB, 1)
    sha256 = hashlib.sha256(data).hexdigest()
    with (
        FaultyServer({sha256: data}) as liar,
        running_field(tmp_path, {"n1": "", "n2": ""}, others={"liar": liar.base}, options={"n1": SLOW}) as field,
    ):
        liar.faults.flip_every = 100_000
        field.put("n1", data)
        field.refresh()
        told(field, "liar", sha256, len(data))
        field.submit(sha256, "n2", Priority.HIGH)
        (row,) = field.run("n2").rows
        assert (row.state, row.source) == (State.DONE, "n1")
        assert field.copies(sha256)[f"liar/{MODEL}"] == "SUSPICIOUS"
        assert sha256 in field.held("n2").values() and field.agrees()


def test_when_all_lie_nothing_is_there_under_its_name(tmp_path: Path) -> None:
    data = noise(9 * MB, 1)
    sha256 = hashlib.sha256(data).hexdigest()
    with FaultyServer({sha256: data}) as liar, running_field(tmp_path, {"n2": ""}, others={"liar": liar.base}) as field:
        liar.faults.flip_every = 100_000
        field.refresh()
        told(field, "liar", sha256, len(data))
        field.submit(sha256, "n2", Priority.HIGH)
        (row,) = field.run("n2").rows
        assert row.state == State.WAITING and row.cause in ("wrong_bytes", "no_source")
        assert field.held("n2") == {}


def test_a_dead_source_opens_its_breaker_and_the_rest_waits_for_it(tmp_path: Path) -> None:
    with running_field(tmp_path, {"n1": "", "n2": ""}) as field:
        wanted = [field.put("n1", noise(5 * MB, number), f"models/x{number}_hex8_2p.onnx") for number in range(5)]
        field.refresh()
        field.agents["n1"].kill()
        queue.submit_all(field.plane.store, [Wanted(Kind.SYNC, each, "n2", Priority.NORMAL, 5 * MB) for each in wanted[:4]], at=1.0)
        report = field.run("n2")
        assert {(row.state, row.cause) for row in report.rows} == {(State.WAITING, "no_source")}
        (breaker,) = breakers.all_breakers(field.plane.store)
        assert breaker.way == ("n1", "http") and breaker.state == "OPEN"
        operation = field.submit(wanted[4], "n2")
        assert field.run("n2").rows == []
        waiting = field.get(operation)
        assert (waiting.state, waiting.cause, waiting.attempts) == (State.WAITING, "no_source", 0)
        urgent = field.submit(wanted[4], "n2", Priority.CRITICAL)
        assert [row.operation for row in field.run("n2").rows] == [urgent.id], "it tries nevertheless"


def test_an_agent_that_is_killed_goes_on_when_it_is_back(tmp_path: Path) -> None:
    with running_field(tmp_path, {"n1": "", "n2": ""}, options={"n1": SLOW}) as field:
        sha256 = field.put("n1", noise(24 * MB, 1))
        field.refresh()
        operation = field.submit(sha256, "n2", size=24 * MB)
        with ThreadPoolExecutor(1) as pool:
            run = pool.submit(field.run, "n2")
            assert wait_until(lambda: on_its_way(field, operation, "n2"))
            order = field.get(operation).order_id
            field.agents["n2"].kill()
            field.restart("n2")
            (row,) = run.result(90).rows
        assert row.state == State.DONE and field.get(operation).order_id == order
        assert sha256 in field.held("n2").values() and field.agrees()


def test_of_a_silent_target_few_are_told_and_all_wait_until_it_answers(tmp_path: Path) -> None:
    with running_field(tmp_path, {"n1": "", "n2": ""}) as field:
        wanted = [field.put("n1", noise(1000, number), f"models/x{number}_hex8_2p.onnx") for number in range(30)]
        field.refresh()
        queue.submit_all(field.plane.store, [Wanted(Kind.SYNC, each, "n2", Priority.LOW, 1000) for each in wanted], at=time.time())
        field.agents["n2"].kill()
        report = field.run("n2", idle=0.3)
        assert report.silent and {(row.state, row.cause) for row in report.rows} == {(State.WAITING, "agent_silent")}
        assert len(report.rows) == 10
        waiting = queue.listed(field.plane.store, states=[State.WAITING])
        assert len(waiting) == 30 and {each.attempts for each in waiting} == {0}, "nobody starts one run after the other for them"
        field.restart("n2")
        with field.plane.store.writing() as writer:
            writer.connection.execute(sa.update(operations).where(operations.c.id == waiting[0].id).values(due_at=0.0))
        assert len(field.run("n2").done) == 30, "whoever finds that it answers goes on with all of them"


def away(field: Field, target: str, *, seconds: float) -> float:
    """Runs every few seconds while nothing can be had; returns what the clock says then."""
    begin = time.time()
    for number in range(int(seconds / 12)):
        at = begin + 12.0 * number
        assert not Coordinator(field.plane, f"away-{number}", clock=lambda at=at: at).run(target, seconds=5).failed
    return begin + seconds


def test_a_target_that_is_away_for_minutes_is_sent_everything_when_it_is_back(tmp_path: Path) -> None:
    with running_field(tmp_path, {"n1": "", "n2": ""}) as field:
        wanted = [field.put("n1", noise(1000, number), f"models/x{number}_hex8_2p.onnx") for number in range(2)]
        field.refresh()
        critical = field.submit(wanted[0], "n2", Priority.CRITICAL, size=1000)
        normal = field.submit(wanted[1], "n2", Priority.NORMAL, size=1000)
        field.agents["n2"].kill()
        now = away(field, "n2", seconds=300)
        for each in (critical, normal):
            told = field.get(each)
            assert (told.state, told.cause, told.attempts) == (State.WAITING, "agent_silent", 0) and told.next_action
        field.restart("n2")
        report = Coordinator(field.plane, "back", clock=lambda: now + queue.CRITICAL_SILENT_PAUSE).run("n2", seconds=30)
        assert sorted(row.operation for row in report.done) == [critical.id, normal.id], "whatever waited goes with what was due"
        with field.plane.store.reading() as connection:
            ended = dict(connection.execute(sa.select(link_limits.c.name, link_limits.c.ended)).all())
        assert ended["to n2"] == 2, "silence says nothing of what a link bears"


def test_a_source_that_is_away_for_minutes_is_waited_for(tmp_path: Path) -> None:
    with running_field(tmp_path, {"n1": "", "n2": ""}) as field:
        sha256 = field.put("n1", noise(1000, 1))
        field.refresh()
        operation = field.submit(sha256, "n2", Priority.CRITICAL, size=1000)
        field.agents["n1"].kill()
        for later in (0.0, 25.0):
            field.plane.refresh(clock=lambda later=later: time.time() + later, answer_seconds=1.0, again_seconds=0.1)
        now = away(field, "n2", seconds=300)
        told = field.get(operation)
        assert (told.state, told.cause, told.attempts) == (State.WAITING, "no_source", 0) and told.next_action
        field.restart("n1")
        field.refresh()
        report = Coordinator(field.plane, "back", clock=lambda: now + queue.CRITICAL_SILENT_PAUSE).run("n2", seconds=30)
        assert [row.operation for row in report.done] == [operation.id]


def test_what_is_cancelled_ends_at_the_agent_as_well(tmp_path: Path) -> None:
    with running_field(tmp_path, {"n1": "", "n2": ""}, options={"n1": SLOW}) as field:
        sha256 = field.put("n1", noise(40 * MB, 1))
        field.refresh()
        operation = field.submit(sha256, "n2", size=40 * MB)
        with ThreadPoolExecutor(1) as pool:
            run = pool.submit(field.run, "n2", lease_seconds=1.0)
            assert wait_until(lambda: on_its_way(field, operation, "n2"))
            queue.cancel(field.plane.store, operation.id, at=time.time())
            report = run.result(60)
        assert (report.rows, report.lost) == ([], 1)
        assert wait_until(lambda: not list((field.root / "n2").rglob("*.part")))
        assert field.held("n2") == {} and field.get(operation).state == State.CANCELLED


def test_what_is_under_way_when_a_run_ends_is_found_by_the_next(tmp_path: Path) -> None:
    with running_field(tmp_path, {"n1": "", "n2": ""}, options={"n1": SLOW}) as field:
        sha256 = field.put("n1", noise(24 * MB, 1))
        field.refresh()
        operation = field.submit(sha256, "n2", size=24 * MB)
        first = field.run("n2", owner="first", stop=lambda: on_its_way(field, operation, "n2"))
        assert (first.rows, first.left) == ([], 1)
        left = field.get(operation)
        assert left.state == State.QUEUED and left.order_id
        (row,) = field.run("n2", owner="second").rows
        assert row.state == State.DONE and field.get(operation).order_id == left.order_id
        assert field.get(operation).attempts == 0


_RUNNER = """
import sys, time
from pathlib import Path
from ringrift_dagster.home import Home
from ringrift_dagster.manifest.plane import open_plane
from ringrift_dagster.transfer.coordinator import Coordinator
root, owner = Path(sys.argv[1]), sys.argv[2]
with open_plane(Home(root / "home"), hosts_file=root / "hosts.yaml") as plane:
    print("runs", flush=True)
    Coordinator(plane, owner, lease_seconds=0.5).run("n2", seconds=60, idle=None)
"""


def test_a_coordinator_killed_again_and_again_loses_and_doubles_nothing(tmp_path: Path) -> None:
    with running_field(tmp_path, {"n1": "", "n2": ""}, options={"n1": ("--uplink", "20")}) as field:
        sizes = [5 * MB if number % 4 == 0 else 30_000 for number in range(40)]
        wanted = [field.put("n1", noise(size, number), f"models/x{number}_hex8_2p.onnx") for number, size in enumerate(sizes)]
        field.refresh()
        submitted = [Wanted(Kind.SYNC, sha256, "n2", Priority.NORMAL, size) for sha256, size in zip(wanted, sizes, strict=True)]
        queue.submit_all(field.plane.store, submitted, at=time.time())
        chance = random.Random(7)
        for number in range(5):
            command = [sys.executable, "-c", _RUNNER, str(tmp_path), f"killed-{number}"]
            with subprocess.Popen(
                command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2], env=dict(os.environ)
            ) as process:
                assert process.stdout is not None and process.stdout.readline() == "runs\n"
                time.sleep(chance.uniform(0.0, 0.45))
                process.kill()
        report = field.run("n2", owner="last", idle=1.5)
        ended = queue.listed(field.plane.store, states=[State.DONE], limit=100)
        assert len(ended) == 40 and not report.failed
        assert {operation.attempts for operation in ended} == {0}
        assert sorted(field.held("n2").values()) == sorted(wanted)
        assert all(len(field.copies(sha256)) == 2 for sha256 in wanted) and field.agrees()
        with Store.open(f"sqlite:///{tmp_path}/home/manifest.db") as store, store.reading() as connection:
            kept = connection.exec_driver_sql("SELECT count(*) FROM changes WHERE kind = 'OPERATION_DONE'").scalar_one()
        assert kept == 40
