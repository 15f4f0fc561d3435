"""What presses on moving data, measured on a real queue; who may say so, until when; what is deferred. Both databases."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from ringrift_dagster.cluster.backpressure import DWELL_SECONDS, Assessment, Level, Reading, assess
from ringrift_dagster.cluster.topology import Thresholds
from ringrift_dagster.manifest.changes import changes_since
from ringrift_dagster.manifest.inventory import Disk
from ringrift_dagster.manifest.locations import register
from ringrift_dagster.manifest.schema import link_limits
from ringrift_dagster.manifest.store import Store, upsert
from ringrift_dagster.transfer import deferral, queue
from ringrift_dagster.transfer.deferral import LONGEST_SECONDS, OWN_SECONDS, activate, deferred, release, standing, take_in
from ringrift_dagster.transfer.limits import going_to
from ringrift_dagster.transfer.model import Priority
from ringrift_dagster.transfer.operations import State
from ringrift_dagster.transfer.pressure import measure
from tests.manifest.telling import declared, dies, places, tell
from tests.transfer.asking import LARGE, bears, completes, fails, many, wanted

NOW = 1_000_000.0
LOW = frozenset({Priority.LOW, Priority.COLD_STORAGE})
MEMORY = "MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: {available} kB\n"
CALM, PRESSED = (assess([Reading("disk", value, 0.0, 100.0, "% full", "vast-1 is the fullest")]) for value in (0.0, 96.0))
BETWEEN = assess([Reading("disk", 60.0, 0.0, 100.0, "% full")])
BLIND = assess([Reading("disk", None, 0.0, 100.0, "% full", unknown="every disk")])


@pytest.fixture
def meminfo(tmp_path: Path) -> Path:
    """A machine with half of its memory available."""
    path = tmp_path / "meminfo"
    path.write_text(MEMORY.format(available=500))
    return path


@pytest.fixture
def cluster(store: Store) -> Store:
    """All places answer, with disks half full; the bucket has none."""
    declared(store)
    for name in ("vast-1", "vast-2", "nebius-1", "nfs", "drive"):
        tell(store, name, at=NOW, disk=Disk(total=100, free=50))
    tell(store, "bucket", at=NOW)
    return store


def readings(store: Store, meminfo: Path, at: float = NOW) -> dict[str, Reading]:
    return {each.name: each for each in measure(store, Thresholds(), at=at, meminfo=meminfo).readings}


def measured(store: Store, target: str, throughput: float) -> None:
    """Let transfers into a target have had a rate, in bytes a second."""
    with store.writing() as writer:
        insert = upsert(writer.connection, link_limits).values(name=going_to(target), at_once=10, throughput=throughput)
        writer.connection.execute(insert.on_conflict_do_update(index_elements=["name"], set_={"throughput": throughput}))


def edges(store: Store) -> list[str]:
    return [change.kind for change in changes_since(store, 0) if change.kind.startswith("BACKPRESSURE")]


def test_a_cluster_with_nothing_to_do_is_healthy(cluster: Store, meminfo: Path) -> None:
    told = measure(cluster, Thresholds(), at=NOW, meminfo=meminfo)
    assert (told.level, told.overall, told.unknown) == (Level.HEALTHY, 0.0, ())
    assert {each.name for each in told.readings} == {"queue", "disk", "memory", "in flight", "rates"}


def test_the_disk_that_counts_is_the_fullest(cluster: Store, meminfo: Path) -> None:
    tell(cluster, "vast-2", at=NOW, disk=Disk(total=100, free=2))
    told = readings(cluster, meminfo)["disk"]
    assert (told.value, told.low, told.detail) == (pytest.approx(98), 85, "vast-2 is the fullest")
    assert measure(cluster, Thresholds(), at=NOW, meminfo=meminfo).level == Level.HIGH
    dies(cluster, "vast-2", at=NOW + 30)
    assert readings(cluster, meminfo)["disk"].value == pytest.approx(50), "nothing goes to a host that is not there"


def test_a_disk_that_nobody_told_of_is_unknown(store: Store, meminfo: Path) -> None:
    declared(store)
    assert readings(store, meminfo)["disk"].unknown == "every disk: no place can be reached"
    tell(store, "vast-1", at=NOW, disk=Disk(total=100, free=50))
    tell(store, "vast-2", at=NOW)
    told = readings(store, meminfo)["disk"]
    assert (told.unknown, told.value, told.known) == ("the disk of vast-2", pytest.approx(50), False)
    assert measure(store, Thresholds(), at=NOW, meminfo=meminfo).level == Level.UNKNOWN


@pytest.mark.parametrize(("available", "value"), [(500, 50), (20, 98)])
def test_memory_is_what_this_machine_has_left(cluster: Store, meminfo: Path, available: int, value: float) -> None:
    meminfo.write_text(MEMORY.format(available=available))
    assert readings(cluster, meminfo)["memory"].value == pytest.approx(value)


@pytest.mark.parametrize("text", [None, "", "MemTotal: 1000 kB\n", "MemTotal: 0 kB\nMemAvailable: 0 kB\n"])
def test_memory_that_cannot_be_read_is_unknown(cluster: Store, tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "other"
    if text is not None:
        path.write_text(text)
    told = measure(cluster, Thresholds(), at=NOW, meminfo=path)
    assert (told.level, [each.name for each in told.unknown]) == (Level.UNKNOWN, ["memory"])


def test_this_machine_tells_its_memory(cluster: Store) -> None:
    told = {each.name: each for each in measure(cluster, Thresholds(), at=NOW).readings}["memory"]
    assert told.known and told.value is not None and 0 < told.value < 100


def test_what_is_deferred_anyway_presses_on_nobody(cluster: Store, meminfo: Path) -> None:
    for priority in LOW:
        queue.submit_all(cluster, many(500, "vast-1", priority), at=NOW - 80_000)
    told = measure(cluster, Thresholds(), at=NOW, meminfo=meminfo)
    assert told.level == Level.HEALTHY
    assert "500 LOW, 500 COLD_STORAGE" in told.readings[0].detail


def test_what_fits_the_links_waits_no_longer_than_it_has_waited(cluster: Store, meminfo: Path) -> None:
    queue.submit_all(cluster, many(5, "vast-1", Priority.HIGH), at=NOW - 3)
    told = readings(cluster, meminfo)["queue"]
    assert (told.value, told.known) == (3, True)


def test_how_fast_a_full_queue_drains_is_unknown_until_it_was_watched(cluster: Store, meminfo: Path) -> None:
    measured(cluster, "vast-1", 1e12)
    queue.submit_all(cluster, many(200, "vast-1", Priority.NORMAL), at=NOW)
    just_now = readings(cluster, meminfo, NOW + 5)["queue"]
    assert (just_now.known, just_now.value) == (False, 5)
    held = queue.lease(cluster, "me", "vast-1", at=NOW + 6, limit=10)
    for each in held:
        assert completes(cluster, each, at=NOW + 50)
    told = readings(cluster, meminfo, NOW + 100)["queue"]
    assert (told.known, told.value) == (True, 190 * 100 / 10)
    assert measure(cluster, Thresholds(), at=NOW + 100, meminfo=meminfo).level == Level.HIGH
    later = readings(cluster, meminfo, NOW + 1000)["queue"]
    assert later.value == float("inf"), "nothing ended for so long as it is watched"


def test_what_waits_for_its_next_attempt_does_not_press(cluster: Store, meminfo: Path) -> None:
    queue.submit_all(cluster, many(4, "vast-1", Priority.NORMAL), at=NOW - 5000)
    for each in queue.lease(cluster, "me", "vast-1", at=NOW, limit=4):
        assert fails(cluster, each, "agent_silent", at=NOW) == State.WAITING
    assert readings(cluster, meminfo, NOW + 1)["queue"].value == 0


def test_what_is_for_a_place_that_is_not_there_does_not_press(cluster: Store, meminfo: Path) -> None:
    queue.submit_all(cluster, [*many(30, "vast-1", Priority.HIGH), *many(30, "vast-2", Priority.HIGH)], at=NOW - 5000)
    assert len(queue.lease(cluster, "a run that is killed", "vast-1", at=NOW - 4000, limit=5)) == 5
    assert measure(cluster, Thresholds(), at=NOW, meminfo=meminfo).level == Level.HIGH
    dies(cluster, "vast-1", at=NOW)
    register(cluster, [place for place in places() if place.name != "vast-2"], at=NOW)
    told = readings(cluster, meminfo, NOW + 30)
    assert (told["queue"].value, told["rates"].value, told["rates"].known) == (0, 0, True)


def test_links_full_of_urgent_work_press(cluster: Store, meminfo: Path) -> None:
    for name in ("vast-1", "vast-2", "nebius-1", "nfs", "drive", "bucket"):
        bears(cluster, name, 2)
        queue.submit_all(cluster, many(2, name, Priority.LOW if name == "vast-1" else Priority.NORMAL), at=NOW)
        assert len(queue.lease(cluster, "me", name, at=NOW, limit=2)) == 2
    told = readings(cluster, meminfo)["in flight"]
    assert told.value == pytest.approx(100 * 10 / 12), "what could be deferred does not count"
    assert told.detail.endswith("100%")
    assert readings(cluster, meminfo, NOW + 1000)["in flight"].value == 0, "leases that ran out are under way nowhere"


def test_the_slowest_target_tells_how_long_its_bytes_take(cluster: Store, meminfo: Path) -> None:
    queue.submit(cluster, wanted("x", "vast-1"), at=NOW)
    told = readings(cluster, meminfo)["rates"]
    assert (told.known, told.unknown) == (False, "rates into vast-1: nothing large was brought there yet")
    measured(cluster, "vast-1", LARGE / 1000)
    queue.submit(cluster, wanted("x", "vast-2"), at=NOW)
    measured(cluster, "vast-2", LARGE / 5000)
    told = readings(cluster, meminfo)["rates"]
    assert (told.value, told.detail, told.known) == (pytest.approx(5000), "vast-2 is the slowest", True)
    queue.submit(cluster, wanted("y", "vast-2", size=None), at=NOW)
    assert not readings(cluster, meminfo)["rates"].known, "how much is an item of unknown size, where no size was ever seen?"


def test_only_low_and_cold_storage_are_ever_deferred(store: Store) -> None:
    assert deferred(store, NOW) == frozenset()
    assert take_in(store, PRESSED, at=NOW).active
    assert deferred(store, NOW) == LOW
    note = changes_since(store, 0)[-1]
    assert (note.kind, note.detail) == (
        "BACKPRESSURE_ACTIVATED",
        {"sources": {"measured": "disk: 96 % full, vast-1 is the fullest"}, "defers": ["COLD_STORAGE", "LOW"]},
    )
    assert not take_in(store, CALM, at=NOW + DWELL_SECONDS).active
    assert deferred(store, NOW + DWELL_SECONDS) == frozenset()
    assert edges(store) == ["BACKPRESSURE_ACTIVATED", "BACKPRESSURE_RELEASED"]


def test_what_was_deferred_for_a_day_goes_ahead_as_far_as_links_bear_it(store: Store) -> None:
    bears(store, "gpu-1", 4)
    queue.submit_all(store, many(10, "gpu-1", Priority.LOW), at=NOW)
    take_in(store, PRESSED, at=NOW + 86_399)
    assert queue.pending(store, at=NOW + 86_399) == {("gpu-1", Priority.LOW): 10}
    take_in(store, PRESSED, at=NOW + 86_400)
    assert queue.pending(store, at=NOW + 86_400) == {("gpu-1", Priority.HIGH): 2, ("gpu-1", Priority.LOW): 8}
    assert len(queue.lease(store, "me", "gpu-1", at=NOW + 86_400, limit=10, priorities=[Priority.CRITICAL, Priority.HIGH])) == 2


def test_there_is_a_note_on_every_edge_and_nothing_between(store: Store) -> None:
    for number in range(20):
        take_in(store, PRESSED if number % 3 else BETWEEN, at=NOW + 30 * number)
        activate(store, "gpu-1", reason="its disk", at=NOW + 30 * number)
    assert edges(store) == ["BACKPRESSURE_ACTIVATED"]
    revision = store.revision()
    take_in(store, PRESSED, at=NOW + 700)
    assert store.revision() == revision


def test_while_something_is_unknown_the_claim_is_neither_dropped_nor_renewed(store: Store) -> None:
    take_in(store, BLIND, at=NOW)
    assert deferred(store, NOW) == frozenset() and standing(store, NOW).level == Level.UNKNOWN
    take_in(store, PRESSED, at=NOW)
    for at in (NOW + 300, NOW + 600):
        assert take_in(store, BLIND, at=at).active
    assert deferred(store, NOW + OWN_SECONDS - 1) == LOW
    assert deferred(store, NOW + OWN_SECONDS) == frozenset()
    assert edges(store) == ["BACKPRESSURE_ACTIVATED"], "nobody was there to say it yet"
    take_in(store, BLIND, at=NOW + OWN_SECONDS + 500)
    last = changes_since(store, 0)[-1]
    assert (last.kind, last.detail) == ("BACKPRESSURE_RELEASED", {"after": OWN_SECONDS, "why": "the last claim expired"})


def test_every_source_releases_only_itself(store: Store) -> None:
    activate(store, "gpu-1", reason="its disk", at=NOW)
    activate(store, "gpu-2", reason="its memory", at=NOW + 10)
    told = release(store, "gpu-1", at=NOW + 200)
    assert (told.active, [claim.source for claim in told.claims]) == (True, ["host gpu-2"])
    take_in(store, CALM, at=NOW + 300)
    assert deferred(store, NOW + 300) == LOW, "what was measured here does not speak for a host"
    assert not release(store, "gpu-2", at=NOW + 400).active
    assert edges(store) == ["BACKPRESSURE_ACTIVATED", "BACKPRESSURE_RELEASED"]


def test_a_hosts_word_is_good_for_an_hour_at_most(store: Store) -> None:
    activate(store, "gpu-1", reason="for ever", at=NOW, seconds=1e9)
    assert deferred(store, NOW + LONGEST_SECONDS - 1) == LOW
    assert deferred(store, NOW + LONGEST_SECONDS) == frozenset()
    with store.reading() as connection:
        reasons = connection.execute(sa.text("SELECT reason FROM backpressure_sources")).scalars().all()
    assert reasons == ["for ever"]


def test_what_is_released_at_once_still_stands_for_the_dwell(store: Store) -> None:
    activate(store, "gpu-1", reason="a spike", at=NOW)
    assert release(store, "gpu-1", at=NOW + 1).active
    assert deferred(store, NOW + DWELL_SECONDS - 1) == LOW
    assert deferred(store, NOW + DWELL_SECONDS) == frozenset()
    activate(store, "gpu-1", reason="again", at=NOW + DWELL_SECONDS + 5)
    assert deferred(store, NOW + DWELL_SECONDS + 5) == frozenset(), "it has just ended"
    take_in(store, CALM, at=NOW + 2 * DWELL_SECONDS)
    assert deferred(store, NOW + 2 * DWELL_SECONDS) == LOW, "the claim still stands, and the dwell is over"
    assert edges(store) == ["BACKPRESSURE_ACTIVATED", "BACKPRESSURE_RELEASED", "BACKPRESSURE_ACTIVATED"]


Step = tuple[str, float]
steps = st.lists(
    st.tuples(st.sampled_from(["pressed", "calm", "between", "blind", "host", "host releases"]), st.floats(1, 400)), max_size=25
)


@settings(max_examples=25, deadline=None)
@given(steps)
def test_whatever_comes_in_it_never_turns_twice_within_the_dwell(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Step]
) -> None:
    assessments: dict[str, Assessment] = {"pressed": PRESSED, "calm": CALM, "between": BETWEEN, "blind": BLIND}
    with Store.open(f"sqlite:///{tmp_path_factory.mktemp('pressure') / 'manifest.db'}") as store:
        now, seen = NOW, [(NOW, False)]
        for what, seconds in steps:
            for at in (now + seconds * part / 8 for part in range(8)):
                seen.append((at, bool(deferred(store, at))))
            now += seconds
            if what in assessments:
                take_in(store, assessments[what], at=now)
            elif what == "host":
                activate(store, "gpu-1", reason="says so", at=now, seconds=60)
            else:
                release(store, "gpu-1", at=now)
            seen.append((now, bool(deferred(store, now))))
        turns = [(later[0], later[1]) for earlier, later in pairwise(seen) if earlier[1] != later[1]]
        longest_step = 400 / 8
        assert all(later[0] - earlier[0] >= DWELL_SECONDS - longest_step for earlier, later in pairwise(turns))
        take_in(store, CALM, at=now + 10_000)
        kinds = edges(store)
        assert all(earlier != later for earlier, later in pairwise(kinds)), "edges alternate"
        assert deferral.standing(store, now + 10_000).active is (kinds[-1:] == ["BACKPRESSURE_ACTIVATED"])
