"""The games of the demo: played by a host of its cluster, and a damaged one recorded by RingRift."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ringrift_dagster.ai.registry import parse_spec
from ringrift_dagster.ai.selfplay import ENGINE_VERSION, SelfPlay, record
from ringrift_dagster.datasets.freshness import recorded_time
from ringrift_dagster.demo_data import unpack
from ringrift_dagster.games.config import CONFIGS, Config, parse_config
from ringrift_dagster.games.database import describe

GAMES = 6
"""Games of each config."""
PLAYED = tuple(config.key for config in CONFIGS if config.board in ("square8", "hex8"))
"""The configs whose games and training sets take seconds; games on the large boards are ten times as long."""
AI, SEED = "random", 1
"""The AI that compiles fastest, and the root seed."""
OLD = timedelta(hours=12)
"""Age beyond which the games of a home are stale: then as many more are played, since no training starts on stale games."""


def play_games(into: Path, report: Callable[[str, str], None]) -> None:
    """Play games of the configs PLAYED, each into a database of its own, and put the damaged database beside them.

    In this process: once the rules are compiled it takes seconds. `report` is called with each config and a text about
    its games.
    """
    unpack(into)
    for key in PLAYED:
        config = parse_config(key)
        path = into / f"selfplay_{key}_engine{ENGINE_VERSION}.db"
        written = record(SelfPlay(config, SEED, (parse_spec(AI, config),)), _games(path, config), path, resume=True)
        played = written.games - written.resumed
        games = played or written.games
        detail = f"{written.moves:,} moves in {written.seconds:.1f} s" if played else "since an earlier demo"
        report(key, f"{games} {'game' if games == 1 else 'games'}, {detail}")


def _games(path: Path, config: Config) -> int:
    """How many games a database is to have: what it has if that is fresh, otherwise as many more as are played at first."""
    if not path.exists():
        return GAMES
    summary = describe(path)
    games, newest = summary.configs.get(config.key, 0), recorded_time(summary.newest_game)
    fresh = newest is not None and datetime.now(UTC) - newest < OLD
    return max(games, GAMES) if fresh else games + GAMES
