"""What is lost together, as far as the hosts file and the manifest tell."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ringrift_dagster.cluster.domains import failure_domains
from ringrift_dagster.cluster.hosts import Cluster, load_hosts
from ringrift_dagster.cluster.topology import Place
from ringrift_dagster.home import Home
from ringrift_dagster.manifest.locations import location
from ringrift_dagster.manifest.plane import HOME_LOCATION, THIS_HOST_VARIABLE, open_plane

Load = Callable[[str], Cluster]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """The cluster that a text describes."""

    def from_text(text: str) -> Cluster:
        path = tmp_path / "hosts.yaml"
        path.write_text(text)
        return load_hosts(path)

    return from_text


def together(cluster: Cluster, *more: Place) -> set[frozenset[str]]:
    """The places of each failure domain; those of none are left out."""
    found: dict[str, set[str]] = {}
    for name, domain in failure_domains(cluster, [*cluster.locations(), *more]).items():
        if domain is not None:
            found.setdefault(domain, set()).add(name)
    return {frozenset(names) for names in found.values()}


def sets(*names: str) -> set[frozenset[str]]:
    return {frozenset(each.split()) for each in names}


def test_a_host_and_what_hangs_on_it_are_one_and_others_are_apart(load: Load) -> None:
    cluster = load(
        """
        sync_routing:
          s3: {bucket: cold-1}
          allowed_external_storage: [{name: owc, host: mac, path: /Volumes/owc}, {name: box, host: mac, path: /Volumes/box}]
          shared_storage: [{name: share, path: /share, hosts: [gpu-1, gpu-2]}]
        hosts: {mac: {}, gpu-1: {}, gpu-2: {}}
        """
    )
    assert together(cluster) == sets("mac owc box", "gpu-1", "gpu-2", "share", "cold-1")


def test_hosts_of_a_provider_that_are_flagged_as_nfs_are_one(load: Load) -> None:
    cluster = load(
        """
        hosts:
          lambda-1: {has_nfs: true}
          lambda-2: {nfs_enabled: true}
          lambda-3: {}
          nebius-1: {has_nfs: true}
          nebius-2: {has_nfs: true, status: offline}
        """
    )
    assert together(cluster) == sets("lambda-1 lambda-2", "lambda-3", "nebius-1")
    assert [warning.partition(": ")[2].partition(", ")[0] for warning in cluster.warnings] == [
        f"hosts.{name}: it counts as one with the other hosts of lambda on NFS"
        for name in ("lambda-1.has_nfs", "lambda-2.nfs_enabled")
    ]


def test_nobody_knows_whose_nfs_a_host_of_an_unknown_provider_is_on(load: Load) -> None:
    cluster = load("hosts: {lambda-1: {has_nfs: true}, box: {has_nfs: true}, vast-1: {has_nfs: true}, other: {}}")
    assert together(cluster) == sets("lambda-1 box vast-1", "other")


def test_a_named_file_system_may_be_the_one_that_its_hosts_are_flagged_for(load: Load) -> None:
    cluster = load(
        """
        shared_storage: [{name: share, path: /share, hosts: [lambda-1, lambda-2, lambda-3]}]
        hosts: {lambda-1: {has_nfs: true}, lambda-2: {has_nfs: true}, lambda-3: {}}
        """
    )
    assert together(cluster) == sets("lambda-1 lambda-2 share", "lambda-3")
    assert cluster.warnings == ()


def test_what_lies_below_a_shared_file_system_is_lost_with_it(load: Load) -> None:
    cluster = load(
        """
        sync_routing: {allowed_external_storage: [{name: deep, host: gpu-3, path: /share/deep}]}
        shared_storage:
          - {name: share, path: /share/, hosts: [gpu-1, gpu-2, gpu-3, gpu-4]}
          - {name: part, path: /share/part, hosts: [gpu-4]}
        hosts:
          gpu-1: {ringrift_path: /share/ringrift}
          gpu-2: {storage_paths: {games: /share/games}}
          gpu-3: {}
          gpu-4: {ringrift_path: /shared/ringrift}
          gpu-5: {ringrift_path: /share/ringrift}
        """
    )
    assert together(cluster) == sets("share part deep gpu-1 gpu-2 gpu-3", "gpu-4", "gpu-5"), "gpu-5 has a disk of its own there"


def test_two_names_of_one_address_are_one_machine(load: Load) -> None:
    cluster = load(
        """
        hosts:
          new: {tailscale_ip: 100.0.0.1}
          old: {tailscale_ip: 100.0.0.1, data_server_port: 9000}
          other: {tailscale_ip: 100.0.0.2}
          silent-1: {}
          silent-2: {}
        """
    )
    assert together(cluster) == sets("new old", "other", "silent-1", "silent-2")


def test_the_home_is_lost_with_its_host_and_counts_for_nothing_if_nobody_knows_which(load: Load) -> None:
    cluster = load("hosts: {mac: {}, gpu-1: {}}")
    home = Place("home", "disk", "")
    assert together(cluster, Place("home", "disk", "", via="mac")) == sets("mac home", "gpu-1")
    assert together(cluster, home) == together(cluster, Place("home", "disk", "", via="gone")) == sets("mac", "gpu-1")
    assert together(Cluster(), home) == sets("home"), "without hosts there is nothing to be one with"


def test_places_that_the_hosts_file_does_not_name_count_for_nothing(load: Load) -> None:
    cluster = load("hosts: {gpu-1: {}}")
    strangers = [Place("gpu-9", "host", ""), Place("owc", "drive", "", via="gpu-9"), Place("nfs", "shared", "")]
    assert together(cluster, *strangers) == sets("gpu-1")


@pytest.mark.parametrize(
    ("text", "here", "via"),
    [
        ("hosts: {mac: {is_coordinator: true}, gpu-1: {}}", None, "mac"),
        ("hosts: {mac: {is_coordinator: true}, gpu-1: {}}", "mac", "mac"),
        ("hosts: {mac: {is_coordinator: true}, gpu-1: {}}", "gpu-1", None),
        ("hosts: {mac: {}, gpu-1: {}}", "gpu-1", "gpu-1"),
        ("hosts: {mac: {}, gpu-1: {}}", "gpu-9", None),
        ("hosts: {mac: {}, gpu-1: {}}", None, None),
    ],
)
def test_the_home_is_on_the_coordinators_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, here: str | None, via: str | None
) -> None:
    monkeypatch.delenv(THIS_HOST_VARIABLE, raising=False)
    if here is not None:
        monkeypatch.setenv(THIS_HOST_VARIABLE, here)
    path = tmp_path / "hosts.yaml"
    path.write_text(text)
    with open_plane(Home(tmp_path / "home"), hosts_file=path) as plane:
        home = location(plane.store, HOME_LOCATION)
        assert home is not None and home.via == via
