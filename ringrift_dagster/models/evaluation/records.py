"""Records of evaluation games, and the blocks that they form.

One record a game, bound to the hashes of the models that played it and to the config. A *series* is everything that a candidate
plays against one opponent: its openings follow from the two participants alone, so that there is nothing to choose by result.
Playing the games is for `matches`, storing the records for `store`, judging them for `sequential` and `models.promotion`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import takewhile
from statistics import fmean
from typing import Any, Final, Literal

from ringrift_dagster.games.config import CONFIG_KEYS, Config, UnknownConfig

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
        return f"{self.name}@{self.version}" + (f":{self.sha256}" if self.sha256 else "")


@dataclass(frozen=True, order=True)
class Series:
    """All games of a candidate against one opponent on a config. Raises UnknownConfig for what is none of the twelve."""

    config: str
    candidate: Participant
    opponent: Participant

    def __post_init__(self) -> None:
        if self.config not in CONFIG_KEYS:
            raise UnknownConfig(f"{self.config!r} is no config; expected one of {', '.join(CONFIG_KEYS)}")

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

    `scores` has each block's score in units of 1/players, 0 to players**2. `waiting` counts complete blocks behind a gap, `void`
    games without a result. `newest` is when the last of the counted games ended, `ended` when the last game of each block did, in
    seconds since 1970. `hosts` has, by host, how many games it played and by how much their mean score differs from that of all.
    """

    players: int
    scores: tuple[int, ...]
    waiting: int
    void: int
    newest: float | None
    hosts: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    ended: tuple[float, ...] = ()

    @property
    def complete(self) -> int:
        """How many blocks count."""
        return len(self.scores)

    def counts(self, most: int | None = None) -> tuple[int, ...]:
        """How many of the first `most` blocks (all by default) have each score, as `sequential` takes them."""
        counted = Counter(self.scores[:most])
        return tuple(counted[value] for value in range(self.players**2 + 1))

    def mean(self, most: int | None = None) -> float:
        """The mean score of a game in the first `most` blocks (all by default), 0 to 1; 0 without blocks."""
        first = self.scores[:most]
        return sum(first) / (self.players**2 * len(first)) if first else 0.0


def score(result: Result, players: int) -> int:
    """The score of a game in units of 1/players: all for a win, one where nobody won, none for a defeat."""
    if result == "void":
        raise ValueError("a void game has no score")
    return {"won": players, "drawn": 1, "lost": 0}[result]


def blocks_of(games: Iterable[EvaluationGame], config: Config) -> Blocks:
    """Blocks by index, not by arrival: a block counts once it and all before it are complete.

    A block is one attempt with a result in every seat; of several the first. Games of other attempts count for nothing.
    """
    games = list(games)
    attempts = _by_attempt(games)
    whole = {number: block for number in attempts if (block := _whole(attempts[number], config.players))}
    complete = next(number for number in range(len(whole) + 1) if number not in whole)
    counted = [game for number in range(complete) for game in whole[number]]
    return Blocks(
        players=config.players,
        scores=tuple(sum(score(game.result, config.players) for game in whole[number]) for number in range(complete)),
        waiting=len(whole) - complete,
        void=sum(game.result == "void" for game in games),
        newest=max((game.finished for game in counted), default=None),
        hosts=_hosts(counted, config.players),
        ended=tuple(max(game.finished for game in whole[number]) for number in range(complete)),
    )


def _whole(attempts: Mapping[int, Mapping[int, EvaluationGame]], players: int) -> list[EvaluationGame] | None:
    """The games of the first attempt that has a result in every seat."""
    for number in sorted(attempts):
        games = [attempts[number].get(seat) for seat in range(1, players + 1)]
        results = [game for game in games if game is not None and game.result != "void"]
        if len(results) == players:
            return results
    return None


def _hosts(games: Sequence[EvaluationGame], players: int) -> dict[str, tuple[int, float]]:
    by_host: dict[str, list[float]] = defaultdict(list)
    for game in games:
        by_host[game.host].append(score(game.result, players) / players)
    mean = fmean(value for values in by_host.values() for value in values) if games else 0.0
    return {host: (len(values), fmean(values) - mean) for host, values in sorted(by_host.items())}


def next_blocks(games: Iterable[EvaluationGame], used: Mapping[int, int], config: Config, most: int) -> list[tuple[int, int]]:
    """Which blocks are to be played to have `most` of them, as (block, attempt).

    `used` is the highest attempt of every block that was ever played. Behind a block that can no longer be completed no other
    would count, so that the list ends there.
    """
    attempts = _by_attempt(games)
    missing = (number for number in range(most) if _whole(attempts.get(number, {}), config.players) is None)
    following = ((number, used.get(number, -1) + 1) for number in missing)
    return list(takewhile(lambda task: task[1] < MAX_ATTEMPTS, following))


def exhausted_block(games: Iterable[EvaluationGame], used: Mapping[int, int], config: Config) -> int | None:
    """The first block that was tried MAX_ATTEMPTS times and is not complete, or None; `used` is as in `next_blocks`."""
    attempts = _by_attempt(games)
    spent = (number for number in sorted(used) if used[number] + 1 >= MAX_ATTEMPTS)
    return next((number for number in spent if _whole(attempts.get(number, {}), config.players) is None), None)


def _by_attempt(games: Iterable[EvaluationGame]) -> dict[int, dict[int, dict[int, EvaluationGame]]]:
    """Games by block, attempt and seat."""
    attempts: dict[int, dict[int, dict[int, EvaluationGame]]] = defaultdict(lambda: defaultdict(dict))
    for game in games:
        attempts[game.block][game.attempt][game.seat] = game
    return attempts
