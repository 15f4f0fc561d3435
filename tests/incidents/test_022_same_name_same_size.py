"""A new candidate was not copied, since a file of its name and size was there already.

What an item is, its hash says: the new one comes, and what stood there under the same name stays. A promoted model takes the place
of the one before under RingRift's names, though name, size and time are the same.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from ringrift_dagster.models.manifest import note
from ringrift_dagster.models.publishing.published_set import check_set, publish
from ringrift_dagster.models.publishing.tree_names import check_names, link_names
from ringrift_dagster.transfer.model import Priority
from ringrift_dagster.transfer.operations import State
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
