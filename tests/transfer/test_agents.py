"""The client of agents: what it makes of silence, refusals, and whatever else may answer."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ringrift_dagster.transfer.agents import MAX_ANSWER_BYTES, AgentClient, AgentRefused, AgentSilent
from ringrift_dagster.transfer.model import Offer, Order, OrderedItem, Priority, PullState, TransportName
from tests.agents import RunningAgent, running_agent
from tests.s3_servers import closed_port
from tests.transfer.processes import wait_until

SHA = "ab" * 32
ORDER = Order(
    id="order-1",
    priority=Priority.NORMAL,
    items=(
        OrderedItem(
            sha256=SHA, size=5, type="MODEL", name="hex8_2p_abab.onnx",
            offers=(Offer(transport=TransportName.HTTP, location="n2", address="http://127.0.0.1:9/v1/objects/" + SHA),),
        ),
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAgent]:
    root = tmp_path_factory.mktemp("n1")
    (root / "models").mkdir()
    (root / "models/x_hex8_2p.onnx").write_bytes(b"model")
    with running_agent(root, "n1", token="secret") as running:
        running.source().read(None, 20)
        yield running


@pytest.fixture
def client(agent: RunningAgent) -> AgentClient:
    return AgentClient(agent.url, "secret", "n1")


@contextmanager
def answering(answer: bytes, *, pause: float = 0.0) -> Iterator[str]:
    """A server that answers everything with the same bytes, one at a time if there is a pause."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(1 << 16)
                    try:
                        for piece in (answer[at : at + 1] for at in range(len(answer))) if pause else (answer,):
                            connection.sendall(piece)
                            time.sleep(pause)
                    except OSError:
                        continue

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield "http://{}:{}".format(*listener.getsockname())
        finally:
            listener.shutdown(socket.SHUT_RDWR)


def ok(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def test_an_agent_says_how_it_is_and_looks_when_asked(client: AgentClient, agent: RunningAgent) -> None:
    health = client.health()
    assert health.node == "n1" and TransportName.HTTP in health.transports and health.bittorrent is None
    client.look("tree")
    assert client.prove("00" * 32).held is False


def test_an_order_is_the_same_order_and_ends_with_its_cause(client: AgentClient) -> None:
    first, again = client.post(ORDER), client.post(ORDER)
    assert first.id == again.id == "order-1"
    with pytest.raises(AgentRefused) as conflict:
        client.post(ORDER.model_copy(update={"priority": Priority.LOW}))
    assert (conflict.value.status, conflict.value.code) == (409, "conflict")
    assert wait_until(lambda: (told := client.get("order-1", wait=1, version=0)) and told.state == PullState.FAILED, 40)
    told = client.get("order-1")
    assert told is not None and told.items[0].cause == "no_source"


def test_an_order_that_it_does_not_know_is_none(client: AgentClient) -> None:
    assert client.get("unheard-of") is None
    assert client.cancel("unheard-of") is None


def test_without_the_token_it_refuses(agent: RunningAgent) -> None:
    stranger = AgentClient(agent.url, "wrong", "n1")
    for ask in (stranger.health, lambda: stranger.post(ORDER), lambda: stranger.get("order-1")):
        with pytest.raises(AgentRefused) as refused:
            ask()
        assert refused.value.status == 401


def test_another_host_at_its_address_is_no_answer(agent: RunningAgent) -> None:
    with pytest.raises(AgentSilent) as silent:
        AgentClient(agent.url, "secret", "n2").health()
    assert silent.value.code == "wrong_node"


def test_an_agent_that_was_restarted_is_found_again(tmp_path: Path) -> None:
    with running_agent(tmp_path, "n1") as first:
        client = AgentClient(first.url, None, "n1")
        assert client.health().node == "n1"
        first.kill()
        with pytest.raises(AgentSilent):
            client.health()
        with running_agent(tmp_path, "n1", port=int(first.url.rpartition(":")[2])):
            assert client.health().node == "n1"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (ok(b"<html>"), "bad_answer"),
        (ok(b'{"node": 5}'), "bad_answer"),
        (ok(b"[" * 100_000), "bad_answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", "server_error"),
        (ok(b" " * (MAX_ANSWER_BYTES + 1)), "bad_answer"),
        (b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n", "server_error"),
        (b"HTTP/1.1 302 Go\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n", "error"),
        (b"220 smtp\r\n", "server_error"),
        (b"", "server_error"),
    ],
)
def test_whatever_answers_there_is_told_by_a_code(answer: bytes, code: str) -> None:
    with answering(answer) as url, pytest.raises((AgentSilent, AgentRefused)) as caught:
        AgentClient(url, None, "n1").health(timeout=5.0)
    assert caught.value.code == code  # type: ignore[union-attr]


def test_nobody_there_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(AgentSilent) as refused:
        AgentClient(closed_port(), None, "n1").health()
    assert refused.value.code == "refused"


@pytest.mark.parametrize("url", ["ftp://x", "http://", "nonsense", "http://[::1"])
def test_what_is_no_address_says_so(url: str) -> None:
    with pytest.raises(AgentSilent) as silent:
        AgentClient(url, None, "n1")
    assert silent.value.code == "unreachable"


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nX-Long: ", b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n"])
def test_one_that_drips_is_left(head: bytes) -> None:
    began = time.monotonic()
    with answering(head + b" " * 60_000, pause=0.02) as url, pytest.raises(AgentSilent) as silent:
        AgentClient(url, None, "n1").health(timeout=1.5)
    assert silent.value.code == "timeout"
    assert time.monotonic() - began < 60, "and not for as long as it drips"


def test_the_token_is_in_no_message(agent: RunningAgent) -> None:
    said: list[str] = []
    asked: list[Callable[[], object]] = [
        AgentClient(closed_port(), "s3cret", "n1").health,
        AgentClient(agent.url, "s3cret", "n1").health,
    ]
    for ask in asked:
        with pytest.raises((AgentSilent, AgentRefused)) as caught:
            ask()
        said.append(str(caught.value))
    assert "s3cret" not in "".join(said)
