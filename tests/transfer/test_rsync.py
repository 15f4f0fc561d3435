"""rsync over real ssh servers: what comes, what is refused, and that nothing is left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from ringrift_dagster.manifest.inventory import CHUNK_SIZE
from ringrift_dagster.transfer.fetch import FetchFailed, fetch
from ringrift_dagster.transfer.model import Offer, TransportName
from ringrift_dagster.transfer.transports.protocol import TransportFailure
from ringrift_dagster.transfer.transports.rsync import RsyncTransport
from tests.ssh_servers import SshServer, make_key, ssh_server
from tests.transfer.fetching import Consent, Content, content
from tests.transfer.processes import children, running, wait_until
from tests.transfer.real_items import KINDS, real_item

# Fetches slowly, until it is killed.
OWNER = """
import sys
from pathlib import Path
from ringrift_dagster.transfer.model import OrderedItem
from ringrift_dagster.transfer.transports.rsync import RsyncTransport

item, folder = OrderedItem.model_validate_json(sys.argv[1]), Path(sys.argv[2])
RsyncTransport(folder / "known_hosts", connect_seconds=20, stall_seconds=20).fetch_whole(
    item, item.offers, Path(sys.argv[3]), bytes_a_second=4e6, cancelled=lambda: False, progress=lambda done: None
)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    with ssh_server(tmp_path_factory.mktemp("ssh")) as running_server:
        yield running_server


@pytest.fixture
def rsync(tmp_path: Path) -> RsyncTransport:
    return RsyncTransport(tmp_path / "our own/known hosts", connect_seconds=20, stall_seconds=20)


def bring(
    transport: RsyncTransport,
    what: Content,
    offers: Sequence[Offer],
    into: Path,
    cancelled: Callable[[], bool] = lambda: False,
    bytes_a_second: float | None = None,
) -> list[int]:
    """One call of the transport alone; returns what it told of its progress."""
    told: list[int] = []
    transport.fetch_whole(what.item(offers), offers, into, bytes_a_second=bytes_a_second, cancelled=cancelled, progress=told.append)
    return told


def refusal(transport: RsyncTransport, what: Content, offer: Offer, into: Path) -> str:
    with pytest.raises(TransportFailure) as raised:
        bring(transport, what, [offer], into)
    return raised.value.code


@pytest.mark.parametrize("kind", KINDS)
def test_items_come_and_are_verified(
    kind: str, server: SshServer, rsync: RsyncTransport, recorded: Callable[[str], Path], tmp_path: Path
) -> None:
    what = real_item(kind, recorded)
    (tmp_path / "source").write_bytes(what.data)
    item = what.item([server.offer(tmp_path / "source")])
    with what.part(tmp_path) as part:
        fetched = fetch(part, item, {TransportName.RSYNC: rsync}, Consent())
        assert (fetched.transport, fetched.source, fetched.resent) == (TransportName.RSYNC, "gpu-1", 0)
        assert part.path.read_bytes() == what.data
        assert part.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["two words", 'it\'s a "quote"', "a[b]*?", "$HOME `id`;&|", "back\\slash", "-e", "50%h"])
def test_names_mean_nothing_to_any_shell(name: str, server: SshServer, rsync: RsyncTransport, tmp_path: Path) -> None:
    what = content(1000)
    source = tmp_path / name / name
    source.parent.mkdir()
    source.write_bytes(what.data)
    key = source.parent / "my key"
    key.write_bytes(server.key.read_bytes())
    key.chmod(0o600)
    into = source.parent / ".into it.part"
    bring(rsync, what, [server.offer(source, key=str(key))], into)
    assert into.read_bytes() == what.data


def test_an_owner_that_is_killed_leaves_nothing_running_and_what_came_is_used(
    server: SshServer, rsync: RsyncTransport, tmp_path: Path
) -> None:
    what = content(6 * CHUNK_SIZE)
    (tmp_path / "source").write_bytes(what.data)
    item = what.item([server.offer(tmp_path / "source")])
    with what.part(tmp_path) as part:
        command = [sys.executable, "-c", OWNER, item.model_dump_json(), str(tmp_path), str(part.path)]
        with subprocess.Popen(command) as owner:
            assert wait_until(lambda: part.path.stat().st_size > 2 * CHUNK_SIZE, 60)
            owner.kill()
        assert wait_until(lambda: not running(str(part.path)))
    with what.part(tmp_path) as part:
        assert part.bytes_done >= CHUNK_SIZE
        before = part.bytes_done
        fetched = fetch(part, item, {TransportName.RSYNC: rsync}, Consent())
        assert fetched.bytes == what.size - before
        assert part.path.read_bytes() == what.data


@pytest.mark.parametrize("there", ["a beginning", "a wrong beginning", "gaps", "all, but for one wrong byte"])
def test_what_is_there_is_compared_and_never_believed(there: str, server: SshServer, rsync: RsyncTransport, tmp_path: Path) -> None:
    what, into = content(3 * CHUNK_SIZE), tmp_path / ".into.part"
    (tmp_path / "source").write_bytes(what.data)
    wrong = what.data[:1000] + bytes([what.data[1000] ^ 1]) + what.data[1001:]
    begun = {"a beginning": what.data[: what.size // 2], "a wrong beginning": wrong[: what.size // 2], "gaps": b""}
    into.write_bytes(begun.get(there, wrong))
    if there == "gaps":
        with into.open("r+b") as file:
            file.seek(CHUNK_SIZE)
            file.write(what.chunk(1))
            file.truncate(what.size)
    told = bring(rsync, what, [server.offer(tmp_path / "source")], into)
    assert into.read_bytes() == what.data
    assert told[-1] == what.size >= max(told)


def test_a_host_with_another_key_is_refused(rsync: RsyncTransport, tmp_path: Path) -> None:
    what = content(1000)
    (tmp_path / "source").write_bytes(what.data)
    with ssh_server(tmp_path / "before") as server:
        bring(rsync, what, [server.offer(tmp_path / "source")], tmp_path / ".into.part")
        port, key = server.port, (tmp_path / "before/key.pub").read_bytes()
    (tmp_path / ".into.part").unlink()
    with ssh_server(tmp_path / "after", port=port) as server:
        (tmp_path / "after/authorized_keys").write_bytes(key)
        offer = server.offer(tmp_path / "source", key=str(tmp_path / "before/key"))
        assert refusal(rsync, what, offer, tmp_path / ".into.part") == "unauthorized"
        assert server.said("Accepted publickey") == 0
    assert not (tmp_path / ".into.part").exists()


def test_a_named_file_of_host_keys_is_all_that_counts_and_never_written(
    server: SshServer, rsync: RsyncTransport, tmp_path: Path
) -> None:
    what, into, known = content(1000), tmp_path / ".into.part", tmp_path / "known"
    (tmp_path / "source").write_bytes(what.data)
    known.write_text("")
    offer = server.offer(tmp_path / "source", known_hosts=str(known))
    assert refusal(rsync, what, offer, into) == "unauthorized"
    assert known.read_text() == ""
    known.write_text(f"[127.0.0.1]:{server.port} {(server.folder / 'host_key.pub').read_text()}")
    bring(rsync, what, [offer], into)
    assert into.read_bytes() == what.data


def test_failures_have_codes(server: SshServer, rsync: RsyncTransport, tmp_path: Path) -> None:
    what, into = content(1000), tmp_path / ".into.part"
    source = tmp_path / "source"
    source.write_bytes(what.data)
    (tmp_path / "longer").write_bytes(what.data * 2)
    good = server.offer(source)
    stranger = make_key(tmp_path / "stranger")
    with ssh_server(tmp_path / "gone") as gone:
        pass
    address = good.address.partition(":")[0]
    offers = {
        "not_found": server.offer(tmp_path / "nothing"),
        "changed": server.offer(tmp_path / "longer"),
        "unauthorized": server.offer(source, key=str(stranger)),
        "refused": gone.offer(source),
        "unreachable": Offer.model_validate({**good.model_dump(), "address": f"root@no-such-host.invalid:{source}"}),
        "failed": Offer.model_validate({**good.model_dump(), "address": f"{address}:relative"}),
    }
    assert {code: refusal(rsync, what, offer, into) for code, offer in offers.items()} == {code: code for code in offers}
    assert not into.exists()
    assert refusal(rsync, what, server.offer(source, key=""), into) == "unauthorized"
    assert refusal(rsync, what, server.offer(source, key="~/no/such/key"), into) == "unauthorized"
    assert refusal(rsync, what, server.offer(source, port="70000"), into) == "failed"
    assert refusal(rsync, what, server.offer(tmp_path), into) == "changed"


def test_the_next_offer_is_taken(server: SshServer, rsync: RsyncTransport, tmp_path: Path) -> None:
    what = content(1000)
    (tmp_path / "source").write_bytes(what.data)
    bring(rsync, what, [server.offer(tmp_path / "nothing"), server.offer(tmp_path / "source")], tmp_path / ".into.part")
    assert (tmp_path / ".into.part").read_bytes() == what.data


@pytest.mark.parametrize("missing", ["rsync", "ssh"])
def test_without_the_program_it_is_not_installed(
    missing: str, server: SshServer, rsync: RsyncTransport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    other = "ssh" if missing == "rsync" else "rsync"
    (tmp_path / "bin" / other).symlink_to(f"/usr/bin/{other}")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    offer = server.offer(tmp_path / "source")
    assert refusal(rsync, content(1000), offer, tmp_path / ".into.part") == "not_installed"
    assert rsync.probe(offer, 5).failure == "not_installed"


def test_a_stall_is_a_timeout_that_leaves_no_process(server: SshServer, tmp_path: Path) -> None:
    what, into = content(6 * CHUNK_SIZE), tmp_path / ".into.part"
    (tmp_path / "source").write_bytes(what.data)
    stopped: list[int] = []

    def stop() -> bool:
        if not stopped and into.exists() and into.stat().st_size > CHUNK_SIZE:
            stopped.extend(children(server.process.pid))
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
        return False

    transport = RsyncTransport(tmp_path / "known_hosts", connect_seconds=20, stall_seconds=2)
    try:
        with pytest.raises(TransportFailure) as raised:
            bring(transport, what, [server.offer(tmp_path / "source")], into, stop, bytes_a_second=4e6)
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGKILL)
    assert raised.value.code == "timeout"
    assert stopped
    assert running(str(into)) == running(str(tmp_path / "known_hosts")) == []


def test_a_cancelled_one_ends_at_once_and_leaves_no_process(server: SshServer, rsync: RsyncTransport, tmp_path: Path) -> None:
    what, into = content(6 * CHUNK_SIZE), tmp_path / ".into.part"
    (tmp_path / "source").write_bytes(what.data)
    with pytest.raises(TransportFailure) as raised:
        bring(
            rsync,
            what,
            [server.offer(tmp_path / "source")] * 2,
            into,
            lambda: into.exists() and into.stat().st_size > CHUNK_SIZE,
            bytes_a_second=4e6,
        )
    assert raised.value.code == "cancelled"
    assert running(str(into)) == []
    assert into.read_bytes()[:CHUNK_SIZE] == what.chunk(0)


def test_a_source_that_lies_brings_nothing_and_is_told_of(server: SshServer, rsync: RsyncTransport, tmp_path: Path) -> None:
    what = content(2 * CHUNK_SIZE)
    (tmp_path / "source").write_bytes(what.data[:-1] + bytes([what.data[-1] ^ 1]))
    with what.part(tmp_path) as part:
        with pytest.raises(FetchFailed) as raised:
            fetch(part, what.item([server.offer(tmp_path / "source")]), {TransportName.RSYNC: rsync}, Consent())
        assert part.missing() == [1]
    assert raised.value.cause == "wrong_bytes"


def test_a_probe_tells_whether_a_server_greets(server: SshServer, rsync: RsyncTransport, tmp_path: Path) -> None:
    assert rsync.probe(server.offer(tmp_path), 20).latency is not None
    with ssh_server(tmp_path / "gone") as gone:
        pass
    assert rsync.probe(gone.offer(tmp_path), 5).failure == "refused"
