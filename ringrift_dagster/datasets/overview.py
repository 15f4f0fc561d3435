"""What a home holds for each config, from its files alone: sources, canonical games, rejected games, training set.

Reads; judges, exports and repairs nothing.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ringrift_dagster.datasets.canonical_games import quarantined, summarise
from ringrift_dagster.datasets.npz_export import manifest_path_of
from ringrift_dagster.games.config import CONFIG_KEYS
from ringrift_dagster.games.sources import registration
from ringrift_dagster.home import Home


@dataclass(frozen=True)
class TrainingSet:
    """A published NPZ as its manifest describes it."""

    path: Path
    samples: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class ConfigState:
    """One config of a home.

    `rejected` counts games in quarantine by reason; `newest_game` is of the canonical ones.
    """

    config: str
    databases: int
    canonical: int
    rejected: dict[str, int]
    newest_game: str | None
    training_set: TrainingSet | None

    @property
    def judged(self) -> int:
        return self.canonical + sum(self.rejected.values())


def overview(home: Home) -> Iterator[ConfigState]:
    """The state of each of the twelve configs."""
    for config in CONFIG_KEYS:
        store = summarise(config, home)
        yield ConfigState(
            config,
            databases=len(registration(config, home).current),
            canonical=store.games,
            rejected=_rejected(config, home),
            newest_game=store.newest_game,
            training_set=_training_set(home.datasets / f"{config}.npz"),
        )


def _rejected(config: str, home: Home) -> dict[str, int]:
    """Rejected games by reason; a game that several snapshots of a database show counts once."""
    games = {(entry["game_id"], entry["reason"]) for entry in quarantined(config, home)}
    return dict(sorted(Counter(reason for _, reason in games if reason != "unfinished").items()))


def _training_set(path: Path) -> TrainingSet | None:
    manifest = manifest_path_of(path)
    if not (path.exists() and manifest.exists()):
        return None
    said = json.loads(manifest.read_bytes())
    return TrainingSet(path, said["samples"], path.stat().st_size, said["sha256"])
