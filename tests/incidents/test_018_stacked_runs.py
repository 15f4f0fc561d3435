"""Cron started a synchronisation every few minutes whether or not the last had ended: more than 25 ran at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ringrift_dagster.manifest.inventory import CHUNK_SIZE, ItemType
from ringrift_dagster.transfer.model import PullState
from tests.agents import running_agent
from tests.node.orders import follow, give_model, item, looked, order, served, submit

RUNS = 25


def test_overlapping_runs_want_the_same_and_it_comes_once(tmp_path: Path) -> None:
    paths = [give_model(tmp_path / "a", f"m{number}_hex8_2p.onnx", number * CHUNK_SIZE + 70_000, number) for number in range(4)]
    (tmp_path / "b").mkdir()
    with running_agent(tmp_path / "a", "gpu-1", "--uplink", "40") as source, running_agent(tmp_path / "b", "gpu-2") as target:
        looked([source])
        items = [item(path, ItemType.MODEL, source) for path in paths]
        runs = [order(*items[run % 4 :], *items[: run % 4]) for run in range(RUNS)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda run: submit(target, run), runs))
        assert {follow(target, run.id).state for run in runs} == {PullState.DONE}
        assert served(source) <= sum(path.stat().st_size for path in paths) + 4 * 40  # heads of bundles
        assert sorted(path.name for path in (tmp_path / "b/models").iterdir()) == sorted(path.name for path in paths)
