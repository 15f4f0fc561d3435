"""Reading a training set for training, beside `numpy.load`: samples a second and peak memory, each in a process of its own.

The set is made here of games that `heuristic` plays against itself. `numpy.load` unpickles, holds everything uncompressed at once,
and knows nothing of validity; its batches are taken by fancy indexing, as RingRift's trainer does.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

from ringrift_dagster.ai.registry import parse_spec
from ringrift_dagster.ai.seeds import generator, permutation
from ringrift_dagster.ai.selfplay import SelfPlay, record
from ringrift_dagster.datasets.npz_export import export_databases
from ringrift_dagster.games.config import parse_config
from ringrift_dagster.models.training.loader import TrainingSet

CONFIG: Final = "square8_2p"
GAMES: Final = 1000
BATCH: Final = 256
WAYS: Final = ("loader", "numpy.load")


def _memory_mb(name: str) -> float:
    """A figure of this process's memory that Linux counts: VmRSS is what it has now, VmHWM the peak since `_forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def measure(way: str, path: Path) -> dict[str, Any]:
    """Open the set and take all samples once, shuffled; memory is what that adds to the imports at its peak."""
    permutation(generator("compiled before"), 2)
    idle = _memory_mb("VmRSS")
    _forget_peak()
    began = time.perf_counter()
    state = generator("benchmark")
    if way == "loader":
        with TrainingSet(path, path.parent) as data:
            opened = time.perf_counter()
            taken = sum(len(batch) for batch in data.batches(np.arange(data.samples), BATCH, state))
    else:
        with np.load(path, allow_pickle=True) as archive:
            names = ("features", "globals", "values", "values_mp", "policy_indices", "policy_values")
            arrays = {name: archive[name] for name in names}
        opened, taken = time.perf_counter(), 0
        order = permutation(state, len(arrays["values"]))
        for start in range(0, len(order), BATCH):
            batch = {name: array[order[start : start + BATCH]] for name, array in arrays.items()}
            taken += len(batch["values"])
    ended = time.perf_counter()
    return {
        "samples": taken,
        "open": taken / (opened - began),
        "batches": taken / (ended - opened),
        "memory": _memory_mb("VmHWM") - idle,
        "idle": idle,
    }


def run(row: Callable[[str, str, str], None]) -> None:
    """Measure, and pass each figure to `row` as (figure, here, beside)."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / f"{CONFIG}.npz"
        config = parse_config(CONFIG)
        record(SelfPlay(config, 1, (parse_spec("heuristic", config),)), GAMES, Path(directory) / "games.db", workers=2)
        export_databases(CONFIG, [Path(directory) / "games.db"], path)
        ours, theirs = (_in_own_process(way, path) for way in WAYS)
    size = f"{ours['samples']:,} samples of {CONFIG}"
    row("shuffled batches, samples/s", f"{ours['batches']:,.0f}", f"numpy.load {theirs['batches']:,.0f}; {size}")
    row("opening, samples/s", f"{ours['open']:,.0f}", f"numpy.load {theirs['open']:,.0f}, which validates nothing")
    row(
        "peak memory beyond the imports, MB",
        f"{ours['memory']:,.0f}",
        f"numpy.load {theirs['memory']:,.0f}; imports {ours['idle']:,.0f}",
    )


def _in_own_process(way: str, path: Path) -> dict[str, Any]:
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.training", way, str(path)], capture_output=True, text=True, check=True
    )
    return json.loads(ended.stdout)


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], Path(sys.argv[2]))))
