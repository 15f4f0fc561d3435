"""A real Dagster and two real agents: what is put into the queue arrives by itself, and the browser says how.

Whatever is killed meanwhile (the daemon, the run's process, the agent), nothing is lost and nothing is done twice.
"""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect, sync_playwright

from ringrift_dagster.games.database import file_sha256
from ringrift_dagster.manifest.queries import where
from ringrift_dagster.transfer.model import Priority
from ringrift_dagster.transfer.operations import Kind, State, Wanted
from ringrift_dagster.transfer.queue import get, listed, submit
from tests.live.cluster import LiveCluster, live_cluster
from tests.live.test_live import CHROMIUM, NPZ, ask, eventually

pytestmark = [pytest.mark.live, pytest.mark.xdist_group("live")]

MB = 1 << 20
MATERIALIZATIONS = """{ assetOrError(assetKey: {path: ["host_replicas"]}) { ... on Asset {
  assetMaterializations(limit: 100) { partition metadataEntries { label ... on MarkdownMetadataEntry { mdStr } } } } } }"""
SECTIONS = 'auto_sync: {host_bandwidth_overrides: {"gpu-*": 4}}'


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveCluster]:
    with live_cluster(tmp_path_factory.mktemp("replication"), {"gpu-1": "", "gpu-2": ""}, sections=SECTIONS) as cluster:
        yield cluster


def test_what_is_wanted_arrives_and_the_browser_says_how(running: LiveCluster) -> None:
    path = running.root / "gpu-1/data/training/square8_3p.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(NPZ, path)
    sha256 = file_sha256(NPZ)
    eventually(lambda: running.known(sha256))
    number = wanted(running, sha256, path.stat().st_size, Priority.CRITICAL)

    eventually(lambda: [get(running.store, number)] if get(running.store, number).state == State.DONE else [])

    copies = {copy.location for copy in where(running.store, sha256).reachable}
    assert copies == {"gpu-1", "gpu-2"}
    made = eventually(lambda: _told(running, sha256))
    assert {one["partition"] for one in made} == {"gpu-2"}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=CHROMIUM)
        page = browser.new_page(viewport={"width": 1500, "height": 1000})
        page.set_default_timeout(60_000)
        page.goto(f"{running.services.url}/assets/host_replicas?view=partitions&partition=gpu-2")
        expect(page.get_by_text("by transport").first).to_be_visible(timeout=60_000)
        browser.close()


def test_critical_overtakes_low_and_a_killed_run_and_agent_lose_nothing(running: LiveCluster) -> None:
    slow, urgent = large(running, "slow", 48 * MB), large(running, "urgent", 2 * MB)
    eventually(lambda: running.known(slow) and running.places(urgent))
    low = wanted(running, slow, 48 * MB, Priority.LOW)
    eventually(lambda: [each for each in listed(running.store, states=[State.LEASED]) if each.id == low and each.order_id])
    critical = wanted(running, urgent, 2 * MB, Priority.CRITICAL)
    eventually(lambda: _ended(running, critical))
    assert get(running.store, critical).state == State.DONE
    assert get(running.store, low).finished_at is None

    for pid, command in _processes():
        if "execute_run" in command and str(running.root) in _environment(pid):
            os.kill(pid, signal.SIGKILL)
    running.agents["gpu-2"].kill()
    running.restart_agent("gpu-2")

    eventually(lambda: _ended(running, low))
    ended = get(running.store, low)
    assert (ended.state, ended.cause) == (State.DONE, None)
    (copy,) = [copy for copy in where(running.store, slow).reachable if copy.location == "gpu-2"]
    assert file_sha256(running.root / "gpu-2" / copy.path) == slow
    told = [change for change in _told(running, slow) if change["partition"] == "gpu-2"]
    assert len(told) <= 1


def large(running: LiveCluster, name: str, size: int) -> str:
    """Put a game database of about so many bytes on `gpu-1`; returns its hash."""
    path = running.root / "gpu-1/data/sync_incoming" / f"{name}.part"
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as database:
        database.executescript(
            "CREATE TABLE games (game_id TEXT, board_type TEXT, num_players INTEGER, game_status TEXT);"
            "CREATE TABLE game_moves (game_id TEXT, move_number INTEGER); CREATE TABLE ballast (bytes BLOB);"
            "INSERT INTO games VALUES ('game', 'square8', 2, 'completed');"
            "INSERT INTO game_moves VALUES ('game', 0), ('game', 1), ('game', 2), ('game', 3), ('game', 4);"
        )
        database.executemany("INSERT INTO ballast VALUES (?)", [(os.urandom(MB),) for _ in range(size // MB)])
        database.commit()
    sha256 = file_sha256(path)
    path.rename(path.with_name(f"{sha256}.db"))
    return sha256


def wanted(running: LiveCluster, sha256: str, size: int, priority: Priority) -> int:
    return submit(running.store, Wanted(Kind.PRELOAD, sha256, "gpu-2", priority, size), at=time.time()).id


def _ended(running: LiveCluster, number: int) -> list[Any]:
    found = get(running.store, number)
    return [found] if found.finished_at is not None else []


def _told(running: LiveCluster, sha256: str) -> list[dict[str, Any]]:
    """The materialisations of `host_replicas` that tell of an item."""
    made = ask(running.services, MATERIALIZATIONS)["assetOrError"].get("assetMaterializations", [])
    return [one for one in made if any(sha256[:12] in entry.get("mdStr", "") for entry in one["metadataEntries"])]


def _processes() -> Iterator[tuple[int, str]]:
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield int(process.parent.name), process.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it has ended meanwhile


def _environment(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    except OSError:
        return ""
