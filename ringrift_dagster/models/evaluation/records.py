"""Records of evaluation games, and the blocks that they form.

One record a game, bound to the hashes of the models that played it and to the config. A *series* is everything that a candidate
plays against one opponent: its openings follow from the two participants alone, so that there is nothing to choose by result.
Playing the games is for `matches`, storing the records for `store`, judging them for `sequential` and `models.promotion`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

from ringrift_dagster.games.config import Config

HARNESS: Final = "ringrift_dagster"
"""The harness of games that this project played itself."""
MAX_ATTEMPTS: Final = 3
"""How often a block is played when a game of it ends without a result."""

Result = Literal["won", "lost", "drawn", "void"]
"""A game from the candidate's side. `void`: it ended without a result, e.g. by a crash, and counts for nothing."""


@dataclass(frozen=True, order=True)
class Participant:
    """Who plays: a model by its SHA-256, or an AI of the registry by name and budget and the version of the engine.

    `name` is the AI's specification (`heuristic`, `mcts:64`), or of a model the AI that plays with it.
    """

    name: str
    version: str
    sha256: str | None = None

    @property
    def key(self) -> str:
        """The identity of the participant as one text."""
        return f"{self.name}@{self.sha256 or self.version}"


@dataclass(frozen=True, order=True)
class Series:
    """All games of a candidate against one opponent on a config."""

    config: str
    candidate: Participant
    opponent: Participant

    @property
    def seed_words(self) -> tuple[str, ...]:
        """Words with which the seeds of all its openings and decisions begin."""
        return ("evaluation", self.config, self.candidate.key, self.opponent.key)


@dataclass(frozen=True)
class EvaluationGame:
    """One game of a series. `seat` is the candidate's, from 1. Times are seconds since 1970.

    `winner_seat` is 0 where nobody won, `digest` the gate's digest of the game, None for a void one, whose `detail` says why.
    """

    series: Series
    block: int
    attempt: int
    seat: int
    game_id: str
    opening_seed: int
    harness: str
    host: str
    result: Result
    winner_seat: int
    moves: int
    termination: str
    digest: str | None
    started: float
    finished: float
    detail: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Blocks:
    """The complete blocks of a series, from the first on without a gap, and what else there is.

    `counts` has the number of blocks for each of `sequential.scores(players)`. `waiting` counts complete blocks behind a gap,
    `void` games without a result, `games` those of the complete blocks. `hosts` has, by host, how many games it played and by how
    much their mean score differs from that of all.
    """

    players: int
    counts: tuple[int, ...]
    complete: int
    waiting: int
    void: int
    games: int
    score: float
    newest: float | None
    hosts: Mapping[str, tuple[int, float]] = field(default_factory=dict)


def score(result: Result, players: int) -> int:
    """The score of a game in units of 1/players: all for a win, one where nobody won, none for a defeat."""
    if result == "void":
        raise ValueError("a void game has no score")
    return {"won": players, "drawn": 1, "lost": 0}[result]


def blocks_of(games: Iterable[EvaluationGame], config: Config) -> Blocks:
    """Blocks by index, not by arrival: a block counts once it and all before it are complete.

    A block is one attempt with a result in every seat; of several the first. Games of other attempts count for nothing.
    """
    attempts: dict[int, dict[int, dict[int, EvaluationGame]]] = defaultdict(lambda: defaultdict(dict))
    void = 0
    for game in games:
        void += game.result == "void"
        attempts[game.block][game.attempt][game.seat] = game
    whole = {number: block for number in attempts if (block := _whole(attempts[number], config.players))}
    complete = next((number for number in range(len(whole) + 1) if number not in whole), 0)
    players = config.players
    counts = [0] * (players**2 + 1)
    played: list[EvaluationGame] = []
    for number in range(complete):
        counts[sum(score(game.result, players) for game in whole[number])] += 1
        played.extend(whole[number])
    total = sum(score(game.result, players) for game in played)
    return Blocks(
        players=players,
        counts=tuple(counts),
        complete=complete,
        waiting=len(whole) - complete,
        void=void,
        games=len(played),
        score=total / (players * len(played)) if played else 0.0,
        newest=max((game.finished for game in played), default=None),
        hosts=_hosts(played, total / len(played) if played else 0.0, players),
    )


def _whole(attempts: Mapping[int, Mapping[int, EvaluationGame]], players: int) -> list[EvaluationGame] | None:
    """The games of the first attempt that has a result in every seat."""
    for number in sorted(attempts):
        games = [attempts[number].get(seat) for seat in range(1, players + 1)]
        results = [game for game in games if game is not None and game.result != "void"]
        if len(results) == players:
            return results
    return None


def _hosts(games: Iterable[EvaluationGame], mean: float, players: int) -> dict[str, tuple[int, float]]:
    """By host: its games, and by how much their mean score differs from that of all, in shares of a game."""
    number: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for game in games:
        number[game.host] += 1
        total[game.host] += score(game.result, players)
    return {host: (number[host], (total[host] / number[host] - mean) / players) for host in sorted(number)}


def next_blocks(games: Iterable[EvaluationGame], config: Config, most: int) -> list[tuple[int, int]]:
    """Which blocks are to be played to have `most` of them, as (block, attempt); those that were tried too often are left out."""
    attempts: dict[int, dict[int, dict[int, EvaluationGame]]] = defaultdict(lambda: defaultdict(dict))
    for game in games:
        attempts[game.block][game.attempt][game.seat] = game
    missing = []
    for number in range(most):
        if _whole(attempts[number], config.players) is None:
            attempt = max(attempts[number], default=-1) + 1
            if attempt < MAX_ATTEMPTS:
                missing.append((number, attempt))
    return missing
