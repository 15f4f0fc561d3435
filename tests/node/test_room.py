"""Room on a disk: what is promised counts, and what has come does no longer."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ringrift_dagster.node.room import NoRoom, Room


def free_bytes(folder: Path) -> int:
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def test_what_is_promised_to_others_is_not_free(tmp_path: Path) -> None:
    room, free = Room(), free_bytes(tmp_path)
    share = free // 10 * 4
    with room.taken(tmp_path, tmp_path / "a", share, 0), room.taken(tmp_path, tmp_path / "b", share, 0):
        with pytest.raises(NoRoom), room.taken(tmp_path, tmp_path / "c", share, 0):
            pass
        with room.taken(tmp_path, tmp_path / "d", share // 10, 0):
            pass
    with room.taken(tmp_path, tmp_path / "c", share, 0):
        pass


def test_a_floor_stays_free(tmp_path: Path) -> None:
    room, free = Room(), free_bytes(tmp_path)
    with pytest.raises(NoRoom) as refused, room.taken(tmp_path, tmp_path / "a", 1, 2 * free):
        pass
    assert "have to stay" in str(refused.value)
    with room.taken(tmp_path, tmp_path / "a", 1, free // 2):
        pass


def test_what_has_come_already_needs_no_room(tmp_path: Path) -> None:
    room, part = Room(), tmp_path / "part"
    with room.taken(tmp_path, part, 1 << 20, 0):
        part.write_bytes(b"x" * (1 << 20))
        os.sync()
        floor = free_bytes(tmp_path) - (1 << 19)
        with room.taken(tmp_path, tmp_path / "small", 0, floor):
            assert part.stat().st_blocks * 512 >= 1 << 20


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), Room().taken(tmp_path / "gone", tmp_path / "gone/a", 1, 0):
        pass
