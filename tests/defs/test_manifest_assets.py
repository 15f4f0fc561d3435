"""The manifest as assets: what a run of each reports, and which checks fail because of what."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa

from ringrift_dagster.defs.manifest.checks import PROMISES, verdicts
from ringrift_dagster.defs.resources import HomeResource, PlaneResource
from ringrift_dagster.home import Home
from ringrift_dagster.manifest import plane, report
from ringrift_dagster.manifest.locations import all_locations
from ringrift_dagster.manifest.plane import Plane
from ringrift_dagster.manifest.schema import holdings
from ringrift_dagster.manifest.sources.s3_manifest import read_manifest
from ringrift_dagster.manifest.store import Store
from tests.manifest.s3_uploads import upload
from tests.manifest.telling import dies, item, tell
from tests.s3_servers import KEY, SECRET, new_bucket, rclone_server

from .conftest import checks, declare, failure, materialized, store_training_set

Run = Callable[..., dg.ExecuteInProcessResult]


@pytest.fixture
def cluster(home: Home) -> Iterator[Plane]:
    """The plane of a hosts file with two hosts, which told what they hold; the home is not asked."""
    declare(home, vast_1=None, nebius_1=None)
    with PlaneResource(home=HomeResource()).open() as opened:
        tell(opened.store, "home", at=1)
        tell(opened.store, "vast-1", [item("a.npz", "a"), item("b.npz", "b")], at=1)
        tell(opened.store, "nebius-1", [item("b.npz", "b")], at=1)
        yield opened


@pytest.fixture
def read_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what was hashed today is not read again before tomorrow."""
    monkeypatch.setattr(plane, "SCRUB_REST_SECONDS", 0.0)


def judged(cluster: Plane) -> dict[str, dg.AssetCheckResult]:
    return {verdict.check_name or "": verdict for verdict in verdicts(cluster)}


def broken(cluster: Plane) -> set[str]:
    return {name for name, verdict in judged(cluster).items() if not verdict.passed}


def test_one_machine_reports_what_it_holds(run: Run, home: Home) -> None:
    store_training_set(home)
    result = run("manifest_job")
    assert result.success, failure(result)
    metadata = materialized(result)["data_manifest"].metadata
    assert [metadata[name].value for name in ("dagster/row_count", "answered", "silent", "sole copies", "lost")] == [1, 1, 0, 1, 0]
    assert "| NPZ | square8_3p | 1 | 1 | 0 |" in str(metadata["items"].value)
    assert "| home | disk | ONLINE | 0\u00a0s | 1 |" in str(metadata["locations"].value)
    assert set(checks(result)) == set(PROMISES)
    assert all(check.passed for check in checks(result).values())
    assert "one place only" in str(checks(result)["replicated"].description)


def test_the_data_version_is_that_of_what_is_where(run: Run, home: Home) -> None:
    def version() -> str:
        return (materialized(run("manifest_job"))["data_manifest"].tags or {})["dagster/data_version"]

    store_training_set(home)
    first = version()
    assert version() == first
    (home.datasets / "square8_3p.npz").unlink()
    assert version() != first


def test_a_host_that_does_not_answer_is_a_warning(run: Run, home: Home) -> None:
    declare(home, vast_1=None)
    result = run("manifest_job")
    assert result.success
    found = checks(result)["every_location_answers"]
    assert (found.passed, found.severity, found.description) == (False, dg.AssetCheckSeverity.WARN, "vast-1")
    assert "refused" in str(found.metadata["locations"].value)
    assert "| vast-1 | host | OFFLINE: refused | never | 0 |" in str(
        materialized(result)["data_manifest"].metadata["locations"].value
    )


def test_a_broken_hosts_file_fails_the_run_with_all_its_problems(run: Run, home: Home) -> None:
    declare(home).write_text("hosts: {vast-1: {ssh_port: many, gpu_vram_gb: lots}}\n")
    result = run("manifest_job")
    assert not result.success
    assert "distributed_hosts.yaml:1: hosts.vast-1.ssh_port" in failure(result)


def test_a_sound_cluster_lacks_copies_only(cluster: Plane) -> None:
    assert broken(cluster) == {"replicated"}
    verdict = judged(cluster)["replicated"]
    assert verdict.description == "2 items have fewer than 3 copies, or none on a durable host"
    assert verdict.severity == dg.AssetCheckSeverity.WARN


def test_what_only_a_dead_host_has_is_stranded(cluster: Plane) -> None:
    dies(cluster.store, "vast-1", at=50)
    assert broken(cluster) == {"replicated", "nothing_stranded", "every_location_answers"}
    verdict = judged(cluster)["nothing_stranded"]
    assert verdict.severity == dg.AssetCheckSeverity.ERROR
    assert "bring vast-1 back, or its disk" in str(verdict.metadata["stranded"].value)


def test_the_last_copy_that_vanishes_is_lost(cluster: Plane) -> None:
    tell(cluster.store, "vast-1", [item("b.npz", "b")], at=2)
    assert "nothing_lost" in broken(cluster)
    assert "make it again" in str(judged(cluster)["nothing_lost"].metadata["lost"].value)


def test_a_brake_is_an_error_until_a_person_decides(cluster: Plane) -> None:
    many = [item(f"{number}.npz", f"content {number}") for number in range(20)]
    tell(cluster.store, "vast-1", many, full=False, at=2)
    tell(cluster.store, "vast-1", many[:4], at=3)
    verdict = judged(cluster)["no_brake_holds"]
    assert (verdict.passed, verdict.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert "| vast-1 | 18 | 4 |" in str(verdict.metadata["locations"].value)


def test_a_wrong_clock_is_told(cluster: Plane) -> None:
    tell(cluster.store, "nebius-1", [item("b.npz", "b")], at=10, now=70.0)
    assert "+60.0" in str(judged(cluster)["clocks_agree"].metadata["locations"].value)


def test_counters_that_do_not_add_up_are_an_error(cluster: Plane) -> None:
    with cluster.store.engine.begin() as connection:
        connection.execute(sa.update(holdings).values(replicas=7))
    verdict = judged(cluster)["counters_agree"]
    assert (verdict.passed, verdict.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert "replicas 7" in str(verdict.metadata["disagreements"].value)


def test_figures_of_a_cluster(cluster: Plane) -> None:
    store = cluster.store
    dies(store, "nebius-1", at=50)
    assert report.dangers(store, 2) == report.Dangers(sole=2, under=2, perishable=0)
    (count,) = report.items_by_type(store)
    assert (count.items, count.reachable, count.bytes) == (2, 2, 2)
    assert [held.replicas for held in report.holdings_at(store, ["vast-1"])["vast-1"]] == [2]
    before = report.digest(store)
    tell(store, "vast-1", [item("c.npz", "c")], full=False, at=60)
    assert report.digest(store) != before


def test_hosts_without_proof_are_stale(run: Run, home: Home, cluster: Plane) -> None:
    fresh = item("fresh.npz", "fresh", newest_game=time.time() - 60, samples=5)
    tell(cluster.store, "vast-1", [fresh], full=False, at=time.time())
    result = run("freshness_job")
    found = checks(result)["hosts_fresh"]
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert found.description == "23 of 24 are stale"
    assert "| nebius-1 | hex8_2p |" in str(found.metadata["stale"].value)
    metadata = materialized(result)["freshness_report"].metadata
    assert metadata["stale on hosts"].value == 23
    assert "| vast-1 | 1/12 |" in str(metadata["hosts"].value)


def test_without_hosts_only_the_configs_are_judged(run: Run, home: Home) -> None:
    result = run("freshness_job")
    found = checks(result)["hosts_fresh"]
    assert (found.passed, found.description) == (True, "there are no hosts")
    assert "hosts" not in materialized(result)["freshness_report"].metadata


def test_nobody_knows_how_fresh_hosts_are_without_their_file(run: Run, home: Home) -> None:
    declare(home).write_text("hosts: 3\n")
    result = run("freshness_job")
    assert result.success
    assert not checks(result)["hosts_fresh"].passed


def test_nobody_knows_how_fresh_hosts_are_without_the_manifest(run: Run, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGRIFT_MANIFEST_URL", "mysql://nowhere/manifest")
    result = run("freshness_job")
    assert result.success, "what is known of the configs is told all the same"
    found = checks(result)["hosts_fresh"]
    assert not found.passed
    assert "SQLite or PostgreSQL" in str(found.description)
    assert len(checks(result)) == 13


def test_a_scrub_reports_what_was_read_again(run: Run, home: Home, read_again_at_once: None) -> None:
    path = store_training_set(home)
    assert run("manifest_job").success
    result = run("scrub_job")
    assert result.success, failure(result)
    metadata = materialized(result)["scrub_report"].metadata
    assert (metadata["files"].value, metadata["bytes"].value, metadata["damaged"].value) == (1, path.stat().st_size, 0)
    assert f"| home | {path.stat().st_size:,} | 1 | 0 | 0 | all was read |" in str(metadata["locations"].value)
    assert checks(result)["bytes_verified"].passed


def test_a_flipped_bit_is_found_and_stays_an_error(run: Run, home: Home, read_again_at_once: None) -> None:
    path = store_training_set(home)
    os.utime(path, (1e9, 1e9))  # what was written a moment ago is hashed again by every pass
    assert run("manifest_job").success
    flip(path)
    for _ in range(2):
        found = checks(run("scrub_job"))["bytes_verified"]
        assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.ERROR)
        assert "datasets/square8_3p.npz" in str(found.metadata["damaged"].value)
        assert checks(run("manifest_job"))["nothing_lost"].passed is False


def test_a_scrub_runs_in_the_background_class(location: dg.Definitions) -> None:
    assert location.resolve_job_def("scrub_job").run_tags["ringrift/op_class"] == "BACKGROUND"


def test_the_plane_is_where_its_resource_says(tmp_path: Path) -> None:
    home = HomeResource(root=str(tmp_path / "elsewhere"))
    hosts = declare(Home(tmp_path / "other"), vast_1=None)
    resource = PlaneResource(home=home, hosts_file=str(hosts), manifest_url=f"sqlite:///{tmp_path / 'm.db'}")
    with resource.open() as opened:
        assert [place.name for place in all_locations(opened.store)] == ["home", "vast-1"]
        assert opened.home.root == tmp_path / "elsewhere"
    assert (tmp_path / "m.db").exists()
    with Store.open(f"sqlite:///{tmp_path / 'm.db'}") as store:
        assert len(all_locations(store)) == 2


def test_s3_is_reached_where_the_resource_says(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    named = PlaneResource(home=HomeResource(), s3_endpoint="http://127.0.0.1:9", s3_region="eu-north-1").s3_client()
    assert (named.meta.endpoint_url, named.meta.region_name) == ("http://127.0.0.1:9", "eu-north-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:8")
    declare(home, vast_1=None).open("a").write("sync_routing: {s3: {bucket: games, region: eu-west-3}}\n")
    said = PlaneResource(home=HomeResource()).s3_client()
    assert (said.meta.endpoint_url, said.meta.region_name) == ("http://127.0.0.1:8", "eu-west-3")


def flip(path: Path) -> None:
    """Change one bit and keep size and times, as a failing disk does."""
    times = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_the_bucket_is_told_what_it_holds(run: Run, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with rclone_server(tmp_path / "s3") as endpoint:
        server = new_bucket(endpoint)
        there = upload(server, "consolidated/training/hex8_2p.npz", b"content", config="hex8_2p")
        declare(home, vast_1=None).open("a").write(f"sync_routing: {{s3: {{bucket: {server.bucket}}}}}\n")
        for name, value in (("AWS_ENDPOINT_URL", endpoint), ("AWS_ACCESS_KEY_ID", KEY), ("AWS_SECRET_ACCESS_KEY", SECRET)):
            monkeypatch.setenv(name, value)
        metadata = materialized(run("manifest_job"))["data_manifest"].metadata
        written = read_manifest(server.client, server.bucket)
    assert metadata["bucket manifest"].value == "names 1 objects"
    assert written is not None and written.objects[there.path].sha256 == there.sha256


def test_a_bucket_that_does_not_answer_fails_no_run(run: Run, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    declare(home, vast_1=None).open("a").write("sync_routing: {s3: {bucket: nowhere}}\n")
    for name, value in (("AWS_ENDPOINT_URL", "http://127.0.0.1:9"), ("AWS_ACCESS_KEY_ID", KEY), ("AWS_SECRET_ACCESS_KEY", SECRET)):
        monkeypatch.setenv(name, value)
    result = run("manifest_job")
    assert result.success
    metadata = materialized(result)["data_manifest"].metadata
    assert str(metadata["bucket manifest"].value).startswith("not written: ")
    assert not checks(result)["every_location_answers"].passed
