"""The manifest at scale: a million items with three replicas each, on SQLite and on PostgreSQL, and cycles over forty agents.

Every figure stands beside what bounds it: the same rows put into the same kind of database by its bare driver, or what it has to
stay below. The agents of the cycle are one real HTTP server that speaks for forty; the inventories it sends are parsed and checked
as any.
"""

from __future__ import annotations

import hashlib
import json
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from ringrift_dagster.cluster.topology import AgeLimits, Place
from ringrift_dagster.games.config import CONFIG_KEYS
from ringrift_dagster.manifest import freshness, liveness, queries
from ringrift_dagster.manifest.inventory import FoundItem, Inventory, ItemType, Soundness
from ringrift_dagster.manifest.locations import register
from ringrift_dagster.manifest.merge import merge
from ringrift_dagster.manifest.refresh import refresh
from ringrift_dagster.manifest.sources.node import NodeSource
from ringrift_dagster.manifest.store import Store
from tests.postgres import postgres

ITEMS = 1_000_000
REPLICAS = 3
LOCATIONS = 42
AGENTS = 40
CHURN = 0.01
NOW = 1.9e9
TYPES = (ItemType.GAME_DB,) * 15 + (ItemType.NPZ,) * 2 + (ItemType.MODEL, ItemType.CHECKPOINT, ItemType.CANONICAL_GAMES)
ASKED = 20_000
BARE = "  the same join by the bare driver, p50/p99 µs"
_COPIES = (
    "SELECT r.location_id, r.path FROM items i JOIN replicas r ON r.item_id = i.id WHERE i.sha256 = {} AND r.state = 'AVAILABLE'"
)


def places() -> list[Place]:
    """Forty hosts at four providers, a drive and a bucket."""
    providers = ("vast", "lambda", "nebius", "hetzner")
    hosts = [
        Place(f"host-{number:02}", "host", "", providers[number % 4], f"rack-{number % 8}", "gpu_selfplay", number % 4 == 0)
        for number in range(AGENTS)
    ]
    return [*hosts, Place("drive", "drive", "", "local", via="host-01"), Place("bucket", "s3", "", "aws")]


def entry(number: int, version: int = 0) -> FoundItem:
    """An item of the million; not validated, as that is measured elsewhere."""
    digest = hashlib.sha256(f"{number} {version}".encode()).hexdigest()
    kind = TYPES[number % len(TYPES)]
    return FoundItem.model_construct(
        path=f"data/{kind.value.lower()}/{number}-{version}",
        sha256=digest,
        size=1000 + number,
        type=kind,
        mtime=NOW - number % 100_000,
        config=CONFIG_KEYS[number // len(TYPES) % 12],
        games=number % 500,
        samples=number % 50_000,
        quality=(number * 7919 % 1000) / 1000,
        newest_game=NOW - number % 200_000,
        soundness=Soundness.SOUND,
        verified_at=NOW - 1000,
        provenance={},
    )


def holders(number: int) -> list[int]:
    """Which locations hold an item: three different ones."""
    first = number % LOCATIONS
    return [first, (first + 7 + number // LOCATIONS % 11) % LOCATIONS, (first + 23 + number // 97 % 11) % LOCATIONS]


def timed(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def percentiles(work: Callable[[Any], Any], arguments: Sequence[Any]) -> tuple[float, float]:
    """Median and 99th percentile of the time of one call, in microseconds."""
    times = []
    for argument in arguments:
        start = time.perf_counter_ns()
        work(argument)
        times.append(time.perf_counter_ns() - start)
    times.sort()
    return times[len(times) // 2] / 1000, times[len(times) * 99 // 100] / 1000


def told(place: str, numbers: Sequence[int], *, full: bool = True, version: int = 0) -> Inventory:
    return Inventory(place, "epoch", 1, full, found=[entry(number, version) for number in numbers], now=NOW, latency=0.01)


def measure(url: str, items: int) -> dict[str, Any]:
    """Every figure of one kind of database."""
    figures: dict[str, Any] = {}
    names = [place.name for place in places()]
    held: list[list[int]] = [[] for _ in names]
    for number in range(items):
        for holder in holders(number):
            held[holder].append(number)
    with Store.open(url) as store:
        register(store, places(), at=NOW)
        spent = 0.0
        for name, numbers in zip(names, held, strict=True):
            inventory = told(name, numbers)
            spent += timed(lambda inventory=inventory: merge(store, inventory, before=store.revision(), at=NOW))
            liveness.answered(store, inventory, at=NOW)
        figures["load, replicas/s"] = items * REPLICAS / spent
        chosen = random.Random(1).sample(range(items), min(ASKED, items))
        asked = [(entry(number).sha256, names[number % AGENTS]) for number in chosen]
        figures["best source, p50/p99 µs"] = percentiles(lambda pair: queries.best_sources(store, *pair), asked)
        bare, copies = store.reader(), _COPIES.format("?" if url.startswith("sqlite") else "%s")
        figures[BARE] = percentiles(lambda pair: bare.execute(copies, [bytes.fromhex(pair[0])]).fetchall(), asked)
        figures["where, p50/p99 µs"] = percentiles(lambda pair: queries.where(store, pair[0]), asked[:2000])
        top = [(CONFIG_KEYS[number % 12], ItemType.NPZ) for number in range(2000)]
        figures["top 3 by quality, p50/p99 µs"] = percentiles(lambda pair: queries.items_by_quality(store, *pair, limit=3), top)
        rows = len(held[0])
        churned = int(rows * CHURN)

        def rescan(what: str, make: Callable[[int], Inventory]) -> None:
            """The best of three: a cycle finds the pages of the one before in memory."""
            inventories = [make(attempt) for attempt in range(1, 4)]
            spent = min(timed(lambda told=told: merge(store, told, before=store.revision(), at=NOW)) for told in inventories)
            figures[f"rescan, {what}, rows/s"] = rows / spent

        def replaced(attempt: int) -> Inventory:
            inventory = told(names[0], held[0])
            inventory.found[:churned] = [entry(number, attempt) for number in held[0][:churned]]
            return inventory

        rescan("nothing changed", lambda _: told(names[0], held[0]))
        rescan("1 % replaced", replaced)
        rescan("every row new", lambda attempt: told(names[1], held[0], full=False, version=attempt))
        figures["sole copies of one location, ms"] = 1000 * timed(lambda: queries.sole_copies(store, at_location=names[2]))
        figures["under-replicated, whole cluster, ms"] = 1000 * timed(lambda: queries.under_replicated(store, REPLICAS))
        report = [timed(lambda: freshness.host_freshness(store, NOW, limits=AgeLimits(), hosts_only=False)) for _ in range(5)]
        figures[f"freshness report, {LOCATIONS} locations, ms"] = 1000 * min(report)
    return figures


def bare_driver(path: Path, items: int) -> float:
    """Rows a second that SQLite takes when nothing is compared, looked up or counted: the bound of the load."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    key = "PRIMARY KEY (item, location, path)"
    connection.execute(f"CREATE TABLE replicas (item INTEGER, location INTEGER, path TEXT, {key}) WITHOUT ROWID")
    connection.execute("CREATE UNIQUE INDEX by_path ON replicas (location, path, item)")
    rows = [(number, holder, f"data/{number}-0") for number in range(items) for holder in holders(number)]
    start = time.perf_counter()
    connection.execute("BEGIN")
    connection.executemany("INSERT INTO replicas VALUES (?, ?, ?)", rows)
    connection.execute("COMMIT")
    spent = time.perf_counter() - start
    connection.close()
    return len(rows) / spent


class Agents(BaseHTTPRequestHandler):
    """Speaks for every agent: `/host-07/v1/inventory` tells all of host 7 at first, and 1 % of it each time after."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    files = 0

    def do_GET(self) -> None:
        name, _, rest = self.path.lstrip("/").partition("/")
        number = int(name.removeprefix("host-"))
        if rest.startswith("v1/health"):
            body: dict[str, Any] = {"node": name}
        else:
            since = rest.partition("since=")[2].partition("&")[0].replace("%3A", ":")
            cycle = int(since.partition(":")[2] or 0)
            body = self.page(name, number, cycle)
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def page(self, name: str, number: int, cycle: int) -> dict[str, Any]:
        first = number * self.files
        if cycle == 0:
            files = [entry(n) for n in range(first, first + self.files)]
        else:
            share = max(1, int(self.files * CHURN))
            start = first + (cycle - 1) * share % self.files
            files = [entry(n).model_copy(update={"sha256": entry(n, cycle).sha256}) for n in range(start, start + share)]
        found = [json.loads(found.model_dump_json(exclude_none=True)) for found in files]
        return {"node": name, "epoch": "e", "cursor": cycle + 1, "full": cycle == 0, "now": NOW, "found": found}

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""


def serve_agents(files: int) -> None:
    """A process of its own: says its port, then answers until it is killed."""
    Agents.files = files
    server = ThreadingHTTPServer(("127.0.0.1", 0), Agents)
    server.request_queue_size = 128
    print(server.server_port, flush=True)
    server.serve_forever()


@contextmanager
def agents(files: int) -> Iterator[int]:
    command = [sys.executable, "-c", f"from benchmarks.manifest import serve_agents; serve_agents({files})"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


def measure_cycles(url: str, files: int) -> dict[str, Any]:
    """A first cycle over forty agents with so many files each, then one with nothing but 1 % changed."""
    with agents(files) as port, Store.open(url) as store:
        hosts = places()[:AGENTS]
        register(store, hosts, at=NOW)
        sources = [NodeSource(place.name, f"http://127.0.0.1:{port}/{place.name}") for place in hosts]
        first = timed(lambda: refresh(store, sources, answer_seconds=120.0))
        cycles = []
        for _ in range(3):
            result = refresh(store, sources, answer_seconds=30.0)
            assert not result.silent, result.silent
            cycles.append(result.seconds)
        changed = sum(len(outcome.merged.examples) for outcome in result.outcomes if outcome.merged)
        assert changed, "nothing changed in the cycle that was measured"
    return {f"first cycle, {AGENTS} × {files} files, s": first, f"cycle with 1 % changed of {AGENTS} × {files}, s": min(cycles)}


def run(items: int = ITEMS) -> list[tuple[str, str, str]]:
    """Rows of (figure, here, beside)."""
    rows: list[tuple[str, str, str]] = []
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        bound = bare_driver(root / "bare.db", items)
        sqlite = measure(f"sqlite:///{root / 'manifest.db'}", items)
        cycles = {**measure_cycles(f"sqlite:///{root / 'small.db'}", 200), **measure_cycles(f"sqlite:///{root / 'large.db'}", 2000)}
        with postgres() as server:
            on_postgres = measure(f"{server}/postgres", items)
    for name, value in sqlite.items():
        rows.append((name, _text(value), f"{_text(on_postgres[name])} on PostgreSQL; {_BESIDE.get(name, '')}".rstrip("; ")))
    rows.insert(1, ("  bare SQLite, no look-ups, replicas/s", _text(bound), ""))
    rows += [(name, _text(value), "a cycle is 30 s") for name, value in cycles.items()]
    return rows


_BESIDE = {
    "best source, p50/p99 µs": "aim p99 100",
    BARE: "the bound of the line above",
    "rescan, 1 % replaced, rows/s": "aim 75,000",
    f"freshness report, {LOCATIONS} locations, ms": "aim 50",
}


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return " / ".join(_text(part) for part in value)
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
