"""What source and target both see: a second name where nobody writes any more, a copy elsewhere, and nothing from outside."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from ringrift_dagster.manifest.inventory import CHUNK_SIZE, ItemType
from ringrift_dagster.manifest.sources.layouts import NODE, SHARED
from ringrift_dagster.manifest.sources.tree import TreeInventory, mark_location
from ringrift_dagster.transfer.fetch import FetchFailed, fetch
from ringrift_dagster.transfer.model import Offer, OrderedItem, TransportName
from ringrift_dagster.transfer.transports.protocol import TransportFailure
from ringrift_dagster.transfer.transports.shared import SharedTransport
from tests.transfer.fetching import Consent, Content, content
from tests.transfer.real_items import KINDS, real_item

TYPES = {"database": ItemType.GAME_DB, "npz": ItemType.NPZ, "model": ItemType.MODEL, "large": ItemType.NPZ}
SUFFIXES = {ItemType.GAME_DB: ".db", ItemType.NPZ: ".npz", ItemType.MODEL: ".pth"}


@pytest.fixture
def nfs(tmp_path: Path) -> TreeInventory:
    """A file system that several hosts mount."""
    root = tmp_path / "nfs"
    (root / "training").mkdir(parents=True)
    mark_location(root, "lambda-nfs")
    return TreeInventory("lambda-nfs", root, SHARED, tmp_path / "state", sentinel=True)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system than the tests' own."""
    folder = Path("/dev/shm") / f"ringrift-{os.getpid()}"
    folder.mkdir()
    assert folder.stat().st_dev != tmp_path.stat().st_dev
    yield folder
    shutil.rmtree(folder)


def ordered(what: Content, path: str, type: ItemType = ItemType.NPZ, *, table: bool = True, mode: int = 0o644) -> OrderedItem:
    offer = Offer(transport=TransportName.SHARED, location="lambda-nfs", address=path)
    return what.item([offer], table=table).model_copy(update={"type": type, "mode": mode})


def put(tree: TreeInventory, what: Content, path: str) -> Path:
    file = tree.root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(what.data)
    file.chmod(0o644)
    return file


def bring(
    tree: TreeInventory, item: OrderedItem, into: Path, cancelled: Callable[[], bool] = lambda: False, rate: float | None = None
) -> None:
    """One call of the transport alone."""
    transport = SharedTransport({tree.location: tree}, open_seconds=20)
    transport.fetch_whole(item, item.offers, into, bytes_a_second=rate, cancelled=cancelled, progress=lambda done: None)


def refusal(tree: TreeInventory, item: OrderedItem, into: Path) -> str:
    with pytest.raises(TransportFailure) as raised:
        bring(tree, item, into)
    assert not into.exists()
    return raised.value.code


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("named_by_hash", [True, False])
def test_items_come_and_are_verified(
    kind: str, named_by_hash: bool, nfs: TreeInventory, recorded: Callable[[str], Path], tmp_path: Path
) -> None:
    what, type = real_item(kind, recorded), TYPES[kind]
    path = f"training/{what.sha256 if named_by_hash else 'best'}{SUFFIXES[type]}"
    source = put(nfs, what, path)
    with what.part(tmp_path) as part:
        item = ordered(what, path, type)
        fetched = fetch(part, item, {TransportName.SHARED: SharedTransport({nfs.location: nfs}, open_seconds=20)}, Consent())
        assert (fetched.transport, fetched.source) == (TransportName.SHARED, "lambda-nfs")
        assert part.path.read_bytes() == what.data
        assert part.path.samefile(source) == (named_by_hash and kind != "database")


@pytest.mark.parametrize("reason", ["a database", "no table", "another mode", "others may write", "another name"])
def test_what_somebody_may_write_to_is_copied(reason: str, nfs: TreeInventory, tmp_path: Path) -> None:
    what, into = content(5000), tmp_path / ".into.part"
    path = f"training/any_{'best' if reason == 'another name' else what.sha256[:12]}{'.db' if reason == 'a database' else '.npz'}"
    source = put(nfs, what, path)
    if reason == "others may write":
        source.chmod(0o666)
    item = ordered(
        what,
        path,
        ItemType.GAME_DB if reason == "a database" else ItemType.NPZ,
        table=reason != "no table",
        mode={"another mode": 0o600, "others may write": 0o666}.get(reason, 0o644),
    )
    bring(nfs, item, into)
    assert into.read_bytes() == what.data
    assert not into.samefile(source)
    assert source.stat().st_nlink == 1


def test_a_linked_file_is_never_written_to(nfs: TreeInventory, tmp_path: Path) -> None:
    what, into = content(5000), tmp_path / ".into.part"
    path = f"training/any_{what.sha256[:12]}.npz"
    source = put(nfs, what, path)
    bring(nfs, ordered(what, path), into)
    assert into.samefile(source)
    other = content(5000, seed=2)
    put(nfs, other, "training/other.npz")
    bring(nfs, ordered(other, "training/other.npz"), into)
    assert (into.read_bytes(), source.read_bytes()) == (other.data, what.data)


def test_what_was_linked_and_turns_out_wrong_is_let_go(nfs: TreeInventory, tmp_path: Path) -> None:
    what = content(2 * CHUNK_SIZE)
    path = f"training/any_{what.sha256[:12]}.npz"
    source = put(nfs, Content(what.data[:-1] + b"?"), path)
    damaged = source.read_bytes()
    with what.part(tmp_path) as part:
        with pytest.raises(FetchFailed):
            fetch(
                part, ordered(what, path), {TransportName.SHARED: SharedTransport({nfs.location: nfs}, open_seconds=20)}, Consent()
            )
        assert not part.path.samefile(source)
        assert part.put(1, what.chunk(1))
    assert source.read_bytes() == damaged


def test_between_file_systems_it_is_copied(nfs: TreeInventory, elsewhere: Path) -> None:
    what = content(2 * CHUNK_SIZE + 1)
    path = f"training/any_{what.sha256[:12]}.npz"
    put(nfs, what, path)
    bring(nfs, ordered(what, path), elsewhere / ".into.part")
    assert (elsewhere / ".into.part").read_bytes() == what.data


def test_a_copy_that_is_cancelled_ends_and_the_next_is_whole(nfs: TreeInventory, tmp_path: Path) -> None:
    what, into = content(3 * CHUNK_SIZE), tmp_path / ".into.part"
    put(nfs, what, "training/best.npz")
    item = ordered(what, "training/best.npz")
    with pytest.raises(TransportFailure) as raised:
        bring(nfs, item, into, lambda: into.exists() and into.stat().st_size > CHUNK_SIZE, rate=20e6)
    assert raised.value.code == "cancelled"
    assert into.stat().st_size < what.size
    bring(nfs, item, into)
    assert into.read_bytes() == what.data


def test_nothing_comes_from_elsewhere(nfs: TreeInventory, tmp_path: Path) -> None:
    what, into = content(1000), tmp_path / ".into.part"
    (tmp_path / "outside.npz").write_bytes(what.data)
    (nfs.root / "training/link.npz").symlink_to(tmp_path / "outside.npz")
    (nfs.root / "training/folder.npz").mkdir()
    os.mkfifo(nfs.root / "training/pipe.npz")
    put(nfs, what, "training/quarantine/bad.npz")
    put(nfs, what, "notes.txt")
    put(nfs, content(1001), "training/longer.npz")
    refused = {
        path: refusal(nfs, ordered(what, path), into)
        for path in (
            "training/link.npz",
            "../outside.npz",
            str(tmp_path / "outside.npz"),
            "training/quarantine/bad.npz",
            "notes.txt",
            "training/nothing.npz",
            "training/folder.npz",
            "training/pipe.npz",
            "training/longer.npz",
        )
    }
    assert refused.pop("training/longer.npz") == refused.pop("training/folder.npz") == refused.pop("training/pipe.npz") == "changed"
    assert set(refused.values()) == {"not_found"}
    put(nfs, what, "training/right.npz")
    assert refusal(nfs, ordered(what, "training/right.npz", ItemType.MODEL), into) == "not_found"
    stranger = ordered(what, "training/right.npz")
    moved = stranger.model_copy(update={"offers": (stranger.offers[0].model_copy(update={"location": "owc"}),)})
    assert refusal(nfs, moved, into) == "not_found"


def test_a_live_database_is_never_taken_but_its_snapshot_is(recorded: Callable[[str], Path], tmp_path: Path) -> None:
    root, into = tmp_path / "tree", tmp_path / ".into.part"
    (root / "data/games").mkdir(parents=True)
    live = Path(shutil.copy(recorded("canonical_square8_2p"), root / "data/games/selfplay.db"))
    tree = TreeInventory("lambda-nfs", root, NODE, snapshot_interval=0)
    assert refusal(tree, ordered(Content(live.read_bytes()), "data/games/selfplay.db", ItemType.GAME_DB), into) == "not_found"
    tree.scan()
    (found,) = tree.inventory(None).found
    opened = tree.open(found.sha256)
    assert opened is not None
    with os.fdopen(opened.descriptor, "rb") as file:
        what = Content(file.read())
    bring(tree, ordered(what, found.path, ItemType.GAME_DB), into)
    with closing(sqlite3.connect(into)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert into.read_bytes() == what.data
    assert into.stat().st_nlink == 1


def test_what_is_not_mounted_is_unreachable(nfs: TreeInventory, tmp_path: Path) -> None:
    what = content(1000)
    put(nfs, what, "training/best.npz")
    transport = SharedTransport({nfs.location: nfs}, open_seconds=20)
    item = ordered(what, "training/best.npz")
    assert transport.probe(item.offers[0], 20).latency is not None
    (nfs.root / ".ringrift-location").unlink()
    assert transport.probe(item.offers[0], 20).failure == "unreachable"
    assert refusal(nfs, item, tmp_path / ".into.part") == "unreachable"


def test_a_mount_that_hangs_is_left(nfs: TreeInventory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    monkeypatch.setattr(nfs, "check", lambda: released.wait(20))
    item = ordered(content(1000), "training/best.npz")
    transport = SharedTransport({nfs.location: nfs}, open_seconds=0.1)
    try:
        with pytest.raises(TransportFailure) as raised:
            transport.fetch_whole(
                item, item.offers, tmp_path / ".into.part", bytes_a_second=None, cancelled=lambda: False, progress=lambda done: None
            )
    finally:
        released.set()
    assert raised.value.code == "timeout"
