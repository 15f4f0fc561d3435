"""The model manifest: the latest promotion counts, whatever arrives in which order, and a host's agent keeps it."""

from __future__ import annotations

import time
from pathlib import Path

import orjson
import pytest
import urllib3
from hypothesis import given
from hypothesis import strategies as st

from ringrift_dagster.events.ids import new_id
from ringrift_dagster.events.model import Event, EventType, ModelPromoted
from ringrift_dagster.models.manifest import PATH, Current, note, read
from tests.agents import running_agent


def current(at: float, content: str = "a") -> Current:
    return Current(sha256=content * 64, promoted_at=at, file=f"hex8_2p_{content * 12}.pth")


def test_what_was_noted_is_read(tmp_path: Path) -> None:
    assert read(tmp_path).models == {}
    assert note(tmp_path, "hex8_2p", current(5.0))
    assert not note(tmp_path, "hex8_2p", current(5.0))
    assert note(tmp_path, "square8_2p", current(6.0, "b"))
    assert {config: each.sha256[0] for config, each in read(tmp_path).models.items()} == {"hex8_2p": "a", "square8_2p": "b"}


@given(st.permutations([1.0, 2.0, 3.0, 4.0]))
def test_the_latest_counts_in_whatever_order_they_are_told(tmp_path_factory: pytest.TempPathFactory, times: list[float]) -> None:
    root = tmp_path_factory.mktemp("host")
    for at in times:
        note(root, "hex8_2p", current(at, "abcd"[int(at) - 1]))
    assert read(root).models["hex8_2p"].sha256 == "d" * 64


def test_a_broken_file_is_an_empty_one_and_is_replaced(tmp_path: Path) -> None:
    (tmp_path / PATH).parent.mkdir()
    (tmp_path / PATH).write_text("{")
    assert read(tmp_path).models == {}
    assert note(tmp_path, "hex8_2p", current(1.0))
    assert read(tmp_path).models["hex8_2p"] == current(1.0)


def test_an_agent_that_is_told_of_a_promotion_keeps_it(tmp_path: Path) -> None:
    (tmp_path / "gpu-1").mkdir()
    payload = ModelPromoted(config="hex8_2p", host="gpu-2", sha256="a" * 64, path="hex8_2p_aaaaaaaaaaaa.pth", elo=1712.5)
    event = Event(id=new_id(), type=EventType.MODEL_PROMOTED, host="home", at=time.time(), payload=payload)
    broken = {"id": new_id(), "type": "MODEL_PROMOTED", "payload": {"config": "../../etc"}}
    with running_agent(tmp_path / "gpu-1", "gpu-1") as agent:
        body = orjson.dumps({"host": "gpu-1", "events": [orjson.loads(event.dump()), broken]})
        answer = urllib3.request("POST", f"{agent.url}/v1/deliveries", body=body)
    assert answer.status == 200
    ((config, kept),) = read(tmp_path / "gpu-1").models.items()
    assert (config, kept.sha256, kept.elo, kept.file) == ("hex8_2p", "a" * 64, 1712.5, "hex8_2p_aaaaaaaaaaaa.pth")
