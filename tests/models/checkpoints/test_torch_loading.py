"""The deep check with torch: good files pass, and what only torch notices is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ringrift_dagster.games.config import parse_config
from ringrift_dagster.models.checkpoints.deep_check import DeepCheck, deep_check
from ringrift_dagster.models.checkpoints.description import read_with_tensors
from ringrift_dagster.models.training.network import ReferenceNetwork, Sizes
from ringrift_dagster.models.training.trainer import save
from tests.models.checkpoints.files import good


def checked(path: Path) -> DeepCheck:
    return deep_check(path, *read_with_tensors(path))


def saved(path: Path, network: ReferenceNetwork) -> Path:
    save(network, path, "1" * 64, {})
    return path


@pytest.fixture
def network() -> ReferenceNetwork:
    torch.manual_seed(1)
    return ReferenceNetwork(parse_config("square8_2p"), Sizes(4, 1))


@pytest.mark.parametrize("name", ["cnn_v2_square8_2p", "legacy_square8_2p", "small_bare"])
def test_a_file_of_torch_passes(name: str, tmp_path: Path) -> None:
    (tmp_path / "m.pth").write_bytes(good(name))
    found = checked(tmp_path / "m.pth")
    assert (found.reason, found.detail, found.torch) == (None, "", torch.__version__)
    assert found.answers is None


def test_what_torch_refuses_is_not_advised_to_be_loaded_otherwise(tmp_path: Path) -> None:
    (tmp_path / "m.pth").write_bytes(good("small_bf16"))  # protocol 5, which our reader knows and weights_only does not
    found = checked(tmp_path / "m.pth")
    assert (found.reason, found.torch) == ("deep_check_failed", torch.__version__)
    assert found.detail == "torch refuses to load it with weights_only: Unsupported operand 149"


def test_a_reference_network_answers(network: ReferenceNetwork, tmp_path: Path) -> None:
    found = checked(saved(tmp_path / "m.pth", network))
    assert (found.reason, found.detail, found.answers) == (None, "", True)
    assert found.tensors == len(network.state_dict())


def test_weights_that_are_not_finite_are_found(network: ReferenceNetwork, tmp_path: Path) -> None:
    with torch.no_grad():
        network.value_fc2.bias[1] = float("nan")
    found = checked(saved(tmp_path / "m.pth", network))
    assert (found.reason, found.detail) == ("not_finite", "value_fc2.bias has values that are infinite or not numbers")


def test_an_answer_that_is_not_finite_is_found(network: ReferenceNetwork, tmp_path: Path) -> None:
    with torch.no_grad():
        network.value_fc2.bias.fill_(3e38)
        network.policy.board.bias.fill_(3e38)
        network.policy.conv.bias.fill_(3e38)
        network.policy.board.weight.fill_(3e38)
    assert checked(saved(tmp_path / "m.pth", network)).reason == "bad_answer"


def test_weights_that_do_not_fit_the_network_are_found(network: ReferenceNetwork, tmp_path: Path) -> None:
    network.bn1 = torch.nn.BatchNorm2d(5)
    found = checked(saved(tmp_path / "m.pth", network))
    assert found.reason == "network_differs"
    assert "size mismatch" in found.detail
