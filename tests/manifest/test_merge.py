"""What the manifest makes of inventories: identity, replacement, loss, brakes, counters; the same on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ringrift_dagster.manifest.consistency import disagreements
from ringrift_dagster.manifest.holdings import maxima_of
from ringrift_dagster.manifest.inventory import Disk, FoundItem, Gone, Inventory, ItemType, Soundness, SourceDatabase, UntrackedFile
from ringrift_dagster.manifest.locations import location
from ringrift_dagster.manifest.merge import BRAKE_FLOOR, merge
from ringrift_dagster.manifest.orphans import accept_loss, open_orphans
from ringrift_dagster.manifest.queries import chunk_table, find_item, lost, untracked_files, where
from ringrift_dagster.manifest.schema import holdings, items, locations, replicas, source_databases
from ringrift_dagster.manifest.states import HELD, ReplicaState
from ringrift_dagster.manifest.store import Store
from tests.manifest.telling import HOSTS, declared, digest_of, item, tell

DATA = "data/training/hex8_2p.npz"


@pytest.fixture(autouse=True)
def _declared(store: Store) -> None:
    declared(store)


def states(store: Store, content: str) -> dict[str, str]:
    """State of every copy of a content, by location and path."""
    return {f"{copy.location}/{copy.path}": copy.state for copy in where(store, digest_of(content)).copies}


def test_one_name_with_two_contents_is_two_items(store: Store) -> None:
    tell(store, "vast-1", [item(DATA, "old")], at=1)
    tell(store, "nebius-1", [item(DATA, "new")], at=1)
    assert states(store, "old") == {f"vast-1/{DATA}": "AVAILABLE"}
    assert states(store, "new") == {f"nebius-1/{DATA}": "AVAILABLE"}


def test_one_content_under_two_names_is_one_item_with_two_replicas(store: Store) -> None:
    tell(store, "vast-1", [item("a.npz", "same"), item("b.npz", "same")], at=1)
    assert states(store, "same") == {"vast-1/a.npz": "AVAILABLE", "vast-1/b.npz": "AVAILABLE"}
    with store.reading() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(items)).scalar_one() == 1


def test_what_is_told_again_changes_nothing(store: Store) -> None:
    assert tell(store, "vast-1", [item(DATA, "x", mtime=5.0)], at=1)
    revision = store.revision()
    assert not tell(store, "vast-1", [item(DATA, "x", mtime=5.0)], at=2)
    assert store.revision() == revision


def test_another_content_in_its_place_loses_the_old_copy_only(store: Store) -> None:
    tell(store, "vast-1", [item(DATA, "old")], at=1)
    tell(store, "vast-2", [item(DATA, "old")], at=1)
    merged = tell(store, "vast-1", [item(DATA, "new")], at=2)
    assert (merged.replaced, merged.lost) == (1, 0)
    assert states(store, "old") == {f"vast-1/{DATA}": "LOST", f"vast-2/{DATA}": "AVAILABLE"}
    assert find_item(store, digest_of("new")[:10]) == digest_of("new")


def test_a_retired_snapshot_leaves_no_trace_but_its_successor(store: Store) -> None:
    tell(store, "vast-1", [item("s/1.db", "games", type=ItemType.GAME_DB)], at=1)
    merged = tell(
        store, "vast-1", [item("s/2.db", "more", type=ItemType.GAME_DB)], gone=[("s/1.db", Gone.SUPERSEDED)], full=False, at=2
    )
    assert (merged.superseded, merged.lost) == (1, 0)
    assert states(store, "games") == {}
    assert not open_orphans(store)


def test_only_what_was_there_before_and_is_there_after_can_be_missing(store: Store) -> None:
    """A copy that somebody registers while a scan is under way is not in the scan, and not lost."""
    tell(store, "vast-1", [item("a.npz", "a")], at=1)
    asked = store.revision()
    tell(store, "vast-1", [item("b.npz", "b")], full=False, at=2)
    merged = tell(store, "vast-1", [item("a.npz", "a")], before=asked, at=3)
    assert merged.lost == 0
    assert states(store, "b") == {"vast-1/b.npz": "AVAILABLE"}
    assert tell(store, "vast-1", [item("a.npz", "a")], at=4).lost == 1


def test_an_answer_that_was_overtaken_is_asked_for_again(store: Store) -> None:
    tell(store, "vast-1", [item(DATA, "one")], at=1)
    asked = store.revision()
    tell(store, "vast-1", [item(DATA, "two")], full=False, at=2)
    inventory = Inventory("vast-1", "epoch", 99, False, found=[item(DATA, "one")])
    merge(store, inventory, before=asked, at=3)
    place = location(store, "vast-1")
    assert place is not None and place.cursor == 1
    assert states(store, "two") == {f"vast-1/{DATA}": "AVAILABLE"}


@pytest.mark.parametrize(
    ("there", "missing", "braked"),
    [(3, 1, False), (3, 2, False), (2, 2, True), (20, BRAKE_FLOOR, False), (20, BRAKE_FLOOR + 1, True)],
)
def test_much_missing_at_once_stops_and_asks(store: Store, there: int, missing: int, braked: bool) -> None:
    everything = [item(f"{number}.npz", f"content {number}") for number in range(there)]
    tell(store, "vast-1", everything, at=1)
    merged = tell(store, "vast-1", everything[missing:], at=2)
    assert (merged.held, merged.lost) == ((missing, 0) if braked else (0, missing))
    assert states(store, "content 0") == {"vast-1/0.npz": "UNAVAILABLE" if braked else "LOST"}


def test_one_percent_is_the_share_of_a_large_location(store: Store) -> None:
    everything = [item(f"{number}.npz", f"content {number}") for number in range(1000)]
    tell(store, "vast-1", everything, at=1)
    assert tell(store, "vast-1", everything[10:], at=2).lost == 10
    assert tell(store, "vast-1", everything[21:], at=3).held == 11


def test_held_copies_come_back_by_themselves_or_are_given_up_by_a_person(store: Store) -> None:
    everything = [item(f"{number}.npz", f"content {number}") for number in range(4)]
    tell(store, "vast-1", everything, at=1)
    assert tell(store, "vast-1", [], at=2).held == 4
    assert tell(store, "vast-1", everything[:2], at=3).restored == 2
    place = location(store, "vast-1")
    assert place is not None and (place.held, place.replicas) == (2, 2)
    assert accept_loss(store, "vast-1", at=4) == 2
    assert states(store, "content 3") == {"vast-1/3.npz": "LOST"}
    assert {orphan.sha256 for orphan in open_orphans(store)} == {digest_of("content 2"), digest_of("content 3")}
    assert len(lost(store)) == 2


def test_a_copy_that_fails_its_hash_is_bad_until_it_is_verified_again(store: Store) -> None:
    tell(store, "vast-1", [item(DATA, "x", verified_at=10.0)], at=10)
    assert tell(store, "vast-1", [item(DATA, "x", verified_at=20.0, damaged=True)], at=20).damaged == 1
    assert states(store, "x") == {f"vast-1/{DATA}": "BAD"}
    tell(store, "vast-1", [item(DATA, "x", verified_at=20.0)], at=21)
    assert states(store, "x") == {f"vast-1/{DATA}": "BAD"}
    tell(store, "vast-1", [item(DATA, "x", verified_at=30.0)], at=30)
    assert states(store, "x") == {f"vast-1/{DATA}": "AVAILABLE"}


def test_a_copy_of_another_size_contradicts_and_is_not_used(store: Store) -> None:
    tell(store, "vast-1", [item(DATA, "x")], at=1)
    merged = tell(store, "vast-2", [item(DATA, "x", size=7)], at=1)
    assert merged.contradicted == 1
    assert states(store, "x")[f"vast-2/{DATA}"] == "SUSPICIOUS"
    assert where(store, digest_of("x")).item.size == 1


def test_a_contradiction_is_told_once_and_again_when_it_is_another(store: Store) -> None:
    tell(store, "vast-1", [item(DATA, "x")], at=1)
    assert tell(store, "bucket", [item(DATA, "x", size=7)], at=2).contradicted == 1
    revision = store.revision()
    assert not tell(store, "bucket", [item(DATA, "x", size=7)], at=3)
    assert store.revision() == revision
    assert tell(store, "bucket", [item(DATA, "x", size=7, mtime=4.0)], at=4).contradicted == 1
    assert tell(store, "bucket", [item(DATA, "x", size=7, mtime=4.0, verified_at=5.0, damaged=True)], at=5).contradicted == 1
    tell(store, "bucket", [item(DATA, "x", mtime=6.0)], at=6)
    assert states(store, "x") == {f"vast-1/{DATA}": "AVAILABLE", f"bucket/{DATA}": "AVAILABLE"}
    check_counters(store)


def test_a_verified_copy_is_believed_rather_than_one_of_another_size_that_nobody_read(store: Store) -> None:
    import base64

    chunks = base64.b64encode(b"l" * 32).decode()
    lie = {"size": 7, "samples": 99, "newest_game": 50.0, "chunks": chunks}
    tell(store, "bucket", [item("liar.npz", "x", **lie), item("other.npz", "other")], at=1)
    tell(store, "vast-1", [item("liar.npz", "x", **lie, mtime=9.0)], at=1)
    tell(store, "nebius-1", [item(DATA, "x")], at=2)
    assert states(store, "x")[f"nebius-1/{DATA}"] == "SUSPICIOUS"
    assert (
        tell(store, "vast-1", [item(DATA, "x", verified_at=3.0), item("liar.npz", "x", **lie, mtime=9.0)], at=3).contradicted == 2
    )
    tell(store, "nebius-1", [item(DATA, "x")], at=4)
    tell(store, "bucket", [item("liar.npz", "x", **lie), item("other.npz", "other")], at=4)
    assert states(store, "x") == {
        "bucket/liar.npz": "SUSPICIOUS",
        "vast-1/liar.npz": "SUSPICIOUS",
        f"vast-1/{DATA}": "AVAILABLE",
        f"nebius-1/{DATA}": "AVAILABLE",
    }
    told = where(store, digest_of("x")).item
    assert (told.size, told.samples, told.newest_game) == (1, None, None)
    assert chunk_table(store, digest_of("x")) is None
    assert {(finding.rule, finding.where) for finding in disagreements(store)} == {("size", digest_of("x"))}
    assert open_orphans(store) == []
    check_counters(store)


def test_a_copy_that_was_told_wrong_and_is_verified_in_its_place_is_believed(store: Store) -> None:
    tell(store, "bucket", [item(DATA, "x", size=7)], at=1)
    tell(store, "bucket", [item(DATA, "x", mtime=2.0, verified_at=2.0)], at=2)
    assert states(store, "x") == {f"bucket/{DATA}": "AVAILABLE"}
    assert where(store, digest_of("x")).item.size == 1
    check_counters(store)


@pytest.mark.parametrize("verified", [{"size": 7, "verified_at": 1.0}, {"size": 7}])
def test_a_size_that_was_verified_or_is_contradicted_by_hearsay_only_stands(store: Store, verified: dict) -> None:
    tell(store, "vast-1", [item(DATA, "x", **verified)], at=1)
    told = {"verified_at": 2.0} if "verified_at" in verified else {}
    assert tell(store, "bucket", [item(DATA, "x", **told)], at=2).contradicted == 1
    assert where(store, digest_of("x")).item.size == 7
    assert states(store, "x") == {f"vast-1/{DATA}": "AVAILABLE", f"bucket/{DATA}": "SUSPICIOUS"}


def test_an_archived_copy_that_was_held_is_told_again_and_held_no_more(store: Store) -> None:
    archived = [item(f"{number}.npz", f"content {number}", provenance={"storage_class": "GLACIER"}) for number in range(8)]
    tell(store, "bucket", archived, at=1)
    assert tell(store, "bucket", [], at=2).held == 8
    assert tell(store, "bucket", archived, at=3).restored == 8
    assert {(copy.state, copy.reason) for copy in where(store, digest_of("content 1")).copies} == {("UNAVAILABLE", "archived")}
    place = location(store, "bucket")
    assert place is not None and place.held == 0
    assert (tell(store, "bucket", archived[1:], at=4).lost, open_orphans(store)[0].sha256) == (1, digest_of("content 0"))
    check_counters(store)


@pytest.mark.parametrize("fact", [{"elo": 1500.0}, {"quality": 0.0}, {"samples": 7}, {"games": 0}, {"config": "hex8_2p"}])
def test_a_fact_that_a_copy_tells_later_reaches_the_manifest(store: Store, fact: dict) -> None:
    first = item(DATA, "x", **{"config": None} if "config" in fact else {})
    tell(store, "vast-1", [first, item("twin.npz", "x", config=first.config)], at=1)
    tell(store, "vast-1", [item(DATA, "x", **{"config": None, **fact}), item("twin.npz", "x", config=first.config)], at=2)
    told = where(store, digest_of("x")).item
    assert {name: getattr(told, name) for name in fact} == fact
    revision = store.revision()
    assert not tell(store, "vast-1", [item(DATA, "x", **{"config": None, **fact}), item("twin.npz", "x", config=None)], at=3)
    assert store.revision() == revision
    check_counters(store)


def test_an_archived_copy_counts_and_is_no_source(store: Store) -> None:
    tell(store, "bucket", [item(DATA, "x", provenance={"storage_class": "GLACIER", "source": "nodes/a"})], at=1)
    found = where(store, digest_of("x"))
    assert [(copy.state, copy.reason) for copy in found.copies] == [("UNAVAILABLE", "archived")]
    assert found.item.provenance == {"source": "nodes/a"}
    assert found.reachable == ()


def test_facts_fill_in_and_never_change(store: Store) -> None:
    tell(store, "vast-1", [item(DATA, "x", config=None, soundness=Soundness.UNKNOWN)], at=1)
    tell(store, "vast-2", [item(DATA, "x", samples=7, newest_game=3.0)], at=2)
    tell(store, "nebius-1", [item(DATA, "x", samples=9, soundness=Soundness.UNSOUND, config="hex8_3p")], at=3)
    told = where(store, digest_of("x")).item
    assert (told.config, told.samples, told.newest_game, told.soundness) == ("hex8_2p", 7, 3.0, "SOUND")
    check_counters(store)


def test_facts_fill_in_and_nothing_else_of_the_item_changes(store: Store) -> None:
    tell(store, "vast-1", [item(DATA, "x", type=ItemType.MODEL)], at=1)
    tell(store, "vast-2", [item(DATA, "x", elo=1500.0)], at=2)
    tell(store, "nebius-1", [item(DATA, "x", samples=9, size=7)], at=3)
    told = where(store, digest_of("x")).item
    assert (told.type, told.elo, told.size, told.samples) == (ItemType.MODEL, 1500.0, 1, None)
    with store.reading() as connection:
        assert connection.execute(sa.select(items.c.first_seen)).scalar_one() == 1
    check_counters(store)


def test_a_chunk_table_is_kept_with_its_item(store: Store) -> None:
    import base64

    tell(store, "vast-1", [item(DATA, "x", chunks=base64.b64encode(b"d" * 32).decode())], at=1)
    assert chunk_table(store, digest_of("x")) == b"d" * 32
    assert chunk_table(store, digest_of("y")) is None


def test_untracked_files_and_live_databases_are_listed_beside_items(store: Store) -> None:
    database = SourceDatabase(path="data/games/selfplay.db", size=9, mtime=1.0, games={"hex8_2p": 4}, snapshot=digest_of("s"))
    tell(
        store, "vast-1", at=1, untracked=[UntrackedFile(path="x.npz", size=0, mtime=1.0, reason="empty")], databases=[database],
        disk=Disk(total=100, free=40),
    )  # fmt: skip
    assert [(row["path"], row["reason"]) for row in untracked_files(store)] == [("x.npz", "empty")]
    with store.reading() as connection:
        assert connection.execute(sa.select(source_databases.c.snapshot)).scalar_one().hex() == digest_of("s")
    tell(store, "vast-1", [item("x.npz", "whole now")], full=False, at=2)
    assert untracked_files(store) == []
    place = location(store, "vast-1")
    assert place is not None and (place.disk_total, place.disk_free) == (100, 40)


def test_what_a_source_has_not_hashed_yet_is_not_gone(store: Store) -> None:
    """A source that lost its memory lists everything as unhashed at first."""
    tell(store, "bucket", [item(f"{number}.npz", "x" * (number + 1)) for number in range(3)], at=1)
    waiting = [UntrackedFile(path=f"{number}.npz", size=size, mtime=1.0, reason="no_hash") for number, size in ((0, 1), (1, 99))]
    assert tell(store, "bucket", untracked=waiting, at=2).held == 0
    assert states(store, "x") == {"bucket/0.npz": "AVAILABLE"}
    assert states(store, "xx") == {"bucket/1.npz": "LOST"}  # another size: another content


def test_a_path_that_is_gone_for_a_reason_is_gone_once(store: Store) -> None:
    tell(store, "vast-1", [item("a.npz", "a"), item("b.npz", "b"), item("c.npz", "c")], at=1)
    merged = tell(store, "vast-1", [item("a.npz", "a"), item("b.npz", "b")], gone=[("c.npz", Gone.REPLACED)], at=2)
    assert (merged.replaced, merged.lost) == (1, 0)
    check_counters(store)


def test_an_unregistered_location_is_refused(store: Store) -> None:
    with pytest.raises(KeyError):
        tell(store, "stranger", [item(DATA, "x")], at=1)


def test_a_merge_that_fails_leaves_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    tell(store, "vast-1", [item("a.npz", "a")], at=1)
    revision = store.revision()
    with monkeypatch.context() as patched:
        patched.setattr("ringrift_dagster.manifest.merge._Merge._write_place", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            tell(store, "vast-1", [item("b.npz", "b")], at=2)
    assert store.revision() == revision
    assert states(store, "a") == {"vast-1/a.npz": "AVAILABLE"}
    check_counters(store)


def check_counters(store: Store) -> None:
    """Every counter equals what it counts."""
    with store.reading() as connection:
        available = replicas.c.state == ReplicaState.AVAILABLE
        cell = (replicas.c.location_id, items.c.type, sa.func.coalesce(items.c.config, ""))
        counted = connection.execute(
            sa.select(*cell, sa.func.count(), sa.func.sum(items.c.size))
            .join_from(replicas, items).where(available).group_by(*cell)
        ).all()  # fmt: skip
        kept = connection.execute(sa.select(holdings).where(holdings.c.replicas != 0)).all()
        assert {tuple(row)[:5] for row in kept} == {(*row[:4], int(row[4])) for row in counted}
        for cell in connection.execute(sa.select(holdings)).all():
            greatest = connection.execute(sa.select(*maxima_of(cell.location_id, cell.type, cell.config).values())).one()
            assert tuple(greatest) == (cell.newest_game, cell.newest_mtime, cell.verified_at), cell
        per_place = connection.execute(
            sa.select(replicas.c.location_id, sa.func.count()).where(available).group_by(replicas.c.location_id)
        )
        held = connection.execute(
            sa.select(replicas.c.location_id, sa.func.count()).where(replicas.c.reason == HELD).group_by(replicas.c.location_id)
        )
        counts, holds = dict(per_place.all()), dict(held.all())
        for place in connection.execute(sa.select(locations)):
            assert (place.replicas, place.held) == (counts.get(place.id, 0), holds.get(place.id, 0)), place.name


def test_a_file_that_grew_older_while_its_facts_became_known_is_counted_with_its_new_time(store: Store) -> None:
    declared(store)
    tell(store, "vast-1", [item("a.npz", "one", mtime=9.0)], at=1.0)
    tell(store, "vast-1", [item("a.npz", "one", mtime=4.0, newest_game=3.0)], at=2.0, full=False)
    check_counters(store)


def test_a_file_that_moved_while_its_facts_became_known_is_counted_with_its_new_time(store: Store) -> None:
    declared(store)
    tell(store, "vast-1", [item("c.npz", "one", mtime=4.0)], at=1.0)
    tell(store, "vast-1", [item("a.npz", "one", mtime=9.0, newest_game=8.0)], at=2.0)
    check_counters(store)


class ManifestMachine(RuleBasedStateMachine):
    """Files come, change, move and go on three hosts, told whole or in part, with answers that are late: the manifest follows."""

    @initialize()
    def start(self) -> None:
        self.directory = TemporaryDirectory()
        self.store = declared(Store.open(f"sqlite:///{self.directory.name}/manifest.db"))
        self.disks: dict[str, dict[str, FoundItem]] = {host: {} for host in HOSTS}
        self.told: dict[str, dict[str, FoundItem]] = {host: {} for host in HOSTS}
        self.now = 1.0

    @rule(
        host=st.sampled_from(HOSTS),
        path=st.sampled_from([f"{letter}.npz" for letter in "abcdefgh"]),
        content=st.sampled_from(["one", "two", "three", "four"]),
        facts=st.fixed_dictionaries(
            {},
            optional={
                "newest_game": st.floats(1, 100),
                "mtime": st.floats(1, 100),
                "config": st.sampled_from(["hex8_2p", "square8_2p"]),
                "soundness": st.sampled_from(["SOUND", "UNSOUND", "UNKNOWN"]),
            },
        ),
    )
    def write(self, host: str, path: str, content: str, facts: dict) -> None:
        self.disks[host][path] = item(path, content, **facts)

    @rule(host=st.sampled_from(HOSTS), data=st.data())
    def delete(self, host: str, data: st.DataObject) -> None:
        if self.disks[host]:
            del self.disks[host][data.draw(st.sampled_from(sorted(self.disks[host])))]

    @rule(host=st.sampled_from(HOSTS), full=st.booleans())
    def answer(self, host: str, full: bool) -> None:
        self.now += 1
        now, before = self.disks[host], self.told[host]
        if full:
            tell(self.store, host, now.values(), at=self.now)
        else:
            news = [entry for path, entry in now.items() if before.get(path) != entry]
            tell(self.store, host, news, gone=[path for path in before if path not in now], full=False, at=self.now)
        self.told[host] = dict(now)

    @rule(host=st.sampled_from(HOSTS))
    def person_gives_up_what_is_held(self, host: str) -> None:
        accept_loss(self.store, host, at=self.now)

    @invariant()
    def the_manifest_says_what_was_told(self) -> None:
        if not hasattr(self, "store"):
            return
        with self.store.reading() as connection:
            rows = connection.execute(
                sa.select(locations.c.name, replicas.c.path, items.c.sha256)
                .join_from(replicas, items)
                .join(locations, locations.c.id == replicas.c.location_id)
                .where(replicas.c.state == ReplicaState.AVAILABLE)
            ).all()
        assert {(row[0], row[1], row[2].hex()) for row in rows} == {
            (host, path, entry.sha256) for host, files in self.told.items() for path, entry in files.items()
        }
        check_counters(self.store)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            self.directory.cleanup()


class TestManifestMachine:
    """The state machine, run once: its store is SQLite in memory."""

    @pytest.fixture(params=["sqlite"])
    def manifest_url(self, tmp_path: Path) -> Iterator[str]:
        yield f"sqlite:///{tmp_path / 'unused.db'}"

    def test_it(self) -> None:
        from hypothesis.stateful import run_state_machine_as_test

        run_state_machine_as_test(
            ManifestMachine,
            settings=settings(max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)),
        )
