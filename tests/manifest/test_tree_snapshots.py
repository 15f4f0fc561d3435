"""Live databases in a tree: their snapshots are the items, and none gives way to one that holds less."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from ringrift_dagster.games.database import file_sha256
from ringrift_dagster.manifest.inventory import Cursor, Disk, Gone, Inventory
from ringrift_dagster.manifest.sources import tree as tree_module
from ringrift_dagster.manifest.sources.layouts import NODE
from ringrift_dagster.manifest.sources.tree import TreeInventory

LIVE = "data/games/selfplay_square8_2p.db"


@pytest.fixture
def live(tmp_path: Path, recorded: Callable[[str], Path]) -> Path:
    path = tmp_path / LIVE
    path.parent.mkdir(parents=True)
    shutil.copy(recorded("canonical_square8_2p"), path)
    return path


def node(live: Path, interval: float = 0.0) -> TreeInventory:
    return TreeInventory("gpu-1", live.parents[2], NODE, snapshot_interval=interval)


def after(tree: TreeInventory, before: Inventory | None = None) -> Inventory:
    tree.scan()
    return tree.inventory(Cursor(before.epoch, before.cursor) if before else None)


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def files(tree: TreeInventory) -> set[str]:
    return {path.name for path in tree.snapshots.folder.glob("*.db")}


def test_the_snapshot_is_the_item_and_the_database_never(live: Path) -> None:
    told = after(node(live))
    (item,) = told.found
    (database,) = told.databases
    assert item.path == f".ringrift-node/snapshots/{item.sha256}.db"
    assert (item.config, item.soundness, item.provenance["source"]) == ("square8_2p", "SOUND", LIVE)
    assert (database.path, database.snapshot, database.games) == (LIVE, item.sha256, {"square8_2p": item.games})
    assert file_sha256(live.parents[2] / item.path) == item.sha256


def test_a_later_snapshot_supersedes_the_earlier(live: Path) -> None:
    tree = node(live)
    first = after(tree)
    change(live, "UPDATE games SET quality_score = 0.5")
    second = after(tree, first)
    assert [(gone.path, gone.reason) for gone in second.gone] == [(first.found[0].path, Gone.SUPERSEDED)]
    assert second.databases[0].snapshot == second.found[0].sha256 != first.found[0].sha256
    assert second.found[0].quality == 0.5
    everything = tree.inventory(None)
    assert [item.sha256 for item in everything.found] == [second.found[0].sha256]
    assert [gone.reason for gone in everything.gone] == [Gone.SUPERSEDED], "told in full answers too: no loss"


def test_a_retired_snapshot_stays_for_an_interval_and_then_goes(live: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = node(live, interval=60.0)
    first = after(tree)
    now = tree_module.time.time()
    change(live, "UPDATE games SET quality_score = 0.5")
    monkeypatch.setattr("time.time", lambda: now + 100)
    second = after(tree, first)
    assert second.gone[0].reason == Gone.SUPERSEDED
    opened = tree.open(first.found[0].sha256)
    assert opened is not None, "whoever fetches it can go on"
    os.close(opened.descriptor)
    monkeypatch.setattr("time.time", lambda: now + 200)
    third = after(tree, second)
    assert (third.found, third.gone) == ([], [])
    assert files(tree) == {f"{second.found[0].sha256}.db"}
    assert tree.inventory(None).found[0].sha256 == second.found[0].sha256


def test_snapshots_keep_their_interval_and_need_a_change(live: Path) -> None:
    tree = node(live, interval=1000.0)
    first = after(tree)
    change(live, "UPDATE games SET quality_score = 0.5")
    assert tree.scan().snapshots == 0
    assert node(live, interval=1000.0).scan().snapshots == 0, "also after a restart"
    eager = node(live)
    assert eager.scan().snapshots == 1
    assert eager.scan().snapshots == 0
    assert len(eager.inventory(None).found) == 1
    assert first.full


def test_a_snapshot_that_lacks_games_replaces_none(live: Path) -> None:
    """The source was rotated: what the older snapshot holds is nowhere else."""
    tree = node(live)
    first = after(tree)
    change(live, "DELETE FROM games WHERE game_id = (SELECT MIN(game_id) FROM games)")
    second = after(tree, first)
    assert second.gone == []
    assert len(tree.inventory(None).found) == 2
    assert second.databases[0].snapshot == second.found[0].sha256


def test_a_source_that_goes_leaves_its_snapshot(live: Path) -> None:
    tree = node(live)
    first = after(tree)
    live.unlink()
    told = after(tree, first)
    assert [(gone.path, gone.reason) for gone in told.gone] == [(LIVE, Gone.VANISHED)]
    everything = tree.inventory(None)
    assert (len(everything.found), everything.databases) == (1, [])


def test_two_sources_of_one_content_share_a_snapshot(live: Path) -> None:
    shutil.copy(live, live.with_name("copy_square8_2p.db"))
    tree = node(live)
    first = after(tree)
    assert (len(first.found), len(first.databases)) == (1, 2)
    change(live, "UPDATE games SET quality_score = 0.5")
    second = after(tree, first)
    assert second.gone == [], "the copy still stands for it"
    assert len(tree.inventory(None).found) == 2


def test_a_lost_cache_takes_up_the_snapshots_that_are_there(live: Path) -> None:
    tree = node(live)
    first = after(tree)
    change(live, "UPDATE games SET quality_score = 0.5")
    for file in tree.state.glob("cache.db*"):
        file.unlink()
    again = after(node(live))
    assert again.full
    assert len(again.found) == 1, "the older one was adopted and superseded"
    assert [(gone.path, gone.reason) for gone in again.gone] == [(first.found[0].path, Gone.SUPERSEDED)]


def test_a_snapshot_that_somebody_deletes_is_gone(live: Path) -> None:
    tree = node(live)
    first = after(tree)
    (live.parents[2] / first.found[0].path).unlink()
    told = after(tree, first)
    assert [(gone.path, gone.reason) for gone in told.gone] == [(first.found[0].path, Gone.VANISHED)]


@pytest.mark.parametrize("seen", [False, True])
def test_a_rotten_snapshot_is_taken_again_under_its_own_name(live: Path, seen: bool) -> None:
    """`seen`: its time changed with its bytes, so that the pass finds it altered."""
    tree = node(live)
    (item,) = after(tree).found
    file = live.parents[2] / item.path
    status, good = file.stat(), file.read_bytes()
    file.write_bytes(good[:-100] + bytes([good[-100] ^ 255]) + good[-99:])
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + seen))
    os.utime(live, (1, 1))
    assert tree.scan().snapshots == 1
    told = tree.inventory(None)
    assert [(each.path, each.sha256) for each in told.found] == [(item.path, item.sha256)]
    assert (told.databases[0].snapshot, file.read_bytes()) == (item.sha256, good)
    assert tree.scan().changed == 0, "its new file is the one that is remembered"


def test_no_room_for_a_snapshot(live: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = node(live)
    monkeypatch.setattr(tree_module, "_disk", lambda path: Disk(total=1 << 40, free=1 << 20))
    told = after(tree)
    assert [(each.path, each.reason) for each in told.untracked] == [(LIVE, "no_room")]
    assert told.found == []
    monkeypatch.undo()
    later = after(tree, told)
    assert len(later.found) == len(later.databases) == 1
    assert [gone.path for gone in later.gone] == [LIVE], "it is not untracked any more"


def test_a_database_that_gets_damaged_keeps_its_last_snapshot(live: Path) -> None:
    tree = node(live)
    first = after(tree)
    live.write_bytes(os.urandom(1 << 16))
    told = after(tree, first)
    assert [(each.path, each.reason) for each in told.untracked] == [(LIVE, "unreadable")]
    assert told.databases[0].snapshot == first.found[0].sha256
    assert len(tree.inventory(None).found) == 1


@pytest.mark.parametrize("name", ["zero_bytes", "not_a_db", "truncated_header", "truncated_midfile", "corrupt_page"])
def test_a_bad_database_is_untracked_and_stops_no_other(name: str, live: Path, damaged: Callable[[str], Path]) -> None:
    shutil.copy(damaged(name), live.with_name(f"aaa_hex8_2p_{name}.db"))
    told = after(node(live))
    assert [(each.path, each.reason) for each in told.untracked] == [
        (f"data/games/aaa_hex8_2p_{name}.db", "empty" if name == "zero_bytes" else "unreadable")
    ]
    assert len(told.found) == len(told.databases) == 1


def test_a_database_named_by_its_hash_is_finished(live: Path, recorded: Callable[[str], Path]) -> None:
    other = recorded("square8_2p_full")
    sha256 = file_sha256(other)
    arrived = live.parents[2] / f"data/sync_incoming/{sha256}.db"
    liar = live.parent / f"{'0' * 64}.db"
    arrived.parent.mkdir()
    shutil.copy(other, arrived)
    shutil.copy(recorded("hex8_2p_swap"), liar)
    live.unlink()
    tree = node(live)
    told = after(tree)
    assert {item.path for item in told.found if "snapshots" not in item.path} == {f"data/sync_incoming/{sha256}.db"}
    assert [database.path for database in told.databases] == [f"data/games/{'0' * 64}.db"]
    again = tree.scan()
    assert (again.changed, again.snapshots) == (0, 0)
