"""Which transports an operator prefers, for whom, and what the hosts file says when that cannot be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from ringrift_dagster.cluster.hosts import Cluster, HostsFileError, load_hosts
from ringrift_dagster.cluster.topology import TransportPreference
from ringrift_dagster.manifest.inventory import ItemType
from ringrift_dagster.transfer.model import TransportName
from ringrift_dagster.transfer.preferences import DEFAULT_ORDER, preferred, transport_order

HOSTS = """
hosts:
  vast-1: {ringrift_path: /data}
  vast-2: {ringrift_path: /data}
  nebius-1: {ringrift_path: /data}
"""
PREFERENCES = """
transports:
  - {prefer: [rsync], hosts: [vast-2]}
  - {prefer: [aria2, http], hosts: ["vast-*"], types: [NPZ, MODEL]}
  - {prefer: [s3], providers: [nebius]}
"""


@pytest.fixture
def load(tmp_path: Path) -> Callable[[str], Cluster]:
    def from_text(text: str) -> Cluster:
        path = tmp_path / "hosts.yaml"
        path.write_text(HOSTS + text)
        return load_hosts(path)

    return from_text


@pytest.mark.parametrize(
    ("host", "kind", "order"),
    [
        ("vast-1", "NPZ", "aria2 http shared s3 rsync"),
        ("vast-1", "GAME_DB", "shared http s3 rsync"),
        ("vast-2", "NPZ", "rsync shared http s3"),
        ("nebius-1", "NPZ", "s3 shared http rsync"),
        ("unheard-of", "NPZ", "shared http s3 rsync"),
    ],
)
def test_the_first_that_fits_holds_and_the_rest_follow(load: Callable[[str], Cluster], host: str, kind: str, order: str) -> None:
    assert " ".join(transport_order(load(PREFERENCES), host, kind)) == order


def test_without_preferences_the_order_is_the_projects(load: Callable[[str], Cluster]) -> None:
    cluster = load("")
    assert transport_order(cluster, "vast-1", "NPZ") == DEFAULT_ORDER
    assert preferred(cluster, "vast-1", "NPZ") == ()
    assert transport_order(Cluster(), "vast-1", "NPZ") == DEFAULT_ORDER
    assert load("transports:\n").warnings == ()


def test_the_files_words_are_the_projects() -> None:
    fields = TransportPreference.model_fields
    assert set(get_args(get_args(fields["prefer"].annotation)[0])) == set(TransportName)
    assert set(get_args(get_args(fields["types"].annotation)[0])) == set(ItemType)


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("prefer: [http, carrier-pigeon]", "transports[0].prefer[1]: must be 'shared', 'http', 's3', 'rsync', 'aria2' or 'bit"),
        ("prefer: []", "transports[0].prefer: "),
        ("prefer: [http, s3, http]", "transports[0].prefer: names a transport twice"),
        ("hosts: [vast-1]", "transports[0].prefer: is missing"),
        ("prefer: http", "transports[0].prefer: must be a list, not 'http'"),
        ("prefer: [http], types: [NPY]", "transports[0].types[0]: must be 'GAME_DB', "),
        ("prefer: [http], hosts: vast-1", "transports[0].hosts: must be a list"),
    ],
)
def test_every_mistake_is_named_with_its_line(load: Callable[[str], Cluster], entry: str, problem: str) -> None:
    with pytest.raises(HostsFileError) as caught:
        load(f"transports:\n  - {{{entry}}}\n")
    (line,) = caught.value.problems
    assert f"hosts.yaml:7: {problem}" in line


def test_a_preference_for_nobody_is_a_warning(load: Callable[[str], Cluster]) -> None:
    cluster = load('transports: [{prefer: [s3], hosts: ["gpu-*", vast-1], providers: [azure, vast]}]')
    assert [warning.partition(": ")[2] for warning in cluster.warnings] == [
        "transports[0].hosts[0]: gpu-* fits no host",
        "transports[0].providers[0]: azure fits no host",
    ]
