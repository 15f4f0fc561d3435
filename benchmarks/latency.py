"""From a training start to the data that its job lacked, with a real Dagster and real agents: until the first byte is there, until
all of it is verified under its name, until the manifest has it, and until the host is told.

The clock starts when the job's host is told of the event and stops at what the host itself can see: a byte in the part file, the
finished file, the delivered event. Everything between is the real thing: outbox, inbox, sensor, queue, order, transfer, checks.
"""

from __future__ import annotations

import json
import lzma
import os
import tempfile
import threading
import time
import urllib.request
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np
import sqlalchemy as sa

from ringrift_dagster.datasets.npz_export import export_databases
from ringrift_dagster.datasets.npz_writer import NpzWriter
from ringrift_dagster.events.client import emit
from ringrift_dagster.games.database import file_sha256
from ringrift_dagster.manifest.schema import events, items, operations
from ringrift_dagster.transfer.model import Priority
from ringrift_dagster.transfer.operations import Kind, State, Wanted
from ringrift_dagster.transfer.queue import submit_all
from tests.live.cluster import MAIN, LiveCluster, live_cluster

MB = 1_000_000
SIZE = 50 * MB
REPEATS, FEW = 20, 5
CONFIG = "hex8_2p"
GAMES = Path(__file__).parents[1] / "tests" / "data" / "db" / "canonical_hex8_2p.db.xz"
SOURCE, TARGET, CAPPED, SLOW = "gpu-1", "gpu-2", "gpu-3", "gpu-4"
CAP, SLOW_SOURCE = 25, 0.5
"""MB/s of the link that LOW saturates, and of the source whose many small items wait."""
WAITING, SMALL = 10_000, 20_000
BULK, BULKS = 512 * MB, 6
LONGEST = 300.0
Rows = Iterable[tuple[str, str, str]]


class Timings(dict[str, float]):
    """Seconds after the event, by what came about."""


@dataclass
class Bench:
    """The running cluster, and training sets to send, each newer than the one before."""

    cluster: LiveCluster
    base: Path
    newest: float
    made: int = 0
    told: dict[str, int] = field(default_factory=dict)

    def training_set(self, base: Path | None = None) -> str:
        """Put a new one on the source; returns its hash once the manifest knows it."""
        self.made += 1
        path = self.cluster.root / SOURCE / "data/training" / f"{CONFIG}_{self.made}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_bytes((base or self.base).read_bytes())
        told = {"newest_game_time": datetime.fromtimestamp(self.newest + self.made, UTC).isoformat(), "game_count": 20}
        with zipfile.ZipFile(part, "a") as archive, archive.open("metadata.npy", "w") as member:
            np.lib.format.write_array(member, np.array(told, dtype=object))
        sha256 = file_sha256(part)
        part.rename(path)
        until(lambda: self.cluster.known(sha256))
        return sha256

    def start(self, host: str, sha256: str) -> Timings:
        """A job starts on a host."""
        seen, began = Timings(), time.perf_counter()
        emit("TRAINING_STARTED", {"config": CONFIG, "node_id": host}, url=self.cluster.agents[host].url)
        folder = self.cluster.root / host / "data/training"
        looks: dict[str, Callable[[], object]] = {
            "first byte": lambda: list(began_parts(folder, sha256)),
            "verified": lambda: list(folder.glob(f"*_{sha256[:12]}.npz")),
        }
        for name, look in looks.items():
            until(look)
            seen[name] = time.perf_counter() - began
        until(lambda: host in self.cluster.places(sha256))
        seen["in the manifest"] = time.perf_counter() - began
        until(lambda: self.is_told(host, sha256))
        seen["the host is told"] = time.perf_counter() - began
        return seen

    def is_told(self, host: str, sha256: str) -> bool:
        """Whether a host was told since it was asked last that an item lies there."""
        news, self.told[host] = delivered(self.cluster, host, self.told.get(host, 0))
        return any(each["type"] == "DATA_AVAILABLE" and each["payload"]["sha256"] == sha256 for each in news)

    def runs(self, host: str, repeats: int, base: Path | None = None) -> list[Timings]:
        return [self.start(host, self.training_set(base)) for _ in range(repeats)]


def began_parts(folder: Path, sha256: str) -> Iterator[Path]:
    """The part file of an item, once there is a byte in it; or the file itself."""
    for path in [*folder.glob(f".*{sha256[:12]}*.part"), *folder.glob(f"*_{sha256[:12]}.npz")]:
        try:
            if path.stat().st_blocks:
                yield path
        except FileNotFoundError:
            continue  # it just got its name


def until(look: Callable[[], object]) -> None:
    """Wait for something, looking often."""
    deadline, pause = time.monotonic() + LONGEST, threading.Event()
    while not look():
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing in {LONGEST:.0f} s")
        pause.wait(0.005)


def delivered(cluster: LiveCluster, host: str, after: int) -> tuple[list[dict[str, Any]], int]:
    """What the coordinator told a host after a place, and the place to go on from."""
    with urllib.request.urlopen(f"{cluster.agents[host].url}/v1/events?after={after}", timeout=10) as answer:
        told = json.load(answer)
    return [each["event"] for each in told["events"]], told["last"]


def bases(root: Path) -> tuple[Path, Path]:
    """Two training sets of about SIZE without their metadata: as NumPy's `savez` has it, and as the exporter compresses it."""
    database, small = root / "games.db", root / "small.npz"
    database.write_bytes(lzma.decompress(GAMES.read_bytes()))
    exported = export_databases(CONFIG, [database], small)
    with np.load(small, allow_pickle=True) as archive:
        arrays = {name: archive[name] for name in archive.files if name not in ("metadata", "data_checksums")}
    plain, packed = root / "plain.npz", root / "packed.npz"
    count = exported.samples * SIZE // sum(array.nbytes for array in arrays.values())
    np.savez(plain, **{name: array[:count] if array.ndim else array for name, array in arrays.items()})  # pyright: ignore[reportArgumentType]
    times = SIZE // exported.bytes
    features = arrays.pop("features")
    with packed.open("wb") as file, NpzWriter(file) as npz:
        npz.numeric("features", (times * len(features), *features.shape[1:]), features.dtype, [features] * times)
    with zipfile.ZipFile(packed, "a", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.concatenate([array] * times) if array.ndim else array)
    return plain, packed


def many_small(cluster: LiveCluster) -> list[str]:
    """Thousands of models on a slow source; their hashes."""
    folder = cluster.root / SLOW / "models"
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(WAITING):
        (folder / f"{number}_{CONFIG}.onnx").write_bytes(os.urandom(SMALL))
    return known_models(cluster, SMALL, WAITING)


def few_large(cluster: LiveCluster) -> list[str]:
    folder = cluster.root / SOURCE / "models"
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(BULKS):
        path = folder / f"{number}_{CONFIG}.part"
        with path.open("wb") as file:
            for _ in range(BULK // (4 * MB)):
                file.write(os.urandom(4 * MB))
        path.rename(path.with_suffix(".onnx"))
    return known_models(cluster, BULK, BULKS)


def known_models(cluster: LiveCluster, size: int, count: int) -> list[str]:
    """The hashes of models of a size, once the manifest knows so many."""
    query = sa.select(items.c.sha256).where(items.c.size == size)
    found: list[str] = []

    def all_known() -> bool:
        cluster.known("0" * 64)
        with cluster.store.reading() as connection:
            found[:] = [row.sha256.hex() for row in connection.execute(query)]
        return len(found) >= count

    until(all_known)
    return found


def want(cluster: LiveCluster, sha256s: list[str], host: str, size: int) -> None:
    wanted = [Wanted(Kind.SYNC, sha256, host, Priority.LOW, size) for sha256 in sha256s]
    submit_all(cluster.store, wanted, at=time.time())


def waiting(cluster: LiveCluster, host: str) -> int:
    """Operations of a host that have not ended."""
    query = sa.select(sa.func.count()).where(operations.c.finished_at.is_(None), operations.c.target == host)
    with cluster.store.reading() as connection:
        return connection.execute(query).scalar_one()


def under_way(cluster: LiveCluster, host: str) -> bool:
    query = sa.select(operations.c.id).where(operations.c.state == State.LEASED.value, operations.c.target == host)
    with cluster.store.reading() as connection:
        return connection.execute(query.limit(1)).first() is not None


def shown(what: str, timings: list[Timings], beside: str) -> Rows:
    """Median and 95th percentile of each moment."""
    aims = {"first byte": "aim 3", "verified": "aim 5; ADR-011: 120"}
    for name in timings[0]:
        seconds = [each[name] for each in timings]
        high = quantiles(seconds, n=20, method="inclusive")[-1]
        load = f"{beside}, load {os.getloadavg()[0]:.1f}" if name == "first byte" else ""
        yield f"{what}: {name}", f"{median(seconds):.2f} / {high:.2f}", "; ".join(filter(None, (aims.get(name), load)))


def run() -> Iterator[tuple[str, str, str]]:
    """Every figure: what, here (median / 95th percentile), what it is measured against."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        plain, packed = bases(root)
        trains = ", role: gpu_training_primary, training_enabled: true"
        hosts = {MAIN: ", role: coordinator, is_coordinator: true", SOURCE: "", TARGET: trains, CAPPED: trains, SLOW: ""}
        speeds = f"{{{CAPPED}: {CAP}, {SLOW}: {SLOW_SOURCE}, 'gpu-*': 1000, {MAIN}: 1000}}"
        sections = f"sync_routing: {{replication_target: 1}}\nauto_sync: {{host_bandwidth_overrides: {speeds}}}"
        with live_cluster(root, hosts, sections=sections) as cluster:
            bench = Bench(cluster, plain, time.time() - 3600)
            bench.runs(TARGET, 1)
            yield from shown("50 MB", bench.runs(TARGET, REPEATS), f"{REPEATS} times, median / p95")
            yield from shown("50 MB, deflated", bench.runs(TARGET, FEW, packed), f"{FEW} times, 3.6 GB unpacked")
            want(cluster, many_small(cluster), TARGET, SMALL)
            until(lambda: under_way(cluster, TARGET))
            before = waiting(cluster, TARGET)
            timings = bench.runs(TARGET, REPEATS)
            yield from shown("50 MB behind LOW", timings, f"{before:,} to {waiting(cluster, TARGET):,} wait")
            with cluster.store.writing() as writer:
                ended = {"state": State.CANCELLED.value, "finished_at": time.time(), "owner": None, "leased_until": None}
                writer.connection.execute(sa.update(operations).where(operations.c.finished_at.is_(None)).values(ended))
            want(cluster, few_large(cluster), CAPPED, BULK)
            until(lambda: under_way(cluster, CAPPED))
            timings = bench.runs(CAPPED, REPEATS)
            left = "still under way" if under_way(cluster, CAPPED) else "ended before"
            yield from shown(f"50 MB, {CAP} MB/s full of LOW", timings, f"alone {SIZE / MB / CAP:.1f} s; LOW {left}")
            yield "events told", f"{len(told(cluster)):,}", "each handled once"


def told(cluster: LiveCluster) -> list[Any]:
    with cluster.store.reading() as connection:
        return list(connection.execute(sa.select(events.c.id)))
