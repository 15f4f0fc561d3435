"""A publish that nobody awaited pinned a CPU, and events published before a process ended were lost."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from ringrift_dagster.cli.services import free_port
from ringrift_dagster.events import inbox
from ringrift_dagster.home import Home
from ringrift_dagster.manifest.store import Store, default_url
from tests.agents import running_agent

WATCHED_SECONDS = 3.0
ENDS_AT_ONCE = "import os; from ringrift_dagster.events.client import emit; emit('HOST_ONLINE', {'host': 'a'}); os._exit(0)"


def cpu_seconds(process: int) -> float:
    """What a process has used so far, all threads together."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def idle_share(process: int) -> float:
    """The share of a CPU that a process uses while nobody asks it for anything."""
    before, started = cpu_seconds(process), time.monotonic()
    while time.monotonic() < started + WATCHED_SECONDS:
        time.sleep(0.1)
    return (cpu_seconds(process) - before) / (time.monotonic() - started)


def test_events_for_a_coordinator_that_is_gone_wait_quietly_and_arrive(tmp_path: Path) -> None:
    home, port = Home(tmp_path / "home"), free_port()
    home.root.mkdir()
    (tmp_path / "gpu").mkdir()
    with running_agent(tmp_path / "gpu", "gpu-1", "--coordinator", f"http://127.0.0.1:{port}") as gpu:
        environment = {**os.environ, "RINGRIFT_AGENT_URL": gpu.url}
        for _ in range(5):
            subprocess.run([sys.executable, "-c", ENDS_AT_ONCE], env=environment, check=True, timeout=60)
        assert idle_share(gpu.process.pid) < 0.5, "an agent that can do nothing but wait is busy"
        with (
            running_agent(tmp_path / "tree", "coordinator", "--home", str(home.root), port=port),
            Store.open(default_url(home)) as store,
        ):
            found: list[inbox.Told] = []
            while len(found) < 5:
                new = inbox.read(store, found[-1].number if found else 0, wait=120)
                assert new, "events were lost"
                found += new
            assert [each.event.sequence for each in found] == [1, 2, 3, 4, 5]


def test_an_agent_with_nothing_to_tell_is_idle(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.root.mkdir()
    with running_agent(tmp_path / "tree", "coordinator", "--home", str(home.root)) as agent:
        with Store.open(default_url(home)) as store:
            assert inbox.read(store, 0, wait=2.0) == []
        assert idle_share(agent.process.pid) < 0.5
