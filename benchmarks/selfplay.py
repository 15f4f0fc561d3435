"""Self-play into a database, and the gate's verdict on it: games a second, what more processes gain, and memory.

Games are written as `ringrift-data selfplay` writes them. With several processes the time in which they start is part of the
figure, as it is of every run. The gate reads our games, with all hashes that they record, beside games that RingRift recorded.
"""

from __future__ import annotations

import lzma
import os
import resource
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

from benchmarks.rules import replay_all
from ringrift_dagster.ai.registry import parse_spec
from ringrift_dagster.ai.selfplay import Player, SelfPlay, Written, record
from ringrift_dagster.ai.workers import default_workers
from ringrift_dagster.canonical.gate import verify
from ringrift_dagster.games.config import parse_config

SEED = 1
GAMES = (
    ("square8_2p", "random", 100),
    ("square8_2p", "heuristic", 200),
    ("square8_2p", "mcts:64", 30),
    ("hex8_2p", "heuristic", 100),
    ("hex8_2p", "mcts:64", 10),
    ("square19_2p", "random", 8),
    ("hexagonal_2p", "random", 4),
)
"""Config, AI, and how many games one process plays."""
SPEED_UP = (("square8_2p", "heuristic", 1000), ("square8_2p", "mcts:64", 60))
"""Config, AI, and how many games one process and several play."""
VERIFIED = (("square8_2p", 100, "canonical_square8_2p"), ("hex8_2p", 50, "canonical_hex8_2p"))
"""Config, how many games `heuristic` plays against itself for the gate, and a database of RingRift's to compare with."""
DATA = Path(__file__).parents[1] / "tests" / "data" / "db"


def _run(key: str, ai: str) -> SelfPlay:
    config = parse_config(key)
    return SelfPlay(config, SEED, (parse_spec(ai, config),))


def _played(key: str, ai: str, games: int, workers: int = 1) -> Written:
    with tempfile.TemporaryDirectory() as directory:
        return record(_run(key, ai), games, Path(directory) / "games.db", workers=workers)


def _verified(database: Path) -> int:
    return verify([database])[0].moves


def run(row: Callable[[str, str, str], None], best_rate: Callable[[Callable[[], int]], float]) -> None:
    """Measure, and pass each figure to `row` as (figure, here, beside); `best_rate` measures units a second of a function."""
    for key, ai, games in GAMES:
        _played(key, ai, 1)
        written = _played(key, ai, games)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        beside = f"{written.moves / written.seconds:,.0f} moves/s, {games} games; peak so far {memory:,.0f} MB"
        row(f"{ai} against itself into a database, {key}, games/s", f"{games / written.seconds:,.1f}", beside)
    workers = max(2, default_workers())
    for key, ai, games in SPEED_UP:
        alone, together = _played(key, ai, games).seconds, _played(key, ai, games, workers).seconds
        memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        beside = (
            f"{games / alone:,.1f} games/s by one; {alone / together:.2f} times; a worker {memory:,.0f} MB; {os.cpu_count()} cores"
        )
        row(f"{workers} workers, {ai}, {key}, games/s", f"{games / together:,.1f}", beside)
    with tempfile.TemporaryDirectory() as directory:
        for key, games, name in VERIFIED:
            ours, bare, theirs = (Path(directory) / f"{key}_{which}.db" for which in ("ours", "bare", "theirs"))
            record(_run(key, "heuristic"), games, ours)
            _without_hashes(ours, bare)
            theirs.write_bytes(lzma.decompress((DATA / f"{name}.db.xz").read_bytes()))
            player = Player(_run(key, "heuristic"))
            moves = [player.game(index).moves for index in range(games)]
            hashed, unhashed, reference = (best_rate(partial(_verified, path)) for path in (ours, bare, theirs))
            replayed = best_rate(partial(replay_all, key, moves))
            row(
                f"our games verified without hashes, {key}, moves/s",
                f"{unhashed:,.0f}",
                f"RingRift's games, which record none: {reference:,.0f}; replay without reading: {replayed:,.0f}",
            )
            row(f"our games verified with 2 hashes a move, {key}, moves/s", f"{hashed:,.0f}", "every position's is recorded")


def _without_hashes(source: Path, target: Path) -> None:
    """Copy a database without the hashes that its games record."""
    with closing(sqlite3.connect(source)) as whole, closing(sqlite3.connect(target, isolation_level=None)) as copy:
        whole.backup(copy)
        copy.execute("DELETE FROM game_history_entries")
        copy.execute("DELETE FROM game_state_snapshots")
        copy.execute("VACUUM")
