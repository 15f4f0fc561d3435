"""Two daemons were started for one task, and everything was synchronised twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringrift_dagster.manifest.inventory import CHUNK_SIZE, ItemType
from ringrift_dagster.transfer.model import Priority, PullState
from tests.agents import running_agent
from tests.node.orders import follow, give_model, item, looked, order, served, standing, submit


@pytest.mark.parametrize("size", [60_000, 6 * CHUNK_SIZE])
def test_two_orders_for_the_same_move_it_once(tmp_path: Path, size: int) -> None:
    path = give_model(tmp_path / "a", "m_hex8_2p.onnx", size)
    (tmp_path / "b").mkdir()
    with running_agent(tmp_path / "a", "gpu-1", "--uplink", "40") as source, running_agent(tmp_path / "b", "gpu-2") as target:
        looked([source])
        one, other = (order(item(path, ItemType.MODEL, source), priority=priority) for priority in (Priority.LOW, Priority.NORMAL))
        submit(target, one)
        submit(target, other)
        assert [follow(target, each.id).state for each in (one, other)] == [PullState.DONE] * 2
        assert served(source) == size
        moved = [sum(offer.bytes for offer in standing(target, each.id).items[0].offers) for each in (one, other)]
        assert sorted(moved) == [0, size]


def test_two_agents_on_one_tree_move_it_once(tmp_path: Path) -> None:
    """Whoever comes second says that somebody else is at it, and that it is to be ordered again."""
    path = give_model(tmp_path / "a", "m_hex8_2p.onnx", 6 * CHUNK_SIZE)
    (tmp_path / "b").mkdir()
    with (
        running_agent(tmp_path / "a", "gpu-1", "--uplink", "20") as source,
        running_agent(tmp_path / "b", "gpu-2") as first,
        running_agent(tmp_path / "b", "gpu-2", "--state", str(tmp_path / "state")) as second,
    ):
        looked([source])
        given = order(item(path, ItemType.MODEL, source))
        submit(first, given)
        follow(first, given.id, lambda told: told.items[0].bytes_done > 0)
        submit(second, given)
        late = follow(second, given.id).items[0]
        assert (late.state, late.cause, late.detail) == (PullState.FAILED, "timeout", "something else is filling its part")
        assert follow(first, given.id).state == PullState.DONE
        assert served(source) == path.stat().st_size
