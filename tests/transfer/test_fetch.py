"""Fetching from sources that fail in every way there is: the result is right, or there is none and it is said why."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar

import pytest

from ringrift_dagster.manifest.inventory import CHUNK_SIZE
from ringrift_dagster.transfer import fetch as fetching
from ringrift_dagster.transfer import ranges
from ringrift_dagster.transfer.bandwidth import Links
from ringrift_dagster.transfer.fetch import FetchFailed, Preempted, fetch
from ringrift_dagster.transfer.model import CAUSES, Offer, OrderedItem, Priority, TransportName
from ringrift_dagster.transfer.part import PartFile, disk_cause
from ringrift_dagster.transfer.sources import STRIKES
from ringrift_dagster.transfer.transports import http_client
from ringrift_dagster.transfer.transports.http import HttpTransport
from ringrift_dagster.transfer.transports.protocol import Probe, TransportFailure
from tests.transfer.faulty_servers import Faults, FaultyServer, faulty
from tests.transfer.fetching import Consent, Content, content, offer

BIG = content(6 * CHUNK_SIZE + 12345, 7)
SMALL = content(200_000, 8)
OBJECTS = {BIG.sha256: BIG.data, SMALL.sha256: SMALL.data}
DEADLINE = 5.0


@pytest.fixture
def servers() -> Iterator[list[FaultyServer]]:
    with faulty(OBJECTS, 3) as running:
        yield running


def by_http() -> dict[TransportName, Any]:
    return {TransportName.HTTP: HttpTransport()}


def offers(servers: Sequence[FaultyServer], of: Any = BIG) -> list[Offer]:
    return [offer(server.url(of.sha256), f"host-{number}") for number, server in enumerate(servers)]


def outcomes(fetched: Any) -> dict[str, Any]:
    return {each.location: each for each in fetched.offers}


def counted(servers: Sequence[FaultyServer], expected: int) -> int:
    """What servers sent in all. They count a piece when it is gone, which may be after it came."""
    deadline = time.monotonic() + 10
    while (sent := sum(server.sent for server in servers)) < expected and time.monotonic() < deadline:
        time.sleep(0.01)
    return sent


@pytest.mark.parametrize("of", [BIG, SMALL])
@pytest.mark.parametrize("table", [True, False])
@pytest.mark.parametrize("count", [1, 3])
def test_an_item_comes_as_it_is(tmp_path: Path, servers: list[FaultyServer], of: Any, table: bool, count: int) -> None:
    consent = Consent()
    with of.part(tmp_path, table=table) as part:
        fetched = fetch(part, of.item(offers(servers[:count], of), table=table), by_http(), consent)
        assert part.path.read_bytes() == of.data
    assert (fetched.bytes, fetched.resent, fetched.retries, fetched.benched) == (of.size, 0, 0, ())
    assert fetched.transport == TransportName.HTTP
    assert sum(consent.taken.values()) == of.size
    assert counted(servers, of.size) == of.size


def test_connections_are_used_again(tmp_path: Path, servers: list[FaultyServer]) -> None:
    transports = by_http()
    for number in range(5):
        folder = tmp_path / str(number)
        folder.mkdir()
        with BIG.part(folder) as part:
            fetch(part, BIG.item(offers(servers[:1])), transports, Consent(), connections=2)
    assert servers[0].connections == 2


def test_nothing_is_asked_for_what_is_there(tmp_path: Path, servers: list[FaultyServer]) -> None:
    with BIG.part(tmp_path) as part:
        part.path.write_bytes(BIG.data)
        assert part.adopt() == 0
        fetched = fetch(part, BIG.item(offers(servers)), by_http(), Consent())
    assert (fetched.transport, fetched.source, fetched.bytes) == (None, None, 0)
    assert all(not server.requests for server in servers)


def test_an_empty_item_needs_no_source(tmp_path: Path, servers: list[FaultyServer]) -> None:
    empty = content(0)
    with empty.part(tmp_path) as part:
        assert fetch(part, empty.item(offers(servers, empty)), by_http(), Consent()).bytes == 0


FAULTS: dict[str, Faults] = {
    "flips": Faults(flip=frozenset(range(100, BIG.size, CHUNK_SIZE))),
    "cuts": Faults(cut_after=1_000_000),
    "cuts at once": Faults(cut_after=0),
    "resets": Faults(reset_after=3_000_000),
    "resets at once": Faults(reset_after=0),
    "fails": Faults(status=500),
    "is not let in": Faults(status=401),
    "has it no more": Faults(status=404),
    "has another now": Faults(status=410),
    "names another": Faults(etag="ab" * 32),
    "sends another range": Faults(other_range=True),
    "is shorter": Faults(extra_size=-BIG.size // 2),
    "says to go elsewhere": Faults(redirect="http://127.0.0.1:9/"),
    "knows no ranges": Faults(no_ranges=True),
    "is overloaded": Faults(statuses=[503, 503]),
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("table", [True, False])
def test_one_bad_source_of_three_spoils_nothing(tmp_path: Path, servers: list[FaultyServer], name: str, table: bool) -> None:
    servers[0].faults = deepcopy(FAULTS[name])
    with BIG.part(tmp_path, table=table) as part:
        fetched = fetch(part, BIG.item(offers(servers), table=table), by_http(), Consent())
        assert part.path.read_bytes() == BIG.data
    told = outcomes(fetched)["host-0"]
    assert told.failures or told.wrong_chunks


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("flips", "wrong_bytes"), ("cuts at once", "no_source"), ("resets at once", "no_source"), ("fails", "no_source"),
        ("is not let in", "no_source"), ("has it no more", "no_source"), ("says to go elsewhere", "no_source"),
    ],
)  # fmt: skip
def test_without_a_good_source_it_is_said_why(tmp_path: Path, servers: list[FaultyServer], name: str, cause: str) -> None:
    servers[0].faults = deepcopy(FAULTS[name])
    with BIG.part(tmp_path) as part, pytest.raises(FetchFailed) as failed:
        fetch(part, BIG.item(offers(servers[:1])), by_http(), Consent())
    assert failed.value.cause == cause in CAUSES
    assert "host-0" in failed.value.detail
    assert "\n" not in failed.value.detail


@pytest.mark.parametrize("name", ["cuts", "resets"])
def test_a_connection_that_breaks_again_and_again_brings_it_all(tmp_path: Path, servers: list[FaultyServer], name: str) -> None:
    servers[0].faults = deepcopy(FAULTS[name])
    with BIG.part(tmp_path) as part:
        fetched = fetch(part, BIG.item(offers(servers[:1])), by_http(), Consent(), connections=2)
        assert part.path.read_bytes() == BIG.data
    assert fetched.retries >= 7
    assert fetched.resent == 0


def test_a_size_told_wrongly_changes_nothing(tmp_path: Path, servers: list[FaultyServer]) -> None:
    servers[0].faults = Faults(extra_size=999)
    with BIG.part(tmp_path) as part:
        fetched = fetch(part, BIG.item(offers(servers[:1])), by_http(), Consent())
        assert part.path.read_bytes() == BIG.data
    assert fetched.retries == 0


def test_a_failure_that_passes_is_waited_for(tmp_path: Path, servers: list[FaultyServer]) -> None:
    servers[0].faults = Faults(statuses=[500, 503])
    with SMALL.part(tmp_path) as part:
        fetched = fetch(part, SMALL.item(offers(servers[:1], SMALL)), by_http(), Consent())
    assert (fetched.retries, outcomes(fetched)["host-0"].failures) == (2, 2)


@pytest.mark.parametrize("liar", [0, 1, 2])
def test_a_liar_is_benched_after_two_chunks(tmp_path: Path, servers: list[FaultyServer], liar: int) -> None:
    servers[liar].faults = FAULTS["flips"]
    with BIG.part(tmp_path) as part:
        fetched = fetch(part, BIG.item(offers(servers)), by_http(), Consent())
        assert part.path.read_bytes() == BIG.data
    told = outcomes(fetched)[f"host-{liar}"]
    assert 1 <= told.wrong_chunks < STRIKES + fetching.CONNECTIONS, "what was on its way when it was benched comes too"
    assert fetched.benched == ((f"host-{liar}",) if told.wrong_chunks >= STRIKES else ())
    assert fetched.resent <= (told.wrong_chunks + 1) * CHUNK_SIZE
    assert all(not each.wrong_chunks for each in fetched.offers if each.location != f"host-{liar}")


def test_a_liar_alone_is_asked_twice_and_no_more(tmp_path: Path, servers: list[FaultyServer]) -> None:
    servers[0].faults = FAULTS["flips"]
    with BIG.part(tmp_path) as part, pytest.raises(FetchFailed) as failed:
        fetch(part, BIG.item(offers(servers[:1])), by_http(), Consent(), connections=1)
    assert failed.value.fetched.benched == ("host-0",)
    assert servers[0].sent <= 2 * CHUNK_SIZE + (8 << 20)
    assert len(servers[0].requests) == 2


def test_one_bad_bit_is_no_reason_to_go(tmp_path: Path, servers: list[FaultyServer]) -> None:
    servers[0].faults = Faults(flip=frozenset([CHUNK_SIZE + 5]))
    consent = Consent()

    def mend() -> None:
        if sum(consent.taken.values()) > CHUNK_SIZE:
            servers[0].faults = Faults()  # for the requests that follow

    consent.on_take = mend
    with BIG.part(tmp_path) as part:
        fetched = fetch(part, BIG.item(offers(servers[:1])), by_http(), consent, connections=1)
        assert part.path.read_bytes() == BIG.data
    assert (outcomes(fetched)["host-0"].wrong_chunks, fetched.benched, fetched.resent) == (1, (), CHUNK_SIZE)


class TestWithoutATable:
    """Only the whole can be told right from wrong."""

    def test_the_liar_is_known_when_it_was_alone(self, tmp_path: Path, servers: list[FaultyServer]) -> None:
        servers[0].faults = Faults(flip=frozenset([5]))
        with BIG.part(tmp_path, table=False) as part:
            fetched = fetch(part, BIG.item(offers(servers), table=False), by_http(), Consent())
            assert part.path.read_bytes() == BIG.data
        assert outcomes(fetched)["host-0"].wrong_chunks == 1
        assert fetched.source in ("host-0", "host-1")
        assert fetched.resent == BIG.size

    def test_nobody_is_blamed_for_what_was_there(self, tmp_path: Path, servers: list[FaultyServer]) -> None:
        with BIG.part(tmp_path, table=False) as part:
            part.put(0, bytes(CHUNK_SIZE))
            fetched = fetch(part, BIG.item(offers(servers), table=False), by_http(), Consent())
            assert part.path.read_bytes() == BIG.data
        assert all(not each.wrong_chunks for each in fetched.offers)

    def test_all_lie(self, tmp_path: Path, servers: list[FaultyServer]) -> None:
        for server in servers:
            server.faults = Faults(flip=frozenset([5]))
        with BIG.part(tmp_path, table=False) as part, pytest.raises(FetchFailed) as failed:
            fetch(part, BIG.item(offers(servers), table=False), by_http(), Consent())
        assert failed.value.cause == "wrong_bytes"
        assert counted(servers, 3 * BIG.size) == 3 * BIG.size

    def test_one_alone_gets_a_second_chance(self, tmp_path: Path, servers: list[FaultyServer]) -> None:
        servers[0].faults = Faults(flip=frozenset([5]))
        with SMALL.part(tmp_path, table=False) as part, pytest.raises(FetchFailed) as failed:
            fetch(part, SMALL.item(offers(servers[:1], SMALL), table=False), by_http(), Consent())
        assert (failed.value.cause, len(servers[0].requests)) == ("wrong_bytes", 2)


def test_a_table_of_another_content_is_found_out(tmp_path: Path, servers: list[FaultyServer]) -> None:
    other = content(BIG.size, 9)
    servers[0].objects = {BIG.sha256: other.data}
    with PartFile.open(tmp_path, "some.npz", BIG.sha256, BIG.size, other.table) as part, pytest.raises(FetchFailed) as failed:
        fetch(part, BIG.item(offers(servers[:1])), by_http(), Consent())
    assert failed.value.cause == "wrong_bytes"


def test_what_the_disk_lost_meanwhile_is_fetched_again(tmp_path: Path, servers: list[FaultyServer]) -> None:
    with BIG.part(tmp_path) as part:
        for index in range(1, 6):
            part.put(index, BIG.chunk(index))
        with part.path.open("r+b") as file:
            file.seek(3 * CHUNK_SIZE)
            file.write(b"damage")
        fetched = fetch(part, BIG.item(offers(servers)), by_http(), Consent())
        assert part.path.read_bytes() == BIG.data
    assert fetched.bytes == 2 * CHUNK_SIZE + 12345


@pytest.mark.parametrize("told", [None, b"\1" * 7, b"", b"\0" * 7, b"garbage!"])
def test_it_goes_on_where_it_ended(tmp_path: Path, servers: list[FaultyServer], told: bytes | None) -> None:
    servers[0].faults = Faults(dead_after_total=4 * CHUNK_SIZE)
    with BIG.part(tmp_path) as part:
        with pytest.raises(FetchFailed) as failed:
            fetch(part, BIG.item(offers(servers[:1])), by_http(), Consent(), connections=2)
        there, map_path = part.bytes_done, part.path.with_name(f"{part.path.name}.map")
    assert there >= 2 * CHUNK_SIZE
    assert failed.value.cause == "no_source"
    if told is not None:
        map_path.write_bytes(told)
    with BIG.part(tmp_path) as part:
        fetched = fetch(part, BIG.item(offers(servers[1:2])), by_http(), Consent())
        assert part.path.read_bytes() == BIG.data
    assert fetched.bytes == counted(servers[1:2], BIG.size - there) == BIG.size - there


class TestTime:
    """Nothing waits for a source that does not come back while another is there."""

    @pytest.mark.parametrize("stalled", [Faults(stall_after=0), Faults(stall_after=CHUNK_SIZE // 2), Faults(slow_head=20)])
    def test_a_stall_is_left(self, tmp_path: Path, servers: list[FaultyServer], stalled: Faults) -> None:
        servers[0].faults = stalled
        with BIG.part(tmp_path) as part:
            fetched = fetch(part, BIG.item(offers(servers)), by_http(), Consent())
            assert part.path.read_bytes() == BIG.data
        assert fetched.seconds < 20
        assert fetched.source != "host-0"

    @pytest.mark.parametrize("connections", [1, 4])
    @pytest.mark.parametrize("table", [True, False])
    def test_a_trickle_is_left(
        self, tmp_path: Path, servers: list[FaultyServer], connections: int, table: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ranges, "HUNG_SECONDS", 1.0)
        servers[0].faults = Faults(rate=100_000)
        with BIG.part(tmp_path, table=table) as part:
            item = BIG.item(offers(servers), table=table)
            fetched = fetch(part, item, by_http(), Consent(), connections=connections)
            assert part.path.read_bytes() == BIG.data
        assert fetched.seconds < 20
        assert all(not each.failures for each in fetched.offers)

    def test_everybody_stalls(self, tmp_path: Path, servers: list[FaultyServer], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(http_client, "STALL_SECONDS", 0.6)
        servers[0].faults = Faults(stall_after=1000)
        with SMALL.part(tmp_path) as part, pytest.raises(FetchFailed) as failed:
            fetch(part, SMALL.item(offers(servers[:1], SMALL)), by_http(), Consent())
        assert failed.value.cause == "timeout"

    def test_a_transport_that_never_returns_is_left_behind(self, tmp_path: Path, servers: list[FaultyServer]) -> None:
        hanging = _Hanging(threading.Event())
        offered = [offer("s3", "bucket", TransportName.S3), *offers(servers[:1])]
        with BIG.part(tmp_path) as part:
            fetched = fetch(part, BIG.item(offered), {TransportName.S3: hanging, **by_http()}, Consent())
            assert part.path.read_bytes() == BIG.data
            hanging.over.set()
        assert outcomes(fetched)["bucket"].failure == "timeout"
        assert fetched.source == "host-0"


class _Hanging:
    name: ClassVar[TransportName] = TransportName.S3

    def __init__(self, over: threading.Event) -> None:
        self.over = over

    def probe(self, offer: Offer, timeout: float) -> Probe:
        return Probe(latency=0)

    def fetch(
        self, offer: Offer, start: int, length: int, write: Callable[[memoryview], None], cancelled: Callable[[], bool]
    ) -> None:
        self.over.wait(60)
        write(memoryview(b"too late"))


class _Whole:
    """A transport of whole items that does as it is told."""

    name: ClassVar[TransportName] = TransportName.RSYNC

    def __init__(self, bring: Callable[[Path, Callable[[], bool], Callable[[int], None]], None]) -> None:
        self.bring = bring
        self.calls: list[tuple[list[str], float | None]] = []

    def probe(self, offer: Offer, timeout: float) -> Probe:
        return Probe(latency=0)

    def fetch_whole(
        self,
        item: OrderedItem,
        offers: Sequence[Offer],
        into: Path,
        *,
        bytes_a_second: float | None,
        cancelled: Callable[[], bool],
        progress: Callable[[int], None],
    ) -> None:
        self.calls.append(([each.location for each in offers], bytes_a_second))
        self.bring(into, cancelled, progress)


def rsync(location: str) -> Offer:
    return offer("user@host:/path", location, TransportName.RSYNC)


class TestOtherTransports:
    def test_a_transport_that_dies_is_replaced_and_what_it_brought_stays(self, tmp_path: Path, servers: list[FaultyServer]) -> None:
        def die(into: Path, cancelled: Callable[[], bool], progress: Callable[[int], None]) -> None:
            into.write_bytes(BIG.data[: 3 * CHUNK_SIZE + 99])
            progress(3 * CHUNK_SIZE + 99)
            raise TransportFailure("failed", "killed")

        with BIG.part(tmp_path) as part:
            item = BIG.item([rsync("host-9"), *offers(servers[:1])])
            fetched = fetch(part, item, {TransportName.RSYNC: _Whole(die), **by_http()}, Consent())
            assert part.path.read_bytes() == BIG.data
        assert counted(servers[:1], BIG.size - 3 * CHUNK_SIZE) == BIG.size - 3 * CHUNK_SIZE
        assert outcomes(fetched)["host-9"].bytes == 3 * CHUNK_SIZE
        assert fetched.transport == TransportName.HTTP

    def test_http_dies_and_another_brings_the_rest(self, tmp_path: Path, servers: list[FaultyServer]) -> None:
        servers[0].faults = Faults(dead_after_total=3 * CHUNK_SIZE)
        missing: list[int] = []
        ended: list[float] = []

        def bring(into: Path, cancelled: Callable[[], bool], progress: Callable[[int], None]) -> None:
            missing.extend(part.missing())
            ended.append(time.monotonic())
            into.write_bytes(BIG.data)

        with BIG.part(tmp_path) as part:
            began = time.monotonic()
            item = BIG.item([*offers(servers[:1]), rsync("host-9")])
            whole = _Whole(bring)
            fetched = fetch(part, item, {TransportName.RSYNC: whole, **by_http()}, Consent(limit=5e6), connections=1)
            assert part.path.read_bytes() == BIG.data
        assert missing and len(missing) < 7
        assert ended[0] - began < DEADLINE
        assert whole.calls == [(["host-9"], 5e6)]
        assert outcomes(fetched)["host-0"].failure in ("short", "refused", "unreachable")

    def test_one_that_stalls_is_ended(self, tmp_path: Path, servers: list[FaultyServer]) -> None:
        def stall(into: Path, cancelled: Callable[[], bool], progress: Callable[[int], None]) -> None:
            into.write_bytes(BIG.data[:CHUNK_SIZE])
            progress(1)
            progress(CHUNK_SIZE)
            stalled = time.monotonic()
            while not cancelled():
                time.sleep(0.02)
            waited.append(time.monotonic() - stalled)
            raise TransportFailure("cancelled")

        waited: list[float] = []
        with BIG.part(tmp_path) as part:
            item = BIG.item([rsync("host-9"), *offers(servers[:1])])
            fetched = fetch(part, item, {TransportName.RSYNC: _Whole(stall), **by_http()}, Consent())
            assert part.path.read_bytes() == BIG.data
        assert waited[0] < DEADLINE
        assert outcomes(fetched)["host-9"].failure == "timeout"

    @pytest.mark.parametrize("name", [TransportName.ARIA2, TransportName.BITTORRENT, TransportName.RSYNC])
    def test_a_source_that_hashes_first_is_waited_for(
        self, name: TransportName, tmp_path: Path, servers: list[FaultyServer], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing can come from it before it knows the hashes of all pieces."""

        def hash_first(into: Path, cancelled: Callable[[], bool], progress: Callable[[int], None]) -> None:
            began = time.monotonic()
            while time.monotonic() - began < 6 * fetching.STALL_SECONDS:
                if cancelled():
                    raise TransportFailure("cancelled")
                time.sleep(0.01)
            into.write_bytes(BIG.data)

        monkeypatch.setattr(fetching, "STALL_SECONDS", 0.1)
        with BIG.part(tmp_path) as part:
            item = BIG.item([offer("http://host-9", "host-9", name), *offers(servers[:1])])
            fetched = fetch(part, item, {name: _Whole(hash_first), **by_http()}, Consent())
            assert part.path.read_bytes() == BIG.data
        assert fetched.source == ("host-0" if name == TransportName.RSYNC else "host-9")

    @pytest.mark.parametrize("name", [TransportName.ARIA2, TransportName.BITTORRENT])
    def test_once_it_moves_it_is_waited_for_no_longer_than_others(
        self, name: TransportName, tmp_path: Path, servers: list[FaultyServer]
    ) -> None:
        def stall(into: Path, cancelled: Callable[[], bool], progress: Callable[[int], None]) -> None:
            progress(1)
            stalled = time.monotonic()
            while not cancelled():
                time.sleep(0.02)
            waited.append(time.monotonic() - stalled)
            raise TransportFailure("cancelled")

        waited: list[float] = []
        with BIG.part(tmp_path) as part:
            item = BIG.item([offer("http://host-9", "host-9", name), *offers(servers[:1])])
            fetch(part, item, {name: _Whole(stall), **by_http()}, Consent())
            assert part.path.read_bytes() == BIG.data
        assert waited[0] < DEADLINE

    def test_lies_are_blamed_on_who_is_asked_alone(self, tmp_path: Path, servers: list[FaultyServer]) -> None:
        def lie(into: Path, cancelled: Callable[[], bool], progress: Callable[[int], None]) -> None:
            into.write_bytes(bytes(BIG.size))

        with BIG.part(tmp_path) as part:
            part.put(0, BIG.chunk(0))
            item = BIG.item([rsync("host-8"), rsync("host-9"), *offers(servers[:1])])
            whole = _Whole(lie)
            fetched = fetch(part, item, {TransportName.RSYNC: whole, **by_http()}, Consent())
            assert part.path.read_bytes() == BIG.data
        assert [locations for locations, _ in whole.calls] == [["host-8"], ["host-9"]]
        assert fetched.benched == ("host-8", "host-9")

    def test_without_a_table_what_one_overwrote_of_another_is_found_out(self, tmp_path: Path, servers: list[FaultyServer]) -> None:
        """The first chunks came right and were hashed; then the same file was written over."""

        def lie(into: Path, cancelled: Callable[[], bool], progress: Callable[[int], None]) -> None:
            into.write_bytes(b"?" + BIG.data[1:])

        servers[0].faults = Faults(dead_after_total=3 * CHUNK_SIZE)
        with BIG.part(tmp_path, table=False) as part:
            item = BIG.item([*offers(servers[:1]), rsync("host-9")], table=False)
            with pytest.raises(FetchFailed) as failed:
                fetch(part, item, {TransportName.RSYNC: _Whole(lie), **by_http()}, Consent(), connections=1)
        assert failed.value.cause == "wrong_bytes"

    def test_without_a_table_a_transport_that_wrote_nothing_fills_no_hole(
        self, tmp_path: Path, servers: list[FaultyServer]
    ) -> None:
        def refuse(into: Path, cancelled: Callable[[], bool], progress: Callable[[int], None]) -> None:
            raise TransportFailure("refused", "nobody listens")

        with BIG.part(tmp_path, table=False) as part:
            for index in (0, 1, 3, 4, 5, 6):
                part.put(index, BIG.chunk(index))
            item = BIG.item([rsync("host-9"), *offers(servers[:1])], table=False)
            fetched = fetch(part, item, {TransportName.RSYNC: _Whole(refuse), **by_http()}, Consent())
            assert part.path.read_bytes() == BIG.data
        assert (fetched.bytes, fetched.resent) == (CHUNK_SIZE, 0)

    def test_without_a_table_nothing_is_believed_that_broke_off(self, tmp_path: Path, servers: list[FaultyServer]) -> None:
        def die(into: Path, cancelled: Callable[[], bool], progress: Callable[[int], None]) -> None:
            into.write_bytes(bytes(BIG.size))
            raise TransportFailure("short")

        with BIG.part(tmp_path, table=False) as part:
            part.put(0, BIG.chunk(0))
            item = BIG.item([rsync("host-9"), *offers(servers[:1])], table=False)
            fetched = fetch(part, item, {TransportName.RSYNC: _Whole(die), **by_http()}, Consent())
            assert part.path.read_bytes() == BIG.data
        assert (fetched.bytes, outcomes(fetched)["host-9"].bytes) == (BIG.size, 0)

    def test_something_more_urgent_goes_first(self, tmp_path: Path) -> None:
        consent = Consent()

        def bring(into: Path, cancelled: Callable[[], bool], progress: Callable[[int], None]) -> None:
            if len(whole.calls) == 1:
                into.write_bytes(BIG.data[:CHUNK_SIZE])
                consent.may_go.clear()
                assert cancelled()
                consent.may_go.set()
                raise TransportFailure("cancelled")
            into.write_bytes(BIG.data)

        whole = _Whole(bring)
        with BIG.part(tmp_path) as part:
            fetched = fetch(part, BIG.item([rsync("host-9")]), {TransportName.RSYNC: whole}, consent)
        assert (len(whole.calls), fetched.retries) == (2, 0)

    def test_what_this_host_cannot_do_is_passed_over(self, tmp_path: Path, servers: list[FaultyServer]) -> None:
        with SMALL.part(tmp_path) as part:
            fetched = fetch(part, SMALL.item([rsync("host-9"), *offers(servers[:1], SMALL)]), by_http(), Consent())
        assert outcomes(fetched)["host-9"].failure == "not_installed"

    def test_another_round_while_it_goes_on(self, tmp_path: Path) -> None:
        def a_chunk_more(into: Path, cancelled: Callable[[], bool], progress: Callable[[int], None]) -> None:
            into.write_bytes(BIG.data[: into.stat().st_size + CHUNK_SIZE])
            if into.stat().st_size < BIG.size:
                raise TransportFailure("short")

        whole = _Whole(a_chunk_more)
        with BIG.part(tmp_path) as part:
            fetched = fetch(part, BIG.item([rsync("host-9")]), {TransportName.RSYNC: whole}, Consent())
        assert (len(whole.calls), fetched.retries) == (7, 6)


class TestStopping:
    def test_cancelled_it_ends_and_keeps_what_is_there(self, tmp_path: Path, servers: list[FaultyServer]) -> None:
        consent = Consent()
        servers[0].faults = Faults(rate=20e6)
        consent.on_take = lambda: consent.is_cancelled.set() if sum(consent.taken.values()) > 3 * CHUNK_SIZE else None
        with BIG.part(tmp_path) as part:
            with pytest.raises(FetchFailed) as failed:
                fetch(part, BIG.item(offers(servers[:1])), by_http(), consent, connections=1)
            assert part.bytes_done >= 2 * CHUNK_SIZE
        assert failed.value.cause == "cancelled"

    def test_who_is_more_urgent_waits_for_a_chunk_at_most(self, tmp_path: Path, servers: list[FaultyServer]) -> None:
        consent = Consent()
        servers[0].faults = Faults(rate=40e6)
        at_the_call: list[int] = []

        def call() -> None:
            if not at_the_call and sum(consent.taken.values()) > CHUNK_SIZE:
                at_the_call.append(sum(consent.taken.values()))
                consent.may_go.clear()

        consent.on_take = call
        with BIG.part(tmp_path) as part:
            going = threading.Thread(target=fetch, args=(part, BIG.item(offers(servers[:1])), by_http(), consent))
            going.start()
            turns = 0
            while not at_the_call or consent.turns != turns or sum(consent.taken.values()) % CHUNK_SIZE:
                turns = consent.turns
                time.sleep(0.1)
            taken = sum(consent.taken.values())
            assert taken - at_the_call[0] <= 4 * CHUNK_SIZE  # one for each connection
            time.sleep(0.2)
            assert sum(consent.taken.values()) == taken
            consent.may_go.set()
            going.join(60)
            assert part.path.read_bytes() == BIG.data
        assert sum(consent.taken.values()) == BIG.size

    def test_a_control_may_end_it_for_now(self, tmp_path: Path, servers: list[FaultyServer]) -> None:
        class Impatient(Consent):
            def wait_turn(self) -> bool:
                super().wait_turn()
                if sum(self.taken.values()) > 2 * CHUNK_SIZE:
                    raise Preempted
                return True

            def preempted(self) -> bool:
                return sum(self.taken.values()) > 2 * CHUNK_SIZE

        with BIG.part(tmp_path) as part:
            with pytest.raises(Preempted):
                fetch(part, BIG.item(offers(servers[:1])), by_http(), Impatient(), connections=1)
            there = part.bytes_done
            fetched = fetch(part, BIG.item(offers(servers[:1])), by_http(), Consent())
        assert there == 3 * CHUNK_SIZE
        assert fetched.bytes == BIG.size - there


def test_a_limit_holds_over_all_connections_and_sources(tmp_path: Path, servers: list[FaultyServer]) -> None:
    links, flows, lock = Links(), [], threading.Lock()
    links.set("in", 20e6)

    class Limited(Consent):
        def take(self, location: str, n: int) -> None:
            links.take(["in", f"from {location}"], n, Priority.NORMAL, self.cancelled)
            with lock:
                flows.append((time.monotonic(), n))

    with BIG.part(tmp_path) as part:
        fetched = fetch(part, BIG.item(offers(servers)), by_http(), Limited())
        assert part.path.read_bytes() == BIG.data
    assert sum(n for _, n in flows) == BIG.size
    assert fetched.seconds >= (BIG.size - 4e6) / 20e6
    assert fetched.retries == 0


def test_a_limit_holds_over_calls_that_bring_whole_items(tmp_path: Path) -> None:
    """However fast each of them is, and whatever it was told when it was alone."""
    links, count, rate, size = Links(), 3, 20e6, 2 * CHUNK_SIZE
    links.set("in", rate)
    together = threading.Barrier(count)

    class Limited(Consent):
        def take(self, location: str, n: int) -> None:
            links.take(("in", f"from {location}"), n, Priority.NORMAL, self.cancelled)
            super().take(location, n)

        @contextmanager
        def rate(self, locations: Iterable[str]) -> Iterator[Mapping[str, float | None]]:
            with links.share({location: ("in", f"from {location}") for location in locations}) as shares:
                yield shares

    def bring(into: Path, cancelled: Callable[[], bool], progress: Callable[[int], None]) -> None:
        together.wait(60)
        into.write_bytes(BIG.data[:size])
        progress(size // 2)
        progress(size)

    def one(number: int) -> None:
        (tmp_path / str(number)).mkdir()
        with of.part(tmp_path / str(number)) as part:
            fetch(part, of.item([rsync("host-9")]), {TransportName.RSYNC: whole}, consent)

    of, whole, consent = Content(BIG.data[:size]), _Whole(bring), Limited()
    going = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    began = time.monotonic()
    for each in going:
        each.start()
    for each in going:
        each.join(60)
    assert time.monotonic() - began >= (count * size - 4e6) / rate
    assert consent.taken == {"host-9": count * size}
    assert sorted(told for _, told in whole.calls if told) == [pytest.approx(rate / each) for each in (3, 2, 1)]


def test_a_call_that_waits_for_its_links_is_stopped_for_what_is_more_urgent(tmp_path: Path) -> None:
    consent = Consent(limit=1e6)
    consent.on_take = consent.may_go.clear

    def bring(into: Path, cancelled: Callable[[], bool], progress: Callable[[int], None]) -> None:
        if len(whole.calls) == 1:
            into.write_bytes(BIG.data[: 2 * CHUNK_SIZE])
            progress(2 * CHUNK_SIZE)
            assert cancelled()
            assert sum(consent.taken.values()) < CHUNK_SIZE
            consent.on_take = None
            consent.may_go.set()
            raise TransportFailure("cancelled")
        into.write_bytes(BIG.data)
        progress(BIG.size)

    whole = _Whole(bring)
    with BIG.part(tmp_path) as part:
        fetched = fetch(part, BIG.item([rsync("host-9")]), {TransportName.RSYNC: whole}, consent)
    assert (len(whole.calls), fetched.retries) == (2, 0)
    assert sum(consent.taken.values()) == pytest.approx(BIG.size, abs=CHUNK_SIZE / 2)


class TestDisk:
    def test_no_room(self, tmp_path: Path, servers: list[FaultyServer], small_disk: Path) -> None:
        with BIG.part(small_disk) as part:
            with pytest.raises(FetchFailed) as failed:
                fetch(part, BIG.item(offers(servers)), by_http(), Consent())
            assert failed.value.cause == "no_room"
            there = part.bytes_done
        with BIG.part(small_disk) as part:
            assert part.bytes_done == there > 0

    def test_a_directory_that_cannot_be_written_to(self, closed_folder: Path) -> None:
        with pytest.raises(OSError, match=r"Read-only|Permission") as failed:
            BIG.part(closed_folder)
        assert disk_cause(failed.value) == "read_only"


def _mounted(folder: Path, options: str) -> bool:
    """Whether a file system of its own could be put there."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    return os.geteuid() == 0 and subprocess.run(command, check=False, capture_output=True).returncode == 0


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file system of 18 MiB; where nobody may mount one, writing ends as if it were."""
    folder = tmp_path / "disk"
    if _mounted(folder, "size=18m"):
        yield folder
        subprocess.run(["umount", "-l", str(folder)], check=True)
        return
    write = os.pwrite

    def limited(descriptor: int, data: Any, offset: int) -> int:
        if offset + len(data) > 18 << 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", limited)
    yield folder


@pytest.fixture
def closed_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that nothing can be made in, not even by root where that can be had."""
    folder = tmp_path / "closed"
    mounted = _mounted(folder, "ro")
    if not mounted:
        folder.chmod(0o500)
    yield folder
    if mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_many_transfers_at_random(tmp_path: Path, servers: list[FaultyServer]) -> None:
    """Whatever three sources do, what comes out is right or there is nothing."""
    chance = random.Random(20)
    kinds: Mapping[str, Callable[[], Faults]] = {
        "good": Faults,
        "flips": lambda: Faults(flip_every=chance.randrange(1, SMALL.size)),
        "cuts": lambda: Faults(cut_after=chance.randrange(SMALL.size)),
        "resets": lambda: Faults(reset_after=chance.randrange(SMALL.size)),
        "fails": lambda: Faults(statuses=[chance.choice([500, 404, 401, 410, 200])]),
    }
    rights = 0
    for number in range(40):
        for server in servers:
            server.faults = kinds[chance.choice(list(kinds))]()
        folder = tmp_path / str(number)
        folder.mkdir()
        table = chance.random() < 0.7
        with SMALL.part(folder, table=table) as part:
            try:
                fetch(part, SMALL.item(offers(servers, SMALL), table=table), by_http(), Consent())
            except FetchFailed as failed:
                assert failed.cause in ("no_source", "wrong_bytes")
            else:
                assert part.path.read_bytes() == SMALL.data
                rights += 1
    assert rights > 20
    assert len(list(Path("/proc/self/fd").iterdir())) < 200
