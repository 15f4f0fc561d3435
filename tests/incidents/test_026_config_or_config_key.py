"""`config` here and `config_key` there: training completions and evaluations were dropped, and what nobody knew was ignored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import urllib3

from ringrift_dagster.events import inbox
from ringrift_dagster.home import Home
from ringrift_dagster.manifest.store import Store, default_url
from tests.agents import running_agent

SPELT: list[dict[str, Any]] = [
    {"config": "hex8_2p"},
    {"config_key": "hex8_2p"},
    {"board_type": "hex8", "num_players": 2},
    {"config": "hex8_2p", "config_key": "hex8_2p", "board_type": "hex8", "num_players": 2},
    {"metadata": {"config_key": "hex8_2p"}},
]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def test_every_spelling_reaches_its_reader_and_nothing_is_silently_dropped(tmp_path: Path, home: Home) -> None:
    told: list[Any] = [{"type": "TRAINING_COMPLETED", "payload": payload} for payload in SPELT]
    told += [
        {"type": "TRAINING_COMPLETED", "payload": {"cfg": "hex8_2p"}},
        {"type": "TRAINING_COMPLETED", "payload": {"config": "hex8_2p", "config_key": "hex8_4p"}},
        {"type": "EVALUATION_DONE_BY_NEW_CODE", "payload": {"config": "hex8_2p"}},
    ]
    home.root.mkdir()
    with running_agent(tmp_path / "tree", "gpu-1", "--home", str(home.root)) as agent, Store.open(default_url(home)) as store:
        answer = urllib3.request("POST", f"{agent.url}/v1/events", body=json.dumps(told).encode(), timeout=60)
        assert (answer.status, answer.json()["accepted"]) == (202, len(SPELT))
        assert [each["reason"] for each in answer.json()["dead"]] == ["missing_config", "contradiction", "unknown_type"]
        found: list[inbox.Told] = []
        while len(found) < len(SPELT):
            new = inbox.read(store, found[-1].number if found else 0, wait=60)
            assert new, "nothing comes any more"
            found += new
        assert {each.event.payload.model_dump()["config"] for each in found} == {"hex8_2p"}
        letters = inbox.dead(store)
        assert [letter.reason for letter in letters] == ["unknown_type", "contradiction", "missing_config"]
        assert [json.loads(letter.raw) for letter in reversed(letters)] == told[len(SPELT) :], (
            "what was told is kept as it was told"
        )
