"""The client for training scripts: light, and never silent."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson
import pytest

from ringrift_dagster.cli.services import free_port
from ringrift_dagster.events.client import NotEmitted, emit, emit_all
from ringrift_dagster.events.ids import is_id, new_id
from tests.agents import running_agent

IMPORTS = "import sys; before = set(sys.modules); import ringrift_dagster.events.client; print(*sorted(set(sys.modules) - before))"


class DataEventType(Enum):
    """As RingRift's."""

    TRAINING_STARTED = "training_started"


def test_nothing_heavy_is_imported() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True, timeout=60)
    ours = {name for name in done.stdout.split() if name.startswith("ringrift_dagster")}
    assert ours == {"ringrift_dagster", "ringrift_dagster.events", "ringrift_dagster.events.client", "ringrift_dagster.events.ids"}
    assert not {"pydantic", "orjson", "sqlalchemy", "dagster", "numpy", "ssl", "http.client", "asyncio"} & set(done.stdout.split())


def test_an_agent_takes_what_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_agent(tmp_path, "gpu-1", token="secret") as agent:
        own = new_id()
        assert emit("TRAINING_STARTED", {"config": "hex8_2p"}, url=agent.url, token="secret", id=own) == own
        assert emit("TRAINING_STARTED", {"config": "hex8_2p"}, url=agent.url, token="secret", id=own) == own
        monkeypatch.setenv("RINGRIFT_AGENT_URL", f"{agent.url}/")
        monkeypatch.setenv("RINGRIFT_NODE_TOKEN", "secret")
        assert is_id(emit(DataEventType.TRAINING_STARTED, {"config": "hex8_2p"}))  # type: ignore[arg-type]
        ids = emit_all(
            [{"type": "HOST_ONLINE", "payload": {"host": "a"}, "id": own}, {"type": "HOST_ONLINE", "payload": {"host": "b"}}]
        )
        assert (ids[0], is_id(ids[1])) == (own, True)
        with pytest.raises(NotEmitted) as refused:
            emit("TRAINING_STARTED", {"model": "x"})
        assert (refused.value.code, len(refused.value.ids)) == ("missing_config", 1)
        with pytest.raises(NotEmitted) as refused:
            emit("TRAINING_STARTED", {}, token="wrong")
        assert refused.value.code == "unauthorized"
        with pytest.raises(NotEmitted) as refused:
            emit("TRAINING_STARTED", {"x": object()})
        assert refused.value.code == "not_json"


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """Something that is no agent."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (200, b"<html>", "no_agent"),
        (404, b"", "no_agent"),
        (202, b"[1]", "no_agent"),
        (200, b"{}", "error"),
        (507, orjson.dumps({"error": "outbox_full", "detail": "9 events wait"}), "outbox_full"),
    ],
)
def test_what_is_no_agent_or_refuses_is_one_clear_error(status: int, body: bytes, code: str) -> None:
    with answering(status, body) as url, pytest.raises(NotEmitted) as refused:
        emit("HOST_ONLINE", {"host": "a"}, url=url)
    assert refused.value.code == code
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "url", [pytest.param(f"http://127.0.0.1:{free_port()}", id="no listener"), "nowhere", "ftp://x", "http://127.0.0.1:x"]
)
def test_nobody_there_is_one_clear_error(url: str) -> None:
    with pytest.raises(NotEmitted) as refused:
        emit("HOST_ONLINE", {"host": "a"}, url=url)
    assert refused.value.code == "no_agent"
    assert url in str(refused.value)
