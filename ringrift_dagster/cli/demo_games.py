"""The games of the demo: played by a host of its cluster, and a damaged one recorded by RingRift."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ringrift_dagster.ai.registry import parse_spec
from ringrift_dagster.ai.selfplay import ENGINE_VERSION, SelfPlay, record
from ringrift_dagster.ai.workers import default_workers
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
MODEL_CONFIG = "square8_2p"
"""The config of the demo's models."""
TRAINING_GAMES = {"heuristic,random": 3000, "heuristic": 500, "random": 500}
"""How many games a model is trained on, by the AIs that take turns at the seats. Games between unequal AIs teach what wins."""
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
        play = SelfPlay(config, SEED, (parse_spec(AI, config),))
        _play(play, into / f"selfplay_{key}_engine{ENGINE_VERSION}.db", GAMES, report)


def play_training_games(into: Path, report: Callable[[str, str], None]) -> None:
    """Play the games that the demo's models are trained on (TRAINING_GAMES), on all cores."""
    config = parse_config(MODEL_CONFIG)
    for ais, number in TRAINING_GAMES.items():
        path = into / f"selfplay_{MODEL_CONFIG}_{ais.replace(',', '_')}_engine{ENGINE_VERSION}.db"
        play = SelfPlay(config, SEED, tuple(parse_spec(ai, config) for ai in ais.split(",")))
        _play(play, path, number, report, f" by {ais}", default_workers())


def _play(play: SelfPlay, path: Path, number: int, report: Callable[[str, str], None], by: str = "", workers: int = 1) -> None:
    written = record(play, _games(path, play.config, number), path, workers=workers, resume=True)
    played = written.games - written.resumed
    games = played or written.games
    detail = f"{written.moves:,} moves in {written.seconds:.1f} s" if played else "since an earlier demo"
    report(play.config.key, f"{games:,} {'game' if games == 1 else 'games'}{by}, {detail}")


def _games(path: Path, config: Config, number: int) -> int:
    """How many games a database is to have: at least `number`; if its games are stale, `number` more than it has."""
    if not path.exists():
        return number
    summary = describe(path)
    games, newest = summary.configs.get(config.key, 0), recorded_time(summary.newest_game)
    fresh = newest is not None and datetime.now(UTC) - newest < OLD
    return max(games, number) if fresh else games + number
