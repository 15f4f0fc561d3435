"""Copies that are known for certain: made, doubted, dropped; counters agree, and no older answer undoes them."""

from __future__ import annotations

import pytest

from ringrift_dagster.manifest import replicas
from ringrift_dagster.manifest.changes import changes_since
from ringrift_dagster.manifest.consistency import disagreements
from ringrift_dagster.manifest.locations import location
from ringrift_dagster.manifest.orphans import open_orphans
from ringrift_dagster.manifest.queries import best_sources, lost, where
from ringrift_dagster.manifest.states import HELD
from ringrift_dagster.manifest.store import Store
from tests.manifest.telling import declared, dies, digest_of, item, tell

HERE, THERE = "data/training/a.npz", "data/training/hex8_2p_0123.npz"


@pytest.fixture(autouse=True)
def _told(store: Store) -> None:
    declared(store)
    tell(store, "vast-1", [item(HERE, "a", newest_game=50.0, mtime=9.0, verified_at=9.0), item("data/training/b.npz", "b")], at=10)


def states(store: Store, content: str) -> dict[str, str]:
    return {f"{copy.location}/{copy.path}": copy.state for copy in where(store, digest_of(content)).copies}


def arrives(store: Store, content: str = "a", path: str = THERE, at: float = 20.0) -> None:
    with store.writing() as writer:
        replicas.record_copy(writer, "nebius-1", digest_of(content), path, mtime=at, verified_at=at, at=at)


def test_a_copy_that_was_made_counts_at_once(store: Store) -> None:
    tell(store, "nebius-1", at=11)
    arrives(store)
    assert states(store, "a") == {f"vast-1/{HERE}": "AVAILABLE", f"nebius-1/{THERE}": "AVAILABLE"}
    place = location(store, "nebius-1")
    assert place is not None and (place.replicas, place.bytes) == (1, 1)
    assert best_sources(store, digest_of("a"), "nebius-1")[0].location == "nebius-1"
    assert disagreements(store) == []


def test_recorded_twice_it_is_one_copy(store: Store) -> None:
    arrives(store)
    arrives(store, at=25.0)
    place = location(store, "nebius-1")
    assert place is not None and (place.replicas, place.bytes) == (1, 1)
    assert [copy.verified_at for copy in where(store, digest_of("a")).copies if copy.location == "nebius-1"] == [25.0]
    assert disagreements(store) == []


def test_what_stood_at_its_path_before_is_lost(store: Store) -> None:
    tell(store, "nebius-1", [item(THERE, "old")], at=11)
    arrives(store)
    assert states(store, "old") == {f"nebius-1/{THERE}": "LOST"}
    assert states(store, "a")[f"nebius-1/{THERE}"] == "AVAILABLE"
    assert disagreements(store) == []


def test_an_answer_that_was_asked_for_before_cannot_undo_it(store: Store) -> None:
    tell(store, "nebius-1", [item("data/training/z.npz", "z")], at=11)
    asked = store.revision()
    arrives(store)
    tell(store, "nebius-1", [item("data/training/z.npz", "z")], at=21, before=asked)
    assert states(store, "a")[f"nebius-1/{THERE}"] == "AVAILABLE"
    tell(store, "nebius-1", [item("data/training/z.npz", "z")], at=30)
    assert states(store, "a")[f"nebius-1/{THERE}"] == "LOST", "a later one may"
    assert disagreements(store) == []


def test_the_next_answer_that_names_it_changes_nothing(store: Store) -> None:
    tell(store, "nebius-1", at=11)
    arrives(store)
    assert not tell(store, "nebius-1", [item(THERE, "a", mtime=20.0, verified_at=20.0)], at=30)


def test_a_copy_ends_an_orphan(store: Store) -> None:
    tell(store, "nebius-1", at=11)
    dies(store, "vast-1", at=12)
    assert {orphan.sha256 for orphan in open_orphans(store)} == {digest_of("a"), digest_of("b")}
    arrives(store)
    assert {orphan.sha256 for orphan in open_orphans(store)} == {digest_of("b")}


def test_what_a_brake_held_is_there_again(store: Store) -> None:
    tell(store, "nebius-1", [item(f"{number}.npz", f"content {number}") for number in range(20)], at=11)
    tell(store, "nebius-1", at=12)
    assert {copy.reason for copy in where(store, digest_of("content 0")).copies} == {HELD}
    arrives(store, "content 0", "0.npz")
    place = location(store, "nebius-1")
    assert place is not None and (place.replicas, place.held) == (1, 19)
    assert disagreements(store) == []


def test_many_at_once_are_one_change(store: Store) -> None:
    tell(store, "vast-2", [item(f"{number}.npz", f"content {number}") for number in range(1200)], at=11)
    made = [replicas.Made(digest_of(f"content {number}"), f"new/{number}.npz", 5.0, 5.0) for number in range(1200)]
    before = store.revision()
    with store.writing() as writer:
        replicas.record_copies(writer, "nebius-1", made, at=20)
    assert store.revision() == before + 1
    place = location(store, "nebius-1")
    assert place is not None and place.replicas == 1200
    assert disagreements(store) == []


@pytest.mark.parametrize(("name", "content"), [("nowhere", "a"), ("nebius-1", "unheard of")])
def test_what_nobody_knows_is_not_recorded(store: Store, name: str, content: str) -> None:
    before = store.revision()
    with pytest.raises(KeyError), store.writing() as writer:
        replicas.record_copy(writer, name, digest_of(content), THERE, mtime=1, verified_at=1, at=20)
    assert store.revision() == before


def test_a_doubted_copy_is_no_source_until_it_was_verified_again(store: Store) -> None:
    arrives(store)
    with store.writing() as writer:
        assert replicas.suspect(writer, "vast-1", digest_of("a"), "sent wrong bytes", at=30) == 1
        assert replicas.suspect(writer, "vast-1", digest_of("a"), "sent wrong bytes", at=30) == 0
    assert [source.location for source in best_sources(store, digest_of("a"), "vast-1")] == []
    assert states(store, "a")[f"vast-1/{HERE}"] == "SUSPICIOUS"
    assert [change.location for change in changes_since(store, 0) if change.kind == "REPLICA_SUSPECTED"] == ["vast-1"]
    assert disagreements(store) == []
    tell(store, "vast-1", [item(HERE, "a", newest_game=50.0, mtime=9.0, verified_at=9.0)], at=40, full=False)
    assert states(store, "a")[f"vast-1/{HERE}"] == "SUSPICIOUS", "being listed is no proof"
    tell(store, "vast-1", [item(HERE, "a", newest_game=50.0, mtime=9.0, verified_at=45.0)], at=50, full=False)
    assert states(store, "a")[f"vast-1/{HERE}"] == "AVAILABLE"
    assert disagreements(store) == []


def test_an_item_whose_only_copy_is_doubted_cannot_be_had(store: Store) -> None:
    with store.writing() as writer:
        replicas.suspect(writer, "vast-1", digest_of("a"), "sent wrong bytes", at=30)
    assert [orphan.sha256 for orphan in open_orphans(store)] == [digest_of("a")]


def test_a_dropped_copy_stays_dropped_and_is_no_loss(store: Store) -> None:
    arrives(store)
    tell(store, "nebius-1", [item(THERE, "a", mtime=20.0)], at=21)
    asked = store.revision()
    with store.writing() as writer:
        assert replicas.drop(writer, "vast-1", digest_of("a"), why="retention", at=30) == 1
    place = location(store, "vast-1")
    assert place is not None and place.replicas == 1
    tell(store, "vast-1", [item(HERE, "a"), item("data/training/b.npz", "b")], at=31, before=asked)
    assert states(store, "a") == {f"vast-1/{HERE}": "LOST", f"nebius-1/{THERE}": "AVAILABLE"}
    assert [change.detail["why"] for change in changes_since(store, 0) if change.kind == "REPLICA_DROPPED"] == ["retention"]
    assert lost(store) == [] and open_orphans(store) == []
    assert disagreements(store) == []
