"""An agent as a source, over HTTP that may lie, drip, flood or break: bounded in time and size, and all or nothing."""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringrift_dagster.manifest.inventory import NO_ANSWER_CODES, Cursor, NoAnswer
from ringrift_dagster.manifest.sources import node as node_module
from ringrift_dagster.manifest.sources import tellings
from ringrift_dagster.manifest.sources.node import NodeSource
from ringrift_dagster.manifest.sources.page import Page
from ringrift_dagster.manifest.sources.tellings import Telling, Tellings

ITEM = {"path": "data/training/hex8_2p.npz", "sha256": "a" * 64, "size": 10, "type": "NPZ"}
PAGE = {"epoch": "e1", "cursor": 5, "full": True, "now": 1.0, "node": "gpu-1", "found": [ITEM]}
HEALTH = {"node": "gpu-1"}

Reply = Callable[[BaseHTTPRequestHandler], None]


def reply(body: Any, status: int = 200, **headers: str) -> Reply:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()

    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"content-length": str(len(text)), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(text)

    return send


@contextmanager
def server(inventory: Reply | list[Reply], health: Reply | None = None) -> Iterator[str]:
    """A server that answers as told; from a list one after another."""
    waiting = inventory if isinstance(inventory, list) else None

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path == "/v1/health":
                (health or reply(HEALTH))(self)
            else:
                (waiting.pop(0) if waiting is not None else inventory)(self)  # type: ignore[operator]

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.do_GET()

        def log_message(self, *_: object) -> None:
            """Says nothing."""

        def handle(self) -> None:
            try:
                super().handle()
            except OSError:
                return

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

    running = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{running.server_address[1]}"
    finally:
        running.shutdown()
        running.server_close()


def refusal(url: str, timeout: float = 5.0, **options: Any) -> NoAnswer:
    with pytest.raises(NoAnswer) as refused:
        NodeSource("gpu-1", url, **options).read(None, timeout)
    assert refused.value.code in NO_ANSWER_CODES
    assert "\n" not in refused.value.detail
    return refused.value


def test_a_good_answer() -> None:
    with server(reply(PAGE)) as url:
        told = NodeSource("gpu-1", url).read(None, 5)
    assert (told.location, told.epoch, told.cursor, told.full, told.now) == ("gpu-1", "e1", 5, True, 1.0)
    assert [item.path for item in told.found] == [ITEM["path"]]
    assert told.latency is not None
    assert 0 < told.latency < 5


def test_pages_until_there_is_no_more() -> None:
    second = ITEM | {"path": "models/hex8_2p.onnx", "type": "MODEL"}
    replaced = ITEM | {"sha256": "b" * 64}
    pages = [
        reply(PAGE | {"more": True}),
        reply(PAGE | {"full": False, "cursor": 7, "more": True, "found": [second], "gone": [{"path": "x"}]}),
        reply(PAGE | {"full": False, "cursor": 9, "found": [replaced], "gone": [{"path": "models/hex8_2p.onnx"}]}),
    ]
    with server(pages) as url:
        told = NodeSource("gpu-1", url).read(None, 5)
    assert (told.full, told.cursor, [item.sha256 for item in told.found]) == (True, 9, ["b" * 64])
    assert {gone.path for gone in told.gone} == {"x", "models/hex8_2p.onnx"}


def test_an_epoch_that_ends_between_pages_begins_the_answer_anew() -> None:
    pages = [
        reply(PAGE | {"full": False, "more": True, "epoch": "e1-first"}),
        reply(PAGE | {"found": [ITEM | {"path": "other.npz"}]}),
    ]
    with server(pages) as url:
        told = NodeSource("gpu-1", url).read(None, 5)
    assert (told.full, told.epoch, [item.path for item in told.found]) == (True, "e1", ["other.npz"])


class Slow:
    """An agent with five entries, an entry a page. When it is asked for the entry `held`, the questioner's time is over."""

    def __init__(self) -> None:
        self.held = 2
        self.epoch = "e1"
        self.full = True
        self.asked: list[str | None] = []
        self.over: Callable[[], None] = lambda: None

    def __call__(self, handler: BaseHTTPRequestHandler) -> None:
        since = parse_qs(urlsplit(handler.path).query).get("since", [None])[0]
        self.asked.append(since)
        epoch, _, position = (since or "").partition(":")
        known = epoch == self.epoch
        at = int(position) if known else 0
        if at >= self.held:
            self.over()
            handler.close_connection = True
            return
        entry = [ITEM | {"path": f"data/training/{self.epoch}_{at}.npz"}] if at < 5 else []
        told = {"epoch": self.epoch, "cursor": at + len(entry), "full": self.full and not known, "more": at < 4, "found": entry}
        reply(PAGE | told)(handler)

    def refuses(self, url: str, since: Cursor | None = None) -> NoAnswer:
        with pytest.raises(NoAnswer) as refused:
            NodeSource("gpu-1", url).read(since, 20)
        return refused.value


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Slow:
    agent = Slow()
    enter = node_module._Conversation.__enter__

    def entered(talk: node_module._Conversation) -> node_module._Conversation:
        agent.over = talk._end
        return enter(talk)

    monkeypatch.setattr(node_module._Conversation, "__enter__", entered)
    return agent


def test_what_is_too_long_for_one_answer_is_told_in_several(slow: Slow) -> None:
    with server(slow) as url:
        first = slow.refuses(url)
        assert (first.code, first.detail) == ("unfinished", "2 entries came so far, and more are to come")
        slow.held = 4
        assert slow.refuses(url).code == "unfinished"
        assert slow.refuses(url).code == "timeout", "nothing more came"
        slow.held = 9
        told = NodeSource("gpu-1", url).read(None, 20)
    assert (told.full, told.epoch, told.cursor) == (True, "e1", 5)
    assert sorted(item.path for item in told.found) == [f"data/training/e1_{number}.npz" for number in range(5)]
    assert slow.asked == [None, "e1:1", "e1:2", "e1:2", "e1:3", "e1:4", "e1:4", "e1:4"]


def test_a_long_answer_that_was_not_taken_in_is_not_told_again(slow: Slow) -> None:
    slow.held = 9
    with server(slow) as url:
        first = NodeSource("gpu-1", url).read(None, 20)
        slow.asked.clear()
        again = NodeSource("gpu-1", url).read(None, 20)
        assert (again.full, again.cursor, again.found, slow.asked) == (True, 5, first.found, ["e1:5"])
        taken_in = NodeSource("gpu-1", url).read(Cursor("e1", 5), 5)
    assert (taken_in.full, taken_in.found) == (False, [])


@pytest.mark.parametrize("full", [True, False])
def test_what_was_told_of_another_epoch_is_forgotten(full: bool, slow: Slow) -> None:
    with server(slow) as url:
        assert slow.refuses(url).code == "unfinished"
        slow.held, slow.epoch, slow.full = 9, "e2", full
        told = NodeSource("gpu-1", url).read(None, 20)
    assert (told.full, told.epoch) == (full, "e2")
    assert sorted(item.path for item in told.found) == [f"data/training/e2_{number}.npz" for number in range(5)]


def test_another_question_or_a_later_one_begins_anew(slow: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    with server(slow) as url:
        for since, kept in ((None, tellings.KEPT_SECONDS), (Cursor("e0", 7), tellings.KEPT_SECONDS), (Cursor("e0", 7), -1.0)):
            monkeypatch.setattr(tellings, "KEPT_SECONDS", kept)
            slow.asked.clear()
            assert slow.refuses(url, since).code == "unfinished"
            assert slow.asked == [since and "e0:7", "e1:1", "e1:2"]


def test_a_silence_in_between_loses_nothing_and_a_bad_answer_does(slow: Slow) -> None:
    replies: list[Reply] = [slow, reply(b"", 502), reply(PAGE | {"found": {}}), slow]

    def current(handler: BaseHTTPRequestHandler) -> None:
        replies[0](handler)

    with server(current) as url:
        codes = []
        for _ in range(4):
            codes.append(slow.refuses(url).code)
            replies.pop(0)
    assert codes == ["unfinished", "server_error", "bad_answer", "unfinished"]
    assert slow.asked == [None, "e1:1", "e1:2"] * 2


def test_of_too_much_that_is_kept_the_shortest_goes_and_the_longest_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tellings, "MAX_KEPT_ENTRIES", 5)

    def told(entries: int) -> Telling:
        telling = Telling(None, None)
        for number in range(entries):
            telling.add(Page.model_validate(PAGE | {"full": False, "cursor": number, "found": [ITEM]}))
        return telling

    kept = Tellings()
    for name, entries in (("a", 3), ("b", 2), ("c", 9), ("d", 4), ("c", 1)):
        kept.keep((name,), told(entries))
    assert {name: kept.take((name,), None).collected.entries for name in "abcd"} == {"a": 0, "b": 0, "c": 9, "d": 0}


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"path": "../../etc/passwd"}, "found.1.path"),
        ({"path": "/etc/passwd"}, "found.1.path"),
        ({"path": "a//b"}, "found.1.path"),
        ({"path": "a\nb"}, "found.1.path"),
        ({"path": "a\\b"}, "found.1.path"),
        ({"path": "x" * 2000}, "found.1.path"),
        ({"path": "\ud800"}, "the answer"),
        ({"path": 7}, "found.1.path"),
        ({"size": -1}, "found.1.size"),
        ({"size": 1 << 60}, "found.1.size"),
        ({"size": "10"}, "found.1.size"),
        ({"size": 1e3}, "found.1.size"),
        ({"sha256": "A" * 64}, "found.1.sha256"),
        ({"sha256": "a" * 63}, "found.1.sha256"),
        ({"type": "EVIL"}, "found.1.type"),
        ({"config": "hex8_5p"}, "found.1.config"),
        ({"quality": 1.5}, "found.1.quality"),
        ({"quality": float("nan")}, "found.1.quality"),
        ({"newest_game": -1}, "found.1.newest_game"),
        ({"newest_game": float("inf")}, "found.1.newest_game"),
        ({"elo": 1e9}, "found.1.elo"),
        ({"games": -3}, "found.1.games"),
        ({"chunks": "!!!"}, "found.1"),
        ({"chunks": base64.b64encode(b"x" * 31).decode()}, "found.1"),
        ({"chunks": base64.b64encode(b"x" * 64).decode()}, "found.1"),
        ({"provenance": {str(number): "x" for number in range(99)}}, "found.1.provenance"),
        ({"reason": "x" * 1000}, "found.1.reason"),
    ],
)
def test_one_bad_entry_spoils_the_answer(change: dict[str, Any], where: str) -> None:
    with server(reply(PAGE | {"found": [ITEM, ITEM | {"path": "fine.npz"} | change]})) as url:
        refused = refusal(url)
    assert refused.code == "bad_answer"
    assert refused.detail.startswith(where)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        b"not json",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        json.dumps(PAGE | {"epoch": "../x"}).encode(),
        json.dumps(PAGE | {"epoch": ""}).encode(),
        json.dumps(PAGE | {"cursor": -1}).encode(),
        json.dumps(PAGE | {"cursor": 1 << 70}).encode(),
        json.dumps(PAGE | {"found": {}}).encode(),
        json.dumps(PAGE | {"found": None}).encode(),
        json.dumps(PAGE | {"disk": {"total": -1, "free": 0}}).encode(),
        json.dumps(PAGE | {"now": "NaN"}).encode(),
        json.dumps(PAGE | {"untracked": [{"path": "a", "size": 1, "mtime": 0, "reason": "evil"}]}).encode(),
        json.dumps(PAGE | {"databases": [{"path": "a", "size": 1, "mtime": 0, "games": {"chess": 1}}]}).encode(),
        json.dumps(PAGE | {"gone": [{"path": "a", "reason": "eaten"}]}).encode(),
        json.dumps(PAGE)[:-1].encode(),
    ],
)
def test_answers_that_are_none(body: bytes) -> None:
    with server(reply(body)) as url:
        assert refusal(url).code == "bad_answer"


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda children: st.lists(children, max_size=4) | st.dictionaries(st.sampled_from([*PAGE, *ITEM]), children, max_size=6),
        max_leaves=20,
    )
)
def test_any_json_is_an_inventory_or_a_bad_answer(value: Any) -> None:
    source = NodeSource("gpu-1", fuzz_url(value))
    try:
        told = source.read(None, 5)
    except NoAnswer as refused:
        assert refused.code in ("bad_answer", "wrong_node")
    else:
        assert told.location == "gpu-1"


_FUZZ: dict[str, Any] = {}


def fuzz_url(value: Any) -> str:
    _FUZZ["value"] = PAGE | value if isinstance(value, dict) else value
    return _FUZZ["url"]


@pytest.fixture(scope="module", autouse=True)
def fuzz_server() -> Iterator[None]:
    def current(handler: BaseHTTPRequestHandler) -> None:
        reply(_FUZZ["value"])(handler)

    with server(current) as url:
        _FUZZ["url"] = url
        yield


def test_a_cursor_that_does_not_go_on_ends_the_talk() -> None:
    stuck = PAGE | {"full": False, "more": True, "found": []}
    with server(reply(stuck)) as url:
        assert refusal(url).detail == "cursor: does not go on"


def test_too_much_of_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_module, "MAX_PAGE_BYTES", 10_000)
    with server(reply(PAGE | {"padding": "x" * 20_000})) as url:
        assert "more than 10000 bytes" in refusal(url).detail
    monkeypatch.setattr(node_module, "MAX_ENTRIES", 3)
    pages = [reply(PAGE | {"full": not number, "more": True, "cursor": 5 + number}) for number in range(9)]
    with server(pages) as url:
        assert refusal(url).detail == "more than 3 entries"


def test_a_compression_bomb_is_not_inflated() -> None:
    with server(reply(b"\x1f\x8b" + bytes(1000), **{"content-encoding": "gzip"})) as url:
        assert refusal(url).code == "bad_answer"


def drip(head: bytes, body: bytes, pause: float = 0.05) -> Reply:
    """Send some at once and then a byte at a time."""

    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(head)
        for byte in body:
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
            time.sleep(pause)

    return send


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"", b"HTTP/1.1 200 OK\r\n" * 100),
        (b"HTTP/1.1 200 OK\r\n", b"x-more: y\r\n" * 100),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n", b"{" * 1000),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"0" * 1000),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n", b""),
    ],
)
def test_a_dripping_server_does_not_stretch_the_deadline(head: bytes, body: bytes) -> None:
    with server(drip(head, body), health=None) as url:
        began = time.monotonic()
        refused = refusal(url, timeout=0.8)
        assert time.monotonic() - began < 15
    assert refused.code in ("timeout", "server_error")
    assert refused.code == "timeout" or not body


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (401, {"error": "unauthorized", "detail": "no"}, "unauthorized"),
        (403, b"", "unauthorized"),
        (404, {"error": "unknown_root", "detail": "no such root"}, "not_found"),
        (500, b"<html>Traceback", "server_error"),
        (502, b"", "server_error"),
        (503, {"error": "not_mounted", "detail": "there is no /mnt"}, "not_mounted"),
        (503, {"error": "disk_error", "detail": "I/O"}, "disk_error"),
        (503, {"error": "rm -rf", "detail": ["x"]}, "server_error"),
        (503, {"error": "unfinished", "detail": "trust me"}, "server_error"),
        (204, b"", "bad_answer"),
        (400, {"error": "bad_request"}, "bad_answer"),
        (418, b"teapot", "bad_answer"),
    ],
)
def test_what_a_status_means(status: int, body: Any, code: str) -> None:
    with server(reply(body, status)) as url:
        assert refusal(url).code == code


def test_no_redirect_is_followed() -> None:
    with server(reply(b"", 302, location="http://127.0.0.1:9/evil")) as url:
        assert refusal(url).code == "bad_answer"


@pytest.mark.parametrize("health", [{"node": "gpu-2"}, {"node": "gpu-1 "}])
def test_another_node_at_the_address(health: dict[str, str]) -> None:
    with server(reply(PAGE), health=reply(health)) as url:
        assert refusal(url).code == "wrong_node"


def test_another_node_answers_the_second_request() -> None:
    with server(reply(PAGE | {"node": "gpu-2"})) as url:
        assert refusal(url).code == "wrong_node"


@pytest.mark.parametrize("health", [b"", b"[]", b"{}", b'{"node": 7}', b"x" * (2 << 20)])
def test_something_else_at_the_address(health: bytes) -> None:
    with server(reply(PAGE), health=reply(health)) as url:
        assert refusal(url).code == "bad_answer"


def test_nobody_there() -> None:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    assert refusal(f"http://127.0.0.1:{free}").code == "refused"
    assert refusal("http://no-such-host.invalid").code == "unreachable"
    for address in ("", "gpu-1", "ftp://x", "http://", "http://[::1", "http://x:99999"):
        assert refusal(address).code == "unreachable"


def test_a_port_that_accepts_and_says_nothing() -> None:
    with closing(socket.socket()) as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        began = time.monotonic()
        assert refusal(f"http://127.0.0.1:{mute.getsockname()[1]}", timeout=0.5).code == "timeout"
        assert time.monotonic() - began < 15


def test_something_that_does_not_speak_http() -> None:
    def babble(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n" * 10)
        handler.close_connection = True

    with server(babble) as url:
        assert refusal(url).code in ("bad_answer", "server_error")


def test_a_connection_cut_in_the_middle() -> None:
    def cut(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n" + json.dumps(PAGE).encode())
        handler.close_connection = True

    with server(cut) as url:
        assert refusal(url).code == "server_error"


def test_scrub_answers_are_checked_too() -> None:
    done = {"files": 2, "bytes": 10, "damaged": ["a/b.npz"], "remaining": 0}
    with server(reply(done)) as url:
        assert NodeSource("gpu-1", url).scrub(100, 5).damaged == ("a/b.npz",)
    with server(reply(done | {"damaged": ["../x"]})) as url, pytest.raises(NoAnswer) as refused:
        NodeSource("gpu-1", url).scrub(100, 5)
    assert refused.value.code == "bad_answer"


def test_the_question_carries_token_root_and_cursor() -> None:
    asked: list[tuple[str, str | None]] = []

    def note(handler: BaseHTTPRequestHandler) -> None:
        asked.append((handler.path, handler.headers["authorization"]))
        reply(PAGE | {"node": "mac"})(handler)

    with server(note, health=reply({"node": "mac"})) as url:
        source = NodeSource("owc", url, "s3cret", "owc", "mac", max_age=0)
        source.read(Cursor("e0", 3), 5)
    path, authorization = asked[0]
    assert authorization == "Bearer s3cret"
    assert "root=owc" in path
    assert "since=e0%3A3" in path
    assert "max_age=0" in path
