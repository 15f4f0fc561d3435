"""Discovery hung on 942 NPZ files, and an empty one ended it with EOFError."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ringrift_dagster.datasets.npz_validator import inspect_npz
from ringrift_dagster.games.database import DatabaseUnreadable, describe
from ringrift_dagster.games.snapshots import discover

SOUND = Path(__file__).parents[1] / "data" / "damaged" / "base_ok.npz"


def test_a_thousand_npz_files_of_which_most_are_cut_short(tmp_path: Path) -> None:
    sound = SOUND.read_bytes()
    answers: list[bool] = []
    for index in range(1000):
        path = tmp_path / f"{index}.npz"
        path.write_bytes(sound if index % 100 == 0 else sound[: (index * 37) % len(sound)] if index % 2 else b"")
        answers.append(inspect_npz(path).to_dict()["valid"])
    assert [index for index, valid in enumerate(answers) if valid] == list(range(0, 1000, 100))


def test_ten_thousand_databases_in_one_directory_half_of_them_empty(tmp_path: Path) -> None:
    for index in range(10_000):
        (tmp_path / f"{index:05d}.db").write_bytes(b"" if index % 2 else b"SQLite format 3\0")
    found = discover(tmp_path)
    assert len(found) == 10_000
    for path in found[:50]:
        with pytest.raises(DatabaseUnreadable):
            describe(path)
    shutil.rmtree(tmp_path)
