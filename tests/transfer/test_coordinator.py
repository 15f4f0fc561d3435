"""The coordinator with real agents: what is leased, posted, followed and recorded, and what is left when anybody dies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ringrift_dagster.transfer.model import Priority
from ringrift_dagster.transfer.operations import State
from tests.transfer.field import MB, Field, noise, running_field

pytestmark = pytest.mark.xdist_group("coordinator")


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    root = tmp_path_factory.mktemp("field")
    with running_field(root, {"n1": "", "n2": "", "n3": ""}) as running:
        yield running


def test_an_item_comes_verified_and_is_known_at_once(field: Field) -> None:
    sha256 = field.put("n1", noise(6 * MB, 1))
    field.refresh()
    operation = field.submit(sha256, "n2", Priority.HIGH, size=6 * MB)
    report = field.run("n2")
    (row,) = report.rows
    assert (row.state, row.item, row.transport, row.source, row.bytes) == (State.DONE, sha256, "http", "n1", 6 * MB)
    assert row.mb_per_second and row.config == "hex8_2p" and row.type == "MODEL"
    assert field.copies(sha256) == {"n1/models/nnue_hex8_2p.onnx": "AVAILABLE", f"n2/models/hex8_2p_{sha256[:12]}.onnx": "AVAILABLE"}
    assert sha256 in field.held("n2").values()
    assert field.get(operation).state == State.DONE and field.agrees()
    field.refresh()
    assert field.copies(sha256)[f"n2/models/hex8_2p_{sha256[:12]}.onnx"] == "AVAILABLE"
