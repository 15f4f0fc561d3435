"""aria2 with real mirrors: what comes, which of them lie, and that nothing is left running or told to others."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from ringrift_dagster.manifest.inventory import CHUNK_SIZE
from ringrift_dagster.transfer.fetch import FetchFailed, fetch
from ringrift_dagster.transfer.model import Offer, TransportName
from ringrift_dagster.transfer.pieces import compute
from ringrift_dagster.transfer.transports.aria2 import Aria2Transport
from ringrift_dagster.transfer.transports.protocol import TransportFailure
from tests.transfer.faulty_servers import Faults, FaultyServer, faulty
from tests.transfer.fetching import Consent, Content, content
from tests.transfer.processes import children, running, wait_until
from tests.transfer.real_items import KINDS, real_item

# Fetches slowly, until it is killed.
OWNER = """
import sys
from pathlib import Path
from ringrift_dagster.transfer.model import OrderedItem
from ringrift_dagster.transfer.transports.aria2 import Aria2Transport

item, into = OrderedItem.model_validate_json(sys.argv[1]), Path(sys.argv[2])
Aria2Transport(into.parent, stall_seconds=20).fetch_whole(
    item, item.offers, into, bytes_a_second=8e6, cancelled=lambda: False, progress=lambda done: None
)
"""


@pytest.fixture
def aria2(tmp_path: Path) -> Iterator[Aria2Transport]:
    with Aria2Transport(tmp_path / "aria2", stall_seconds=20) as transport:
        yield transport


def served(what: Content, tmp_path: Path) -> dict[str, bytes]:
    """What an agent has of an item: its bytes, and the hashes of its pieces."""
    source = tmp_path / "source"
    source.write_bytes(what.data)
    with source.open("rb") as file:
        answer = compute(file.fileno(), what.sha256, what.size).answer()
    return {what.sha256: what.data, "pieces": answer.model_dump_json().encode()}


def offers(servers: Sequence[FaultyServer], what: Content) -> list[Offer]:
    return [
        Offer(transport=TransportName.ARIA2, location=f"gpu-{number}", address=server.url(what.sha256))
        for number, server in enumerate(servers)
    ]


def bring(
    transport: Aria2Transport, what: Content, given: Sequence[Offer], into: Path, cancelled: Callable[[], bool] = lambda: False
) -> list[int]:
    """One call of the transport alone; returns what it told of its progress."""
    told: list[int] = []
    transport.fetch_whole(what.item(given), given, into, bytes_a_second=None, cancelled=cancelled, progress=told.append)
    return told


def refusal(transport: Aria2Transport, what: Content, given: Sequence[Offer], into: Path) -> str:
    with pytest.raises(TransportFailure) as raised:
        bring(transport, what, given, into)
    return raised.value.code


@pytest.mark.parametrize("kind", KINDS)
def test_items_come_from_two_mirrors_and_are_verified(
    kind: str, aria2: Aria2Transport, recorded: Callable[[str], Path], tmp_path: Path
) -> None:
    what = real_item(kind, recorded)
    with faulty(served(what, tmp_path), 2) as mirrors, what.part(tmp_path) as part:
        fetched = fetch(part, what.item(offers(mirrors, what)), {TransportName.ARIA2: aria2}, Consent())
        assert (fetched.transport, fetched.resent) == (TransportName.ARIA2, 0)
        assert part.path.read_bytes() == what.data
        if kind == "large":
            assert all(mirror.sent for mirror in mirrors)
    assert not list(tmp_path.glob(".*.aria2"))


def test_one_corrupt_mirror_of_two_gives_right_bytes(aria2: Aria2Transport, tmp_path: Path) -> None:
    what = content(6 * CHUNK_SIZE)
    with faulty(served(what, tmp_path), 2) as mirrors, what.part(tmp_path) as part:
        mirrors[0].faults = Faults(flip_every=2 * CHUNK_SIZE)
        fetch(part, what.item(offers(mirrors, what)), {TransportName.ARIA2: aria2}, Consent())
        assert part.path.read_bytes() == what.data


def test_where_every_mirror_lies_nothing_wrong_counts(aria2: Aria2Transport, tmp_path: Path) -> None:
    what = content(3 * CHUNK_SIZE)
    with faulty(served(what, tmp_path), 2) as mirrors, what.part(tmp_path) as part:
        for mirror in mirrors:
            mirror.faults = Faults(flip=frozenset({CHUNK_SIZE + 5}))
        with pytest.raises(FetchFailed):
            fetch(part, what.item(offers(mirrors, what)), {TransportName.ARIA2: aria2}, Consent())
        assert part.missing() == [1]


def test_an_owner_that_is_killed_leaves_nothing_running_and_what_came_is_used(aria2: Aria2Transport, tmp_path: Path) -> None:
    what = content(8 * CHUNK_SIZE)
    with faulty(served(what, tmp_path), 2) as mirrors:
        item = what.item(offers(mirrors, what))
        with what.part(tmp_path) as part:
            with subprocess.Popen([sys.executable, "-c", OWNER, item.model_dump_json(), str(part.path)]) as owner:
                assert wait_until(lambda: part.path.stat().st_blocks * 512 > 5 * CHUNK_SIZE, 60)
                (daemon,) = [pid for pid in children(owner.pid) if is_aria2(pid)]
                owner.kill()
            assert wait_until(lambda: not is_aria2(daemon))
        sent = sum(mirror.sent for mirror in mirrors)
        with what.part(tmp_path) as part:
            assert part.bytes_done >= CHUNK_SIZE
            before = part.bytes_done
            fetch(part, item, {TransportName.ARIA2: aria2}, Consent())
            assert part.path.read_bytes() == what.data
        assert sum(mirror.sent for mirror in mirrors) - sent <= what.size - before + CHUNK_SIZE


def test_chunks_that_another_transport_brought_are_kept(aria2: Aria2Transport, tmp_path: Path) -> None:
    what = content(4 * CHUNK_SIZE)
    with faulty(served(what, tmp_path), 1) as mirrors, what.part(tmp_path) as part:
        part.put(1, what.chunk(1))
        part.put(2, what.chunk(2))
        fetch(part, what.item(offers(mirrors, what)), {TransportName.ARIA2: aria2}, Consent())
        assert part.path.read_bytes() == what.data
        assert mirrors[0].sent < 3 * CHUNK_SIZE


def test_without_piece_hashes_nothing_is_fetched(aria2: Aria2Transport, tmp_path: Path) -> None:
    what, into = content(1000), tmp_path / ".into.part"
    with faulty({what.sha256: what.data}, 1) as mirrors:
        assert refusal(aria2, what, offers(mirrors, what), into) == "not_found"
        mirrors[0].objects["pieces"] = b'{"sha256": "no"}'
        assert refusal(aria2, what, offers(mirrors, what), into) == "failed"
        mirrors[0].objects |= served(content(1001), tmp_path)
        assert refusal(aria2, what, offers(mirrors, what), into) == "changed"
        assert mirrors[0].sent < 1000
    assert refusal(aria2, what, offers(mirrors, what), into) == "refused"
    assert not into.exists()


def test_the_token_is_for_agents_alone(tmp_path: Path) -> None:
    what, into = content(CHUNK_SIZE + 1), tmp_path / ".into.part"
    token, given = "s/e@c:r%t", "Basic " + base64.b64encode(b"agent:s/e@c:r%t").decode()
    with faulty(served(what, tmp_path), 2) as (agent, other), Aria2Transport(tmp_path, token, stall_seconds=20) as aria2:
        other.objects["mirror.npz"] = what.data
        asked = {"pieces": agent.url(what.sha256)}
        plain = Offer(transport=TransportName.ARIA2, location="mirror", address=f"{other.base}/mirror.npz?signed=1", options=asked)
        bring(aria2, what, [plain], into)
        assert into.read_bytes() == what.data
        into.unlink()
        bring(aria2, what, [*offers([agent], what), plain], into)
        assert into.read_bytes() == what.data
        assert {headers.get("Authorization") for headers in other.headers} == {None}
        assert {headers.get("Authorization") for headers in agent.headers} == {f"Bearer {token}", given}


def test_no_token_goes_where_an_agent_redirects_to(tmp_path: Path) -> None:
    what, into = content(CHUNK_SIZE + 1), tmp_path / ".into.part"
    with faulty(served(what, tmp_path), 3) as (agent, moved, other), Aria2Transport(tmp_path, "secret", stall_seconds=20) as aria2:
        moved.faults = Faults(redirect=f"{other.base}/elsewhere")
        other.objects["elsewhere"] = what.data
        (given,) = offers([moved], what)
        bring(aria2, what, [given.model_copy(update={"options": {"pieces": agent.url(what.sha256)}})], into)
        assert into.read_bytes() == what.data
        assert all("Authorization" in headers for headers in moved.headers)
        assert other.headers
        assert not any("Authorization" in headers for headers in other.headers)


def test_no_secret_is_on_the_command_line_or_left_in_a_file(aria2: Aria2Transport, tmp_path: Path) -> None:
    what = content(1000)
    with faulty(served(what, tmp_path), 1) as mirrors:
        bring(aria2, what, offers(mirrors, what), tmp_path / ".into.part")
    (daemon,) = [pid for pid in children(os.getpid()) if is_aria2(pid)]
    words = Path(f"/proc/{daemon}/cmdline").read_bytes().split(b"\0")
    assert [word.partition(b"=")[0] for word in words[1:-1]] == [b"--conf-path"]
    assert list((tmp_path / "aria2").iterdir()) == []
    assert (tmp_path / "aria2").stat().st_mode & 0o777 == 0o700
    aria2.close()
    assert not running(str(tmp_path / "aria2"))


def test_one_that_was_killed_is_started_again(aria2: Aria2Transport, tmp_path: Path) -> None:
    what = content(1000)
    with faulty(served(what, tmp_path), 1) as mirrors:
        bring(aria2, what, offers(mirrors, what), tmp_path / ".first.part")
        (daemon,) = [pid for pid in children(os.getpid()) if is_aria2(pid)]
        os.kill(daemon, 9)
        assert wait_until(lambda: not Path(f"/proc/{daemon}/cmdline").read_bytes())
        bring(aria2, what, offers(mirrors, what), tmp_path / ".second.part")
    assert (tmp_path / ".second.part").read_bytes() == what.data


def test_a_stall_is_a_timeout_that_leaves_no_process(tmp_path: Path) -> None:
    what, into = content(2 * CHUNK_SIZE), tmp_path / ".into.part"
    with faulty(served(what, tmp_path), 1) as mirrors, Aria2Transport(tmp_path / "aria2", stall_seconds=2) as aria2:
        mirrors[0].faults = Faults(rate=1.0)
        assert refusal(aria2, what, offers(mirrors, what), into) == "timeout"
        assert not into.with_name(f"{into.name}.aria2").exists()
    assert not running(str(tmp_path / "aria2"))


def test_a_cancelled_one_ends_and_leaves_what_came(aria2: Aria2Transport, tmp_path: Path) -> None:
    what, into = content(4 * CHUNK_SIZE), tmp_path / ".into.part"
    with faulty(served(what, tmp_path), 1) as mirrors:
        mirrors[0].faults = Faults(rate=8e6)
        given = offers(mirrors, what)
        with pytest.raises(TransportFailure) as raised:
            bring(aria2, what, given, into, lambda: into.exists() and into.stat().st_blocks * 512 > 2 * CHUNK_SIZE)
        assert raised.value.code == "cancelled"
        told = bring(aria2, what, given, into)
    assert into.read_bytes() == what.data
    assert told[-1] == what.size


def test_without_the_program_it_is_not_installed(aria2: Aria2Transport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    what = content(1000)
    monkeypatch.setenv("PATH", str(tmp_path))
    with faulty(served(what, tmp_path), 1) as mirrors:
        assert refusal(aria2, what, offers(mirrors, what), tmp_path / ".into.part") == "not_installed"
        assert aria2.probe(offers(mirrors, what)[0], 5).failure == "not_installed"


def test_a_probe_tells_whether_the_bytes_are_there(aria2: Aria2Transport, tmp_path: Path) -> None:
    what = content(1000)
    with faulty(served(what, tmp_path), 1) as mirrors:
        (given,) = offers(mirrors, what)
        assert aria2.probe(given, 20).latency is not None
        mirrors[0].faults = Faults(status=401)
        assert aria2.probe(given, 20).failure == "unauthorized"
    assert aria2.probe(given, 5).failure == "refused"
    assert aria2.probe(given.model_copy(update={"address": "ftp://x/y"}), 5).failure == "failed"


def is_aria2(pid: int) -> bool:
    try:
        return b"aria2c" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
