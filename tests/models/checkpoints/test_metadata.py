"""Whatever a file's metadata are, the description of the file can be encoded and printed; or the file is refused."""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from ringrift_dagster.models.checkpoints.content import Content, Tensor
from ringrift_dagster.models.checkpoints.description import METADATA_NAME, Checkpoint, describe, read_checkpoint
from ringrift_dagster.models.checkpoints.metadata import MAX_DEPTH, MAX_TEXT, MAX_TOTAL_TEXT, MAX_VALUES, plain_metadata
from ringrift_dagster.models.checkpoints.refusals import CheckpointRefused
from tests.models.checkpoints.files import archive, storage, tensor, text

TENSORS = {"a.weight": Tensor("float32", (1,))}
TEXTS = st.text(st.characters(exclude_categories=()), max_size=8)
NUMBERS = st.integers() | st.floats() | st.sampled_from([1 << 63, -(1 << 63) - 1, 1 << 64, 1 << 127])
TEXT_NAMES = ("model_class", "architecture_version", "created_at", "board_type", "training_data_sha256")
NUMBER_NAMES = ("num_players", "in_channels", "num_filters", "feature_version")
NAMES = st.sampled_from((*TEXT_NAMES, *NUMBER_NAMES, "config", "training_info", METADATA_NAME))
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES | TEXTS, inner, max_size=4),
    max_leaves=6,
)
CHECKPOINTS = TypeAdapter(Checkpoint)


def nested(depth: int) -> Any:
    return [nested(depth - 1)] if depth else 1


def described(metadata: dict[str, Any]) -> Checkpoint:
    return describe(Content("safetensors", TENSORS, metadata), "ab" * 32, 1)


@settings(max_examples=40)
@given(metadata=st.dictionaries(NAMES | TEXTS, VALUES, max_size=8), as_json=st.booleans())
@example(metadata={"model_class": "\ud800"}, as_json=True)
@example(metadata={"training_info": {"best": float("inf"), "\udfff": 1 << 64}}, as_json=True)
@example(metadata={"config": nested(MAX_DEPTH - 1)}, as_json=True)
def test_every_description_can_be_encoded_by_orjson_and_pydantic_and_printed(metadata: dict[str, Any], as_json: bool) -> None:
    try:
        checkpoint = described({METADATA_NAME: json.dumps(metadata)} if as_json else metadata)
    except CheckpointRefused as refused:
        assert METADATA_NAME in metadata  # JSON in it may be none
        assert refused.reason == "corrupt_header"
        return
    content = checkpoint.to_dict()
    assert orjson.loads(orjson.dumps(content)) == content
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert json.loads(CHECKPOINTS.dump_json(CHECKPOINTS.validate_python(content))) == content
    texts = (getattr(checkpoint, field.name) for field in fields(checkpoint) if field.name != "metadata")
    assert all(value.isprintable() for value in texts if isinstance(value, str))


def test_plain_values_stay_as_they_are() -> None:
    values = {
        "text": "Ł\n",
        "numbers": [0, -(1 << 63), (1 << 63) - 1, 0.5],
        "nothing": None,
        "flag": True,
        "deep": nested(MAX_DEPTH - 1),
    }
    assert plain_metadata(values) == values


def test_what_json_cannot_hold_is_replaced() -> None:
    values = {"a": float("nan"), "b": float("-inf"), "c": 1 << 63, "d": "x\ud800y", "e": (1, 2), "f": b"raw", 7: "seven"}
    assert plain_metadata(values) == {"a": None, "b": None, "c": None, "d": "x?y", "e": [1, 2], "f": "(bytes)", "7": "seven"}


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({"a": nested(MAX_DEPTH)}, "too_deep"),
        ({"a": [0] * MAX_VALUES}, "too_large"),
        ({"a": ["v" * MAX_TEXT] * (MAX_TOTAL_TEXT // MAX_TEXT)}, "too_large"),
    ],
    ids=["depth", "number", "text"],
)
def test_more_than_the_bounds_is_refused(metadata: dict[str, Any], reason: str) -> None:
    with pytest.raises(CheckpointRefused) as refused:
        plain_metadata(metadata)
    assert refused.value.reason == reason


def safetensors_file(header: str) -> bytes:
    raw = header.encode()
    return struct.pack("<Q", len(raw)) + raw + b"x"


def with_json(metadata: str) -> bytes:
    """A safetensors file with one tensor, and with metadata as they are given."""
    entry = {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}
    return safetensors_file(json.dumps({"__metadata__": {METADATA_NAME: metadata}, "a.weight": entry}))


@pytest.mark.parametrize("depth", [64, 200, 600, 985, 2_000, 20_000])
def test_deep_metadata_of_a_safetensors_file_are_refused(depth: int, tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(with_json('{"a":' + "[" * depth + "]" * depth + "}"))
    with pytest.raises(CheckpointRefused, match=r"^too_deep: "):
        read_checkpoint(path)


@pytest.mark.parametrize("depth", [1, 300, 600, 900, 960, 990, 1_500])
def test_a_deep_tensor_of_a_safetensors_file_is_refused(depth: int, tmp_path: Path) -> None:
    path = tmp_path / "model"
    for content in ("[" * depth + "]" * depth, '{"dtype":"U8","shape":[1],"data_offsets":' + "[" * depth + "]" * depth + "}"):
        path.write_bytes(safetensors_file('{"a.weight":' + content + "}"))
        with pytest.raises(CheckpointRefused, match=r"^(too_deep|corrupt_header): "):
            read_checkpoint(path)


def test_metadata_of_a_torch_file_can_be_encoded(tmp_path: Path) -> None:
    path = tmp_path / "model"
    entries = text("model_class") + b"X\3\0\0\0\xed\xa0\x80" + text("num_players") + b"G" + struct.pack(">d", float("nan"))
    weights = text("model_state_dict") + b"}" + text("a.weight") + tensor(storage()) + b"ss"
    path.write_bytes(archive(b"\x80\x02}" + weights + text("_versioning_metadata") + b"}(" + entries + b"us."))
    checkpoint = read_checkpoint(path)
    assert orjson.loads(orjson.dumps(asdict(checkpoint)))["metadata"] == {"model_class": "?", "num_players": None}


def test_texts_have_no_control_characters() -> None:
    checkpoint = described(
        {"model_class": "\x1b]0;x\x07Net\x1b[2J", "architecture_version": "v1\n\u202e\x9b", "created_at": "2026 é"}
    )
    assert checkpoint.architecture == "\ufffd]0;x\ufffdNet\ufffd[2J"
    assert checkpoint.architecture_version == "v1\ufffd\ufffd\ufffd"
    assert checkpoint.created_at == "2026 é"
