"""Elo results that had been deleted came back: hosts sent whole databases, and the rows of an older one were taken for new ones.

Here evidence is never deleted. What is no longer to count has a tombstone, which no older row can remove.
"""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from ringrift_dagster.games.config import parse_config
from ringrift_dagster.models.evaluation.records import blocks_of, next_blocks
from ringrift_dagster.models.evaluation.store import ConflictingEvidence, EvidenceStore
from tests.models.evaluation.making import SERIES, block, game

CONFIG = parse_config(SERIES.config)
WRONG = game(1, 2).game_id


def test_tombstones_outlive_the_rows_of_an_older_store(tmp_path: Path) -> None:
    with EvidenceStore(tmp_path / "evidence.db") as store:
        store.add([entry for number in range(3) for entry in block(number, ("won", "won"))])
    shutil.copy(tmp_path / "evidence.db", tmp_path / "older.db")
    with EvidenceStore(tmp_path / "evidence.db") as store, EvidenceStore(tmp_path / "older.db") as older:
        store.retract(WRONG, "anna", "played on a host with a broken GPU", 5.0)
        counted = blocks_of(store.games(SERIES), CONFIG)
        assert (counted.complete, counted.waiting) == (1, 1)
        for _ in range(3):
            assert store.add(older.games(SERIES)) == 0
            assert blocks_of(store.games(SERIES), CONFIG) == counted
            assert WRONG not in {entry.game_id for entry in store.games(SERIES)}
        assert next_blocks(store.games(SERIES), store.attempts(SERIES), CONFIG, 3) == [(1, 1)]
        store.add(block(1, ("won", "lost"), attempt=1))
        store.add(older.games(SERIES))
        assert blocks_of(store.games(SERIES), CONFIG).scores == (4, 2, 4)


def test_an_older_outcome_does_not_replace_the_recorded_one(tmp_path: Path) -> None:
    with EvidenceStore(tmp_path / "evidence.db") as store:
        store.add(block(0, ("lost", "lost")))
        store.retract(game(0, 1).game_id, "anna", "why", 5.0)
        with pytest.raises(ConflictingEvidence):
            store.add(block(0, ("won", "lost")))
        assert [entry.seat for entry in store.games(SERIES)] == [2]


@pytest.mark.parametrize("statement", ["DELETE FROM tombstones", "UPDATE tombstones SET game_id = 'another'"])
def test_a_tombstone_stays(statement: str, tmp_path: Path) -> None:
    with EvidenceStore(tmp_path / "evidence.db") as store:
        store.add(block(0, ("lost", "lost")))
        store.retract(game(0, 1).game_id, "anna", "why", 5.0)
        with (
            closing(sqlite3.connect(tmp_path / "evidence.db")) as connection,
            pytest.raises(sqlite3.IntegrityError, match="only added to"),
        ):
            connection.execute(statement)
        assert len(store.games(SERIES)) == 1
