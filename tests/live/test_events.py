"""What a host tells has consequences by itself: a real Dagster, real agents, nobody who does anything but tell.

One host has a fast link: its data is there before a run could start, and the sensor tells of it. The other's is slow: a run sees it
through.
"""

from __future__ import annotations

import json
import shutil
import time
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ringrift_dagster.datasets.training_sets import training_set
from ringrift_dagster.events.client import emit
from ringrift_dagster.games.config import parse_config
from ringrift_dagster.games.database import file_sha256
from ringrift_dagster.home import Home
from ringrift_dagster.manifest import overrides
from ringrift_dagster.manifest.plane import HOME_LOCATION
from ringrift_dagster.manifest.queries import where
from ringrift_dagster.models.candidates import register
from ringrift_dagster.models.promotion.decision import default_rules
from ringrift_dagster.models.promotion.promoting import opponents_of
from ringrift_dagster.models.publishing.names import model_names
from ringrift_dagster.transfer.operations import Kind, State
from ringrift_dagster.transfer.queue import listed
from tests.agents import RunningAgent
from tests.live.cluster import MAIN, LiveCluster, live_cluster
from tests.live.test_live import NPZ, ask, eventually
from tests.models.conftest import exported
from tests.models.making import model_file
from tests.models.promotion.test_promoting import STRONG, played

__all__ = ["exported"]

pytestmark = [pytest.mark.live, pytest.mark.xdist_group("live")]

CONFIG = "square8_3p"
FAST, SLOW = "gpu-2", "gpu-3"
SLOW_MB_S = 0.0015
"""What there is to send takes longer than a sensor sees it through."""
STORY = """{ assetOrError(assetKey: {path: ["%s"]}) { ... on Asset { %s(limit: 100) {
  runId %s metadataEntries { label ... on MarkdownMetadataEntry { mdStr } } } } } }"""
RUNS = '{ runsOrError(filter: {pipelineName: "replication_job"}) { ... on Runs { results { runId status tags { key value } } } } }'


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveCluster]:
    trains = ", role: gpu_training_primary, training_enabled: true"
    hosts = {MAIN: ", role: coordinator, is_coordinator: true", "gpu-1": ", role: gpu_selfplay", FAST: trains, SLOW: trains}
    sections = f"sync_routing: {{replication_target: 1}}\nauto_sync: {{host_bandwidth_overrides: {{{SLOW}: {SLOW_MB_S}}}}}"
    with live_cluster(tmp_path_factory.mktemp("events"), hosts, sections=sections) as running:
        path = running.root / "gpu-1/data/training" / f"{CONFIG}.npz"
        path.parent.mkdir(parents=True)
        shutil.copyfile(NPZ, path)
        eventually(lambda: running.known(file_sha256(NPZ)))
        overrides.grant(running.store, CONFIG, who="tests", why="a recorded game is old", hours=1, at=time.time())
        yield running


@pytest.mark.parametrize("host", [FAST, SLOW])
def test_a_training_start_brings_the_data_that_its_host_lacks(cluster: LiveCluster, host: str) -> None:
    sha256 = file_sha256(NPZ)
    assert host not in cluster.places(sha256)

    event = emit("TRAINING_STARTED", {"config": CONFIG, "node_id": host, "job_id": "7"}, url=cluster.agents[host].url)

    (operation,) = eventually(lambda: listed(cluster.store, states=[State.DONE], target=host))
    assert (operation.kind, operation.sha256) == (Kind.PRELOAD, sha256)
    (copy,) = [copy for copy in where(cluster.store, sha256).reachable if copy.location == host]
    assert file_sha256(cluster.root / host / copy.path) == sha256
    (seen,) = eventually(lambda: told(cluster, "host_events", "assetObservations", "partition", f"{host} is sent {sha256[:12]}"))
    assert "TRAINING_STARTED" in text(seen)
    (made,) = eventually(lambda: told(cluster, "host_replicas", "assetMaterializations", "partition", sha256[:12], partition=host))
    runs = [run for run in ask(cluster.services, RUNS)["runsOrError"]["results"] if partition_of(run) == host]
    assert made["runId"] in ([run["runId"] for run in runs] if host == SLOW else ["", *(run["runId"] for run in runs)])
    (available,) = eventually(lambda: [each for each in delivered(cluster.agents[host]) if each["type"] == "DATA_AVAILABLE"])
    assert (available["payload"]["sha256"], available["payload"]["path"]) == (sha256, copy.path)
    assert event not in {each["id"] for each in delivered(cluster.agents[host])}
    assert delivered(cluster.agents["gpu-1"]) == []


def test_a_candidate_that_is_registered_is_decided_on_and_the_promoted_model_is_on_every_host(
    cluster: LiveCluster, exported: Home, tmp_path: Path
) -> None:
    for name in ("canonical", "datasets"):
        shutil.copytree(exported.root / name, cluster.home.root / name, dirs_exist_ok=True)
    data = next(known for path in (exported.datasets / "manifests").glob("*.json") if (known := training_set(exported, path.stem)))
    assert data.newest_game is not None
    config = parse_config(data.config)
    file = model_file(tmp_path / "trained.pth", config.key)
    began = (data.newest_game + timedelta(hours=1)).timestamp()
    sha256 = file_sha256(file)
    for opponent in opponents_of(config, None, default_rules(config.players)).values():
        played(cluster.home, sha256, opponent, STRONG, ended=time.time())

    register(
        cluster.home, file, config, origin="test", who="tests", training_data_sha256=data.sha256, training_began=began
    )  # fmt: skip

    (made,) = eventually(
        lambda: told(cluster, "promoted_models", "assetMaterializations", "partition", "Promoted.", partition=config.key)
    )
    assert sha256[:12] in text(made)
    for host in (MAIN, "gpu-1", FAST):
        named = [cluster.root / host / "models" / name for name in model_names(config.key)]
        eventually(lambda named=named: [path for path in named if path.exists() and file_sha256(path) == sha256] == named)
        assert named[0].with_name(f"{named[0].name}.sha256").read_text().split()[0] == sha256
    assert {MAIN, "gpu-1", FAST, HOME_LOCATION} <= set(cluster.known(sha256))


def told(cluster: LiveCluster, asset: str, what: str, field: str, words: str, *, partition: str | None = None) -> list[Any]:
    """The observations or materialisations of an asset that tell something."""
    found = ask(cluster.services, STORY % (asset, what, field))["assetOrError"].get(what, [])
    return [each for each in found if words in text(each) and each["partition"] == partition]


def text(event: dict[str, Any]) -> str:
    return " ".join(entry.get("mdStr", "") for entry in event["metadataEntries"])


def partition_of(run: dict[str, Any]) -> str:
    return next(tag["value"] for tag in run["tags"] if tag["key"] == "dagster/partition")


def delivered(agent: RunningAgent) -> list[dict[str, Any]]:
    """What the coordinator told a host."""
    with urllib.request.urlopen(f"{agent.url}/v1/events", timeout=10) as answer:
        return [each["event"] for each in json.load(answer)["events"]]
