"""Which webhooks there are, by the hosts file and the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringrift_dagster.cluster.hosts import HostsFileError, load_hosts
from ringrift_dagster.cluster.topology import Cluster
from ringrift_dagster.events.model import EventType
from ringrift_dagster.events.webhooks import BAD_NEWS, configured

FILE = """
hosts: {}
webhooks:
  - {name: ops, url: "https://hooks.example.com/T0/B0", events: [ORPHAN_DETECTED, "HOST_*"]}
  - {name: alerts, url_variable: ALERTS_URL}
  - {name: nowhere, url_variable: NOT_SET}
"""


def test_from_the_hosts_file_and_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "distributed_hosts.yaml"
    path.write_text(FILE)
    environment = {"ALERTS_URL": "http://127.0.0.1:1/x", "RINGRIFT_WEBHOOK_URL": "http://127.0.0.1:2/y"}
    found = configured(load_hosts(path), environment)
    assert {name: (hook.url, hook.events) for name, hook in found.items()} == {
        "ops": ("https://hooks.example.com/T0/B0", ("ORPHAN_DETECTED", "HOST_*")),
        "alerts": ("http://127.0.0.1:1/x", BAD_NEWS),
        "environment": ("http://127.0.0.1:2/y", BAD_NEWS),
    }
    assert "hooks.example.com" not in repr(found), "addresses are secrets"


def test_what_the_environment_wants_to_be_told() -> None:
    environment = {"RINGRIFT_WEBHOOK_URL": "http://127.0.0.1:2/y", "RINGRIFT_WEBHOOK_EVENTS": "HOST_ONLINE, DATA_*"}
    assert configured(Cluster(), environment)["environment"].events == ("HOST_ONLINE", "DATA_*")
    assert configured(Cluster(), {}) == {}


def test_bad_news_are_events() -> None:
    assert set(BAD_NEWS) <= set(EventType)


def test_an_address_that_is_none_is_said(tmp_path: Path) -> None:
    path = tmp_path / "distributed_hosts.yaml"
    path.write_text("hosts: {}\nwebhooks: [{name: ops, url: 'ftp://x'}]\n")
    with pytest.raises(HostsFileError, match="webhooks"):
        load_hosts(path)
