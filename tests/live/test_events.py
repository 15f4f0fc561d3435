"""What a host tells has consequences by itself: a real Dagster, real agents, nobody who does anything but tell.

One host has a fast link: its data is there before a run could start, and the sensor tells of it. The other's is slow: a run sees it
through.
"""

from __future__ import annotations

import json
import shutil
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect, sync_playwright

from ringrift_dagster.datasets.training_sets import training_set
from ringrift_dagster.events.client import emit
from ringrift_dagster.games.config import parse_config
from ringrift_dagster.games.database import file_sha256
from ringrift_dagster.home import Home
from ringrift_dagster.manifest import overrides
from ringrift_dagster.manifest.plane import HOME_LOCATION
from ringrift_dagster.manifest.queries import where
from ringrift_dagster.models.candidates import register
from ringrift_dagster.models.evaluation.records import Participant, Result
from ringrift_dagster.models.promotion.decision import default_rules
from ringrift_dagster.models.promotion.promoting import model_participant, opponents_of
from ringrift_dagster.models.publishing.names import model_names
from ringrift_dagster.transfer.operations import Kind, State
from ringrift_dagster.transfer.queue import listed
from tests.agents import RunningAgent
from tests.live.cluster import MAIN, LiveCluster, live_cluster
from tests.live.test_live import CHROMIUM, NPZ, ask, eventually
from tests.models.conftest import CONFIG as JUDGED
from tests.models.conftest import exported
from tests.models.making import model_file
from tests.models.promotion.test_promoting import EVEN, STRONG, WEAK, played

__all__ = ["exported"]

pytestmark = [pytest.mark.live, pytest.mark.xdist_group("live")]

CONFIG = "square8_3p"
RULES = default_rules(4)
FAST, SLOW = "gpu-2", "gpu-3"
LINEAGE = {
    "upstream": ("selfplay_games", "selfplay_databases", "canonical_games", "training_npz", "candidate_models", "evaluation_games"),
    "downstream": ("host_replicas", "cold_storage"),
}
SLOW_MB_S = 0.0015
"""What there is to send takes longer than a sensor sees it through."""
STORY = """{ assetOrError(assetKey: {path: ["%s"]}) { ... on Asset { %s(limit: 100) {
  runId %s metadataEntries { label ... on MarkdownMetadataEntry { mdStr } } } } } }"""
RUNS = '{ runsOrError(filter: {pipelineName: "replication_job"}) { ... on Runs { results { runId status tags { key value } } } } }'


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveCluster]:
    trains = ", role: gpu_training_primary, training_enabled: true"
    hosts = {MAIN: ", role: coordinator, is_coordinator: true", "gpu-1": ", role: gpu_selfplay", FAST: trains, SLOW: trains}
    sections = f"sync_routing: {{replication_target: 1}}\nauto_sync: {{host_bandwidth_overrides: {{{SLOW}: {SLOW_MB_S}}}}}\n"
    sections += "promotion: {max_blocks: 100}"
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


@pytest.fixture
def candidate(cluster: LiveCluster, exported: Home, tmp_path: Path) -> Callable[..., str]:
    """Registers a model, after the evidence that it has against the baselines; its hash. Another seed is another model."""
    for name in ("canonical", "datasets"):
        shutil.copytree(exported.root / name, cluster.home.root / name, dirs_exist_ok=True)
    data = next(known for path in (exported.datasets / "manifests").glob("*.json") if (known := training_set(exported, path.stem)))
    assert data.newest_game is not None
    config, began = parse_config(data.config), (data.newest_game + timedelta(hours=1)).timestamp()

    def register_one(seed: int, results: Sequence[Result], *others: tuple[Participant, Sequence[Sequence[Result]]]) -> str:
        file = model_file(tmp_path / "trained.pth", config.key, seed)
        baselines = opponents_of(config, None, RULES).values()
        for opponent, turns in (*((baseline, [results]) for baseline in baselines), *others):
            played(cluster.home, file_sha256(file), opponent, *turns, ended=time.time())
        register(
            cluster.home, file, config, origin="test", who="tests", training_data_sha256=data.sha256, training_began=began
        )  # fmt: skip
        return file_sha256(file)

    return register_one


def test_of_three_candidates_one_is_promoted_to_every_host_and_the_browser_says_why_the_others_are_not(
    cluster: LiveCluster, candidate: Callable[..., str]
) -> None:
    first = candidate(1, STRONG)
    (made,) = eventually(lambda: decided(cluster, "Promoted."))
    assert first[:12] in text(made)
    for host in (MAIN, "gpu-1", FAST):
        named = [cluster.root / host / "models" / name for name in model_names(JUDGED)]
        eventually(lambda named=named: [path for path in named if path.exists() and file_sha256(path) == first] == named)
        assert named[0].with_name(f"{named[0].name}.sha256").read_text().split()[0] == first
    assert {MAIN, "gpu-1", FAST, HOME_LOCATION} <= set(cluster.known(first))

    worse = candidate(2, WEAK)
    eventually(lambda: decided(cluster, f"| `{worse[:12]}` | refuse | too_few_blocks, below_floor |"))
    unproven = candidate(3, STRONG, (model_participant(first, RULES), [EVEN, WEAK, ("won", "won", "lost", "lost"), EVEN]))
    eventually(lambda: decided(cluster, f"| `{unproven[:12]}` | refuse | too_many_blocks |"))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=CHROMIUM)
        page = browser.new_page(viewport={"width": 1500, "height": 1000})
        page.set_default_timeout(60_000)
        page.goto(f"{cluster.services.url}/assets/promoted_models?view=partitions&partition={JUDGED}")
        for shown in (first, "Promoted.", worse[:12], "below_floor", unproven[:12], "too_many_blocks"):
            expect(page.get_by_text(shown).first).to_be_visible(timeout=60_000)
        for scope, assets in LINEAGE.items():
            page.goto(f"{cluster.services.url}/assets/promoted_models?view=lineage&lineageScope={scope}&lineageDepth=9")
            for asset in assets:
                expect(page.get_by_text(asset, exact=True).first).to_be_visible(timeout=60_000)
        browser.close()


def decided(cluster: LiveCluster, words: str) -> list[Any]:
    """The materialisations of the promoted models of JUDGED that say this."""
    return told(cluster, "promoted_models", "assetMaterializations", "partition", words, partition=JUDGED)


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
