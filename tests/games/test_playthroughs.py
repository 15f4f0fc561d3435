"""The playthroughs in `tests/data/playthroughs` are what the rules make of their games today."""

from __future__ import annotations

import os
from functools import cache

import pytest

from ringrift_dagster.games.config import CONFIG_KEYS
from tests.games.playthroughs import FOLDER, again, shows
from tests.games.rules_corpus import FOLDER as CORPUS
from tests.games.rules_corpus import CorpusGame, read_corpus

FILES = sorted(FOLDER.glob("*.txt"))
REWRITE = os.environ.get("RINGRIFT_WRITE_PLAYTHROUGHS") == "1"


@cache
def _games(key: str) -> dict[str, CorpusGame]:
    return {game.game_id: game for game in read_corpus(CORPUS / f"{key}.jsonl.xz")}


@pytest.mark.parametrize("key", CONFIG_KEYS)
def test_positions_legal_moves_and_results_are_as_written(key: str) -> None:
    for path in FILES:
        if path.name.startswith(f"{key}."):
            text = path.read_text()
            now = again(text, _games(key))
            if REWRITE:
                path.write_text(now)
            else:
                assert now == text, path.name


def test_every_config_and_every_ending_has_one() -> None:
    assert len(FILES) >= 60
    assert {path.name.split(".")[0] for path in FILES} == set(CONFIG_KEYS)
    assert {name for path in FILES if (name := shows(path.read_text())).startswith("ending")} == {
        "ending elimination",
        "ending territory",
        "ending last_player_standing by rings",
        "ending last_player_standing by rounds",
        "ending stalemate with rings in hand",
    }
