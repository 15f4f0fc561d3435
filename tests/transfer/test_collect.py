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
import sqlalchemy as sa

from ringrift_dagster.cluster.hosts import load_hosts
from ringrift_dagster.cluster.topology import Place
from ringrift_dagster.games.database import describe
from ringrift_dagster.home import Home
from ringrift_dagster.manifest.inventory import FoundItem, ItemType
from ringrift_dagster.manifest.locations import register
from ringrift_dagster.manifest.plane import HOME_LOCATION, Plane, open_plane
from ringrift_dagster.manifest.schema import operations
from ringrift_dagster.manifest.store import Store
from ringrift_dagster.transfer import queue
from ringrift_dagster.transfer.collect import PAUSE_BYTES_A_SECOND, PAUSE_SECONDS, cycle, source_names, wanted
from ringrift_dagster.transfer.coordinator import Coordinator, Report
from ringrift_dagster.transfer.operations import State
from tests.agents import RunningAgent, running_agent
from tests.manifest.telling import item, tell
from tests.transfer.asking import completes, many, noted, plan_of

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


def test_what_came_home_among_a_hundred_thousand_operations_is_found_by_index(store: Store, tmp_path: Path) -> None:
    """It is asked in every refresh: what it costs must not grow with what ended in the last month."""
    (tmp_path / "hosts.yaml").write_text(HOSTS.format(main="http://127.0.0.1:9", gpu="http://127.0.0.1:9"))
    cluster = load_hosts(tmp_path / "hosts.yaml")
    register(store, [Place(HOME_LOCATION, "disk", ""), *cluster.locations()], at=0.0)
    day = 86_400.0
    tell(store, "gpu-1", [game_db(number) for number in range(200)], at=20 * day)
    queue.submit_all(store, many(100_000, HOME_LOCATION, why="snapshot of something"), at=0.0)
    with store.engine.connect() as connection, connection.begin():
        ended = {"state": State.DONE.value, "finished_at": operations.c.id * day / 5000}
        connection.execute(sa.update(operations).values(ended))
        if store.engine.dialect.name == "postgresql":  # it does so by itself, later
            connection.exec_driver_sql("ANALYZE")
    with noted(store) as asked:
        assert len(wanted(store, cluster, at=20 * day)) == 200
    plans = [plan_of(store, query, given) for query, given in asked]
    assert len(plans) == 3
    for plan in plans:
        assert "Seq Scan on operations" not in plan, plan
        assert "SCAN operations" not in plan.replace("SCAN operations USING INDEX ix_operations_open", ""), plan


def game_db(number: int) -> FoundItem:
    return item(f"data/games/{number}.db", f"games {number}", type=ItemType.GAME_DB, games=5)


def test_a_large_source_comes_home_less_often(store: Store, tmp_path: Path) -> None:
    (tmp_path / "hosts.yaml").write_text(HOSTS.format(main="http://127.0.0.1:9", gpu="http://127.0.0.1:9"))
    cluster = load_hosts(tmp_path / "hosts.yaml")
    register(store, [Place(HOME_LOCATION, "disk", ""), *cluster.locations()], at=0.0)
    hour = 3600.0
    first, second = (game_db(number).model_copy(update={"size": int(hour * PAUSE_BYTES_A_SECOND)}) for number in range(2))
    live = {"path": "data/games/live.db"}
    tell(store, "gpu-1", [first.model_copy(update=live)], at=1.0)
    cycle(store, cluster, at=2.0)
    (held,) = queue.lease(store, "run", HOME_LOCATION, at=3.0)
    assert completes(store, held, at=4.0)
    tell(store, "gpu-1", [second.model_copy(update=live)], at=5.0)
    assert wanted(store, cluster, at=hour) == []
    assert [each.sha256 for each in wanted(store, cluster, at=hour + 4.0)] == [second.sha256]


def test_without_a_host_that_has_the_home_nothing_is_asked_for(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.root.mkdir()
    (home.root / "distributed_hosts.yaml").write_text("hosts:\n  gpu-1: {status: ready, ssh_host: 127.0.0.1}\n")
    with open_plane(home) as plane:
        assert wanted(plane.store, plane.cluster, at=time.time()) == []
        assert source_names(plane.store, ["ab" * 32]) == {}
