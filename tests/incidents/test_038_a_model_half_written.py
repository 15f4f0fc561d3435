"""Saving a model was interrupted, and half a file stood under the name that everybody loads.

What stands under a published name is whole at every moment: the copy is made under another name, compared with the hash, and on
disk before it gets its name. A file that is cut off on its way is never published.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from ringrift_dagster.models.manifest import note
from ringrift_dagster.models.publishing.published_set import check_set, publish
from ringrift_dagster.models.publishing.reasons import PublishingRefused
from ringrift_dagster.models.publishing.tree_names import check_names, link_names
from tests.models.publishing.crashing import run_until
from tests.models.publishing.making import model_file

NAME = "ringrift_best_hex8_2p.pth"


@pytest.mark.parametrize("bytes_left", [0, 1, 3000])
def test_a_file_that_was_cut_off_is_not_published(tmp_path: Path, bytes_left: int) -> None:
    good, cut = model_file(tmp_path, "good", 1.0), model_file(tmp_path, "cut", 2.0)
    publish(tmp_path / "published", {"hex8_2p": good})
    note(tmp_path / "tree", "hex8_2p", good.current)
    link_names(tmp_path / "tree", lambda *_: good.path)
    cut.path.write_bytes(cut.path.read_bytes()[:bytes_left])
    with pytest.raises(PublishingRefused):
        publish(tmp_path / "published", {"hex8_2p": cut})
    note(tmp_path / "tree", "hex8_2p", cut.current)
    assert link_names(tmp_path / "tree", lambda *_: cut.path).findings
    for folder in (tmp_path / "published", tmp_path / "tree" / "models"):
        assert hashlib.sha256((folder / NAME).read_bytes()).hexdigest() == good.current.sha256
    assert check_set(tmp_path / "published") == []


@pytest.mark.parametrize("line", [1, 20, 100, 200, 300, 400])
def test_a_writer_that_is_killed_leaves_a_whole_model_under_the_name(tmp_path: Path, line: int) -> None:
    old, new = (model_file(tmp_path, text, at, 100_000) for text, at in (("old", 1.0), ("new", 2.0)))
    tree, directory = tmp_path / "tree", tmp_path / "published"

    def write(number: int) -> None:
        model = (old, new)[number]
        publish(directory, {"hex8_2p": model})
        note(tree, "hex8_2p", model.current)
        link_names(tree, lambda *_: model.path)

    write(0)
    run_until(lambda: write(1), line=line)
    for folder in (directory, tree / "models"):
        assert hashlib.sha256((folder / NAME).read_bytes()).hexdigest() in (old.current.sha256, new.current.sha256)
    write(1)
    assert check_set(directory) == []
    assert check_names(tree) == []
