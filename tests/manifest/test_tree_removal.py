"""Removing items from a tree: only what was asked for, only if it still is what was hashed, never a database that is in use."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from ringrift_dagster.games.database import file_sha256
from ringrift_dagster.manifest.sources import tree_removal
from ringrift_dagster.manifest.sources.layouts import NODE, SHARED
from ringrift_dagster.manifest.sources.tree import TreeInventory
from ringrift_dagster.manifest.sources.tree_removal import NotRemoved
from tests.conftest import DATA

NPZ = DATA / "damaged" / "base_ok.npz"
SHA256 = file_sha256(NPZ)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree with one training set."""
    folder = tmp_path / "gpu-1/data/training"
    folder.mkdir(parents=True)
    shutil.copy(NPZ, folder / "square8_3p.npz")
    return tmp_path / "gpu-1"


def scanned(root: Path) -> TreeInventory:
    tree = TreeInventory("gpu-1", root, NODE, snapshot_interval=0.0)
    tree.scan()
    return tree


def files(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file() and ".ringrift-node" not in path.parts}


def test_every_copy_goes_and_the_inventory_says_that_it_was_meant(root: Path) -> None:
    shutil.copy(NPZ, root / "data/training/again.npz")
    (root / "data/training/other.npz").write_bytes(NPZ.read_bytes() + b" ")
    tree = scanned(root)
    assert sorted(tree.remove(SHA256)) == ["data/training/again.npz", "data/training/square8_3p.npz"]
    assert files(root) == {"data/training/other.npz"}
    for _ in range(2):
        gone = {entry.path: entry.reason for entry in tree.inventory(None).gone}
        assert gone == {"data/training/again.npz": "superseded", "data/training/square8_3p.npz": "superseded"}
        tree.scan()
    assert tree.remove(SHA256) == []
    assert tree.remove("0" * 64) == []


def test_what_changed_since_it_was_hashed_stays(root: Path) -> None:
    tree = scanned(root)
    path = root / "data/training/square8_3p.npz"
    newer = NPZ.read_bytes() + b"newer"
    path.write_bytes(newer)
    with pytest.raises(NotRemoved) as refused:
        tree.remove(SHA256)
    assert refused.value.code == "changed"
    assert path.read_bytes() == newer


def test_what_takes_its_place_at_the_last_moment_stays(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the last look and the removal an export publishes a newer file under the same name."""
    tree = scanned(root)
    path = root / "data/training/square8_3p.npz"
    newer = root / "data/training/newer.tmp"
    newer.write_bytes(b"newer")
    rename = os.rename

    def publish_first(*arguments: object, **options: object) -> None:
        newer.replace(path)
        rename(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(tree_removal.os, "rename", publish_first)
    with pytest.raises(NotRemoved) as refused:
        tree.remove(SHA256)
    assert (refused.value.code, path.read_bytes()) == ("changed", b"newer")
    assert files(root) == {"data/training/square8_3p.npz"}


def test_a_removal_that_was_killed_is_finished_by_the_next(root: Path) -> None:
    tree = scanned(root)
    folder = root / "data/training"
    shutil.copy(NPZ, folder / f".removing-{SHA256}-old.npz")
    (folder / f".removing-{'0' * 64}-kept.npz").write_bytes(b"something else")
    assert tree.remove(SHA256) == ["data/training/square8_3p.npz"]
    assert files(root) == {"data/training/kept.npz"}


def test_live_databases_and_their_snapshots_stay(root: Path, recorded: Callable[[str], Path]) -> None:
    live = root / "data/games/selfplay.db"
    live.parent.mkdir()
    shutil.copy(recorded("canonical_square8_2p"), live)
    tree = scanned(root)
    (snapshot,) = [entry for entry in tree.inventory(None).found if entry.type == "GAME_DB"]
    with pytest.raises(NotRemoved) as refused:
        tree.remove(snapshot.sha256)
    assert refused.value.code == "snapshot"
    assert tree.remove(file_sha256(live)) == []
    assert live.exists() and (root / snapshot.path).exists()


def test_a_finished_database_goes_unless_somebody_has_it_open(root: Path, recorded: Callable[[str], Path]) -> None:
    source = recorded("canonical_square8_2p")
    sha256 = file_sha256(source)
    path = root / f"data/sync_incoming/{sha256}.db"
    path.parent.mkdir()
    shutil.copy(source, path)
    tree = scanned(root)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        with pytest.raises(NotRemoved) as refused:
            tree.remove(sha256)
        assert refused.value.code in ("live_database", "changed")
        assert path.exists()
    shutil.copy(source, path)
    tree.scan()
    assert tree.remove(sha256) == [f"data/sync_incoming/{sha256}.db"]


def test_nothing_is_removed_through_a_link_that_leads_out(root: Path, tmp_path: Path) -> None:
    tree = scanned(root)
    elsewhere = tmp_path / "elsewhere"
    (root / "data/training").rename(elsewhere)
    (root / "data/training").symlink_to(elsewhere)
    with pytest.raises(NotRemoved) as refused:
        tree.remove(SHA256)
    assert refused.value.code == "outside"
    assert (elsewhere / "square8_3p.npz").exists()


def test_a_folder_that_becomes_a_link_meanwhile_leads_nowhere(root: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (root / "data/training").rename(elsewhere)
    (root / "data/training").symlink_to(elsewhere)
    assert not tree_removal._remove_file(root, "data/training/square8_3p.npz", SHA256)
    assert (elsewhere / "square8_3p.npz").exists()


def test_a_proof_reads_the_bytes(root: Path) -> None:
    tree = scanned(root)
    proven = tree.prove(SHA256)
    assert proven is not None
    assert tree.inventory(None).found[0].verified_at == proven
    path = root / "data/training/square8_3p.npz"
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert tree.prove(SHA256) is None, "neither its size nor its time show that it rotted"
    assert tree.prove(hashlib.sha256(b"never here").hexdigest()) is None
    path.unlink()
    assert tree.prove(SHA256) is None


def test_a_shared_file_system_is_a_tree_too(tmp_path: Path) -> None:
    shutil.copy(NPZ, tmp_path / "any_square8_3p.npz")
    tree = TreeInventory("nfs", tmp_path, SHARED)
    tree.scan()
    assert tree.remove(SHA256) == ["any_square8_3p.npz"]
