"""The file of evidence: only added to, by several processes, and never at odds with itself."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from ringrift_dagster.models.evaluation.records import Participant, Series
from ringrift_dagster.models.evaluation.store import ConflictingEvidence, EvidenceStore
from tests.models.evaluation.making import CANDIDATE, SERIES, block, game

OTHER = Series("hex8_2p", CANDIDATE, Participant("net", "1", "0" * 64))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EvidenceStore]:
    with EvidenceStore(tmp_path / "deep" / "evidence.db") as opened:
        yield opened


def test_what_was_added_is_read_back(store: EvidenceStore) -> None:
    games = [*block(0, ("won", "drawn")), *block(1, ("void", "lost"))]
    assert store.add(games) == 4
    assert store.games(SERIES) == games
    assert store.games(OTHER) == []


def test_the_same_again_changes_nothing(store: EvidenceStore) -> None:
    store.add(block(0, ("won", "lost")))
    assert store.add([*block(0, ("won", "lost")), *block(1, ("won", "lost"))]) == 2
    assert len(store.games(SERIES)) == 4


def test_another_outcome_of_the_same_game_is_refused_with_all_that_came_with_it(store: EvidenceStore) -> None:
    store.add(block(0, ("won", "lost")))
    with pytest.raises(ConflictingEvidence, match="block 0, seat 1"):
        store.add([*block(1, ("won", "won")), game(0, 1, "lost")])
    assert len(store.games(SERIES)) == 2


def test_series_are_told_apart_by_hash_and_config(store: EvidenceStore) -> None:
    store.add([*block(0, ("won", "lost")), replace(game(0, 1), series=OTHER, game_id="other")])
    assert store.series() == [SERIES, OTHER]
    assert store.series(config="hex8_2p") == [OTHER]
    assert store.series(candidate="d" * 64) == []
    assert store.digests("hex8_2p") == {game(0, 1).digest}


def test_a_tombstone_removes_a_game_from_what_counts_and_from_nothing_else(store: EvidenceStore) -> None:
    store.add(block(0, ("won", "lost")))
    wrong = game(0, 1).game_id
    assert store.retract(wrong, "anna", "host with a broken GPU", 5.0)
    assert not store.retract(wrong, "anna", "again", 6.0)
    assert not store.retract("nothing", "anna", "no such game", 6.0)
    assert [entry.seat for entry in store.games(SERIES)] == [2]
    assert store.attempts(SERIES) == {0: 0}
    assert game(0, 1).digest in store.digests("square8_2p")


@pytest.mark.parametrize("table", ["evaluation_games", "tombstones"])
@pytest.mark.parametrize("statement", ["UPDATE {} SET id = id + 1", "DELETE FROM {}"])
def test_nothing_is_changed_or_deleted(table: str, statement: str, store: EvidenceStore, tmp_path: Path) -> None:
    store.add(block(0, ("won", "lost")))
    store.retract(game(0, 1).game_id, "anna", "why", 5.0)
    with (
        closing(sqlite3.connect(tmp_path / "deep" / "evidence.db")) as connection,
        pytest.raises(sqlite3.IntegrityError, match="only added to"),
    ):
        connection.execute(statement.format(table))
