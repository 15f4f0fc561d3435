"""BitTorrent among real libtorrent sessions: who is let in, who gives to whom, and what is left when it ends early."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from ringrift_dagster.manifest.inventory import CHUNK_SIZE
from ringrift_dagster.transfer.fetch import fetch
from ringrift_dagster.transfer.model import Offer, TransportName
from ringrift_dagster.transfer.pieces import SHARE_SIZE, Pieces, compute
from ringrift_dagster.transfer.swarm import MAX_MEMBERS, MAX_PEERS, Full, Peer, Swarm, parse_peers
from ringrift_dagster.transfer.transports.bittorrent import BitTorrentTransport
from ringrift_dagster.transfer.transports.protocol import TransportFailure
from tests.transfer.faulty_servers import FaultyServer
from tests.transfer.fetching import Consent, Content, content
from tests.transfer.processes import wait_until
from tests.transfer.real_items import KINDS, real_item

# Fetches slowly, until it is killed. Says its port first, and waits for a line.
OWNER = """
import sys
from pathlib import Path
from ringrift_dagster.transfer.model import OrderedItem
from ringrift_dagster.transfer.swarm import Swarm
from ringrift_dagster.transfer.transports.bittorrent import BitTorrentTransport

item, into = OrderedItem.model_validate_json(sys.argv[1]), Path(sys.argv[2])
swarm = Swarm()
print(swarm.port, flush=True)
sys.stdin.readline()
BitTorrentTransport(swarm, stall_seconds=20).fetch_whole(
    item, item.offers, into, bytes_a_second=4e6, cancelled=lambda: False, progress=lambda done: print("more", flush=True)
)
"""


@pytest.fixture
def swarms() -> Iterator[Callable[..., Swarm]]:
    """Starts swarms (arguments as for Swarm); they end with the test."""
    with ExitStack() as stack:
        yield lambda *arguments, **options: stack.enter_context(Swarm(*arguments, **options))


@contextmanager
def opened(what: Content, tmp_path: Path) -> Iterator[tuple[Pieces, int]]:
    """The item in a file, and its pieces."""
    path = tmp_path / f"source-{what.sha256[:8]}"
    path.write_bytes(what.data)
    with path.open("rb") as file:
        yield compute(file.fileno(), what.sha256, what.size), file.fileno()


def peer(swarm: Swarm) -> Peer:
    return "127.0.0.1", swarm.port


def offer(server: FaultyServer, what: Content, *peers: Swarm) -> Offer:
    told = " ".join(f"127.0.0.1:{each.port}" for each in peers)
    address = server.url(what.sha256)
    return Offer(transport=TransportName.BITTORRENT, location="gpu-1", address=address, options={"peers": told})


@contextmanager
def agent(pieces: Pieces) -> Iterator[FaultyServer]:
    """What gives the torrent."""
    with FaultyServer({"torrent": pieces.torrent()}) as server:
        yield server


def bring(
    swarm: Swarm | None,
    what: Content,
    given: Offer,
    into: Path,
    cancelled: Callable[[], bool] = lambda: False,
    stall_seconds: float = 20,
) -> None:
    """One call of the transport alone."""
    transport = BitTorrentTransport(swarm, stall_seconds=stall_seconds)
    transport.fetch_whole(what.item([given]), [given], into, bytes_a_second=None, cancelled=cancelled, progress=lambda done: None)


def holds_a_chunk(path: Path, what: Content) -> bool:
    there = Content(path.read_bytes())
    return any(there.chunk(index) == what.chunk(index) for index in range(what.size // CHUNK_SIZE))


@pytest.mark.parametrize("kind", KINDS)
def test_items_come_and_are_verified(
    kind: str, swarms: Callable[..., Swarm], recorded: Callable[[str], Path], tmp_path: Path
) -> None:
    what, source, target = real_item(kind, recorded), swarms(), swarms()
    with opened(what, tmp_path) as (pieces, descriptor), agent(pieces) as server, what.part(tmp_path) as part:
        source.seed(pieces, descriptor, [peer(target)], 60)
        transport = BitTorrentTransport(target, stall_seconds=20)
        fetched = fetch(part, what.item([offer(server, what, source)]), {TransportName.BITTORRENT: transport}, Consent())
        assert (fetched.transport, fetched.resent) == (TransportName.BITTORRENT, 0)
        assert part.path.read_bytes() == what.data


def test_a_limit_beyond_what_the_library_can_express_is_none(swarms: Callable[..., Swarm], tmp_path: Path) -> None:
    what, source, target = content(2 * CHUNK_SIZE), swarms(upload=1e12), swarms(download=1e12)
    with opened(what, tmp_path) as (pieces, descriptor), agent(pieces) as server:
        source.seed(pieces, descriptor, [peer(target)], 60)
        given, into = offer(server, what, source), tmp_path / "into"
        BitTorrentTransport(target, stall_seconds=20).fetch_whole(
            what.item([given]), [given], into, bytes_a_second=1e11, cancelled=lambda: False, progress=lambda done: None
        )
        assert into.read_bytes() == what.data


def test_everybody_who_has_it_makes_the_same_torrent(tmp_path: Path) -> None:
    what = content(2 * CHUNK_SIZE + 5)
    with opened(what, tmp_path) as (pieces, descriptor):
        again = compute(descriptor, what.sha256, what.size, what.table)
    assert again == pieces
    import libtorrent

    told = libtorrent.torrent_info(libtorrent.bdecode(pieces.torrent()))
    assert (told.name(), told.total_size(), told.piece_length(), told.priv()) == (what.sha256, what.size, SHARE_SIZE, True)
    assert (b"announce" in pieces.torrent(), told.num_pieces()) == (False, 5)


def test_receivers_give_to_each_other(swarms: Callable[..., Swarm], tmp_path: Path) -> None:
    what = content(32 << 20)
    source = swarms(upload=12e6)
    targets = [swarms(upload=12e6) for _ in range(3)]
    with opened(what, tmp_path) as (pieces, descriptor), agent(pieces) as server, ThreadPoolExecutor(3) as pool:
        source.seed(pieces, descriptor, [peer(target) for target in targets], 60)
        running = [
            pool.submit(bring, target, what, offer(server, what, source, *targets), tmp_path / f".{number}.part")
            for number, target in enumerate(targets)
        ]
        for each in running:
            each.result(120)
    assert all((tmp_path / f".{number}.part").read_bytes() == what.data for number in range(3))
    (given,) = source.seeding()
    assert given.uploaded < 2.5 * what.size
    assert sum(seeding.uploaded for target in targets for seeding in target.seeding()) > 0.4 * what.size


def test_nobody_is_let_in_who_is_not_named(swarms: Callable[..., Swarm], tmp_path: Path) -> None:
    what, source, stranger = content(CHUNK_SIZE), swarms(), swarms()
    with opened(what, tmp_path) as (pieces, descriptor), agent(pieces) as server:
        source.seed(pieces, descriptor, [("192.0.2.7", 6881)], 60)
        with pytest.raises(TransportFailure) as raised:
            bring(stranger, what, offer(server, what, source), tmp_path / ".into.part", stall_seconds=3)
        assert raised.value.code == "timeout"
        assert [seeding.uploaded for seeding in source.seeding()] == [0]
        assert stranger.seeding() == []
        source.seed(pieces, descriptor, [peer(stranger)], 60)
        bring(stranger, what, offer(server, what, source), tmp_path / ".into.part")
    assert (tmp_path / ".into.part").read_bytes() == what.data


def test_what_was_fetched_is_shared_under_whatever_name(swarms: Callable[..., Swarm], tmp_path: Path) -> None:
    what, source, first, second = content(2 * CHUNK_SIZE), swarms(), swarms(), swarms()
    into, published = tmp_path / ".into.part", tmp_path / "published.npz"
    with opened(what, tmp_path) as (pieces, descriptor), agent(pieces) as server:
        source.seed(pieces, descriptor, [peer(first)], 60)
        bring(first, what, offer(server, what, source, second), into)
        source.close()
        os.link(into, published)
        into.unlink()
        bring(second, what, offer(server, what, first), tmp_path / ".second.part")
        assert (tmp_path / ".second.part").read_bytes() == what.data
        published.unlink()
        assert wait_until(lambda: not first.seeding()), "a file that nobody else has takes no room"


def test_one_that_is_cancelled_leaves_the_swarm_and_goes_on_later(swarms: Callable[..., Swarm], tmp_path: Path) -> None:
    what, source, target = content(8 * CHUNK_SIZE), swarms(upload=12e6), swarms()
    with opened(what, tmp_path) as (pieces, descriptor), agent(pieces) as server:
        source.seed(pieces, descriptor, [peer(target)], 60)
        given = offer(server, what, source)
        with what.part(tmp_path) as part:
            halfway = lambda: any(each.uploaded > what.size * 3 // 4 for each in source.seeding())  # noqa: E731
            with pytest.raises(TransportFailure) as raised:
                bring(target, what, given, part.path, halfway)
            assert raised.value.code == "cancelled"
            assert target.seeding() == []
            there = part.path.read_bytes()
            part.adopt()
            before = part.bytes_done
            assert before >= CHUNK_SIZE
            fetched = fetch(
                part, what.item([given]), {TransportName.BITTORRENT: BitTorrentTransport(target, stall_seconds=20)}, Consent()
            )
            assert fetched.bytes == what.size - before
            assert part.path.read_bytes() == what.data
            assert len(there) <= what.size


def test_an_owner_that_is_killed_loses_only_what_was_under_way(swarms: Callable[..., Swarm], tmp_path: Path) -> None:
    what, source, target = content(8 * CHUNK_SIZE), swarms(), swarms()
    with opened(what, tmp_path) as (pieces, descriptor), agent(pieces) as server:
        item = what.item([offer(server, what, source)])
        with what.part(tmp_path) as part:
            path = part.path
        command = [sys.executable, "-c", OWNER, item.model_dump_json(), str(path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
            assert owner.stdin is not None
            assert owner.stdout is not None
            source.seed(pieces, descriptor, [("127.0.0.1", int(owner.stdout.readline()))], 60)
            owner.stdin.write("\n")
            owner.stdin.flush()
            assert wait_until(lambda: holds_a_chunk(path, what), 60)
            owner.kill()
        source.seed(pieces, descriptor, [peer(target)], 60)
        with what.part(tmp_path) as part:
            before = part.bytes_done
            assert before >= CHUNK_SIZE
            transports = {TransportName.BITTORRENT: BitTorrentTransport(target, stall_seconds=20)}
            fetched = fetch(part, item, transports, Consent())
            assert fetched.bytes == what.size - before
            assert part.path.read_bytes() == what.data


def test_a_source_that_lies_brings_nothing(swarms: Callable[..., Swarm], tmp_path: Path) -> None:
    what, source, target = content(2 * CHUNK_SIZE), swarms(), swarms()
    with opened(what, tmp_path) as (pieces, _), agent(pieces) as server, (tmp_path / "wrong").open("w+b") as wrong:
        wrong.write(what.data[:-1] + b"?")
        wrong.flush()
        source.seed(pieces, wrong.fileno(), [peer(target)], 60)
        with what.part(tmp_path) as part:
            with pytest.raises(TransportFailure) as raised:
                bring(target, what, offer(server, what, source), part.path, stall_seconds=3)
            assert raised.value.code == "timeout"
            part.adopt()
            assert 1 in part.missing()


def test_a_torrent_of_something_else_is_not_used(swarms: Callable[..., Swarm], tmp_path: Path) -> None:
    what, target, other = content(1000), swarms(), content(1000, seed=2)
    refusals = []
    with opened(other, tmp_path) as (pieces, _), agent(pieces) as server:
        for torrent in (pieces.torrent(), b"d4:infod6:lengthi1000eee", pieces.torrent() + b"x"):
            server.objects["torrent"] = torrent
            with pytest.raises(TransportFailure) as raised:
                bring(target, what, offer(server, what, target), tmp_path / ".into.part")
            refusals.append(raised.value.code)
    assert refusals == ["changed"] * 3
    assert not (tmp_path / ".into.part").exists()


def test_without_the_library_it_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "libtorrent", None)
    with pytest.raises(TransportFailure) as raised:
        Swarm()
    assert raised.value.code == "not_installed"
    what = content(1000)
    given = Offer(transport=TransportName.BITTORRENT, location="gpu-1", address=f"http://127.0.0.1:1/v1/objects/{what.sha256}")
    assert BitTorrentTransport(None).probe(given, 1).failure == "not_installed"
    with pytest.raises(TransportFailure) as raised:
        bring(None, what, given, tmp_path / ".into.part")
    assert raised.value.code == "not_installed"


def test_seeds_are_bounded_and_end(swarms: Callable[..., Swarm], tmp_path: Path) -> None:
    source = swarms()
    for number in range(MAX_MEMBERS + 1):
        with opened(content(10 + number, seed=number), tmp_path) as (pieces, descriptor):
            source.seed(pieces, descriptor, [], 60 + number)
    assert len(source.seeding()) == MAX_MEMBERS
    assert content(10, seed=0).sha256 not in {seeding.sha256 for seeding in source.seeding()}
    with opened(content(5), tmp_path) as (pieces, descriptor):
        source.seed(pieces, descriptor, [], 0.1)
    assert wait_until(lambda: content(5).sha256 not in {seeding.sha256 for seeding in source.seeding()})


def test_what_is_being_fetched_makes_no_room_for_seeds(swarms: Callable[..., Swarm], tmp_path: Path) -> None:
    target = swarms()
    with ExitStack() as files:
        for number in range(MAX_MEMBERS):
            into = files.enter_context((tmp_path / f"{number}").open("w+b"))
            with opened(content(10 + number, seed=number), tmp_path) as (pieces, _):
                target.fetch(pieces, into.fileno(), [], None, empty=True)
        with opened(content(5), tmp_path) as (pieces, descriptor), pytest.raises(Full):
            target.seed(pieces, descriptor, [], 60)


def test_peers_are_addresses_and_not_many() -> None:
    assert parse_peers("127.0.0.1:1 [::1]:65535") == [("127.0.0.1", 1), ("::1", 65535)]
    many = " ".join(["127.0.0.1:1"] * (MAX_PEERS + 1))
    for wrong in ("host:1", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:²", many):
        with pytest.raises(ValueError):
            parse_peers(wrong)


def test_when_it_says_that_all_is_there_all_is_in_the_file(swarms: Callable[..., Swarm], tmp_path: Path) -> None:
    what, source = content(20 << 20), swarms()
    with opened(what, tmp_path) as (pieces, descriptor), agent(pieces) as server:
        for number in range(5):
            target, into = swarms(), tmp_path / f".{number}.part"
            source.seed(pieces, descriptor, [peer(target)], 60)
            bring(target, what, offer(server, what, source), into)
            assert into.read_bytes() == what.data
