"""Files that training wrote are read, and described by what is in them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.numpy
from onnx import TensorProto, helper, numpy_helper

from ringrift_dagster.models.checkpoints.description import Checkpoint, read_checkpoint
from tests.models.checkpoints.files import GOOD, archive, good, storage, tensor, weights

DESCRIBED = {
    "cnn_v2_square8_2p": ("square8_2p", "RingRiftCNN_v2", "v2.0.0", 56, 7000, 16, 2, "square_v2"),
    "cnn_v3_square8_4p": ("square8_4p", "RingRiftCNN_v3", "v3.1.0", 56, 7000, 16, 2, "square_v2"),
    "cnn_v4_square19_2p": ("square19_2p", "RingRiftCNN_v4", "v4.0.0", 56, 67000, 16, 2, "square_v2"),
    "cnn_v5_heavy_square8_2p": ("square8_2p", "RingRiftCNN_v5_Heavy", "v5.1.0", 14, 7000, 16, None, None),
    "hex_v2_hexagonal_2p": ("hexagonal_2p", "HexNeuralNet_v2", "v2.0.0", 40, 91876, 16, 2, "hex_v2"),
    "hex_v3_flat_hex8_2p": ("hex8_2p", "HexNeuralNet_v3_Flat", "v3.1.0-flat", 64, 4500, 16, 2, "hex_v3"),
    "hex_v3_hex8_3p": ("hex8_3p", "HexNeuralNet_v3", "v3.0.0", 64, 4132, 16, 2, "hex_v3"),
    "hex_v4_hex8_2p": ("hex8_2p", "HexNeuralNet_v4", "v4.0.0", 64, 4132, 16, 2, "hex_v3"),
    "legacy_square8_2p": ("square8_2p", "RingRiftCNN_v2", "v2.0.0", 56, 7000, 16, 2, "square_v2"),
    "small_bare": (None, None, None, 3, None, 8, None, None),
    "small_bf16": (None, None, None, 3, None, 8, None, None),
    "small_full": (None, None, None, 3, None, 8, None, None),
}
"""Config, architecture, version, planes, policy size, filters, blocks, encoder."""
PARAMETERS = {"cnn_v2_square8_2p": 53542, "legacy_square8_2p": 53542, "hex_v3_hex8_3p": 24570, "small_full": 459}


def read(content: bytes, tmp_path: Path) -> Checkpoint:
    path = tmp_path / "model"
    path.write_bytes(content)
    return read_checkpoint(path)


def test_every_file_is_described() -> None:
    assert DESCRIBED.keys() == set(GOOD)


@pytest.mark.parametrize("name", GOOD)
def test_a_file_of_torch(name: str, tmp_path: Path) -> None:
    content = good(name)
    read_back = read(content, tmp_path)
    config, architecture, version, planes, policy, filters, blocks, encoder = DESCRIBED[name]
    assert (read_back.config, read_back.architecture, read_back.architecture_version) == (config, architecture, version)
    assert (read_back.in_channels, read_back.policy_size, read_back.filters) == (planes, policy, filters)
    assert (read_back.blocks, read_back.encoder) == (blocks, encoder)
    assert read_back.parameters == PARAMETERS.get(name, read_back.parameters) > 0
    assert (read_back.sha256, read_back.bytes) == (hashlib.sha256(content).hexdigest(), len(content))
    assert read_back.format == ("torch-legacy" if name.startswith("legacy") else "torch-zip")


def test_the_optimizers_tensors_are_not_the_models(tmp_path: Path) -> None:
    assert read(good("cnn_v2_square8_2p"), tmp_path).other_tensors == 108
    assert read(good("small_full"), tmp_path).other_tensors == 27
    assert read(good("small_bare"), tmp_path).other_tensors == 0


def test_metadata_are_plain_values(tmp_path: Path) -> None:
    metadata = read(good("hex_v3_hex8_3p"), tmp_path).metadata
    assert metadata["config"]["movement_idx_shape"] == [48, 9, 9]
    assert json.loads(json.dumps(metadata)) == metadata


@pytest.mark.parametrize(
    ("sizes", "strides", "offset"),
    [((), (), 0), ((0, 3), (3, 1), 4), ((2, 2), (1, 2), 0), ((3,), (1,), 1), ((1, 1), (9, 9), 3)],
    ids=["scalar", "empty", "transposed", "part", "of one"],
)
def test_tensors_as_torch_may_save_them(sizes: tuple[int, ...], strides: tuple[int, ...], offset: int, tmp_path: Path) -> None:
    content = archive(weights(tensor(storage(), sizes, strides, offset)))
    assert read(content, tmp_path).parameters == int(np.prod(sizes, dtype=int))


@pytest.mark.parametrize(("dtype", "elements"), [("uint16", 8), ("uint32", 4), ("uint64", 2)])
def test_types_that_torch_saves_as_untyped_storages(dtype: str, elements: int, tmp_path: Path) -> None:
    stored = storage(elements=16, kind="UntypedStorage").replace(b"ctorch\n", b"ctorch.storage\n")
    typed = tensor(stored, (elements,)).replace(b"_rebuild_tensor_v2", b"_rebuild_tensor_v3")[:-2] + f"ctorch\n{dtype}\ntR".encode()
    assert read(archive(weights(typed)), tmp_path).parameters == elements


METADATA = {"model_class": "Net", "config": {"board_type": "hex8", "num_players": 2}, "training_data_sha256": "ab" * 32}


def test_safetensors(tmp_path: Path) -> None:
    arrays = {"conv1.weight": np.zeros((8, 64, 3, 3), np.float32), "policy_fc1.weight": np.zeros((4500, 5), np.float16)}
    read_back = read(safetensors.numpy.save(arrays, {"ringrift": json.dumps(METADATA)}), tmp_path)
    assert (read_back.format, read_back.tensors, read_back.parameters) == ("safetensors", 2, 8 * 64 * 9 + 4500 * 5)
    assert (read_back.config, read_back.encoder, read_back.policy_size) == ("hex8_2p", "hex_v3", 4500)
    assert read_back.training_data_sha256 == "ab" * 32


def onnx_model(**changes: str) -> onnx.ModelProto:
    """A network of one convolution."""
    array = numpy_helper.from_array(np.zeros((8, 56, 3, 3), np.float32), "conv1.weight")
    node = helper.make_node("Conv", ["x", "conv1.weight"], ["y"], domain=changes.get("domain", ""))
    kind = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 56, 8, 8])
    graph = helper.make_graph([node], "net", [kind], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], [array])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid(changes.get("imports", ""), 17)])
    helper.set_model_props(model, {"ringrift": json.dumps({"config": {"board_type": "square8", "num_players": 3}})})
    return model


def test_onnx(tmp_path: Path) -> None:
    read_back = read(onnx_model().SerializeToString(), tmp_path)
    assert (read_back.format, read_back.tensors, read_back.parameters) == ("onnx", 1, 8 * 56 * 9)
    assert (read_back.config, read_back.encoder, read_back.filters) == ("square8_3p", "square_v2", 8)
