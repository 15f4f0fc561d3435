"""Under backpressure a run leaves LOW and COLD_STORAGE where they are, and nothing else; with real agents."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringrift_dagster.transfer.deferral import activate, release
from ringrift_dagster.transfer.model import Priority
from ringrift_dagster.transfer.operations import State
from tests.transfer.field import Field, noise, running_field

pytestmark = pytest.mark.xdist_group("coordinator")


@pytest.fixture
def field(tmp_path: Path) -> Iterator[Field]:
    with running_field(tmp_path, {"n1": "", "n2": ""}) as running:
        yield running


def test_what_is_urgent_goes_on_and_the_rest_follows_when_the_pressure_is_gone(field: Field) -> None:
    hashes = {each: field.put("n1", noise(2_000, each), f"models/p{int(each)}_hex8_2p.onnx") for each in Priority}
    field.refresh()
    submitted = {priority: field.submit(sha256, "n2", priority, size=2_000) for priority, sha256 in hashes.items()}
    assert activate(field.plane.store, "n1", reason="its disk", at=time.time() - 3000).active
    assert len(field.run("n2").done) == 3
    states = {priority: field.get(operation).state for priority, operation in submitted.items()}
    waiting = {priority for priority, state in states.items() if state == State.QUEUED}
    assert waiting == {Priority.LOW, Priority.COLD_STORAGE}
    assert {state for priority, state in states.items() if priority not in waiting} == {State.DONE}

    assert not release(field.plane.store, "n1", at=time.time()).active
    assert len(field.run("n2").done) == 2
