"""What a home says of itself, from its files as they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ringrift_dagster.datasets.canonical_games import append_canonical
from ringrift_dagster.datasets.overview import overview
from ringrift_dagster.home import Home


def test_a_torn_line_in_quarantine_hides_no_other(home: Home, damaged: Callable[[str], Path]) -> None:
    append_canonical("square8_2p", [damaged("winner_flipped")], home)
    with (home.quarantine / "square8_2p.jsonl").open("ab") as file:
        file.write(b'{"database": "x", "game_')
    states = {state.config: state for state in overview(home)}
    assert len(states) == 12
    state = states["square8_2p"]
    assert (state.canonical, state.rejected, state.judged) == (5, {"result_mismatch": 1}, 6)
