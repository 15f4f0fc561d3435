"""Events: how many an agent takes durably, how many an inbox takes, how long one needs from here to there.

What bounds taking them is the disk: a batch is one commit, a commit one fsync of the log. So beside the rate of the endpoint stands
what fsync allows for batches of that size on this disk at this moment, and the rate of bare SQLite with the same rows.
"""

from __future__ import annotations

import json
import os
import sqlite3
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import urllib3

from ringrift_dagster.events import inbox
from ringrift_dagster.events.adapters import adapt
from ringrift_dagster.events.client import emit
from ringrift_dagster.events.ids import new_id
from ringrift_dagster.events.outbox import Batch, Outbox
from ringrift_dagster.home import Home
from ringrift_dagster.manifest.store import Store, default_url
from tests.agents import running_agent
from tests.postgres import postgres

BATCH = 1000
SECONDS = 3.0
ROUND_TRIPS = 40
AIM = 10_000
RAW = {
    "event_type": "selfplay_complete",
    "payload": {
        "board_type": "hex8", "num_players": 2, "games_generated": 100, "success": True,
        "metadata": {"task_id": "t-9", "node_id": "vast-7", "duration_seconds": 60.5, "selfplay_type": "gumbel"},
    },
    "timestamp": "2025-12-29T09:20:00",
}  # fmt: skip
"""One of the longest that RingRift sends."""
TYPED = {"type": "SELFPLAY_COMPLETE", "payload": {"config": "hex8_2p", "host": "vast-7", "games": 100}}


def rate(work: Callable[[], int], seconds: float = SECONDS) -> float:
    """Units a second of repeated calls, over so many seconds."""
    work()
    units, started = 0, time.perf_counter()
    while (spent := time.perf_counter() - started) < seconds:
        units += work()
    return units / spent


def fsync_rate(folder: Path, size: int) -> float:
    """Writes of so many bytes with an fsync each (fdatasync into a file that is there, as SQLite's log does it), a second."""
    with (folder / "fsync").open("wb", buffering=0) as file:
        block = os.urandom(size)
        file.write(block)
        os.fsync(file.fileno())

        def write() -> int:
            os.pwrite(file.fileno(), block, 0)
            os.fdatasync(file.fileno())
            return 1

        return rate(write, 1.0)


def bare_sqlite(folder: Path, body: bytes) -> float:
    """Rows like the outbox's a second, with nothing around them."""
    connection = sqlite3.connect(folder / "bare.db", isolation_level=None)
    connection.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;")
    connection.execute("CREATE TABLE t (sequence INTEGER PRIMARY KEY, id TEXT UNIQUE, body BLOB, at REAL)")

    def append() -> int:
        rows = [(new_id(), body, 1.0) for _ in range(BATCH)]
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO t (id, body, at) VALUES (?, ?, ?)", rows)
        connection.execute("COMMIT")
        return BATCH

    return rate(append)


def outbox_rate(folder: Path) -> float:
    """Events a second into the outbox itself."""
    outbox = Outbox(folder / "outbox.db", max_bytes=1 << 40)

    def append() -> int:
        outbox.append([adapt(TYPED, host="vast-7", at=1.8e9) for _ in range(BATCH)])
        return BATCH

    return rate(append)


def endpoint_rate(url: str, events: list[Any], clients: int = 1) -> float:
    """Events a second that an agent accepts from clients that post as fast as they are answered."""
    body = json.dumps(events).encode()
    pool = urllib3.PoolManager(maxsize=clients, retries=False, timeout=60)
    taken, stop = [0] * clients, time.perf_counter() + SECONDS

    def post(number: int) -> None:
        while time.perf_counter() < stop:
            answer = pool.request("POST", f"{url}/v1/events", body=body)
            assert answer.status == 202, answer.data
            taken[number] += len(events)

    started = time.perf_counter()
    threads = [threading.Thread(target=post, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(taken) / (time.perf_counter() - started)


def inbox_rate(url: str) -> float:
    """Events a second into a manifest, in batches as agents push them."""
    with Store.open(url) as store:
        epoch, place = new_id(), 1

        def receive() -> int:
            nonlocal place
            entries = [{"sequence": place + index, "event": json.loads(event().dump())} for index in range(BATCH)]
            sent = Batch.model_validate({"host": "vast-7", "epoch": epoch, "floor": 0, "entries": entries})
            started = time.perf_counter()
            inbox.receive(store, sent, at=1.8e9)
            spent.append(time.perf_counter() - started)
            place += BATCH
            return BATCH

        def event() -> Any:
            return adapt(TYPED, host="vast-7", at=1.8e9)

        spent: list[float] = []
        rate(receive, 2.0)
        return BATCH / statistics.median(spent)


@contextmanager
def two_agents(root: Path) -> Iterator[tuple[str, Store]]:
    """A host's agent and the coordinator's; the host's URL and the manifest."""
    home = Home(root / "home")
    home.root.mkdir(parents=True)
    with (
        running_agent(root / "coordinator", "coordinator", "--home", str(home.root)) as coordinator,
        running_agent(root / "gpu", "gpu-1", "--coordinator", coordinator.url) as gpu,
        Store.open(default_url(home)) as store,
    ):
        yield gpu.url, store


def seen_after(url: str, store: Store) -> list[float]:
    """Seconds from before telling an event until a reader of the inbox has it."""
    times, last = [], inbox.last_number(store)
    for _ in range(ROUND_TRIPS):
        started = time.perf_counter()
        emit("SELFPLAY_COMPLETE", {"config": "hex8_2p", "games": 1}, url=url)
        found = inbox.read(store, last, wait=30)
        times.append(time.perf_counter() - started)
        last = found[-1].number
    return sorted(times)


def run() -> list[tuple[str, str, str]]:
    """Rows of (figure, here, beside)."""
    rows: list[tuple[str, str, str]] = []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        body = adapt(TYPED, host="vast-7", at=1.8e9).dump()
        fsyncs = fsync_rate(root, len(body) * BATCH)
        single = fsync_rate(root, 8192)
        rows.append(
            (f"fsync limit of batches of {BATCH:,}, events/s", _text(fsyncs * BATCH), f"{fsyncs:,.0f} fsyncs/s of {len(body)} KB")
        )
        rows.append(("bare SQLite, the same rows, events/s", _text(bare_sqlite(root, body)), "the bound of the next two lines"))
        rows.append(("the outbox alone, events/s", _text(outbox_rate(root)), ""))
        with running_agent(root / "alone", "vast-7") as agent:
            for what, events in ((f"typed, batches of {BATCH:,}", [TYPED] * BATCH), (f"raw, batches of {BATCH:,}", [RAW] * BATCH)):
                here = endpoint_rate(agent.url, events)
                rows.append((f"POST /v1/events, {what}, events/s", _text(here), f"aim {AIM:,}, or as fsync allows"))
            rows.append(
                ("POST /v1/events, one a request, events/s", _text(endpoint_rate(agent.url, [TYPED], 8)), f"{single:,.0f} fsyncs/s")
            )
        rows.append(("inbox on SQLite, events/s", _text(inbox_rate(f"sqlite:///{root / 'manifest.db'}")), ""))
        with postgres() as server:
            rows.append(("inbox on PostgreSQL, events/s", _text(inbox_rate(f"{server}/postgres")), "fsync off"))
        with two_agents(root / "two") as (url, store):
            times = seen_after(url, store)
            shown = f"{1000 * statistics.median(times):.0f} / {1000 * times[int(len(times) * 0.95) - 1]:.0f}"
            rows.append(("told on a host until a reader has it, p50/p95 ms", shown, "well under a second"))
    return rows


def _text(value: float) -> str:
    return f"{value:,.0f}"


if __name__ == "__main__":
    for figure, here, beside in run():
        print(f"{figure:55}{here:>15}   {beside}")
