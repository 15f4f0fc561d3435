"""Audit of a self-play database: the gate's verdict on every game, and whether games are reproduced from their seeds.

Games are played and written in `selfplay`; what makes a game canonical is defined in `canonical.gate`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ringrift_dagster.ai.selfplay import Player, SelfPlay, Written
from ringrift_dagster.canonical.gate import Gate, judged_games
from ringrift_dagster.canonical.verdicts import VerdictStore
from ringrift_dagster.games.database import GameDatabase
from ringrift_dagster.games.recording import game_rows

NOBODY = 0
"""The winner's seat in `Audit.results` where a game has no winner."""


@dataclass
class Audit:
    """The games of one database as the gate judged them.

    `digests` maps the ids of canonical games to their digests, `rejected` lists the gate's entries for all other games (unfinished
    ones included), and `results` counts canonical games by (ending, seat of the winner or NOBODY).
    """

    digests: dict[str, str] = field(default_factory=dict)
    rejected: list[dict[str, Any]] = field(default_factory=list)
    results: Counter[tuple[str, int]] = field(default_factory=Counter)
    moves: int = 0

    def missing(self, run: SelfPlay, recorded: Sequence[str]) -> list[int]:
        """Indices of the games of a run that are absent, not canonical, or not those of the `recorded` digests, one a game."""
        return [index for index, digest in enumerate(recorded) if self.digests.get(run.game_id(index)) != digest]


def audit(path: Path, store: VerdictStore | None = None) -> Audit:
    """Judge every game of a database, reusing the verdicts of `store` if one is given. Raises DatabaseUnreadable."""
    audited = Audit()
    with GameDatabase(path) as database:
        for judged in judged_games(database, Gate(store)):
            record, verdict = judged.record, judged.verdict
            # AIs without chance may play one game twice; whether it is the game that was recorded is asked by `missing`.
            if verdict.digest is None or verdict.reason not in (None, "duplicate_game"):
                audited.rejected.append(verdict.rejection())
                continue
            audited.digests[record.game_id] = verdict.digest
            ending = str(record.row.get("termination_reason") or "").rpartition(":")[2]
            audited.results[ending, record.row.get("winner") or NOBODY] += 1
            audited.moves += len(record.moves)
    return audited


@dataclass(frozen=True)
class Reproduction:
    """A game that was played a second time from its seed: the recorded digest, and the digest of the second playing."""

    index: int
    recorded: str
    digest: str

    @property
    def same(self) -> bool:
        return self.digest == self.recorded


def reproduce(run: SelfPlay, written: Written, indices: Iterable[int]) -> Iterator[Reproduction]:
    """Play the games `indices` of a run from their seeds a second time, in this process; nothing is written."""
    player = Player(run)
    for index in indices:
        yield Reproduction(index, written.digests[index], game_rows(player.game(index)).digest)
