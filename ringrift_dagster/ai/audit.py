"""What a database of our self-play holds: the gate's verdict on each of its games, and whether they come out of their seeds again.

Playing and writing games is `selfplay`'s; why a game is canonical is the gate's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ringrift_dagster.ai.selfplay import Player, SelfPlay, Written
from ringrift_dagster.canonical.gate import Gate, judged_games
from ringrift_dagster.canonical.verdicts import VerdictStore
from ringrift_dagster.games.database import GameDatabase
from ringrift_dagster.games.recording import game_rows

NOBODY = 0
"""The seat of a game that nobody won."""


@dataclass
class Audit:
    """The games of a database as the gate judged them.

    `digests` are those of the canonical games by id, `rejected` the gate's entries of the others (unfinished ones included), and
    `results` counts canonical games by (how they ended, seat of the winner or NOBODY).
    """

    digests: dict[str, str] = field(default_factory=dict)
    rejected: list[dict[str, Any]] = field(default_factory=list)
    results: Counter[tuple[str, int]] = field(default_factory=Counter)
    moves: int = 0

    def missing(self, run: SelfPlay, games: int) -> list[int]:
        """Which of the games 0 to `games` - 1 of a run are not there, or not canonical."""
        return [index for index in range(games) if run.game_id(index) not in self.digests]


def audit(path: Path, store: VerdictStore | None = None) -> Audit:
    """Judge every game of a database; with a `store`, only those that it has no verdict on. Raises DatabaseUnreadable."""
    found = Audit()
    with GameDatabase(path) as database:
        for judged in judged_games(database, Gate(store)):
            record, verdict = judged.record, judged.verdict
            if verdict.digest is None or verdict.reason not in (None, "duplicate_game"):
                found.rejected.append(verdict.rejection())
                continue
            found.digests[record.game_id] = verdict.digest
            ending = str(record.row.get("termination_reason") or "").rpartition(":")[2]
            found.results[ending, record.row.get("winner") or NOBODY] += 1
            found.moves += len(record.moves)
    return found


@dataclass(frozen=True)
class PlayedAgain:
    """A game that was played a second time: the digest that is recorded, and the one it has now."""

    index: int
    recorded: str
    digest: str

    @property
    def same(self) -> bool:
        return self.digest == self.recorded


def play_again(run: SelfPlay, written: Written, indices: Iterable[int]) -> Iterator[PlayedAgain]:
    """Play some games of a run again, in this process; nothing is written."""
    player = Player(run)
    for index in indices:
        yield PlayedAgain(index, written.digests[index], game_rows(player.game(index)).digest)
