"""Directory trees: incremental, crash-safe, and never declaring gone what may be there."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from blake3 import blake3

from ringrift_dagster.manifest.inventory import CHUNK_SIZE, Cursor, FoundItem, Gone, Inventory, ItemType, NoAnswer, Soundness
from ringrift_dagster.manifest.sources import hashing, tree_scan, tree_walk
from ringrift_dagster.manifest.sources import tree as tree_module
from ringrift_dagster.manifest.sources.hashing import Hashed, hash_file
from ringrift_dagster.manifest.sources.layouts import DRIVE, HOME, NODE, drive
from ringrift_dagster.manifest.sources.probe import Facts, probe
from ringrift_dagster.manifest.sources.tree import ContentChanged, DiskSource, TreeInventory, mark_location

NPZ = Path(__file__).parents[1] / "data" / "damaged" / "base_ok.npz"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    place = tmp_path / "ringrift"
    for folder in ("data/games", "data/training", "models"):
        (place / folder).mkdir(parents=True)
    return place


def node(root: Path, **options: object) -> TreeInventory:
    return TreeInventory("gpu-1", root, NODE, **{"snapshot_interval": 0.0, **options})  # type: ignore[arg-type]


def after(tree: TreeInventory, before: Inventory | None = None) -> Inventory:
    """Scan, and tell what changed."""
    tree.scan()
    return tree.inventory(Cursor(before.epoch, before.cursor) if before else None)


def paths(inventory: Inventory) -> set[str]:
    return {item.path for item in inventory.found}


def put(path: Path, content: bytes, age: float = 100.0) -> Path:
    """A file that has stood for `age` seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    then = time.time() - age
    os.utime(path, (then, then))
    return path


def test_hash_and_chunk_table_are_of_the_content(root: Path) -> None:
    content = os.urandom(CHUNK_SIZE + 1234)
    put(root / "models/hex8_2p.onnx", content)
    (item,) = after(node(root)).found
    assert (item.sha256, item.size) == (hashlib.sha256(content).hexdigest(), len(content))
    expected = blake3(content[:CHUNK_SIZE]).digest() + blake3(content[CHUNK_SIZE:]).digest()
    assert FoundItem.model_validate(item.model_dump()).chunks is not None
    assert base64.b64decode(item.chunks or "") == expected


def test_what_did_not_change_is_not_read_again(root: Path) -> None:
    for number in range(20):
        put(root / f"models/m{number}_hex8_2p.onnx", b"%d" % number)
    tree = node(root)
    assert tree.scan().hashed == 20
    again = node(root).scan()
    assert (again.listed, again.hashed, again.changed, again.gone) == (20, 0, 0, 0)


def test_a_young_file_is_read_once_more(root: Path) -> None:
    """Within one tick of a coarse clock a second write shows in neither size nor time."""
    young = put(root / "models/hex8_2p.onnx", b"first", age=0.0)
    tree = node(root)
    before = after(tree)
    at = young.stat()
    young.write_bytes(b"other")
    os.utime(young, ns=(at.st_atime_ns, at.st_mtime_ns))
    (item,) = after(tree, before).found
    assert item.sha256 == hashlib.sha256(b"other").hexdigest()


def test_changes_renames_and_removals(root: Path) -> None:
    for name in ("a", "b", "c"):
        put(root / f"models/{name}_hex8_2p.onnx", name.encode() * 10)
    tree = node(root)
    first = after(tree)
    put(root / "models/a_hex8_2p.onnx", b"changed", age=50)
    (root / "models/b_hex8_2p.onnx").rename(root / "models/d_hex8_2p.onnx")
    (root / "models/c_hex8_2p.onnx").unlink()
    report = tree.scan()
    assert report.hashed == 1, "a renamed file is not read again"
    told = tree.inventory(Cursor(first.epoch, first.cursor))
    assert paths(told) == {"models/a_hex8_2p.onnx", "models/d_hex8_2p.onnx"}
    assert {gone.path: gone.reason for gone in told.gone} == {
        "models/b_hex8_2p.onnx": Gone.VANISHED,
        "models/c_hex8_2p.onnx": Gone.VANISHED,
    }
    everything = tree.inventory(None)
    assert everything.full
    assert paths(everything) == paths(told)


def test_an_item_that_stops_being_one_is_gone_and_untracked(root: Path) -> None:
    put(root / "models/hex8_2p.onnx", b"model")
    tree = node(root)
    first = after(tree)
    put(root / "models/hex8_2p.onnx", b"")
    told = after(tree, first)
    assert [(each.path, each.reason) for each in told.untracked] == [("models/hex8_2p.onnx", "empty")]
    assert [(each.path, each.reason) for each in told.gone] == [("models/hex8_2p.onnx", Gone.REPLACED)]
    put(root / "models/hex8_2p.onnx", b"again")
    back = after(tree, told)
    assert (paths(back), back.gone, back.untracked) == ({"models/hex8_2p.onnx"}, [], [])


def test_nothing_is_gone_when_the_root_is(root: Path, tmp_path: Path) -> None:
    put(root / "models/hex8_2p.onnx", b"model")
    tree = node(root, state=tmp_path / "state")
    first = after(tree)
    root.rename(tmp_path / "away")
    with pytest.raises(NoAnswer) as refused:
        tree.scan()
    assert refused.value.code == "not_mounted"
    root.write_text("a file")
    with pytest.raises(NoAnswer) as refused:
        tree.scan()
    assert refused.value.code == "not_mounted"
    root.unlink()
    (tmp_path / "away").rename(root)
    told = after(tree, first)
    assert (told.full, told.found, told.gone) == (False, [], [])


def test_a_drive_unmounted_during_the_scan_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "owc"
    put(place / "models/hex8_2p.onnx", b"model")
    mark_location(place, "owc")
    tree = TreeInventory("owc", place, DRIVE, tmp_path / "state", sentinel=True)
    first = after(tree)
    listing = tree_walk.walk

    def unmounted(root: Path, layout: object) -> tree_walk.Listing:
        place.rename(tmp_path / "unmounted")
        place.mkdir()
        return listing(root, layout)  # type: ignore[arg-type]

    monkeypatch.setattr(tree_scan, "walk", unmounted)
    with pytest.raises(NoAnswer) as refused:
        tree.scan()
    assert refused.value.code == "not_mounted"
    monkeypatch.undo()
    place.rmdir()
    (tmp_path / "unmounted").rename(place)
    assert after(tree, first).gone == []


def test_a_folder_that_cannot_be_listed_loses_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(root / "models/hex8_2p.onnx", b"model")
    put(root / "checkpoints/run/hex8_2p.onnx", b"checkpoint")
    tree = node(root)
    first = after(tree)
    really = os.scandir

    def failing(path: str) -> object:
        if str(path).endswith("checkpoints"):
            raise OSError(5, "Input/output error", path)
        return really(path)

    monkeypatch.setattr(os, "scandir", failing)
    report = tree.scan()
    told = tree.inventory(Cursor(first.epoch, first.cursor))
    assert (report.failed, told.gone) == (1, [])
    assert [(each.path, each.reason) for each in told.untracked] == [("checkpoints", "unreadable")]
    fresh = after(TreeInventory("gpu-1", root, NODE, root / ".other"))
    assert (fresh.full, paths(fresh)) == (False, {"models/hex8_2p.onnx"})
    monkeypatch.undo()
    recovered = after(tree, told)
    assert [each.path for each in recovered.gone] == ["checkpoints"]
    assert paths(tree.inventory(None)) == {"models/hex8_2p.onnx", "checkpoints/run/hex8_2p.onnx"}


class Unreadable:
    """A folder that opens and then cannot be read, as on a disk or a server that fails."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> Unreadable:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing was opened."""

    def __iter__(self) -> Unreadable:
        return self

    def __next__(self) -> None:
        raise OSError(5, "Input/output error", self.path)


def test_a_root_that_opens_and_cannot_be_read_loses_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(10):
        put(root / f"models/m{number}_hex8_2p.onnx", b"%d" % number)
    tree = node(root)
    first = after(tree)
    really = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: Unreadable(path) if str(path) == os.path.realpath(root) else really(path))
    with pytest.raises(NoAnswer) as refused:
        tree.scan()
    assert (refused.value.code, tree.inventory(Cursor(first.epoch, first.cursor)).gone) == ("disk_error", [])
    monkeypatch.undo()
    assert after(tree, first).gone == []


def test_below_a_folder_that_cannot_be_looked_at_nothing_is_gone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems list names alone: what kind each is takes another look, which may fail."""
    put(root / "models/run/hex8_2p.onnx", b"model")
    tree = node(root)
    first = after(tree)

    class Entry:
        def __init__(self, name: str) -> None:
            self.name, self.path = name, str(root / "models" / name)

        def is_symlink(self) -> bool:
            raise OSError(5, "Input/output error", self.path)

    class Names(Unreadable):
        def __iter__(self) -> Iterator[Entry]:  # type: ignore[override]
            return iter([Entry("run")])

    really = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: Names(path) if str(path).endswith("models") else really(path))
    report = tree.scan()
    assert (report.failed, tree.inventory(Cursor(first.epoch, first.cursor)).gone) == (1, [])


def test_until_all_was_seen_once_no_answer_is_full(root: Path) -> None:
    for number in range(10):
        put(root / f"models/m{number}_hex8_2p.onnx", b"%d" % number * 1000)
    tree = node(root)
    report = tree.scan(timeout=0.0)
    assert report.pending == 9
    partial = tree.inventory(None)
    assert (partial.full, len(partial.found), partial.pending) == (False, 1, 9)
    assert {each.reason for each in partial.untracked} == {"pending"}
    whole = after(tree, partial)
    assert (whole.full, len(whole.found), whole.pending, whole.untracked) == (True, 10, 0, [])
    assert whole.epoch != partial.epoch
    assert not after(tree, whole).full


@pytest.mark.parametrize("damage", ["deleted", "garbage", "truncated", "emptied"])
def test_a_lost_cache_is_a_new_epoch_and_no_error(damage: str, root: Path) -> None:
    put(root / "models/hex8_2p.onnx", b"model")
    tree = node(root)
    first = after(tree)
    cache = root / ".ringrift-node/cache.db"
    for beside in cache.parent.glob("cache.db-*"):
        beside.unlink()
    if damage == "deleted":
        cache.unlink()
    else:
        size = cache.stat().st_size
        cache.write_bytes({"garbage": os.urandom(size), "truncated": cache.read_bytes()[: size // 2], "emptied": b""}[damage])
    again = after(tree, first)
    assert (again.full, paths(again)) == (True, {"models/hex8_2p.onnx"})
    assert again.epoch != first.epoch


def test_a_cursor_from_the_future_is_answered_in_full(root: Path) -> None:
    put(root / "models/hex8_2p.onnx", b"model")
    tree = node(root)
    first = after(tree)
    told = tree.inventory(Cursor(first.epoch, first.cursor + 1000))
    assert (told.full, told.cursor) == (True, first.cursor)


def test_ten_thousand_files_in_one_folder(root: Path) -> None:
    for number in range(10_000):
        (root / f"models/m{number:05d}_hex8_2p.onnx").write_bytes(b"%d" % number)
    tree = node(root)
    assert tree.scan().hashed == 10_000
    told = tree.inventory(None)
    assert len(paths(told)) == 10_000
    tree.scan()
    again = tree.scan()
    assert (again.listed, again.hashed, again.changed) == (10_000, 0, 0)


SCANNER = """
import sys
from pathlib import Path
from ringrift_dagster.manifest.sources import tree_scan
from ringrift_dagster.manifest.sources.layouts import NODE
from ringrift_dagster.manifest.sources.tree import TreeInventory
tree_scan.BATCH_ENTRIES = 5
hash_file = tree_scan.hash_file
count = 0
def told(path):
    global count
    count += 1
    if count == int(sys.argv[2]):
        print("now", flush=True)
        sys.stdin.read()
    return hash_file(path)
tree_scan.hash_file = told
TreeInventory("gpu-1", Path(sys.argv[1]), NODE).scan()
"""


def test_killed_in_the_middle_the_next_scan_goes_on(root: Path) -> None:
    for number in range(60):
        put(root / f"models/m{number:02d}_hex8_2p.onnx", b"%02d" % number * 100)
    for at in (13, 20):
        command = [sys.executable, "-c", SCANNER, str(root), str(at)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "now\n"
            process.send_signal(signal.SIGKILL)
    tree = node(root)
    report = tree.scan()
    assert report.hashed <= 60 - 10 - 15
    told = tree.inventory(None)
    assert (told.full, len(paths(told)), told.gone) == (True, 60, [])


def test_names_that_no_inventory_can_hold(root: Path) -> None:
    put(root / "models/good_hex8_2p.onnx", b"good")
    odd = os.fsencode(root / "models")
    turned, wide = "\u202e_hex8_2p.onnx".encode(), "\u3000_hex8_2p.onnx".encode()
    control = (b"\xff\xfe_hex8_2p.onnx", b"new\nline_hex8_2p.onnx", b"back\\slash_hex8_2p.onnx", b"del\x7f_hex8_2p.onnx")
    for name in (*control, turned, wide):
        Path(os.fsdecode(odd + b"/" + name)).write_bytes(b"odd")
    (Path(os.fsdecode(odd + b"/\xff"))).mkdir()
    tree = node(root)
    assert tree.scan().skipped == 7
    assert paths(tree.inventory(None)) == {"models/good_hex8_2p.onnx"}


def test_a_name_that_an_earlier_version_listed_is_not_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(root / "models/good_hex8_2p.onnx", b"good")
    put(root / "models/\u202e_hex8_2p.onnx", b"odd")
    with monkeypatch.context() as earlier:
        earlier.setattr("ringrift_dagster.manifest.sources.tree_walk._Walk._is_plain", lambda self, path: True)
        node(root).scan()
    tree = node(root)
    assert (tree.scan().skipped, paths(tree.inventory(None))) == (1, {"models/good_hex8_2p.onnx"})


def test_what_is_not_listed_and_what_is_set_aside(root: Path) -> None:
    for name in (".hidden_hex8_2p.onnx", "hex8_2p.onnx.part", "x.tmp", "hex8_2p.txt", ".cache/hex8_2p.onnx"):
        put(root / "models" / name, b"x")
    put(root / "data/games/holdouts/holdout_hex8_2p.db", b"x")
    put(root / "data/unified_elo.db", b"x")
    os.mkfifo(root / "models/pipe_hex8_2p.onnx")
    told = after(node(root))
    assert told.found == []
    assert [(each.path, each.reason) for each in told.untracked] == [("data/games/holdouts/holdout_hex8_2p.db", "set_aside")]


def test_the_symlink_zoo(root: Path, tmp_path: Path) -> None:
    put(root / "models/real_hex8_2p.onnx", b"real")
    put(root / "stored/blob_hex8_2p.bin", b"blob")
    put(root / "stored/more/deep_hex8_2p.onnx", b"deep")
    put(tmp_path / "outside/secret_hex8_2p.onnx", b"secret")
    links = {
        "models/again_hex8_2p.onnx": "real_hex8_2p.onnx",
        "models/blob_hex8_2p.onnx": "../stored/blob_hex8_2p.bin",
        "models/folder": "../stored/more",
        "models/dangling_hex8_2p.onnx": "nothing",
        "models/loop_hex8_2p.onnx": "loop_hex8_2p.onnx",
        "models/up": "..",
        "models/self": ".",
        "models/escape": "../../outside",
        "models/escape_hex8_2p.onnx": "../../outside/secret_hex8_2p.onnx",
        "models/passwd_hex8_2p.onnx": "/etc/passwd",
        "models/ping": "pong",
        "models/pong": "ping",
    }
    for name, target in links.items():
        (root / name).symlink_to(target)
    told = after(node(root))
    assert paths(told) == {"models/real_hex8_2p.onnx", "models/blob_hex8_2p.onnx", "models/folder/deep_hex8_2p.onnx"}
    assert {each.path: each.detail for each in told.untracked} == {
        "models/dangling_hex8_2p.onnx": "dangles",
        "models/loop_hex8_2p.onnx": "loops",
        "models/ping": "loops",
        "models/pong": "loops",
        "models/escape": "leads out of the root",
        "models/escape_hex8_2p.onnx": "leads out of the root",
        "models/passwd_hex8_2p.onnx": "leads out of the root",
    }
    assert {each.reason for each in told.untracked} == {"unsafe_link"}


def test_a_linked_data_folder_is_found_once(tmp_path: Path) -> None:
    place = tmp_path / "ringrift"
    put(place / "volume/data/training/square8_3p.npz", NPZ.read_bytes())
    (place / "data").symlink_to("volume/data")
    (tmp_path / "mounted").symlink_to("ringrift")
    tree = node(tmp_path / "mounted")
    told = after(tree)
    assert paths(told) == {"data/training/square8_3p.npz"}
    opened = tree.open(told.found[0].sha256)
    assert opened is not None
    with os.fdopen(opened.descriptor, "rb") as file:
        assert file.read() == NPZ.read_bytes()


def test_opening_only_what_was_hashed(root: Path) -> None:
    model = put(root / "models/hex8_2p.onnx", b"model")
    tree = node(root)
    sha256 = after(tree).found[0].sha256
    opened = tree.open(sha256)
    assert opened is not None
    os.close(opened.descriptor)
    assert tree.open("0" * 64) is None
    put(model, b"other", age=10)
    with pytest.raises(ContentChanged):
        tree.open(sha256)
    model.unlink()
    with pytest.raises(ContentChanged):
        tree.open(sha256)


def test_a_file_written_while_it_is_hashed_is_in_flux(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = put(root / "models/hex8_2p.onnx", b"model")
    tree = node(root)
    first = after(tree)
    put(model, b"longer model", age=5)
    fill = hashing._fill

    def written_meanwhile(file: object, buffer: memoryview) -> int:
        count = fill(file, buffer)
        with model.open("ab") as more:
            more.write(b"!")
        return count

    monkeypatch.setattr(hashing, "_fill", written_meanwhile)
    told = after(tree, first)
    assert [(each.path, each.reason) for each in told.untracked] == [("models/hex8_2p.onnx", "in_flux")]
    assert [each.path for each in told.gone] == ["models/hex8_2p.onnx"]
    monkeypatch.undo()
    settled = after(tree, told)
    assert paths(settled) == {"models/hex8_2p.onnx"}
    assert settled.found[0].sha256 == hashlib.sha256(model.read_bytes()).hexdigest()


def test_scrub_goes_round_the_least_recently_verified_first(root: Path) -> None:
    for name in "abcd":
        put(root / f"models/{name}_hex8_2p.onnx", name.encode() * 100)
    tree = node(root)
    before = after(tree)
    first = tree.scrub(200)
    assert (first.files, first.bytes, first.remaining) == (2, 200, 2)
    second = tree.scrub(200)
    assert second.files == 2
    told = tree.inventory(Cursor(before.epoch, before.cursor))
    assert len(paths(told)) == 4, "each was verified once"
    assert all((item.verified_at or 0) > max(each.verified_at or 0 for each in before.found) for item in told.found)


def test_scrub_leaves_changed_and_missing_files_to_the_scan(root: Path) -> None:
    put(root / "models/a_hex8_2p.onnx", b"a")
    put(root / "models/b_hex8_2p.onnx", b"b")
    tree = node(root)
    after(tree)
    put(root / "models/a_hex8_2p.onnx", b"changed", age=3)
    (root / "models/b_hex8_2p.onnx").unlink()
    assert tree.scrub(1 << 20).damaged == ()


def test_a_disk_source_answers_for_its_place(tmp_path: Path) -> None:
    place = tmp_path / "owc"
    put(place / "consolidated/training/square8_3p.npz", NPZ.read_bytes())
    put(place / "canonical_models/hex8_2p.onnx", b"model")
    put(place / "elsewhere/hex8_2p.onnx", b"not ours")
    put(place / "extra/hex8_3p.onnx", b"added")
    tree = TreeInventory("owc", place, drive(["extra"]), tmp_path / "state", sentinel=True)
    source = DiskSource("owc", tree)
    with pytest.raises(NoAnswer) as refused:
        source.read(None, 20)
    assert refused.value.code == "not_mounted"
    mark_location(place, "owc")
    told = source.read(None, 20)
    assert (told.full, told.location) == (True, "owc")
    assert paths(told) == {"consolidated/training/square8_3p.npz", "canonical_models/hex8_2p.onnx", "extra/hex8_3p.onnx"}
    assert source.scrub(1 << 30, 20).files == 3
    assert source.read(Cursor(told.epoch, told.cursor), 20).full is False


def test_a_disk_that_hangs_keeps_nobody_waiting(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = node(root)
    release = threading.Event()
    monkeypatch.setattr(tree_module.TreeInventory, "check", lambda self: release.wait(20))
    began = time.monotonic()
    with pytest.raises(NoAnswer) as refused:
        DiskSource("gpu-1", tree).read(None, 0.3)
    release.set()
    assert refused.value.code == "timeout"
    assert time.monotonic() - began < 10


def test_a_place_that_is_being_scrubbed_tells_what_is_remembered(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(root / "models/hex8_2p.onnx", b"model")
    known = after(node(root, state=tmp_path / "state"))
    put(root / "models/hex8_3p.onnx", b"not looked at yet")
    reading, release = threading.Event(), threading.Event()

    def slow(path: str, **options: bool) -> Hashed:
        reading.set()
        release.wait(20)
        return hash_file(path, **options)

    monkeypatch.setattr(tree_module, "hash_file", slow)
    scrubbing = threading.Thread(target=node(root, state=tmp_path / "state").scrub, args=(1 << 20,))
    scrubbing.start()
    assert reading.wait(20)
    source = DiskSource("gpu-1", node(root, state=tmp_path / "state"))
    told = source.read(None, 1.0)
    assert (told.full, paths(told), told.pending) == (False, paths(known), 1), "what came since is not gone"
    root.rename(tmp_path / "away")
    with pytest.raises(NoAnswer) as refused:
        source.read(None, 1.0)
    assert refused.value.code == "not_mounted"
    (tmp_path / "away").rename(root)
    release.set()
    scrubbing.join()
    told = source.read(Cursor(told.epoch, told.cursor), 20)
    assert (told.full, len(paths(told)), told.pending) == (True, 2, 0)


def test_marking_a_place(tmp_path: Path) -> None:
    sentinel = mark_location(tmp_path, "owc")
    assert mark_location(tmp_path, "owc") == sentinel
    assert sentinel.read_text() == "owc\n"
    with pytest.raises(ValueError, match="marked as 'owc'"):
        mark_location(tmp_path, "other")
    with pytest.raises(ValueError, match="not a location's name"):
        mark_location(tmp_path, "../x")


def test_on_a_drive_a_database_with_a_log_is_live(tmp_path: Path, recorded: Callable[[str], Path]) -> None:
    place = tmp_path / "owc"
    games = place / "consolidated/games"
    games.mkdir(parents=True)
    for name in ("finished", "live"):
        shutil.copy(recorded("square8_2p_full"), games / f"{name}.db")
    put(games / "live.db-wal", b"something")
    put(games / "finished.db-wal", b"")
    tree = TreeInventory("owc", place, DRIVE, tmp_path / "state")
    told = after(tree)
    assert [(item.path, item.config, item.games) for item in told.found] == [("consolidated/games/finished.db", "square8_2p", 1)]
    assert [(each.path, each.reason) for each in told.untracked] == [("consolidated/games/live.db", "live_database")]


def test_looking_into_a_finished_database_leaves_nothing_beside_it(tmp_path: Path, recorded: Callable[[str], Path]) -> None:
    games = tmp_path / "owc/cluster_games"
    games.mkdir(parents=True)
    shutil.copy(recorded("square8_2p_full"), games / "games.db")
    with closing(sqlite3.connect(games / "games.db")) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    before = (games / "games.db").read_bytes()
    told = after(TreeInventory("owc", tmp_path / "owc", DRIVE, tmp_path / "state"))
    assert paths(told) == {"cluster_games/games.db"}
    assert [path.name for path in games.iterdir()] == ["games.db"]
    assert (games / "games.db").read_bytes() == before


def test_our_own_home(tmp_path: Path, recorded: Callable[[str], Path]) -> None:
    for name in ("selfplay/games.db", "snapshots/square8_2p/snap.db"):
        (tmp_path / name).parent.mkdir(parents=True)
        shutil.copy(recorded("square8_2p_full"), tmp_path / name)
    put(tmp_path / "datasets/square8_3p.npz", NPZ.read_bytes())
    put(tmp_path / "verdicts.db", b"x")
    told = after(TreeInventory("home", tmp_path, HOME))
    assert {path.split("/")[0] for path in paths(told)} == {"snapshots", "datasets"}  # whose sources are the pipeline's business


def test_a_snapshot_that_the_pipeline_deletes_was_retired(tmp_path: Path, recorded: Callable[[str], Path]) -> None:
    snapshot, export = tmp_path / "snapshots/square8_2p/snap.db", tmp_path / "datasets/square8_3p.npz"
    snapshot.parent.mkdir(parents=True)
    shutil.copy(recorded("square8_2p_full"), snapshot)
    put(export, NPZ.read_bytes())
    tree = TreeInventory("home", tmp_path, HOME, tmp_path / "state")
    after(tree)
    snapshot.unlink()
    export.unlink()
    assert {entry.path: entry.reason for entry in after(tree).gone} == {
        "snapshots/square8_2p/snap.db": Gone.SUPERSEDED,
        "datasets/square8_3p.npz": Gone.VANISHED,
    }


def test_many_scan_at_once_and_agree(root: Path) -> None:
    for number in range(200):
        put(root / f"models/m{number:03d}_hex8_2p.onnx", b"%d" % number)
    trees = [node(root) for _ in range(4)]
    failures: list[BaseException] = []

    def scan(tree: TreeInventory) -> None:
        try:
            tree.scan(timeout=20)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=scan, args=(tree,)) for tree in trees]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    answers = [tree.inventory(None) for tree in trees]
    assert {(answer.epoch, answer.cursor, len(answer.found)) for answer in answers} == {(answers[0].epoch, 200, 200)}


def test_a_root_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    tree = node(tmp_path / "unmounted")
    for ask in (
        tree.scan,
        tree.epoch,
        tree.counts,
        lambda: tree.inventory(None),
        lambda: tree.open("0" * 64),
        lambda: tree.scrub(1),
    ):
        with pytest.raises(NoAnswer):
            ask()
    assert list(tmp_path.iterdir()) == []


def test_a_pass_that_takes_long_goes_on_behind_the_answers(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        put(root / f"models/{name}_hex8_2p.onnx", name.encode() * (1 if name == "a" else 2))
    release = threading.Event()
    really = tree_scan.hash_file

    def slow(path: str) -> hashing.Hashed:
        if path.endswith("b_hex8_2p.onnx"):
            release.wait(20)
        return really(path)

    monkeypatch.setattr(tree_scan, "hash_file", slow)
    monkeypatch.setattr(tree_scan, "BATCH_ENTRIES", 1)
    source = DiskSource("gpu-1", node(root))
    for _ in range(2):
        told = source.read(None, 0.5)
        assert (told.full, paths(told), told.pending) == (False, {"models/a_hex8_2p.onnx"}, 1)
    release.set()
    told = source.read(Cursor(told.epoch, told.cursor), 20)
    assert (told.full, len(told.found), told.pending) == (True, 2, 0)


def published(root: Path, path: str, content: bytes) -> tuple[Hashed, Facts]:
    """A file as whoever published it knows it: just now, under its name."""
    file = put(root / path, content, age=0.0)
    hashed = hash_file(str(file))
    return hashed, probe(file, ItemType.MODEL, path, sha256=hashed.sha256)


def test_what_was_published_is_told_and_served_at_once_and_never_hashed_again(root: Path) -> None:
    tree = node(root)
    before = after(tree)
    hashed, facts = published(root, "models/hex8_2p_1.onnx", b"published")
    assert tree.adopt("models/hex8_2p_1.onnx", hashed, facts)
    (item,) = tree.inventory(Cursor(before.epoch, before.cursor)).found
    assert (item.path, item.sha256, item.config) == ("models/hex8_2p_1.onnx", hashed.sha256, "hex8_2p")
    assert base64.b64decode(item.chunks or "") == hashed.chunks
    opened = tree.open(hashed.sha256)
    assert opened is not None
    os.close(opened.descriptor)
    report = node(root).scan()
    assert (report.listed, report.hashed, report.changed, report.gone) == (1, 0, 0, 0)


def test_adopting_needs_the_very_file_and_a_place_where_items_are(
    root: Path, tmp_path: Path, recorded: Callable[[str], Path]
) -> None:
    tree = node(root)
    hashed, facts = published(root, "models/hex8_2p_1.onnx", b"published")
    database = put(root / "data/games/live_square8_2p.db", recorded("canonical_square8_2p").read_bytes())
    (tmp_path / "outside").mkdir()
    put(tmp_path / "outside/hex8_2p.onnx", b"published")
    (root / "models/out").symlink_to(tmp_path / "outside")
    put(root / "data/quarantine/models/hex8_2p.onnx", b"published")
    put(root / "models/quarantine/hex8_2p.onnx", b"published")
    put(root / "models/hex8_2p_2.onnx", b"PUBLISHED")
    refused = {
        "models/hex8_2p_2.onnx": hashed,  # another file
        "models/hex8_2p_3.onnx": hashed,  # none
        "models/out/hex8_2p.onnx": hash_file(str(tmp_path / "outside/hex8_2p.onnx")),
        "models/quarantine/hex8_2p.onnx": hash_file(str(root / "models/quarantine/hex8_2p.onnx")),
        "readme.onnx": hashed,
        "data/games/live_square8_2p.db": hash_file(str(database)),
    }
    for path, of in refused.items():
        assert not tree.adopt(path, of, facts), path
    assert not tree.adopt("models/hex8_2p_1.onnx", hashed, Facts(problem=("unreadable", "")))
    put(root / "models/hex8_2p_1.onnx", b"rewritten", age=0.0)
    assert not tree.adopt("models/hex8_2p_1.onnx", hashed, facts)
    assert tree.inventory(None).found == []


def test_a_finished_database_is_adopted_under_its_hash(root: Path, recorded: Callable[[str], Path]) -> None:
    tree = node(root)
    hashed = hash_file(str(recorded("canonical_hex8_2p")))
    path = f"data/sync_incoming/{hashed.sha256}.db"
    shutil.copy(recorded("canonical_hex8_2p"), put(root / path, b""))
    facts = probe(root / path, ItemType.GAME_DB, path, sha256=hashed.sha256)
    assert tree.adopt(path, hash_file(str(root / path)), facts)
    (item,) = tree.inventory(None).found
    assert (item.sha256, item.config, item.games, item.soundness) == (hashed.sha256, "hex8_2p", facts.games, Soundness.SOUND)
    assert tree.scan().hashed == 0


def test_a_pass_under_way_neither_hashes_nor_buries_what_is_adopted_meanwhile(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its listing is older than what was published: known paths that it misses came back, new ones that it saw are known."""
    put(root / "models/back_hex8_2p.onnx", b"back")
    tree = node(root)
    tree.scan()
    (root / "models/back_hex8_2p.onnx").unlink()
    walk = tree_scan.walk

    def slow(*given: object) -> tree_walk.Listing:
        new = {path: published(root, path, path.encode()) for path in ("models/1_hex8_2p.onnx", "models/2_hex8_2p.onnx")}
        listing = walk(*given)  # type: ignore[arg-type]
        new["models/back_hex8_2p.onnx"] = published(root, "models/back_hex8_2p.onnx", b"back")
        assert all(tree.adopt(path, *known) for path, known in new.items())
        return listing

    monkeypatch.setattr(tree_scan, "walk", slow)
    report = tree.scan(timeout=0.0)
    assert (report.hashed, report.gone, report.pending) == (0, 0, 0)
    monkeypatch.undo()
    assert paths(tree.inventory(None)) == {f"models/{name}_hex8_2p.onnx" for name in ("1", "2", "back")}
    report = tree.scan()
    assert (report.hashed, report.changed, report.gone) == (0, 0, 0)
