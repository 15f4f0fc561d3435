"""ssh offered every key until servers closed the door, and the whole cluster's sync stood still; two services wanted one port."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringrift_dagster.transfer.model import Offer, TransportName
from ringrift_dagster.transfer.pieces import compute
from ringrift_dagster.transfer.swarm import Swarm
from ringrift_dagster.transfer.transports import aria2
from ringrift_dagster.transfer.transports.aria2 import Aria2Transport
from ringrift_dagster.transfer.transports.protocol import TransportFailure
from ringrift_dagster.transfer.transports.rsync import RsyncTransport
from tests.agents import running_agent, start
from tests.ssh_servers import make_key, ssh_server
from tests.transfer.faulty_servers import FaultyServer
from tests.transfer.fetching import Content, content

MAX_TRIES = 2
"""So many keys the server looks at, and then closes the connection."""


@pytest.fixture
def many_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """A user with more keys than a server looks at: in an ssh agent, and under the names that ssh tries by itself."""
    home = tmp_path / "home"
    keys = [make_key(home / ".ssh" / name) for name in ("id_ed25519", "id_ecdsa", "id_rsa", "work", "spare")]
    (home / ".ssh/config").write_text("".join(f"IdentityFile {key}\n" for key in keys))
    socket_path = tmp_path / "agent.sock"
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(socket_path)], stdout=subprocess.DEVNULL) as agent:
        try:
            deadline = time.monotonic() + 20
            while not socket_path.exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            monkeypatch.setenv("HOME", str(home))
            monkeypatch.setenv("SSH_AUTH_SOCK", str(socket_path))
            for key in keys:
                subprocess.run(["ssh-add", "-q", str(key)], check=True, stdin=subprocess.DEVNULL)
            yield keys
        finally:
            agent.terminate()


def fetch(what: Content, offer: Offer, into: Path, known_hosts: Path) -> None:
    transport = RsyncTransport(known_hosts, connect_seconds=20, stall_seconds=20)
    transport.fetch_whole(
        what.item([offer]), [offer], into, bytes_a_second=None, cancelled=lambda: False, progress=lambda done: None
    )


def test_only_the_named_key_is_offered(many_keys: list[Path], tmp_path: Path) -> None:
    what, into = content(1000), tmp_path / ".into.part"
    (tmp_path / "source").write_bytes(what.data)
    with ssh_server(tmp_path / "ssh", f"MaxAuthTries {MAX_TRIES}") as server:
        offer = server.offer(tmp_path / "source")
        by_itself = ["ssh", "-p", str(server.port), "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "127.0.0.1", "true"]
        assert b"Too many authentication failures" in subprocess.run(by_itself, capture_output=True, check=False).stderr
        fetch(what, offer, into, tmp_path / "known_hosts")
        assert server.said("Failed publickey") <= MAX_TRIES
        assert server.said("Accepted publickey") == 1
    assert into.read_bytes() == what.data


def test_a_key_that_does_not_open_is_offered_once_and_no_other_after_it(many_keys: list[Path], tmp_path: Path) -> None:
    what, wrong = content(1000), make_key(tmp_path / "wrong")
    (tmp_path / "source").write_bytes(what.data)
    with ssh_server(tmp_path / "ssh", f"MaxAuthTries {MAX_TRIES}") as server:
        # One of the others would open, were it tried.
        (server.folder / "authorized_keys").write_bytes(many_keys[0].with_suffix(".pub").read_bytes())
        for key in (str(wrong), str(tmp_path / "missing"), ""):
            with pytest.raises(TransportFailure) as raised:
                fetch(what, server.offer(tmp_path / "source", key=key), tmp_path / ".into.part", tmp_path / "known_hosts")
            assert raised.value.code == "unauthorized"
        assert server.said("Accepted publickey") == 0
        assert server.said("Too many authentication failures") == 0


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which somebody else listens, who never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_an_agent_says_that_its_port_is_taken(taken: int, tmp_path: Path) -> None:
    process = start(tmp_path, "gpu-1", port=taken)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode != 0
    assert f"127.0.0.1:{taken}: Address already in use" in complaint
    assert complaint.count("\n") == 1


def test_an_agent_shares_from_another_port_and_says_so(taken: int, tmp_path: Path) -> None:
    with running_agent(tmp_path, "gpu-1", "--bittorrent", str(taken)) as agent:
        with socket.create_connection(("127.0.0.1", int(agent.url.rpartition(":")[2]))) as connection:
            connection.sendall(b"GET /v1/health HTTP/1.0\r\n\r\n")
            told = connection.makefile("rb").read()
        assert b'"bittorrent":{"port":' in told
        assert f'"bittorrent":{{"port":{taken}}}'.encode() not in told
    with Swarm(port=taken) as first, Swarm(port=first.port) as second:
        assert len({first.port, second.port, taken}) == 3


def test_aria2_takes_the_next_port(taken: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free, tried = aria2._free_port, []

    def next_port() -> int:
        tried.append(free() if tried else taken)
        return tried[-1]

    monkeypatch.setattr(aria2, "_free_port", next_port)
    what, into, source = content(1000), tmp_path / ".into.part", tmp_path / "source"
    source.write_bytes(what.data)
    descriptor = os.open(source, os.O_RDONLY)
    pieces = compute(descriptor, what.sha256, what.size).answer().model_dump_json().encode()
    os.close(descriptor)
    with FaultyServer({what.sha256: what.data, "pieces": pieces}) as server, Aria2Transport(tmp_path / "aria2") as transport:
        offer = Offer(transport=TransportName.ARIA2, location="gpu-1", address=server.url(what.sha256))
        transport.fetch_whole(
            what.item([offer]), [offer], into, bytes_a_second=None, cancelled=lambda: False, progress=lambda done: None
        )
    assert into.read_bytes() == what.data
    assert len(tried) == 2
