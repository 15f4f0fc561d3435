"""Where items belong: always where the root's own scan finds them as what they are, and never outside."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ringrift_dagster.manifest.inventory import ItemType
from ringrift_dagster.manifest.sources.layouts import DRIVE, NODE, SHARED, Layout, drive
from ringrift_dagster.transfer.model import Offer, OrderedItem, TransportName
from ringrift_dagster.transfer.placement import Unplaceable, file_name, place

HASH = "0123456789abcdef" * 4
LAYOUTS: dict[str, Layout] = {"tree": NODE, "drive": DRIVE, "shared": SHARED}
SUFFIXES = {
    ItemType.GAME_DB: [".db"],
    ItemType.NPZ: [".npz"],
    ItemType.CANONICAL_GAMES: [".parquet"],
    ItemType.MODEL: [".pth", ".pt", ".onnx"],
    ItemType.CHECKPOINT: [".pth", ".pt", ".onnx"],
}


@dataclass(frozen=True)
class Item:
    """An item as the manifest knows it."""

    sha256: str = HASH
    type: str = "NPZ"
    config: str | None = "hex8_2p"


def ordered(type: ItemType, name: str, *, merge: bool = False) -> OrderedItem:
    offer = Offer(transport=TransportName.HTTP, location="gpu-1", address=f"http://127.0.0.1:1/v1/objects/{HASH}")
    return OrderedItem(sha256=HASH, size=1, type=type, name=name, merge=merge, offers=(offer,))


@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("type_", ItemType)
@pytest.mark.parametrize("config", ["square19_4p", None])
def test_every_item_has_a_place_of_its_type_under_every_root(kind: str, type_: ItemType, config: str | None) -> None:
    layout = LAYOUTS[kind]
    for suffix in SUFFIXES[type_]:
        name = file_name(Item(type=type_, config=config), suffix)
        path = place(kind, layout, ordered(type_, name))
        rule = layout.rule(path)
        assert rule is not None
        assert rule.type == type_
        assert path.endswith(f"/{name}")
        assert not layout.is_set_aside(path)


def test_names_say_config_and_content() -> None:
    assert file_name(Item(), ".npz") == f"hex8_2p_{HASH[:12]}.npz"
    assert file_name(Item(type="MODEL"), ".onnx") == f"hex8_2p_{HASH[:12]}.onnx"
    assert file_name(Item(type="CHECKPOINT"), ".pth") == f"candidate_hex8_2p_{HASH[:12]}.pth"
    assert file_name(Item(type="GAME_DB"), ".db") == f"{HASH}.db"
    assert file_name(Item(type="CANONICAL_GAMES", config=None), ".parquet") == f"any_{HASH[:12]}.parquet"


def test_another_content_has_another_name() -> None:
    other = Item(sha256="f" + HASH[1:])
    for type_, suffixes in SUFFIXES.items():
        names = [file_name(dataclasses.replace(item, type=type_), suffixes[0]) for item in (Item(), other)]
        assert len(set(names)) == 2


@pytest.mark.parametrize(("type_", "suffix"), [("NPZ", ".db"), ("GAME_DB", ".db-wal"), ("MODEL", ""), ("NPZ", ".npz.part")])
def test_a_suffix_that_the_type_does_not_have(type_: str, suffix: str) -> None:
    with pytest.raises(Unplaceable):
        file_name(Item(type=type_), suffix)


def test_folders_of_a_hosts_tree() -> None:
    assert place("tree", NODE, ordered(ItemType.NPZ, "hex8_2p_1.npz")) == "data/training/hex8_2p_1.npz"
    assert place("tree", NODE, ordered(ItemType.MODEL, "canonical_hex8_2p.pth")) == "models/canonical_hex8_2p.pth"
    assert place("tree", NODE, ordered(ItemType.CHECKPOINT, "candidate_hex8_2p.pth")) == "models/candidate_hex8_2p.pth"
    assert place("tree", NODE, ordered(ItemType.CHECKPOINT, "hex8_2p_e3.pth")) == "checkpoints/hex8_2p_e3.pth"
    assert place("tree", NODE, ordered(ItemType.GAME_DB, f"{HASH}.db")) == f"data/sync_incoming/{HASH}.db"
    assert place("tree", NODE, ordered(ItemType.GAME_DB, "selfplay.db", merge=True)) == "data/games/selfplay.db"


@pytest.mark.parametrize(
    ("kind", "type_", "name", "merge"),
    [
        ("tree", ItemType.GAME_DB, "canonical_hex8_2p.db", False),  # would be live
        ("tree", ItemType.GAME_DB, f"{'f' * 64}.db", False),  # another's hash
        ("tree", ItemType.GAME_DB, f"{HASH}.db", True),  # a finished database never grows
        ("drive", ItemType.GAME_DB, "selfplay.db", True),  # an item there: it never changes
        ("shared", ItemType.GAME_DB, "selfplay.db", True),
        ("tree", ItemType.NPZ, "hex8_2p.npz", True),
        ("tree", ItemType.MODEL, "candidate_hex8_2p.pth", False),  # would be found as a checkpoint
        ("drive", ItemType.MODEL, "candidate_hex8_2p.pth", False),
        ("tree", ItemType.NPZ, "hex8_2p.db", False),
        ("tree", ItemType.NPZ, "hex8_2p.npz.part", False),
        ("tree", ItemType.GAME_DB, "selfplay.db-wal", True),
        ("home", ItemType.NPZ, "hex8_2p.npz", False),
        ("elsewhere", ItemType.NPZ, "hex8_2p.npz", False),
    ],
)
def test_what_has_no_place(kind: str, type_: ItemType, name: str, merge: bool) -> None:
    with pytest.raises(Unplaceable):
        place(kind, LAYOUTS.get(kind, NODE), ordered(type_, name, merge=merge))


def test_folders_that_an_operator_added_to_a_drive_change_no_place() -> None:
    path = place("drive", drive(["owc/training"]), ordered(ItemType.NPZ, "hex8_2p_1.npz"))
    assert path == "canonical_data/hex8_2p_1.npz"


@given(name=st.text(max_size=30), type_=st.sampled_from(ItemType), kind=st.sampled_from(sorted(LAYOUTS)), merge=st.booleans())
def test_no_name_leads_anywhere_else(name: str, type_: ItemType, kind: str, merge: bool) -> None:
    try:
        path = place(kind, LAYOUTS[kind], ordered(type_, name, merge=merge))
    except (Unplaceable, ValidationError):
        return
    assert path.count("/") <= 2
    assert ".." not in path.split("/")
    rule = LAYOUTS[kind].rule(path)
    assert rule is not None
    assert rule.type == type_
