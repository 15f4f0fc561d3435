"""A corrupt selfplay.db silently stopped all training triggers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ringrift_dagster.datasets.canonical_games import append_canonical
from ringrift_dagster.home import Home


def test_the_good_databases_go_through_and_the_bad_ones_are_named(
    home: Home, recorded: Callable[[str], Path], damaged: Callable[[str], Path]
) -> None:
    bad = ["truncated_midfile", "corrupt_page", "not_a_db", "zero_bytes"]
    databases = [*(damaged(name) for name in bad), recorded("canonical_square8_2p_mixed22")]
    result = append_canonical("square8_2p", databases, home)
    assert (result.accepted, result.games_total) == (8, 8)
    assert [entry["database"] for entry in result.unreadable] == [f"{name}.db" for name in bad]
    assert all(entry["detail"] for entry in result.unreadable)
