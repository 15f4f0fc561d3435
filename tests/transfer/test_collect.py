"""Games come home: every host's databases are merged into sources of the pipeline, with real agents."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from ringrift_dagster.games.database import describe
from ringrift_dagster.home import Home
from ringrift_dagster.manifest.plane import HOME_LOCATION, Plane, open_plane
from ringrift_dagster.transfer.collect import PAUSE_SECONDS, cycle, source_names, wanted
from ringrift_dagster.transfer.coordinator import Coordinator, Report
from tests.agents import RunningAgent, running_agent

HOSTS = """
hosts:
  main: {{status: ready, ssh_host: 127.0.0.1, is_coordinator: true, ringrift_path: /nowhere, data_server_url: "{main}"}}
  gpu-1: {{status: ready, ssh_host: 127.0.0.1, ringrift_path: /nowhere, data_server_url: "{gpu}"}}
"""


@dataclass
class Pair:
    """The coordinator's plane, and a host that plays."""

    plane: Plane
    gpu: RunningAgent

    def games(self) -> dict[str, int]:
        """Games at home by source."""
        self.plane.refresh()
        return {path.name: sum(describe(path).configs.values()) for path in self.plane.home.selfplay.glob("*.db")}

    def carry(self, *, later: float = 0.0) -> Report:
        self.plane.refresh()
        cycle(self.plane.store, self.plane.cluster, at=time.time() + later)
        return Coordinator(self.plane, "test").run(HOME_LOCATION, seconds=60)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    home = Home(tmp_path / "home")
    home.root.mkdir()
    for name in ("main", "gpu-1"):
        (tmp_path / name).mkdir()
    with ExitStack() as stack:
        main = stack.enter_context(running_agent(tmp_path / "main", "main", "--home", str(home.root)))
        gpu = stack.enter_context(running_agent(tmp_path / "gpu-1", "gpu-1"))
        (home.root / "distributed_hosts.yaml").write_text(HOSTS.format(main=main.url, gpu=gpu.url))
        yield Pair(stack.enter_context(open_plane(home)), gpu)


def play(pair: Pair, name: str, recorded: Path) -> Path:
    path = pair.gpu.root / "data/games" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copyfile(recorded, path))


def test_a_host_s_games_come_home_once(pair: Pair, recorded: Callable[[str], Path]) -> None:
    play(pair, "selfplay_square8_2p.db", recorded("canonical_square8_2p_mixed22"))
    report = pair.carry()
    assert [(row.state, row.cause) for row in report.rows] == [("DONE", None)]
    assert pair.games() == {"gpu-1.selfplay_square8_2p.db": 8}
    assert pair.carry().rows == []


def test_a_database_that_grew_adds_what_is_new(pair: Pair, recorded: Callable[[str], Path]) -> None:
    live = play(pair, "selfplay_square8_2p.db", recorded("canonical_square8_2p_mixed22"))
    with closing(sqlite3.connect(live)) as connection:
        (last,) = connection.execute("SELECT game_id FROM games ORDER BY rowid DESC LIMIT 1").fetchone()
        for table in ("game_players", "game_initial_state", "game_moves", "game_state_snapshots", "game_choices", "games"):
            connection.execute(f"DELETE FROM {table} WHERE game_id = ?", (last,))
        connection.commit()
    pair.carry()
    assert pair.games() == {"gpu-1.selfplay_square8_2p.db": 7}
    shutil.copyfile(recorded("canonical_square8_2p_mixed22"), live.with_suffix(".part"))
    live.with_suffix(".part").replace(live)
    assert pair.carry().rows == []  # it was here only just now
    pair.carry(later=PAUSE_SECONDS)
    assert pair.games() == {"gpu-1.selfplay_square8_2p.db": 8}


def test_databases_of_one_name_in_different_places_are_different_sources(pair: Pair, recorded: Callable[[str], Path]) -> None:
    play(pair, "selfplay_square8_2p.db", recorded("canonical_square8_2p_mixed22"))
    play(pair, "staging/selfplay_square8_2p.db", recorded("canonical_square8_2p"))
    pair.carry()
    assert pair.games() == {"gpu-1.selfplay_square8_2p.db": 8, "gpu-1.staging_selfplay_square8_2p.db": 30}


def test_without_a_host_that_has_the_home_nothing_is_asked_for(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.root.mkdir()
    (home.root / "distributed_hosts.yaml").write_text("hosts:\n  gpu-1: {status: ready, ssh_host: 127.0.0.1}\n")
    with open_plane(home) as plane:
        assert wanted(plane.store, plane.cluster, at=time.time()) == []
        assert source_names(plane.store, ["ab" * 32]) == {}
