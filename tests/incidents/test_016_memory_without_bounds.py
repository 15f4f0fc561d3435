"""A hundred transfers at once, and files read whole into memory, took coordinators and hosts down."""

from __future__ import annotations

from pathlib import Path

from ringrift_dagster.manifest.inventory import CHUNK_SIZE, ItemType
from ringrift_dagster.transfer.model import PullState
from tests.agents import RunningAgent, running_agent
from tests.node.orders import follow, give_model, item, looked, order, submit

LARGE, SMALL = 12, 300
MANY_CHUNKS = 4
ALLOWED = 192 << 20
"""Bytes of memory beyond what an agent has that does nothing: far less than what is moved."""


def most_memory(agent: RunningAgent) -> int:
    """Bytes that the process had at once, at most."""
    status = Path(f"/proc/{agent.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


def threads(agent: RunningAgent) -> int:
    return len(list(Path(f"/proc/{agent.process.pid}/task").iterdir()))


def test_many_and_large_files_take_bounded_memory_and_few_at_a_time(tmp_path: Path) -> None:
    large = [give_model(tmp_path / "a", f"large{n:02d}_hex8_2p.onnx", MANY_CHUNKS * CHUNK_SIZE, n) for n in range(LARGE)]
    large.append(give_model(tmp_path / "a", "largest_hex8_2p.onnx", 0))
    with large[-1].open("r+b") as file:
        file.truncate(100 * CHUNK_SIZE)
    small = [give_model(tmp_path / "a", f"small{n:03d}_hex8_2p.onnx", 50_000 + n, LARGE + n) for n in range(SMALL)]
    (tmp_path / "b").mkdir()
    with running_agent(tmp_path / "a", "gpu-1") as source, running_agent(tmp_path / "b", "gpu-2") as target:
        looked([source, target])
        before = {agent.name: most_memory(agent) for agent in (source, target)}
        given = [order(*(item(path, ItemType.MODEL, source) for path in paths)) for paths in (large, small)]
        for each in given:
            submit(target, each)
        running, at_once = [], []

        def over() -> bool:
            told = follow(target, given[0].id, lambda told: True)
            running.append(sum(each.state == PullState.RUNNING for each in told.items))
            at_once.append(threads(target))
            return told.state in (PullState.DONE, PullState.FAILED)

        follow(target, given[0].id, lambda _: over())
        assert [follow(target, each.id).state for each in given] == [PullState.DONE] * 2
        grown = {agent.name: most_memory(agent) - before[agent.name] for agent in (source, target)}
    assert max(running) <= 4
    assert max(at_once) < 100
    assert max(grown.values()) < ALLOWED < sum(path.stat().st_size for path in large) / 2, grown
