"""The games that a host of the demo's cluster plays, and the damaged one that it has besides."""

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
"""How many are played of each config."""
PLAYED = tuple(config.key for config in CONFIGS if config.board in ("square8", "hex8"))
"""The configs whose games and training sets take seconds; games on the large boards are ten times as long."""
AI, SEED = "random", 1
"""Who plays: the AI that takes least to compile."""
OLD = timedelta(hours=12)
"""A home whose games are older than this gets as many again: nothing trains on old ones."""


def play_games(into: Path, say: Callable[[str, str], None]) -> None:
    """Play games of the configs PLAYED, each into a database of its own, and put the damaged database beside them.

    In this process: once the rules are compiled it takes seconds. `say` is given a config and what was done for it.
    """
    unpack(into)
    for key in PLAYED:
        config = parse_config(key)
        path = into / f"selfplay_{key}_engine{ENGINE_VERSION}.db"
        written = record(SelfPlay(config, SEED, (parse_spec(AI, config),)), _games(path, config), path, resume=True)
        games = written.games - written.resumed
        took = f"{written.moves:,} moves in {written.seconds:.1f} s" if games else "since an earlier demo"
        say(key, f"{games or written.games} {'game' if (games or written.games) == 1 else 'games'}, {took}")


def _games(path: Path, config: Config) -> int:
    """How many games a database is to have: what it has if that is fresh, otherwise as many more as are played at first."""
    if not path.exists():
        return GAMES
    held = describe(path)
    games, newest = held.configs.get(config.key, 0), recorded_time(held.newest_game)
    fresh = newest is not None and datetime.now(UTC) - newest < OLD
    return max(games, GAMES) if fresh else games + GAMES
