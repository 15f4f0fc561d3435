"""Publishing: only what is right and sound gets a name, and no name is ever taken from what has it."""

from __future__ import annotations

import base64
import dataclasses
import errno
import hashlib
import io
import os
import shutil
import sqlite3
import stat
import threading
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from ringrift_dagster.manifest.inventory import ItemType, Soundness
from ringrift_dagster.manifest.sources.hashing import hash_file
from ringrift_dagster.manifest.sources.layouts import NODE
from ringrift_dagster.manifest.sources.tree import TreeInventory
from ringrift_dagster.transfer import publish as publish_module
from ringrift_dagster.transfer.model import CAUSES
from ringrift_dagster.transfer.publish import Arrival, NotPublished, Published, make_folder, publish, publish_many
from tests.transfer.arrivals import bring, filled, ordered
from tests.transfer.databases import contents, game_ids, make, record

DAMAGED = Path(__file__).parents[1] / "data" / "damaged"
NPZ = (DAMAGED / "base_ok.npz").read_bytes()
PATH = "data/training/square8_3p_1.npz"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    place = tmp_path / "tree"
    place.mkdir()
    return place


def put(
    root: Path, content: bytes, path: str = PATH, *, of: bytes | None = None, type: ItemType = ItemType.NPZ, **more: object
) -> Published:
    """Publish `content` as the item that `of` is."""
    return bring(root, content, ordered(content if of is None else of, type, Path(path).name, **more), path)


def refused(root: Path, content: bytes, path: str = PATH, **more: object) -> NotPublished:
    with pytest.raises(NotPublished) as error:
        put(root, content, path, **more)  # type: ignore[arg-type]
    assert error.value.cause in CAUSES
    assert "\n" not in error.value.detail
    return error.value


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def model(data: bytes = b"weights") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", data)
    return buffer.getvalue()


def test_what_is_right_and_sound_stands_under_its_name_and_nothing_is_left(root: Path) -> None:
    told = put(root, NPZ, mode=0o640)
    target = root / PATH
    status = target.stat()
    assert target.read_bytes() == NPZ
    assert stat.S_IMODE(status.st_mode) == 0o640
    assert (told.path, told.merged, told.mtime) == (PATH, None, status.st_mtime_ns / 1e9)
    assert told.hashed == hash_file(str(target))
    assert (told.facts.soundness, told.facts.config) == (Soundness.SOUND, "square8_3p")
    assert abs(told.verified_at - time.time()) < 60
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_every_type_and_what_a_scan_says_of_it(root: Path, recorded: Callable[[str], Path], tmp_path: Path) -> None:
    """A published file is adopted as a pass over the tree would find it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    games = tmp_path / "games.parquet"
    pq.write_table(pa.table({"winner": [1, 2]}).replace_schema_metadata({"ringrift.config": "hex8_2p"}), games)
    database = recorded("canonical_hex8_2p").read_bytes()
    incoming = f"data/sync_incoming/{hashlib.sha256(database).hexdigest()}.db"
    wanted = {
        PATH: (ItemType.NPZ, NPZ),
        incoming: (ItemType.GAME_DB, database),
        "data/canonical/hex8_2p_1.parquet": (ItemType.CANONICAL_GAMES, games.read_bytes()),
        "models/hex8_2p_1.pth": (ItemType.MODEL, model()),
        "models/hex8_2p_1.onnx": (ItemType.MODEL, b"no zip"),
        "models/candidate_hex8_2p_1.pth": (ItemType.CHECKPOINT, model(b"others")),
        "checkpoints/hex8_2p_2.pt": (ItemType.CHECKPOINT, model(b"again")),
    }
    tree, scanned = (TreeInventory("gpu-1", root, NODE, tmp_path / name) for name in ("adopted", "scanned"))
    for path, (type_, content) in wanted.items():
        told = put(root, content, path, type=type_)
        assert tree.adopt(path, told.hashed, told.facts)
    adopted = {item.path: item for item in tree.inventory(None).found}
    assert adopted.keys() == wanted.keys()
    scanned.scan()
    for item in scanned.inventory(None).found:
        assert item.model_dump(exclude={"verified_at"}) == adopted[item.path].model_dump(exclude={"verified_at"})
    assert tree.scan().hashed == 0


def test_the_chunk_table_of_the_order_is_believed_only_when_it_is_whole(root: Path, tmp_path: Path) -> None:
    content = model(os.urandom(5 << 20))
    (tmp_path / "whole").write_bytes(content)
    table = hash_file(str(tmp_path / "whole")).chunks
    for number, chunks in enumerate((table, table[:32], b"", None)):
        text = None if chunks is None else base64.b64encode(chunks).decode()
        told = put(root, content, f"models/hex8_2p_{number}.pth", type=ItemType.MODEL, chunks=text)
        assert told.hashed.chunks == table


def test_wrong_bytes_never_get_a_name(root: Path) -> None:
    flipped = NPZ[:-9] + bytes([NPZ[-9] ^ 1]) + NPZ[-8:]
    for content in (flipped, NPZ[:-1], NPZ + b"\0"):
        assert refused(root, content, of=NPZ).cause == "wrong_bytes"
    assert files(root / "data/training") == set()


@pytest.mark.parametrize(
    ("name", "type_", "path"),
    [
        ("not_zip.npz", ItemType.NPZ, PATH),
        ("truncated.npz", ItemType.NPZ, PATH),
        ("nan_features.npz", ItemType.NPZ, PATH),
        ("policy_out_of_range.npz", ItemType.NPZ, PATH),
        ("corrupt_page.db", ItemType.GAME_DB, None),
        ("zero_bytes.db", ItemType.GAME_DB, None),
        ("not_a_db.db", ItemType.GAME_DB, None),
    ],
)
def test_what_is_not_sound_never_gets_a_name(
    name: str, type_: ItemType, path: str | None, root: Path, damaged: Callable[[str], Path]
) -> None:
    content = damaged(name[:-3]).read_bytes() if name.endswith(".db") else (DAMAGED / name).read_bytes()
    path = path or f"data/sync_incoming/{hashlib.sha256(content).hexdigest()}.db"
    failure = refused(root, content, path, type=type_)
    assert failure.cause == "not_sound"
    assert failure.detail
    assert files((root / path).parent) == set()


def test_of_another_config_than_was_ordered(root: Path) -> None:
    assert refused(root, NPZ, config="hex8_2p").cause == "not_sound"
    assert put(root, NPZ, config="square8_3p").facts.config == "square8_3p"


def test_nothing_is_overwritten(root: Path) -> None:
    there = root / PATH
    there.parent.mkdir(parents=True)
    for make_it in (
        lambda: there.write_bytes(b"what stood here"),
        there.mkdir,
        lambda: there.symlink_to("nowhere"),
        lambda: there.symlink_to(root / "other"),
        lambda: os.mkfifo(there),
    ):
        make_it()
        (root / "other").write_bytes(NPZ)
        before = there.lstat()
        assert refused(root, NPZ).cause == "occupied"
        assert (there.lstat().st_ino, there.lstat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
        there.rmdir() if there.is_dir() else there.unlink()


def test_the_same_content_there_is_success_and_stays_the_file_it_is(root: Path) -> None:
    put(root, NPZ)
    before = (root / PATH).stat()
    told = put(root, NPZ, mode=0o600)
    after = (root / PATH).stat()
    assert (after.st_ino, after.st_mtime_ns, after.st_mode) == (before.st_ino, before.st_mtime_ns, before.st_mode)
    assert told.hashed.inode == before.st_ino
    assert {path.name for path in (root / PATH).parent.iterdir()} == {Path(PATH).name}


def test_what_is_damaged_under_the_items_own_name_is_moved_aside(root: Path) -> None:
    path = f"data/training/square8_3p_{hashlib.sha256(NPZ).hexdigest()[:12]}.npz"
    put(root, NPZ, path)
    for number in range(2):
        (root / path).write_bytes(b"rotten %d" % number)
        assert put(root, NPZ, path).hashed.inode == (root / path).stat().st_ino
        assert (root / path).read_bytes() == NPZ
    kept = sorted((root / "data/training/corrupted").iterdir())
    assert [each.read_bytes() for each in kept] == [b"rotten 0", b"rotten 1"]
    tree = TreeInventory("gpu-1", root, NODE)
    tree.scan()
    assert [item.path for item in tree.inventory(None).found] == [path]
    (root / path).unlink()
    (root / path).symlink_to("elsewhere")
    assert refused(root, NPZ, path).cause == "occupied"


def test_a_part_that_was_refused_can_go_on(root: Path) -> None:
    """What is in it is kept: it may be published elsewhere, or later."""
    there = root / PATH
    there.parent.mkdir(parents=True)
    there.write_bytes(b"what stood here")
    item = ordered(NPZ, ItemType.NPZ, Path(PATH).name, mode=0o444)
    with filled(there.parent, item, NPZ) as part:
        with pytest.raises(NotPublished):
            publish(part, item, root, PATH)
        assert part.path.read_bytes() == NPZ
        assert stat.S_IMODE(part.path.stat().st_mode) == 0o600
        there.unlink()
        publish(part, item, root, PATH)
    assert stat.S_IMODE(there.stat().st_mode) == 0o444


def test_where_files_cannot_be_renamed_without_replacing_they_are_linked(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish_module, "_renameat2", None)
    put(root, NPZ)
    assert (root / PATH).read_bytes() == NPZ
    assert (root / PATH).stat().st_nlink == 1
    assert put(root, NPZ).hashed.inode == (root / PATH).stat().st_ino
    (root / PATH).write_bytes(b"what stood here")
    assert refused(root, NPZ).cause == "occupied"
    assert (root / PATH).read_bytes() == b"what stood here"


@pytest.mark.parametrize("linked", [False, True])
def test_many_at_once_under_one_name_publish_exactly_one(linked: bool, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if linked:
        monkeypatch.setattr(publish_module, "_renameat2", None)
    different = [model(b"%d" % (number % 4)) for number in range(12)]
    path = "models/hex8_2p.pth"
    ready = threading.Barrier(len(different))

    def one(number: int) -> Published | NotPublished:
        item = ordered(different[number], ItemType.MODEL, "hex8_2p.pth")
        with filled(root / "parts" / str(number), item, different[number]) as part:
            ready.wait(60)
            try:
                return publish(part, item, root, path)
            except NotPublished as failure:
                return failure

    with ThreadPoolExecutor(len(different)) as pool:
        told = list(pool.map(one, range(len(different))))
    stands = (root / path).read_bytes()
    for number, outcome in enumerate(told):
        if different[number] == stands:
            assert isinstance(outcome, Published)
        else:
            assert isinstance(outcome, NotPublished)
            assert outcome.cause == "occupied"
    assert files(root / "models") == {"hex8_2p.pth"}


def test_folders_are_made_readable_whatever_the_umask(root: Path) -> None:
    before = os.umask(0o077)
    try:
        folder = make_folder(root, "data/canonical/x.parquet")
    finally:
        os.umask(before)
    assert folder == root / "data/canonical"
    assert [stat.S_IMODE((root / each).stat().st_mode) for each in ("data", "data/canonical")] == [0o755, 0o755]


def test_folders_that_lead_out_of_the_root_are_refused(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "training").mkdir(parents=True)
    (tmp_path / "tree2").mkdir()
    for target in (outside, "../outside", tmp_path / "tree2", root / "missing", "data"):
        (root / "data").symlink_to(target)
        with pytest.raises(NotPublished) as error:
            make_folder(root, PATH)
        assert error.value.cause == "unplaceable"
        (root / "data").unlink()
    (root / "data").mkdir()
    (root / "data/training").symlink_to(outside / "training")
    item = ordered(NPZ, ItemType.NPZ, Path(PATH).name)
    with filled(root / "elsewhere", item, NPZ) as part:
        with pytest.raises(NotPublished) as error:
            publish(part, item, root, PATH)
        assert error.value.cause == "unplaceable"
        assert part.path.exists()
    assert list((outside / "training").iterdir()) == []
    for path in ("../x.npz", "/etc/x.npz", "data/../../x.npz", ""):
        with pytest.raises(NotPublished):
            make_folder(root, path)


def test_links_inside_the_root_are_followed(root: Path) -> None:
    (root / "volume/data").mkdir(parents=True)
    (root / "data").symlink_to("volume/data")
    put(root, NPZ)
    assert (root / "volume" / PATH).read_bytes() == NPZ


def test_a_root_that_is_not_mounted_is_not_made(tmp_path: Path) -> None:
    item = ordered(NPZ, ItemType.NPZ, Path(PATH).name)
    with filled(tmp_path / "parts", item, NPZ) as part, pytest.raises(NotPublished) as error:
        publish(part, item, tmp_path / "drive", PATH)
    assert error.value.cause == "unplaceable"
    assert not (tmp_path / "drive").exists()


def test_a_file_where_a_folder_should_be(root: Path) -> None:
    (root / "data").write_bytes(b"")
    with pytest.raises(NotPublished) as error:
        make_folder(root, PATH)
    assert error.value.cause == "unplaceable"


def test_many_are_published_in_order_and_one_that_fails_keeps_no_other_away(root: Path) -> None:
    contents_ = [model(b"%d" % number) for number in range(40)]
    arrivals = []
    for number, content in enumerate(contents_):
        item = ordered(content, ItemType.MODEL, f"hex8_2p_{number}.pth")
        came = content if number % 10 else content[:-1] + b"x"
        arrivals.append(Arrival(filled(root / "models", item, came), item, f"models/{item.name}"))
    told = publish_many(arrivals, root)
    assert [isinstance(outcome, Published) for outcome in told] == [bool(number % 10) for number in range(40)]
    for number, outcome in enumerate(told):
        if isinstance(outcome, Published):
            assert (root / outcome.path).read_bytes() == contents_[number]
        else:
            assert outcome.cause == "wrong_bytes"
    assert len(files(root / "models")) == 36


@pytest.mark.parametrize(
    ("code", "cause"), [(errno.ENOSPC, "no_room"), (errno.EROFS, "read_only"), (errno.EIO, "disk_error"), (errno.EDQUOT, "no_room")]
)
def test_a_disk_that_cannot_keep_it(code: int, cause: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that did not reach the disk is told as published: neither file nor folder."""
    item = ordered(NPZ, ItemType.NPZ, Path(PATH).name)
    with filled(root / "data/training", item, NPZ) as part:
        sync = os.fsync
        for failing in (stat.S_ISREG, stat.S_ISDIR):

            def broken(descriptor: int, failing: Callable[[int], bool] = failing) -> None:
                if failing(os.fstat(descriptor).st_mode):
                    raise OSError(code, os.strerror(code))
                sync(descriptor)

            monkeypatch.setattr(os, "fsync", broken)
            with pytest.raises(NotPublished) as error:
                publish(part, item, root, PATH)
            assert error.value.cause == cause
            assert files(root / "data/training") == ({Path(PATH).name} if failing is stat.S_ISDIR else set())
            monkeypatch.setattr(os, "fsync", sync)


# Databases


@pytest.fixture(scope="session")
def like(recorded: Callable[[str], Path]) -> Path:
    return recorded("square8_2p_full")


def still(path: Path) -> bytes:
    """A finished database's bytes."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    return path.read_bytes()


LIVE = "data/games/selfplay_square8_2p.db"


def test_games_are_added_to_the_database_that_stands_there(root: Path, tmp_path: Path, like: Path) -> None:
    (root / "data/games").mkdir(parents=True)
    live = make(root / LIVE, like, [("a", "1"), ("b", "2")])
    live.chmod(0o664)
    coming = still(make(tmp_path / "incoming.db", like, [("b", "other"), ("c", "3")]))
    told = put(root, coming, LIVE, type=ItemType.GAME_DB, merge=True)
    assert (told.path, told.merged, told.facts.games) == (LIVE, 1, 2)
    assert contents(live) == {"a": "1", "b": "2", "c": "3"}
    assert stat.S_IMODE(live.stat().st_mode) == 0o664
    assert files(live.parent) == {live.name}
    assert put(root, coming, LIVE, type=ItemType.GAME_DB, merge=True).merged == 0


def test_where_no_database_stands_it_becomes_that_one(root: Path, tmp_path: Path, like: Path) -> None:
    coming = still(make(tmp_path / "incoming.db", like, [("a", "1"), ("b", "2")]))
    told = put(root, coming, LIVE, type=ItemType.GAME_DB, merge=True)
    assert told.merged == 2
    assert contents(root / LIVE) == {"a": "1", "b": "2"}
    assert not TreeInventory("gpu-1", root, NODE, tmp_path / "state").adopt(LIVE, told.hashed, told.facts), "it will change"


def test_merges_at_once_where_no_database_stood_are_the_union(root: Path, tmp_path: Path, like: Path) -> None:
    coming = [
        still(make(tmp_path / f"{number}.db", like, [(f"g{each}", f"{each}") for each in range(number, number + 20)]))
        for number in range(0, 40, 10)
    ]
    ready = threading.Barrier(len(coming))

    def one(content: bytes) -> int:
        item = ordered(content, ItemType.GAME_DB, Path(LIVE).name, merge=True)
        with filled(root / "parts" / item.sha256, item, content) as part:
            ready.wait(60)
            return publish(part, item, root, LIVE).merged or 0

    with ThreadPoolExecutor(len(coming)) as pool:
        added = list(pool.map(one, coming))
    assert sum(added) == 50
    assert contents(root / LIVE) == {f"g{each}": f"{each}" for each in range(50)}


def test_a_database_never_takes_the_place_of_another(root: Path, tmp_path: Path, like: Path) -> None:
    (root / "data/games").mkdir(parents=True)
    live = make(root / LIVE, like, [("a", "1")])
    content = live.read_bytes()
    coming = still(make(tmp_path / "incoming.db", like, [("a", "1"), ("b", "2")]))
    assert refused(root, coming, LIVE, type=ItemType.GAME_DB).cause == "would_lose_games"
    assert live.read_bytes() == content


def test_a_database_named_by_its_hash_that_somebody_writes_to_stays(root: Path, tmp_path: Path, like: Path) -> None:
    coming = still(make(tmp_path / "incoming.db", like, [("a", "1")]))
    path = f"data/sync_incoming/{hashlib.sha256(coming).hexdigest()}.db"
    put(root, coming, path, type=ItemType.GAME_DB)
    with closing(sqlite3.connect(root / path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        with connection:
            record(connection, "b", "2")
        assert refused(root, coming, path, type=ItemType.GAME_DB).cause == "occupied"
    assert refused(root, coming, path, type=ItemType.GAME_DB).cause == "occupied"
    assert contents(root / path) == {"a": "1", "b": "2"}
    (root / path).write_bytes(coming[:8192])
    (root / f"{path}-shm").write_bytes(b"stale")
    put(root, coming, path, type=ItemType.GAME_DB)
    assert not (root / f"{path}-shm").exists()
    assert contents(root / path) == {"a": "1"}


def test_what_cannot_be_merged_into_stays_as_it_is(root: Path, tmp_path: Path, like: Path) -> None:
    coming = still(make(tmp_path / "incoming.db", like, [("a", "1")]))
    there = root / LIVE
    there.parent.mkdir(parents=True)
    make(root / "other.db", like)
    for make_it in (
        lambda: there.write_bytes(b"no database" * 100),
        there.touch,
        there.mkdir,
        lambda: there.symlink_to(root / "other.db"),
    ):
        make_it()
        assert refused(root, coming, LIVE, type=ItemType.GAME_DB, merge=True).cause == "occupied"
        there.rmdir() if there.is_dir() else there.unlink()
    assert game_ids(root / "other.db") == set()


def test_foreign_triggers_never_get_into_a_live_database(root: Path, tmp_path: Path, like: Path) -> None:
    path = make(tmp_path / "incoming.db", like, [("a", "1")])
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TRIGGER eats AFTER INSERT ON games BEGIN DELETE FROM games; END")
    hostile = still(path)
    failure = refused(root, hostile, LIVE, type=ItemType.GAME_DB, merge=True)
    assert (failure.cause, "eats" in failure.detail) == ("not_sound", True)
    make(root / LIVE, like, [("b", "2")])
    assert put(root, hostile, LIVE, type=ItemType.GAME_DB, merge=True).merged == 1
    assert contents(root / LIVE) == {"a": "1", "b": "2"}


def test_games_of_one_config_do_not_get_into_the_database_of_another(root: Path, recorded: Callable[[str], Path]) -> None:
    content = recorded("canonical_hex8_2p").read_bytes()
    failure = refused(root, content, "data/games/canonical_square8_2p.db", type=ItemType.GAME_DB, merge=True)
    assert (failure.cause, "hex8_2p" in failure.detail) == ("unplaceable", True)
    assert put(root, content, "data/games/canonical_hex8_2p.db", type=ItemType.GAME_DB, merge=True).merged
    assert put(root, content, "data/games/selfplay.db", type=ItemType.GAME_DB, merge=True).merged


def test_a_table_that_says_otherwise_than_the_content(root: Path, like: Path, tmp_path: Path) -> None:
    """A part that changes after it was hashed is not what was ordered."""
    content = model(b"first")
    item = ordered(content, ItemType.MODEL, "hex8_2p.pth")

    @dataclasses.dataclass
    class Rewritten:
        path: Path

        def digest(self) -> str:
            return item.sha256

        def discard(self) -> None:
            self.path.unlink(missing_ok=True)

    (root / "models").mkdir()
    part = Rewritten(root / "models/.part")
    for make_it in (lambda: shutil.copy(like, part.path), lambda: part.path.write_bytes(model(b"other"))):
        make_it()
        with pytest.raises(NotPublished) as error:
            publish(part, item, root, "models/hex8_2p.pth")
        assert error.value.cause == "wrong_bytes"
    assert files(root / "models") == set()
