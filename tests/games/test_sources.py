"""The register of a config's snapshots: what becomes of them when their sources, or they themselves, are damaged or go."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from ringrift_dagster.games.sources import Registration, damaged_snapshots, register, registration, retire_superseded
from ringrift_dagster.home import Home

CONFIG = "square8_4p"


@pytest.fixture
def source(give: Callable[..., Path]) -> Path:
    return give(f"db/canonical_{CONFIG}", "games.db")


def change(source: Path, statement: str = "UPDATE games SET quality_score = 0.5") -> None:
    with closing(sqlite3.connect(source)) as connection, connection:
        connection.execute(statement)


def rot(path: Path) -> None:
    """One byte of the last page is not what it was."""
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 255]))


def entries(registered: Registration) -> list[tuple[str, bool]]:
    return [(entry.source, entry.current) for entry in registered.databases]


def retire_all(home: Home) -> int:
    return retire_superseded(CONFIG, home, {entry.sha256 for entry in registration(CONFIG, home).databases})


@pytest.mark.parametrize("what", ["damaged", "empty", "gone"])
def test_the_last_snapshot_of_a_source_that_fails_stays_current(source: Path, home: Home, what: str) -> None:
    first = register(CONFIG, home)
    if what == "gone":
        source.unlink()
    else:
        source.write_bytes(os.urandom(1 << 16) if what == "damaged" else b"")
    for _ in range(2):
        again = register(CONFIG, home)
        assert again.databases == first.databases
        assert again.digest == first.digest
        assert [problem.source for problem in again.problems] == ([] if what == "gone" else ["games.db"])
        assert retire_all(home) == 0
    assert first.databases[0].path(CONFIG, home).exists()


def test_a_source_that_comes_back_supersedes_its_last_snapshot(source: Path, home: Home) -> None:
    register(CONFIG, home)
    aside = source.rename(source.with_suffix(".away"))
    register(CONFIG, home)
    change(aside)
    aside.rename(source)
    assert entries(register(CONFIG, home)) == [("games.db", True), ("games.db", False)]
    assert retire_all(home) == 1
    assert entries(registration(CONFIG, home)) == [("games.db", True)]


def test_a_source_that_was_renamed_is_counted_once(source: Path, home: Home) -> None:
    register(CONFIG, home)
    source.rename(source.with_name("other.db"))
    assert entries(register(CONFIG, home)) == [("other.db", True)]


def test_a_snapshot_that_another_source_still_needs_is_not_deleted(source: Path, home: Home) -> None:
    other = Path(shutil.copy(source, source.with_name("other.db")))
    (entry, _) = register(CONFIG, home).databases
    other.unlink()
    change(source)
    assert entries(register(CONFIG, home)) == [("games.db", True), ("games.db", False), ("other.db", True)]
    assert retire_all(home) == 1
    assert entry.path(CONFIG, home).exists()
    assert damaged_snapshots(registration(CONFIG, home), home) == []


def test_only_what_was_judged_is_retired(source: Path, home: Home) -> None:
    (old,) = register(CONFIG, home).databases
    change(source)
    register(CONFIG, home)
    assert retire_superseded(CONFIG, home, judged=()) == 0
    assert old.path(CONFIG, home).exists()


def test_a_rotten_snapshot_is_taken_again(source: Path, home: Home) -> None:
    first = register(CONFIG, home)
    rot(first.databases[0].path(CONFIG, home))
    assert len(damaged_snapshots(first, home)) == 1
    again = register(CONFIG, home)
    assert (again, damaged_snapshots(again, home)) == (first, [])


def test_a_rotten_superseded_snapshot_goes_if_the_newer_has_all_its_games(source: Path, home: Home) -> None:
    (old,) = register(CONFIG, home).databases
    rot(old.path(CONFIG, home))
    change(source)
    registered = register(CONFIG, home)
    assert (entries(registered), registered.damaged, registered.problems) == ([("games.db", True)], (), ())
    assert not old.path(CONFIG, home).exists()


@pytest.mark.parametrize("how", ["a game is in no other", "not all can be read", "the source is gone"])
def test_a_rotten_snapshot_that_nothing_replaces_is_told_of_and_blocks_nothing(source: Path, home: Home, how: str) -> None:
    (old,) = register(CONFIG, home).databases
    path = old.path(CONFIG, home)
    good = path.read_bytes()
    if how == "the source is gone":
        source.unlink()
    elif how == "not all can be read":
        change(source)
    else:
        change(source, "DELETE FROM games WHERE game_id = (SELECT MIN(game_id) FROM games)")
    if how == "not all can be read":
        change(path, "DELETE FROM games WHERE game_id = (SELECT MIN(game_id) FROM games)")
    else:
        rot(path)
    for _ in range(2):
        registered = register(CONFIG, home)
        assert [entry.sha256 for entry in registered.damaged] == [old.sha256]
        assert [problem.source for problem in registered.problems] == ["games.db"]
        assert path.name in registered.problems[0].detail
        assert damaged_snapshots(registered, home) == []
        assert registered == registration(CONFIG, home)
        assert retire_all(home) == 0
        assert path.exists()

    path.write_bytes(good)
    restored = register(CONFIG, home)
    assert (restored.damaged, restored.problems) == ((), ())
    assert (old.sha256, how == "the source is gone") in [(entry.sha256, entry.current) for entry in restored.databases]


def test_a_rotten_snapshot_that_somebody_deletes_is_given_up(source: Path, home: Home) -> None:
    (old,) = register(CONFIG, home).databases
    source.unlink()
    rot(old.path(CONFIG, home))
    register(CONFIG, home)
    old.path(CONFIG, home).unlink()
    assert register(CONFIG, home) == Registration(CONFIG)


def test_a_snapshot_that_is_gone_with_its_source_is_told_of_once(source: Path, home: Home) -> None:
    (old,) = register(CONFIG, home).databases
    source.unlink()
    old.path(CONFIG, home).unlink()
    first, second = register(CONFIG, home), register(CONFIG, home)
    assert [problem.source for problem in first.problems] == ["games.db"]
    assert (first.databases, second) == ((), Registration(CONFIG))
