"""What was promoted and has arrived gets its names in the host's tree; nothing is read where nothing changed."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from ringrift_dagster.games.database import file_sha256
from ringrift_dagster.manifest.sources.layouts import NODE
from ringrift_dagster.manifest.sources.tree import TreeInventory
from ringrift_dagster.models.manifest import Current, note
from ringrift_dagster.models.publishing.names import model_names
from ringrift_dagster.node.model_names import CHECK_SECONDS, RETRY_SECONDS, ModelNames
from tests.models.making import model_file

CONFIG = "square8_2p"
NAMES = model_names(CONFIG)


@pytest.fixture
def tree(tmp_path: Path) -> TreeInventory:
    """An empty RingRift tree."""
    root = tmp_path / "tree"
    (root / "models").mkdir(parents=True)
    return TreeInventory("gpu-1", root, NODE, tmp_path / "state")


def arrive(tree: TreeInventory, file: Path, name: str = "square8_2p_arrived.pth") -> None:
    shutil.copy(file, tree.root / "models" / name)
    tree.scan()


def named(tree: TreeInventory) -> dict[str, str]:
    """The hash under each of the names that is there."""
    return {name: file_sha256(path) for name in NAMES if (path := tree.root / "models" / name).exists()}


def test_a_promoted_model_gets_its_names_once_it_has_arrived(tree: TreeInventory, tmp_path: Path) -> None:
    names = ModelNames(tree)
    file = model_file(tmp_path / "m.pth", CONFIG, 1)
    sha256 = file_sha256(file)
    tree.scan()
    assert not names.look(), "without a manifest there is nothing to do"
    note(tree.root, CONFIG, Current(sha256=sha256, promoted_at=100.0))
    assert names.look()
    assert named(tree) == {}
    assert not names.look(), "it has not arrived"
    arrive(tree, file)
    assert names.look()
    assert named(tree) == dict.fromkeys(NAMES, sha256)
    assert (tree.root / "models" / f"{NAMES[0]}.sha256").read_text().startswith(sha256)
    assert not names.look(), "nothing has changed"


def test_the_next_promotion_replaces_the_names_and_a_file_of_somebody_else_is_kept(tree: TreeInventory, tmp_path: Path) -> None:
    names = ModelNames(tree)
    mine = tree.root / "models" / NAMES[0]
    mine.write_bytes(b"trained by hand")
    for seed in (1, 2):
        file = model_file(tmp_path / "m.pth", CONFIG, seed)
        arrive(tree, file, f"square8_2p_{seed}.pth")
        note(tree.root, CONFIG, Current(sha256=file_sha256(file), promoted_at=100.0 + seed))
        assert names.look()
        assert named(tree) == dict.fromkeys(NAMES, file_sha256(file))
    kept = [path for path in (tree.root / "models").iterdir() if ".replaced-" in path.name]
    assert [path.read_bytes() for path in kept] == [b"trained by hand"]


def test_a_name_that_is_wrong_is_tried_again_soon_and_not_all_the_time(
    tree: TreeInventory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("ringrift_dagster.node.model_names.time", SimpleNamespace(monotonic=lambda: now))
    names = ModelNames(tree)
    file = model_file(tmp_path / "m.pth", CONFIG, 1)
    arrive(tree, file)
    bad = tree.root / "models" / NAMES[0]
    bad.mkdir()
    note(tree.root, CONFIG, Current(sha256=file_sha256(file), promoted_at=100.0))
    assert names.look()
    assert not names.look()
    bad.rmdir()
    now += RETRY_SECONDS
    assert names.look()
    assert named(tree) == dict.fromkeys(NAMES, file_sha256(file))
    now += RETRY_SECONDS
    assert not names.look(), "all is well"
    now += CHECK_SECONDS
    assert names.look()


def test_a_model_that_changed_since_it_was_hashed_is_tried_again_soon(
    tree: TreeInventory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("ringrift_dagster.node.model_names.time", SimpleNamespace(monotonic=lambda: now))
    names = ModelNames(tree)
    file = model_file(tmp_path / "m.pth", CONFIG, 1)
    arrive(tree, file)
    note(tree.root, CONFIG, Current(sha256=file_sha256(file), promoted_at=100.0))
    (tree.root / "models" / "square8_2p_arrived.pth").write_bytes(b"being written")
    assert names.look()
    assert named(tree) == {}
    arrive(tree, file)
    now += RETRY_SECONDS
    assert names.look()
    assert named(tree) == dict.fromkeys(NAMES, file_sha256(file))


def test_a_thread_does_it_by_itself(tree: TreeInventory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringrift_dagster.node.model_names.LOOK_SECONDS", 0.01)
    file = model_file(tmp_path / "m.pth", CONFIG, 1)
    arrive(tree, file)
    note(tree.root, CONFIG, Current(sha256=file_sha256(file), promoted_at=100.0))
    with ModelNames(tree) as names:
        while not names._tried:
            assert names._thread.is_alive()
    assert named(tree) == dict.fromkeys(NAMES, file_sha256(file))
