"""A real daemon and webserver, once: new games start a run by themselves, and a browser shows the rejected one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect, sync_playwright

from ringrift_dagster.cli.dagster_home import held
from ringrift_dagster.cli.demo_games import PLAYED
from ringrift_dagster.cli.demo_models import CURRENT_NAME, torch_is_installed
from ringrift_dagster.cli.services import Services, free_port, stopped_by_signals
from ringrift_dagster.home import Home

pytestmark = [pytest.mark.live, pytest.mark.xdist_group("live")]

SECONDS = 150
NPZ = Path(__file__).parents[1] / "data" / "damaged" / "base_ok.npz"
CHROMIUM = [
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
]  # fmt: skip
RUNS = "{ runsOrError { ... on Runs { results { status jobName tags { key value } } } } }"

OBSERVATIONS = """{ assetOrError(assetKey: {path: ["data_manifest"]}) { ... on Asset {
  assetObservations(limit: 100) { metadataEntries { label ... on MarkdownMetadataEntry { mdStr } } } } } }"""
MATERIALIZATIONS = """{ assetOrError(assetKey: {path: ["data_manifest"]}) { ... on Asset {
  assetMaterializations(limit: 10) { runId } } } }"""

SMALL_DEMO = """
from ringrift_dagster.cli import demo_cluster, demo_games, demo_models, main
floors = "{2p: 1.0e-9, 3p: 1.0e-9, 4p: 1.0e-9}"
demo_cluster.PROMOTION = (
    "{player: 'mcts:12', min_blocks: 10, max_blocks: 10, floor_blocks: 10, "
    "random_floor: %s, heuristic_floor: %s}" % (floors, floors)
)
demo_games.TRAINING_GAMES = {"heuristic,random": 150}
demo_models.CANDIDATES = (demo_models.DemoCandidate("a candidate", ("--epochs", "3", "--num-filters", "16")),)
raise SystemExit(main.main())
"""


@pytest.fixture(scope="module")
def dagster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Home, Services]]:
    """Dagster on an empty home."""
    home = Home(tmp_path_factory.mktemp("live"))
    before = {name: os.environ.get(name) for name in ("RINGRIFT_DATA_HOME", "DAGSTER_HOME")}
    os.environ["RINGRIFT_DATA_HOME"] = str(home.root)
    try:
        with (
            stopped_by_signals(),
            held(home.root / "dagster"),
            Services(home.root / "dagster", free_port()) as services,
        ):
            services.start_daemon()
            services.wait_until_ready()
            yield home, services
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture(scope="module")
def first_run(dagster: tuple[Home, Services], sample: Callable[[str], Path]) -> dict[str, Any]:
    """Put a database where self-play would, and wait for the run that Dagster starts because of it."""
    home, services = dagster
    home.selfplay.mkdir()
    part = home.selfplay / "winner_flipped.part"
    shutil.copyfile(sample("damaged/winner_flipped"), part)
    part.rename(home.selfplay / "winner_flipped.db")
    (run,) = eventually(lambda: finished(services))
    return run


def test_new_games_start_a_run_by_themselves(dagster: tuple[Home, Services], first_run: dict[str, Any]) -> None:
    assert first_run["status"] == "SUCCESS"
    assert {"key": "dagster/partition", "value": "square8_2p"} in first_run["tags"]
    assert {"key": "dagster/sensor_name", "value": "new_selfplay_sensor"} in first_run["tags"]
    assert (dagster[0].datasets / "square8_2p.npz").exists()


@pytest.mark.usefixtures("first_run")
def test_a_browser_shows_the_rejected_game_and_why(dagster: tuple[Home, Services]) -> None:
    _, services = dagster
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=CHROMIUM)
        page = browser.new_page(viewport={"width": 1500, "height": 1000})
        page.set_default_timeout(60_000)
        page.goto(f"{services.url}/assets/canonical_games?view=checks&checkDetail=no_rejections")
        expect(page.get_by_text("rejected: 1 result_mismatch").first).to_be_visible(timeout=60_000)
        page.goto(f"{services.url}/assets/canonical_games?view=partitions&partition=square8_2p")
        expect(page.get_by_text("result_mismatch").first).to_be_visible(timeout=60_000)
        browser.close()


def test_a_new_training_set_is_in_the_manifest_by_itself(dagster: tuple[Home, Services]) -> None:
    home, services = dagster
    eventually(lambda: ask(services, MATERIALIZATIONS)["assetOrError"].get("assetMaterializations", []))
    home.datasets.mkdir(exist_ok=True)
    part = home.datasets / "square8_3p.part"
    shutil.copyfile(NPZ, part)
    part.rename(home.datasets / "square8_3p.npz")

    assert eventually(lambda: observed(services, "datasets/square8_3p.npz"))


@pytest.mark.timeout(1800)
def test_the_demo_does_what_it_says_and_leaves_nothing_running(tmp_path: Path) -> None:
    """Where torch is installed the demo trains models too: one tiny one here, and floors that are next to nothing."""
    full = ["--full"] if torch_is_installed() else []
    command = [sys.executable, "-c", SMALL_DEMO, "demo", "--once", *full, "--home", str(tmp_path), "--port", str(free_port())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1700, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for shown in ("1 result_mismatch", "/asset-groups/", *(f"gpu-1 played {config}" for config in PLAYED)):
        assert shown in done.stdout
    assert "overrid" not in done.stdout
    assert sorted(path.stem for path in Home(tmp_path).datasets.glob("*.npz")) == sorted(PLAYED)
    assert "FAILED" not in done.stdout
    if full:
        for step in ("is promoted", f"models/{CURRENT_NAME} of coordinator, gpu-1, gpu-2"):
            assert step in done.stdout
    assert done.stdout.count(" s  decided ") == (1 if full else 0)
    assert not [line for line in commands() if str(tmp_path) in line]


def finished(services: Services) -> list[dict[str, Any]]:
    """The runs of the pipeline that have ended."""
    runs = ask(services, RUNS)["runsOrError"]["results"]
    return [run for run in runs if run["jobName"] == "training_data_job" and run["status"] in ("SUCCESS", "FAILURE", "CANCELED")]


def observed(services: Services, path: str) -> list[dict[str, Any]]:
    """The observations of `data_manifest` that tell of a path."""
    found = ask(services, OBSERVATIONS)["assetOrError"].get("assetObservations", [])
    return [one for one in found if any(path in entry.get("mdStr", "") for entry in one["metadataEntries"])]


def ask(services: Services, query: str) -> dict[str, Any]:
    """The answer to a GraphQL query."""
    services.check()
    request = urllib.request.Request(
        f"{services.url}/graphql", json.dumps({"query": query}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)["data"]


def eventually(look: Callable[[], list[Any]]) -> list[Any]:
    """What `look` sees once it sees anything."""
    deadline = time.monotonic() + SECONDS
    while not (seen := look()):
        assert time.monotonic() < deadline, f"nothing in {SECONDS} s"
        time.sleep(0.3)
    return seen


def commands() -> list[str]:
    """The command lines of all processes."""
    lines = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(process.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue  # it has ended meanwhile
    return lines
