"""A corrupt NPZ made training fail for good: it came, or rotted, and stood in the way of every sound one."""

from __future__ import annotations

from pathlib import Path

from ringrift_dagster.manifest.inventory import ItemType
from ringrift_dagster.manifest.sources.layouts import NODE
from ringrift_dagster.manifest.sources.tree import TreeInventory
from ringrift_dagster.transfer.model import OrderedItem
from ringrift_dagster.transfer.part import PartFile
from ringrift_dagster.transfer.placement import file_name, place
from ringrift_dagster.transfer.publish import NotPublished, Published, publish
from tests.transfer.arrivals import ordered

DAMAGED = Path(__file__).parents[1] / "data" / "damaged"
SOUND = (DAMAGED / "base_ok.npz").read_bytes()


def npz(content: bytes) -> OrderedItem:
    item = ordered(content, ItemType.NPZ, "any.npz", config="square8_3p")
    return item.model_copy(update={"name": file_name(item, ".npz")})


def arrive(root: Path, item: OrderedItem, *tries: bytes) -> Published | NotPublished:
    """What an agent does with what sources send, one after the other: wrong bytes are fetched again."""
    path = place("tree", NODE, item)
    folder = (root / path).parent
    folder.mkdir(parents=True, exist_ok=True)
    outcome: Published | NotPublished | None = None
    with PartFile.open(folder, item.name, item.sha256, item.size, None) as part:
        for content in tries:
            assert part.put(0, content)
            try:
                return publish(part, item, root, path)
            except NotPublished as failure:
                outcome = failure
                assert not list(folder.glob("*.npz"))
                part.forget()
        part.discard()
    assert outcome is not None
    return outcome


def test_corrupted_on_the_way_it_is_fetched_again(tmp_path: Path) -> None:
    flipped = SOUND[:500] + bytes([SOUND[500] ^ 8]) + SOUND[501:]
    told = arrive(tmp_path, npz(SOUND), flipped, bytes(len(SOUND)), SOUND)
    assert isinstance(told, Published)
    assert (tmp_path / told.path).read_bytes() == SOUND


def test_corrupt_at_its_source_it_is_refused_and_the_next_export_is_not(tmp_path: Path) -> None:
    for name in ("not_zip", "truncated", "corrupt_crc", "mismatched_lengths", "missing_keys"):
        content = (DAMAGED / f"{name}.npz").read_bytes()
        told = arrive(tmp_path, npz(content), content)
        assert isinstance(told, NotPublished)
        assert told.cause == "not_sound"
    assert list((tmp_path / "data/training").iterdir()) == []
    assert isinstance(arrive(tmp_path, npz(SOUND), SOUND), Published)


def test_rotten_on_its_disk_it_is_noticed_and_the_sound_copy_takes_its_place(tmp_path: Path) -> None:
    tree = TreeInventory("gpu-1", tmp_path, NODE)
    item = npz(SOUND)
    told = arrive(tmp_path, item, SOUND)
    assert isinstance(told, Published)
    assert tree.adopt(told.path, told.hashed, told.facts)
    rotten = tmp_path / told.path
    with rotten.open("r+b") as file:
        file.seek(300)
        file.write(b"\xff" * 64)
    tree.scan()
    assert tree.inventory(None).found[0].sha256 != item.sha256
    again = arrive(tmp_path, item, SOUND)
    assert isinstance(again, Published)
    assert again.path == told.path
    assert rotten.read_bytes() == SOUND
    assert tree.adopt(again.path, again.hashed, again.facts)
    assert [(each.sha256, each.soundness) for each in tree.inventory(None).found] == [(item.sha256, "SOUND")]
    (kept,) = (rotten.parent / "corrupted").iterdir()
    assert kept.stat().st_size == len(SOUND)
