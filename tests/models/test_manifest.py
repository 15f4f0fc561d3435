"""The model manifest: the latest promotion counts, whatever arrives in which order, and a host's agent keeps it."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import orjson
import pytest
import urllib3
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ringrift_dagster.events.ids import new_id
from ringrift_dagster.events.model import Event, EventType, ModelPromoted
from ringrift_dagster.models.manifest import PATH, Current, ModelManifest, json_schema, note, read
from tests.agents import running_agent

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "docs" / "model_manifest.schema.json"
OLD = """{"version": 1, "models": {"hex8_2p": {"sha256": "%s", "promoted_at": 5.0, "file": "a.pth", "elo": 1712.5}}}"""
"""A file as it was written before there were more fields."""


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


def test_files_from_before_there_were_more_fields_are_read(tmp_path: Path) -> None:
    (tmp_path / PATH).parent.mkdir()
    (tmp_path / PATH).write_text(OLD % ("a" * 64))
    assert read(tmp_path).models == {"hex8_2p": Current(sha256="a" * 64, promoted_at=5.0, file="a.pth", elo=1712.5)}


def test_fields_of_a_later_version_are_ignored() -> None:
    text = OLD.replace('"elo"', '"colour": "red", "elo"') % ("a" * 64)
    assert ModelManifest.model_validate_json(text) == ModelManifest.model_validate_json(OLD % ("a" * 64))


def test_what_is_said_again_with_less_takes_nothing_away(tmp_path: Path) -> None:
    full = current(5.0).model_copy(update={"encoder": "hex_v3", "decision": "17", "files": ("canonical_hex8_2p.pth",)})
    assert note(tmp_path, "hex8_2p", full)
    assert not note(tmp_path, "hex8_2p", current(5.0))
    assert note(tmp_path, "hex8_2p", current(5.0).model_copy(update={"elo": 1700.0}))
    assert read(tmp_path).models["hex8_2p"] == full.model_copy(update={"elo": 1700.0})


def test_many_who_note_at_once_lose_nothing(tmp_path: Path) -> None:
    configs = ["hex8_2p", "hex8_3p", "hex8_4p", "square8_2p", "square8_3p", "square8_4p"]
    start = threading.Barrier(len(configs))

    def run(config: str) -> None:
        start.wait()
        for at in range(5):
            note(tmp_path, config, current(float(at)))

    threads = [threading.Thread(target=run, args=(config,)) for config in configs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {config: entry.promoted_at for config, entry in read(tmp_path).models.items()} == dict.fromkeys(configs, 4.0)


def test_the_schema_in_docs_is_that_of_the_code() -> None:
    command = (
        "python -c 'import sys; from ringrift_dagster.models.manifest import json_schema; sys.stdout.buffer.write(json_schema())'"
    )
    assert SCHEMA.read_bytes() == json_schema(), f"run: {command} > docs/model_manifest.schema.json"


def test_the_schema_has_the_fields_and_bounds_of_a_file(tmp_path: Path) -> None:
    schema = orjson.loads(SCHEMA.read_bytes())
    entry = schema["$defs"]["Current"]
    full = Current(
        sha256="a" * 64,
        promoted_at=5.0,
        file="a.pth",
        elo=1500.0,
        model="a",
        bytes=1,
        architecture="CNN",
        architecture_version="v2",
        encoder="square_v2",
        in_channels=56,
        policy_size=7000,
        training_data_sha256="b" * 64,
        decision="1",
        games=480,
        files=("canonical_square8_2p.pth",),
    )
    note(tmp_path, "square8_2p", full)
    written = orjson.loads((tmp_path / PATH).read_bytes())
    assert set(written) == set(schema["properties"])
    assert set(written["models"]["square8_2p"]) == set(entry["properties"])
    assert entry["required"] == ["sha256", "promoted_at"]
    assert len(schema["properties"]["models"]["propertyNames"]["enum"]) == 12
    assert entry["properties"]["sha256"]["pattern"] == "^[0-9a-f]{64}$"


@pytest.mark.parametrize(
    "field", [{"sha256": "A" * 64}, {"promoted_at": float("nan")}, {"files": ["../x"]}, {"bytes": -1}, {"elo": 1e9}]
)
def test_values_out_of_bounds_make_no_manifest(field: dict[str, object]) -> None:
    values = {"sha256": "a" * 64, "promoted_at": 5.0, **field}
    with pytest.raises(ValidationError):
        ModelManifest.model_validate({"models": {"hex8_2p": values}})
    with pytest.raises(ValidationError):
        ModelManifest.model_validate({"models": {"hex9_2p": {"sha256": "a" * 64, "promoted_at": 5.0}}})
