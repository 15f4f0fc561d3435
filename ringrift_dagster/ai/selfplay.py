"""Self-play: one game from its seed, and many games into a database, by several processes.

Game i of a run depends on (root seed, config, i, AIs, swap rule) alone: not on how many processes play, in which order they end, or
whether the run was interrupted. What a game database contains is in `games.recording`; how AIs choose in `ai.policies`.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

from ringrift_dagster.ai.playing import Arena
from ringrift_dagster.ai.policies import POLICIES
from ringrift_dagster.ai.policies.interface import Policy
from ringrift_dagster.ai.registry import PolicySpec
from ringrift_dagster.ai.seeds import path_of, seed
from ringrift_dagster.ai.workers import MAX_WORKERS, results, stopped
from ringrift_dagster.games.config import Config
from ringrift_dagster.games.recording import SOURCE, GameRecorder, GameRows, PlayedGame, RecordingRefused, Seat, game_rows

ENGINE_VERSION = "1"
"""Changes whenever the same seed gives another game: with the rules' list of moves, the draws, or a policy."""

ABOUT_PREFIX = "selfplay_"
"""Prefix of the keys of `SelfPlay.about` in the metadata of a game."""

MAX_GAMES = 1_000_000

_IDS = uuid.UUID("6f1f4b61-3b29-5a8e-9a52-3d6f0c8f2a11")
"""Namespace of game ids."""

Progress = Callable[[int, int], None]
"""Called with (games that the database has, games that it will have)."""


class InvalidRun(ValueError):
    """A run that cannot be played; the message is one line that says why."""


@dataclass(frozen=True)
class SelfPlay:
    """A run of self-play; `ais` take the seats in turn, so that two AIs of a two-player config alternate in beginning.

    `root` is the seed from which those of all games are derived. Raises InvalidRun for a run that cannot be played.
    """

    config: Config
    root: int
    ais: tuple[PolicySpec, ...]
    swap_rule: bool = False

    def __post_init__(self) -> None:
        if not self.ais:
            raise InvalidRun("self-play needs at least one AI")
        if self.swap_rule and self.config.players != 2:
            raise InvalidRun(f"sides are swapped with two players only, not in {self.config.key}")
        if not 0 <= self.root < 2**63:
            raise InvalidRun(f"the seed is a number from 0 to {2**63 - 1}, not {self.root}")

    @property
    def about(self) -> Mapping[str, str]:
        """The identity of the run, stored in its database; a database with other values is not continued."""
        return {
            "seed": str(self.root),
            "ais": ",".join(map(str, self.ais)),
            "swap_rule": str(self.swap_rule).lower(),
            "engine_version": ENGINE_VERSION,
        }

    def seats(self, index: int) -> tuple[PolicySpec, ...]:
        """The policies of the seats of game `index`."""
        return tuple(self.ais[(index + seat) % len(self.ais)] for seat in range(self.config.players))

    def seed_path(self, index: int) -> str:
        """The path with which all seeds of game `index` begin."""
        return path_of(self.root, self.config.key, index)

    def game_id(self, index: int) -> str:
        """The id of game `index`: the same whenever and wherever it is played."""
        return str(uuid.uuid5(_IDS, "|".join((self.seed_path(index), *self.about.values()))))


def database_name(config: Config, root: int) -> str:
    """The usual name of the database of a config's games from the seed `root`."""
    return f"ringrift_dagster_{config.key}_{root}.db"


class Player:
    """Plays games of one run in this process; policies and buffers are made once."""

    def __init__(self, run: SelfPlay) -> None:
        self.run = run
        self._arena = Arena(run.config, stopped)
        self._policies: dict[PolicySpec, Policy] = {spec: POLICIES[spec.name](run.config, spec.budget) for spec in run.ais}

    def game(self, index: int) -> PlayedGame:
        """Play game `index`."""
        run = self.run
        specs = run.seats(index)
        path = (run.root, run.config.key, index)
        played = self._arena.play([self._policies[spec] for spec in specs], path, swap_rule=run.swap_rule)
        return PlayedGame(
            game_id=run.game_id(index),
            config=run.config,
            swap_rule=run.swap_rule,
            moves=played.moves,
            players=tuple(
                Seat(spec.name, profile=str(spec), seed=seed(*path, number)) for number, spec in enumerate(specs, start=1)
            ),
            started=played.started,
            finished=played.finished,
            seed=run.root,
            probabilities=played.probabilities,
            think_ms=played.think_ms,
            source=SOURCE,
            metadata={
                "seed_path": run.seed_path(index),
                **{f"{ABOUT_PREFIX}{name}": value for name, value in run.about.items()},
            },
        )


@dataclass(frozen=True)
class Written:
    """The result of `record`: `games` in the database, of which `resumed` were there before, and all digests by index."""

    path: Path
    games: int
    resumed: int
    moves: int
    seconds: float
    digests: tuple[str, ...] = field(repr=False)


def record(
    run: SelfPlay, games: int, path: Path, *, workers: int = 1, resume: bool = False, progress: Progress | None = None
) -> Written:
    """Play games 0 to `games` - 1 and write them, in this order, into the database `path`.

    With `resume` a database of the same run is continued; games that it has are not played again. Without, one that exists is
    refused. Raises RecordingRefused and RecordingError as `GameRecorder` does, InvalidRun for a run that cannot be played, and
    WorkerLost. However it ends, by KeyboardInterrupt too, what was written are whole games.
    """
    if not 1 <= games <= MAX_GAMES:
        raise InvalidRun(f"the number of games is 1 to {MAX_GAMES:,}, not {games}")
    if not 1 <= workers <= MAX_WORKERS:
        raise InvalidRun(f"the number of workers is 1 to {MAX_WORKERS}, not {workers}")
    if path.is_file() and not resume:
        raise RecordingRefused(path, "exists already: add --resume to continue it, or write to another file")
    began = time.monotonic()
    with GameRecorder(path, run.config, run.about) as recorder:
        digests = recorder.digests()
        ids = [run.game_id(index) for index in range(games)]
        missing = [index for index, game_id in enumerate(ids) if game_id not in digests]
        done, moves = games - len(missing), 0
        if progress is not None:
            progress(done, games)
        with results(partial(_play, run), missing, workers) as rows_of_games:
            for rows in rows_of_games:
                recorder.write(rows)
                digests[rows.game_id] = rows.digest
                moves += len(rows.moves)
                done += 1
                if progress is not None:
                    progress(done, games)
    return Written(
        path,
        games,
        games - len(missing),
        moves,
        time.monotonic() - began,
        tuple(str(digests[game_id]) for game_id in ids),
    )


_player = cache(Player)
"""The player of a run in a worker process."""


def _play(run: SelfPlay, index: int) -> GameRows:
    return game_rows(_player(run).game(index))
