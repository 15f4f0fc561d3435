"""The manifest's answers: where, from whom best, what is good, what is in danger; the same on both databases."""

from __future__ import annotations

import pytest

from ringrift_dagster.manifest import queries
from ringrift_dagster.manifest.inventory import ItemType, Soundness
from ringrift_dagster.manifest.queries import AmbiguousItem, UnknownItem, best_sources, find_item, where
from ringrift_dagster.manifest.store import Store, StoreError
from tests.manifest.telling import declared, dies, digest_of, item, silent, tell

DATA = "data/training/hex8_2p.npz"


@pytest.fixture(autouse=True)
def _declared(store: Store) -> None:
    declared(store)


def test_an_item_is_found_by_hash_beginning_or_name(store: Store) -> None:
    tell(store, "vast-1", [item(DATA, "x")], at=1)
    for text in (digest_of("x"), digest_of("x")[:6], DATA, "hex8_2p.npz"):
        assert find_item(store, text) == digest_of("x")
    for text in ("hex8", "8_2p.npz", "%", "hex8_2p_npz", digest_of("y"), "f" * 70, ""):
        with pytest.raises(UnknownItem):
            find_item(store, text)


def test_a_name_of_two_contents_is_ambiguous(store: Store) -> None:
    tell(store, "vast-1", [item(DATA, "x")], at=1)
    tell(store, "vast-2", [item(DATA, "y")], at=1)
    with pytest.raises(AmbiguousItem) as error:
        find_item(store, "hex8_2p.npz")
    assert sorted(error.value.matches) == sorted([digest_of("x"), digest_of("y")])


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("vast-1", {"vast-1": "already there", "vast-2": "same rack", "nfs": "lowest latency", "nebius-1": "lowest latency"}),
        ("vast-2", {"nfs": "shared file system in place", "vast-2": "already there", "vast-1": "same rack"}),
        (
            "nowhere",
            {"nfs": "lowest latency", "nebius-1": "lowest latency", "vast-1": "lowest latency", "vast-2": "lowest latency"},
        ),
    ],
)
def test_sources_are_ranked_by_nearness_then_latency(store: Store, host: str, expected: dict[str, str]) -> None:
    latencies = {"vast-1": 0.3, "vast-2": 0.4, "nebius-1": 0.2, "nfs": 0.1, "bucket": None}
    for place, latency in latencies.items():
        tell(store, place, [item(DATA, "x")], at=1, latency=latency)
    found = [(source.location, source.why) for source in best_sources(store, digest_of("x"), host)]
    assert found[: len(expected)] == list(expected.items())
    assert found[-1] == ("bucket", "any")


def test_only_copies_that_can_be_read_now_are_sources(store: Store) -> None:
    for place in ("vast-1", "nebius-1"):
        tell(store, place, [item(DATA, "x")], at=1)
    dies(store, "vast-1", at=50)
    tell(store, "bucket", [item(DATA, "x", provenance={"storage_class": "DEEP_ARCHIVE"})], at=60)
    assert [source.location for source in best_sources(store, digest_of("x"), "vast-1")] == ["nebius-1"]
    copies = {copy.location: (copy.state, copy.reason) for copy in where(store, digest_of("x")).copies}
    assert copies["vast-1"] == ("UNAVAILABLE", "vast-1 is OFFLINE")
    assert best_sources(store, digest_of("unknown"), "vast-1") == []


def test_items_by_quality_leave_out_what_is_not_known_to_be_good_enough(store: Store) -> None:
    facts = {
        "best": {"quality": 0.9, "samples": 10, "newest_game": 50.0},
        "good": {"quality": 0.7, "samples": 900, "newest_game": 90.0},
        "older": {"quality": 0.7, "samples": 900, "newest_game": 10.0},
        "unscored": {"samples": 5000},
        "unsound": {"quality": 1.0, "samples": 5000, "newest_game": 90.0, "soundness": Soundness.UNSOUND},
    }
    tell(store, "vast-1", [item(f"{name}.npz", name, **told) for name, told in facts.items()], at=1)

    def names(**wanted: float | bool) -> list[str]:
        found = queries.items_by_quality(store, "hex8_2p", ItemType.NPZ, **wanted)  # type: ignore[arg-type]
        return [next(name for name in facts if digest_of(name) == entry.sha256) for entry in found]

    assert names() == ["best", "good", "older", "unscored"]
    assert names(min_quality=0.6, min_samples=100) == ["good", "older"]
    assert names(newer_than=40.0) == ["best", "good"]
    assert names(sound_only=False) == ["unsound", "best", "good", "older", "unscored"]
    assert queries.items_by_quality(store, "hex8_3p", ItemType.NPZ) == []


def test_danger_counts_locations_that_answer_and_last(store: Store) -> None:
    for place in ("vast-1", "vast-2"):
        tell(store, place, [item("a.npz", "a"), item("b.npz", "a")], at=1)
    tell(store, "nebius-1", [item("c.npz", "c")], at=1)
    tell(store, "nfs", [item("d.npz", "d"), item("bad.npz", "bad", soundness=Soundness.UNSOUND)], at=1)
    found = {danger.sha256: danger for danger in queries.under_replicated(store, 2)}
    assert set(found) == {digest_of("a"), digest_of("c"), digest_of("d")}
    assert (found[digest_of("a")].copies, found[digest_of("a")].durable) == (2, 0)  # both hosts come and go
    assert {danger.sha256: danger.location for danger in queries.sole_copies(store)} == {
        digest_of("c"): "nebius-1",
        digest_of("d"): "nfs",
    }
    assert [danger.sha256 for danger in queries.sole_copies(store, at_location="nebius-1")] == [digest_of("c")]
    assert queries.sole_copies(store, at_location="vast-1") == []
    dies(store, "vast-2", at=50)
    assert [danger.sha256 for danger in queries.sole_copies(store, at_location="vast-1")] == [digest_of("a")]


def test_what_the_bucket_lacks_is_sound_and_not_even_archived_there(store: Store) -> None:
    names = ("a", "b", "archived")
    tell(store, "vast-1", [item(f"{name}.npz", name) for name in names], at=1)
    tell(store, "vast-2", [item("u.npz", "u", soundness=Soundness.UNKNOWN)], at=1)
    tell(store, "bucket", [item("a", "a"), item("z", "archived", provenance={"storage_class": "GLACIER"})], at=1)
    assert [danger.sha256 for danger in queries.missing_at(store, "bucket")] == [digest_of("b")]


def test_one_missed_answer_is_no_death(store: Store) -> None:
    tell(store, "vast-1", [item(DATA, "x")], at=1)
    assert not silent(store, "vast-1", at=30)
    assert best_sources(store, digest_of("x"), "vast-2")
    assert silent(store, "vast-1", at=32)
    assert not silent(store, "vast-1", at=60)
    assert not best_sources(store, digest_of("x"), "vast-2")


@pytest.mark.parametrize("text", ["", "%", "_", "!", "\x00", "ab" * 32, "é", "'; DROP TABLE items; --", "a" * 5000])
def test_odd_texts_find_nothing(store: Store, text: str) -> None:
    tell(store, "vast-1", [item(DATA, "x")], at=1)
    with pytest.raises(UnknownItem):
        find_item(store, text)


@pytest.mark.parametrize(
    "url", ["mysql://x/y", "postgresql://nobody@127.0.0.1:1/none", "sqlite:////proc/none/manifest.db", "nonsense"]
)
def test_a_manifest_that_cannot_be_opened_says_so_in_one_line(url: str) -> None:
    with pytest.raises(StoreError) as error:
        Store.open(url)
    assert "\n" not in str(error.value) and "RINGRIFT_MANIFEST_URL" in str(error.value)
