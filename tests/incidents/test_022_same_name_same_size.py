"""A new candidate was not copied, since a file of its name and size was there already.

What an item is, its hash says: the new one comes, and what stood there under the same name stays.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from ringrift_dagster.transfer.model import Priority
from ringrift_dagster.transfer.operations import State
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
