"""Blocks count by index; a game without a result is never a defeat."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringrift_dagster.games.config import UnknownConfig, parse_config
from ringrift_dagster.models.evaluation.records import (
    MAX_ATTEMPTS,
    EvaluationGame,
    Series,
    blocks_of,
    exhausted_block,
    next_blocks,
    score,
)
from tests.models.evaluation.making import CANDIDATE, HEURISTIC, block, game

CONFIG = parse_config("square8_2p")


def test_scores_of_blocks_are_sums() -> None:
    results = list(product(("won", "drawn", "lost"), repeat=2))
    blocks = blocks_of([entry for number, pair in enumerate(results) for entry in block(number, pair)], CONFIG)
    assert blocks.scores == (4, 3, 2, 3, 2, 1, 2, 1, 0)
    assert blocks.counts() == (1, 2, 3, 2, 1)
    assert blocks.counts(3) == (0, 0, 1, 1, 1)
    assert (blocks.mean(), blocks.mean(1)) == (0.5, 1.0)


def test_a_game_that_nobody_wins_is_an_equal_share() -> None:
    assert [score("drawn", players) / players for players in (2, 3, 4)] == [1 / 2, 1 / 3, 1 / 4]
    with pytest.raises(ValueError, match="void"):
        score("void", 2)


def test_a_block_counts_once_all_before_it_do() -> None:
    games = [*block(0, ("won", "won")), *block(2, ("lost", "lost"))]
    blocks = blocks_of(games, CONFIG)
    assert (blocks.scores, blocks.waiting) == ((4,), 1)
    blocks = blocks_of([*games, *block(1, ("won", "lost"))], CONFIG)
    assert (blocks.scores, blocks.waiting) == ((4, 2, 0), 0)


def test_a_void_game_leaves_its_block_out_until_it_is_played_again() -> None:
    games = [*block(0, ("won", "void")), *block(1, ("won", "won"))]
    blocks = blocks_of(games, CONFIG)
    assert (blocks.scores, blocks.void, blocks.waiting) == ((), 1, 1)
    assert next_blocks(games, {0: 0, 1: 0}, CONFIG, 3) == [(0, 1), (2, 0)]
    games += block(0, ("won", "lost"), attempt=1)
    assert blocks_of(games, CONFIG).scores == (2, 4)


def test_a_block_is_tried_a_limited_number_of_times() -> None:
    games = [entry for attempt in range(MAX_ATTEMPTS) for entry in block(0, ("void", "won"), attempt=attempt)]
    assert next_blocks(games, {0: MAX_ATTEMPTS - 1}, CONFIG, 1) == []


def test_of_several_attempts_the_first_whole_one_counts() -> None:
    games = [*block(0, ("lost", "lost"), attempt=2), *block(0, ("won", "won"), attempt=1), *block(0, ("void", "lost"))]
    assert blocks_of(games, CONFIG).scores == (4,)


RESULTS = st.sampled_from(("won", "lost", "drawn", "void"))
KEYS = [(number, attempt, seat) for number in range(4) for attempt in range(MAX_ATTEMPTS) for seat in (1, 2)]


@st.composite
def played(draw: st.DrawFn) -> list[EvaluationGame]:
    """Any games of four blocks, with gaps, void ones and attempts that are not whole."""
    keys = draw(st.lists(st.sampled_from(KEYS), unique=True))
    return [game(number, seat, draw(RESULTS), attempt=attempt) for number, attempt, seat in keys]


def used_by(games: Iterable[EvaluationGame]) -> dict[int, int]:
    """The highest attempt of every block."""
    used: dict[int, int] = {}
    for entry in games:
        used[entry.block] = max(entry.attempt, used.get(entry.block, 0))
    return used


@given(games=played(), data=st.data())
def test_the_order_of_arrival_changes_nothing(games: list[EvaluationGame], data: st.DataObject) -> None:
    order = data.draw(st.permutations(games))
    assert blocks_of(order, CONFIG) == blocks_of(games, CONFIG)
    assert next_blocks(order, used_by(order), CONFIG, 4) == next_blocks(games, used_by(games), CONFIG, 4)
    assert exhausted_block(order, used_by(order), CONFIG) == exhausted_block(games, used_by(games), CONFIG)


@given(games=played(), more=played())
def test_blocks_that_count_stay_as_they_are(games: list[EvaluationGame], more: list[EvaluationGame]) -> None:
    """Whatever is played by the rules, i.e. as `next_blocks` asks, only adds blocks behind those that count."""
    before = blocks_of(games, CONFIG).scores
    tasks = next_blocks(games, used_by(games), CONFIG, 4)
    added = [entry for entry in more if (entry.block, entry.attempt) in tasks]
    assert blocks_of([*games, *added], CONFIG).scores[: len(before)] == before


@given(games=played(), data=st.data())
def test_playing_what_is_asked_for_ends(games: list[EvaluationGame], data: st.DataObject) -> None:
    """With all blocks, or with one that was tried as often as permitted: then nothing behind it is asked for."""
    for _ in range(MAX_ATTEMPTS + 1):
        tasks = next_blocks(games, used_by(games), CONFIG, 4)
        missing = exhausted_block(games, used_by(games), CONFIG)
        assert all(missing is None or number < missing for number, _ in tasks)
        games = [
            *games,
            *(game(number, seat, data.draw(RESULTS), attempt=attempt) for number, attempt in tasks for seat in (1, 2)),
        ]
    assert next_blocks(games, used_by(games), CONFIG, 4) == []
    complete = blocks_of(games, CONFIG).complete
    assert complete == (exhausted_block(games, used_by(games), CONFIG) if complete < 4 else 4)


@given(games=played())
def test_void_games_never_score(games: list[EvaluationGame]) -> None:
    without = [entry for entry in games if entry.result != "void"]
    blocks = blocks_of(games, CONFIG)
    assert blocks.scores == blocks_of(without, CONFIG).scores
    assert blocks.void == len(games) - len(without)


def test_hosts_are_compared() -> None:
    games = [*block(0, ("won", "won"), host="a"), *block(1, ("lost", "lost"), host="b"), game(5, 1, "lost", host="c")]
    assert blocks_of(games, CONFIG).hosts == {"a": (2, 0.5), "b": (2, -0.5)}


@pytest.mark.parametrize("config", ["", "hex8", "hex8_5p", "HEX8_2P", "canonical_hex8_2p"])
def test_a_series_is_of_one_of_the_twelve_configs(config: str) -> None:
    with pytest.raises(UnknownConfig):
        Series(config, CANDIDATE, HEURISTIC)


def test_nothing_is_no_evidence() -> None:
    blocks = blocks_of([], CONFIG)
    assert (blocks.complete, blocks.mean(), blocks.newest, blocks.hosts) == (0, 0.0, None, {})
