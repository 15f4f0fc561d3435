"""The endpoints of moving data: who may ask what, what is refused, and that hostile bodies do no harm."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import urllib3

from ringrift_dagster.manifest.inventory import CHUNK_SIZE, ItemType
from ringrift_dagster.transfer.model import Priority, PullState
from ringrift_dagster.transfer.transports.http import HttpTransport
from tests.agents import RunningAgent, running_agent
from tests.node.conftest import NPZ
from tests.node.orders import ask, follow, give_model, item, looked, metric, order, pull, sha256_of, standing, submit
from tests.s3_servers import S3Server, closed_port, new_bucket, rclone_server

Start = Callable[..., RunningAgent]
NPZ_SHA256 = hashlib.sha256(NPZ.read_bytes()).hexdigest()
NOT_HERE = 2**64 - 1


@pytest.fixture(scope="module")
def lonely(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAgent]:
    """An agent that has a model, for tests that change nothing."""
    tree = tmp_path_factory.mktemp("lonely")
    give_model(tree, "m_hex8_2p.onnx", 3 * CHUNK_SIZE)
    with running_agent(tree, "gpu-1", token="secret") as running:
        looked([running])
        yield running


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with rclone_server(tmp_path_factory.mktemp("rclone") / "server") as endpoint:
        yield new_bucket(endpoint)


def body(**changes: Any) -> dict[str, Any]:
    """An order as JSON."""
    offer = {"transport": "http", "location": "gpu-9", "address": "http://127.0.0.1:1/v1/objects/x"}
    one = {"sha256": "0" * 64, "size": 10, "type": "MODEL", "name": "m_hex8_2p.onnx", "offers": [offer]}
    return {"id": "order", "priority": 2, "items": [one]} | changes


def with_item(**changes: Any) -> dict[str, Any]:
    return body(items=[body()["items"][0] | changes])


def post(agent: RunningAgent, path: str, given: Any) -> urllib3.BaseHTTPResponse:
    return ask(agent, path, "POST", given if isinstance(given, bytes) else json.dumps(given).encode())


HOSTILE = [
    b"",
    b"[]",
    b"null",
    b"{" * 100_000,
    b'{"id": "a", "id": "b"}',
    b"\xff\xfe",
    body(id="../../etc/passwd"),
    body(id="x" * 101),
    body(id=""),
    body(id=7),
    body(priority=9),
    body(priority="CRITICAL"),
    body(root="../tree"),
    body(keep_free=-1),
    body(keep_free=1.5),
    body(inbound=0),
    body(inbound="NaN"),
    body(outbound={"../x": 1.0}),
    body(outbound={f"h{number}": 1.0 for number in range(257)}),
    body(items=[]),
    body(items=body()["items"] * 1001),
    body(items={"sha256": "0" * 64}),
    with_item(name="../m.onnx"),
    with_item(name="/etc/passwd"),
    with_item(name="a/b.onnx"),
    with_item(name=".hidden.onnx"),
    with_item(name="m.onnx\n"),
    with_item(name="m\x00.onnx"),
    with_item(name="x" * 201),
    with_item(name=""),
    with_item(sha256="0" * 63),
    with_item(sha256="A" * 64),
    with_item(size=-1),
    with_item(size="10"),
    with_item(size=1 << 51),
    with_item(type="SECRETS"),
    with_item(mode=0o4777),
    with_item(offers=[]),
    with_item(offers=body()["items"][0]["offers"] * 65),
    with_item(offers=[{"transport": "gopher", "location": "a", "address": "x"}]),
    with_item(offers=[{"transport": "http", "location": "a", "address": "x\r\nx"}]),
    with_item(offers=[{"transport": "http", "location": "a", "address": "x" * 4001}]),
    with_item(config="hex8_9p"),
]


@pytest.mark.parametrize("given", HOSTILE, ids=range(len(HOSTILE)))
def test_bodies_that_are_no_orders(lonely: RunningAgent, given: Any) -> None:
    answer = post(lonely, "/v1/pulls", given)
    assert (answer.status, answer.json()["error"]) == (400, "bad_request")
    assert len(answer.json()["detail"]) <= 300
    assert ask(lonely, "/v1/pulls").json() == {"pulls": []}


def test_ten_thousand_items_and_bodies_without_end(lonely: RunningAgent) -> None:
    assert post(lonely, "/v1/pulls", body(items=body()["items"] * 10_001)).status == 400
    announced = ask_raw(lonely, b"content-length: 68719476736\r\n\r\n")
    assert b" 413 " in announced
    nonsense = ask_raw(lonely, b"content-length: nonsense\r\n\r\n")
    assert b" 400 " in nonsense
    assert ask(lonely, "/v1/health").status == 200


def ask_raw(agent: RunningAgent, rest: bytes) -> bytes:
    address = urllib3.util.parse_url(agent.url)
    with socket.create_connection((str(address.host), address.port or 0), timeout=30) as connection:
        connection.sendall(b"POST /v1/pulls HTTP/1.1\r\nhost: x\r\nauthorization: Bearer secret\r\n" + rest)
        return connection.recv(4096)


def test_a_chunk_table_that_is_none(tree: Path, agent: Start, tmp_path: Path) -> None:
    source = agent(tree, "gpu-1")
    looked([source])
    (tmp_path / "empty").mkdir()
    target = agent(tmp_path / "empty", "gpu-2")
    npz = item(NPZ, ItemType.NPZ, source)
    for chunks in ("%%%%", "YWJj", "A" * 44):
        given = order(npz.model_copy(update={"chunks": chunks}))
        submit(target, given)
        assert follow(target, given.id).items[0].state == PullState.FAILED
    assert pull(target, npz.model_copy(update={"chunks": None})).state == PullState.DONE


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/pulls"),
        ("GET", "/v1/pulls"),
        ("GET", "/v1/pulls/x"),
        ("DELETE", "/v1/pulls/x"),
        ("POST", "/v1/bundles"),
        ("POST", "/v1/uploads"),
    ],
)
def test_nothing_without_the_token(lonely: RunningAgent, method: str, path: str) -> None:
    for headers in ({}, {"authorization": "Bearer wrong"}):
        answer = urllib3.request(method, lonely.url + path, headers=headers, body=json.dumps(body()).encode(), retries=False)
        assert (answer.status, answer.json()["error"]) == (401, "unauthorized")


def test_the_token_opens_other_agents_and_is_never_logged(tree: Path, agent: Start, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    source = agent(tree, "gpu-1", token="secret-7")
    target = agent(tmp_path / "empty", "gpu-2", token="secret-7")
    stranger = agent(tmp_path / "empty", "gpu-3", "--state", str(tmp_path / "state"), token="other")
    looked([source])
    npz = item(NPZ, ItemType.NPZ, source)
    assert pull(stranger, npz).items[0].cause == "no_source"
    assert pull(target, npz).state == PullState.DONE
    for each in (source, target, stranger):
        each.process.terminate()
        each.process.wait(20)
        assert each.process.stderr is not None
        assert "secret" not in each.process.stderr.read()


def test_unknown_orders_and_roots(lonely: RunningAgent) -> None:
    for method in ("GET", "DELETE"):
        answer = ask(lonely, "/v1/pulls/unknown", method)
        assert (answer.status, answer.json()["error"]) == (404, "not_found")
    answer = post(lonely, "/v1/pulls", body(root="owc"))
    assert (answer.status, answer.json()["error"]) == (404, "unknown_root")
    for query in ("wait=61", "wait=x", "version=-1", "version=x"):
        assert ask(lonely, f"/v1/pulls/unknown?{query}").status == 400


def test_the_same_again_is_the_same_and_another_is_refused(tree: Path, agent: Start) -> None:
    running = agent(tree, "gpu-1")
    given = order(item(NPZ, ItemType.NPZ, running), id="mine", priority=Priority.HIGH)
    looked([running])
    submit(running, given)
    done = follow(running, "mine")
    assert submit(running, given) == done
    answer = post(running, "/v1/pulls", given.model_copy(update={"priority": Priority.LOW}).model_dump(mode="json"))
    assert (answer.status, answer.json()["error"]) == (409, "conflict")
    (told,) = ask(running, "/v1/pulls").json()["pulls"]
    assert (told["id"], told["state"], told["items"], told["done"], told["priority"]) == ("mine", "DONE", 1, 1, 1)


def test_waiting_for_news(tree: Path, agent: Start, tmp_path: Path) -> None:
    path = give_model(tree, "large_hex8_2p.onnx", 6 * CHUNK_SIZE)
    (tmp_path / "empty").mkdir()
    source, target = agent(tree, "gpu-1", "--uplink", "20"), agent(tmp_path / "empty", "gpu-2")
    looked([source])
    given = order(item(path, ItemType.MODEL, source))
    told = submit(target, given)
    versions, done = [told.version], [0]
    while told.state not in (PullState.DONE, PullState.FAILED):
        told = standing(target, given.id, f"?wait=30&version={told.version}")
        versions.append(told.version)
        done.append(told.items[0].bytes_done)
    assert told.state == PullState.DONE
    assert versions == sorted(set(versions))
    assert done == sorted(done)
    assert len(set(done)) > 2
    began = time.monotonic()
    assert standing(target, given.id, f"?wait=30&version={told.version}") == told
    assert time.monotonic() - began < 20


def test_many_that_wait_keep_nobody_else_from_an_answer(tree: Path, agent: Start, tmp_path: Path) -> None:
    path = give_model(tree, "large_hex8_2p.onnx", 2 * CHUNK_SIZE)
    (tmp_path / "empty").mkdir()
    source, target = agent(tree, "gpu-1", "--uplink", "0.02"), agent(tmp_path / "empty", "gpu-2")
    looked([source])
    given = order(item(path, ItemType.MODEL, source))
    submit(target, given)
    address = urllib3.util.parse_url(target.url)
    waiting = []
    for _ in range(100):
        connection = socket.create_connection((str(address.host), address.port or 0))
        connection.sendall(f"GET /v1/pulls/{given.id}?wait=60&version=999999999 HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        waiting.append(connection)
    answers = [ask(target, "/v1/health").status for _ in range(20)]
    for connection in waiting:
        connection.close()
    assert answers == [200] * 20
    assert ask(target, f"/v1/pulls/{given.id}", "DELETE").status == 200


def test_health_names_what_it_can_pull_by(lonely: RunningAgent) -> None:
    told = ask(lonely, "/v1/health").json()
    assert {"http", "s3", "shared"} <= set(told["transports"])


def test_a_bundle(tree: Path, agent: Start) -> None:
    large = give_model(tree, "large_hex8_2p.onnx", CHUNK_SIZE + 1)
    running = agent(tree, "gpu-1", token="secret")
    looked([running])
    model = tree / "models/nnue_hex8_2p.onnx"
    wanted = [NPZ_SHA256, "f" * 64, sha256_of(large), sha256_of(model), NPZ_SHA256]
    answer = post(running, "/v1/bundles", {"sha256": wanted})
    assert answer.status == 200
    expected = b""
    for sha256, content in [(wanted[0], NPZ.read_bytes()), (wanted[1], None), (wanted[2], None), (wanted[3], model.read_bytes())]:
        expected += bytes.fromhex(sha256) + struct.pack(">Q", NOT_HERE if content is None else len(content)) + (content or b"")
    assert answer.data == expected
    got = {
        sha256: (size, bytes(reader.read()))
        for sha256, size, reader in HttpTransport("secret").fetch_bundle(running.url, wanted[:2])
    }
    assert got == {NPZ_SHA256: (NPZ.stat().st_size, NPZ.read_bytes()), "f" * 64: (None, b"")}


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"sha256": []},
        {"sha256": ["0" * 64] * 501},
        {"sha256": "0" * 64},
        {"sha256": ["../x"]},
        {"sha256": ["0" * 64], "path": "/"},
        [],
    ],
)
def test_bodies_that_are_no_bundles(lonely: RunningAgent, given: Any) -> None:
    assert post(lonely, "/v1/bundles", given).status == 400


def test_an_upload_in_parts_to_a_presigned_address(lonely: RunningAgent, bucket: S3Server) -> None:
    path = lonely.root / "models/m_hex8_2p.onnx"
    sha256, size, client = sha256_of(path), path.stat().st_size, bucket.client
    upload = client.create_multipart_upload(Bucket=bucket.bucket, Key="up")["UploadId"]
    parts, edge = [], 5 << 20
    for number, (start, length) in enumerate([(0, edge), (edge, edge), (2 * edge, size - 2 * edge)], 1):
        target = {"Bucket": bucket.bucket, "Key": "up", "UploadId": upload, "PartNumber": number}
        url = client.generate_presigned_url("upload_part", Params=target)
        answer = post(lonely, "/v1/uploads", {"sha256": sha256, "url": url, "start": start, "length": length})
        assert answer.status == 200, answer.data
        parts.append({"PartNumber": number, "ETag": answer.json()["etag"]})
    client.complete_multipart_upload(Bucket=bucket.bucket, Key="up", UploadId=upload, MultipartUpload={"Parts": parts})
    assert hashlib.sha256(client.get_object(Bucket=bucket.bucket, Key="up")["Body"].read()).hexdigest() == sha256
    assert metric(lonely, "ringrift_node_uploaded_bytes_total") >= size


def test_an_upload_with_headers_that_were_signed(lonely: RunningAgent, bucket: S3Server) -> None:
    path = lonely.root / "models/m_hex8_2p.onnx"
    target = {"Bucket": bucket.bucket, "Key": "headed", "Metadata": {"config": "hex8_2p"}, "ContentType": "application/x-model"}
    url = bucket.client.generate_presigned_url("put_object", Params=target)
    headers = {"x-amz-meta-config": "hex8_2p", "Content-Type": "application/x-model"}
    whole = {"sha256": sha256_of(path), "url": url, "start": 0, "length": path.stat().st_size}
    assert post(lonely, "/v1/uploads", whole).status == 502
    assert post(lonely, "/v1/uploads", whole | {"headers": headers}).status == 200
    kept = bucket.client.head_object(Bucket=bucket.bucket, Key="headed")
    assert (kept["ContentType"], {name.lower(): value for name, value in kept["Metadata"].items()}) == (
        "application/x-model",
        {"config": "hex8_2p"},
    )


UPLOAD = {"sha256": "0" * 64, "url": "http://127.0.0.1:1/x", "start": 0, "length": 1}


@pytest.mark.parametrize(
    "change",
    [
        {"url": "file:///etc/passwd"},
        {"url": "ftp://127.0.0.1/x"},
        {"url": "http://user:secret@127.0.0.1/x"},
        {"url": "http://127.0.0.1/x y"},
        {"url": "http://127.0.0.1/\r\nx: y"},
        {"url": "http://127.0.0.1/" + "x" * 4000},
        {"url": "127.0.0.1/x"},
        {"length": 0},
        {"length": -1},
        {"start": -1},
        {"length": (5 << 30) + 1},
        {"sha256": "x"},
        {"headers": {"host": "elsewhere"}},
        {"headers": {"authorization": "Bearer x"}},
        {"headers": {"content-length": "7"}},
        {"headers": {"x-amz-meta-a": "a\r\nb: c"}},
        {"more": 1},
    ],
)
def test_bodies_that_are_no_uploads(lonely: RunningAgent, change: dict[str, Any]) -> None:
    answer = post(lonely, "/v1/uploads", UPLOAD | change)
    assert (answer.status, answer.json()["error"]) == (400, "bad_request")


def test_uploads_that_fail_say_why(lonely: RunningAgent) -> None:
    path = lonely.root / "models/m_hex8_2p.onnx"
    whole = UPLOAD | {"sha256": sha256_of(path), "length": path.stat().st_size}
    assert post(lonely, "/v1/uploads", UPLOAD).status == 404
    assert post(lonely, "/v1/uploads", whole | {"start": 1}).status == 400
    refused = post(lonely, "/v1/uploads", whole | {"url": closed_port() + "/x"})
    assert (refused.status, refused.json()["error"]) == (502, "refused")
    for status, code in ((403, "unauthorized"), (503, "server_error"), (302, "failed")):
        with answering(status) as (url, asked):
            answer = post(lonely, "/v1/uploads", whole | {"url": url})
            assert (answer.status, answer.json()["error"], len(asked)) == (502, code, 1)


@contextmanager
def answering(status: int) -> Iterator[tuple[str, list[int]]]:
    """A server that takes every body and answers the same; a redirect leads to itself. Yields bytes of each body."""
    asked: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            asked.append(len(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(status)
            self.send_header("Location", "/again")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/x", asked
        finally:
            server.shutdown()
            thread.join()


def test_what_changed_since_it_was_hashed_does_not_leave(tree: Path, agent: Start) -> None:
    path = give_model(tree, "m_hex8_2p.onnx", 2 * CHUNK_SIZE)
    running = agent(tree, "gpu-1", interval=1000.0)
    looked([running])
    sha256, before = sha256_of(path), path.stat()
    with path.open("r+b") as file:  # as a disk that rots does: nothing shows but the bytes
        file.seek(CHUNK_SIZE + 7)
        file.write(b"rotten")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with answering(200) as (url, asked):
        good = post(running, "/v1/uploads", {"sha256": sha256, "url": url, "start": 0, "length": CHUNK_SIZE})
        assert (good.status, asked) == (200, [CHUNK_SIZE])
        rotten = post(running, "/v1/uploads", {"sha256": sha256, "url": url, "start": CHUNK_SIZE - 1, "length": 2})
        assert (rotten.status, rotten.json()["error"]) == (410, "gone")


def test_the_uplink_is_a_limit_for_all_together(tree: Path, agent: Start) -> None:
    path = give_model(tree, "m_hex8_2p.onnx", 3_000_000)
    running = agent(tree, "gpu-1", "--uplink", "4")
    looked([running])
    sha256 = sha256_of(path)
    began = time.monotonic()
    threads = [threading.Thread(target=ask, args=(running, f"/v1/objects/{sha256}")) for _ in range(2)]
    threads.append(threading.Thread(target=post, args=(running, "/v1/bundles", {"sha256": [sha256]})))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - began >= 0.9 * 3 * 3_000_000 / 4e6
    assert metric(running, "ringrift_node_uplink_limit_bytes_per_second") == 4e6
