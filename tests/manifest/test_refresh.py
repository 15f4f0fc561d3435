"""One cycle over sources that answer, refuse, hang, lie and fail: each is heard in its time and none keeps the others waiting."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from ringrift_dagster.cli.services import free_port
from ringrift_dagster.manifest.changes import changes_since
from ringrift_dagster.manifest.inventory import Cursor, Inventory, NoAnswer, Scrubbed
from ringrift_dagster.manifest.locations import all_locations
from ringrift_dagster.manifest.refresh import Refreshed, refresh
from ringrift_dagster.manifest.sources.node import NodeSource
from ringrift_dagster.manifest.sources.shared import SharedSource
from ringrift_dagster.manifest.store import Store
from tests.manifest.telling import declared, item, tell

DATA = "data/training/hex8_2p.npz"


@pytest.fixture(autouse=True)
def _declared(store: Store) -> None:
    declared(store)


class Scripted:
    """A source that does as it is told: what the protocol allows, and what it does not."""

    def __init__(self, location: str, answer: Callable[[Cursor | None], Inventory]) -> None:
        self.location = location
        self.answer = answer
        self.asked: list[Cursor | None] = []

    def read(self, since: Cursor | None, timeout: float) -> Inventory:
        self.asked.append(since)
        return self.answer(since)

    def scrub(self, max_bytes: int, timeout: float) -> Scrubbed:
        raise NoAnswer(self.location, "not_found", "nothing to scrub")


def tells(location: str, content: str, cursor: int = 1) -> Scripted:
    return Scripted(
        location, lambda since: Inventory(location, "e", cursor, since is None, found=[item(DATA, content)], now=time.time())
    )


def fails(location: str, error: Exception) -> Scripted:
    def answer(_: Cursor | None) -> Inventory:
        raise error

    return Scripted(location, answer)


@contextmanager
def mute() -> Iterator[int]:
    """A port that takes connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def cycle(store: Store, *sources: object, **options: float) -> Refreshed:
    return refresh(store, sources, **{"answer_seconds": 1.0, "again_seconds": 0.05, **options})  # type: ignore[arg-type]


def liveness_of(store: Store, name: str) -> str:
    return next(str(place.liveness) for place in all_locations(store) if place.name == name)


def test_each_answer_is_taken_in_and_each_silence_has_its_reason(store: Store) -> None:
    with mute() as port:
        result = cycle(
            store,
            tells("vast-1", "x"),
            NodeSource("vast-2", f"http://127.0.0.1:{free_port()}"),
            NodeSource("nebius-1", f"http://127.0.0.1:{port}"),
            fails("nfs", NoAnswer("nfs", "not_mounted", "no sentinel")),
            fails("bucket", RuntimeError("a fault of ours")),
            tells("drive", "y"),
        )
    assert {outcome.location: outcome.code for outcome in result.outcomes} == {
        "bucket": "bad_answer",
        "drive": None,
        "nebius-1": "timeout",
        "nfs": "not_mounted",
        "vast-1": None,
        "vast-2": "refused",
    }
    liveness = {place.name: str(place.liveness) for place in all_locations(store)}
    assert (liveness["vast-1"], liveness["nfs"], liveness["vast-2"]) == ("ONLINE", "UNAVAILABLE", "OFFLINE")
    assert result.seconds < 5


def test_a_source_that_never_returns_is_left_behind(store: Store) -> None:
    forever = threading.Event()

    def hang(_: Cursor | None) -> Inventory:
        forever.wait(60)
        return Inventory("vast-1", "e", 1, True)

    try:
        result = cycle(store, Scripted("vast-1", hang), tells("vast-2", "x"), answer_seconds=0.2)
    finally:
        forever.set()
    assert {outcome.location: outcome.code for outcome in result.outcomes} == {"vast-1": "timeout", "vast-2": None}
    assert result.seconds < 6


def test_what_there_is_no_time_for_is_left_to_the_next_cycle(store: Store) -> None:
    sources = [tells(host, host) for host in ("vast-1", "vast-2", "nebius-1")]
    result = cycle(store, *sources, budget=0.0)
    assert (sorted(result.left), result.outcomes) == (sorted(source.location for source in sources), [])
    assert {str(place.liveness) for place in all_locations(store)} == {"UNKNOWN"}
    assert len(cycle(store, *sources).outcomes) == 3
    assert [source.asked for source in sources] == [[None, None]] * 3


def test_cursors_go_on_where_the_last_cycle_ended(store: Store) -> None:
    source = tells("vast-1", "x", cursor=7)
    cycle(store, source)
    cycle(store, source)
    assert source.asked == [None, Cursor("e", 7)]


def test_an_idle_cycle_makes_no_change(store: Store) -> None:
    cycle(store, tells("vast-1", "x"))
    last = changes_since(store, 0)[-1].id
    result = cycle(store, tells("vast-1", "x"))
    assert result.changes == last
    assert changes_since(store, last) == []


def test_who_does_not_answer_twice_is_offline_within_a_minute_and_loses_nothing(store: Store) -> None:
    now = [1000.0]
    cycle(store, tells("vast-1", "x"), clock=lambda: now[0])
    dead = NodeSource("vast-1", f"http://127.0.0.1:{free_port()}")
    now[0] += 30
    cycle(store, dead, clock=lambda: now[0])
    kinds = [(change.kind, change.at) for change in changes_since(store, 0) if change.location == "vast-1"]
    assert ("HOST_OFFLINE", 1030.0) in kinds
    assert ("ORPHAN_DETECTED", 1030.0) in kinds
    now[0] += 30
    result = cycle(store, tells("vast-1", "x"), clock=lambda: now[0])
    assert result.outcomes[0].changed_liveness
    assert [change.kind for change in changes_since(store, result.changes)] == ["HOST_ONLINE", "ORPHANS_RESOLVED"]


def test_who_tells_and_has_not_ended_yet_is_not_silent(store: Store) -> None:
    now = [1000.0]

    def cycled(source: Scripted) -> list[str | None]:
        now[0] += 30
        return [outcome.code for outcome in cycle(store, source, clock=lambda: now[0]).outcomes]

    telling = {host: fails(host, NoAnswer(host, "unfinished", "2,000 entries so far")) for host in ("vast-1", "vast-2")}
    assert cycled(tells("vast-1", "x")) == [None]
    last = changes_since(store, 0)[-1].id
    for host in ("vast-1", "vast-2", "vast-1", "vast-2"):
        assert cycled(telling[host]) == ["unfinished"]
    assert [len(source.asked) for source in telling.values()] == [2, 2], "once in each cycle"
    places = {place.name: place for place in all_locations(store)}
    assert (places["vast-1"].liveness, places["vast-1"].answered_at, places["vast-1"].replicas) == ("ONLINE", now[0] - 30, 1)
    assert places["vast-1"].reason == "unfinished: 2,000 entries so far"
    assert (places["vast-2"].liveness, places["vast-2"].epoch) == ("UNKNOWN", None)
    assert changes_since(store, last) == []
    cycled(fails("vast-1", NoAnswer("vast-1", "timeout", "no answer")))
    cycled(telling["vast-1"])
    assert liveness_of(store, "vast-1") == "OFFLINE", "it is back when all was told"
    cycled(tells("vast-1", "x"))
    assert liveness_of(store, "vast-1") == "ONLINE"


def test_an_answer_begun_earlier_does_not_undo_what_was_written_since(store: Store) -> None:
    """A bucket listed over two cycles: what was uploaded meanwhile is not in the listing, and is not gone."""
    old, new = item("models/old.npz", "old"), item("models/new.npz", "new")
    listed = Inventory("bucket", "e", 0, True, found=[old], begun_earlier=True)
    tell(store, "bucket", [old], at=1000.0)
    cycle(store, fails("bucket", NoAnswer("bucket", "unfinished", "9 pages so far")))
    tell(store, "bucket", [old, new], at=1001.0)
    cycle(store, fails("bucket", NoAnswer("bucket", "timeout", "nothing more")))
    for _ in range(2):  # the second was begun for nobody knows which question
        cycle(store, Scripted("bucket", lambda _: listed))
        assert next(place.replicas for place in all_locations(store) if place.name == "bucket") == 2
    cycle(store, Scripted("bucket", lambda _: replace(listed, begun_earlier=False)))
    assert next(place.replicas for place in all_locations(store) if place.name == "bucket") == 1


def test_an_answer_for_another_location_is_not_used(store: Store) -> None:
    other = tells("vast-2", "x")
    other.location = "vast-1"
    result = cycle(store, other)
    assert result.outcomes[0].code == "wrong_node"
    assert all(place.replicas == 0 for place in all_locations(store))


def test_clocks_that_differ_are_told_of_and_order_nothing(store: Store) -> None:
    late = Scripted("vast-1", lambda since: Inventory("vast-1", "e", 1, True, found=[item(DATA, "x")], now=time.time() - 4000))
    cycle(store, late)
    place = next(place for place in all_locations(store) if place.name == "vast-1")
    assert place.clock_skew is not None and -4005 < place.clock_skew < -3995
    assert place.answered_at is not None and abs(place.answered_at - time.time()) < 10
    assert "CLOCK_SKEW" in {change.kind for change in changes_since(store, 0)}


def test_a_shared_file_system_is_asked_through_the_next_host_when_one_is_silent(store: Store) -> None:
    through = [fails("nfs", NoAnswer("nfs", "refused", "down")), tells("nfs", "x"), tells("nfs", "y")]
    shared = SharedSource("nfs", through)
    assert cycle(store, shared).silent == []
    cycle(store, shared)
    assert [len(source.asked) for source in through] == [1, 2, 0]


def test_a_host_that_is_telling_of_a_shared_file_system_is_let_go_on(store: Store) -> None:
    through = [
        fails("nfs", NoAnswer("nfs", "refused", "down")),
        fails("vast-2", NoAnswer("vast-2", "unfinished", "2,000 entries so far")),
        tells("nfs", "x"),
    ]
    (silence,) = cycle(store, SharedSource("nfs", through)).silent
    assert (silence.code, [len(source.asked) for source in through]) == ("unfinished", [1, 1, 0])


def test_a_shared_file_system_is_not_mounted_only_if_every_host_says_so(store: Store) -> None:
    """One that is silent may have it: that takes two looks, and not mounted is believed at once."""
    now = [1000.0]
    cycle(store, tells("nfs", "x"), clock=lambda: now[0])
    unmounted, slow = (
        fails("nfs", NoAnswer("nfs", code, why)) for code, why in (("not_mounted", "no sentinel"), ("timeout", "slow"))
    )
    unmounted.host = "vast-2"  # type: ignore[attr-defined]
    now[0] += 10
    (silence,) = cycle(store, SharedSource("nfs", [unmounted, slow]), clock=lambda: now[0]).silent
    assert (silence.code, silence.detail) == ("timeout", "slow; vast-2 does not mount it: no sentinel")
    assert (len(slow.asked), liveness_of(store, "nfs")) == (2, "ONLINE")
    assert cycle(store, SharedSource("nfs", [unmounted, unmounted])).silent[0].code == "not_mounted"
    assert liveness_of(store, "nfs") == "UNAVAILABLE"
    assert cycle(store, SharedSource("nfs", [])).silent[0].code == "not_found"
