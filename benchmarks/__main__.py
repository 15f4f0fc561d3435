"""`python -m benchmarks`: the figures of this project, each beside what bounds or precedes it.

Every board is measured in a process of its own, so that peak memory is that board's. Games come from the databases in
`tests/data`; a database is given under several names so that a measurement lasts seconds.
"""

from __future__ import annotations

import json
import lzma
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

DATA = Path(__file__).parents[1] / "tests" / "data" / "db"
BOARDS = {
    "square8": ("square8_2p", "canonical_square8_2p"),
    "hex8": ("hex8_2p", "canonical_hex8_2p"),
    "square19": ("square19_2p", "canonical_square19_2p"),
    "hexagonal": ("hexagonal_2p", "canonical_hexagonal_2p"),
}
SECONDS = 3.0
RINGRIFT_SAMPLES = "900-1,250"
"""What RingRift's own exporter does on square8 on an idle machine of two cores, in 1.8-2.3 GB: measured once, not here."""


def best_rate(work: Callable[[], int]) -> float:
    """The best rate of units a second over repeated calls that together last about SECONDS; the first call only warms up."""
    work()
    rates: list[float] = []
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(rates) < 3:
        start = time.perf_counter()
        units = work()
        rates.append(units / (time.perf_counter() - start))
    return max(rates)


def measure(board: str) -> dict[str, Any]:
    """All figures of one board."""
    from zlib_ng import zlib_ng

    from ringrift_dagster.canonical.gate import verify
    from ringrift_dagster.datasets.npz_export import export_databases
    from ringrift_dagster.datasets.npz_validator import inspect_npz
    from ringrift_dagster.datasets.npz_writer import COMPRESSION_LEVEL
    from ringrift_dagster.games.database import GameDatabase
    from ringrift_dagster.games.geometry import coordinates
    from ringrift_dagster.games.moves import pack
    from ringrift_dagster.games.position import read_position
    from ringrift_dagster.games.replay import replay

    config, name = BOARDS[board]
    with tempfile.TemporaryDirectory() as directory:
        database = Path(directory) / f"{name}.db"
        database.write_bytes(lzma.decompress((DATA / f"{name}.db.xz").read_bytes()))
        out = Path(directory) / "out.npz"
        with GameDatabase(database) as games:
            records = list(games.games())
        packed = [(r.initial_state or b"", pack([move.record for move in r.moves], coordinates(board))) for r in records]

        def replay_all() -> int:
            for state, moves in packed:
                found, start = read_position(orjson.loads(state))
                replay(found, start, moves, np.zeros(len(moves) + 1, dtype=np.uint8))
            return sum(len(moves) for _, moves in packed)

        moves_replayed = best_rate(replay_all)
        moves_verified = best_rate(lambda: verify([database])[0].moves)
        games_verified = moves_verified * len(records) / sum(len(moves) for _, moves in packed)
        exported = best_rate(lambda: export_databases(config, [database], out).samples)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        validated = best_rate(lambda: inspect_npz(out).to_dict()["samples"])
        with np.load(out) as arrays:
            planes = np.ascontiguousarray(arrays["features"])
        raw = memoryview(planes).cast("B")
        deflated = best_rate(lambda: len(planes) if zlib_ng.compress(raw, COMPRESSION_LEVEL) else 0)
        return {
            "board": board,
            "games": len(records),
            "moves replayed/s": moves_replayed,
            "games verified/s": games_verified,
            "moves verified/s": moves_verified,
            "samples exported/s": exported,
            "bound: deflate/s": deflated,
            "samples validated/s": validated,
            "peak MB": memory,
            "MB of planes": planes.nbytes / 1e6,
            "MB on disk": out.stat().st_size / 1e6,
        }


def large_export() -> dict[str, Any]:
    """One export of many games: what start-up costs no longer show, and memory has had time to grow."""
    from ringrift_dagster.canonical.gate import Gate, judged_games
    from ringrift_dagster.datasets.canonical_games import CanonicalGame
    from ringrift_dagster.datasets.labels import ValueTargets
    from ringrift_dagster.datasets.npz_export import ExportResult, _export, _Sources
    from ringrift_dagster.games.config import parse_config
    from ringrift_dagster.games.database import GameDatabase

    with tempfile.TemporaryDirectory() as directory:
        database = Path(directory) / "games.db"
        database.write_bytes(lzma.decompress((DATA / "canonical_square8_2p.db.xz").read_bytes()))

        def games(copies: int) -> Any:
            for _ in range(copies):
                with GameDatabase(database) as opened:
                    for judged in judged_games(opened, Gate()):
                        yield CanonicalGame.of(judged)

        def export(copies: int) -> ExportResult:
            out = Path(directory) / "out.npz"
            config = parse_config("square8_2p")
            return _export(config, games(copies), _Sources(), out, ValueTargets.CANONICAL, None)

        export(1)
        small = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        result = export(40)
        large = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        stages = {f"{name}/s": result.samples / seconds for name, seconds in result.stages.items()}
        whole = {"samples": result.samples, "samples/s end to end": result.samples / result.seconds}
        return {**whole, **stages, "peak MB, 1x": small, "peak MB, 40x": large}


def print_manifest() -> None:
    """The manifest at scale, and snapshots of live databases; `python -m benchmarks manifest` runs these alone."""
    from benchmarks import manifest, snapshots

    print(f"{'the manifest, 1,000,000 items x 3 replicas':50}{'SQLite':>22}   beside")
    for name, value, beside in (*manifest.run(), *snapshots.run()):
        print(f"{name:50}{value:>22}   {beside}")


def print_transfers(only: Sequence[str] = ()) -> None:
    """Moving data; `python -m benchmarks transfer [large small fan_out queue live faults kills]` runs these alone."""
    from benchmarks import transfer

    print(f"{'moving data':58}{'here':>22}   beside")
    for name, value, beside in transfer.run(only):
        print(f"{name:58}{value:>22}   {beside}", flush=True)


def print_events() -> None:
    """Events; `python -m benchmarks events` runs these alone."""
    from benchmarks import events

    print(f"{'events':58}{'here':>22}   beside")
    for name, value, beside in events.run():
        print(f"{name:58}{value:>22}   {beside}", flush=True)


def print_latency() -> None:
    """From events to data; `python -m benchmarks latency` runs these alone."""
    from benchmarks import latency

    print(f"{'from a training start to its data, seconds':58}{'here':>22}   beside")
    for name, value, beside in latency.run():
        print(f"{name:58}{value:>22}   {beside}", flush=True)


def print_rules() -> None:
    """The rules' speed; `python -m benchmarks rules` runs these alone."""
    from benchmarks import rules

    print(f"{'rules, one process':58}{'here':>15}   beside")
    rules.run(lambda figure, here, beside: print(f"{figure:58}{here:>15}   {beside}", flush=True), best_rate)


def print_selfplay() -> None:
    """Self-play into databases, and what the gate makes of them; `python -m benchmarks selfplay` runs these alone."""
    from benchmarks import selfplay

    print(f"{'self-play':58}{'here':>15}   beside")
    selfplay.run(lambda figure, here, beside: print(f"{figure:58}{here:>15}   {beside}", flush=True), best_rate)


def print_policies() -> None:
    """The policies' speed and strength; `python -m benchmarks policies` runs these alone."""
    from benchmarks import policies

    print(f"{'policies, one process':58}{'here':>15}   beside")
    policies.run(lambda figure, here, beside: print(f"{figure:58}{here:>15}   {beside}", flush=True))


def print_publishing() -> None:
    """Publishing models, with kills; `python -m benchmarks publishing` runs these alone."""
    from benchmarks import publishing

    print(f"{'publishing models':58}{'here':>15}   beside")
    publishing.run(lambda figure, here, beside: print(f"{figure:58}{here:>15}   {beside}", flush=True))


def print_promotion() -> None:
    """Errors of decisions on candidates; `python -m benchmarks promotion` runs these alone."""
    from benchmarks import promotion

    print(f"{'decisions on candidates':82}{'here':>10}   beside")
    for name, value, beside in promotion.run():
        print(f"{name:82}{value:>10}   {beside}", flush=True)


def print_checkpoints() -> None:
    """Reading model files; `python -m benchmarks checkpoints` runs these alone."""
    from benchmarks import checkpoints

    print(f"{'model files':58}{'here':>15}   beside")
    for name, value, beside in checkpoints.run():
        print(f"{name:58}{value:>15}   {beside}", flush=True)


def print_training() -> None:
    """Reading training sets for training; `python -m benchmarks training` runs these alone."""
    from benchmarks import training

    print(f"{'reading a training set':58}{'here':>15}   beside")
    training.run(lambda figure, here, beside: print(f"{figure:58}{here:>15}   {beside}", flush=True))


def _in_own_process(what: str) -> dict[str, Any]:
    ended = subprocess.run([sys.executable, "-m", "benchmarks", what], capture_output=True, text=True, check=True)
    return json.loads(ended.stdout)


def main() -> None:
    if len(sys.argv) > 1:
        if sys.argv[1] == "manifest":
            print_manifest()
            return
        if sys.argv[1] == "transfer":
            print_transfers(sys.argv[2:])
            return
        if sys.argv[1] == "events":
            print_events()
            return
        if sys.argv[1] == "latency":
            print_latency()
            return
        sections = {
            "rules": print_rules,
            "selfplay": print_selfplay,
            "policies": print_policies,
            "publishing": print_publishing,
            "promotion": print_promotion,
            "checkpoints": print_checkpoints,
            "training": print_training,
        }
        if sys.argv[1] in sections:
            for name in sys.argv[1:]:
                sections[name]()
            return
        figures = large_export() if sys.argv[1] == "large" else measure(sys.argv[1])
        print(json.dumps(figures))
        return
    print(f"{platform.machine()}, Python {platform.python_version()}; best of repeated runs, one process a board\n")
    rows = [_in_own_process(board) for board in BOARDS]
    names = [name for name in rows[0] if name != "board"]
    print(f"{'':22}" + "".join(f"{row['board']:>12}" for row in rows))
    for name in names:
        digits = 1 if name.startswith("MB") else 0
        print(f"{name:22}" + "".join(f"{row[name]:>12,.{digits}f}" for row in rows))
    large = _in_own_process("large")
    print("\none square8 export of " + ", ".join(f"{name} {value:,.0f}" for name, value in large.items()))
    print(f"reference: RingRift's exporter, square8: {RINGRIFT_SAMPLES} samples/s in 1.8-2.3 GB; its parity gate: tens of moves/s")
    print()
    print_manifest()
    print()
    print_transfers()
    print()
    print_events()
    print()
    print_latency()
    print()
    print_rules()
    print()
    print_selfplay()
    print()
    print_policies()
    print()
    print_publishing()
    print()
    print_promotion()
    print()
    print_checkpoints()
    print()
    print_training()


if __name__ == "__main__":
    main()
