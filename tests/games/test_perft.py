"""Perft: our counts of positions by depth are those of RingRift's TypeScript engine."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest

from ringrift_dagster.games.config import CONFIGS, Config, parse_config
from ringrift_dagster.games.geometry import topology
from ringrift_dagster.games.moves import Phase
from ringrift_dagster.games.perft import MAX_DEPTH, divide, perft
from ringrift_dagster.games.position import Position, empty_position
from ringrift_dagster.games.rules.listing import buffers, list_moves
from ringrift_dagster.games.rules.turns import play
from tests.games.rules_corpus import FOLDER, CorpusGame, read_corpus

COUNTS = json.loads((FOLDER / "perft.json").read_text())


@cache
def _games(config: Config) -> dict[str, CorpusGame]:
    return {game.game_id: game for game in read_corpus(FOLDER / f"{config.key}.jsonl.xz")}


def _position(config: Config, entry: dict[str, object]) -> Position:
    if entry["game"] is None:
        return empty_position(config)
    game = _games(config)[str(entry["game"])]
    position, packed = empty_position(config, swap_rule=game.swap_rule), game.packed()
    for row in packed.rows[: entry["after"]]:
        play(topology(config.board), position, row, packed.cells)
    return position


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.key)
def test_counts_are_as_recorded(config: Config) -> None:
    """RingRift's engine confirmed the first `confirmed` of each; the rest is what the rules gave when they agreed."""
    entries = COUNTS[config.key]
    assert len(entries) >= 13
    assert entries[0]["game"] is None
    for entry in entries:
        counts = entry["counts"]
        assert 1 <= entry["confirmed"] <= len(counts)
        assert list(perft(config, _position(config, entry), len(counts))) == counts, entry


def _slowly(config: Config, position: Position, depth: int) -> int:
    """Perft as it is defined."""
    if depth == 0:
        return 1
    rows, cells = buffers(config.board)
    total = 0
    for row in rows[: list_moves(topology(config.board), position, rows, cells)]:
        after = position.copy()
        play(topology(config.board), after, row.copy(), cells)
        total += _slowly(config, after, depth - 1)
    return total


def test_perft_counts_what_is_defined_and_leaves_the_position_alone() -> None:
    config = parse_config("square8_2p")
    entry = max(COUNTS[config.key][1:], key=lambda entry: len(entry["counts"]))
    position = _position(config, entry)
    before = position.copy()
    depth = next(depth for depth, count in enumerate(entry["counts"], start=1) if count > 100)
    assert perft(config, position, depth)[-1] == _slowly(config, position, depth)
    for name in position.dtype.names:
        if name not in ("out", "seen"):
            assert np.array_equal(position[name], before[name]), name


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_divide_adds_up_to_perft(depth: int) -> None:
    config = parse_config("hex8_3p")
    position = empty_position(config)
    counts = [leaves for _, _, leaves in divide(config, position, depth)]
    assert len(counts) == perft(config, position, 1)[0]
    assert sum(counts) == perft(config, position, depth)[-1]


def test_nothing_follows_the_end_of_a_game() -> None:
    config = parse_config("square8_2p")
    position = empty_position(config)
    position.status, position.phase = 1, Phase.GAME_OVER
    assert perft(config, position, 3) == (0, 0, 0)
    assert list(divide(config, position, 3)) == []


@pytest.mark.parametrize("depth", [0, -1, MAX_DEPTH + 1])
def test_depths_that_make_no_sense_are_refused(depth: int) -> None:
    with pytest.raises(ValueError, match="the depth must be 1 to 12"):
        perft(parse_config("square8_2p"), empty_position(parse_config("square8_2p")), depth)
    with pytest.raises(ValueError, match="the depth must be 1 to 12"):
        next(divide(parse_config("square8_2p"), empty_position(parse_config("square8_2p")), depth))
