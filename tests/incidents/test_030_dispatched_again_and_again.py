"""The same job was dispatched three to eight times to a host, and carried out as often."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ringrift_dagster.manifest.inventory import CHUNK_SIZE, ItemType
from ringrift_dagster.transfer.model import PullState
from tests.agents import running_agent
from tests.node.orders import ask, follow, give_model, item, looked, order, served, standing, submit

TIMES = 8


def test_the_same_order_many_times_has_one_effect(tmp_path: Path) -> None:
    path = give_model(tmp_path / "a", "m_hex8_2p.onnx", 4 * CHUNK_SIZE)
    (tmp_path / "b").mkdir()
    with running_agent(tmp_path / "a", "gpu-1", "--uplink", "40") as source:
        looked([source])
        given = order(item(path, ItemType.MODEL, source), id="the-order")
        with running_agent(tmp_path / "b", "gpu-2") as target:
            with ThreadPoolExecutor(TIMES) as pool:
                answers = list(pool.map(lambda _: submit(target, given), range(TIMES)))
            assert {(answer.id, answer.received_at) for answer in answers} == {("the-order", answers[0].received_at)}
            done = follow(target, given.id)
            assert done.state == PullState.DONE
            assert submit(target, given) == done
            assert len(ask(target, "/v1/pulls").json()["pulls"]) == 1
        with running_agent(tmp_path / "b", "gpu-2") as again:
            assert submit(again, given) == standing(again, given.id) == done
        assert served(source) == path.stat().st_size
