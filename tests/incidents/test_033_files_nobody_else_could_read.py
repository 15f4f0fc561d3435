"""Files were written as temporary ones with mode 0600 and renamed: other users could not read them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ringrift_dagster.manifest.sources.layouts import NODE
from ringrift_dagster.manifest.sources.tree import TreeInventory, mark_location


@contextmanager
def umask(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o027])
def test_whoever_the_umask_lets_read_can_read_what_is_published(mask: int, tmp_path: Path, recorded: Callable[[str], Path]) -> None:
    live = tmp_path / "data/games/selfplay_square8_2p.db"
    live.parent.mkdir(parents=True)
    shutil.copy(recorded("square8_2p_full"), live)
    live.chmod(0o600)
    with umask(mask):
        tree = TreeInventory("gpu-1", tmp_path, NODE)
        tree.scan()
        sentinel = mark_location(tmp_path, "gpu-1")
    (item,) = tree.inventory(None).found
    for published in (tmp_path / item.path, sentinel):
        assert published.stat().st_mode & 0o444 == 0o444 & ~mask
    assert (tmp_path / item.path).parent.stat().st_mode & 0o777 == 0o777 & ~mask
