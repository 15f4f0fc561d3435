"""Items that cannot be reached: found when a place goes dark, closed when it comes back, with a way back for each."""

from __future__ import annotations

import pytest

from ringrift_dagster.manifest.changes import changes_since
from ringrift_dagster.manifest.inventory import Soundness
from ringrift_dagster.manifest.locations import register
from ringrift_dagster.manifest.orphans import Orphanhood, accept_loss, open_orphans
from ringrift_dagster.manifest.store import Store
from tests.manifest.telling import declared, dies, digest_of, item, places, silent, tell

SECOND_CYCLE = 30.0


@pytest.fixture(autouse=True)
def _declared(store: Store) -> None:
    declared(store)


def kinds(store: Store) -> list[str]:
    return [change.kind for change in changes_since(store, 0) if change.kind.startswith(("ORPHAN", "HOST", "LOCATION_U"))]


def test_a_dead_host_strands_what_only_it_had(store: Store) -> None:
    tell(store, "vast-1", [item("a.npz", "a"), item("b.npz", "b"), item("bad.npz", "bad", soundness=Soundness.UNSOUND)], at=1)
    tell(store, "nebius-1", [item("b.npz", "b")], at=1)
    silent(store, "vast-1", at=1 + SECOND_CYCLE)
    silent(store, "vast-1", at=3 + SECOND_CYCLE)
    (orphan,) = open_orphans(store)
    assert (orphan.sha256, orphan.kind, orphan.location, orphan.path) == (digest_of("a"), Orphanhood.STRANDED, "vast-1", "a.npz")
    assert orphan.detected_at - 1 < 60
    assert orphan.proposal == "bring vast-1 back, or its disk"
    told = [change for change in changes_since(store, 0) if change.kind == "ORPHAN_DETECTED"]
    assert [(change.location, change.detail["items"], change.detail["orphans"]) for change in told] == [("vast-1", 1, "stranded")]


def test_the_second_of_two_deaths_strands_what_both_had(store: Store) -> None:
    for host in ("vast-1", "vast-2"):
        tell(store, host, [item("a.npz", "a")], at=1)
    dies(store, "vast-1", at=50)
    assert open_orphans(store) == []
    dies(store, "vast-2", at=90)
    assert [orphan.location for orphan in open_orphans(store)] == ["vast-2"]


@pytest.mark.parametrize("where", ["vast-1", "nebius-1"])
def test_an_orphan_is_closed_when_a_copy_answers_again_anywhere(store: Store, where: str) -> None:
    tell(store, "vast-1", [item("a.npz", "a")], at=1)
    tell(store, "nebius-1", at=1)
    dies(store, "vast-1", at=50)
    tell(store, where, [item("a.npz", "a")], at=100)
    assert open_orphans(store) == []
    assert kinds(store)[-1] == "ORPHANS_RESOLVED"


def test_an_unmounted_drive_is_unavailable_at_once_and_nothing_on_it_is_lost(store: Store) -> None:
    tell(store, "drive", [item(f"{number}.npz", f"content {number}") for number in range(30)], at=1)
    assert silent(store, "drive", at=2, code="not_mounted")
    found = open_orphans(store)
    assert len(found) == 30
    assert {(orphan.kind, orphan.proposal) for orphan in found} == {(Orphanhood.STRANDED, "mount drive")}
    assert "LOCATION_UNAVAILABLE" in kinds(store)
    tell(store, "drive", [item(f"{number}.npz", f"content {number}") for number in range(30)], at=9)
    assert open_orphans(store) == []


def test_the_easiest_way_back_is_proposed(store: Store) -> None:
    tell(store, "vast-1", [item("a.npz", "a"), item("b.npz", "b"), item("c.npz", "c")], at=1)
    tell(store, "drive", [item("a.npz", "a")], at=1)
    tell(store, "bucket", [item("b.npz", "b", provenance={"storage_class": "GLACIER"})], at=1)
    silent(store, "drive", at=2, code="not_mounted")
    dies(store, "vast-1", at=50)
    proposals = {orphan.sha256: orphan.proposal for orphan in open_orphans(store)}
    assert proposals == {
        digest_of("a"): "mount drive",
        digest_of("b"): "restore b.npz from the archive of bucket",
        digest_of("c"): "bring vast-1 back, or its disk",
    }


def test_the_last_copy_that_vanishes_is_lost(store: Store) -> None:
    tell(store, "vast-1", [item("a.npz", "a"), item("keep.npz", "keep"), item("more.npz", "more")], at=1)
    tell(store, "vast-1", [item("keep.npz", "keep"), item("more.npz", "more")], at=2)
    (orphan,) = open_orphans(store)
    assert (orphan.kind, orphan.proposal) == (Orphanhood.LOST, "no copy is known any more: make it again")


def test_a_damaged_last_copy_is_an_orphan_too(store: Store) -> None:
    tell(store, "vast-1", [item("a.npz", "a", verified_at=1.0)], at=1)
    tell(store, "vast-1", [item("a.npz", "a", verified_at=2.0, damaged=True)], at=2)
    assert [orphan.kind for orphan in open_orphans(store)] == [Orphanhood.LOST]


def detected(store: Store) -> list[tuple[str | None, str, int]]:
    """Every time orphans were told of: where, as what, how many."""
    told = (change for change in changes_since(store, 0) if change.kind == "ORPHAN_DETECTED")
    return [(change.location, change.detail["orphans"], change.detail["items"]) for change in told]


def test_what_only_removed_locations_had_is_stranded(store: Store) -> None:
    for host in ("vast-1", "vast-2"):
        tell(store, host, [item("a.npz", "a")], at=1)
    tell(store, "nebius-1", [item("b.npz", "b")], at=1)
    register(store, [place for place in places() if not place.name.startswith("vast")], at=10)
    (orphan,) = open_orphans(store)
    assert (orphan.sha256, orphan.kind) == (digest_of("a"), Orphanhood.STRANDED)
    assert detected(store) == [(orphan.location, "stranded", 1)]
    register(store, places(), at=20)
    tell(store, "vast-1", [item("a.npz", "a")], at=21)
    assert open_orphans(store) == []


def test_what_was_stranded_and_is_lost_is_told_again(store: Store) -> None:
    kept = [item(f"{number}.npz", f"content {number}") for number in range(9)]
    tell(store, "drive", [*kept, item("a.npz", "a"), item("b.npz", "b")], at=1)
    tell(store, "vast-1", kept, at=1)
    silent(store, "drive", at=2, code="not_mounted")
    tell(store, "drive", [*kept, item("b.npz", "b")], at=3)
    (orphan,) = open_orphans(store)
    assert (orphan.sha256, orphan.kind, orphan.detected_at) == (digest_of("a"), Orphanhood.LOST, 3)
    assert orphan.proposal == "no copy is known any more: make it again"
    assert detected(store) == [("drive", "stranded", 2), ("drive", "lost", 1)]


def test_sole_copies_that_the_brake_holds_are_stranded_until_they_return_or_are_given_up(store: Store) -> None:
    everything = [item(f"{number}.npz", f"content {number}") for number in range(8)]
    tell(store, "drive", everything, at=1)
    tell(store, "vast-1", everything[6:], at=1)
    assert tell(store, "drive", [], at=2).held == 8
    assert {(orphan.kind, orphan.proposal) for orphan in open_orphans(store)} == {
        (Orphanhood.STRANDED, "look at drive: much is missing there at once")
    }
    tell(store, "drive", everything[:5], at=3)
    assert [orphan.sha256 for orphan in open_orphans(store)] == [digest_of("content 5")]
    accept_loss(store, "drive", at=4)
    assert [orphan.kind for orphan in open_orphans(store)] == [Orphanhood.LOST]
    assert detected(store) == [("drive", "stranded", 6), ("drive", "lost", 1)]
    tell(store, "nebius-1", everything, at=5)
    assert open_orphans(store) == []
