"""A new candidate was not copied, since a file of its name and size was there already.

What an item is, its hash says: the new one comes, and what stood there under the same name stays. A promoted model takes the place
of the one before under RingRift's names, though name, size and time are the same. Of other weights nothing is known that was known
of the first.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from ringrift_dagster.models.checkpoints.description import read_checkpoint
from ringrift_dagster.models.evaluation.matches import Match, UnknownParticipant, evaluate
from ringrift_dagster.models.evaluation.records import Participant, Series, blocks_of
from ringrift_dagster.models.evaluation.store import EvidenceStore
from ringrift_dagster.models.manifest import note
from ringrift_dagster.models.publishing.published_set import check_set, publish
from ringrift_dagster.models.publishing.tree_names import check_names, link_names
from ringrift_dagster.transfer.model import Priority
from ringrift_dagster.transfer.operations import State
from tests.models.checkpoints.files import archive, good
from tests.models.evaluation.making import HEURISTIC, block
from tests.models.publishing.making import model_file
from tests.transfer.field import MB, noise, running_field

NAME = "models/candidate_hex8_2p.onnx"


def test_the_new_candidate_comes_although_one_of_its_name_and_size_is_there(tmp_path: Path) -> None:
    old, new = noise(MB, 1), noise(MB, 2)
    with running_field(tmp_path, {"trainer": "", "player": ""}) as field:
        field.put("player", old, NAME)
        sha256 = field.put("trainer", new, NAME)
        field.refresh()
        field.submit(sha256, "player", Priority.HIGH)
        (row,) = field.run("player").rows
        assert (row.state, row.bytes, row.type) == (State.DONE, MB, "CHECKPOINT")
        held = field.held("player")
        assert held[NAME] == hashlib.sha256(old).hexdigest()
        assert held[f"models/candidate_hex8_2p_{sha256[:12]}.onnx"] == sha256
        assert sum(path.startswith("player/") for path in field.copies(sha256)) == 1


def test_a_promoted_model_replaces_one_of_its_name_size_and_time(tmp_path: Path) -> None:
    old, new = (model_file(tmp_path / "arrived", text, at) for text, at in (("old", 1.0), ("new", 2.0)))
    assert old.path.stat().st_size == new.path.stat().st_size
    for model in (old, new):
        os.utime(model.path, (1_700_000_000, 1_700_000_000))
        assert publish(tmp_path / "published", {"hex8_2p": model}).changed == ("hex8_2p",)
        note(tmp_path / "tree", "hex8_2p", model.current)
        link_names(tmp_path / "tree", lambda _, current: tmp_path / "arrived" / f"{current.sha256}.pth")
    assert check_set(tmp_path / "published") == []
    assert check_names(tmp_path / "tree") == []
    for folder in (tmp_path / "published", tmp_path / "tree" / "models"):
        published = folder / "ringrift_best_hex8_2p.pth"
        assert hashlib.sha256(published.read_bytes()).hexdigest() == new.current.sha256
        assert published.stat().st_mtime_ns != new.path.stat().st_mtime_ns  # RingRift's loader tells models by time and size


def test_other_weights_under_the_same_name_are_another_model_without_evidence(tmp_path: Path) -> None:
    path = tmp_path / "candidate_hex8_2p.pth"
    versions = []
    for number in (1, 2):
        path.write_bytes(archive(storages={"0": bytes([number]) * 16}))
        os.utime(path, (1000, 1000))
        versions.append(read_checkpoint(path))
    old, new = (Participant("net", "1", version.sha256) for version in versions)
    assert versions[0].bytes == versions[1].bytes
    assert old.key != new.key
    with EvidenceStore(tmp_path / "evidence.db") as store:
        mine, others = (Series("hex8_2p", participant, HEURISTIC) for participant in (old, new))
        store.add([entry for number in range(40) for entry in block(number, ("won", "won"), series=mine)])
        assert (len(store.games(mine)), store.games(others), store.series(candidate=new.sha256)) == (80, [], [])
        assert mine.seed_words != others.seed_words


def test_a_file_that_was_replaced_does_not_play_for_the_model_that_it_was(tmp_path: Path) -> None:
    path = tmp_path / "candidate_hex8_2p.pth"
    path.write_bytes(good("hex_v3_flat_hex8_2p"))
    sha256 = "0" * 64
    match = Match(Series("hex8_2p", Participant("policy_only", "1", sha256), HEURISTIC), ((sha256, path),))
    with EvidenceStore(tmp_path / "evidence.db") as store:
        with pytest.raises(UnknownParticipant, match=r"is model [0-9a-f]{12}, not 000000000000"):
            evaluate(match, 1, store, tmp_path / "games.db")
        assert blocks_of(store.games(match.series), match.config).complete == 0
