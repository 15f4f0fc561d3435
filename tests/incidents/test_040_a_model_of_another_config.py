"""A checkpoint of another config was loaded without a word, and evaluated and played as if it were the right one.

Here the file says for which config its model is, not its name; with another one, or none, it does not play.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from ringrift_dagster.games.config import parse_config
from ringrift_dagster.models.checkpoints.description import read_checkpoint
from ringrift_dagster.models.checkpoints.refusals import CheckpointRefused
from ringrift_dagster.models.evaluation.matches import Match, UnknownParticipant, evaluate, make_policy
from ringrift_dagster.models.evaluation.records import Participant, Series
from ringrift_dagster.models.evaluation.store import EvidenceStore
from tests.models.checkpoints.files import archive, good, number, storage, tensor, text
from tests.models.evaluation.making import HEURISTIC


def test_the_content_tells_the_config_and_not_the_name(tmp_path: Path) -> None:
    path = tmp_path / "canonical_square8_2p.pth"
    path.write_bytes(good("hex_v3_hex8_3p"))
    assert read_checkpoint(path).config == "hex8_3p"


@pytest.mark.parametrize(
    ("name", "config", "line"),
    [
        ("cnn_v2_square8_2p", "hex8_2p", "is a model of square8_2p, not of hex8_2p"),
        ("cnn_v3_square8_4p", "square8_2p", "is a model of square8_4p, not of square8_2p"),
        ("hex_v3_hex8_3p", "hex8_2p", "is a model of hex8_3p, not of hex8_2p"),
        ("small_full", "hex8_2p", "is a model of no known config, not of hex8_2p"),
    ],
)
def test_a_model_of_another_config_does_not_play(name: str, config: str, line: str, tmp_path: Path) -> None:
    path = tmp_path / f"canonical_{config}.pth"
    path.write_bytes(good(name))
    sha256 = read_checkpoint(path).sha256
    model = Participant("policy_only", "1", sha256)
    with pytest.raises(UnknownParticipant, match=line) as refused:
        make_policy(model, parse_config(config), {sha256: path})
    assert len(str(refused.value).splitlines()) == 1
    with EvidenceStore(tmp_path / "evidence.db") as store:
        with pytest.raises(UnknownParticipant, match=line):
            evaluate(Match(Series(config, HEURISTIC, model), ((sha256, path),)), 1, store, tmp_path / "games.db")
        assert (store.series(), (tmp_path / "games.db").exists()) == ([], False)


def test_metadata_of_another_config_than_the_weights_are_refused(tmp_path: Path) -> None:
    """A head with values for three players, called a model for two."""
    weights = text("model_state_dict") + b"}" + text("value_fc2.weight") + tensor(storage(elements=12), (3, 4), (4, 1)) + b"ss"
    claim = text("_versioning_metadata") + b"}" + text("num_players") + number(2) + b"ss"
    path = tmp_path / "canonical_hex8_2p.pth"
    path.write_bytes(archive(b"\x80\x02}" + weights + claim + b".", storages={"0": bytes(48)}))
    with pytest.raises(CheckpointRefused, match=r"^metadata_mismatch: num_players is 2 in the metadata, 3 in the weights"):
        read_checkpoint(path)
