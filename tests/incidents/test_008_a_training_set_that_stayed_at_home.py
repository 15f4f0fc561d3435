"""Training sets were exported on the coordinator and never reached the workers: each waited for data that existed, or trained on
what it happened to have.

Here a host that says that it needs data is sent the best there is, wherever it lies, and is told once it is there.
"""

from __future__ import annotations

import json
import shutil
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from ringrift_dagster.events.adapters import adapt
from ringrift_dagster.events.inbox import latest, unhandled
from ringrift_dagster.events.model import EventType
from ringrift_dagster.events.outgoing import publish
from ringrift_dagster.games.database import file_sha256
from ringrift_dagster.transfer.operations import State
from ringrift_dagster.transfer.reactions import CONSUMER, REACTED_TO, react
from tests.transfer.field import Field, running_field
from tests.transfer.real_items import NPZ

CONFIG, WORKER, OTHER = "square8_3p", "gpu-1", "gpu-2"
HOSTS = {"main": "is_coordinator: true", WORKER: "role: gpu_training_primary", OTHER: ""}


def test_a_worker_that_needs_data_is_sent_what_lies_on_the_coordinator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    (home / "datasets").mkdir(parents=True)
    shutil.copyfile(NPZ, home / "datasets" / f"{CONFIG}.npz")
    monkeypatch.setenv("RINGRIFT_HOSTS_FILE", str(tmp_path / "hosts.yaml"))
    with running_field(tmp_path, HOSTS, options={"main": ("--home", str(home))}) as field:
        field.refresh()
        sha256 = file_sha256(NPZ)
        assert set(field.copies(sha256)) == {f"home/datasets/{CONFIG}.npz"}

        says(field, "DATA_NEEDED", config_key=CONFIG, node_id=WORKER, min_samples=10)
        report = field.run(WORKER)

        assert [(row.state, row.source) for row in report.rows] == [(State.DONE, "home")]
        (copy,) = (tmp_path / WORKER / "data/training").glob("*.npz")
        assert file_sha256(copy) == sha256
        available = told(field, WORKER, EventType.DATA_AVAILABLE)
        assert (available["sha256"], tmp_path / WORKER / available["path"]) == (sha256, copy)
        assert not list((tmp_path / OTHER).glob("data/**/*.npz"))


def test_when_nothing_fits_self_play_is_asked_for(tmp_path: Path) -> None:
    with running_field(tmp_path, HOSTS) as field:
        says(field, "DATA_NEEDED", config_key=CONFIG, node_id=WORKER, min_samples=10)
        assert [event.event.type for event in latest(field.plane.store, 1)] == [EventType.SELFPLAY_NEEDED]


def says(field: Field, type: str, **fields: object) -> None:
    """A worker's event, and what follows."""
    event = adapt({"type": type, **fields}, host=WORKER, at=time.time())
    with field.plane.store.writing() as writer:
        publish(writer, event.type, event.payload, at=time.time())
    (told,) = unhandled(field.plane.store, CONSUMER, REACTED_TO)
    assert react(field.plane, told, at=time.time()) is not None


def told(field: Field, host: str, type: EventType) -> dict[str, Any]:
    """What the coordinator's agent tells a host, once it does."""
    last, deadline = 0, time.monotonic() + 60
    while time.monotonic() < deadline:
        with urllib.request.urlopen(f"{field.agents[host].url}/v1/events?after={last}&wait=10", timeout=30) as answer:
            news = json.load(answer)
        last = news["last"]
        for each in news["events"]:
            if each["event"]["type"] == type:
                return each["event"]["payload"]
    raise AssertionError(f"{host} was not told {type}")
