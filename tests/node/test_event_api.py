"""Events over real agents: accepted when durable, pushed in order, nothing lost when any of them is killed at any moment."""

from __future__ import annotations

import json
import random
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import urllib3

from ringrift_dagster.cli.services import free_port
from ringrift_dagster.events import inbox, outgoing
from ringrift_dagster.events.client import emit, emit_all
from ringrift_dagster.events.ids import new_id
from ringrift_dagster.events.model import EventType, SelfplayNeeded
from ringrift_dagster.home import Home
from ringrift_dagster.manifest.store import Store, default_url
from ringrift_dagster.node.http import MAX_WAITING
from tests.agents import RunningAgent, running_agent
from tests.events.hooks import hook
from tests.events.variants import REFUSED

Start = Callable[..., RunningAgent]
SECONDS = 60.0
HTTP = urllib3.PoolManager(retries=False, timeout=SECONDS)


def post(agent: RunningAgent, body: Any, path: str = "/v1/events") -> tuple[int, Any]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = HTTP.request("POST", agent.url + path, body=raw)
    return answer.status, answer.json()


def get(agent: RunningAgent, path: str) -> Any:
    return HTTP.request("GET", agent.url + path).json()


def folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def started(games: int) -> dict[str, Any]:
    return {"type": "SELFPLAY_COMPLETE", "payload": {"config": "hex8_2p", "games": games}}


def told(store: Store, count: int) -> list[int]:
    """Which events are in the inbox once there are so many, in order."""
    until = time.monotonic() + SECONDS
    while True:
        found = [each.event.payload.model_dump()["games"] for each in inbox.read(store, 0, limit=100_000)]
        if len(found) >= count or time.monotonic() > until:
            return found
        inbox.read(store, inbox.last_number(store), wait=0.5)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return folder(tmp_path / "home")


@pytest.fixture
def store(home: Path) -> Store:
    return Store.open(default_url(Home(home)))


def test_one_event_a_batch_and_raw_payloads(agent: Start, tmp_path: Path) -> None:
    gpu = agent(folder(tmp_path / "gpu"), "gpu-1")
    status, answer = post(gpu, started(1))
    assert (status, answer["accepted"], answer["dead"], len(answer["ids"])) == (202, 1, [], 1)
    raw = {"event_type": "training_started", "payload": {"config": "hex8_2p"}, "timestamp": time.time(), "source": "train"}
    assert post(gpu, [raw, {**started(2), "id": new_id()}])[1]["accepted"] == 2
    status, answer = post(gpu, {"events": [started(3), {"type": "NOBODY_KNOWS"}, 7, raw]})
    assert (status, answer["accepted"]) == (202, 2)
    assert [(each["index"], each["reason"]) for each in answer["dead"]] == [(1, "unknown_type"), (2, "not_an_object")]
    status, answer = post(gpu, b'{"type": "TRAINING_STA')
    assert (status, answer["accepted"], answer["dead"][0]["reason"]) == (202, 0, "not_json")
    assert post(gpu, b'[{"type": "SYNC_COMPLETE", "host": "a", "duration": NaN}]')[1]["accepted"] == 1
    same = {**started(4), "id": new_id()}
    assert [post(gpu, same)[1]["known"] for _ in range(2)] == [0, 1]
    assert post(gpu, [{}] * 10_001)[0] == 413
    assert post(gpu, b"[" + b" " * (17 << 20) + b"]")[0] == 413
    assert post(gpu, [])[1]["ids"] == []
    health = get(gpu, "/v1/health")["events"]
    assert (health["waiting"], health["coordinator"]) == (10, None)
    metrics = HTTP.request("GET", f"{gpu.url}/metrics").data.decode()
    assert 'ringrift_node_events_accepted_total{type="SELFPLAY_COMPLETE"} 4.0' in metrics
    assert 'ringrift_node_events_dead_total{reason="not_json"} 1.0' in metrics
    assert "ringrift_node_events_waiting 10.0" in metrics


def test_from_a_host_to_the_inbox_and_back(agent: Start, tmp_path: Path, home: Path, store: Store) -> None:
    coordinator = agent(folder(tmp_path / "coordinator"), "coordinator", "--home", str(home), token="secret")
    gpu = agent(folder(tmp_path / "gpu"), "gpu-1", "--coordinator", coordinator.url, token="secret")
    (home / "distributed_hosts.yaml").write_text(
        f"hosts:\n  gpu-1: {{data_server_url: '{gpu.url}', ringrift_path: {tmp_path}/gpu}}\n"
    )
    emit_all([started(number) for number in range(1, 101)], url=gpu.url, token="secret")
    emit("SELFPLAY_COMPLETE", {"config": "hex8_2p", "games": 7}, url=coordinator.url, token="secret")
    found = told(store, 101)
    assert sorted(found) == sorted([*range(1, 101), 7])
    from_gpu = [each.event for each in inbox.read(store, 0) if each.event.host == "gpu-1"]
    assert [event.sequence for event in from_gpu] == list(range(1, 101))
    with store.writing() as writer:
        payload = SelfplayNeeded(config="hex8_2p", reason="few")
        outgoing.publish(writer, EventType.SELFPLAY_NEEDED, payload, at=time.time(), hosts=["gpu-1"])
    answer = HTTP.request("GET", f"{gpu.url}/v1/events?after=0&wait=50", headers={"authorization": "Bearer secret"}).json()
    assert [each["event"]["type"] for each in answer["events"]] == ["SELFPLAY_NEEDED"]
    again = f"{gpu.url}/v1/events?after={answer['last']}&wait=0.1"
    assert HTTP.request("GET", again, headers={"authorization": "Bearer secret"}).json()["events"] == []
    assert HTTP.request("POST", f"{gpu.url}/v1/events", body=b"{}").status == 401
    assert HTTP.request("POST", f"{coordinator.url}/v1/inbox", body=b"{}").status == 401


@contextmanager
def many_that_wait(agent: RunningAgent, path: str) -> Iterator[list[socket.socket]]:
    """As many connections that wait for an answer as may, without the one too many that was refused."""
    address = urllib3.util.parse_url(agent.url)
    with ExitStack() as stack:
        waiting = []
        for _ in range(MAX_WAITING + 1):
            waiting.append(stack.enter_context(socket.create_connection((str(address.host), address.port or 0), SECONDS)))
            waiting[-1].sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        ((refused,), _, _) = select.select(waiting, [], [], SECONDS)
        answer = whole(refused)
        assert b" 503 " in answer and b'"busy"' in answer
        waiting.remove(refused)
        yield waiting


def whole(connection: socket.socket) -> bytes:
    with connection.makefile("rb") as answer:
        return answer.read()


def test_many_that_wait_for_events_keep_nobody_else_from_an_answer(agent: Start, tmp_path: Path) -> None:
    gpu = agent(folder(tmp_path / "gpu"), "gpu-1")
    with many_that_wait(gpu, "/v1/events?after=0&wait=60") as waiting:
        assert [HTTP.request("GET", gpu.url + "/v1/health").status for _ in range(20)] == [200] * 20
        assert select.select(waiting, [], [], 0)[0] == []
        delivery = {"host": "gpu-1", "events": [{"id": new_id(), "type": "HOST_ONLINE"}]}
        assert post(gpu, delivery, "/v1/deliveries") == (200, {"taken": 1})
        for connection in waiting:
            answer = whole(connection)
            assert b" 200 " in answer and b'"last":1' in answer


def test_whoever_waits_no_more_leaves_room_for_others(agent: Start, tmp_path: Path) -> None:
    gpu = agent(folder(tmp_path / "gpu"), "gpu-1")
    with many_that_wait(gpu, "/v1/events?after=0&wait=60"):
        pass
    until = time.monotonic() + SECONDS / 2
    while (answer := get(gpu, "/v1/events?after=0&wait=0.01")) != {"events": [], "last": 0}:
        assert time.monotonic() < until, answer


def test_what_an_inbox_refuses(agent: Start, tmp_path: Path, home: Path) -> None:
    coordinator = agent(folder(tmp_path / "coordinator"), "coordinator", "--home", str(home))
    gpu = agent(folder(tmp_path / "gpu"), "gpu-1")
    batch = {"host": "a", "epoch": new_id(), "floor": 0, "entries": [{"sequence": 3}]}
    assert post(gpu, batch, "/v1/inbox")[1]["error"] == "no_inbox"
    assert post(coordinator, batch, "/v1/inbox")[1]["error"] == "out_of_order"
    for change in ({"host": "a b"}, {"epoch": "1"}, {"floor": -1}, {"entries": [{"sequence": 1}, {"sequence": 3}]}, {"entries": 1}):
        assert post(coordinator, {**batch, **change}, "/v1/inbox")[0] == 400, change
    assert post(coordinator, b"{", "/v1/inbox")[0] == 400
    status, answer = post(coordinator, {**batch, "entries": [{"sequence": 1}]}, "/v1/inbox")
    assert (status, answer["acknowledged"], answer["dead"]) == (200, 1, 1)
    assert post(gpu, {"host": "gpu-2", "events": []}, "/v1/deliveries")[1]["error"] == "wrong_node"
    assert post(gpu, {"host": "gpu-1", "events": [{}]}, "/v1/deliveries")[0] == 400
    assert get(gpu, "/v1/events?after=-1")["error"] == "bad_request"


def test_dead_letters_of_a_host_reach_the_coordinator(agent: Start, tmp_path: Path, home: Path, store: Store) -> None:
    coordinator = agent(folder(tmp_path / "coordinator"), "coordinator", "--home", str(home))
    gpu = agent(folder(tmp_path / "gpu"), "gpu-1", "--coordinator", coordinator.url)
    post(gpu, [started(1), {"type": "NEWER_EVENT", "payload": {"config": "hex8_2p"}}, started(2)])
    assert told(store, 2) == [1, 2]
    (letter,) = inbox.dead(store)
    assert (letter.host, letter.reason, "NEWER_EVENT" in letter.raw) == ("gpu-1", "unknown_type", True)


@pytest.mark.parametrize("answer", [b"ok", b"{}", b'{"epoch": "x", "acknowledged": 9, "taken": 1, "dead": 0}'])
def test_what_is_no_inbox_acknowledges_nothing(agent: Start, tmp_path: Path, answer: bytes) -> None:
    with hook(answer) as stranger:
        gpu = agent(folder(tmp_path / "gpu"), "gpu-1", "--coordinator", stranger.url)
        emit("HOST_ONLINE", {"host": "a"}, url=gpu.url)
        until = time.monotonic() + SECONDS
        while len(stranger.taken) < 2 and time.monotonic() < until:
            time.sleep(0.05)
        health = get(gpu, "/v1/health")["events"]
    assert [body["entries"][0]["sequence"] for _, body in stranger.taken[:2]] == [1, 1]
    assert (health["waiting"], health["acknowledged"]) == (1, 0)
    assert len(health["failures"]) == 1 and health["failures"][0].startswith("events wait for the coordinator: ")


def test_a_thousand_that_are_no_events_keep_no_event_back(agent: Start, tmp_path: Path, home: Path, store: Store) -> None:
    coordinator = agent(folder(tmp_path / "coordinator"), "coordinator", "--home", str(home))
    gpu = agent(folder(tmp_path / "gpu"), "gpu-1", "--coordinator", coordinator.url)
    bad = [raw for _, raw, _ in REFUSED]
    rounds = -(-1000 // len(bad))
    accepted = dead = 0
    for number in range(1, rounds + 1):
        status, answer = post(gpu, [*bad[: len(bad) // 2], started(number), *bad[len(bad) // 2 :]])
        assert status == 202
        accepted, dead = accepted + answer["accepted"], dead + len(answer["dead"])
    assert (accepted, dead) == (rounds, rounds * len(bad))
    assert told(store, rounds) == list(range(1, rounds + 1))
    until = time.monotonic() + SECONDS
    while inbox.dead_count(store) < dead and time.monotonic() < until:
        time.sleep(0.05)
    assert inbox.dead_count(store) == dead
    assert {letter.reason for letter in inbox.dead(store, limit=2000)} == {reason for _, _, reason in REFUSED}


def test_a_host_without_its_coordinator_keeps_everything(agent: Start, tmp_path: Path, home: Path, store: Store) -> None:
    port = free_port()
    gpu = agent(folder(tmp_path / "gpu"), "gpu-1", "--coordinator", f"http://127.0.0.1:{port}")
    for number in range(1, 21):
        emit("SELFPLAY_COMPLETE", {"config": "hex8_2p", "games": number}, url=gpu.url)
    assert get(gpu, "/v1/health")["events"]["waiting"] == 20
    agent(folder(tmp_path / "coordinator"), "coordinator", "--home", str(home), port=port)
    assert told(store, 20) == list(range(1, 21))


def test_nothing_that_was_acknowledged_is_lost_whoever_is_killed(tmp_path: Path, home: Path, store: Store) -> None:
    """Agent and coordinator are killed at random while a client tells 200 events, each until it is taken."""
    dice = random.Random(7)
    ports = {"gpu-1": free_port(), "coordinator": free_port()}
    options = {
        "gpu-1": ("--coordinator", f"http://127.0.0.1:{ports['coordinator']}"),
        "coordinator": ("--home", str(home)),
    }
    accepted: list[int] = []
    number = 1
    for victim in ("gpu-1", "coordinator", "gpu-1", None):
        with (
            running_agent(
                folder(tmp_path / "coordinator"), "coordinator", *options["coordinator"], port=ports["coordinator"]
            ) as there,
            running_agent(folder(tmp_path / "gpu"), "gpu-1", *options["gpu-1"], port=ports["gpu-1"]) as here,
        ):
            stop_after = number + (dice.randrange(10, 40) if victim else 200 - len(accepted))
            while number < stop_after:
                emit_all([started(number), started(number + 1)], url=here.url)
                accepted += [number, number + 1]
                number += 2
            if victim:
                (here if victim == "gpu-1" else there).kill()
            else:
                assert told(store, len(accepted)) == accepted
    with Store.open(default_url(Home(home))) as again:
        assert told(again, len(accepted)) == accepted == list(range(1, number))
