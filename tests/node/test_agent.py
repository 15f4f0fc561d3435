"""The agent over HTTP: what it answers, whom, and what it never does."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import urllib3
import uvicorn

from ringrift_dagster.manifest.inventory import Cursor, NoAnswer
from ringrift_dagster.manifest.sources.tree import TreeInventory, mark_location
from ringrift_dagster.manifest.sources.tree_scan import ScanReport
from ringrift_dagster.node.agent import AgentConfig
from ringrift_dagster.node.app import create_app
from tests.agents import RunningAgent, start

NPZ = Path(__file__).parents[1] / "data" / "damaged" / "base_ok.npz"
NPZ_SHA256 = hashlib.sha256(NPZ.read_bytes()).hexdigest()
Start = Callable[..., RunningAgent]


def ask(url: str, path: str, method: str = "GET", **options: Any) -> urllib3.BaseHTTPResponse:
    return urllib3.request(method, url + path, retries=False, redirect=False, timeout=20, **options)


def test_health_names_the_node_and_its_roots(tree: Path, agent: Start, tmp_path: Path) -> None:
    (tmp_path / "owc").mkdir()
    url = agent(tree, "gpu-1", "--drive", f"owc={tmp_path / 'owc'}").url
    told = ask(url, "/v1/health").json()
    assert (told["node"], {root["name"]: root["kind"] for root in told["roots"]}) == ("gpu-1", {"tree": "tree", "owc": "drive"})
    by_name = {root["name"]: root for root in told["roots"]}
    assert by_name["owc"]["available"] is False
    assert by_name["owc"]["reason"] == "not_mounted"
    assert by_name["tree"]["disk"]["total"] > by_name["tree"]["disk"]["free"] > 0
    assert abs(told["now"] - time.time()) < 5


def test_a_source_reads_all_then_only_what_changed(tree: Path, agent: Start) -> None:
    source = agent(tree, "gpu-1").source()
    first = source.read(None, 20)
    assert first.full
    assert {item.path.split("/")[0]: item.config for item in first.found} == {
        ".ringrift-node": "square8_2p",
        "data": "square8_3p",
        "models": "hex8_2p",
    }
    assert first.databases[0].snapshot == next(item.sha256 for item in first.found if item.type == "GAME_DB")
    assert first.latency is not None
    nothing = source.read(Cursor(first.epoch, first.cursor), 20)
    assert (nothing.full, nothing.found, nothing.gone) == (False, [], [])
    (tree / "models/nnue_hex8_2p.onnx").rename(tree / "models/nnue_hex8_3p.onnx")
    moved = source.read(Cursor(nothing.epoch, nothing.cursor), 20)
    assert [(item.path, item.config) for item in moved.found] == [("models/nnue_hex8_3p.onnx", "hex8_3p")]
    assert [gone.path for gone in moved.gone] == ["models/nnue_hex8_2p.onnx"]


@contextmanager
def agent_in_a_thread(config: AgentConfig) -> Iterator[str]:
    """An agent in this process; its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(create_app(config), log_level="warning"))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def test_many_that_wait_for_a_pass_keep_nobody_else_from_an_answer(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    really, released = TreeInventory.scan, threading.Event()

    def scan(self: TreeInventory, timeout: float | None = None) -> ScanReport:
        released.wait(60)
        return really(self, timeout)

    monkeypatch.setattr(TreeInventory, "scan", scan)
    with agent_in_a_thread(AgentConfig("gpu-1", tree)) as url, ThreadPoolExecutor(60) as pool:
        try:
            waiting = [pool.submit(urllib3.request, "GET", f"{url}/v1/inventory?max_age=0&wait=60") for _ in range(60)]
            answers = [ask(url, "/v1/health").status for _ in range(20)]
            assert (answers, released.is_set()) == ([200] * 20, False)
            assert not any(each.done() for each in waiting)
        finally:
            released.set()
        assert [len(each.result().json()["found"]) for each in waiting] == [3] * 60


@pytest.mark.parametrize(
    ("name", "path", "body"),
    [
        ("scrub", "/v1/scrub", {"max_bytes": 1}),
        ("prove", "/v1/proofs", {"sha256": "0" * 64}),
        ("remove", "/v1/drops", {"id": "drop", "sha256": "0" * 64}),
    ],
)
def test_many_that_want_something_hashed_keep_nobody_else_from_an_answer(
    tree: Path, monkeypatch: pytest.MonkeyPatch, name: str, path: str, body: dict[str, Any]
) -> None:
    hangs, released = threading.Event(), threading.Event()

    def hang(*_: object) -> None:
        hangs.set()
        released.wait(240)
        raise NoAnswer("gpu-1", "disk_error", "")

    monkeypatch.setattr(TreeInventory, name, hang)
    with agent_in_a_thread(AgentConfig("gpu-1", tree)) as url, ThreadPoolExecutor(60) as pool:
        try:
            waiting = [pool.submit(urllib3.request, "POST", url + path, json=body) for _ in range(60)]
            assert hangs.wait(240)
            answers = [ask(url, "/v1/health").status for _ in range(20)]
            assert (answers, released.is_set()) == ([200] * 20, False)
            assert not any(each.done() for each in waiting)
        finally:
            released.set()
        assert [each.result().status for each in waiting] == [503] * 60


def test_pages_put_together_are_the_whole(tree: Path, agent: Start) -> None:
    for number in range(25):
        (tree / f"models/m{number}_hex8_2p.onnx").write_bytes(b"%d" % number)
    url = agent(tree, "gpu-1").url
    paths: list[str] = []
    page = ask(url, "/v1/inventory?max_age=0&limit=7").json()
    assert page["full"]
    paths += [item["path"] for item in page["found"]]
    while page.get("more"):
        page = ask(url, f"/v1/inventory?limit=7&since={page['epoch']}:{page['cursor']}").json()
        assert not page["full"]
        paths += [item["path"] for item in page.get("found", [])]
    assert len(paths) == len(set(paths)) == 28


def test_objects_whole_in_ranges_and_their_heads(tree: Path, agent: Start) -> None:
    running = agent(tree, "gpu-1")
    running.source().read(None, 20)
    whole = ask(running.url, f"/v1/objects/{NPZ_SHA256}")
    assert (whole.status, whole.data, whole.headers["etag"]) == (200, NPZ.read_bytes(), f'"{NPZ_SHA256}"')
    head = ask(running.url, f"/v1/objects/{NPZ_SHA256}", "HEAD")
    assert (head.status, head.headers["content-length"], head.data) == (200, str(NPZ.stat().st_size), b"")
    part = ask(running.url, f"/v1/objects/{NPZ_SHA256}", headers={"range": "bytes=100-299"})
    assert (part.status, part.data) == (206, NPZ.read_bytes()[100:300])
    assert part.headers["content-range"] == f"bytes 100-299/{NPZ.stat().st_size}"
    tail = ask(running.url, f"/v1/objects/{NPZ_SHA256}", headers={"range": "bytes=-5"})
    assert (tail.status, tail.data) == (206, NPZ.read_bytes()[-5:])
    assert ask(running.url, f"/v1/objects/{NPZ_SHA256}", headers={"range": "bytes=99999999-"}).status == 416
    held = ask(running.url, f"/v1/objects/{NPZ_SHA256}", headers={"range": "bytes=0-3", "if-range": f'"{NPZ_SHA256}"'})
    assert held.status == 206
    other = ask(running.url, f"/v1/objects/{NPZ_SHA256}", headers={"range": "bytes=0-3", "if-range": '"other"'})
    assert (other.status, len(other.data)) == (200, NPZ.stat().st_size)


def test_no_descriptor_stays_open(tree: Path, agent: Start) -> None:
    running = agent(tree, "gpu-1")
    running.source().read(None, 20)
    descriptors = Path(f"/proc/{running.process.pid}/fd")

    def open_files() -> int:
        return sum("/ringrift/data" in str(each.readlink()) for each in descriptors.iterdir() if each.is_symlink())

    for headers in ({}, {"range": "bytes=5-9"}, {"range": "bytes=nonsense"}, {"range": "bytes=99999999-"}):
        for method in ("GET", "HEAD"):
            ask(running.url, f"/v1/objects/{NPZ_SHA256}", method, headers=headers)
    address = urllib3.util.parse_url(running.url)
    for _ in range(5):  # gone before the answer is read
        with socket.create_connection((str(address.host), address.port or 0)) as hasty:
            hasty.sendall(f"GET /v1/objects/{NPZ_SHA256} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    assert eventually(lambda: open_files() == 0)


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def test_content_that_changed_since_is_gone(tree: Path, agent: Start) -> None:
    running = agent(tree, "gpu-1")
    running.source().read(None, 20)
    (tree / "data/training/square8_3p.npz").write_bytes(b"other")
    answer = ask(running.url, f"/v1/objects/{NPZ_SHA256}")
    assert (answer.status, answer.json()["error"]) == (410, "gone")
    running.source().read(None, 20)
    assert ask(running.url, f"/v1/objects/{NPZ_SHA256}").status == 404


def test_a_file_swapped_for_a_link_is_not_followed(tree: Path, agent: Start, tmp_path: Path) -> None:
    running = agent(tree, "gpu-1")
    running.source().read(None, 20)
    secret = tmp_path / "secret"
    secret.write_bytes(NPZ.read_bytes())
    served = tree / "data/training/square8_3p.npz"
    served.unlink()
    served.symlink_to(secret)
    assert ask(running.url, f"/v1/objects/{NPZ_SHA256}").status == 410


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v1/objects/zz", 400, "bad_request"),
        (f"/v1/objects/{'A' * 64}", 400, "bad_request"),
        (f"/v1/objects/{'0' * 64}", 404, "not_found"),
        ("/v1/objects/..%2f..%2fetc%2fpasswd", 404, "not_found"),
        ("/v1/objects/%2e%2e", 400, "bad_request"),
        ("/v1/inventory?root=nowhere", 404, "unknown_root"),
        ("/v1/inventory?root=/etc", 404, "unknown_root"),
        ("/v1/inventory?since=nonsense", 400, "bad_request"),
        ("/v1/inventory?since=abc:-1", 400, "bad_request"),
        ("/v1/inventory?since=abc:99999999999999999999", 400, "bad_request"),
        ("/v1/inventory?limit=0", 400, "bad_request"),
        ("/v1/inventory?limit=nan", 400, "bad_request"),
        ("/v1/inventory?max_age=-1", 400, "bad_request"),
        ("/v1/inventory?wait=1e400", 400, "bad_request"),
        ("/etc/passwd", 404, "not_found"),
        ("/v1/scrub", 405, "method_not_allowed"),
    ],
)
def test_what_is_refused(path: str, status: int, code: str, shared_agent: RunningAgent) -> None:
    answer = ask(shared_agent.url, path)
    assert (answer.status, answer.json()["error"]) == (status, code)
    assert "Traceback" not in answer.data.decode()


@pytest.fixture(scope="module")
def shared_agent(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from tests.agents import running_agent

    root = tmp_path_factory.mktemp("tree")
    (root / "models").mkdir()
    with running_agent(root, "gpu-1") as running:
        yield running


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"max_bytes": -1}',
        b'{"max_bytes": "9"}',
        b'{"max_bytes": 1, "path": "/etc"}',
        b'{"max_bytes": 1, "root": "../x"}',
        b'{"max_bytes": 1, "timeout": NaN}',
        b"\xff\xfe",
        b"[" * 5000,
    ],
)
def test_scrub_orders_that_make_no_sense(body: bytes, shared_agent: RunningAgent) -> None:
    answer = ask(shared_agent.url, "/v1/scrub", "POST", body=body)
    assert (answer.status, answer.json()["error"]) == (400, "bad_request")


def test_requests_are_bounded(shared_agent: RunningAgent) -> None:
    assert ask(shared_agent.url, "/v1/scrub", "POST", body=b"x" * (1 << 20)).status == 413
    assert ask(shared_agent.url, "/v1/health", headers={"x-long": "x" * 60_000}).status in (400, 431)
    assert ask(shared_agent.url, "/" + "x" * 60_000).status in (400, 431)
    assert ask(shared_agent.url, "/v1/health").status == 200


def test_a_token_is_needed_for_everything(tree: Path, agent: Start) -> None:
    running = agent(tree, "gpu-1", token="s3cret")
    for path in ("/v1/health", "/v1/inventory", f"/v1/objects/{NPZ_SHA256}", "/metrics", "/nowhere"):
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic s3cret"}, {"authorization": "s3cret"}):
            answer = ask(running.url, path, headers=headers)
            assert (answer.status, answer.json()["error"]) == (401, "unauthorized")
    for user, password in (("agent", "wrong"), ("s3cret", ""), ("agent:s3cret", "s3cret")):
        told = base64.b64encode(f"{user}:{password}".encode()).decode()
        assert ask(running.url, "/v1/health", headers={"authorization": f"Basic {told}"}).status == 401
    for header in ("Bearer s3cret", f"Basic {base64.b64encode(b'agent:s3cret').decode()}"):
        assert ask(running.url, "/v1/health", headers={"authorization": header}).status == 200
    assert running.source().read(None, 20).full
    running.token = "wrong"
    with pytest.raises(NoAnswer) as refused:
        running.source().read(None, 20)
    assert refused.value.code == "unauthorized"


def test_no_agent_is_open_to_others_without_a_token(tree: Path) -> None:
    process = start(tree, "gpu-1", host="0.0.0.0")
    out, error = process.communicate(timeout=30)
    assert (process.returncode, out) == (2, "")
    assert "RINGRIFT_NODE_TOKEN" in error
    assert len(error.strip().splitlines()) == 1


def test_a_port_that_is_taken_is_one_line(tree: Path, agent: Start) -> None:
    port = int(agent(tree, "gpu-1").url.rpartition(":")[2])
    process = start(tree, "gpu-2", port=port)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 2
    assert len(error.strip().splitlines()) == 1


def test_metrics_are_prefixed(tree: Path, agent: Start) -> None:
    running = agent(tree, "gpu-1")
    running.source().read(None, 20)
    lines = ask(running.url, "/metrics").data.decode().splitlines()
    values = [line for line in lines if line and not line.startswith("#")]
    assert values
    assert all(line.startswith("ringrift_node_") for line in values)
    assert 'ringrift_node_entries{kind="found",root="tree"} 3.0' in values
    assert 'ringrift_node_root_available{root="tree"} 1.0' in values


def test_scrub_finds_what_rotted_and_it_is_not_served(tree: Path, agent: Start) -> None:
    running = agent(tree, "gpu-1")
    source = running.source()
    first = source.read(None, 20)
    rotten = tree / "data/training/square8_3p.npz"
    before = rotten.stat()
    with rotten.open("r+b") as file:
        file.seek(1000)
        file.write(b"rot")
    os.utime(rotten, ns=(before.st_atime_ns, before.st_mtime_ns))
    done = source.scrub(1 << 30, 20)
    assert done.damaged == ("data/training/square8_3p.npz",)
    assert ask(running.url, f"/v1/objects/{NPZ_SHA256}").status == 410
    told = source.read(Cursor(first.epoch, first.cursor), 20)
    assert [item.path for item in told.found if item.damaged] == ["data/training/square8_3p.npz"]


def test_a_drive_that_is_not_mounted_does_not_answer(tree: Path, agent: Start, tmp_path: Path) -> None:
    drive = tmp_path / "owc"
    (drive / "consolidated/games").mkdir(parents=True)
    running = agent(tree, "mac", "--drive", f"owc={drive}")
    source = running.source("owc")
    with pytest.raises(NoAnswer) as refused:
        source.read(None, 20)
    assert refused.value.code == "not_mounted"
    mark_location(drive, "owc")
    (drive / "models").mkdir()
    (drive / "models/hex8_2p.onnx").write_bytes(b"model")
    found = source.read(None, 20)
    assert [item.path for item in found.found] == ["models/hex8_2p.onnx"]
    (drive / ".ringrift-location").write_text("other\n")
    with pytest.raises(NoAnswer) as refused:
        source.read(None, 20)
    assert refused.value.code == "wrong_node"


def test_a_shared_file_system_is_scanned_only_when_asked_for(tree: Path, agent: Start, tmp_path: Path) -> None:
    shared = tmp_path / "nfs"
    shared.mkdir()
    mark_location(shared, "lake")
    (shared / "hex8_2p.onnx").write_bytes(b"model")
    running = agent(tree, "gpu-1", "--shared", f"lake={shared}")
    running.source().read(None, 20)
    health = {root["name"]: root for root in ask(running.url, "/v1/health").json()["roots"]}
    assert health["lake"]["age"] is None
    assert [item.path for item in running.source("lake").read(None, 20).found] == ["hex8_2p.onnx"]
    assert not [path for path in shared.iterdir() if path.name not in (".ringrift-location", "hex8_2p.onnx")]


def test_a_killed_agent_goes_on_where_it_was(tree: Path, agent: Start) -> None:
    for number in range(300):
        (tree / f"models/m{number}_hex8_2p.onnx").write_bytes(b"%d" % number * 5000)
    running = agent(tree, "gpu-1")
    running.kill()
    again = agent(tree, "gpu-1")
    told = again.source().read(None, 20)
    assert len(told.found) == 303
    cursor = Cursor(told.epoch, told.cursor)
    again.kill()
    third = agent(tree, "gpu-1").source().read(cursor, 20)
    assert (third.full, third.epoch) == (False, told.epoch)


def test_snapshots_while_a_writer_inserts(tree: Path, agent: Start) -> None:
    running = agent(tree, "gpu-1")
    source = running.source()
    live = tree / "data/games/selfplay_square8_2p.db"
    cursor, seen = None, set()
    with closing(sqlite3.connect(live, isolation_level=None)) as writer:
        writer.execute("PRAGMA journal_mode=WAL")
        writer.execute("CREATE TABLE pairs (side TEXT)")
        for _ in range(4):
            for _ in range(20):
                writer.execute("BEGIN")
                writer.execute("INSERT INTO pairs VALUES ('left')")
                writer.execute("INSERT INTO pairs VALUES ('right')")
                writer.execute("COMMIT")
            answer = source.read(cursor, 20)
            cursor = Cursor(answer.epoch, answer.cursor)
            (item,) = [item for item in answer.found if item.type == "GAME_DB"]
            body = ask(running.url, f"/v1/objects/{item.sha256}").data
            assert hashlib.sha256(body).hexdigest() == item.sha256
            copy = tree / "copy.check"
            copy.write_bytes(body)
            with closing(sqlite3.connect(copy)) as connection:
                sides = dict(connection.execute("SELECT side, COUNT(*) FROM pairs GROUP BY side"))
            assert sides["left"] == sides["right"]
            seen.add(sides["left"])
    assert seen == {20, 40, 60, 80}


def test_it_ends_when_told(tree: Path, agent: Start) -> None:
    running = agent(tree, "gpu-1")
    running.source().read(None, 20)
    running.process.terminate()
    assert running.process.wait(30) in (0, -15)
    assert running.process.stderr is not None
    assert running.process.stderr.read() == ""


def test_answers_are_json(shared_agent: RunningAgent) -> None:
    answer = ask(shared_agent.url, "/v1/health")
    assert answer.headers["content-type"] == "application/json"
    assert json.loads(answer.data)["version"]
